"""Processes of a hub get what all of them have, put together in order; threads stand for them here."""

import threading

import numpy as np
import pytest

from hub import Hub


def together(count, action):
    """The results of action(number, gather) in so many threads; gather gives the objects of all of them."""
    barrier, objects, results = threading.Barrier(count, timeout=30), [None] * count, [None] * count

    def of_thread(number):
        def gather(item):
            objects[number] = item
            barrier.wait()
            return list(objects)

        results[number] = action(number, gather)

    threads = [threading.Thread(target=of_thread, args=[number]) for number in range(count)]
    for thread in threads:
        thread.daemon = True  # one that is stuck must not keep the tests from ending
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


@pytest.mark.parametrize("size", [2, 4])
def test_members_get_the_sum_and_the_stack_of_their_hub_alone(size):
    """Eight processes in hubs that have nothing to do with each other, and whose arrays have other shapes."""

    def act(number, gather):
        first = number - number % size
        hub = Hub(list(range(first, first + size)), number, gather)
        array = np.arange(3 + first, dtype="float32") * (number + 1)
        # A few rounds, as a model's layers would have: nothing may be left over from one to the next.
        return [(hub.sum(array + turn), hub.stack(array[:0] if turn == 1 else array)) for turn in range(3)]

    for number, rounds in enumerate(together(8, act)):
        first = number - number % size
        arrays = [np.arange(3 + first, dtype="float32") * (member + 1) for member in range(first, first + size)]
        for turn, (total, stacked) in enumerate(rounds):
            np.testing.assert_array_equal(total, sum(array + turn for array in arrays))
            np.testing.assert_array_equal(stacked, np.stack([array[: 0 if turn == 1 else None] for array in arrays]))
            assert total.flags.writeable


def test_no_member_waits_for_one_that_has_gone():
    def act(number, gather):
        hub = Hub([0, 1], number, gather)
        if number == 1:
            return hub.others[0].close()
        with pytest.raises((EOFError, ConnectionError)):
            hub.sum(np.ones(3))
        return "told"

    assert together(2, act)[0] == "told"
