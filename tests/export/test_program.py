"""Exported programs in both C++ runtimes: the same ids as the decoder they were made from."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import paddle
import pytest

from glm.data.preparation import Preparation
from glm.decoding.decoder import Decoder
from glm.decoding.generation_config import GenerationConfig, SpecialIds, feeds
from glm.export import description, program, static_program
from glm.export.runners import EAGER_DELETION, SELECTED_GPUS, OnnxRunner, PaddleRunner, open_program
from glm.files import manifest
from tests.helpers import ROOT, graphs, models

LENGTHS = (9, 5, 12)
STRUCTURES = {
    "greedy": {"no_repeat_ngram_size": 2},
    "sampling": {"do_sample": True},
    "beams": {"num_beams": 3},
    "penalties": {"penalties": True},
    "beams_with_penalties": {"num_beams": 3, "repetition_penalty": 1.2},
    "sampled_beams": {"num_beams": 2, "do_sample": True, "early_stopping": True, "ban_source_ngrams": True},
}
# What may change from run to run of one program.
RUNS = (
    {"max_new_tokens": 40, "min_new_tokens": 30},
    {"max_new_tokens": 30},
    {"max_new_tokens": 7, "length_penalty": 3.0, "seed": 5},
)


class Tokenizer:
    """The part of tokenization.Tokenizer that program.save() needs, for the ids of models.py."""

    sop_id, eop_id, eos_id = models.SOP, models.EOP, models.PAD
    preparation = Preparation()

    def banned_ids(self, vocab_size):
        return models.special_ids().banned

    def save(self, directory):
        (Path(directory) / "tokenizer").touch()


def run_config(structure, run):
    """The GenerationConfig of a run of a program with a structure."""
    drawing = {"top_k": 30, "top_p": 0.95, "temperature": 1.3} if "do_sample" in structure else {}
    if run["max_new_tokens"] == 30 and {"penalties", "repetition_penalty"} & structure.keys():
        drawing = {"repetition_penalty": 1.7, "presence_penalty": 0.5, "frequency_penalty": -0.4}
    return GenerationConfig(**{**structure, **drawing, **run})


def eager(model, config):
    """Ids [batch, texts, new] of the decoder in Python."""
    decoder = Decoder(model, config, models.special_ids())
    prompts = models.tensors(feeds(models.random_prompts(LENGTHS), config, [4, 0, 9]))
    return decoder(prompts).numpy()


def runtime_feeds(config):
    return feeds(models.random_prompts(LENGTHS), config, [4, 0, 9])


@pytest.fixture(scope="module")
def expected():
    """Ids by structure name and number of the run."""
    model = models.make_model()
    return {
        (name, i): eager(model, run_config(structure, run))
        for name, structure in STRUCTURES.items()
        for i, run in enumerate(RUNS)
    }


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Directory of the programs, each exported with the default lengths and named after its structure."""
    directory = tmp_path_factory.mktemp("programs")
    for name, structure in STRUCTURES.items():
        program.save(models.make_model(), Tokenizer(), GenerationConfig(**structure), directory, name)
    return directory


def test_the_runs_show_what_they_should(expected):
    """Else the comparisons below would compare less than their names say."""
    for name in STRUCTURES:
        lengths = [[len(text) for text in models.trimmed(ids[:, 0])] for ids in (expected[name, i] for i in range(3))]
        assert min(lengths[0]) > 30, f"{name}: nobody goes on past 30 pieces"
        assert min(lengths[1]) < 20, f"{name}: nobody ends early"


@pytest.mark.parametrize("name", STRUCTURES)
def test_paddle_inference_gives_the_ids_of_the_decoder(exported, expected, name):
    runner = PaddleRunner(program.describe(exported, name), "cpu", "paddle")
    for i, run in enumerate(RUNS):
        (ids,) = runner.run(runtime_feeds(run_config(STRUCTURES[name], run)))
        np.testing.assert_array_equal(ids, expected[name, i])


FASTDEPLOY_SCRIPT = """
import sys
import numpy as np
from glm.export import program
from glm.export.runners import FastDeployRunner

directory, names, runs = sys.argv[1], sys.argv[2].split(","), int(sys.argv[3])
for name in names:
    runner = FastDeployRunner(program.describe(directory, name), "cpu", "paddle")
    for i in range(runs):
        with np.load(f"{directory}/{name}{i}.feeds.npz") as feeds:
            np.save(f"{directory}/{name}{i}.npy", runner.run(dict(feeds))[0])
assert "paddle" not in sys.modules
"""


