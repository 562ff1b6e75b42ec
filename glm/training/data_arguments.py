"""The flags of a run's data: which records, how long, and how evaluation decodes. Imports nothing heavy."""

from dataclasses import dataclass
from typing import ClassVar

from glm.command_line import UsageError, choice
from glm.data.columns import unknown
from glm.data.normalization import CHOICES
from glm.data.templates import TASKS
from glm.files.lines import DEFAULT_LIMIT
from glm.inference.arguments import COLUMNS_HELP
from glm.needs import Need
from glm.training.conditions import DECODING_NEEDS


@dataclass
class DataArguments:
    """Data, lengths, and how evaluation decodes."""

    NEEDS: ClassVar = DECODING_NEEDS

    task_name: str = choice(
        "dureader_qg",
        "dureader_qg, demo_qg, a file (JSON Lines, a JSON array, SQuAD's layout, CSV, TSV, Parquet, Excel), or a "
        "directory with train.json and dev.json, or such files of another format.",
    )
    columns: list[str] = choice(None, COLUMNS_HELP)
    prompt: str = choice(
        None,
        "Template of one's own, with the records' columns in braces, such as {question}; remembered with the model. "
        "builtin: the task's own, whatever the model remembers. Default: what it remembers, else the task's own.",
    )
    normalize: str = choice(
        None,
        "simplified: traditional Chinese characters become simplified ones, in sources and targets alike; remembered "
        "with the model. Default: what it remembers, else off.",
        choices=CHOICES,
    )
    src_length: int = choice(608, "Longest source in tokens; of a longer one the context is cut, never the answer.")
    tgt_length: int = choice(160, "Longest target in tokens, end token included; longer ones are cut on the right.")
    min_tgt_length: int = choice(55, "Evaluation: shortest generated text in tokens.")
    length_penalty: float = choice(0.7, "Evaluation: beams compete by log p / ((length + 5) / 6) ** length_penalty.")
    no_repeat_ngram_size: int = choice(3, "Evaluation: no n-gram of this size occurs twice in a text; 0 allows all.")
    num_beams: int = choice(5, "Evaluation: beams of the search; 1 is greedy search.")
    select_topk: bool = choice(True, "Evaluation: take the most probable tokens (True) or draw (False).")
    top_k: int = choice(0, "Evaluation: draw from the top_k most probable tokens; 0 keeps all.")
    top_p: float = choice(0.0, "Evaluation: draw from tokens of this total probability; 0 or 1 keeps all.")
    temperature: float = choice(1.0, "Evaluation: logits are divided by it before drawing.")
    max_train_samples: int = choice(None, "Use only the first so many training records.")
    max_eval_samples: int = choice(None, "Use only the first so many evaluation records.")
    on_bad_data: str = choice(
        None,
        "An unusable record: stop, or leave it out. Default: left out of data sets that are downloaded, which nobody "
        "can edit, and counted; files of one's own stop at the first.",
        choices=("error", "skip"),
    )
    max_record_bytes: int = choice(
        DEFAULT_LIMIT, "A longer line, or item of a JSON array, is refused; a Chinese character takes 3 bytes."
    )
    dev_ratio: float = choice(
        0.05, "Share of the records kept for evaluation where there is training data alone; which ones, --seed decides."
    )


@dataclass
class QuestionDataArguments(DataArguments):
    """Data, lengths, and how evaluation decodes, for question generation."""

    NEEDS: ClassVar = (
        *DECODING_NEEDS,
        Need("extract_candidates", lambda flags: "extract" in flags.tasks.split(","), missing="--tasks with extract"),
    )

    tasks: str = choice(
        "ask",
        "What to learn of each record, divided by commas: ask the question, given context and answer; extract the "
        "answer from the context; answer the question. Evaluation tells of each by itself.",
    )
    extract_candidates: int = choice(6, "Evaluation of extract: texts that are looked for in each context.")

    def __post_init__(self):
        names = self.tasks.split(",")
        if wrong := [name for name in names if name not in TASKS]:
            raise UsageError(f"--tasks: {unknown('no task', wrong[0], TASKS, 'known are')}")
        if len(set(names)) < len(names):
            raise UsageError(f"--tasks {self.tasks}: a task is there twice")

    @property
    def chosen_tasks(self):
        """The tasks, in their order; () where questions alone are to be learned."""
        return () if self.tasks == "ask" else tuple(self.tasks.split(","))


@dataclass
class InstructionDataArguments(DataArguments):
    """Data, lengths, and how evaluation decodes, for instructions."""

    data_name: str = choice("bellegroup", "Where task_name is: bellegroup, which paddlenlp downloads, or a directory.")
    task_name: str = choice(
        "school_math_0.25M",
        "A data set of BELLE, demo_instruction, a file (JSON Lines, a JSON array, CSV, TSV, Parquet, Excel), or a "
        "directory with train.json and dev.json, such files of another format, or a single file.",
    )
    train_on_history: bool = choice(
        False, "Train on the assistant's earlier turns of a conversation too, not on the last alone."
    )
    src_length: int = choice(
        512, "Longest source in tokens; of a longer conversation the oldest turns are dropped, each of them whole."
    )
    tgt_length: int = choice(512, "Longest target in tokens, end token included; longer ones are cut on the right.")
    min_tgt_length: int = choice(0, "Evaluation: shortest generated text in tokens.")
    length_penalty: float = choice(1.0, "Evaluation: beams compete by log p / ((length + 5) / 6) ** length_penalty.")
    no_repeat_ngram_size: int = choice(0, "Evaluation: no n-gram of this size occurs twice in a text; 0 allows all.")
    num_beams: int = choice(1, "Evaluation: beams of the search; 1 is greedy search.")
