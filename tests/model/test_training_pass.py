"""The training pass over examples without padding, against the padded one; its parts against paddle's and NumPy's."""

from types import SimpleNamespace

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm.model import losses, modeling
from glm.model.attention import ByExample, Padded
from glm.model.dropout import Dropout, Noise, unchanged
from glm.model.layout import Layout
from glm.ops import cpu_kernels, onednn
from tests.helpers import models
from tests.helpers.models import assert_same_gradients, gradients

LENGTHS = [(9, 4), (5, 7), (12, 1), (7, 6)]
pairs = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 6)), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def model():
    return models.make_model()


def random_tensor(*shape, seed=0):
    tensor = paddle.to_tensor(np.random.default_rng(seed).standard_normal(shape).astype("float32"))
    tensor.stop_gradient = False
    return tensor


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_equal_those_of_padded_rows(model, smoothing):
    rows = models.random_rows(LENGTHS)
    loss = model(**models.training_batch(rows), label_smoothing=smoothing)
    actual = gradients(model, loss)
    batch = models.padded_batch(rows)
    inputs = batch["input_ids"], batch["position_ids"], batch["source_length"]
    expected = model(*inputs, labels=batch["labels"], label_smoothing=smoothing)
    np.testing.assert_allclose(float(loss), float(expected), rtol=1e-6)
    assert_same_gradients(actual, gradients(model, expected))


def test_examples_of_a_batch_do_not_see_each_other(model):
    """Together they give what each gives alone, weighted by its target tokens."""
    rows = models.random_rows(LENGTHS)
    together = gradients(model, model(**models.training_batch(rows)))
    targets = sum(len(row.target_ids) for row in rows)
    total = sum(model(**{**models.training_batch([row]), "divisor": float(targets)}) for row in rows)
    assert_same_gradients(together, gradients(model, total))


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_recompute_changes_neither_loss_nor_gradients(monkeypatch, dropout):
    model = models.make_model(**{f"{name}_dropout_prob": dropout for name in ("embedding", "attention", "output")})
    model.train()
    batch = models.training_batch(models.random_rows(LENGTHS))
    calls, block = [], model.block
    monkeypatch.setattr(model, "block", lambda *inputs: calls.append(1) or block(*inputs))
    results = {}
    for recompute in (False, True):
        model.glm.transformer.enable_recompute = recompute
        calls.clear()
        loss = model(**batch, noise=Noise(5, 0))
        results[recompute] = float(loss), gradients(model, loss), len(calls)
    assert (results[False][2], results[True][2]) == (3, 6)
    assert results[True][0] == results[False][0]
    assert_same_gradients(results[True][1], results[False][1])
    assert (float(model(**batch)) == results[False][0]) == (dropout == 0)


def visible_by_definition(lengths):
    """Who sees whom in a row of examples, by asking for each pair of tokens."""
    tokens = [
        (example, place, place >= source)
        for example, (source, target) in enumerate(lengths)
        for place in range(source + target)
    ]

    def sees(query, key):
        return query[0] == key[0] and (not key[2] or (query[2] and key[1] <= query[1]))

    return np.array([[sees(query, key) for key in tokens] for query in tokens])


@given(pairs)
def test_flashmask_bounds_hide_what_the_definition_hides(lengths):
    bounds = Layout.of(lengths).flashmask_bounds()
    tokens = bounds.shape[2]
    query = np.arange(tokens)[:, None]
    # As the kernel reads them: [tokens] for each key, below and above the diagonal.
    hidden = ((query >= bounds[0, 0, :, 0]) & (query >= np.arange(tokens))) | (
        (query < bounds[0, 0, :, 1]) & (query < np.arange(tokens))
    )
    np.testing.assert_array_equal(~hidden, visible_by_definition(lengths))


@given(pairs)
def test_the_dense_mask_of_padded_examples_is_the_definition(lengths):
    layout = Layout.of(lengths)
    visible, start = visible_by_definition(lengths), 0
    for row, length in zip(layout.visible(), layout.totals, strict=True):
        np.testing.assert_array_equal(row[0, :length, :length], visible[start : start + length, start : start + length])
        start += length


@settings(max_examples=20)
@given(pairs, st.booleans())
def test_attention_by_example_and_padded_equal_one_masked_square(lengths, targets_only):
    layout, heads, head_dim = Layout.of(lengths), 2, 4
    mixed = random_tensor(sum(layout.totals), 3 * heads * head_dim)
    query, key, value = mixed.numpy().reshape([-1, 3, heads, head_dim]).transpose([1, 2, 0, 3]).astype("float64")
    scores = query @ key.swapaxes(1, 2) / np.sqrt(head_dim)
    weights = np.exp(scores) * visible_by_definition(lengths)
    expected = ((weights / weights.sum(axis=-1, keepdims=True)) @ value).swapaxes(0, 1).reshape([-1, heads * head_dim])
    expected = expected[layout.targets] if targets_only else expected
    for kind in (ByExample, Padded):
        actual = kind(layout, heads)(mixed, unchanged, targets_only)
        np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=1e-5)


