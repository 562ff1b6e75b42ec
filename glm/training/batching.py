"""Which examples make a training batch: shuffled, the same on every run and every rank, complete in every epoch."""

import numpy as np
from paddle.io import DistributedBatchSampler

# So many batches are sorted by length at a time: enough to fill batches evenly, few enough to leave them random.
MEGABATCH = 32


def packed(lengths, capacity, seed):
    """Rows of examples that together have at most `capacity` tokens, by best-fit decreasing: lists of example numbers.

    lengths: [examples]. The longest come first, each into the fullest row that has room for it. An example longer than
    the capacity has a row of its own. The order of examples of one length is shuffled.
    """
    lengths = np.asarray(lengths)
    shuffled = np.random.default_rng(seed).permutation(len(lengths))
    rows = []
    # Numbers of rows by the room they have left, and which of these lists are not empty: a search takes no longer the
    # more rows there are.
    with_room, there = [[] for _ in range(capacity + 1)], np.zeros(capacity + 1, bool)
    for example in shuffled[np.argsort(-lengths[shuffled], kind="stable")]:
        length = int(lengths[example])
        fits = there[length:]
        room = length + int(fits.argmax()) if length <= capacity and fits.any() else capacity
        if room < capacity:
            row = with_room[room].pop()
            there[room] = bool(with_room[room])
        else:
            row = len(rows)
            rows.append([])
        rows[row].append(int(example))
        if length <= room:
            with_room[room - length].append(row)
            there[room - length] = True
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
        lengths = np.asarray(lengths)
        self.rows = None if capacity is None else packed(lengths, capacity, seed)
        self.row_lengths = lengths if self.rows is None else np.array([lengths[row].sum() for row in self.rows])
        self.accumulation = accumulation
        self.seed = seed
        self.megabatch = MEGABATCH if group else 1
        self.planned = None, None

    @property
    def steps(self):
        """Optimizer steps of an epoch."""
        full, rest = divmod(len(self.row_lengths), self.rows_of_a_step)
        return full + (1 if rest and not (self.drop_last and full) else 0)

    @property
    def rows_of_a_step(self):
        """Rows of an optimizer step on all ranks."""
        return self.batch_size * self.nranks * self.accumulation

    def plan(self):
        """The optimizer steps of the epoch: for each, accumulation * ranks micro-batches, arrays of example numbers.

        Which examples a step has depends on their number alone, not on how it is divided.
        """
        if self.planned[0] != self.epoch:
            steps = grouped_batches(self.row_lengths, self.rows_of_a_step, self.seed, self.epoch, self.megabatch)
            shares = [shared_out(rows, self.accumulation, self.nranks) for rows in steps[: self.steps]]
            self.planned = self.epoch, [[self.examples_of(rows) for rows in step] for step in shares]
        return self.planned[1]

    def examples_of(self, rows):
        """Numbers of the examples in rows (an array of row numbers)."""
        return rows if self.rows is None else np.concatenate([self.rows[row] for row in rows])

    def target_tokens(self, step):
        """Target tokens of all micro-batches, on all ranks, of the run's optimizer step `step`, which the current epoch
        has to contain."""
        return int(sum(self.targets[share].sum() for share in self.plan()[step % self.steps]))

    def __iter__(self):
        for shares in self.plan():
            for share in shares[self.local_rank :: self.nranks]:
                yield share.tolist()

    def __len__(self):
        return self.steps * self.accumulation
