"""Prompts that come and go in numpy_search.py."""

import dataclasses

import numpy as np
import pytest

from glm.decoding import numpy_search
from glm.decoding.generation_config import NOT_FINITE, GenerationConfig, feeds
from tests.decoding.test_search import STRATEGIES
from tests.helpers.random_scores import SPECIAL, NumpyModel, Scores, decode_by_numpy, prompts_of, trimmed


def added_one_by_one(search, inputs, batches):
    """{key: Found} of prompts that are added in batches, at every second step."""
    found, keys = [], list(range(len(inputs["input_ids"])))
    for batch in batches:
        part = {name: array[batch] if len(array) == len(keys) else array for name, array in inputs.items()}
        found += search.add(part, [keys[row] for row in batch])
        for _ in range(2):
            found += [] if search.is_over else search.step()
    while not search.is_over:
        found += search.step()
    assert sorted(one.key for one in found) == keys
    return {one.key: one for one in found}


@pytest.mark.parametrize("strategy", ["greedy", "beams", "sampling", "sampled beams"])
def test_prompts_that_join_at_any_time_with_limits_of_their_own_are_decoded_as_alone(strategy):
    config = GenerationConfig(max_new_tokens=60, no_repeat_ngram_size=3, **STRATEGIES[strategy])
    inputs = feeds(prompts_of(range(7)), config, range(7))
    limits = np.array([60, 3, 40, 1, 60, 60, 12]), np.array([50, 0, 30, 0, 3, 0, 5])
    inputs["max_new_tokens"], inputs["min_new_tokens"] = limits
    search = numpy_search.opened(NumpyModel(Scores(3)), config, SPECIAL)
    found = added_one_by_one(search, inputs, [[4, 0], [5], [1, 2, 3], [6]])
    for row, (most, least) in enumerate(zip(*map(np.ndarray.tolist, limits), strict=True)):
        own = dataclasses.replace(config, max_new_tokens=most, min_new_tokens=least)
        alone = numpy_search.opened(NumpyModel(Scores(3)), own, SPECIAL)
        (ids,) = numpy_search.finished(alone, feeds(prompts_of([row]), own, [row]))
        assert trimmed(found[row].ids) == trimmed(ids[0])


def test_prompts_that_nobody_waits_for_leave_and_the_others_stay():
    config = GenerationConfig(max_new_tokens=20, min_new_tokens=19)
    scores = Scores(5)
    search = numpy_search.opened(NumpyModel(scores), config, SPECIAL)
    found = search.add(feeds(prompts_of(range(5)), config), list("abcde"))
    search.drop({"a", "d"})
    read = scores.rows_read
    found += search.step()
    assert scores.rows_read - read == 3
    while not search.is_over:
        found += search.step()
    wanted = decode_by_numpy(Scores(5), config, range(5))[0]
    assert {one.key: one.ids.tolist() for one in found} == {key: wanted["abcde".index(key)].tolist() for key in "bce"}


def test_room_for_keys_and_values_follows_what_texts_see_and_not_how_long_they_have_been_decoded():
    """Beams leave many entries behind that no text sees any more."""
    config = GenerationConfig(max_new_tokens=400, min_new_tokens=399, num_beams=4)
    search = numpy_search.opened(NumpyModel(Scores(6)), config, SPECIAL)
    search.add(feeds(prompts_of([0]), config), [0])
    rooms = []
    while not search.is_over:
        search.step()
        rooms.append(search.memory.room)
    assert max(rooms) < 2 * 400 < 4 * 400


class Transposed(NumpyModel):
    """With entries along the last axis."""

    axes = (3,)

    def prefill(self, *arguments):
        logits, (entries,) = super().prefill(*arguments)
        return logits, [entries.swapaxes(2, 3)]

    def step(self, tokens, places, numbers, settled, visible):
        logits, (entries,) = super().step(tokens, places, numbers, [settled[0].swapaxes(2, 3)], visible)
        return logits, [entries.swapaxes(2, 3)]


@pytest.mark.parametrize("strategy", ["greedy", "beams"])
def test_along_which_axis_entries_lie_is_all_the_same(strategy):
    config = GenerationConfig(max_new_tokens=90, min_new_tokens=80, **STRATEGIES[strategy])
    found = []
    for kind in (NumpyModel, Transposed):
        search = numpy_search.opened(kind(Scores(9)), config, SPECIAL)
        inputs = feeds(prompts_of(range(5)), config, range(5))
        found.append(
            {key: one.ids.tolist() for key, one in added_one_by_one(search, inputs, [[0, 1], [2, 3, 4]]).items()}
        )
    assert found[0] == found[1]


class NotFinite(NumpyModel):
    """Logits, keys and values of prompt 1 are no numbers."""

    def prefill(self, input_ids, source_mask, mask_index, start):
        logits, (entries,) = super().prefill(input_ids, source_mask, mask_index, start)
        logits[mask_index == 1] = np.nan
        entries[mask_index == 1] = np.nan
        return logits, [entries]


def test_what_is_no_number_spoils_nothing_that_comes_after_it():
    config = GenerationConfig(max_new_tokens=9)
    search = numpy_search.opened(NotFinite(Scores(7)), config, SPECIAL)
    (ids,) = numpy_search.finished(search, feeds(prompts_of([0, 1]), config, [0, 1]))
    assert (ids[1] == NOT_FINITE).all()
    assert (ids[0] != NOT_FINITE).all()
    seen = []
    step = search.model.step
    search.model.step = lambda *arguments: (seen.append(np.isfinite(arguments[3][0]).all()), step(*arguments))[1]
    (again,) = numpy_search.finished(search, feeds(prompts_of([0, 2]), config, [0, 2]))
    assert trimmed(again[0]) == trimmed(ids[0])
    assert seen
    assert all(seen)


def test_a_search_that_an_error_has_left_begins_anew():
    config = GenerationConfig(max_new_tokens=9, min_new_tokens=8)
    search = numpy_search.opened(NumpyModel(Scores(7)), config, SPECIAL)
    inputs = feeds(prompts_of([0, 3]), config, [0, 3])
    wanted = numpy_search.finished(search, inputs)[0].tolist()

    def stop(*_):
        raise KeyboardInterrupt

    search.on_token = stop
    with pytest.raises(KeyboardInterrupt):
        numpy_search.finished(search, inputs)
    search.on_token = None
    assert numpy_search.finished(search, inputs)[0].tolist() == wanted


def test_memory_is_used_again_by_batches_of_other_shapes():
    config = GenerationConfig(max_new_tokens=9, min_new_tokens=8)
    search = numpy_search.opened(NumpyModel(Scores(8)), config, SPECIAL)
    numpy_search.finished(search, feeds(prompts_of(range(8)), config, range(8)))
    (memory,) = (buffer.memory for buffer in search.memory.buffers)
    for prompts in ([3], [1, 2], range(7)):
        (ids,) = numpy_search.finished(search, feeds(prompts_of(prompts), config, prompts))
        alone = decode_by_numpy(Scores(8), config, prompts)[0]
        assert ids.tolist() == alone.tolist()
        assert search.memory.buffers[0].memory is memory
