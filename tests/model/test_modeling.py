"""modeling.py against paddlenlp's own GLM, definitions written in NumPy, and itself computed in other ways."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from glm.data import examples
from tests.helpers import models
from tests.helpers.models import assert_same_gradients, gradients

LENGTHS = [(9, 4), (5, 7), (12, 1), (7, 6)]


@pytest.fixture(scope="module")
def model():
    return models.make_model()


def dense_mask(batch):
    """The batch's attention as a square, float32 [batch, 1, length, length]."""
    mask = examples.attention_mask(batch["source_length"].numpy(), batch["input_ids"].shape[1])
    return paddle.to_tensor(mask.astype("float32"))


def loss_by_definition(logits, labels, smoothing):
    """Mean cross entropy of float64 softmax at labels >= 0 with (1 - s) on the label and s spread over all pieces."""
    probabilities = np.exp(logits.astype("float64"))
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    losses = []
    for place in zip(*np.nonzero(labels >= 0), strict=True):
        wanted = np.full(logits.shape[-1], smoothing / logits.shape[-1])
        wanted[labels[place]] += 1 - smoothing
        losses.append(-(wanted * np.log(probabilities[place])).sum())
    return np.mean(losses)


@pytest.mark.parametrize("attention_scale", [1.0, 8.0])
def test_logits_equal_stock_paddlenlp_on_a_ragged_batch(attention_scale):
    model = models.make_model(attention_scale=attention_scale)
    batch = models.padded_batch(models.random_rows(LENGTHS))
    mask = dense_mask(batch)
    expected, _ = models.stock_twin(model)(batch["input_ids"], batch["position_ids"], mask)
    actual = model(batch["input_ids"], batch["position_ids"], mask)
    # On paddle 3, one of these 8,320 logits was 1.01e-5 apart.
    np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=0, atol=2e-5)


def test_source_length_says_the_same_as_the_square_mask(model):
    batch = models.padded_batch(models.random_rows(LENGTHS))
    by_length = model(batch["input_ids"], batch["position_ids"], batch["source_length"])
    by_square = model(batch["input_ids"], batch["position_ids"], dense_mask(batch))
    np.testing.assert_allclose(by_length.numpy(), by_square.numpy(), rtol=0, atol=1e-6)


