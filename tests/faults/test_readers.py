"""Every reader of files that may come from strangers, with mutated real files: what is not whole or not sound is
refused in one line; no traceback, no signal, no more than a gibibyte of memory.

make test tries a hundred of each, make test-faults 5,000.
"""

import contextlib
import io
import json
import pickle
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from glm import command_line, metrics
from glm.data.tokenization import Tokenizer
from glm.decoding.generation_config import GenerationConfig
from glm.errors import UserError
from glm.export import inspection, program
from glm.files import manifest
from glm.inference.arguments import DecodingArguments, PromptArguments
from glm.inference.partial_answers import PartialAnswers
from glm.training import training_state
from glm.weights import adapters, builtin_model, stored_adapters
from glm.weights.stored_weights import read_model_config
from glm.weights.weight_sources import READERS, read_weights_file
from tests.export.test_program import Tokenizer as ModelsTokenizer
from tests.helpers import graphs, models
from tests.weights.test_dtypes import old_pytorch_file, pytorch_file

GIBIBYTE = 2**30
FINGERPRINT = {"glm.a.weight": {"shape": [20, 30], "sha256": "0" * 64}}
ARRAYS = {
    "glm.a.weight": np.arange(600, dtype="float32").reshape(20, 30),
    "glm.b.bias": np.arange(9, dtype="float16"),
    "glm.c": np.full([0, 3], 1, "float32"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Directory of a real file of each kind, and what is read beside it."""
    directory = tmp_path_factory.mktemp("files")
    shutil.copytree(builtin_model.build(), directory, dirs_exist_ok=True)
    save_file(ARRAYS, str(directory / "model.safetensors"))
    (directory / "model_state.pdparams").write_bytes(pickle.dumps(ARRAYS, protocol=4))
    pytorch_file(directory, {name: a for name, a in ARRAYS.items() if a.size}, dict.fromkeys(ARRAYS, "F32"))
    (directory / "old").mkdir()
    old_pytorch_file(directory / "old", ARRAYS, dict.fromkeys(ARRAYS, "F32"))
    for kind in ("paddle", "onnx"):
        small = models.make_model(num_layers=1)
        program.save(small, ModelsTokenizer(), GenerationConfig(), directory, kind, "float32", kind)
    config = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ["query_key_value"], "rslora": False}
    for name, content in {
        "lora_config.json": config,
        "base_fingerprint.json": FINGERPRINT,
        "progress.json": {"lr_scheduler": {"last_epoch": 3}, "total_loss": 1.5, "ended": False},
        "flags.json": {"num_beams": 3, "data_file": "x", "select_topk": True},
    }.items():
        (directory / name).write_text(json.dumps(content), encoding="utf8")
    lines = [json.dumps({"prediction": "今天", "target": "明天"}, ensure_ascii=False)] * 3
    (directory / "predictions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf8")
    PartialAnswers(directory / "out.jsonl.partial", "settings", resume=False).add(
        {0: {"source": "a", "prediction": "b"}}
    )
    make_adapters(directory)
    manifest.write(directory, manifest.measured_files(directory, ["config.json", "flags.json"]))
    return directory


def make_adapters(directory):
    """An adapter as each of the three writes it, PEFT's in both of its files."""
    layer = "transformer.layers.0.attention.query_key_value.lora_"
    factors = {"A": np.ones([20, 4], "float32"), "B": np.ones([4, 60], "float32")}
    plain = {f"glm.{layer}{name}": array for name, array in factors.items()}
    turned = {f"base_model.model.glm.{layer}{name}.weight": array.T.copy() for name, array in factors.items()}
    config = json.loads((directory / "lora_config.json").read_text())
    peft = {**config, "peft_type": "LORA", "bias": "none", "use_rslora": config.pop("rslora")}
    for name in ("own", "paddle", "peft", "bin"):
        (directory / name).mkdir()
    for name in ("lora_config.json", "base_fingerprint.json"):
        shutil.copy(directory / name, directory / "own" / name)
    save_file(plain, str(directory / "own" / adapters.WEIGHTS_FILE))
    (directory / "paddle" / "lora_config.json").write_text(json.dumps({**config, "pissa": False}))
    (directory / "paddle" / "lora_model_state.pdparams").write_bytes(pickle.dumps(plain, protocol=4))
    del peft["rslora"]
    for name in ("peft", "bin"):
        (directory / name / "adapter_config.json").write_text(json.dumps(peft))
    save_file(turned, str(directory / "peft" / "adapter_model.safetensors"))
    old_pytorch_file(directory / "bin", turned, dict.fromkeys(turned, "F32"))
    (directory / "bin" / "pytorch_model.bin").rename(directory / "bin" / "adapter_model.bin")


def weights(path):
    """Take all arrays of a file; those that are taken are of the shapes that it says."""
    found = read_weights_file(path, READERS[path.name])
    for name, shape in found.shapes.items():
        assert found.take(name).shape == tuple(shape)


def adapter(path):
    """Take all factors of an adapter; they are of its rank."""
    found = stored_adapters.read_adapter(path.parent)
    for name, shape in found.weights.shapes.items():
        assert found.weights.take(name).shape == tuple(shape)
        assert found.config.r in shape


def base(path):
    adapters.check_base(path.parent, FINGERPRINT, "base")


def described(prefix):
    return lambda path: inspection.check(program.read(path.parent, prefix))


def flags(path):
    with contextlib.redirect_stderr(io.StringIO()):
        command_line.read_config(str(path), (PromptArguments, DecodingArguments))


def predictions(path):
    try:
        metrics.read_predictions(str(path))
    except ValueError as error:
        raise UserError(str(error)) from None


def partial(path):
    PartialAnswers(path, "settings", resume=True).before(99)


# File → what reads it.
FILES = {
    "model.safetensors": weights,
    "model_state.pdparams": weights,
    "pytorch_model.bin": weights,
    "old/pytorch_model.bin": weights,
    "config.json": lambda path: read_model_config(path.parent),
    "cog-pretrain.model": lambda path: Tokenizer(path.parent),
    "added_tokens.json": lambda path: Tokenizer(path.parent),
    "tokenizer_config.json": lambda path: Tokenizer(path.parent),
    "own/lora_config.json": adapter,
    "own/lora_model_state.safetensors": adapter,
    "paddle/lora_config.json": adapter,
    "paddle/lora_model_state.pdparams": adapter,
    "peft/adapter_config.json": adapter,
    "peft/adapter_model.safetensors": adapter,
    "bin/adapter_model.bin": adapter,
    "base_fingerprint.json": base,
    "progress.json": lambda path: training_state.read_progress(path.parent),
    f"paddle{graphs.SUFFIX}": described("paddle"),
    "paddle.pdiparams": described("paddle"),
    "onnx.onnx": described("onnx"),
    "paddle_generation_config.json": described("paddle"),
    "manifest.json": lambda path: manifest.read(path.parent),
    "flags.json": flags,
    "predictions.jsonl": predictions,
    "out.jsonl.partial": partial,
}


@st.composite
def mutation(draw):
    """A function that changes bytes in up to three places."""
    changes = draw(
        st.lists(
            st.tuples(
                st.floats(0, 1),
                st.sampled_from(["flip", "cut", "insert", "replace", "double", "number", "nest", "swap"]),
                st.binary(min_size=1, max_size=9),
                st.integers(0, 7),
            ),
            min_size=1,
            max_size=3,
        )
    )

    def change(content):
        for place, kind, junk, bit in changes:
            at = int(place * max(len(content) - 1, 0))
            before, after = content[:at], content[at:]
            content = {
                "flip": lambda: before + bytes([after[0] ^ 1 << bit]) + after[1:] if after else b"",  # noqa: B023
                "cut": lambda: before,  # noqa: B023
                "insert": lambda: before + junk + after,  # noqa: B023
                "replace": lambda: before + junk + after[len(junk) :],  # noqa: B023
                "double": lambda: content + after,  # noqa: B023
                "number": lambda: before + b"9" * 30 + after,  # noqa: B023
                "nest": lambda: before + b"[" * 5000 + after,  # noqa: B023
                "swap": lambda: after + before,  # noqa: B023
            }[kind]()
        return content

    return change


@contextlib.contextmanager
def memory_of(size):
    """Context in which this process may take so many bytes more, and no more."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize("name", FILES)
def test_mutated_files_are_read_as_they_are_or_refused(files, tmp_path, name):
    place = shutil.copytree(files, tmp_path / "files")
    whole = (place / name).read_bytes()
    FILES[name](place / name)

    @settings(
        max_examples=5000 if settings.default.max_examples > 100 else 100,
        suppress_health_check=list(HealthCheck),
        deadline=None,
    )
    @given(mutation())
    def tried(change):
        (place / name).write_bytes(change(whole))
        with memory_of(GIBIBYTE):
            try:
                FILES[name](place / name)
            except UserError as error:
                told = str(error)
            else:
                told = ""
        assert len(told.splitlines()) <= 1

    tried()
