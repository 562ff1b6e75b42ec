"""Prompts that join and leave while others are decoded, on random scores instead of a model."""

import dataclasses
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import pytest

from glm.data import examples
from glm.data.templates import Example
from glm.decoding import numpy_search
from glm.decoding.generation_config import GenerationConfig, NotFiniteError, feeds
from glm.inference.continuous import Continuous
from tests.helpers.random_scores import EOP, SOURCE, SPECIAL, NumpyModel, Scores, prompts_of, trimmed

KINDS = {
    "greedy": {},
    "sampling": {"do_sample": True, "temperature": 1.3, "seed": 5},
    "of few": {"do_sample": True, "top_k": 4, "top_p": 0.9},
    "beams": {"num_beams": 3, "length_penalty": 0.4},
    "two beams of four": {"num_beams": 4, "num_return_sequences": 2},
    "sampled beams": {"num_beams": 2, "do_sample": True, "seed": 8},
    "scored": {"output_scores": True},
    "no bigram twice": {"no_repeat_ngram_size": 2},
    "penalties": {"repetition_penalty": 1.4, "frequency_penalty": 0.5},
    "beams with penalties": {"num_beams": 2, "presence_penalty": 1.0},
}


class Known(examples.Encoded):
    """A prompt that the random scores know by its mask index."""

    @property
    def mask_index(self):
        return self.full_source_length


@dataclass(eq=False)
class Job:
    """A prompt, known by its row; of odd rows the source is shorter. Ends at `stop`, if its text comes to that."""

    row: int
    config: GenerationConfig
    stop: int | None = None
    settled: bool = False
    pieces: list = field(default_factory=list)
    outcome: tuple | None = None

    @property
    def encoded(self):
        ids = np.array(SOURCE[: len(SOURCE) - self.row % 2], np.int32)
        return Known(Example("", "", ""), ids, None, self.row, 0)

    @property
    def tokens(self):
        return len(SOURCE), self.config.new_tokens_a_prompt


def tell(job, kind, value):
    """What a Continuous is given to tell of jobs."""
    assert job.outcome is None, "nothing is told after the outcome"
    if kind == "piece":
        job.pieces.append(value)
        return value == job.stop
    job.outcome = kind, value
    return None


def decoded(continuous, arrivals, most_rounds=1000):
    """Let jobs arrive, a list at each round, until all are done; how many were decoded in each round."""
    waiting, rounds, sizes = deque(), iter(arrivals), []
    while len(sizes) < most_rounds:
        waiting.extend(next(rounds, ()))
        newcomers = continuous.take(waiting)
        if not newcomers and not continuous.running and len(sizes) >= len(arrivals):
            return sizes
        continuous.round(newcomers, tell)
        sizes.append(len(continuous.running))
    raise AssertionError("some are never done")


def continuous_of(scores, budget=10**6):
    """A Continuous of a model that is random scores."""
    return Continuous(lambda config: numpy_search.opened(NumpyModel(scores), config, SPECIAL), SPECIAL, budget)


def alone(job, seed):
    """The texts of a job that is decoded alone, by its own configuration."""
    search = numpy_search.opened(NumpyModel(Scores(seed)), job.config, SPECIAL)
    ids = numpy_search.finished(search, feeds(prompts_of([job.row]), job.config, [job.row]))[0][0]
    return trimmed(ids[: job.config.num_return_sequences])


