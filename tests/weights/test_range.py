"""Weights that are no numbers, or that a dtype cannot hold, are refused by name: none becomes infinite in silence."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import export_generation_model
import predict_generation
from glm.errors import UserError
from glm.ops.dtypes import RangeError, rounded
from glm.weights import builtin_model, model_directory
from glm.weights.stored_weights import write_arrays

NAME = "glm.transformer.layers.0.mlp.dense_h_to_4h.weight"


@pytest.fixture
def model(tmp_path):
    """A function that makes the directory of a model with one number changed."""

    def made(number, name=NAME):
        target = tmp_path / "model"
        shutil.copytree(builtin_model.build(), target)
        weights = load_file(str(target / "model.safetensors"))
        weights[name].flat[7] = number
        save_file(weights, str(target / "model.safetensors"))
        return target

    return made


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number_is_refused_by_name(model, number):
    with pytest.raises(UserError) as told:
        model_directory.load_model(model(number))
    assert f"{NAME} holds NaN or infinity" in str(told.value)


def test_large_numbers_whose_sum_is_too_large_are_numbers(model):
    directory = model(3e38)
    weights = load_file(str(directory / "model.safetensors"))
    weights[NAME].flat[8] = 3e38
    save_file(weights, str(directory / "model.safetensors"))
    assert float(model_directory.load_model(directory).state_dict()[NAME].max()) == np.float32(3e38)


@pytest.mark.parametrize("number", [65536.0, -1e5, 3e38])
def test_what_float16_cannot_hold_is_neither_loaded_as_it_nor_exported(model, number, tmp_path, capfd):
    directory = model(number)
    with pytest.raises(RangeError, match=NAME):
        model_directory.load_model(directory, "float16")
    with pytest.raises(SystemExit) as stopped:
        export_generation_model.main(
            [
                "--model_name_or_path",
                str(directory),
                "--output_path",
                str(tmp_path / "out" / "glm"),
                "--dtype",
                "float16",
            ]
        )
    assert stopped.value.code == 2
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("error: "))
    assert NAME in line
    assert "float32" in line
    assert not list((tmp_path / "out").glob("glm*"))


def test_what_float16_holds_is_exported(model, tmp_path):
    export_generation_model.main(
        ["--model_name_or_path", str(model(65504.0)), "--output_path", str(tmp_path / "glm"), "--dtype", "float16"]
    )
    assert (tmp_path / "glm.pdiparams").is_file()


def test_a_file_of_float16_takes_no_number_that_it_cannot_hold(tmp_path):
    arrays = {"kept": np.ones(3, "float32"), "beyond": np.array([1, 70000], "float32")}
    with pytest.raises(RangeError, match="beyond has the number 70000, but float16 ends at 65504"):
        write_arrays(arrays, tmp_path / "model.safetensors", "float16")


@pytest.mark.parametrize("values", [[65519.0], [-65504.0], [np.nan], [np.inf], []])
def test_what_rounds_to_a_number_or_was_none_before_is_rounded_as_numpy_does(values):
    array = np.array(values, "float32")
    if values and 65504 < abs(values[0]) < 65520:
        # It would round down to the greatest number; still it is no number of float16.
        with pytest.raises(RangeError):
            rounded("a", array, "float16")
        return
    np.testing.assert_array_equal(rounded("a", array, "float16"), array.astype("float16"))


def test_merging_an_adapter_into_a_float16_base_is_refused_where_it_does_not_fit(model, tmp_path, capfd, monkeypatch):
    directory = model(1e5)
    monkeypatch.setattr(model_directory, "stored_dtypes", lambda directory: "float16")
    from glm.weights import adapters

    monkeypatch.setattr(adapters, "load_merged", lambda base, lora_path: model_directory.load_model(directory))
    with pytest.raises(SystemExit) as stopped:
        predict_generation.main(
            ["--model_name_or_path", str(directory), "--lora_path", "x", "--merge_lora_path", str(tmp_path / "merged")]
        )
    assert stopped.value.code == 2
    assert NAME in capfd.readouterr().err
    assert not (tmp_path / "merged").exists()
