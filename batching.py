"""Which rows make a training batch: shuffled, rows of similar length together, the same on every run and every rank."""

import numpy as np
from paddle.io import DistributedBatchSampler

# So many batches are sorted by length at a time: enough to fill batches evenly, few enough to leave them random.
MEGABATCH = 32


def grouped_batches(lengths, batch_size, seed, epoch, megabatch=MEGABATCH):
    """Batches of row numbers that cover every row once, rows of similar length together, in random order.

    lengths: [rows] numbers to compare. megabatch: rows are sorted within so many batches. The order depends on seed and
    epoch alone; megabatch 1 leaves batches as they were drawn.
    """
    rng = np.random.default_rng([seed, epoch])
    lengths = np.asarray(lengths)
    shuffled = rng.permutation(len(lengths))
    span = batch_size * megabatch
    batches = []
    for start in range(0, len(shuffled), span):
        rows = shuffled[start : start + span]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
    # A batch that is not full stays at the end, where drop_last expects it.
    full = [batch for batch in batches if len(batch) == batch_size]
    return [full[i] for i in rng.permutation(len(full))] + [batch for batch in batches if len(batch) < batch_size]


class LengthGroupedBatchSampler(DistributedBatchSampler):
    """grouped_batches() for the rows of one rank; set_epoch() chooses the order.

    lengths: [rows]. group: whether to group at all. Other arguments as for the parent.
    """

    def __init__(self, dataset, lengths, batch_size, seed, group=True, **kwargs):
        super().__init__(dataset, batch_size, shuffle=True, **kwargs)
        self.lengths = lengths
        self.seed = seed
        self.megabatch = MEGABATCH if group else 1

    def __iter__(self):
        """Lists of row numbers. Ranks share each global batch; a last one that they cannot share evenly is filled up
        with rows of the first."""
        global_size = self.batch_size * self.nranks
        batches = grouped_batches(self.lengths, global_size, self.seed, self.epoch, self.megabatch)
        for batch in batches:
            if len(batch) < global_size and self.drop_last:
                continue
            missing = -len(batch) % self.nranks
            shared = np.concatenate([batch, np.resize(batches[0], missing)]) if missing else batch
            yield shared[self.local_rank :: self.nranks].tolist()

    def __len__(self):
        full, rest = divmod(len(self.lengths), self.batch_size * self.nranks)
        return full + (1 if rest and not self.drop_last else 0)
