"""Searches that are bound to texts, against the definition of what these are, and references on random scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm.data import allowed_texts
from glm.decoding.generation_config import GenerationConfig, uniform_noise
from glm.errors import UserError
from tests.helpers import reference_search as reference
from tests.helpers.character_tokenizer import tokenizer_of
from tests.helpers.random_scores import BANNED, DECODE_BY, EOP, SOP, Scores, trimmed

# Ids of pieces: those of random_scores that may be produced, one after another.
FIRST = 8
characters = st.text("ab▁c", min_size=1, max_size=9)
vocabularies = st.lists(st.text("ab▁", min_size=1, max_size=3), min_size=1, max_size=9, unique=True)
some = settings(max_examples=60)


class Case:
    """A passage, a vocabulary, and what may be written: all sequences of pieces that spell a run of the passage which
    begins and ends where it may."""

    def __init__(self, spelled, pieces, begins, ends, begins_with_space):
        self.tokenizer = tokenizer_of(pieces, EOP, begins_with_space, FIRST)
        count = len(spelled) + 1
        self.begins, self.ends = (np.array([bool(bits >> i & 1) for i in range(count)]) for bits in (begins, ends))
        self.edges = allowed_texts.graph([(spelled, self.begins, self.ends)], self.tokenizer)
        before = "▁" if begins_with_space else ""
        self.texts = {
            (*text, EOP)
            for start in np.flatnonzero(self.begins)
            for end in np.flatnonzero(self.ends)
            if start < end
            for text in spellings(before + spelled[start:end], self.tokenizer.spellings)
            # One piece of the beginning's own.
            if not before or text[0] != self.tokenizer.spellings.get("▁") or len(text) > 1
        }

    @property
    def shortest(self):
        return min(map(len, self.texts))


def spellings(text, pieces):
    """All sequences of pieces that a text is, as tuples of ids."""
    if not text:
        return [()]
    return [
        (number, *rest)
        for piece, number in pieces.items()
        if text.startswith(piece)
        for rest in spellings(text[len(piece) :], pieces)
    ]


def ways(edges, place=0):
    """All sequences of pieces that lead from a place to where no edge leaves."""
    following = [edge for edge in edges if edge[0] == place]
    if not following:
        return {()}
    return {(int(piece), *rest) for _, piece, to, _ in following for rest in ways(edges, to)}


cases = st.builds(Case, characters, vocabularies, st.integers(0, 1023), st.integers(0, 1023), st.booleans())
possible = cases.filter(lambda case: case.texts)


@settings(max_examples=200)
@given(cases)
def test_the_ways_through_the_edges_are_the_spellings_of_the_runs(case):
    found = ways(case.edges.tolist()) if len(case.edges) else set()
    assert found == case.texts
    for place, _, to, takes in case.edges.tolist():
        assert max(place, to) <= len(case.edges)
        assert takes == min(map(len, ways(case.edges.tolist(), to)))


class Within(reference.Rules):
    """Rules that allow what some texts, of at most so many pieces, go on with; other bans give way."""

    def __init__(self, texts, longest, **rules):
        super().__init__(EOP, BANNED, **rules)
        self.texts = {text for text in texts if len(text) <= longest}

    def allowed(self, text, vocab):
        following = {known[len(text)] for known in self.texts if known[: len(text)] == text and len(known) > len(text)}
        inside = np.array([piece in following for piece in range(vocab)])
        preferred = inside & super().allowed(text, vocab)
        return preferred if preferred.any() else inside


limits = st.fixed_dictionaries({"min_new_tokens": st.integers(0, 4), "no_repeat_ngram_size": st.integers(0, 2)})
lengths = st.integers(0, 4)


def rules_of(case, config):
    more = {"min_new_tokens": config.min_new_tokens, "ngram_size": config.no_repeat_ngram_size, "before": (SOP,)}
    return Within(case.texts, config.max_new_tokens, **more)


def config_of(cases, more, **choices):
    """A GenerationConfig of limits under which all cases have texts, by `more` pieces."""
    longest = max(case.shortest for case in cases) + more
    choices["min_new_tokens"] = min(choices.get("min_new_tokens", 0), longest - 1)
    return GenerationConfig(max_new_tokens=longest, within_source=True, **choices)


def decoded(by, scores, config, cases):
    edges = allowed_texts.collated([case.edges for case in cases])
    return DECODE_BY[by](scores, config, range(len(cases)), edges=edges)


@pytest.mark.parametrize("by", DECODE_BY)
@some
@given(st.integers(0, 2**16), st.lists(possible, min_size=1, max_size=3), limits, lengths)
def test_greedy_search_equals_its_definition_among_the_texts(by, seed, cases, choices, more):
    config, scores = config_of(cases, more, **choices), Scores(seed)
    texts = trimmed(decoded(by, scores, config, cases)[0][:, 0])
    for prompt, (case, text) in enumerate(zip(cases, texts, strict=True)):
        wanted = reference.search(
            lambda text, prompt=prompt: scores.after(prompt, text),
            reference.greedy,
            rules_of(case, config),
            config.max_new_tokens,
        )
        assert text == wanted
        assert tuple(text) in case.texts


@pytest.mark.parametrize("by", DECODE_BY)
@some
@given(
    st.integers(0, 2**16),
    st.lists(possible, min_size=1, max_size=3),
    lengths,
    st.sampled_from([0.5, 1.7]),
    st.integers(0, 3),
)
def test_draws_are_those_of_the_definition_among_the_texts(by, seed, cases, more, temperature, top_k):
    drawing = {"do_sample": True, "temperature": temperature, "top_k": top_k, "seed": seed}
    config, scores = config_of(cases, more, **drawing), Scores(seed)
    texts = trimmed(decoded(by, scores, config, cases)[0][:, 0])
    for prompt, (case, text) in enumerate(zip(cases, texts, strict=True)):
        noise = uniform_noise(config, [prompt])[0, 0]
        wanted = reference.search(
            lambda text, prompt=prompt: scores.after(prompt, text),
            reference.sampler(noise, temperature, top_k, 1.0),
            rules_of(case, config),
            config.max_new_tokens,
        )
        assert text == wanted


@pytest.mark.parametrize("by", DECODE_BY)
@some
@given(
    st.integers(0, 2**16),
    st.lists(possible, min_size=1, max_size=3),
    lengths,
    st.integers(2, 5),
    st.sampled_from([0.0, 1.0]),
    st.booleans(),
    limits,
)
def test_beams_are_those_of_the_definition_and_none_where_there_are_no_more_texts(
    by, seed, cases, more, num_beams, length_penalty, early_stopping, choices
):
    choices |= {"num_beams": num_beams, "length_penalty": length_penalty, "early_stopping": early_stopping}
    config, scores = config_of(cases, more, **choices), Scores(seed)
    ids, values = decoded(by, scores, config, cases)
    for prompt, case in enumerate(cases):
        wanted, _ = reference.beam_search(
            lambda text, prompt=prompt: scores.after(prompt, text),
            rules_of(case, config),
            num_beams,
            config.max_new_tokens,
            length_penalty,
            early_stopping,
        )
        found = trimmed(ids[prompt])
        assert found == [list(text) for _, text in wanted] + [[EOP]] * (num_beams - len(wanted))
        np.testing.assert_allclose(values[prompt, : len(wanted)], [score for score, _ in wanted], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("by", DECODE_BY)
@some
@given(st.integers(0, 2**16), st.lists(possible, min_size=1, max_size=3), lengths, st.integers(2, 4))
def test_sampled_beams_are_different_texts_of_those_there_are(by, seed, cases, more, num_beams):
    config = config_of(cases, more, num_beams=num_beams, do_sample=True, seed=seed)
    ids, _ = decoded(by, Scores(seed), config, cases)
    for case, of_prompt in zip(cases, ids, strict=True):
        found = [tuple(text) for text in trimmed(of_prompt) if text != [EOP]]
        assert found
        assert len(found) == len(set(found))
        assert set(found) <= case.texts


def test_a_limit_below_the_shortest_text_is_refused():
    case = Case("ab", ["a", "b"], 1, 4, False)
    with pytest.raises(
        UserError, match="prompt 0 of the batch: the shortest text that may be written takes 3 tokens, and max_new"
    ):
        decoded("numpy", Scores(1), GenerationConfig(max_new_tokens=2, within_source=True), [case])
    nothing = Case("ab", ["a"], 1, 4, False)
    assert not len(nothing.edges)
    with pytest.raises(UserError, match="prompt 1 of the batch: the vocabulary can spell no text that may be written"):
        decoded("numpy", Scores(1), GenerationConfig(within_source=True), [case, nothing])


def test_texts_of_a_list_are_found_whole():
    tokenizer = tokenizer_of(["▁", "▁a", "a", "b", "ab"], EOP, True, FIRST)
    edges = allowed_texts.edges_of_texts(["ab", "b"], tokenizer)
    space, space_a, a, b, ab = range(FIRST, FIRST + 5)
    wanted = {(space, a, b), (space, ab), (space_a, b), (space, b)}
    assert ways(edges.tolist()) == {(*text, EOP) for text in wanted}
