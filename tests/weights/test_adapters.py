"""Adapters survive being written and read, on the base they were trained on and on no other."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from glm.model.lora import LoraConfig, add_lora, lora_parameters
from glm.weights import adapters, builtin_model, model_directory, weight_sources
from glm.weights.weight_sources import ModelError
from tests.weights.test_model_directory import CONFIG

LORA = LoraConfig(r=4, alpha=6.0, dropout=0.1, target_modules=("dense", "query_key_value"), rslora=True)
FILES = ("lora_model_state.safetensors", "lora_config.json", "base_fingerprint.json")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Directory of a small model."""
    from paddlenlp.transformers import GLMConfig

    directory = tmp_path_factory.mktemp("base")
    model = model_directory.empty_model(GLMConfig(**CONFIG))
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(value.shape).astype("float32") for name, value in model.named_parameters()}
    save_file(weights, str(directory / "model.safetensors"))
    (directory / "config.json").write_text(json.dumps(CONFIG), encoding="utf8")
    model_directory.load_tokenizer(builtin_model.NAME).save(directory)
    return directory


@pytest.fixture(scope="module")
def saved(base, tmp_path_factory):
    """Directory of an adapter of that model, all of whose factors are random."""
    fingerprint = {}
    model = add_lora(model_directory.load_model(base, fingerprint=fingerprint), LORA)
    rng = np.random.default_rng(1)
    for factor in lora_parameters(model).values():
        factor.set_value(rng.standard_normal(factor.shape).astype("float32"))
    directory = tmp_path_factory.mktemp("adapter")
    adapters.Adapter(model, LORA, str(base), fingerprint).save_whole(directory)
    return directory


@pytest.fixture
def adapter(saved, tmp_path):
    """A copy of it, to be spoiled."""
    return shutil.copytree(saved, tmp_path / "adapter")


