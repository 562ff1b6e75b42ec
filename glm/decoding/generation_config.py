"""How to decode: the choices, their checks, and the arrays a decoder is fed. numpy only.

One description serves the eager decoder, the exported program and the C++ runtimes, so that they cannot drift apart:
feeds() makes the same arrays for all three.
"""

from dataclasses import dataclass

import numpy as np

from glm.errors import RunError, UserError

# In the place of all ids of a text whose logits were not finite.
NOT_FINITE = -1
# Added to the score of what must not be chosen. Far below any sum of log probabilities, and finite: infinities turn
# into NaN as soon as two of them meet.
BANNED = -1e9
# Added to the score of what lies outside of the texts that a search is bound to: whatever else is banned goes first.
OUTSIDE = -1e13
# More pieces than any text has.
LONGEST = 2**30
# A score that even a banned candidate beats.
IMPOSSIBLE = -1e18

# What the shape of the decoding loop depends on. Fixed when a program is exported; everything else is an input of it.
STRUCTURE = (
    "num_beams",
    "do_sample",
    "no_repeat_ngram_size",
    "early_stopping",
    "ban_source_ngrams",
    "output_scores",
    "within_source",
    "penalties",
)
# What a prompt has of its own.
PROMPT = ("input_ids", "source_mask", "mask_index", "edges")
# What a text's own pieces lose when they would come again, and the values that take nothing away.
PENALTIES = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
# What a search is fed besides of its GenerationConfig, by dtype.
LIMITS = {
    "int64": ("max_new_tokens", "min_new_tokens", "top_k"),
    "float32": ("length_penalty", "temperature", "top_p", *PENALTIES),
}


@dataclass(frozen=True)
class GenerationConfig:
    """Decoding choices; the names are those of paddlenlp's and transformers' generate().

    max_new_tokens, min_new_tokens: length limits in pieces, the end token <|endofpiece|> included in the first.
    num_beams: 1 for greedy search or sampling, more for beam search.
    length_penalty: beams compete by log p / ((length + 5) / 6) ** length_penalty (Wu et al. 2016,
        https://arxiv.org/abs/1609.08144, equation 14).
    early_stopping: beam search ends at num_beams finished candidates, without waiting for better ones.
    no_repeat_ngram_size: no n-gram of this size occurs twice in a generated text; 0 allows all.
    ban_source_ngrams: the source's n-grams count as having occurred, as in paddlenlp's generate(). Off by default: a
        question has to be able to take names over from its context.
    do_sample: draw from the distribution instead of taking the most probable pieces. With num_beams > 1 the
        candidates of a beam step are drawn.
    temperature, top_k, top_p: the distribution to draw from; top_k 0 and top_p 1 leave it whole (Holtzman et al. 2020,
        https://arxiv.org/abs/1904.09751).
    seed: what is drawn depends on it and on the row's number alone, not on the batch or the runtime.
    num_return_sequences: texts per prompt.
    output_scores: also give each text's score, its log probability (natural logarithm, end token included; that of the
        model, before bans and temperature); of beams, what they compete by.
    within_source: texts are those that the prompts' `edges` spell, and no others; see feeds(). The length limits, and
        no_repeat_ngram_size, give way where they leave none. Of beams that find fewer texts the rest are empty.
    repetition_penalty: logits of pieces that the text has already are divided by it where they are above 0, else
        multiplied with it (Keskar et al. 2019, https://arxiv.org/abs/1909.05858, as Hugging Face's transformers has
        it), the source not counting; 1 changes nothing. Of beams, log probabilities take the place of logits.
    presence_penalty, frequency_penalty: after that they lose the first, and the second for each time they have
        occurred, as in OpenAI's interface; 0 changes nothing.
    penalties: whether there are any. A search that has them has them as inputs.
    stop: texts before whose first occurrence a text ends; see stops.py.
    """

    max_new_tokens: int = 160
    min_new_tokens: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool = False
    no_repeat_ngram_size: int = 0
    ban_source_ngrams: bool = False
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 42
    num_return_sequences: int = 1
    output_scores: bool = False
    within_source: bool = False
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalties: bool = False
    stop: tuple = ()

    def __post_init__(self):
        if any(getattr(self, name) != neutral for name, neutral in PENALTIES.items()):
            object.__setattr__(self, "penalties", True)
        for name, lowest in (
            ("max_new_tokens", 1),
            ("min_new_tokens", 0),
            ("num_beams", 1),
            ("no_repeat_ngram_size", 0),
            ("top_k", 0),
            ("seed", 0),
            ("num_return_sequences", 1),
        ):
            if getattr(self, name) < lowest:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least {lowest}")
        if self.min_new_tokens >= self.max_new_tokens:
            raise UserError(
                f"min_new_tokens ({self.min_new_tokens}) must be below max_new_tokens ({self.max_new_tokens}): "
                "the end token takes one place"
            )
        if self.temperature <= 0:
            raise UserError(f"temperature is {self.temperature}; it must be above 0")
        if self.repetition_penalty <= 0:
            raise UserError(f"repetition_penalty is {self.repetition_penalty}; it must be above 0")
        if not all(self.stop):
            raise UserError("stop has a text without characters, at which every text would end")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; it must be above 0 and at most 1 (1 keeps every token)")
        if not self.do_sample and (self.top_k or self.top_p < 1):
            raise UserError(
                "top_k and top_p have no effect without sampling: ask for it (--select_topk False), or leave them out"
            )
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise UserError(
                f"num_return_sequences ({self.num_return_sequences}) is more than num_beams ({self.num_beams}): "
                "a search without sampling has no further texts; give more beams, or sample"
            )

    @property
    def structure(self):
        """The part that an exported program fixes, as a dict."""
        return {name: getattr(self, name) for name in STRUCTURE}

    @property
    def new_tokens_a_prompt(self):
        """The most tokens that one prompt's texts take together while they are decoded."""
        return self.max_new_tokens * (self.num_beams if self.num_beams > 1 else self.num_return_sequences)


