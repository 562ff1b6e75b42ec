"""Models survive being written and read, in every layout; what does not fit is refused by name."""

import json
import os
import socket
import subprocess
import sys
from types import SimpleNamespace
from zipfile import ZipFile

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from glm.weights import builtin_model, model_directory, stored_weights
from glm.weights.weight_sources import ModelError
from tests.helpers import ROOT

CONFIG = {
    "model_type": "glm",
    "num_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "vocab_size": 2560,
    "max_sequence_length": 32,
    "output_predict": True,
}
FUSED = "glm.transformer.layers.1.attention.query_key_value.weight"


@pytest.fixture(scope="module")
def weights():
    """Random weights of a small model by name, in paddle's layout."""
    from paddlenlp.transformers import GLMConfig, GLMForConditionalGeneration

    rng = np.random.default_rng(0)
    state = GLMForConditionalGeneration(GLMConfig(**CONFIG)).state_dict()
    return {name: rng.standard_normal(tensor.shape).astype("float32") for name, tensor in state.items()}


@pytest.fixture(scope="module")
def tokenizer():
    """The built-in model's tokenizer."""
    return model_directory.load_tokenizer(builtin_model.NAME)


@pytest.fixture
def directory(tmp_path, tokenizer):
    """A model directory that lacks its weights."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf8")
    tokenizer.save(tmp_path)
    return tmp_path


@pytest.fixture
def no_network(monkeypatch):
    """Any connection is a failure."""

    def fail(*_):
        pytest.fail("the network was used")

    monkeypatch.setattr(socket.socket, "connect", fail)
    monkeypatch.setattr(socket, "getaddrinfo", fail)


def parameters(model):
    """Weights of a model by name, numpy."""
    return {name: parameter.numpy() for name, parameter in model.named_parameters()}


def assert_same(some, others):
    """Both have the same names, dtypes and bits."""
    assert some.keys() == others.keys()
    for name, array in some.items():
        assert array.dtype == others[name].dtype, name
        np.testing.assert_array_equal(array, others[name], err_msg=name)


def in_pytorch_layout(weights):
    """The weights as PyTorch's linear layers have them: the four of each layer transposed, and nothing else."""
    linear = ("query_key_value.weight", "attention.dense.weight", "dense_h_to_4h.weight", "dense_4h_to_h.weight")
    return {name: np.ascontiguousarray(a.T) if name.endswith(linear) else a for name, a in weights.items()}