@pytest.mark.skipif(importlib.util.find_spec("fastdeploy") is None, reason="FastDeploy is for Python 3.9 and 3.10")
def test_fastdeploy_gives_the_ids_of_the_decoder(exported, expected):
    # In a process of its own: two versions of Paddle's C++ library in one process crash.
    for name, structure in STRUCTURES.items():
        for i, run in enumerate(RUNS):
            np.savez(exported / f"{name}{i}.feeds.npz", **runtime_feeds(run_config(structure, run)))
    command = [sys.executable, "-c", FASTDEPLOY_SCRIPT, str(exported), ",".join(STRUCTURES), str(len(RUNS))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for (name, i), ids in expected.items():
        np.testing.assert_array_equal(np.load(exported / f"{name}{i}.npy"), ids, err_msg=f"{name}, run {i}")


def test_float16_halves_the_file_and_rounds_the_weights_only(exported, tmp_path):
    rounded = models.make_model()
    for parameter in rounded.parameters():
        parameter.set_value(parameter.numpy().astype("float16").astype("float32"))
    config = run_config({}, RUNS[0])
    program.save(models.make_model(), Tokenizer(), config, tmp_path, "half", dtype="float16")
    half = program.describe(tmp_path, "half")
    whole = program.describe(exported, "greedy")
    assert (whole.dtype, half.dtype) == ("float32", "float16")
    assert half.params_file.stat().st_size < 0.55 * whole.params_file.stat().st_size
    (ids,) = PaddleRunner(half, "cpu", "paddle").run(runtime_feeds(config))
    np.testing.assert_array_equal(ids, eager(rounded, config))


def test_int8_quarters_the_file_and_rounds_matrices_by_their_columns(exported, tmp_path):
    rounded = models.make_model()
    for name, parameter in rounded.named_parameters():
        array = parameter.numpy()
        if array.ndim != 2:
            continue
        # The columns of the head, which is all that is stored of the embeddings, are their rows.
        axis = 1 if "word_embeddings" in name else 0
        scale = np.abs(array).max(axis=axis, keepdims=True) / np.float32(127)
        parameter.set_value((np.round(array / scale) * scale).astype("float32"))
    config = run_config({}, RUNS[0])
    program.save(models.make_model(), Tokenizer(), config, tmp_path, "int8", dtype="int8")
    small = program.describe(tmp_path, "int8")
    assert small.params_file.stat().st_size < 0.4 * program.describe(exported, "greedy").params_file.stat().st_size
    (ids,) = PaddleRunner(small, "cpu", "paddle").run(runtime_feeds(config))
    np.testing.assert_array_equal(ids, eager(rounded, config))


@pytest.mark.parametrize("seed", range(3))
def test_numbers_of_8_bits_are_half_a_step_off_at_most(seed):
    import paddle

    matrix = np.random.default_rng(seed).standard_normal([7, 5]).astype("float32") * [1e-6, 1, 1e3, 0, 2]
    numbers, scale = (tensor.numpy() for tensor in static_program.quantized(paddle.to_tensor(matrix.astype("float32"))))
    assert numbers.dtype == np.uint8
    steps = np.abs(matrix).max(axis=0) / 127
    assert (np.abs((numbers.astype("float64") - 128) * scale - matrix) <= steps * 0.501).all()


@pytest.fixture(scope="module")
def onnx(tmp_path_factory):
    """Directory of ONNX programs, named after their structure and dtype."""
    directory = tmp_path_factory.mktemp("onnx")
    for name, structure in STRUCTURES.items():
        config = GenerationConfig(**structure)
        program.save(models.make_model(), Tokenizer(), config, directory, f"{name}_float32", "float32", "onnx")
    program.save(models.make_model(), Tokenizer(), GenerationConfig(), directory, "greedy_int8", "int8", "onnx")
    return directory


@pytest.mark.parametrize("name", STRUCTURES)
def test_onnxruntime_gives_the_ids_of_the_decoder(onnx, expected, name):
    runner = OnnxRunner(program.describe(onnx, f"{name}_float32"), "cpu", "paddle")
    for i, run in enumerate(RUNS):
        (ids,) = runner.run(runtime_feeds(run_config(STRUCTURES[name], run)))
        np.testing.assert_array_equal(ids, expected[name, i])


def test_programs_and_runtimes_that_do_not_go_together_are_refused_in_one_line(exported, onnx):
    static, graph = program.describe(exported, "greedy"), program.describe(onnx, "greedy_int8")
    for described, choices, reason in (
        (graph, {"runtime": "paddle"}, "greedy_int8.onnx is an ONNX program; leave --runtime out"),
        (static, {"runtime": "onnx"}, f"greedy{graphs.SUFFIX} is none; export it with --format onnx"),
        (graph, {"device": "gpu"}, "ONNX programs run on CPU only"),
        (graph, {"backend": "onednn"}, "--backend onednn is for Paddle's programs; use it with --runtime paddle"),
    ):
        with pytest.raises(program.ProgramError, match=reason):
            open_program(described, **choices)


def test_an_export_in_another_format_takes_the_old_files_away(tmp_path):
    # paddle 2.6 writes a third file.
    of_paddle = {*program.FILES[graphs.FORMAT], *([".info"] if graphs.FORMAT == "paddle" else [])}
    for kind, left in (("onnx", {".onnx", ".data"}), ("paddle", of_paddle)):
        program.save(models.make_model(), Tokenizer(), GenerationConfig(), tmp_path, "glm", "float32", kind)
        suffixes = {path.suffix for path in tmp_path.glob("glm.*")}
        assert suffixes == left
        assert program.describe(tmp_path, "glm").format == program.format_here(kind)


def test_a_program_describes_itself(exported):
    described = program.describe(exported, "beams")
    assert described.config == GenerationConfig(num_beams=3)
    assert described.special_ids == models.special_ids()
    assert described.positions == 129
    assert (exported / "tokenizer").is_file()


def test_a_description_gives_back_what_was_saved(tmp_path):
    config = GenerationConfig(num_beams=4, length_penalty=0.7, no_repeat_ngram_size=3, early_stopping=True)
    special = SpecialIds(sop=6, eop=7, pad=0, banned=(0, 1, 6))
    facts = {"dtype": "float16", "positions": 129, "vocab_size": 160, "format": "paddle"}
    description.save(tmp_path / "glm.json", config, special, **facts)
    assert description.load(tmp_path / "glm.json") == (config, special, facts)


def test_a_program_that_cannot_be_used_is_reported_in_one_line(exported, tmp_path):
    with pytest.raises(
        program.ProgramError, match="has no program none, but beams, .*greedy.*: give --model_prefix beams"
    ):
        program.describe(exported, "none")
    with pytest.raises(program.ProgramError, match="none_generation_config.json: no such file; export_generation"):
        program.describe(tmp_path, "none")
    for suffix in (".pdmodel", ".pdiparams"):
        (tmp_path / f"broken{suffix}").touch()
    path = program.config_path(tmp_path, "broken")
    for content in ("{", "{}", '{"generation": {"beams": 3}, "special_ids": {"banned": []}}'):
        path.write_text(content)
        names = [found.name for found in tmp_path.glob("broken*") if "manifest" not in found.name]
        manifest.write(tmp_path, manifest.measured_files(tmp_path, names), program.manifest_name("broken"))
        with pytest.raises(program.ProgramError, match="not the description of an exported program") as error:
            program.describe(tmp_path, "broken")
        assert "\n" not in str(error.value)


OLD = {"num_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "max_sequence_length": 32}


def test_a_program_of_the_reference_stack_runs_on_both(tmp_path):
    """As paddle 2.6.2 wrote it: greedy search of make_model(**OLD), without the places in the code that it notes."""
    with zipfile.ZipFile(Path(__file__).with_name("paddle26.zip")) as archive:
        archive.extractall(tmp_path)
    old, model = program.describe(tmp_path, "greedy"), models.make_model(**OLD)
    assert old.format == "paddle"
    for run in RUNS:
        config = run_config({}, {**run, "max_new_tokens": min(run["max_new_tokens"], 15), "min_new_tokens": 5})
        found = open_program(old, "paddle")(runtime_feeds(config))[0]
        np.testing.assert_array_equal(found, eager(model, config))
        assert paddle.get_flags(EAGER_DELETION)[EAGER_DELETION] == -1.0


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_onnx_programs_of_before_run(tmp_path, dtype):
    """As they were written when keys and values came in two parts, and sources were read without their target's first
    piece: greedy search of make_model(**OLD)."""
    with zipfile.ZipFile(Path(__file__).with_name("onnx_before.zip")) as archive:
        archive.extractall(tmp_path)
    old, model = program.describe(tmp_path, f"greedy_{dtype}"), models.make_model(**OLD)
    config = run_config({}, {"max_new_tokens": 15, "min_new_tokens": 5})
    found, wanted = open_program(old)(runtime_feeds(config))[0], eager(model, config)
    if dtype == "float32":
        np.testing.assert_array_equal(found, wanted)
    else:
        program.save(model, Tokenizer(), config, tmp_path / "new", "greedy", dtype, "onnx")
        new = open_program(program.describe(tmp_path / "new", "greedy"))(runtime_feeds(config))[0]
        np.testing.assert_array_equal(found, new)


def test_a_program_that_must_not_keep_memory_does_not(exported):
    """A program of PIR gives wrong texts otherwise, without an error."""
    PaddleRunner(program.describe(exported, "greedy"), "cpu", "paddle")
    assert paddle.get_flags(EAGER_DELETION)[EAGER_DELETION] == {"paddle": -1.0, "pir": 0.0}[graphs.FORMAT]


@pytest.mark.parametrize(("selected", "number"), [(None, 0), ("", 0), ("3", 3), ("2,5", 2)])
def test_a_launched_process_runs_a_program_on_its_own_gpu(monkeypatch, selected, number):
    monkeypatch.delenv(SELECTED_GPUS, raising=False)
    if selected is not None:
        monkeypatch.setenv(SELECTED_GPUS, selected)
    monkeypatch.setattr("glm.ops.device.is_built_for_gpus", lambda: True)
    config, exported = Mock(), Mock(format="paddle")
    PaddleRunner.config(None, config, exported, "gpu", "paddle")
    assert config.enable_use_gpu.call_args.args[1] == number