def attention_by_definition(mixed, lengths, heads, kept, probability, targets_only):
    """The context by paddle's own operators on each example's whole square, whose gradients are paddle's, too; kept:
    for each example [heads, queries, keys] of bool."""
    contexts, start = [], 0
    for (source, target), bits in zip(lengths, kept, strict=True):
        piece = mixed[start : start + source + target].reshape([source + target, 3, heads, -1])
        query, key, value = piece.transpose([1, 2, 0, 3]).unbind()
        start += source + target
        visible = paddle.to_tensor(visible_by_definition([(source, target)]).astype("float32"))
        scores = paddle.matmul(query / np.sqrt(query.shape[2]), key, transpose_y=True) + (1 - visible) * -1e9
        if targets_only:
            scores = scores[:, source:]
        left = F.softmax(scores) * paddle.to_tensor(bits.astype("float32")) / (1 - probability)
        contexts.append(paddle.matmul(left, value).transpose([1, 0, 2]).flatten(1))
    return paddle.concat(contexts)


@settings(max_examples=20, deadline=None)
@given(pairs, st.booleans(), st.sampled_from([0.0, 0.3]), st.booleans())
def test_attention_by_example_and_its_gradient_are_the_definition(lengths, targets_only, probability, by_numpy):
    heads, head_dim, replayed, kept = 2, 4, Noise(1).dropout(probability, 0), []
    for source, target in lengths:
        shape = heads, target if targets_only else source + target, source + target
        kept.append(replayed.kept(np.prod(shape)).reshape(shape) if probability else np.ones(shape, bool))
    results = []
    with pytest.MonkeyPatch.context() as patch:
        if by_numpy:
            patch.setattr(onednn, "library", lambda: None)
        for own in (False, True):
            mixed = random_tensor(sum(map(sum, lengths)), 3 * heads * head_dim)
            if own:
                drop = Noise(1).dropout(probability, 0)
                context = ByExample(Layout.of(lengths), heads)(mixed, drop, targets_only)
            else:
                context = attention_by_definition(mixed, lengths, heads, kept, probability, targets_only)
            context.backward(random_tensor(*context.shape, seed=5).detach())
            results.append((context.numpy(), mixed.grad.numpy()))
    for expected, actual in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def test_without_onednn_a_training_pass_is_the_same(monkeypatch):
    """With dropout, noise in the embeddings and smoothing: the same draws, by NumPy's operators."""
    model = models.make_model(**{f"{name}_dropout_prob": 0.2 for name in ("embedding", "attention", "output")})
    model.train()
    batch, results = models.training_batch(models.random_rows(LENGTHS)), []
    for found in (onednn.library, lambda: None):
        monkeypatch.setattr(onednn, "library", found)
        loss = model(**batch, label_smoothing=0.1, noise=Noise(5, neftune_alpha=5.0))
        results.append((float(loss), gradients(model, loss)))
    assert cpu_kernels.kernels().__name__ == "glm.ops.numpy_kernels"
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-6)
    assert_same_gradients(results[1][1], results[0][1])


@pytest.mark.parametrize("is_tied", [True, False])
def test_word_embeddings_get_the_gradients_of_both_their_readings(monkeypatch, is_tied):
    """Of two passes before a step as of one, twice; a piece that is in no example gets the softmax's share."""
    model, batch = models.make_model(), models.training_batch(models.random_rows([(4, 3), (6, 2)]))
    weight, read = model.glm.word_embeddings.weight, []
    hidden = F.embedding(batch["input_ids"], weight).detach()
    hidden.stop_gradient = False
    rows = SimpleNamespace(rows=lambda weight, ids: hidden.reshape([*ids.shape, -1]))
    monkeypatch.setattr(modeling, "tied_gradient", lambda weight: rows)
    monkeypatch.setattr(losses.HeadLoss, "backward", whole_gradient(read))
    model(**batch).backward()
    expected = read[0].copy()
    np.add.at(expected, batch["input_ids"].numpy(), hidden.grad.numpy())
    monkeypatch.undo()
    if not is_tied:
        monkeypatch.setattr(modeling, "tied_gradient", lambda weight: None)
    for passes in (1, 2):
        model(**batch).backward()
        np.testing.assert_allclose(weight.grad.numpy(), passes * expected, rtol=1e-5, atol=1e-7)
    assert (expected != 0).any(axis=1).all()


def whole_gradient(read):
    """HeadLoss.backward(), which appends the gradient of the head's weight to `read`."""
    backward = losses.HeadLoss.backward

    def noted(ctx, gradient):
        read.append(ctx.of_weight.numpy())
        return backward(ctx, gradient)

    return staticmethod(noted)


def test_frozen_word_embeddings_get_no_gradient():
    model = models.make_model()
    weight = model.glm.word_embeddings.weight
    weight.stop_gradient = True
    model(**models.training_batch(models.random_rows(LENGTHS))).backward()
    assert weight.grad is None
    assert model.glm.transformer.position_embeddings.weight.grad is not None


