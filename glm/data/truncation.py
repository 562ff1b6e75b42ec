"""Shortens a prompt to a number of tokens: the context gives way, the template and the answer stay."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace

from glm.data.validation import DataError

MAX_WINDOW_PROBES = 12


def fit_source(example, tokenize: Callable, limit: int) -> tuple[list[int], int, str]:
    """Token ids of an Example's source, at most `limit` of them; how many there would be uncut; the text they are of.

    The context is cut by whole characters to the largest window that fits and holds the first occurrence of
    example.keep, roughly in its middle. A talk is cut by whole turns first. Raises DataError if the source does not fit
    even without its context.
    """
    ids = tokenize(example.source)
    full_length = len(ids)
    if full_length <= limit:
        return ids, full_length, example.source
    if example.turns:
        example = _last_turns(example, tokenize, limit)
        ids = tokenize(example.source)
        if len(ids) <= limit:
            return ids, full_length, example.source
    start, length = _kept_span(example)

    def text_of(size: int) -> str:
        return example.before + _window(example.context, start, length, size) + example.after

    def shortened(size: int) -> list[int]:
        # Always the whole text: pieces may reach across the seams, so lengths of parts do not add up.
        return tokenize(text_of(size))

    smallest = length
    ids = shortened(smallest)
    if len(ids) > limit and smallest:
        # Not even the answer fits a second time: keep what fits of it, the template holds it whole.
        smallest, ids = 0, shortened(0)
    if len(ids) > limit:
        raise DataError(
            f"{example.place}: the prompt takes {len(ids)} tokens even without its context, but src_length leaves "
            f"{limit} for it; raise --src_length by {len(ids) - limit} or shorten the answer",
            "prompt too long",
        )
    size, ids = _largest_window(shortened, limit, smallest, ids, len(example.context), full_length)
    return ids, full_length, text_of(size)


def _last_turns(example, tokenize: Callable, limit: int):
    """The Example with as many of its last turns as fit; with the last one alone, its "Human:" not to be cut, if none
    do."""
    starts = [start for start, _ in example.turns]

    def fits(start: int) -> bool:
        return len(tokenize(example.before + example.context[start:] + example.after)) <= limit

    # Fewer turns take fewer tokens: the first that fits is found by bisection.
    first = bisect_left(starts, True, key=fits)
    if first < len(starts):
        return replace(example, context=example.context[starts[first] :], turns=())
    start, end = example.turns[-1]
    before = example.before + example.context[start:end]
    return replace(example, before=before, context=example.context[end:], turns=())


def _kept_span(example) -> tuple[int, int]:
    """Start and length, in characters, of the part of the context that the window grows around."""
    start = example.context.find(example.keep) if example.keep else -1
    if start >= 0:
        return start, len(example.keep)
    return (0 if example.side == "head" else len(example.context)), 0


def _window(context: str, start: int, length: int, size: int) -> str:
    """`size` characters of the context, centred on the span as far as its ends allow."""
    left = max(0, min(start - (size - length) // 2, len(context) - size))
    return context[left : left + size]


def _largest_window(
    shortened: Callable, limit: int, low: int, low_ids: list[int], high: int, high_length: int
) -> tuple[int, list[int]]:
    """The size of the largest window known to fit, and the ids with it: `low` characters do, `high` do not.

    The length in tokens grows only roughly with the size. A few steps along the mean slope come close, bisection
    does the rest; every candidate is measured, so what is returned fits for certain.
    """
    characters_per_token = (high - low) / max(1, high_length - len(low_ids))
    size, count = low, len(low_ids)
    for probe in range(MAX_WINDOW_PROBES):
        if high - low <= 1:
            break
        if probe < MAX_WINDOW_PROBES // 2:
            missing = limit - count + (1 if count <= limit else 0)
            size = min(max(size + round(missing * characters_per_token), low + 1), high - 1)
        else:
            size = (low + high) // 2
        ids = shortened(size)
        count = len(ids)
        if count <= limit:
            low, low_ids = size, ids
        else:
            high = size
    return low, low_ids
