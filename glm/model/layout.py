"""How examples lie one after another in a batch without padding. numpy only.

A batch is a row of tokens: the source and the target of the first example, then those of the second, and so on. Who
sees whom follows from the lengths alone: source tokens see their own source, target tokens also their own target up to
themselves, and nobody sees another example.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Layout:
    """The lengths of a batch's examples: ((source, target), …), each at least 1 token."""

    lengths: tuple

    @classmethod
    def of(cls, lengths):
        """Layout of lengths [examples, 2], an array or a tensor."""
        return cls(tuple((int(source), int(target)) for source, target in np.asarray(lengths)))

    @cached_property
    def sections(self):
        """Lengths of all sources and targets in the order they lie in."""
        return [length for pair in self.lengths for length in pair]

    @cached_property
    def totals(self):
        """Lengths of the examples."""
        return [source + target for source, target in self.lengths]

    @cached_property
    def targets(self):
        """Places of the target tokens, [targets] int64."""
        starts = np.cumsum([0, *self.sections])
        ranges = [np.arange(starts[i], starts[i + 1]) for i in range(1, len(self.sections), 2)]
        return np.concatenate(ranges).astype("int64")

    @cached_property
    def places(self):
        """Where each token goes in [examples, longest] flattened, [tokens] int64."""
        longest = max(self.totals)
        return np.concatenate([row * longest + np.arange(length) for row, length in enumerate(self.totals)])

    def visible(self):
        """Who sees whom once each example has a row of its own, bool [examples, 1, longest, longest] (query, key)."""
        longest = max(self.totals)
        key, query = np.arange(longest)[None, :], np.arange(longest)[:, None]
        return np.stack([((key < source) | (key <= query))[None] for source, _ in self.lengths])

    def flashmask_bounds(self):
        """Who sees whom as FlashMask takes it without causality (Wang et al. 2024, https://arxiv.org/abs/2410.01359).

        [1, 1, tokens, 2] int32. A key is hidden from queries at or after its first number (the end of its example), and
        from queries before its second (the start of its example; for target tokens, themselves).
        """
        bounds, start = [], 0
        for source, target in self.lengths:
            end = start + source + target
            first_query = np.concatenate([np.full(source, start), np.arange(start + source, end)])
            bounds.append(np.stack([np.full(source + target, end), first_query], axis=1))
            start = end
        return np.concatenate(bounds).astype("int32")[None, None]
