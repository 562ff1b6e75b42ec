"""How good a model is on rows of data: its loss, and the texts that it generates. Data-parallel ranks share the
rows."""

import paddle
import paddle.distributed as dist

import inference
from decoding import Decoder, run
from generation_config import SpecialIds
from strides import without_views


class Share:
    """A data-parallel rank's share of rows, and how the ranks put their results together.

    group: their communication group; None for a single rank.
    """

    def __init__(self, group=None):
        self.group = group
        self.size, self.rank = (group.nranks, group.rank) if group is not None else (1, 0)

    def numbers(self, count):
        """Numbers of the rank's rows, of `count`."""
        return range(self.rank, count, self.size)

    def summed(self, *numbers):
        """The sums over all ranks of numbers, a list of floats."""
        total = paddle.to_tensor(numbers, dtype="float64")
        if self.size > 1:
            dist.all_reduce(total, group=self.group)
        return total.tolist()

    def collected(self, items):
        """The items of all rows in order; items: those of the rank's rows."""
        if self.size == 1:
            return items
        of_ranks = []
        dist.all_gather_object(of_ranks, items, group=self.group)
        everything = [None] * sum(map(len, of_ranks))
        for rank, items_of_rank in enumerate(of_ranks):
            everything[rank :: self.size] = items_of_rank
        return everything


@paddle.no_grad()
def mean_loss(model, rows, collate, batch_size, share):
    """Mean over all target tokens of the negative log probability, without label smoothing.

    rows: data.Encoded; collate makes arrays of some of them. A batch takes at most the tokens that batch_size of the
    longest rows do.
    """
    own = [rows[i] for i in share.numbers(len(rows))]
    lengths, longest = [row.length for row in own], max(row.length for row in rows)
    total = tokens = 0
    for indices in inference.scheduled(lengths, batch_size, longest, new_tokens=0):
        arrays = collate([own[i] for i in indices])
        with without_views():
            loss = model(**{name: paddle.to_tensor(array) for name, array in arrays.items()}, divisor=1.0)
        total += float(loss)
        tokens += len(arrays["labels"])
    total, tokens = share.summed(total, tokens)
    return total / tokens


def answers(model, rows, generation, tokenizer, batch_size, share, progress):
    """inference.Answer for each of rows, decoded batch_size of the longest together; generation: GenerationConfig."""
    decoder = Decoder(model, generation, SpecialIds.of(tokenizer, model.config.vocab_size))
    numbers = share.numbers(len(rows))

    def run_batch(prompts, own_numbers):
        # Random draws depend on a row's number among all of them.
        return run(decoder, prompts, generation, [numbers[i] for i in own_numbers])

    found = inference.answer_all(
        [rows[i] for i in numbers],
        run_batch,
        tokenizer,
        batch_size=batch_size,
        src_length=max((len(row.source_ids) for row in rows), default=0),
        new_tokens=generation.new_tokens_a_prompt,
        progress=progress,
    )
    return share.collected(found)
