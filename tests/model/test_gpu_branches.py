"""The branches of a GPU, taken on CPU: what users run there, against what is computed here."""

import re

import numpy as np
import paddle
import pytest

import finetune_generation
from glm.model import attention
from glm.model.dropout import Noise
from glm.ops import device, strides
from tests.helpers import ROOT, gpu_branches, models
from tests.helpers.models import assert_same_gradients, gradients
from tests.helpers.runs import SMALL, TRAINING, distance, read_lines, weights_of

LENGTHS = [(9, 4), (5, 7), (12, 1), (7, 6)]
ASKS = re.compile(
    r"is_cpu_place|is_gpu_place|get_device\b|is_compiled_with_cuda|max_memory_allocated|CPUPlace|CUDAPlace"
)


def test_one_module_alone_asks_where_it_computes():
    folders = [*ROOT.glob("*.py"), *(ROOT / "glm").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    assert [path.name for path in folders if ASKS.search(path.read_text(encoding="utf8"))] == ["device.py"]


@pytest.mark.parametrize("flashmask", [False, True])
def test_loss_and_gradients_equal_those_of_the_branches_of_cpu(flashmask, monkeypatch):
    model, batch = models.make_model(), models.training_batch(models.random_rows(LENGTHS))
    model.train()
    results, kinds = [], []
    for kind in (attention.Padded, attention.FlashMask, attention.ByExample):
        monkeypatch.setattr(kind, "__call__", noted(kind, kinds))
    for on_gpu in (False, True):
        if on_gpu:
            gpu_branches.take(monkeypatch, flashmask)
            # FlashMask's kernel is for half precision, which CPU has no kernels for.
            monkeypatch.setattr(device, "is_half", lambda tensor: flashmask)
        with strides.without_views():
            loss = model(**batch, label_smoothing=0.1, noise=Noise(1))
            results.append((float(loss), gradients(model, loss)))
    fused = attention.FlashMask if flashmask else attention.Padded
    assert kinds == [attention.ByExample] * 3 + [fused] * 3
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-6)
    assert_same_gradients(results[1][1], results[0][1], 2e-6)


def noted(kind, kinds):
    """A kind of attention's __call__ that notes its kind whenever it is called."""
    call = kind.__call__

    def call_noted(self, *arguments, **named):
        kinds.append(kind)
        return call(self, *arguments, **named)

    return call_noted


def test_flashmask_is_for_half_precision_on_gpus_that_have_it(monkeypatch):
    from glm.model.layout import Layout

    mixed = {dtype: paddle.ones([5, 24]).astype(dtype) for dtype in ("float32", "float16", "bfloat16")}
    gpu_branches.take(monkeypatch)
    for kind in (attention.Padded, attention.FlashMask):
        monkeypatch.setattr(kind, "__call__", lambda self, *inputs: type(self))
    for there in (False, True):
        monkeypatch.setattr(device, "has_flashmask", lambda there=there: there)
        for dtype, tensor in mixed.items():
            chosen = attention.best_attention(Layout.of([(3, 2)]), 2)(tensor, None)
            assert chosen is (attention.FlashMask if there and dtype != "float32" else attention.Padded)


@pytest.mark.parametrize("recompute", [False, True])
def test_paddles_dropout_draws_by_key_and_the_same_again_when_recomputed(recompute, monkeypatch):
    model = models.make_model(**{f"{name}_dropout_prob": 0.2 for name in ("embedding", "attention", "output")})
    model.train()
    model.glm.transformer.enable_recompute = recompute
    batch = models.training_batch(models.random_rows(LENGTHS))
    gpu_branches.take(monkeypatch)
    results = []
    for key in (5, 5, 6):
        with strides.without_views():
            loss = model(**batch, noise=Noise(key))
            results.append((float(loss), gradients(model, loss)))
        paddle.rand([100])  # what else draws changes nothing
    assert results[0][0] == results[1][0] != results[2][0]
    assert_same_gradients(results[0][1], results[1][1])
    if recompute:
        model.glm.transformer.enable_recompute = False
        loss = model(**batch, noise=Noise(5))
        assert float(loss) == results[0][0]
        assert_same_gradients(gradients(model, loss), results[0][1])


def test_paddles_dropout_drops_its_share(monkeypatch):
    gpu_branches.take(monkeypatch)
    dropped = Noise(1).dropout(0.25, 0)(paddle.ones([1000, 100])).numpy()
    # 100,000 draws: the share of those dropped lies within 4 standard deviations of a quarter.
    assert abs((dropped == 0).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / dropped.size)
    np.testing.assert_allclose(dropped[dropped != 0], 1 / 0.75, rtol=1e-6)


def run(directory, *flags):
    finetune_generation.main([*SMALL, *TRAINING, *flags, "--do_eval", "--output_dir", str(directory)])
    return directory


def without_key_biases(directory):
    """The weights of a run but those whose gradients are 0 but for rounding, of which Adafactor makes whole steps."""
    return {name: array for name, array in weights_of(directory).items() if "query_key_value.bias" not in name}


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_a_run_equals_that_of_the_branches_of_cpu(optimizer, monkeypatch, tmp_path):
    flags = ["--optim", optimizer, "--evaluation_strategy", "no"]
    expected = run(tmp_path / "cpu", *flags)
    gpu_branches.take(monkeypatch)
    actual = run(tmp_path / "gpu", *flags)
    ours, theirs, before = map(without_key_biases, (actual, expected, expected / "checkpoint-4"))
    # Rounding differs from processor to processor; Adafactor, which makes steps of its quotients, shows it most.
    assert distance(ours, theirs) < 2e-3 * distance(theirs, before)
    for one, other in zip(read_lines(actual / "metrics.jsonl"), read_lines(expected / "metrics.jsonl"), strict=True):
        for name in {"loss", "grad_norm", "eval_loss"} & other.keys():
            assert one[name] == pytest.approx(other[name], rel=1e-3), name