def test_texts_of_all_kinds_side_by_side_are_those_of_each_alone():
    random = np.random.default_rng(1)
    jobs = []
    for row in range(80):
        kind = KINDS[list(KINDS)[row % len(KINDS)]]
        limit = int(random.integers(1, 40))
        jobs.append(Job(row, GenerationConfig(max_new_tokens=limit, min_new_tokens=limit // 3, **kind)))
    continuous = continuous_of(Scores(11))
    arrivals = [jobs[i : i + count] for i, count in zip(range(0, 80, 5), [5] * 16, strict=True)]
    decoded(continuous, [part for arrived in arrivals for part in (arrived, [], [])])
    for job in jobs:
        kind, texts = job.outcome
        assert kind == "done"
        assert [text.ids for text in texts] == alone(job, 11)
        # Pieces come as they are chosen, where they are sure.
        assert job.pieces == ([] if job.config.num_beams > 1 else texts[0].ids)
        assert (texts[0].score is not None) == job.config.output_scores
        if job.config.output_scores:
            np.testing.assert_allclose(sum(texts[0].each), texts[0].score, rtol=1e-5)
            assert len(texts[0].each) == len(texts[0].ids)
    assert not continuous.jobs
    assert len(continuous.searches) == 1, "what is over holds no memory, but for the last"


def test_without_beams_those_that_draw_and_those_that_do_not_share_their_steps():
    scores = Scores(3)
    jobs = [Job(row, GenerationConfig(max_new_tokens=9, min_new_tokens=8, do_sample=row % 2 == 0)) for row in range(6)]
    decoded(continuous_of(scores), [jobs])
    assert scores.steps == 9


def test_a_short_text_does_not_wait_for_a_long_one_and_a_newcomer_not_for_its_end():
    long = Job(0, GenerationConfig(max_new_tokens=40, min_new_tokens=39))
    short = Job(1, GenerationConfig(max_new_tokens=3))
    continuous = continuous_of(Scores(3))
    decoded(continuous, [[long], [], [], [short]], most_rounds=1000)
    assert len(long.pieces) == 40
    again = continuous_of(Scores(3))
    long, short = Job(0, long.config), Job(1, short.config)
    waiting = deque([long])
    for number in range(7):
        again.round(again.take(waiting), tell)
        if number == 2:
            waiting.append(short)
    assert short.outcome is not None
    assert len(long.pieces) == 7


def test_a_text_ends_where_it_is_told_to_and_who_has_gone_takes_no_step():
    wanted = Job(2, GenerationConfig(max_new_tokens=30, min_new_tokens=29, output_scores=True))
    decoded(continuous_of(Scores(4)), [[wanted]])
    whole = wanted.outcome[1][0]
    stop = whole.ids[7]
    stopped, gone = Job(2, wanted.config, stop=stop), Job(5, GenerationConfig(max_new_tokens=30, min_new_tokens=29))
    continuous = continuous_of(scores := Scores(4))
    continuous.round(continuous.take(deque([stopped, gone])), tell)
    gone.settled = True
    before = scores.rows_read
    decoded(continuous, [[]])
    text = stopped.outcome[1][0]
    assert text.ids == whole.ids[: whole.ids.index(stop) + 1]
    np.testing.assert_allclose(text.each, whole.each[: len(text.ids)], rtol=1e-6)
    assert gone.outcome is None
    assert len(gone.pieces) == 1
    assert scores.rows_read - before == len(text.ids) - 1


def test_no_more_join_than_there_is_room_for_and_nobody_is_overtaken():
    few, many = GenerationConfig(max_new_tokens=4, min_new_tokens=3), GenerationConfig(max_new_tokens=50)
    jobs = [Job(0, few), Job(1, many), Job(2, few), Job(3, many)]
    continuous = continuous_of(Scores(3), budget=2 * (len(SOURCE) + 4) + 50)
    waiting = deque(jobs)
    assert continuous.take(waiting) == jobs[:2]
    # One that is larger than all room is decoded alone.
    continuous.budget = 10
    assert continuous.take(deque(jobs[1:])) == jobs[1:2]


def test_as_many_sources_join_in_a_round_as_are_read_together(monkeypatch):
    monkeypatch.setattr("glm.inference.continuous.READ_TOGETHER", 2 * len(SOURCE))
    jobs = [Job(row, GenerationConfig()) for row in range(5)]
    waiting = deque(jobs)
    assert continuous_of(Scores(3)).take(waiting) == jobs[:2]
    jobs[2].settled = True
    assert continuous_of(Scores(3)).take(waiting) == jobs[3:]


def test_an_error_is_the_outcome_of_its_kind_alone():
    class Failing(NumpyModel):
        def step(self, tokens, *arguments):
            if tokens.shape[1] > 1:
                raise MemoryError("no room")
            return super().step(tokens, *arguments)

    scores = Scores(3)
    config = GenerationConfig(max_new_tokens=8)
    continuous = Continuous(lambda own: numpy_search.opened(Failing(scores), own, SPECIAL), SPECIAL, 10**6)
    fine = Job(0, config)
    wrong = [Job(row, dataclasses.replace(config, num_beams=2)) for row in (1, 2)]
    decoded(continuous, [[fine, wrong[0]], [wrong[1]]])
    assert [text.ids for text in fine.outcome[1]] == alone(fine, 3)
    assert {(job.outcome[0], str(job.outcome[1])) for job in wrong} == {("failed", "no room")}


@pytest.mark.parametrize("beams", [1, 2])
def test_scores_that_are_no_numbers_fail_their_prompt_alone(beams):
    class NotFinite(Scores):
        def after(self, prompt, text):
            return super().after(prompt, text) + (np.nan if prompt == 1 and len(text) == 2 else 0)

    config = GenerationConfig(max_new_tokens=8, min_new_tokens=7, num_beams=beams)
    jobs = [Job(row, config) for row in range(3)]
    decoded(continuous_of(NotFinite(6)), [jobs])
    assert isinstance(jobs[1].outcome[1], NotFiniteError)
    assert [[text.ids for text in job.outcome[1]] for job in (jobs[0], jobs[2])] == [
        alone(job, 6) for job in (jobs[0], jobs[2])
    ]
    assert EOP not in jobs[0].outcome[1][0].ids[:7]
