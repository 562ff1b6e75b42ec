"""The flags of prompts and of decoding, which several scripts share. Imports nothing heavy: --help is fast."""

from dataclasses import dataclass
from typing import ClassVar

from glm.command_line import UsageError, choice
from glm.data.columns import parse_columns
from glm.data.normalization import CHOICES
from glm.data.own_prompts import OwnPrompt
from glm.data.preparation import BUILT_IN
from glm.errors import UserError
from glm.files.lines import DEFAULT_LIMIT
from glm.needs import Need
from glm.words import BOUNDARIES

# What may be chosen anew for each use of a decoder: flag → field of GenerationConfig that it overrides.
OVERRIDES = {
    "tgt_length": "max_new_tokens",
    "min_tgt_length": "min_new_tokens",
    "length_penalty": "length_penalty",
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "seed": "seed",
}
BEAMS_ONLY, SAMPLING_ONLY = ("length_penalty",), ("temperature", "top_k", "top_p", "seed")
# Of flags that say how to decode. A top_p of 0 or 1 keeps everything.
BEAMS = Need("length_penalty", lambda flags: flags.num_beams > 1, missing="--num_beams 2 or more")
DRAWS = Need("temperature top_k", lambda flags: not flags.select_topk, missing="--select_topk False")
TOP_P = Need("top_p", lambda flags: not flags.select_topk, missing="--select_topk False", neutral=(0.0, 1.0))
SEED = Need("seed", lambda flags: not flags.select_topk, missing="--select_topk False, for nothing is drawn")


COLUMNS_HELP = (
    "Fields that are called otherwise in the data, as in context=passage,question=q; target is what is to be written."
)
DTYPES = ("auto", "float32", "float16", "bfloat16")
ENGINES = ("auto", "python", "onnx")
RUNTIMES = ("auto", "fastdeploy", "paddle", "onnx")
RUNTIME_HELP = "What runs it; auto is onnx for ONNX programs, else fastdeploy where installed, else paddle."
DTYPE_HELP = (
    "What weights are loaded in and computed with. auto: float32 on CPU, on a GPU the dtype of the stored weights; the "
    "others but float32 need a GPU."
)
ENGINE_HELP = (
    "What computes the model: python, its own layers; onnx, its ONNX graph by onnxruntime, which gives the same texts "
    "faster, in float32 on CPU, and is kept in the cache from its first use on. auto: onnx where that can be."
)


@dataclass
class PromptArguments:
    """Data to answer, shared by prediction in Python and inference in C++."""

    NEEDS: ClassVar = (
        Need(
            "data_file output_file with_source only_predictions resume part batch_size",
            lambda flags: not flags.interactive,
            beside="--interactive",
        ),
        Need("on_bad_data max_record_bytes", lambda flags: flags.data_file, missing="--data_file"),
        Need("template", lambda flags: flags.data_file or flags.interactive, missing="--data_file or --interactive"),
        Need("resume", lambda flags: flags.output_file, missing="--output_file, beside which answers are kept"),
        Need("part", lambda flags: flags.output_file, missing="--output_file, beside which answers are kept"),
        Need("boundaries", lambda flags: not flags.bound_to, beside="--bound_to"),
    )

    data_file: str = choice(
        None,
        "Records to answer, with context and answer, or with instruction and input: JSON Lines, a JSON array, SQuAD's "
        "layout, CSV, TSV, Parquet, Excel, .source/.target pairs, or one prompt a line; - reads them from standard "
        "input. Default: two example prompts.",
    )
    interactive: bool = choice(False, "Ask for prompts on the terminal and show each answer as it comes.")
    template: str = choice(
        None,
        "What prompts are made of: qg, instruction or text; extract finds an answer in a context, answer answers a "
        "question. Default: which of the first three the first record's fields fit, else qg.",
        choices=("qg", "instruction", "text", "extract", "answer"),
    )
    columns: list[str] = choice(None, COLUMNS_HELP)
    prompt: str = choice(
        None,
        "Template of one's own, with the records' columns in braces, such as {question}. builtin: the built-in one, "
        "whatever the model remembers. Default: what the model remembers, else what --template says.",
    )
    normalize: str = choice(
        None,
        "simplified: traditional Chinese characters become simplified ones. Default: what the model remembers, else "
        "off.",
        choices=CHOICES,
    )
    output_file: str = choice(
        None,
        "Where to write predictions, JSON Lines in input order: the records as they were read, with `prediction`. "
        "Default: the screen.",
    )
    with_source: bool = choice(False, "Also give what the model has read, as `source`.")
    only_predictions: bool = choice(
        False, "Give `source`, `target` where it is known and `prediction` alone, without the record's other fields."
    )
    resume: bool = choice(False, "Go on where an interrupted run with the same flags ended.")
    part: str = choice(
        None,
        "Answer this part of the prompts alone, as in 1/4: answers are kept beside --output_file, and the last part to "
        "be done writes them all. Processes of paddle.distributed.launch share the prompts out by themselves.",
    )
    bound_to: str = choice(None, "File of texts, one a line, of which each answer is one.")
    boundaries: str = choice(
        None,
        "Where an answer within the source begins and ends: at the ends of jieba's words, or at any characters. "
        "Default: words.",
        choices=BOUNDARIES,
    )
    num_return_sequences: int = choice(
        1, "Texts for each prompt: the best of as many --num_beams or more, or so many draws."
    )
    batch_size: int = choice(
        8,
        "Prompts of src_length tokens decoded together; of shorter ones as many more as take the same number of "
        "tokens, source and generated.",
    )
    src_length: int = choice(608, "Longest prompt in tokens; of a longer one the context is cut.")
    on_bad_data: str = choice(
        "error", "What to do with an unusable record: stop, or leave it out.", choices=("error", "skip")
    )
    max_record_bytes: int = choice(
        DEFAULT_LIMIT, "A longer line, or item of a JSON array, is refused; a Chinese character takes 3 bytes."
    )

    def __post_init__(self):
        if self.with_source and self.only_predictions:
            raise UsageError("--with_source: --only_predictions gives the source, too; leave one of them out")
        if self.template and self.prompt:
            raise UsageError("--template names a built-in template, which --prompt takes the place of: leave one out")
        if self.columns and self.data_file is None:
            raise UsageError("--columns names columns of --data_file: give it, too")
        if self.part and self.data_file == "-":
            raise UsageError("--part: other parts cannot read what this one has from standard input; give a file")
        parse_columns(self.columns)
        if self.prompt not in (None, BUILT_IN):
            OwnPrompt.parse(self.prompt)

    def preparation(self, remembered):
        """How prompts are made: as the flags ask, otherwise as a model remembers it."""
        return remembered.changed(BUILT_IN if self.template else self.prompt, self.normalize)


