"""Model directories as people have them: parts by an index, names without their prefix, surplus tensors, pointers."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from glm.errors import UserError
from glm.weights import builtin_model, model_directory
from glm.weights.__main__ import main as weights_command
from tests.weights.test_dtypes import old_pytorch_file, pytorch_file
from tests.weights.test_model_directory import in_pytorch_layout


@pytest.fixture(scope="module")
def original():
    return load_file(str(builtin_model.build() / "model.safetensors"))


@pytest.fixture
def directory(tmp_path):
    """A model directory without weights."""
    target = shutil.copytree(builtin_model.build(), tmp_path / "model")
    (target / "model.safetensors").unlink()
    return target


def write_safetensors(path, arrays):
    save_file(arrays, str(path))


def write_pdparams(path, arrays):
    path.write_bytes(pickle.dumps(arrays, protocol=4))


def write_pytorch(path, arrays):
    pytorch_file(path.parent, arrays, dict.fromkeys(arrays, "F32"))
    (path.parent / "pytorch_model.bin").rename(path)


def write_old_pytorch(path, arrays):
    old_pytorch_file(path.parent, arrays, dict.fromkeys(arrays, "F32"))
    (path.parent / "pytorch_model.bin").rename(path)


KINDS = {
    "model.safetensors": write_safetensors,
    "model_state.pdparams": write_pdparams,
    "pytorch_model.bin": write_pytorch,
}


def in_parts(directory, kind, arrays, count=3):
    """Write a model in parts, and their index."""
    stem, suffix = kind.rsplit(".", 1)
    places = {}
    for number in range(count):
        file = f"{stem}-{number + 1:05d}-of-{count:05d}.{suffix}"
        names = list(arrays)[number::count]
        KINDS[kind](directory / file, {name: arrays[name] for name in names})
        places |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (directory / f"{kind}.index.json").write_text(json.dumps(index), encoding="utf8")
    return places


def assert_loads(directory, original):
    for name, parameter in model_directory.load_model(directory).named_parameters():
        np.testing.assert_array_equal(parameter.numpy(), original[name], err_msg=name)


def refusal(directory):
    with pytest.raises(UserError) as told:
        model_directory.load_model(directory)
    assert len(str(told.value).splitlines()) == 1
    return str(told.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_parts_is_put_together_loaded_and_divided(directory, original, tmp_path, kind):
    in_parts(directory, kind, original)
    assert_loads(directory, original)
    weights_command(["split", str(directory), str(tmp_path / "two"), "--tensor_parallel_degree", "2"])
    assert_loads(tmp_path / "two", original)


@pytest.mark.parametrize("indexed", [False, True])
def test_what_pytorch_wrote_before_1_6_is_read_whole_and_in_parts(directory, original, monkeypatch, indexed):
    monkeypatch.setitem(KINDS, "pytorch_model.bin", write_old_pytorch)
    arrays = {name.removeprefix("glm."): array for name, array in in_pytorch_layout(original).items()}
    if indexed:
        in_parts(directory, "pytorch_model.bin", arrays)
    else:
        write_old_pytorch(directory / "pytorch_model.bin", arrays)
    assert_loads(directory, original)


def test_what_stock_paddlenlp_saves_in_parts_is_read_back(original, tmp_path):
    from paddlenlp.transformers import GLMForConditionalGeneration

    model = GLMForConditionalGeneration.from_pretrained(str(builtin_model.build()))
    model.save_pretrained(str(tmp_path / "saved"), max_shard_size="300KB")
    assert list((tmp_path / "saved").glob("*.index.json"))
    assert_loads(tmp_path / "saved", original)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("indexed", [False, True])
def test_names_without_their_prefix_and_surplus_tensors(directory, original, kind, indexed):
    arrays = {name.removeprefix("glm."): array for name, array in in_pytorch_layout(original).items()}
    arrays["transformer.layers.0.attention.masked_bias"] = np.array([-1e4], "float32")
    in_parts(directory, kind, arrays) if indexed else KINDS[kind](directory / kind, arrays)
    assert_loads(directory, original)


def test_a_part_that_is_missing_or_strange_is_named(directory, original):
    places = in_parts(directory, "model.safetensors", original)
    file = sorted(set(places.values()))[1]
    whole = (directory / file).read_bytes()
    (directory / file).unlink()
    assert f"{directory / file}: no such file, but model.safetensors.index.json names it" in refusal(directory)
    save_file({"other": np.zeros(1, "float32")}, str(directory / file))
    assert f"{directory / file}: has no glm." in refusal(directory)
    (directory / file).write_bytes(whole[:-10])
    assert f"{directory / file}: cannot be read" in refusal(directory)


@pytest.mark.parametrize("place", ["../elsewhere.safetensors", "/etc/passwd", "a/b.safetensors", "", ".", "..", 5])
def test_an_index_names_files_beside_it_alone(directory, place):
    index = {"weight_map": {"glm.word_embeddings.weight": place}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf8")
    assert "model.safetensors.index.json: weight_map" in refusal(directory)


def test_of_several_models_in_one_directory_none_is_chosen(directory, original):
    save_file({name: np.zeros_like(array) for name, array in original.items()}, str(directory / "model.safetensors"))
    write_pdparams(directory / "model_state.pdparams", original)
    os.utime(directory / "model.safetensors", (1e9, 1e9))
    assert "model.safetensors and model_state.pdparams are both there" in refusal(directory)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pointer_of_git_lfs_is_told_as_one(directory, kind):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 711000000\n"
    (directory / kind).write_text(pointer, encoding="utf8")
    assert f"{directory / kind}: is not there yet, only a pointer of Git LFS; git lfs pull fetches it" in refusal(
        directory
    )


def test_a_snapshot_of_links_is_a_directory_like_any_other(directory, original, tmp_path):
    save_file(original, str(directory / "model.safetensors"))
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for path in directory.iterdir():
        (snapshot / path.name).symlink_to(os.path.relpath(path, snapshot))
    assert_loads(snapshot, original)
