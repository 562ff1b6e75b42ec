"""What the texts of a search with within_source may be: runs of each prompt's passage, or the texts of a file."""

from functools import lru_cache

from glm.command_line import UsageError
from glm.data import allowed_texts, examples
from glm.data.records import read_texts
from glm.data.validation import DataError
from glm.errors import UserError

# Edges of so many passages are kept, some 64 KB each.
KEPT = 128


class Binding:
    """Edges of prompts, see generation_config.feeds().

    tokenizer: tokenization.Tokenizer. boundaries: one of words.BOUNDARIES. texts: what texts may be, instead of
    runs of passages.
    """

    def __init__(self, tokenizer, boundaries="words", texts=None):
        self.tokenizer, self.boundaries = tokenizer, boundaries
        self.listed = None if texts is None else allowed_texts.edges_of_texts(texts, tokenizer)
        # Several prompts may be of one passage.
        self.runs_of = lru_cache(KEPT)(self.runs)

    @property
    def settings(self):
        """What texts depend on besides prompts, as text."""
        return f"{self.boundaries} {None if self.listed is None else self.listed.tolist()}"

    def runs(self, context):
        """Edges of the runs of what a model has read of a context."""
        passage = allowed_texts.passage_of(context, self.tokenizer, self.boundaries)
        return allowed_texts.edges_of_runs(passage, self.tokenizer)

    def edges_of(self, row):
        """Edges of an examples.Encoded, int64 [edges, 4]. Raises DataError where nothing may be written."""
        if self.listed is not None:
            return self.listed
        edges = self.runs_of(row.context)
        if not len(edges):
            told = "the passage has no words that the vocabulary can spell; leave --within_source out"
            raise DataError(f"{row.example.place}: {told}", "nothing to write")
        return edges

    def edges(self, rows):
        """Edges of examples.Encoded as one array [prompts, edges, 4]. Raises DataError."""
        return allowed_texts.collated([self.edges_of(row) for row in rows])


def prompts_of(rows, pad_id, binding):
    """Arrays of prompts, examples.Encoded, filled up with pad_id; binding: a Binding or None. Raises DataError."""
    bound = {} if binding is None else {"edges": binding.edges(rows)}
    return {**examples.collate_prompts(rows, pad_id), **bound}


def of_flags(arguments, config, tokenizer):
    """The Binding that PromptArguments ask for, None where texts are free. config: GenerationConfig. Raises
    UserError."""
    if not config.within_source:
        if arguments.bound_to is not None or arguments.boundaries is not None:
            flag = "boundaries" if arguments.bound_to is None else "bound_to"
            raise UsageError(f"--{flag}: texts of this program are free; export it anew with --within_source True")
        return None
    texts = None
    if arguments.bound_to is not None:
        texts = [record.fields["source"] for record in read_texts(arguments.bound_to)[0]]
    binding = Binding(tokenizer, arguments.boundaries or "words", texts)
    if binding.listed is not None and not len(binding.listed):
        raise UserError(f"--bound_to {arguments.bound_to}: the vocabulary can spell none of its texts")
    return binding
