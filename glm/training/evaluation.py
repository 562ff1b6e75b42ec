"""How good a model is on rows of data: its loss, and the texts that it generates. Data-parallel ranks share the
batches."""

import paddle

from glm.decoding.generation_config import SpecialIds
from glm.export import engines
from glm.inference.answer_lines import Answer
from glm.inference.answers import answer_all, scheduled
from glm.inference.parts import Part
from glm.ops.dtypes import name_of
from glm.ops.strides import without_views
from glm.parallel.ranks import gather_objects


class Share:
    """A data-parallel rank's share of batches, and how the ranks put their results together. Batches are the same
    however many ranks there are, and so are results to the last digit.

    size, rank: of data-parallel ranks. each: ranks that there are for each of them, among which the model is divided;
    they come one after another and have the same results.
    """

    def __init__(self, size=1, rank=0, each=1):
        self.size, self.rank, self.each = size, rank, each

    def own(self, batches):
        """The rank's batches, of a list of them."""
        return batches[self.rank :: self.size]

    def of_ranks(self, item):
        """Every data-parallel rank's item, a list."""
        if self.size == 1:
            return [item]
        return gather_objects(item)[:: self.each]

    def collected(self, items):
        """The items of all batches in order; items: those of the rank's batches, a list."""
        of_ranks = self.of_ranks(items)
        everything = [None] * sum(map(len, of_ranks))
        for rank, items_of_rank in enumerate(of_ranks):
            everything[rank :: self.size] = items_of_rank
        return everything


@paddle.no_grad()
def mean_loss(model, rows, collate, batch_size, share):
    """Mean over all target tokens of the negative log probability, without label smoothing.

    rows: examples.Encoded; collate makes arrays of some of them. A batch takes at most the tokens that batch_size of
    the longest rows do.
    """
    lengths = [row.length for row in rows]
    sums = []
    for indices in share.own(scheduled(lengths, batch_size, max(lengths), new_tokens=0)):
        arrays = collate([rows[i] for i in indices])
        with without_views():
            loss = model(**{name: paddle.to_tensor(array) for name, array in arrays.items()}, divisor=1.0)
        sums.append((float(loss), len(arrays["labels"])))
    total, tokens = map(sum, zip(*share.collected(sums), strict=True))
    return total / tokens


def engine_of(asked, model, tokenizer, trains):
    """What decodes with a model, for --engine `asked`; trains: whether its weights change. Raises UsageError for what
    cannot be, and UserError."""
    special = SpecialIds.of(tokenizer, model.config.vocab_size)
    dtype = name_of(next(iter(model.parameters())))
    if engines.choice_of("python" if trains and asked == "auto" else asked, dtype, model.ranks.size) == "onnx":
        return engines.of_model(model, special)
    return engines.PythonEngine(model, special)


def answers(engine, rows, generation, tokenizer, batch_size, share, progress, binding=None):
    """An answer_lines.Answer for each of rows, decoded batch_size of the longest together by an engine of engines.py;
    generation: GenerationConfig. binding: see answer_all()."""
    found = answer_all(
        rows,
        lambda prompts, numbers: engine.run(prompts, generation, numbers),
        tokenizer,
        batch_size=batch_size,
        src_length=max((len(row.source_ids) for row in rows), default=0),
        new_tokens=generation.new_tokens_a_prompt,
        texts=generation.num_return_sequences,
        progress=progress,
        part=Part(share.rank, share.size),
        binding=binding,
    )
    # Every rank has the rows.
    of_ranks = share.of_ranks([answer and answer.generated() for answer in found])
    generated = (next(filter(None, fields)) for fields in zip(*of_ranks, strict=True))
    return [Answer.of_generated(row, fields) for row, fields in zip(rows, generated, strict=True)]