@pytest.mark.parametrize("factor", [1.0, 0.5, -3.0])
def test_whoever_multiplies_a_loss_multiplies_its_gradients(model, factor):
    batch, results = models.training_batch(models.random_rows(LENGTHS)), []
    for multiplied in (1.0, factor):
        results.append(gradients(model, model(**batch) * multiplied))
    assert_same_gradients({name: grad * factor for name, grad in results[0].items()}, results[1])


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_the_loss_in_chunks_equals_that_of_all_logits(smoothing, chunk):
    labels = paddle.to_tensor(np.random.default_rng(1).integers(0, 30, 9))
    results = []
    for whole in (False, True):
        hidden, weight = random_tensor(9, 8), random_tensor(30, 8, seed=2)
        if whole:
            logits = paddle.matmul(hidden, weight, transpose_y=True)
            wanted = F.label_smooth(F.one_hot(labels, 30), epsilon=smoothing)
            loss = -(wanted * F.log_softmax(logits)).sum()
        else:
            loss = losses.cross_entropy(hidden, weight, labels, smoothing, chunk)
        (loss * 0.5).backward()
        results.append((loss.numpy(), hidden.grad.numpy(), weight.grad.numpy()))
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "kernel"),
    [(lambda: paddle.nn.Linear(8, 5), cpu_kernels.linear), (lambda: paddle.nn.LayerNorm(8), cpu_kernels.layer_norm)],
    ids=["linear", "layer_norm"],
)
@pytest.mark.parametrize("frozen", [(), ("weight",), ("weight", "bias"), ("tokens",), ("tokens", "weight")])
def test_kernels_of_layers_equal_the_layers(layer, kernel, frozen):
    """With frozen parameters too, where paddle 2.6's own layer norm gives other gradients of its input on CPU; and of
    tokens that want no gradient, which are a model's first under frozen embeddings."""
    layer = layer()
    for parameter in (layer.weight, layer.bias):
        parameter.set_value(parameter + random_tensor(*parameter.shape, seed=3).detach())
    results = []
    for function in (layer, lambda tokens: kernel(layer, tokens)):
        tokens = random_tensor(7, 8)
        tokens.stop_gradient = bool(results) and "tokens" in frozen
        output = function(tokens)
        (output * random_tensor(*output.shape, seed=4).detach()).sum().backward()
        gradient = [p.grad if p.grad is None else p.grad.numpy() for p in (tokens, layer.weight, layer.bias)]
        results.append([output.numpy(), *gradient])
        for parameter in layer.parameters():
            parameter.clear_gradient(False)
        for name in set(frozen) - {"tokens"}:
            getattr(layer, name).stop_gradient = True
    assert [value is None for value in results[1][1:]] == [name in frozen for name in ("tokens", "weight", "bias")]
    for expected, actual in zip(*results, strict=True):
        if actual is not None:
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_dropout_drops_its_share_and_scales_the_rest():
    noise = Noise(1, 2, 3)
    tensor = random_tensor(1000, 100)
    dropped = noise.dropout(0.1, 0, 1)(tensor)
    kept = dropped.numpy() != 0
    # 100,000 draws: the share of those dropped lies within 4 standard deviations of 0.1.
    assert abs((1 - kept.mean()) - 0.1) < 4 * np.sqrt(0.1 * 0.9 / kept.size)
    np.testing.assert_allclose(dropped.numpy(), tensor.numpy() * kept / 0.9, rtol=1e-5)
    dropped.backward(paddle.full_like(dropped, 3.0))
    np.testing.assert_allclose(tensor.grad.numpy(), 3.0 * kept / 0.9, rtol=1e-5)


def test_draws_depend_on_the_key_and_the_place_alone():
    def kept(key, place, skip=0):
        dropout = Noise(*key).dropout(0.5, *place)
        return [dropout.kept(1000) for _ in range(skip + 1)][-1]

    first = kept((1, 2), (0, 1))
    assert np.array_equal(first, kept((1, 2), (0, 1)))
    for other in (kept((1, 3), (0, 1)), kept((1, 2), (1, 1)), kept((1, 2), (0, 1), skip=1)):
        # Independent draws of a half agree in a half, give or take 5 standard deviations.
        assert abs((first == other).mean() - 0.5) < 5 * 0.5 / np.sqrt(1000)


def test_neftune_adds_noise_of_the_papers_size():
    layout = Layout.of([(300, 100), (60, 40)])
    hidden = paddle.zeros([500, 16])
    noisy = Noise(1, neftune_alpha=5.0).add_to_embeddings(hidden, layout).numpy()
    for rows, length in ((noisy[:400], 400), (noisy[400:], 100)):
        bound = 5.0 / np.sqrt(length * 16)
        assert np.abs(rows).max() == pytest.approx(bound, rel=0.02)
        assert rows.std() == pytest.approx(bound / np.sqrt(3), rel=0.05)
    assert Noise(1).add_to_embeddings(hidden, layout) is hidden


def test_without_noise_nothing_is_dropped(model):
    assert isinstance(Noise(1).dropout(0.5, 0), Dropout)
    batch = models.training_batch(models.random_rows(LENGTHS))
    assert float(model(**batch, noise=Noise(1))) == float(model(**batch))