def test_without_mask_and_positions_the_model_is_causal(model):
    ids = paddle.to_tensor(np.random.default_rng(1).integers(0, models.TEXT, [2, 11]))
    positions = np.stack([np.arange(11), np.zeros(11, np.int64)])[None].repeat(2, axis=0)
    square = paddle.to_tensor(np.tril(np.ones([1, 1, 11, 11], "float32")))
    expected, _ = models.stock_twin(model)(ids, paddle.to_tensor(positions), square)
    np.testing.assert_allclose(model(ids).numpy(), expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_the_smoothed_cross_entropy_of_the_target_positions(model, smoothing):
    batch = models.padded_batch(models.random_rows(LENGTHS))
    inputs = batch["input_ids"], batch["position_ids"], batch["source_length"]
    loss = model(*inputs, labels=batch["labels"], label_smoothing=smoothing)
    expected = loss_by_definition(model(*inputs).numpy(), batch["labels"].numpy(), smoothing)
    np.testing.assert_allclose(float(loss), expected, rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_equal_those_of_a_loss_over_all_positions(model, smoothing):
    batch = models.padded_batch(models.random_rows(LENGTHS))
    inputs = batch["input_ids"], batch["position_ids"], batch["source_length"]
    actual = gradients(model, model(*inputs, labels=batch["labels"], label_smoothing=smoothing))

    is_target = (batch["labels"] >= 0).astype("float32")
    wanted = F.label_smooth(F.one_hot(batch["labels"].clip(min=0), models.VOCAB), epsilon=smoothing)
    losses = -(wanted * F.log_softmax(model(*inputs), axis=-1)).sum(axis=-1)
    expected = gradients(model, (losses * is_target).sum() / is_target.sum())
    assert_same_gradients(actual, expected)


def test_rows_of_a_batch_read_as_they_do_alone(model):
    rows = models.random_rows(LENGTHS)
    batch = models.padded_batch(rows)
    together = model(batch["input_ids"], batch["position_ids"], batch["source_length"]).numpy()
    for row, logits in zip(rows, together, strict=True):
        alone = models.padded_batch([row])
        expected = model(alone["input_ids"], alone["position_ids"], alone["source_length"]).numpy()[0]
        np.testing.assert_allclose(logits[: len(expected)], expected, rtol=0, atol=1e-5)


def test_padding_to_a_fixed_length_leaves_the_loss_alone(model):
    batch = models.padded_batch(models.random_rows(LENGTHS))
    extra = 64 - batch["input_ids"].shape[1]
    padded = {
        "input_ids": F.pad(batch["input_ids"], [0, 0, 0, extra], value=models.PAD),
        "position_ids": F.pad(batch["position_ids"], [0, 0, 0, 0, 0, extra]),
        "attention_mask": batch["source_length"],
        "labels": F.pad(batch["labels"], [0, 0, 0, extra], value=examples.IGNORED_LABEL),
    }
    assert padded["input_ids"].shape == [len(LENGTHS), 64]
    expected = model(batch["input_ids"], batch["position_ids"], batch["source_length"], labels=batch["labels"])
    np.testing.assert_allclose(float(model(**padded)), float(expected), rtol=1e-6)


@pytest.mark.parametrize("texts", [1, 3])
@pytest.mark.parametrize("settled_steps", [0, 4])
def test_decoding_with_the_cache_equals_reading_the_whole_text(model, texts, settled_steps):
    """Texts of a prompt share its cache; after settled_steps the recent part of it joins the settled one."""
    rng = np.random.default_rng(2)
    sources = [models.random_source(rng, length) for length in (6, 11, 4)]
    targets = rng.integers(0, models.TEXT, [len(sources), texts, 9])
    rows = [models.encoded(source, target) for source, some in zip(sources, targets, strict=True) for target in some]
    batch = models.padded_batch(rows)
    full = model(batch["input_ids"], batch["position_ids"], batch["source_length"]).numpy()
    rounding = 2e-6 * np.abs(full).max()

    prompts = models.tensors(examples.collate_prompts([models.encoded(source) for source in sources], models.PAD))
    settled, position = model.prefill(prompts["input_ids"], prompts["source_mask"], prompts["mask_index"])
    recent = model.empty_cache(paddle.to_tensor(len(sources), dtype="int32"))
    lineage = prompts["source_mask"].numpy()[:, None, :].repeat(texts, axis=1)
    own = np.eye(texts, dtype="float32")[None].repeat(len(sources), axis=0)
    read = np.concatenate([np.full([len(sources), texts, 1], models.SOP), targets[:, :, :-1]], axis=2)
    for step in range(9):
        if step == settled_steps:
            settled = [paddle.concat(pair, axis=2) for pair in zip(settled, recent, strict=True)]
            recent = model.empty_cache(paddle.to_tensor(len(sources), dtype="int32"))
        lineage = np.concatenate([lineage, own], axis=2)
        inputs = [paddle.to_tensor(array) for array in (read[:, :, step], np.array([step]), lineage)]
        hidden, recent = model.decode_step(inputs[0], inputs[1], settled, recent, position, inputs[2])
        expected = [full[i, len(row.source_ids) + step] for i, row in enumerate(rows)]
        np.testing.assert_allclose(model.head(hidden).flatten(0, 1).numpy(), expected, rtol=0, atol=rounding)
    assert {tuple(tensor.shape) for tensor in recent} == {(3, 4, (9 - settled_steps) * texts, 12)}


def test_dropout_acts_in_training_only():
    model = models.make_model(attention_dropout_prob=0.3)
    batch = models.padded_batch(models.random_rows(LENGTHS))
    inputs = batch["input_ids"], batch["position_ids"], batch["source_length"]
    evaluated = [model(*inputs).numpy() for _ in range(2)]
    model.train()
    trained = model(*inputs).numpy()
    assert np.array_equal(*evaluated)
    assert np.abs(trained - evaluated[0]).max() > 0.01
