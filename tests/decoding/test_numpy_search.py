"""Prompts that come and go in numpy_search.py."""

import dataclasses

import numpy as np
import pytest

from glm.decoding import numpy_search
from glm.decoding.generation_config import GenerationConfig, feeds
from tests.decoding.test_search import SPECIAL, STRATEGIES, NumpyModel, Scores, decode_by_numpy, prompts_of, trimmed


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