@dataclass(frozen=True)
class SpecialIds:
    """Ids that a decoder needs to know: where a target begins and ends, the padding, and what it must never produce."""

    sop: int
    eop: int
    pad: int
    banned: tuple

    @classmethod
    def of(cls, tokenizer, vocab_size):
        """The ids of a tokenization.Tokenizer, for a model with `vocab_size` rows of embeddings."""
        return cls(tokenizer.sop_id, tokenizer.eop_id, tokenizer.eos_id, tokenizer.banned_ids(vocab_size))


def input_names(config):
    """Names of a decoder's inputs, in order, for the structure of a GenerationConfig."""
    names = ["input_ids", "source_mask", "mask_index", "max_new_tokens", "min_new_tokens"]
    if config.num_beams > 1:
        names.append("length_penalty")
    if config.do_sample:
        names += ["temperature", "top_k", "top_p", "noise"]
    if config.penalties:
        names += PENALTIES
    if config.within_source:
        names.append("edges")
    return names


def feeds(prompts, config, row_ids=None):
    """Arrays to feed a decoder, by name.

    prompts: input_ids int64 [batch, source], source_mask float32 [batch, source], mask_index int64 [batch]; and limits
        of their own, int64 [batch], such as max_new_tokens, which numpy_search.py alone obeys. With
        config.within_source also edges int64 [batch, edges, 4], of a graph whose ways from place 0 spell what a
        prompt's text may be: the place that an edge leaves, its piece, the place that it leads to, and how many pieces
        a text still takes from there at least, its end piece included. No place's number is above `edges`. Rows are
        filled up with edges that still take LONGEST pieces.
    config: GenerationConfig.
    row_ids: for each prompt a number that its random draws depend on; default 0…batch-1.
    Raises UserError where no text of a prompt's edges is as short as max_new_tokens.
    """
    arrays = dict(prompts)
    for dtype, names in LIMITS.items():
        for name in names:
            arrays.setdefault(name, np.array([getattr(config, name)], dtype))
    if config.do_sample:
        batch = len(prompts["input_ids"])
        arrays["noise"] = uniform_noise(config, range(batch) if row_ids is None else row_ids)
    if config.within_source:
        check_edges(prompts["edges"], arrays["max_new_tokens"])
    return {name: arrays[name] for name in input_names(config)}


def feeds_of_each(prompts, configs, row_ids, searched):
    """feeds() for a search to which each prompt comes with a GenerationConfig and a row id of its own; and with the
    number of an adapter, where prompts have "adapters", int64 [prompts].

    searched: the GenerationConfig of numpy_search.Search. Of its structure are all, but that without beams some may not
    be drawn for, which then have temperature 0, or not have penalties, which are then neutral.
    """
    arrays = {**prompts}
    for dtype, names in LIMITS.items():
        arrays |= {name: np.array([getattr(config, name) for config in configs], dtype) for name in names}
    if searched.do_sample:
        arrays["temperature"][[not config.do_sample for config in configs]] = 0
        shape = [len(configs), draws(searched), int(arrays["max_new_tokens"].max())]
        arrays["noise"] = np.zeros(shape, "float32")
        for noise, config, row in zip(arrays["noise"], configs, row_ids, strict=True):
            if config.do_sample:
                noise[:, : config.max_new_tokens] = uniform_noise(config, [row])[0]
    if searched.within_source:
        check_edges(prompts["edges"], arrays["max_new_tokens"])
    more = ["adapters"] if "adapters" in prompts else []
    return {name: arrays[name] for name in (*input_names(searched), *more)}


