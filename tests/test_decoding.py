"""decoding.py's loops against NumPy references, on random scores instead of a model."""

import numpy as np
import paddle
import pytest
import reference_search as reference
from hypothesis import given, settings
from hypothesis import strategies as st

import decoding
from generation_config import GenerationConfig, SpecialIds, draws, feeds

VOCAB, EOP, SOP, PAD = 32, 3, 29, 30
BANNED = (0, 29, 30, 31)
# Made likely, so that texts end in time and n-grams would come again.
FAVOURITES = [EOP, 5, 6, 7]
SPECIAL = SpecialIds(SOP, EOP, PAD, BANNED)
few_examples = settings(max_examples=25)
seeds = st.integers(0, 2**16)


class Scores:
    """Random logits that depend on the seed, the prompt and the whole text so far: a "model" without a network.

    ends: for each prompt the step at which <|endofpiece|> is all but certain, having been all but impossible.
    first: a piece that all texts begin with.
    """

    def __init__(self, seed, scale=2.0, ends=(), forbidden_bonus=0.0, first=None):
        self.seed, self.scale, self.ends, self.forbidden_bonus, self.first = seed, scale, ends, forbidden_bonus, first
        self.steps = 0

    def after(self, prompt, text):
        logits = np.random.default_rng([self.seed, prompt, *text]).standard_normal(VOCAB) * self.scale
        logits[FAVOURITES] += 3.0
        logits[list(BANNED)] += self.forbidden_bonus
        if self.ends:
            logits[EOP] += 100.0 if len(text) >= self.ends[prompt] else -100.0
        if self.first is not None and len(text) == 0:
            logits[self.first] += 100.0
        return logits.astype("float32").astype("float64")

    def step_of(self, prompts, num_beams=1):
        """A step() for the search functions. Its cache holds the texts it was given: it shows wrong reordering."""

        def step(tokens, number, cache):
            self.steps += 1
            (texts,) = cache
            texts = paddle.concat([texts, tokens.unsqueeze(1)], axis=1)
            assert texts.shape[1] == int(number) + 1
            rows = texts.numpy()
            assert (rows[:, 0] == SOP).all()
            logits = [self.after(prompts[i // num_beams], row[1:]) for i, row in enumerate(rows)]
            return paddle.to_tensor(np.array(logits, "float32")), [texts]

        return step


def decode(scores, config, prompts=(0,), before=()):
    """Ids [prompts, texts, new] (numpy) of search_rows() or search_beams() on Scores."""
    batch = {"input_ids": np.zeros([len(prompts), 1], "int64")}
    inputs = {**batch, "source_mask": batch["input_ids"], "mask_index": batch["input_ids"]}
    inputs = {name: paddle.to_tensor(value) for name, value in feeds(inputs, config, prompts).items()}
    rows = len(prompts) * config.num_beams
    history = paddle.to_tensor(np.tile(np.array([*before, SOP], "int64"), [rows, 1]))
    banned = np.zeros(VOCAB, "float32")
    banned[list(BANNED)] = decoding.BANNED
    search = decoding.search_beams if config.num_beams > 1 else decoding.search_rows
    step = scores.step_of(prompts, config.num_beams)
    cache = [paddle.zeros([rows, 0], dtype="int64")]
    return search(step, cache, history, inputs, config, SPECIAL, paddle.to_tensor(banned)).numpy()


def trimmed(rows):
    """Rows as lists that end with their first end piece; nothing but padding may follow it."""
    texts = []
    for row in rows.tolist():
        length = row.index(EOP) + 1 if EOP in row else len(row)
        assert set(row[length:]) <= {PAD}
        texts.append(row[:length])
    return texts


def rules(config, before=()):
    return reference.Rules(EOP, BANNED, config.min_new_tokens, config.no_repeat_ngram_size, (*before, SOP))


limits = st.fixed_dictionaries(
    {
        "max_new_tokens": st.integers(5, 12),
        "min_new_tokens": st.integers(0, 4),
        "no_repeat_ngram_size": st.integers(0, 3),
    }
)
histories = st.lists(st.integers(1, 28).filter(lambda piece: piece != EOP), max_size=6)


@few_examples
@given(seeds, limits, st.integers(1, 4), histories)
def test_greedy_search_equals_its_definition(seed, limits, batch, before):
    config, scores = GenerationConfig(**limits), Scores(seed)
    texts = trimmed(decode(scores, config, range(batch), before)[:, 0])
    for prompt, text in enumerate(texts):
        expected = reference.search(
            lambda text, prompt=prompt: scores.after(prompt, text),
            reference.greedy,
            rules(config, before),
            config.max_new_tokens,
        )
        assert text == expected
    assert scores.steps == max(map(len, texts))


@few_examples
@given(
    seeds,
    limits,
    st.integers(1, 3),
    st.integers(2, 4),
    st.sampled_from([0.0, 0.6, 1.0, 2.0]),
    st.booleans(),
    histories,
)
def test_beam_search_equals_its_definition(seed, limits, batch, num_beams, length_penalty, early_stopping, before):
    choices = {"num_beams": num_beams, "length_penalty": length_penalty, "early_stopping": early_stopping}
    config, scores = GenerationConfig(**limits, **choices), Scores(seed)
    ids = decode(scores, config, range(batch), before)
    all_steps = []
    for prompt in range(batch):
        expected, steps = reference.beam_search(
            lambda text, prompt=prompt: scores.after(prompt, text),
            rules(config, before),
            num_beams,
            config.max_new_tokens,
            length_penalty,
            early_stopping,
        )
        assert trimmed(ids[prompt]) == [list(map(int, text)) for _, text in expected]
        all_steps.append(steps)
    assert scores.steps == max(all_steps)


@few_examples
@given(
    seeds,
    limits,
    st.integers(1, 3),
    st.sampled_from([0.5, 1.0, 1.7]),
    st.integers(0, 6),
    st.sampled_from([0.3, 0.8, 1.0]),
)
def test_sampling_equals_the_inverse_of_the_cumulative_distribution(seed, limits, batch, temperature, top_k, top_p):
    choices = {"do_sample": True, "temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    config, scores = GenerationConfig(**limits, **choices), Scores(seed)
    texts = trimmed(decode(scores, config, range(batch))[:, 0])
    for prompt, text in enumerate(texts):
        noise = np.random.default_rng([seed, prompt]).random([config.max_new_tokens, 1], dtype="float32")[:, 0]
        choose = reference.sampler(noise.astype("float64"), temperature, top_k, top_p)
        expected = reference.search(
            lambda text, prompt=prompt: scores.after(prompt, text), choose, rules(config), config.max_new_tokens
        )
        assert text == expected


@few_examples
@given(seeds, st.integers(2, 3), st.integers(2, 4))
def test_sampled_beams_hold_likely_pieces_of_their_own_texts(seed, num_beams, top_k):
    config = GenerationConfig(num_beams=num_beams, do_sample=True, top_k=top_k, max_new_tokens=8, seed=seed)
    scores = Scores(seed)
    ids = decode(scores, config, range(2))
    for prompt, texts in enumerate(ids):
        for text in trimmed(texts):
            for number, piece in enumerate(text):
                logits = scores.after(prompt, text[:number])
                logits[list(BANNED)] = -np.inf
                assert piece in np.argsort(-logits)[:top_k]


LATE_END = {"max_new_tokens": 8, "min_new_tokens": 7}


@few_examples
@given(seeds, st.integers(2, 4), st.sampled_from([{"top_k": 2}, {"top_p": 0.9}]), st.sampled_from([None, 5]))
def test_sampled_beams_are_distinct_texts_though_few_pieces_are_allowed(seed, num_beams, choices, first):
    config = GenerationConfig(num_beams=num_beams, do_sample=True, seed=seed, **LATE_END, **choices)
    for texts in decode(Scores(seed, scale=1.0, first=first), config, range(2)):
        assert len(set(map(tuple, trimmed(texts)))) == num_beams


STRATEGIES = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "top_p": 0.9},
    "sampled beams": {"do_sample": True, "num_beams": 3},
}
every_strategy = pytest.mark.parametrize("choices", STRATEGIES.values(), ids=STRATEGIES)


@every_strategy
def test_no_ngram_occurs_twice(choices):
    for size in (1, 2, 3):
        config = GenerationConfig(max_new_tokens=8, min_new_tokens=7, no_repeat_ngram_size=size, **choices)
        for text in decode(Scores(7, scale=0.5), config, range(4)).reshape([-1, 8]):
            grams = reference.ngrams([SOP, *text], size)
            assert len(set(grams)) == len(grams)


@every_strategy
def test_ngrams_of_the_history_may_not_return(choices):
    scores = Scores(8)
    free = decode(scores, GenerationConfig(max_new_tokens=6, **choices), range(3))
    before = sorted(set(free[:, 0].flatten().tolist()) - {EOP, PAD})
    assert before
    config = GenerationConfig(max_new_tokens=6, no_repeat_ngram_size=1, **choices)
    assert not set(before) & set(decode(scores, config, range(3), before).flatten().tolist())


@every_strategy
def test_banned_pieces_never_appear_however_likely(choices):
    ids = decode(Scores(9, forbidden_bonus=50.0), GenerationConfig(max_new_tokens=8, **choices), range(4))
    for text in trimmed(ids.reshape([-1, ids.shape[-1]])):
        assert not set(text) & set(BANNED)


@every_strategy
def test_no_text_ends_before_the_minimum_length(choices):
    config = GenerationConfig(max_new_tokens=9, min_new_tokens=5, **choices)
    ids = decode(Scores(10, ends=(0, 0)), config, range(2))
    assert ids.shape == (2, config.num_beams, 6 if config.num_beams == 1 else ids.shape[2])
    assert (ids[:, :, :5] != EOP).all()
    assert (ids[:, 0, 5] == EOP).all()


@every_strategy
def test_prompts_are_decoded_alike_in_a_batch_and_alone(choices):
    config = GenerationConfig(max_new_tokens=9, **choices)
    together = decode(Scores(11), config, range(4))
    for prompt in range(4):
        alone = decode(Scores(11), config, [prompt])
        assert trimmed(alone[0]) == trimmed(together[prompt])


@every_strategy
def test_decoding_stops_when_every_text_has_ended(choices):
    scores = Scores(12, ends=(2, 5, 3))
    ids = decode(scores, GenerationConfig(max_new_tokens=100, early_stopping=True, **choices), range(3))
    assert scores.steps == 6 == ids.shape[2]
    lengths = [[len(text) for text in trimmed(texts)] for texts in ids]
    assert lengths == [[end + 1] * len(ids[0]) for end in scores.ends]


@given(seeds, st.sampled_from([0.4, 1.0, 2.5]), st.integers(0, 20), st.floats(0.05, 1.0))
@few_examples
def test_filtered_probabilities_equal_their_definition(seed, temperature, top_k, top_p):
    logits = np.random.default_rng(seed).standard_normal([3, 16]) * 2
    choices = {"temperature": temperature, "top_p": top_p}
    inputs = {name: paddle.to_tensor([value], dtype="float32") for name, value in choices.items()}
    inputs["top_k"] = paddle.to_tensor([top_k], dtype="int64")
    weights, ids = decoding.filtered_probabilities(paddle.to_tensor(logits.astype("float32")), inputs)
    actual = np.zeros([3, 16])
    np.put_along_axis(actual, ids.numpy(), weights.numpy(), axis=1)
    expected = [reference.kept_probabilities(row, temperature, top_k, top_p) for row in logits]
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert (np.diff(weights.numpy(), axis=1) <= 0).all()


def test_draws_come_as_often_as_their_weights_say():
    # Evenly spaced noise instead of random: frequencies are then exact up to the spacing.
    weights, ids = np.array([0.1, 0.0, 0.5, 0.25, 0.15]), np.array([7, 8, 9, 5, 6])
    count = 100
    spaced = (np.arange(count) + 0.5) / count
    noise = np.stack(np.meshgrid(spaced, spaced), axis=-1).reshape([-1, 2])
    candidates = [paddle.to_tensor(np.tile(row, [len(noise), 1])) for row in (weights.astype("float32"), ids)]
    pairs = decoding.draw(candidates, paddle.to_tensor(noise.astype("float32"))).numpy()
    for i, first in enumerate(ids):
        for j, second in enumerate(ids):
            share = (pairs == [first, second]).all(axis=1).mean()
            expected = 0.0 if i == j else weights[i] * weights[j] / (1 - weights[i])
            assert abs(share - expected) < 2 / count, (first, second)


@given(seeds, st.integers(1, 6))
@few_examples
def test_draws_are_distinct_and_have_weight(seed, zeros):
    rng = np.random.default_rng(seed)
    weights = rng.random([5, 12]).astype("float32")
    weights[:, rng.permutation(12)[:zeros]] = 0
    ids = np.stack([rng.permutation(40)[:12] for _ in range(5)])
    noise = rng.random([5, 12 - zeros]).astype("float32")
    noise[0], noise[1] = 0.0, np.float32(1 - 2**-24)  # the ends of the interval
    drawn = decoding.draw([paddle.to_tensor(weights), paddle.to_tensor(ids)], paddle.to_tensor(noise)).numpy()
    for row in range(5):
        assert sorted(drawn[row]) == sorted(ids[row][weights[row] > 0])


def test_one_number_is_drawn_for_a_text_and_two_for_a_beam():
    assert draws(GenerationConfig(do_sample=True)) == 1
    assert draws(GenerationConfig(do_sample=True, num_beams=3)) == 6