def refusal(*arguments):
    """The one line that loading is refused with."""
    with pytest.raises(ModelError) as error:
        adapters.load_model(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_adapter_comes_back_as_it_was_and_names_its_base(base, saved):
    assert sorted(path.name for path in saved.iterdir()) == sorted((*FILES, "prompt.json"))
    model = adapters.load_model(base, saved)
    stored = load_file(str(saved / FILES[0]))
    assert {name: factor.numpy().tolist() for name, factor in lora_parameters(model).items()} == {
        name: array.tolist() for name, array in stored.items()
    }
    assert set(stored) == {
        f"glm.transformer.layers.{number}.attention.{name}.lora_{factor}"
        for number in range(2)
        for name in ("query_key_value", "dense")
        for factor in "AB"
    }
    assert adapters.read_config(saved) == (LORA, str(base))
    content = json.loads((saved / "lora_config.json").read_text())
    assert content["target_modules"] == ["query_key_value", "dense"]
    assert (content["r"], content["lora_alpha"], content["rslora"]) == (4, 6.0, True)


def test_a_base_is_the_same_in_another_file_and_precision(base, saved, tmp_path):
    """What it is stored in does not matter, only its values do."""
    weights = load_file(str(base / "model.safetensors"))
    halves = {name: array.astype("float16") for name, array in weights.items()}
    widened = {name: array.astype("float32") for name, array in halves.items()}
    transposed = {
        name: np.ascontiguousarray(array.T) if weight_sources.TRANSPOSED.search(name) else array
        for name, array in widened.items()
    }
    fingerprints = []
    for number, stored in enumerate((halves, widened, transposed, weights)):
        directory = shutil.copytree(base, tmp_path / str(number))
        save_file(stored, str(directory / "model.safetensors"))
        fingerprint = {}
        model_directory.load_model(directory, fingerprint=fingerprint)
        fingerprints.append(fingerprint)
    assert fingerprints[0] == fingerprints[1] == fingerprints[2]
    assert fingerprints[0].keys() == fingerprints[3].keys() == weights.keys()
    assert fingerprints[0] != fingerprints[3]


def test_merged_it_is_the_base_plus_the_scaled_product(base, saved):
    merged = dict(adapters.load_merged(base, saved).named_parameters())
    weights, factors = load_file(str(base / "model.safetensors")), load_file(str(saved / FILES[0]))
    assert merged.keys() == weights.keys()
    for name, array in weights.items():
        layer = name.removesuffix(".weight")
        if layer + ".lora_A" in factors:
            update = factors[layer + ".lora_A"] @ factors[layer + ".lora_B"]
            np.testing.assert_allclose(merged[name].numpy(), array + 6.0 / 2.0 * update, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(merged[name].numpy(), array)


def test_another_base_is_refused_with_what_differs(base, saved, tmp_path):
    other = shutil.copytree(base, tmp_path / "other")
    weights = load_file(str(base / "model.safetensors"))
    weights["glm.transformer.final_layernorm.bias"][3] += 1e-6
    save_file(weights, str(other / "model.safetensors"))
    told = refusal(other, saved)
    assert f"not trained on {other}" in told
    assert f"1 of {len(weights)} weights have other values, first glm.transformer.final_layernorm.bias" in told
    assert f"({base})" in told

    larger = shutil.copytree(base, tmp_path / "larger")
    (larger / "config.json").write_text(json.dumps({**CONFIG, "max_sequence_length": 40}), encoding="utf8")
    for name in ("position_embeddings", "block_position_embeddings"):
        weights[f"glm.transformer.{name}.weight"] = np.zeros([41, 16], "float32")
    save_file(weights, str(larger / "model.safetensors"))
    assert "glm.transformer.block_position_embeddings.weight was [33, 16] and is [41, 16]" in refusal(larger, saved)

    deeper = shutil.copytree(base, tmp_path / "deeper")
    (deeper / "config.json").write_text(json.dumps({**CONFIG, "num_layers": 1}), encoding="utf8")
    fewer = load_file(str(base / "model.safetensors"))
    fewer = {name: array for name, array in fewer.items() if ".layers.1." not in name}
    save_file(fewer, str(deeper / "model.safetensors"))
    assert "glm.transformer.layers.1.attention.dense.bias is missing here" in refusal(deeper, saved)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(base, adapter, name):
    (adapter / name).unlink()
    assert f"{adapter}: no {name} there" in refusal(base, adapter)


def test_unknown_missing_and_misshapen_factors_are_named(base, adapter):
    path = adapter / FILES[0]
    factors = load_file(str(path))
    first = min(factors)
    for change, expected in (
        (
            {"glm.transformer.layers.7.attention.dense.lora_A": factors[first]},
            "has an unknown glm.transformer.layers.7",
        ),
        ({first: None}, f"lacks {first}"),
        ({first: factors[first][:-1]}, f"{first} is [15, 4], but"),
    ):
        changed = {name: array for name, array in {**factors, **change}.items() if array is not None}
        save_file(changed, str(path))
        told = refusal(base, adapter)
        assert str(path) in told
        assert expected in told
    path.write_bytes(path.read_bytes()[:-10])
    assert f"{path}: cannot be read" in refusal(base, adapter)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"r": 8}, "lora_A is [16, 4], but"),
        ({"r": 0}, "r is 0"),
        ({"r": "4"}, 'r is "4"; it must be a whole number'),
        ({"r": True}, "r is true; it must be a whole number"),
        ({"target_modules": ["mlp"]}, "lora_target_modules has mlp"),
        ({"target_modules": [4]}, "target_modules.0 is 4; it must be a valid string"),
        ({"pissa": True}, "has an unknown key pissa"),
        ({"rslora": None}, "rslora is null"),
    ],
)
def test_a_config_that_does_not_fit_is_told(base, adapter, change, expected):
    path = adapter / "lora_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}), encoding="utf8")
    assert expected in refusal(base, adapter)


@pytest.mark.parametrize("text", ["{", "[]", '{"r": 4}'])
def test_a_config_that_is_none_is_told(base, adapter, text):
    (adapter / "lora_config.json").write_text(text, encoding="utf8")
    assert str(adapter / "lora_config.json") in refusal(base, adapter)


def test_an_adapter_in_a_models_place_says_where_it_belongs(base, saved):
    told = refusal(saved, saved)
    assert "give it as --lora_path" in told
    assert str(base) in told
    assert "no such directory" in refusal(base, saved / "nowhere")


def test_a_checkpoint_of_another_shape_is_no_checkpoint_of_this_run(base, saved):
    fingerprint = {}
    config = LoraConfig(r=2, alpha=6.0, target_modules=LORA.target_modules, rslora=True)
    model = add_lora(model_directory.load_model(base, fingerprint=fingerprint), config)
    with pytest.raises(ModelError, match="r of this adapter is 4, not 2"):
        adapters.Adapter(model, config, str(base), fingerprint).load(saved)
