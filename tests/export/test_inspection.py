"""Programs of strangers: what no export has is refused in one line before it runs, and what crashes stays outside."""

import shutil

import numpy as np
import onnx
import pytest

from glm.decoding.generation_config import GenerationConfig
from glm.export import inspection, program, trial
from glm.export.runners import open_program
from glm.files import manifest
from tests.export.test_program import STRUCTURES, Tokenizer, runtime_feeds
from tests.helpers import graphs, models


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Directory of programs, the ONNX one called onnx."""
    directory = tmp_path_factory.mktemp("programs")
    for name, structure in STRUCTURES.items():
        program.save(models.make_model(), Tokenizer(), GenerationConfig(**structure), directory, name)
    program.save(models.make_model(), Tokenizer(), GenerationConfig(), directory, "onnx", "float32", "onnx")
    return directory


@pytest.fixture
def stranger(exported, tmp_path):
    """A function that makes a program whose file has been changed, with a manifest as if it were whole."""

    def made(prefix, suffix, change):
        directory = tmp_path / "stranger"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        for path in exported.glob(f"{prefix}*"):
            shutil.copy(path, directory)
        path = directory / f"{prefix}{suffix}"
        path.write_bytes(change(path.read_bytes()))
        names = [path.name for path in directory.iterdir() if "manifest" not in path.name]
        manifest.write(directory, manifest.measured_files(directory, names), program.manifest_name(prefix))
        return program.describe(directory, prefix)

    return made


def refusal(described):
    with pytest.raises(program.ProgramError) as told:
        open_program(described)
    assert "\n" not in str(told.value)
    return str(told.value)


def changed_onnx(change):
    """A function that changes the bytes of an ONNX graph."""

    def changed(content):
        model = onnx.ModelProto.FromString(content)
        change(model)
        return model.SerializeToString()

    return changed


DTYPES = ("float16", "bfloat16", "int8", "int8", "int8", "float16")


@pytest.mark.parametrize(("name", "dtype"), list(zip(STRUCTURES, DTYPES, strict=True)))
def test_every_export_passes(exported, tmp_path, name, dtype):
    inspection.check(program.describe(exported, name))
    structure = {**STRUCTURES[name], "output_scores": True, "no_repeat_ngram_size": 2}
    program.save(models.make_model(), Tokenizer(), GenerationConfig(**structure), tmp_path, name, dtype)
    inspection.check(program.describe(tmp_path, name))


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_every_onnx_export_passes(tmp_path, dtype):
    program.save(models.make_model(), Tokenizer(), GenerationConfig(), tmp_path, "onnx", dtype, "onnx")
    inspection.check(program.describe(tmp_path, "onnx"))


@pytest.mark.parametrize("kind", ["save", "py_func", "load", "print", "save_combine", "recurrent", "assert"])
def test_an_operator_that_no_export_has_is_refused_by_name_and_does_nothing(stranger, tmp_path, kind):
    target = {"file_path": str(tmp_path / "victim"), "overwrite": True} if kind.startswith("save") else {}
    told = refusal(stranger("greedy", graphs.SUFFIX, graphs.with_operator(kind, **target)))
    assert f"has the operator '{graphs.PREFIX}{kind}'" in told
    assert not (tmp_path / "victim").exists()


def test_an_operator_in_a_loop_is_found(stranger):
    told = refusal(stranger("greedy", graphs.SUFFIX, graphs.with_operator("save", in_loop=True)))
    assert f"has the operator '{graphs.PREFIX}save'" in told


def external(tensor, **changes):
    for entry in tensor.external_data:
        entry.value = str(changes.get(entry.key, entry.value))


def first_weight(model):
    return next(tensor for tensor in model.graph.initializer if tensor.external_data)


ONNX_CHANGES = {
    "elsewhere": (lambda model: external(first_weight(model), location="/etc/passwd"), "lies in '/etc/passwd'"),
    "above": (lambda model: external(first_weight(model), location="../onnx.onnx.data"), "lies in '../onnx"),
    "beyond": (lambda model: external(first_weight(model), offset=2**40), "has not the bytes of"),
    "too few": (lambda model: external(first_weight(model), length=4), "has not the bytes of"),
    "larger": (lambda model: first_weight(model).dims.append(2**40), "has not the bytes of"),
    "negative": (lambda model: first_weight(model).dims.extend([-1]), "has not the bytes of"),
    "operator": (lambda model: model.graph.node.add(op_type="PythonOp", domain="ai.onnx.contrib"), "PythonOp"),
    "function": (lambda model: model.functions.add(name="f"), "more than a graph"),
    "sub-graph": (
        lambda model: model.graph.node[0].attribute.add(name="x").g.node.add(),
        "operator with a graph in it",
    ),
    "nothing": (lambda model: model.graph.ClearField("node"), "no operators"),
}


@pytest.mark.parametrize("kind", ONNX_CHANGES)
def test_an_onnx_graph_that_reaches_elsewhere_is_refused(stranger, kind):
    change, reason = ONNX_CHANGES[kind]
    assert reason in refusal(stranger("onnx", ".onnx", changed_onnx(change)))


PARAMETERS = {
    "cut": (lambda content: content[:-8], "ends in the middle of"),
    "more": (lambda content: content + b"x", "has more than the weights"),
    "empty": (lambda content: b"", "not a program"),
    "another rank": (lambda content: content[:4] + b"\x01" + content[5:], "is not stored as weights are"),
    "another shape": (lambda content: content.replace(b"\x10\x30", b"\x10\x31", 1), "not what its program says"),
}


@pytest.mark.parametrize("kind", PARAMETERS)
def test_weights_that_are_not_those_of_the_graph_are_refused(stranger, kind):
    change, reason = PARAMETERS[kind]
    assert reason in refusal(stranger("greedy", ".pdiparams", change))


def test_a_program_that_crashes_is_refused_in_one_line(stranger):
    """Its layer norms have lost their inputs, which Paddle's kernels take for given."""

    assert "does not run" in refusal(stranger("greedy", graphs.SUFFIX, graphs.without_input("layer_norm")))


def test_a_program_that_runs_is_tried_once(exported, tmp_path, monkeypatch):
    monkeypatch.setenv("GLM_CACHE_DIR", str(tmp_path))
    tried, run = [], trial.subprocess.run
    monkeypatch.setattr(trial.subprocess, "run", lambda *args, **kw: tried.append(args) or run(*args, **kw))
    described = program.describe(exported, "greedy")
    for _ in range(2):
        ids = open_program(described, "paddle")(runtime_feeds(GenerationConfig(max_new_tokens=3)))[0]
        assert np.shape(ids) == (3, 1, 3)
    assert len(tried) == 1


def test_a_program_without_its_manifest_is_not_run(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "copy")
    (tmp_path / "copy" / program.manifest_name("greedy")).unlink()
    with pytest.raises(manifest.DamageError, match="missing"):
        program.describe(tmp_path / "copy", "greedy")