def refusal(function, *arguments):
    """The one line that a function refuses its arguments with."""
    with pytest.raises(ModelError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_directory_is_taken_as_it_is_without_network(tmp_path, no_network, monkeypatch):
    assert model_directory.resolve(tmp_path) == model_directory.resolve(str(tmp_path)) == tmp_path
    (tmp_path / "THUDM" / "glm-large-chinese").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert model_directory.resolve("THUDM/glm-large-chinese").is_dir()


def test_the_built_in_name_is_built(no_network):
    assert model_directory.resolve(builtin_model.NAME) == builtin_model.build()


def test_an_unknown_name_is_refused_with_the_known_ones(no_network):
    refused = refusal(model_directory.resolve, "no/such-model")
    assert "no/such-model: no such directory" in refused
    assert "glm-tiny-chinese, THUDM/glm-large-chinese, THUDM/glm-10b-chinese" in refused


@pytest.fixture
def published(monkeypatch, tmp_path):
    """A small model under a published name, which paddlenlp "downloads" into a cache of its own; what it was asked."""
    import paddle
    import paddlenlp.utils.download as downloads
    from paddlenlp.transformers import GLMConfig

    name = "THUDM/glm-large-chinese"
    asked = []

    def fetch(repository, filenames, cache_dir=None):
        """What paddlenlp leaves in its cache: the weights under its own name, the other file under the address's."""
        asked.append((repository, filenames))
        target = os.path.join(cache_dir, repository)
        os.makedirs(target, exist_ok=True)
        if filenames[0].endswith(".pdparams"):
            rng = np.random.default_rng(0)
            shapes = {name: array.shape for name, array in builtin_model.random_weights().items()}
            state = {name: paddle.to_tensor(rng.standard_normal(shape, "float32")) for name, shape in shapes.items()}
            paddle.save(state, os.path.join(target, "model_state.pdparams"))
        else:
            pieces = (builtin_model.build() / "cog-pretrain.model").read_bytes()
            with open(os.path.join(target, filenames[0].split("/")[-1]), "wb") as file:
                file.write(pieces)

    monkeypatch.setattr(downloads, "resolve_file_path", fetch)
    monkeypatch.setenv("PPNLP_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(GLMConfig.pretrained_init_configuration, name, dict(builtin_model.CONFIG))
    return SimpleNamespace(name=name, asked=asked, downloads=downloads)


def test_a_published_model_is_downloaded_and_made_a_whole_directory(published, tokenizer, no_network):
    model = model_directory.load_model(published.name)
    assert [repository for repository, _ in published.asked] == [published.name, published.name]
    assert {address.split("/")[-1] for _, (address,) in published.asked} == {
        "cog-pretrain.model",
        "glm-large-chinese.pdparams",
    }
    assert model.config.hidden_size == builtin_model.CONFIG["hidden_size"]
    assert model_directory.load_tokenizer(published.name).special_ids == tokenizer.special_ids


def test_a_failed_download_is_told_in_one_line_with_what_to_do(published, monkeypatch):
    def fail(*_, **__):
        raise OSError("Can't load the model.\nCheck your connection.")

    monkeypatch.setattr(published.downloads, "resolve_file_path", fail)
    refused = refusal(model_directory.load_model, published.name)
    assert f"{published.name} could not be downloaded (OSError)" in refused
    assert "check the network" in refused
    assert "give its directory" in refused
    assert "glm-tiny-chinese needs no network" in refused


def test_safetensors_are_loaded_in_either_layout(directory, weights, no_network):
    for layout in (weights, in_pytorch_layout(weights)):
        save_file(layout, str(directory / "model.safetensors"))
        model = model_directory.load_model(str(directory))
        assert not model.training
        assert_same(parameters(model), weights)


def test_pdparams_are_loaded(directory, weights):
    import paddle

    state = {name: paddle.to_tensor(array) for name, array in weights.items()}
    paddle.save({**state, "StructuredToParameterName@@": {"a": "b"}}, str(directory / "model_state.pdparams"))
    assert_same(parameters(model_directory.load_model(directory)), weights)


def save_pytorch(tensors, path):
    """Write a file as torch.save(tensors, path) does; torch.load(path, weights_only=False) of 2.13 reads it.

    tensors: float16 or float32 arrays by name. A view is stored as PyTorch does: all of its base, and strides.
    """
    entries = []
    with ZipFile(path, "w") as file:
        for number, (name, array) in enumerate(tensors.items()):
            storage = array if array.base is None else array.base
            file.writestr(f"pytorch_model/data/{number}", storage.tobytes())
            kind = {"float16": "HalfStorage", "float32": "FloatStorage"}[str(array.dtype)]
            shape = "".join(f"I{size}\n" for size in array.shape)
            strides = "".join(f"I{step // array.itemsize}\n" for step in array.strides)
            entries.append(
                f"V{name}\nctorch._utils\n_rebuild_tensor_v2\n"
                f"((Vstorage\nctorch\n{kind}\nV{number}\nVcpu\nI{storage.size}\ntQ"
                f"I0\n({shape}t({strides}tI00\nccollections\nOrderedDict\n)RtR"
            )
        file.writestr("pytorch_model/data.pkl", "}(" + "".join(entries) + "u.")
        file.writestr("pytorch_model/version", "3\n")


def test_pytorch_weights_are_loaded_and_transposed(directory, weights):
    halves = {name: array.astype("float16") for name, array in in_pytorch_layout(weights).items()}
    save_pytorch(halves, directory / "pytorch_model.bin")
    expected = {name: array.astype("float16").astype("float32") for name, array in weights.items()}
    assert_same(parameters(model_directory.load_model(directory)), expected)


def test_pytorch_tensors_that_are_parts_of_others_are_loaded(directory, weights):
    layout = in_pytorch_layout(weights)
    parts = {name: np.hstack([a, a])[:, : a.shape[1]] if a.ndim == 2 else a for name, a in layout.items()}
    assert not parts[FUSED].flags.c_contiguous
    save_pytorch(parts, directory / "pytorch_model.bin")
    assert_same(parameters(model_directory.load_model(directory)), weights)


def test_a_pytorch_tensor_that_reaches_beyond_what_is_stored_is_refused(directory, weights):
    save_pytorch(in_pytorch_layout(weights), directory / "whole")
    with ZipFile(directory / "whole") as whole, ZipFile(directory / "pytorch_model.bin", "w") as file:
        for name in whole.namelist():
            file.writestr(name, whole.read(name)[:-4] if "/data/" in name else whole.read(name))
    assert "reaches beyond what is stored" in refusal(model_directory.load_model, directory)


def test_a_pytorch_file_runs_nothing(directory, tmp_path):
    with ZipFile(directory / "pytorch_model.bin", "w") as file:
        file.writestr("pytorch_model/data.pkl", f"cos\nmkdir\n(V{tmp_path / 'made'}\ntR.")
    assert "pytorch_model.bin: cannot be read (os.mkdir" in refusal(model_directory.load_model, directory)
    assert not (tmp_path / "made").exists()


def test_a_model_that_does_not_take_the_weights_keeps_its_own(directory, weights, tmp_path):
    save_file(weights, str(directory / "model.safetensors"))
    model = model_directory.load_model(directory)
    last = list(parameters(model))[-1]
    changed = {name: -array for name, array in weights.items()}
    changed[last] = np.concatenate([changed[last], changed[last]])
    save_file(changed, str(directory / "model.safetensors"))
    assert last in refusal(model_directory.load_weights, model, directory)
    assert_same(parameters(model), weights)


def test_nothing_is_read_before_all_names_and_shapes_fit(directory, weights):
    save_file(weights, str(directory / "model.safetensors"))
    parameters = dict(model_directory.load_model(directory).named_parameters())
    shapes = {name: array.shape for name, array in weights.items()}
    taken = []
    for wrong in ({name: shapes[name] for name in list(shapes)[:-1]}, {**shapes, list(shapes)[-1]: (1, 2)}):
        refusal(
            stored_weights.assign,
            parameters,
            stored_weights.Weights(wrong, dict.fromkeys(wrong, "float32"), taken.append),
            directory,
        )
    assert taken == []


def test_parameters_are_named_as_in_paddlenlp_and_alike_in_each_model(directory, weights):
    import paddle
    from paddlenlp.transformers import GLMConfig, GLMForConditionalGeneration

    save_file(weights, str(directory / "model.safetensors"))
    with paddle.utils.unique_name.guard():
        stock = GLMForConditionalGeneration(GLMConfig(**CONFIG))
    for model in (model_directory.load_model(directory), model_directory.load_model(directory, "float16")):
        assert [parameter.name for parameter in model.parameters()] == [p.name for p in stock.parameters()]
        assert all(parameter.trainable for parameter in model.parameters())


PEAK = """
import sys
import glm.runtime
from glm.model import modeling
from tests.helpers import ROOT
from glm.weights import model_directory

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

before = peak()
model_directory.load_model(sys.argv[1])
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("filename", ["model.safetensors", "pytorch_model.bin"])
def test_loading_takes_the_memory_of_the_weights_once(directory, filename):
    from paddlenlp.transformers import GLMConfig

    config = GLMConfig(**{**CONFIG, "num_layers": 32, "hidden_size": 256})
    (directory / "config.json").write_text(config.to_json_string(), encoding="utf8")
    empty = model_directory.empty_model(config)
    weights = {name: np.ones(parameter.shape, "float32") for name, parameter in empty.named_parameters()}
    if filename == "model.safetensors":
        save_file(weights, str(directory / filename))
    else:
        save_pytorch(in_pytorch_layout(weights), directory / filename)
    command = [sys.executable, "-c", PEAK, str(directory)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    size = sum(array.nbytes for array in weights.values())
    assert 0.5 * size < int(result.stdout.split()[-1]) < 1.5 * size


def test_float16_is_loaded_from_float32_and_back(directory, weights, tokenizer, tmp_path):
    save_file(weights, str(directory / "model.safetensors"))
    halves = {name: array.astype("float16") for name, array in weights.items()}
    model = model_directory.load_model(directory, "float16")
    assert_same(parameters(model), halves)
    model_directory.save_model(model, tokenizer, tmp_path / "half")
    assert model_directory.stored_dtype(tmp_path / "half") == "float16"
    assert_same(load_file(str(tmp_path / "half" / "model.safetensors")), halves)
    widened = {name: array.astype("float32") for name, array in halves.items()}
    assert_same(parameters(model_directory.load_model(tmp_path / "half")), widened)


def test_a_saved_model_is_the_same_to_us_and_to_paddlenlp(directory, weights, tokenizer, tmp_path):
    from paddlenlp.transformers import GLMChineseTokenizer, GLMForConditionalGeneration

    save_file(in_pytorch_layout(weights), str(directory / "model.safetensors"))
    target = tmp_path / "new" / "saved"
    model_directory.save_model(model_directory.load_model(directory), tokenizer, target)
    assert model_directory.stored_dtype(target) == "float32"
    assert_same(parameters(model_directory.load_model(target)), weights)
    stock = GLMForConditionalGeneration.from_pretrained(str(target))
    assert_same({name: tensor.numpy() for name, tensor in stock.state_dict().items()}, weights)
    ids = GLMChineseTokenizer.from_pretrained(str(target)).convert_tokens_to_ids(["[gMASK]", "<|endofpiece|>"])
    assert ids == [tokenizer.mask_id, tokenizer.eop_id]


def test_settings_of_a_distributed_run_do_not_outlive_it(directory, weights):
    save_file(weights, str(directory / "model.safetensors"))
    changed = {**CONFIG, "tensor_parallel_degree": 8, "tensor_parallel_rank": 3, "output_predict": False}
    (directory / "config.json").write_text(json.dumps(changed), encoding="utf8")
    found = model_directory.load_config(directory)
    (directory / "config.json").write_text(json.dumps(CONFIG), encoding="utf8")
    assert found == model_directory.load_config(directory)
    assert_same(parameters(model_directory.load_model(directory)), weights)


def drop(names, weights):
    """The weights without some."""
    return {name: array for name, array in weights.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda w: drop([FUSED], w), f"lacks {FUSED}; config.json"),
        (lambda w: drop([FUSED, "glm.word_embeddings.weight"], w), f"lacks {FUSED} and 1 more; config.json"),
        (lambda w: {**w, "cls.head": w[FUSED]}, "has an unknown cls.head; config.json"),
        (lambda w: {**w, FUSED: w[FUSED][:, :40]}, f"{FUSED} is [16, 40], but config.json asks for [16, 48]"),
        (
            lambda w: {**w, "glm.word_embeddings.weight": w["glm.word_embeddings.weight"][:-1]},
            "glm.word_embeddings.weight is [2559, 16], but config.json asks for [2560, 16]",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(directory, weights, change, expected):
    changed = {name: np.ascontiguousarray(array) for name, array in change(weights).items()}
    save_file(changed, str(directory / "model.safetensors"))
    refused = refusal(model_directory.load_model, directory)
    assert expected in refused
    assert str(directory) in refused


@pytest.mark.parametrize("kept", [0, 4, 1000, -4])
def test_a_truncated_file_is_refused(directory, weights, kept):
    import paddle

    whole = directory / "whole"
    paddle.save({name: paddle.to_tensor(array) for name, array in weights.items()}, str(whole))
    (directory / "model_state.pdparams").write_bytes(whole.read_bytes()[:kept])
    assert "model_state.pdparams: cannot be read" in refusal(model_directory.load_model, directory)
    (directory / "model_state.pdparams").unlink()
    save_file(weights, str(whole))
    (directory / "model.safetensors").write_bytes(whole.read_bytes()[:kept])
    assert "model.safetensors: cannot be read" in refusal(model_directory.load_model, directory)
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(whole.read_bytes()[:kept])
    assert "pytorch_model.bin: cannot be read" in refusal(model_directory.load_model, directory)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", "config.json:1: not JSON"),
        (b"\xff\xfe", "config.json: not UTF-8"),
        (b"[]", "config.json: must hold one object"),
        (b'{"model_type": "bert"}', "config.json: model_type is \"bert\"; it must be 'glm'"),
        (b'{"num_layers": "two"}', 'config.json: num_layers is "two"; it must be a whole number'),
        (
            json.dumps({**CONFIG, "hidden_size": 15, "num_attention_heads": 2}).encode(),
            "config.json: hidden_size 15 is no multiple of",
        ),
        (
            b'{"hidden_size": 16, "num_attention_heads": 0}',
            "config.json: num_attention_heads is 0; it must be",
        ),
    ],
)
def test_an_unusable_config_is_refused(directory, content, expected):
    (directory / "config.json").write_bytes(content)
    assert str(directory / expected) in refusal(model_directory.load_model, directory)


def test_a_directory_without_config_or_weights_is_refused(directory):
    assert f"{directory}: no weights there (model.safetensors, " in refusal(model_directory.load_model, directory)
    (directory / "config.json").unlink()
    assert f"{directory}: no config.json there" in refusal(model_directory.load_model, directory)
