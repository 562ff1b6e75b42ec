"""search.py and numpy_search.py against references from the definitions, on random scores instead of a model."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm.decoding.generation_config import GenerationConfig, draws
from tests.helpers import reference_search as reference
from tests.helpers.random_scores import BANNED, DECODE_BY, EOP, PAD, SOP, Scores, trimmed

few_examples = settings(max_examples=25)
seeds = st.integers(0, 2**16)


@pytest.fixture(scope="module", params=["paddle", "numpy"], autouse=True)
def searched_by(request):
    """Each test is of both searches."""
    global decode_with_scores
    decode_with_scores = DECODE_BY[request.param]
    return request.param


def decode(scores, config, prompts=(0,), before=()):
    """Ids [prompts, texts, new] (numpy) of search() on Scores."""
    return decode_with_scores(scores, config, prompts, before)[0]


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
    config, scores = GenerationConfig(**limits, output_scores=True), Scores(seed)
    ids, values = decode_with_scores(scores, config, range(batch), before)
    texts = trimmed(ids[:, 0])
    for prompt, text in enumerate(texts):
        expected = reference.search(
            lambda text, prompt=prompt: scores.after(prompt, text),
            reference.greedy,
            rules(config, before),
            config.max_new_tokens,
        )
        assert text == expected
        steps = [reference.log_softmax(scores.after(prompt, text[:n]))[piece] for n, piece in enumerate(text)]
        np.testing.assert_allclose(values[prompt], [sum(steps)], rtol=1e-5, atol=1e-6)
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
    ids, values = decode_with_scores(scores, config, range(batch), before)
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
        np.testing.assert_allclose(values[prompt], [value for value, _ in expected], rtol=1e-5)
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


penalties = st.tuples(st.sampled_from([0.7, 1.0, 1.8]), st.sampled_from([-0.5, 0.0, 2.0]), st.sampled_from([0.0, 0.9]))


def with_penalties(penalties, **choices):
    """A GenerationConfig with penalties, as a search has them even if they change nothing."""
    names = ("repetition_penalty", "presence_penalty", "frequency_penalty")
    return GenerationConfig(**dict(zip(names, penalties, strict=True)), penalties=True, **choices)


@few_examples
@given(seeds, limits, penalties, st.booleans(), histories)
def test_pieces_of_a_text_lose_what_penalties_take(seed, limits, penalties, draws_pieces, before):
    drawing = {"do_sample": True, "temperature": 1.2, "seed": seed} if draws_pieces else {}
    config, scores = with_penalties(penalties, **limits, **drawing), Scores(seed)
    choose = reference.greedy
    for prompt, text in enumerate(trimmed(decode(scores, config, range(3), before)[:, 0])):
        if draws_pieces:
            noise = np.random.default_rng([seed, prompt]).random([config.max_new_tokens, 1], dtype="float32")[:, 0]
            choose = reference.sampler(noise.astype("float64"), 1.2, 0, 1.0)

        def after(text, prompt=prompt):
            return reference.penalized(scores.after(prompt, text), text, *penalties)

        assert text == reference.search(after, choose, rules(config, before), config.max_new_tokens)


@few_examples
@given(seeds, limits, penalties, st.integers(2, 4), histories)
def test_of_beams_log_probabilities_lose_what_penalties_take(seed, limits, penalties, num_beams, before):
    config, scores = with_penalties(penalties, num_beams=num_beams, **limits), Scores(seed)
    ids, values = decode_with_scores(scores, config, range(2), before)
    for prompt in range(2):
        expected, _ = reference.beam_search(
            lambda text, prompt=prompt: scores.after(prompt, text),
            rules(config, before),
            num_beams,
            config.max_new_tokens,
            1.0,
            False,
            lambda found, text: reference.penalized(found, text, *penalties),
        )
        assert trimmed(ids[prompt]) == [list(map(int, text)) for _, text in expected]
        np.testing.assert_allclose(values[prompt], [value for value, _ in expected], rtol=1e-4)


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


def test_finished_prompts_are_not_decoded_further(searched_by):
    # One prompt of eight ends at each step. In paddle, at most a quarter of those that are decoded may have ended.
    rows = {"paddle": 8 + 8 + 6 + 6 + 4 + 3 + 2 + 1, "numpy": 8 + 7 + 6 + 5 + 4 + 3 + 2 + 1}[searched_by]
    # Of the beams of a prompt, which are equal at first, one alone can end at the first step.
    later = {"paddle": 0, "numpy": 1}[searched_by]
    for choices in ({}, {"num_beams": 3, "early_stopping": True}):
        scores = Scores(13, ends=range(8))
        decode(scores, GenerationConfig(max_new_tokens=20, **choices), range(8))
        assert scores.steps == 8
        assert scores.rows_read == rows + (later if choices else 0)


@pytest.mark.parametrize("choices", [{}, {"num_beams": 2, "length_penalty": 0.0}], ids=["greedy", "beams"])
def test_long_texts_are_those_of_the_definition(choices):
    """As long as it takes until there was no room for keys and values several times."""
    config, scores = GenerationConfig(max_new_tokens=150, min_new_tokens=149, **choices), Scores(14)
    texts = decode(scores, config, [4])[0]

    def after(text):
        return scores.after(4, text)

    if config.num_beams == 1:
        assert texts.tolist() == [reference.search(after, reference.greedy, rules(config), 150)]
    else:
        expected, _ = reference.beam_search(after, rules(config), 2, 150, 0.0, False)
        assert trimmed(texts) == [list(map(int, text)) for _, text in expected]


def test_one_number_is_drawn_for_a_text_and_two_for_a_beam():
    assert draws(GenerationConfig(do_sample=True)) == 1
    assert draws(GenerationConfig(do_sample=True, num_beams=3)) == 6