@dataclass
class DecodingArguments:
    """How to decode when a script only decodes."""

    NEEDS: ClassVar = (BEAMS, DRAWS, TOP_P, SEED)

    tgt_length: int = choice(160, "Longest generated text in tokens, end token included.")
    min_tgt_length: int = choice(0, "Shortest generated text in tokens.")
    num_beams: int = choice(1, "Beams of the search; 1 is greedy search, or sampling with --select_topk False.")
    length_penalty: float = choice(1.0, "Beams compete by log p / ((length + 5) / 6) ** length_penalty.")
    no_repeat_ngram_size: int = choice(0, "No n-gram of this size occurs twice in a generated text; 0 allows all.")
    repetition_penalty: float = choice(
        1.0, "Logits of tokens that a text has already are divided by it where above 0, else multiplied with it."
    )
    presence_penalty: float = choice(0.0, "Taken from the logits of tokens that a text has already.")
    frequency_penalty: float = choice(0.0, "The same, once for each time that a text has the token.")
    stop: list[str] = choice(None, "Texts before the first of which an answer ends.")
    select_topk: bool = choice(True, "True: take the most probable tokens; False: draw from the distribution.")
    top_k: int = choice(0, "Draw from the top_k most probable tokens only; 0 keeps all. Needs --select_topk False.")
    top_p: float = choice(
        1.0, "Draw from the smallest set of tokens of this total probability; 1 keeps all. Needs --select_topk False."
    )
    temperature: float = choice(1.0, "Logits are divided by it before drawing.")
    seed: int = choice(42, "Seed of everything that is drawn.")


@dataclass
class ScoredDecodingArguments(DecodingArguments):
    """How to decode, what texts may be, and whether to say how probable they are."""

    within_source: bool = choice(
        False,
        "Texts are runs of characters of the prompt's passage: of its context, or of a prompt that is plain text. The "
        "length limits give way to that.",
    )
    scores: bool = choice(False, "Also give each text's log probability; of beams, what they compete by.")


def to_generation_config(arguments, seed, **changes):
    """GenerationConfig from objects with the decoding flags. Raises UsageError."""
    from glm.decoding.generation_config import PENALTIES, GenerationConfig

    try:
        return GenerationConfig(
            **{
                "max_new_tokens": arguments.tgt_length,
                "min_new_tokens": arguments.min_tgt_length,
                "num_beams": arguments.num_beams,
                "length_penalty": arguments.length_penalty,
                "no_repeat_ngram_size": arguments.no_repeat_ngram_size,
                **{name: getattr(arguments, name, neutral) for name, neutral in PENALTIES.items()},
                "stop": tuple(getattr(arguments, "stop", None) or ()),
                "do_sample": not arguments.select_topk,
                "top_k": arguments.top_k,
                # 0 has always meant "all" for this flag.
                "top_p": arguments.top_p or 1.0,
                "temperature": arguments.temperature,
                "output_scores": getattr(arguments, "scores", False),
                "within_source": getattr(arguments, "within_source", False),
                "seed": seed,
                **changes,
            }
        )
    except UserError as error:
        raise UsageError(with_flags(str(error))) from None


def with_flags(message):
    """A message about a GenerationConfig, with flags in place of its fields."""
    for field_name, flag in (
        ("max_new_tokens", "--tgt_length"),
        ("min_new_tokens", "--min_tgt_length"),
        ("num_return_sequences", "--num_return_sequences"),
        ("num_beams", "--num_beams"),
    ):
        message = message.replace(f"--{field_name}", field_name).replace(field_name, flag)
    return message
