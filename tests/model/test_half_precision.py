"""Half precision, as GPUs compute it: the same code, with kernels that stand in for those that CPU lacks."""

import json
import shutil

import numpy as np
import paddle
import pytest

import finetune_generation
import predict_generation
import serve_generation
from glm.decoding.decoder import Decoder, run
from glm.decoding.generation_config import GenerationConfig
from glm.model.dropout import Noise
from glm.ops import device, strides
from glm.weights import builtin_model, model_directory
from glm.weights.stored_weights import read_weights
from glm.weights.weight_sources import read_weights_file
from tests.helpers import gpu_branches, half_kernels, models
from tests.helpers.runs import DEV, SMALL, TRAINING, read_lines, weights_of

HALVES = ("float16", "bfloat16")
# The distance of 1 to the next number.
STEP = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
LENGTHS = [(9, 4), (5, 7), (12, 1), (7, 6)]


@pytest.fixture
def on_gpu(monkeypatch):
    gpu_branches.take(monkeypatch)
    half_kernels.install(monkeypatch)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """{dtype: directory of the built-in model, stored in it}."""
    directories = {}
    for dtype in HALVES:
        directories[dtype] = tmp_path_factory.mktemp(dtype)
        model = model_directory.load_model("glm-tiny-chinese")
        model_directory.save_model(model, model_directory.load_tokenizer("glm-tiny-chinese"), directories[dtype], dtype)
    return directories


@pytest.mark.parametrize("dtype", HALVES)
def test_cpu_has_no_kernels_for_a_layer_in_half_precision(dtype):
    """On either stack: so half precision is not offered on CPU. Where this fails, measure what has come."""
    one = paddle.ones([2, 2]).astype(dtype)
    for operator in (paddle.matmul, paddle.add, lambda *x: paddle.nn.functional.gelu(x[0], approximate=True)):
        with pytest.raises(Exception, match=r"(?i)not registered|not support|error"):
            operator(one, one)


@pytest.mark.parametrize("flashmask", [False, True])
@pytest.mark.parametrize("dtype", HALVES)
def test_loss_and_gradients_are_those_of_float32_but_for_rounding(dtype, flashmask, on_gpu, monkeypatch):
    gpu_branches.take(monkeypatch, flashmask)
    batch, results = models.training_batch(models.random_rows(LENGTHS)), {}
    for kind in ("float32", dtype):
        model = models.make_model()
        model.to(dtype=kind)
        model.train()
        with strides.without_views():
            loss = model(**batch, label_smoothing=0.1, noise=Noise(1))
            assert loss.dtype == paddle.float32
            loss.backward()
        grads = {name: value.grad for name, value in model.named_parameters()}
        assert {str(grad.dtype).rpartition(".")[2] for grad in grads.values()} == {kind}
        results[kind] = float(loss), {name: grad.astype("float32").numpy() for name, grad in grads.items()}
    (expected, wanted), (loss, found) = results["float32"], results[dtype]
    assert loss == pytest.approx(expected, rel=4 * STEP[dtype])
    for name, grad in wanted.items():
        # Of what is summed over many tokens, directions count.
        cosine = (grad * found[name]).sum() / np.sqrt((grad**2).sum() * (found[name] ** 2).sum())
        assert cosine > 1 - 8 * STEP[dtype], name


@pytest.mark.parametrize("choices", [{}, {"num_beams": 3}, {"do_sample": True, "top_k": 5}], ids=str)
@pytest.mark.parametrize("dtype", HALVES)
def test_decoding_in_half_precision_searches_in_float32(dtype, choices, on_gpu):
    config = GenerationConfig(max_new_tokens=8, output_scores=True, **choices)
    prompts, found = models.random_prompts([9, 12, 7]), {}
    for kind in ("float32", dtype):
        model = models.make_model()
        model.to(dtype=kind)
        decoder = Decoder(model, config, models.special_ids())
        assert decoder.head is None, "a GPU needs no second one"
        assert decoder.logits(paddle.ones([2, model.config.hidden_size]).astype(kind)).dtype == paddle.float32
        found[kind] = run(decoder, prompts, config)
    ids, scores = found[dtype]
    assert scores.dtype == np.float32
    same = (ids == found["float32"][0]).all(axis=1)
    assert same.any()
    np.testing.assert_allclose(scores[same], found["float32"][1][same], rtol=16 * STEP[dtype])


def dtypes_and_bytes(model):
    parameters = list(model.parameters())
    dtypes = {str(parameter.dtype).rpartition(".")[2] for parameter in parameters}
    return dtypes, sum(parameter.element_size() * int(np.prod(parameter.shape)) for parameter in parameters)


@pytest.mark.parametrize("dtype", HALVES)
def test_auto_is_float32_on_cpu_and_what_is_stored_on_a_gpu(dtype, stored, monkeypatch, capsys):
    count = sum(int(np.prod(shape)) for shape in read_weights(stored[dtype]).shapes.values())
    assert model_directory.dtype_to_compute_in("auto", stored[dtype]) == "float32"
    assert not capsys.readouterr().err
    gpu_branches.take(monkeypatch)
    assert model_directory.dtype_to_compute_in("auto", builtin_model.build()) == "float32"
    for asked, expected in (("auto", dtype), ("float32", "float32"), *zip(HALVES, HALVES, strict=True)):
        chosen = model_directory.dtype_to_compute_in(asked, stored[dtype])
        dtypes, size = dtypes_and_bytes(model_directory.load_model(stored[dtype], chosen))
        assert dtypes == {expected}
        assert size == (4 if expected == "float32" else 2) * count
        assert (f"computing in {expected}" in capsys.readouterr().err) == (expected != "float32")


