"""Programs that compute in half precision. They run on GPUs alone, which we have none of: what can be known of them
without is the dtype of each operator and of each weight, and who refuses them."""

import dataclasses

import numpy as np
import pytest

import export_generation_model
import infer_generation
from glm import stacks
from glm.decoding.generation_config import GenerationConfig
from glm.export import inspection, program, runners, static_program
from glm.ops import device
from tests.export.test_program import Tokenizer
from tests.helpers import graphs, models

# Paddle 3 for CPU makes those of bfloat16 alone.
DTYPES = ["bfloat16"] if stacks.current().needs_kernels and not device.is_built_for_gpus() else ["float16", "bfloat16"]
SEARCHES = {
    "greedy": GenerationConfig(no_repeat_ngram_size=2),
    "beams": GenerationConfig(num_beams=3, output_scores=True),
    "sampling": GenerationConfig(do_sample=True, top_k=3),
}
# What the model is made of: in half precision throughout.
OF_MODEL = {"matmul_v2", "matmul", "gelu", "layer_norm", "lookup_table_v2", "embedding"}
# Operators of PIR → their first input that is a number to compute with, in float32.
SCALARS_FROM = {"scale": 1, "full_like": 1, "full_with_tensor": 0}
OF_NUMBERS = {"float32", "float16", "bfloat16"}


@pytest.fixture(scope="module", params=[(dtype, search) for dtype in DTYPES for search in SEARCHES], ids="-".join)
def exported(request, tmp_path_factory):
    dtype, search = request.param
    directory = tmp_path_factory.mktemp("half")
    program.save(models.make_model(), Tokenizer(), SEARCHES[search], directory, "glm", dtype, compute=dtype)
    return program.describe(directory, "glm"), dtype


def numbers(dtypes):
    """Of the dtypes that an operator has, those of numbers with a fraction."""
    return set(dtypes) & OF_NUMBERS


def test_the_model_computes_in_half_precision_and_the_search_in_float32(exported):
    found, half = exported
    operators = graphs.operators(found.model_file)
    assert {kind for kind, _, _ in operators} & OF_MODEL
    for kind, inputs, outputs in operators:
        # A layer norm also gives the mean and the variance, in float32, which nobody reads.
        given = outputs[:1] if kind == "layer_norm" and outputs[0] == half else outputs
        # In PIR, what numbers are scaled by or filled with is a value of its own.
        inputs = inputs[: SCALARS_FROM.get(kind, len(inputs))]
        if kind in OF_MODEL:
            assert numbers(inputs) == {half}, kind
            assert half in outputs, kind
        elif kind not in ("cast", "layer_norm"):
            assert len(numbers([*inputs, *given])) <= 1, (kind, inputs, outputs)
    changes = [(inputs[0], outputs[0]) for kind, inputs, outputs in operators if kind == "cast"]
    # The source's mask and that of a step; the logits.
    assert (changes.count(("float32", half)), changes.count((half, "float32"))) == (2, 1)


def test_every_weight_is_stored_in_half_precision(exported):
    found, half = exported
    inspection.check(found)
    model = models.make_model()
    count = sum(int(np.prod(parameter.shape)) for parameter in model.parameters())
    # And what may never be produced, as two rows of the vocabulary in float32.
    rows = 2 * 4 * model.config.vocab_size
    size = found.params_file.stat().st_size
    assert 2 * count + rows < size < 2 * count + rows + 100 * (len(list(model.parameters())) + 2)
    assert (found.dtype, found.compute) == (half, half)


def test_what_computes_in_float32_says_nothing_of_it(tmp_path):
    program.save(models.make_model(), Tokenizer(), GenerationConfig(), tmp_path, "glm", "float16")
    assert "compute" not in program.config_path(tmp_path, "glm").read_text()
    assert program.describe(tmp_path, "glm").compute == "float32"


def test_on_a_gpu_nothing_refuses_it_and_no_pass_changes_it(exported, monkeypatch):
    found, _ = exported
    runners.check_combination(found, "paddle", "gpu", "paddle")
    calls = []

    class Config:
        def __getattr__(self, name):
            return lambda *values: calls.append((name, *values))

    monkeypatch.setattr(device, "is_built_for_gpus", lambda: True)
    runner = object.__new__(runners.PaddleRunner)
    for compute, switched in ((found.compute, True), ("float32", False)):
        calls.clear()
        runner.config(Config(), dataclasses.replace(found, compute=compute), "gpu", "paddle")
        assert (("switch_ir_optim", False) in calls) == switched
        assert "enable_use_gpu" in {name for name, *_ in calls}


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--format", "onnx"], "--compute float16 is for --format paddle"),
        (["--dtype", "int8"], "what computes in float16 is stored in it; leave out --dtype or --compute"),
    ],
)
def test_what_does_not_go_with_it_is_refused(flags, told, tmp_path, capfd):
    with pytest.raises(SystemExit) as ended:
        export_generation_model.main(["--output_path", str(tmp_path / "glm"), "--compute", "float16", *flags])
    assert ended.value.code == 2
    assert told in capfd.readouterr().err


def test_paddle_that_cannot_make_one_says_where_it_can_be_made(tmp_path, monkeypatch):
    monkeypatch.setattr(stacks, "current", lambda: stacks.PADDLE3)
    monkeypatch.setattr(device, "is_built_for_gpus", lambda: False)
    with pytest.raises(Exception, match=r"paddlepaddle-gpu is installed.*--compute bfloat16"):
        static_program.write(models.make_model(), models.special_ids(), GenerationConfig(), tmp_path, compute="float16")


def test_the_script_loads_what_it_exports_in_half_precision_and_cpu_refuses_it_in_one_line(
    tmp_path, monkeypatch, capfd
):
    from glm.weights import model_directory

    loaded, load = [], model_directory.load_model
    monkeypatch.setattr(model_directory, "load_model", lambda *given: loaded.append(given[1]) or load(*given))
    flags = ["--model_name_or_path", "glm-tiny-chinese", "--compute", DTYPES[0], "--tgt_length", "8"]
    export_generation_model.main([*flags, "--output_path", str(tmp_path / "glm")])
    assert loaded == [DTYPES[0]]
    assert program.describe(tmp_path, "glm").compute == DTYPES[0]
    for runtime in ("auto", "paddle"):
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            infer_generation.main(["--model_path", str(tmp_path), "--runtime", runtime])
        assert ended.value.code == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert f"computes in {DTYPES[0]}, which needs a GPU; give --device gpu" in line
