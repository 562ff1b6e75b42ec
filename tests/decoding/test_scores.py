"""scores.py and numpy_scores.py against references written from the definitions."""

import numpy as np
import paddle
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from glm.decoding import numpy_scores
from glm.decoding import scores as paddle_scores
from tests.helpers import reference_search as reference

few_examples = settings(max_examples=25)
seeds = st.integers(0, 2**16)


@pytest.fixture(scope="module", params=["paddle", "numpy"], autouse=True)
def computed_by(request):
    """Each test is of both."""
    global score_functions
    score_functions = {"paddle": PaddleScores, "numpy": numpy_scores}[request.param]


class PaddleScores:
    """scores.py with the arguments and results of numpy_scores.py."""

    @staticmethod
    def kept_probabilities(logits, temperature, top_k, top_p):
        limits = [paddle.to_tensor(limit[:1]) for limit in (temperature, top_k, top_p)]
        return paddle_scores.kept_probabilities(paddle.to_tensor(logits), *limits).numpy()

    @staticmethod
    def ban_repeated_ngrams(logits, histories, size):
        banned = paddle_scores.ban_repeated_ngrams(paddle.to_tensor(logits), paddle.to_tensor(histories), size)
        logits[:] = banned.numpy()

    @staticmethod
    def log_normalizer(logits):
        return paddle_scores.log_normalizer(paddle.to_tensor(logits)).numpy()

    @staticmethod
    def draw(weights, noise):
        return paddle_scores.draw(paddle.to_tensor(weights), paddle.to_tensor(noise)).numpy()


@given(seeds, st.sampled_from([16, 300]), st.sampled_from([0.4, 1.0, 2.5]), st.integers(0, 300), st.floats(0.05, 1.0))
@example(7415, 300, 0.4, 0, 0.5)
@few_examples
def test_kept_probabilities_equal_their_definition(seed, vocab, temperature, top_k, top_p):
    logits = np.random.default_rng(seed).standard_normal([3, vocab]).astype("float32") * 2
    limits = np.full(3, temperature, "float32"), np.full(3, top_k), np.full(3, top_p, "float32")
    kept = score_functions.kept_probabilities(logits, *limits)
    for row, found in zip(logits, kept, strict=True):
        # Where a sum is top_p but for rounding, the piece after it may be kept or not; so may those that are as likely
        # as the last one.
        bounds = top_p - 1e-6, min(top_p + 1e-6, 1.0)
        right = [reference.kept_probabilities(row, temperature, top_k, bound) for bound in bounds]
        whole = reference.kept_probabilities(row, temperature, 0, 1.0)
        tied = [np.isclose(whole, one[one > 0].min(), rtol=1e-5) & np.isclose(found, whole, rtol=1e-5) for one in right]
        assert np.any([*(np.isclose(found, one, atol=1e-5) for one in right), *tied], axis=0).all()


@given(seeds, st.sampled_from([16, 300]), st.integers(1, 299), st.sampled_from([1.0, 0.9, 0.3]))
@few_examples
def test_of_equally_likely_pieces_the_first_are_kept_and_no_more_than_top_k(seed, vocab, top_k, top_p):
    logits = np.random.default_rng(seed).integers(0, 4, [3, vocab]).astype("float32")
    limits = np.ones(3, "float32"), np.full(3, top_k), np.full(3, top_p, "float32")
    kept = score_functions.kept_probabilities(logits, *limits)
    for row, found in zip(logits, kept, strict=True):
        count = np.count_nonzero(found)
        # A stable order: what comes first of the equally likely.
        assert np.flatnonzero(found).tolist() == sorted(np.argsort(-row, kind="stable")[:count])
        assert count <= top_k
        probabilities = np.sort(np.exp(reference.log_softmax(row)))[::-1]
        assert count == min(top_k, vocab) or probabilities[:count].sum() >= top_p - 1e-5
    if top_k == 1:
        assert kept.argmax(axis=1).tolist() == logits.argmax(axis=1).tolist()


@given(seeds, st.integers(1, 3), st.integers(1, 4), st.integers(0, 12))
@few_examples
def test_repeated_ngrams_are_banned_and_nothing_else(seed, rows, size, length):
    rng = np.random.default_rng(seed)
    history = rng.integers(0, 3, [rows, length + 1])
    logits = np.zeros([rows, 4], "float32")
    score_functions.ban_repeated_ngrams(logits, history, size)
    banned = logits < 0
    for row, past in enumerate(history.tolist()):
        for piece in range(4):
            grams = reference.ngrams([*past, piece], size)
            assert banned[row, piece] == (len(grams) > 0 and grams[-1] in grams[:-1])


@given(seeds, st.floats(0.1, 60.0))
@few_examples
def test_log_normalizer_equals_the_log_of_the_sum_of_exponentials(seed, scale):
    logits = np.random.default_rng(seed).standard_normal([4, 50]) * scale
    largest = logits.max(axis=1, keepdims=True)
    expected = largest + np.log(np.exp(logits - largest).sum(axis=1, keepdims=True))
    actual = score_functions.log_normalizer(logits.astype("float32"))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)


def test_draws_come_as_often_as_their_weights_say():
    # Evenly spaced noise instead of random: frequencies are then exact up to the spacing.
    weights = np.array([0.1, 0.0, 0.5, 0.25, 0.15])
    count = 100
    spaced = (np.arange(count) + 0.5) / count
    noise = np.stack(np.meshgrid(spaced, spaced), axis=-1).reshape([-1, 2]).astype("float32")
    pairs = score_functions.draw(np.tile(weights.astype("float32"), [len(noise), 1]), noise)
    for i in range(5):
        for j in range(5):
            share = (pairs == [i, j]).all(axis=1).mean()
            expected = 0.0 if i == j else weights[i] * weights[j] / (1 - weights[i])
            assert abs(share - expected) < 2 / count, (i, j)


@given(seeds, st.integers(1, 6))
@few_examples
def test_draws_are_distinct_and_have_weight(seed, zeros):
    rng = np.random.default_rng(seed)
    weights = rng.random([5, 12]).astype("float32")
    weights[:, rng.permutation(12)[:zeros]] = 0
    noise = rng.random([5, 12 - zeros]).astype("float32")
    noise[0], noise[1] = 0.0, np.float32(1 - 2**-24)  # the ends of the interval
    drawn = score_functions.draw(weights, noise)
    for row in range(5):
        assert sorted(drawn[row]) == np.flatnonzero(weights[row] > 0).tolist()


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("vocab", [40, 64, 700, 5000])
def test_the_largest_are_those_of_a_stable_sort(vocab, count):
    values = np.random.default_rng(vocab).integers(0, 30, [4, vocab]).astype("float32")
    found, places = numpy_scores.top(values, count)
    wanted = np.argsort(-values, axis=1, kind="stable")[:, :count]
    assert places.tolist() == wanted.tolist()
    assert found.tolist() == np.take_along_axis(values, wanted, axis=1).tolist()