def check_edges(edges, limits):
    """Raise UserError unless each prompt's edges spell a text of at most so many pieces; limits: int64 [batch] or [1].
    See feeds()."""
    shortest = 1 + np.where(edges[:, :, 0] == 0, edges[:, :, 3], LONGEST).min(axis=1)
    for row, (pieces, limit) in enumerate(zip(shortest, np.broadcast_to(limits, shortest.shape), strict=True)):
        if pieces > LONGEST:
            raise UserError(f"prompt {row} of the batch: the vocabulary can spell no text that may be written")
        if pieces > limit:
            raise UserError(
                f"prompt {row} of the batch: the shortest text that may be written takes {pieces} tokens, and "
                f"max_new_tokens is {limit}"
            )


def draws(config):
    """How many pieces are drawn for a prompt at each step: 1, or 2 * num_beams candidates for sampled beams."""
    return 2 * config.num_beams if config.num_beams > 1 else 1


def uniform_noise(config, row_ids):
    """Uniform numbers in [0, 1), float32 [rows, draws, max_new_tokens].

    A generator of its own for every row makes a row's draws independent of the batch it happens to be in.
    """
    shape = [config.max_new_tokens, draws(config)]
    rows = [np.random.default_rng([config.seed, row]).random(shape, dtype="float32").T for row in row_ids]
    return np.ascontiguousarray(np.stack(rows))


def check_positions(table_rows, source_length, max_new_tokens):
    """Raise UserError unless source positions 0…source_length-1 and block positions 0…max_new_tokens exist."""
    for name, value, needed in (
        ("the source", source_length, source_length),
        ("max_new_tokens", max_new_tokens, max_new_tokens + 1),
    ):
        if needed > table_rows:
            raise UserError(
                f"{name} is {value} tokens long, which needs {needed} positions, and the model has {table_rows}: "
                "give a smaller --src_length or --tgt_length"
            )


def repeat_prompts(prompts, row_ids, config):
    """Prompts and row ids with each row repeated for independent samples (sampling without beams); else unchanged."""
    if config.num_beams > 1 or config.num_return_sequences == 1:
        return prompts, list(row_ids)
    copies = config.num_return_sequences
    repeated = {name: np.repeat(array, copies, axis=0) for name, array in prompts.items()}
    return repeated, [row * copies + copy for row in row_ids for copy in range(copies)]


class NotFiniteError(RunError):
    """A model's scores are no numbers, so there is no text. rows: the prompts concerned, by their place in a batch."""

    def __init__(self, rows):
        super().__init__(
            f"prompts {', '.join(map(str, rows))} of the batch: the model's scores are NaN or infinite; "
            "its weights are of a run that went wrong, or too large for their dtype"
        )
        self.rows = rows


def flat(found, config):
    """[batch * num_return_sequences, …] of each of the arrays [batch, texts, …] that a decoder gives: of the beams of a
    prompt, the best. Raises NotFiniteError."""
    bad = (found[0] == NOT_FINITE).any(axis=(1, 2))
    if bad.any():
        copies = config.num_return_sequences if config.num_beams == 1 else 1
        raise NotFiniteError(np.unique(np.flatnonzero(bad) // copies).tolist())
    if config.num_beams > 1:
        found = [array[:, : config.num_return_sequences] for array in found]
    return [array.reshape([-1, *array.shape[2:]]) for array in found]


def answered(decode, prompts, config, row_ids=None):
    """Ids [batch * num_return_sequences, new] int64 of prompts (arrays by name), with config.output_scores a pair of
    them and of scores [batch * num_return_sequences].

    decode: gives [ids [batch, texts, new], scores [batch, texts]] for what feeds() makes, the scores if they are asked
    for. row_ids: see feeds(). Raises NotFiniteError.
    """
    row_ids = range(len(prompts["input_ids"])) if row_ids is None else row_ids
    prompts, row_ids = repeat_prompts(prompts, row_ids, config)
    ids, *values = flat(decode(feeds(prompts, config, row_ids)), config)
    return (ids, *values) if config.output_scores else ids
