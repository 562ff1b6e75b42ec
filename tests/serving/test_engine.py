"""The engine with a decoder whose pace and pieces a test decides."""

import threading
from collections import deque

import numpy as np
import pytest

from glm.data import examples
from glm.data.templates import Example
from glm.decoding.generation_config import GenerationConfig, SpecialIds
from glm.serving.closed import Closed, take_batch
from glm.serving.engine import Engine, Job, NotAccepting

END, PAD = 99, 0
SPECIAL = SpecialIds(1, END, PAD, ())
FIVE = GenerationConfig(max_new_tokens=5)


class Outcome:
    """What an engine tells of a job."""

    def __init__(self):
        self.pieces, self.ended, self.kind, self.value = [], threading.Event(), None, None

    def __call__(self, kind, value):
        if kind == "piece":
            return self.pieces.append(value)
        assert not self.ended.is_set(), "told once"
        self.kind, self.value = kind, value
        return self.ended.set()

    @property
    def ids(self):
        """The ids of its text."""
        (text,) = self.value
        return text.ids


def make_job(length=4, config=FIVE, **choices):
    """A job whose source is `length` times the number `length`."""
    ids = np.full([length], length, np.int32)
    return Job(examples.Encoded(Example("", "", ""), ids, None, length, 0), config, 0, Outcome(), **choices)


class Decoder:
    """Gives each prompt the pieces 1, 2 … up to one less than its source's number, then the end.

    A step waits for `steps` unless that is None; batches are remembered as lists of sources' numbers.
    """

    def __init__(self, steps=None):
        self.steps, self.batches, self.number_of_steps = steps, [], 0

    def __call__(self, prompts, config, rows, on_token):
        lengths = prompts["source_mask"].sum(axis=1).astype(int)
        self.batches.append(lengths.tolist())
        texts = np.full([len(rows), config.max_new_tokens], PAD)
        for number in range(config.max_new_tokens):
            if self.steps is not None:
                assert self.steps.acquire(timeout=20)
            self.number_of_steps += 1
            pieces = np.where(number + 1 < lengths, number + 1, END)
            texts[:, number] = np.where(number < lengths, pieces, PAD)
            on_token(np.arange(len(rows)), pieces)
        return texts


@pytest.fixture
def started():
    """A function that starts an engine with a decoder and waits until it is ready; all are closed in the end."""
    engines = []

    def start(decoder, budget=100):
        engine = Engine(lambda: Closed(decoder, SPECIAL, budget))
        engines.append(engine)
        engine.start()
        while engine.state == "loading":
            pass
        return engine

    yield start
    for engine in engines:
        assert engine.close(20)


def wait_for(*jobs):
    for job in jobs:
        assert job.notify.ended.wait(20)


def test_a_text_ends_with_its_end_or_at_its_limit(started):
    engine = started(Decoder())
    jobs = [make_job(3), make_job(8), make_job(8, GenerationConfig(max_new_tokens=2))]
    engine.submit(jobs)
    wait_for(*jobs)
    assert [job.notify.ids for job in jobs] == [[1, 2, END], [1, 2, 3, 4, 5], [1, 2]]
    assert {job.notify.kind for job in jobs} == {"done"}


def test_pieces_come_as_they_are_decoded_and_a_text_does_not_wait_for_its_batch(started):
    steps = threading.Semaphore(0)
    engine = started(Decoder(steps))
    short, long = make_job(3, wants_pieces=True), make_job(9, wants_pieces=True)
    engine.submit([short, long])
    for _ in range(3):
        steps.release()
    wait_for(short)
    assert short.notify.pieces == [1, 2, END]
    assert not long.notify.ended.is_set()
    steps.release(2)
    wait_for(long)
    assert long.notify.pieces == [1, 2, 3, 4, 5]


def test_what_waits_while_a_batch_runs_is_the_next_batch(started):
    steps = threading.Semaphore(0)
    decoder = Decoder(steps)
    engine = started(decoder)
    first, others = make_job(3), [make_job(number) for number in (4, 5, 6)]
    engine.submit([first])
    steps.release()
    while not decoder.batches:
        pass
    for job in others:
        engine.submit([job])
    assert engine.queue_length == 3
    steps.release(50)
    wait_for(first, *others)
    assert decoder.batches == [[3], [4, 5, 6]]


def test_a_batch_ends_when_nobody_waits_for_it(started):
    steps = threading.Semaphore(0)
    decoder = Decoder(steps)
    engine = started(decoder)
    left, waiting = make_job(9), make_job(3)
    engine.submit([left])
    while not decoder.batches:
        pass
    engine.submit([waiting])
    left.cancel()
    steps.release(1 + 3)
    wait_for(waiting)
    assert decoder.number_of_steps == 4
    assert left.notify.kind is None


def test_a_job_that_is_cancelled_while_it_waits_is_not_decoded(started):
    steps = threading.Semaphore(0)
    decoder = Decoder(steps)
    engine = started(decoder)
    jobs = [make_job(3), make_job(4), make_job(5)]
    engine.submit(jobs[:1])
    while not decoder.batches:
        pass
    engine.submit(jobs[1:])
    jobs[1].cancel()
    steps.release(50)
    wait_for(jobs[0], jobs[2])
    assert decoder.batches == [[3], [5]]


def test_a_batch_that_fails_is_no_end_of_the_engine(started):
    calls = []

    def decoder(prompts, config, rows, on_token):
        calls.append(len(rows))
        if len(calls) == 1:
            raise MemoryError("no room")
        return np.array([[END, PAD]])

    engine = started(decoder)
    for kind in ("failed", "done"):
        job = make_job()
        engine.submit([job])
        wait_for(job)
        assert job.notify.kind == kind


def test_stopping_refuses_what_is_new_and_finishes_the_rest(started):
    steps = threading.Semaphore(0)
    engine = started(Decoder(steps), budget=9)
    jobs = [make_job(3), make_job(4)]
    engine.submit(jobs)
    engine.stop()
    with pytest.raises(NotAccepting, match="stopping"):
        engine.submit([make_job()])
    steps.release(50)
    wait_for(*jobs)


def test_what_keeps_the_model_from_loading_is_kept():
    def load():
        raise ValueError("no model there")

    engine = Engine(load)
    engine.start()
    engine.thread.join(20)
    assert engine.state == "failed"
    assert str(engine.failure) == "no model there"
    with pytest.raises(NotAccepting, match="failed"):
        engine.submit([make_job()])


def test_batches_keep_their_order_and_their_budget():
    beams = GenerationConfig(max_new_tokens=5, num_beams=2)
    other_limit = GenerationConfig(max_new_tokens=9)
    jobs = [make_job(4), make_job(10), make_job(4, beams), make_job(5), make_job(4, other_limit), make_job(4)]
    waiting, taken = deque(jobs), []
    while waiting:
        batch = take_batch(waiting, 30)
        tokens = [job.tokens for job in batch]
        assert len(batch) == 1 or len(batch) * (max(t[0] for t in tokens) + max(t[1] for t in tokens)) <= 30
        assert len({job.config.num_beams for job in batch}) == 1
        taken.append([jobs.index(job) for job in batch])
    # 10 + 5 tokens twice are all that fits; beams take twice the new tokens; limits may differ.
    assert taken == [[0, 1], [2], [3, 4], [5]]


def test_a_prompt_larger_than_the_budget_is_decoded_alone():
    waiting = deque([make_job(40), make_job(4)])
    assert len(take_batch(waiting, 10)) == 1
    assert len(waiting) == 1
