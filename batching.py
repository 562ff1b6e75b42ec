"""Which examples make a training batch: shuffled, the same on every run and every rank, complete in every epoch."""

import numpy as np
from paddle.io import DistributedBatchSampler

# So many batches are sorted by length at a time: enough to fill batches evenly, few enough to leave them random.
MEGABATCH = 32


def packed(lengths, capacity, seed):
    """Rows of examples that together have at most `capacity` tokens, by first-fit decreasing: lists of example numbers.

    lengths: [examples]. An example longer than the capacity has a row of its own. The order of examples of one length
    is shuffled.
    """
    lengths = np.asarray(lengths)
    shuffled = np.random.default_rng(seed).permutation(len(lengths))
    rows, room = [], np.full(len(lengths), capacity)
    for example in shuffled[np.argsort(-lengths[shuffled], kind="stable")]:
        fits = room[: len(rows)] >= lengths[example]
        row = int(fits.argmax()) if fits.any() else len(rows)
        if row == len(rows):
            rows.append([])
        rows[row].append(int(example))
        room[row] -= lengths[example]
    return rows


def grouped_batches(lengths, batch_size, seed, epoch, megabatch=MEGABATCH):
    """Batches of row numbers that cover every row once, rows of similar length together, in random order.

    lengths: [rows] numbers to compare. megabatch: rows are sorted within so many batches. The order depends on seed and
    epoch alone; megabatch 1 leaves batches as they were drawn. In a batch, the shortest row comes first.
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


def shared_out(rows, micro_batches, ranks):
    """Rows (an array) dealt to micro-batches, neighbours together, and those to ranks, all of them as evenly as can be.

    Returns micro_batches * ranks arrays, none empty: of fewer rows than that some are dealt twice.
    """
    if len(rows) < micro_batches * ranks:
        rows = np.resize(rows, micro_batches * ranks)
    return [part[rank::ranks] for part in np.array_split(rows, micro_batches) for rank in range(ranks)]


class TrainingBatches(DistributedBatchSampler):
    """The micro-batches of one rank, as lists of example numbers; set_epoch() chooses their order.

    An epoch is a whole number of optimizer steps, `accumulation` micro-batches on each rank: what remains at its end is
    one step more, shared out evenly (or dropped, with drop_last).

    lengths, targets: [examples], all tokens and target tokens. batch_size: rows of a micro-batch. A row is an example,
    or with a capacity (in tokens) as many as fit in it. group: whether rows of similar length go together. Other
    arguments as for the parent.
    """

    def __init__(
        self, dataset, lengths, targets, batch_size, *, accumulation, seed, group=True, capacity=None, **kwargs
    ):
        super().__init__(dataset, batch_size, shuffle=True, **kwargs)
        self.targets = np.asarray(targets)
        self.rows = [[i] for i in range(len(lengths))] if capacity is None else packed(lengths, capacity, seed)
        self.row_lengths = [sum(lengths[i] for i in row) for row in self.rows]
        self.accumulation = accumulation
        self.seed = seed
        self.megabatch = MEGABATCH if group else 1
        self.planned = None, None

    @property
    def steps(self):
        """Optimizer steps of an epoch."""
        full, rest = divmod(len(self.rows), self.rows_of_a_step)
        return full + (1 if rest and not (self.drop_last and full) else 0)

    @property
    def rows_of_a_step(self):
        """Rows of an optimizer step on all ranks."""
        return self.batch_size * self.nranks * self.accumulation

    def plan(self):
        """The optimizer steps of the epoch: for each, accumulation * ranks micro-batches of example numbers.

        Which examples a step has depends on their number alone, not on how it is divided.
        """
        if self.planned[0] != self.epoch:
            steps = grouped_batches(self.row_lengths, self.rows_of_a_step, self.seed, self.epoch, self.megabatch)
            shares = [shared_out(rows, self.accumulation, self.nranks) for rows in steps[: self.steps]]
            self.planned = (
                self.epoch,
                [[[i for row in rows for i in self.rows[row]] for rows in step] for step in shares],
            )
        return self.planned[1]

    def target_tokens(self, step):
        """Target tokens of all micro-batches, on all ranks, of the run's optimizer step `step`, which the current epoch
        has to contain."""
        return int(sum(self.targets[share].sum() for share in self.plan()[step % self.steps]))

    def __iter__(self):
        for shares in self.plan():
            yield from shares[self.local_rank :: self.nranks]

    def __len__(self):
        return self.steps * self.accumulation