def test_a_gpu_without_bfloat16_takes_float32_for_it_or_says_so(stored, monkeypatch):
    gpu_branches.take(monkeypatch)
    monkeypatch.setattr(device, "has_bfloat16", lambda: False)
    assert model_directory.dtype_to_compute_in("auto", stored["bfloat16"]) == "float32"
    assert model_directory.dtype_to_compute_in("auto", stored["float16"]) == "float16"
    with pytest.raises(Exception, match="this GPU has none; give --dtype float16 or float32"):
        model_directory.dtype_to_compute_in("bfloat16", stored["bfloat16"])


@pytest.mark.parametrize("dtype", HALVES)
def test_on_cpu_half_precision_is_refused_in_one_line(dtype, tmp_path, capfd):
    asked = ["--model_name_or_path", "glm-tiny-chinese", "--dtype", dtype]
    evaluation = [*SMALL, "--do_eval", "--num_beams", "1", "--output_dir", str(tmp_path)]
    for script, flags in (
        (predict_generation, []),
        (serve_generation, ["--port", "0"]),
        (finetune_generation, evaluation),
    ):
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            script.main([*flags, *asked])
        assert ended.value.code == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert f"--dtype {dtype} needs a GPU" in line


def test_prediction_and_evaluation_compute_in_the_dtype_asked_for(on_gpu, stored, tmp_path, monkeypatch):
    from glm.decoding import decoder

    seen, forward = [], decoder.Decoder.forward
    monkeypatch.setattr(
        decoder.Decoder,
        "forward",
        lambda self, inputs: seen.append(dtypes_and_bytes(self.model)[0]) or forward(self, inputs),
    )
    model = ["--model_name_or_path", str(stored["bfloat16"])]
    prompts = ["--data_file", str(DEV), "--tgt_length", "8", "--output_file", str(tmp_path / "texts.jsonl")]
    texts = {}
    for dtype in ("auto", "float16", "float32"):
        seen.clear()
        predict_generation.main([*model, "--dtype", dtype, *prompts])
        assert set(map(frozenset, seen)) == {frozenset([{"auto": "bfloat16"}.get(dtype, dtype)])}
        texts[dtype] = [line["prediction"] for line in read_lines(tmp_path / "texts.jsonl")]
    for dtype in ("auto", "float16"):
        same = np.mean([one == other for one, other in zip(texts[dtype], texts["float32"], strict=True)])
        assert same > 0.5, "the built-in model has no clear favourites"

    results = {}
    for dtype in ("auto", "float32"):
        seen.clear()
        flags = [
            *SMALL,
            *model,
            "--dtype",
            dtype,
            "--do_eval",
            "--num_beams",
            "1",
            "--output_dir",
            str(tmp_path / dtype),
        ]
        finetune_generation.main(flags)
        assert set(map(frozenset, seen)) == {frozenset([{"auto": "bfloat16"}.get(dtype, dtype)])}
        results[dtype] = json.loads((tmp_path / dtype / "all_results.json").read_text(encoding="utf8"))
    assert results["auto"]["eval_loss"] == pytest.approx(results["float32"]["eval_loss"], rel=0.01)


@pytest.mark.parametrize("lora", [False, True])
def test_training_in_bfloat16_keeps_bfloat16_checkpoints_and_resumes_exactly(lora, on_gpu, stored, tmp_path):
    """With O2: master weights in float32 beside them."""
    flags = [*SMALL, "--model_name_or_path", str(stored["bfloat16"]), *TRAINING, "--do_eval", "False"]
    flags += ["--lora", str(lora)] if lora else []
    half = ["--bf16", "--fp16_opt_level", "O2"]
    for name, kind in (("whole", half), ("float32", [])):
        finetune_generation.main([*flags, *kind, "--output_dir", str(tmp_path / name)])
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", tmp_path / "resumed" / "checkpoint-4")
    finetune_generation.main([*flags, *half, "--output_dir", str(tmp_path / "resumed")])
    kept = read_weights_file(tmp_path / "whole" / "checkpoint-8" / "optimizer.safetensors")
    assert any(name.startswith("master_weights/") for name in kept.shapes)
    assert set(kept.dtypes.values()) == {"float32"}
    one, other = (read_all(tmp_path / name) for name in ("whole", "resumed"))
    assert all(np.array_equal(one[name], other[name]) for name in one)
    if not lora:
        for place in ("whole", "whole/checkpoint-8"):
            assert set(read_weights(tmp_path / place).dtypes.values()) == {"bfloat16"}
            assert json.loads((tmp_path / place / "config.json").read_text())["dtype"] == "bfloat16"
    losses = [
        [entry["loss"] for entry in read_lines(tmp_path / name / "metrics.jsonl") if "loss" in entry]
        for name in ("whole", "float32")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0][-1] < 0.9 * losses[0][0] or lora


def read_all(directory):
    """The weights that a run has written, bfloat16 as its bits."""
    if (directory / "model.safetensors").is_file():
        weights = read_weights(directory)
        return {name: weights.take(name).view(np.uint16) for name in weights.shapes}
    return weights_of(directory)
