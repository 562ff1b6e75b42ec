"""JSON files of model and adapter directories that say what cannot be: one line, at once, without taking memory."""

import json
import os
import shutil
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import save_file

from glm.errors import UserError
from glm.files import descriptions
from glm.weights import adapters, builtin_model, model_directory

DEEP, LONG = "[" * 100_000, "9" * 5_000


@pytest.fixture
def directory(tmp_path):
    return shutil.copytree(builtin_model.build(), tmp_path / "model")


def refusal(action, *arguments):
    """The one line that refuses something, for which next to no memory is taken."""
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as told:
            action(*arguments)
        assert tracemalloc.get_traced_memory()[1] < 2**27
    finally:
        tracemalloc.stop()
    assert len(str(told.value).splitlines()) == 1
    return str(told.value)


def load(directory):
    model_directory.load_tokenizer(directory)
    model_directory.load_model(directory)


def changed(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf8")), **changes}), encoding="utf8")


CONFIGS = {
    "num_layers": [10_000, 10**30, -1, 0, 2.0, "2", True, None, [2]],
    "hidden_size": [2**20, 97, 2**64],
    "vocab_size": [2**31, 10**12, 2559],
    "max_sequence_length": [2**31, 1023],
    "num_attention_heads": [0, 7, 97, "4"],
    "attention_dropout_prob": [float("nan"), float("inf"), -0.1, 1.5, "0"],
    "layernorm_epsilon": [0, -1e-5, 1e9, None],
    "attention_scale": [0, "1"],
    "model_type": ["bert", None, ["glm"]],
    "block_position_encoding": [False, "yes"],
    "relative_encoding": [True],
    "dtype": [5, {}, "x" * 5000],
    "torch_dtype": [["half"]],
    "tensor_parallel_degree": [10**9, "2", 1.5],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in CONFIGS.items() for value in values])
def test_a_configuration_of_what_cannot_be_is_refused(directory, name, value):
    changed(directory / "config.json", **{name: value})
    told = refusal(load, directory)
    assert "config.json" in told or str(directory) in told


@pytest.mark.parametrize("name", ["num_labels", "id2label", "quantization_config", "pool_token", "auto_map", "x" * 99])
@pytest.mark.parametrize("value", [5 * 10**7, {"a": {"b": 1}}, "x", float("nan")])
def test_keys_that_no_glm_is_made_of_make_nothing(directory, name, value):
    changed(directory / "config.json", **{name: value})
    tracemalloc.start()
    try:
        load(directory)
        assert tracemalloc.get_traced_memory()[1] < 2**27
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["config.json", "added_tokens.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"5", b"{", b"\xff\xfe{}", DEEP.encode(), b'{"a": ' + LONG.encode() + b"}"]
)
def test_what_is_no_small_object_is_refused(directory, name, content):
    (directory / name).write_bytes(content)
    assert str(directory / name) in refusal(load, directory)


@pytest.mark.parametrize("name", ["config.json", "added_tokens.json", "tokenizer_config.json"])
def test_a_file_of_any_size_is_not_read_into_memory(directory, name):
    (directory / name).write_text("{", encoding="utf8")
    os.truncate(directory / name, 2**32)
    assert f"has more than {descriptions.LARGEST} bytes" in refusal(load, directory)


@pytest.mark.parametrize("name", ["config.json", "added_tokens.json", "tokenizer_config.json"])
@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
def test_what_is_no_file_is_refused(directory, name, kind):
    (directory / name).unlink()
    if kind == "pipe":
        os.mkfifo(directory / name)
    elif kind == "device":
        (directory / name).symlink_to("/dev/zero")
    else:
        (directory / name).mkdir()
    assert str(directory) in refusal(load, directory)


PIECES = {"[CLS]": [2**40, -1, 5, "7", 10**30, None], "<|endofpiece|>": [2**31 - 1, 5000], "[gMASK]": [2.5, True]}


@pytest.mark.parametrize(("piece", "number"), [(piece, number) for piece in PIECES for number in PIECES[piece]])
def test_ids_that_cannot_be_are_refused(directory, piece, number):
    changed(directory / "added_tokens.json", **{piece: number})
    assert str(directory) in refusal(load, directory)


def test_a_tokenizer_with_more_ids_than_the_model_has_rows_is_refused(directory):
    ids = json.loads((directory / "added_tokens.json").read_text(encoding="utf8"))
    changed(directory / "added_tokens.json", **{"[UNUSED1]": max(2560, *ids.values()) + 1})
    assert "vocab_size 2560" in refusal(load, directory)


@pytest.fixture
def adapter(tmp_path):
    """Directory of an adapter of rank 4, of query_key_value."""
    target = tmp_path / "adapter"
    target.mkdir()
    layers = [f"glm.transformer.layers.{layer}.attention.query_key_value." for layer in range(2)]
    weights = {layer + "lora_A": np.zeros([96, 4], "float32") for layer in layers}
    weights |= {layer + "lora_B": np.zeros([4, 288], "float32") for layer in layers}
    save_file(weights, str(target / adapters.WEIGHTS_FILE))
    config = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ["query_key_value"], "rslora": False}
    (target / "lora_config.json").write_text(json.dumps(config), encoding="utf8")
    fingerprint = {}
    model_directory.load_model(builtin_model.build(), fingerprint=fingerprint)
    (target / adapters.FINGERPRINT_FILE).write_text(json.dumps(fingerprint), encoding="utf8")
    return target


def load_adapter(directory):
    adapters.load_model(builtin_model.build(), directory)


def test_the_adapter_is_one(adapter):
    load_adapter(adapter)


ADAPTERS = {
    "r": [10**9, 65_537, 5, 0, -4, 4.0, "4", True, None],
    "lora_alpha": [float("inf"), float("nan"), 0, "8", 1e30],
    "lora_dropout": [1, -0.5, float("nan")],
    "target_modules": [[], "query_key_value", [5], ["x"], ["query_key_value"] * 1000, None],
    "rslora": [1, None, "no"],
    "base_model_name_or_path": [5, "x" * 5000],
    "surplus": [1],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ADAPTERS.items() for value in values])
def test_an_adapter_of_what_cannot_be_is_refused(adapter, name, value):
    changed(adapter / "lora_config.json", **{name: value})
    assert str(adapter) in refusal(load_adapter, adapter)


FINGERPRINTS = [{"a": 1}, {"a": {"shape": [1]}}, {"a": {"shape": [2**70], "sha256": "0" * 64}}, {"a": {}}]
FINGERPRINTS += [{"a": {"shape": [1], "sha256": "x" * 64}}, {"a": {"shape": [1] * 10_000, "sha256": "0" * 64}}, {}]


@pytest.mark.parametrize("content", FINGERPRINTS)
def test_a_fingerprint_of_what_cannot_be_is_refused(adapter, content):
    (adapter / adapters.FINGERPRINT_FILE).write_text(json.dumps(content), encoding="utf8")
    assert str(adapter) in refusal(load_adapter, adapter)
