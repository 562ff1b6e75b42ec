"""The flags of generate_pairs.py. Imports nothing heavy: --help is fast."""

from dataclasses import MISSING, dataclass
from typing import ClassVar

from glm.command_line import UsageError, choice
from glm.files.lines import DEFAULT_LIMIT
from glm.inference.arguments import DTYPE_HELP, DTYPES, ENGINE_HELP, ENGINES
from glm.needs import Need
from glm.pairs.judging import Level
from glm.words import BOUNDARIES

# Tokens of the templates, and of the pieces around them, at most.
TEMPLATE = 40
# What is given for a model that decodes in Python, and for exported programs.
LAYERS = "model_name_or_path lora_path dtype engine"


@dataclass
class PairsModelArguments:
    """The model, trained with --tasks ask,extract,answer: in Python, or as exported programs."""

    NEEDS: ClassVar = (
        Need(LAYERS, lambda flags: not flags.model_path, beside="--model_path, whose programs have their model"),
        Need("model_prefix device", lambda flags: flags.model_path, missing="--model_path"),
    )

    model_name_or_path: str = choice(
        "THUDM/glm-large-chinese", "Directory or name of the model; with --lora_path, of its base model."
    )
    lora_path: str = choice(None, "Directory of a LoRA adapter.")
    dtype: str = choice("auto", DTYPE_HELP, choices=DTYPES)
    engine: str = choice("auto", ENGINE_HELP, choices=ENGINES)
    model_path: str = choice(
        None,
        "Directory of exported programs, which decode instead: one ONNX program, or Paddle's for each of the three "
        "searches.",
    )
    model_prefix: str = choice(None, "File name prefix of the ONNX program. Default: the only one there.")
    device: str = choice("cpu", "Where exported programs run.", choices=("cpu", "gpu"))


@dataclass
class DocumentArguments:
    """Documents, and the passages that they are divided into."""

    data_file: str = choice(
        MISSING,
        "A text file (.txt), Markdown (.md), JSON Lines with a passage in each record, or a directory of these.",
    )
    passage_field: str = choice("passage", "Field of JSON Lines that has the passage.")
    passage_length: int = choice(300, "Longest passage in tokens; passages end where sentences do.")
    overlap: int = choice(32, "Tokens of whole sentences that a passage repeats of the one before it, at most.")
    max_record_bytes: int = choice(DEFAULT_LIMIT, "A larger document is passed over; a character takes 3 bytes.")

    def __post_init__(self):
        if self.overlap >= self.passage_length:
            raise UsageError(f"overlap is {self.overlap}; it must be below --passage_length, {self.passage_length}")


@dataclass
class PairsArguments:
    """How pairs are made, which are kept, and where they go."""

    output_file: str = choice(MISSING, "Where to write the pairs that are kept, JSON Lines.")
    rejected: str = choice(None, "Where to write the others, each with its reason.")
    candidates: int = choice(6, "Answers that are looked for in each passage: beams of that search.")
    questions: int = choice(None, "Pairs to keep of a passage, as different as possible. Default: all that hold.")
    keep: str = choice(
        "exact",
        "What a pair needs: exact, the model answers its question with its answer; beam, one of its best answers is "
        "that; f1=0.6, the characters agree so far; all, nothing.",
    )
    boundaries: str = choice(
        "words",
        "Where an answer begins and ends: at the ends of jieba's words, or at any characters.",
        choices=BOUNDARIES,
    )
    question_beams: int = choice(1, "Beams of the search for a question; 1 is greedy search.")
    answer_beams: int = choice(4, "Beams of the search for the model's own answers.")
    answer_length: int = choice(32, "Longest answer in tokens, end token included.")
    question_length: int = choice(64, "Longest question in tokens, end token included.")
    batch_size: int = choice(8, "Passages of passage_length tokens that are read together; of shorter ones more.")
    resume: bool = choice(False, "Go on where an interrupted run with the same flags ended.")

    def __post_init__(self):
        self.level = Level.parse(self.keep)

    def src_length(self, documents):
        """Tokens of the longest prompt; documents: DocumentArguments."""
        return documents.passage_length + max(self.answer_length, self.question_length) + TEMPLATE
