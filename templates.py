"""From records to prompts: how the fields of a record become an Example. Imports numpy at most, never paddle."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from records import JSON_SUFFIXES, Fields, Part, ReadReport, first_object, is_pair, iter_records, iter_texts, pair_files

QUESTION_BEFORE = "答案：{answer}，上下文："
QUESTION_AFTER = "。在已知答案的前提下，问题："
HUMAN, ASSISTANT = "Human:", "\nAssistant:"

_QUESTION_PROMPT = re.compile(r"(答案：(.+?)，上下文：)(.*)(。在已知答案的前提下，问题：)", re.DOTALL)
_ROLE = re.compile(r"\s*(?<![A-Za-z])(Human|Assistant)[:：]")
_SPEAKERS = {"human": "Human", "user": "Human", "assistant": "Assistant", "gpt": "Assistant"}
_TALK = re.compile(r"\A\s*Human[:：]|(?<![A-Za-z])Human[:：].*Assistant[:：]\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class Example:
    """A prompt and its answer. The prompt is before + context + after, of which only context may be shortened.

    `keep` is the part of the context that has to survive; "" or a text that is not there means its `side`,
    "head" or "tail". `turns` says where the human's turns in a talk begin, and where the words "Human:" of each end: a
    talk is shortened by whole turns, as long as there is more than one. `target` is None where only a prediction is
    asked for.
    """

    before: str
    context: str
    after: str
    keep: str = ""
    side: str = "head"
    turns: tuple[tuple[int, int], ...] = ()
    target: str | None = None
    record_id: object = None
    place: str = ""

    @property
    def source(self) -> str:
        return self.before + self.context + self.after


@dataclass(frozen=True)
class Template:
    """How the fields of a record become an Example. `prompt` gives its before, context, after, keep and side; `unify`
    makes the fields of those of another layout."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    target: str
    prompt: Callable[[dict], dict]
    unify: Callable[[dict], dict] = dict

    def fields(self, need_target: bool) -> Fields:
        """The fields to ask of a record in training (need_target) or in prediction."""
        if need_target:
            return Fields((*self.required, self.target), self.optional, self.unify)
        return Fields(self.required, (*self.optional, self.target), self.unify)


def question_prompt(fields: dict) -> dict:
    """Question generation: the answer and its context are given, the question is asked for."""
    before = QUESTION_BEFORE.format(answer=fields["answer"])
    return {"before": before, "context": fields["context"], "after": QUESTION_AFTER, "keep": fields["answer"]}


def instruction_prompt(fields: dict) -> dict:
    """A BELLE record as a talk that ends where the assistant is to speak: "Human:…\\nAssistant:".

    This is the layout of BELLE's own multi-turn records, so that one turn reads like a talk of one turn. When it is
    too long, a talk loses its oldest turns and a lone instruction its beginning (what is asked stands next to
    the answer), but an instruction with an input loses the end of the input.
    """
    instruction, more = fields["instruction"], fields.get("input", "")
    if _TALK.search(instruction):
        context, after = _continue_talk(instruction, more)
        return {"before": "", "context": context, "after": after, "side": "tail", "turns": human_turns(context)}
    side = "head" if more.strip() else "tail"
    return {"before": HUMAN, "context": instruction + more, "after": ASSISTANT, "side": side}


def talk_of_turns(record: dict) -> dict:
    """A record whose "conversations" are a list of {"from", "value"}, as in BELLE's train_3.5M_CN, with the fields
    "instruction", the talk up to where the assistant is to speak, and "output", its last turn if that ends the talk."""
    turns = record.get("conversations")
    if "instruction" in record or not isinstance(turns, list) or not turns:
        return record
    names = [_SPEAKERS.get(turn.get("from")) if isinstance(turn, dict) else None for turn in turns]
    if None in names or not all(isinstance(turn.get("value"), str) for turn in turns):
        return record
    answered = names[-1] == "Assistant"
    history = list(zip(names, turns, strict=True))[: -1 if answered else None]
    talk = "\n".join(f"{name}:{turn['value']}" for name, turn in history) + ASSISTANT
    return {**record, "instruction": talk, "output": turns[-1]["value"] if answered else ""}


def human_turns(talk: str) -> tuple[tuple[int, int], ...]:
    """Where each turn of the human begins in a talk, and where the words that say so end."""
    return tuple((turn.start(1), turn.end()) for turn in _ROLE.finditer(talk) if turn.group(1) == "Human")


def _continue_talk(talk: str, more: str) -> tuple[str, str]:
    """A talk and its ending: unchanged if that is "Assistant:" and there is no more to say, else completed."""
    last = list(_ROLE.finditer(talk))[-1]
    if last.group(1) == "Human":
        return talk + more, ASSISTANT
    if not talk[last.end() :].strip():
        return talk[: last.start()] + more, talk[last.start() :]
    return (f"{talk}\n{HUMAN}{more}", ASSISTANT) if more.strip() else (talk, "")


def text_prompt(fields: dict) -> dict:
    """The text as it is. A question prompt or a talk, when too long, is shortened as its own template would do it."""
    source = fields["source"]
    if match := _QUESTION_PROMPT.fullmatch(source):
        before, answer, context, after = match.groups()
        return {"before": before, "context": context, "after": after, "keep": answer}
    if _TALK.search(source):
        return {"before": "", "context": source, "after": "", "side": "tail", "turns": human_turns(source)}
    return {"before": "", "context": source, "after": ""}


TEMPLATES = {
    "qg": Template(("context", "answer"), (), "question", question_prompt),
    "instruction": Template(("instruction",), ("input",), "output", instruction_prompt, talk_of_turns),
    "text": Template(("source",), (), "target", text_prompt),
}


@dataclass(frozen=True)
class Selection:
    """Which examples of a file, and what is made of them.

    JSON files go through the named template; .source/.target pairs and plain text (one prompt a line, only without
    need_target) already are prompts and are taken as they are.

    max_samples: only the first so many. on_bad_data: "error" or "skip". part: records.Part, the records that belong to
    it; None for all. with_history: see earlier_turns().
    """

    path: Path
    template: str
    need_target: bool = True
    on_bad_data: str = "error"
    max_samples: int | None = None
    part: Part | None = None
    with_history: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are read."""
        if Path(self.path).suffix in JSON_SUFFIXES or not is_pair(self.path):
            return (Path(self.path),)
        return pair_files(self.path)

    def examples(self, report: ReadReport) -> Iterator[Example]:
        """The examples, one at a time: what is not yet asked for is not yet read. Raises DataError."""
        return islice(self._all_examples(report), self.max_samples)

    def _all_examples(self, report):
        is_json = Path(self.path).suffix in JSON_SUFFIXES
        template = TEMPLATES[self.template if is_json else "text"]
        if is_json or self.need_target or is_pair(self.path):
            records = iter_records(self.path, template.fields(self.need_target), self.on_bad_data, report, self.part)
        else:
            records = iter_texts(self.path, self.on_bad_data, report)
        for record in records:
            target = record.fields.get(template.target) or None
            record_id = record.fields.get("id")
            example = Example(**template.prompt(record.fields), target=target, record_id=record_id, place=record.place)
            if self.with_history:
                yield from earlier_turns(example)
            yield example


def earlier_turns(example: Example) -> Iterable[Example]:
    """The assistant's earlier turns in a talk, each an example whose source is the talk before it.

    That is how they would have been asked for. One example for all of them would not be: a GLM reads its source in both
    directions, so a turn inside the source would see its own answer.
    """
    roles = list(_ROLE.finditer(example.source)) if _TALK.search(example.source) else []
    for turn, following in zip(roles, roles[1:], strict=False):
        answer = example.source[turn.end() : following.start()]
        if turn.group(1) == "Assistant" and answer.strip():
            talk = example.source[: turn.start()]
            yield replace(example, before="", context=talk, after=turn.group(), turns=human_turns(talk), target=answer)


def template_of(path, otherwise: str) -> str:
    """Name of the template that fits a JSON file's first record, by the fields it has; else `otherwise`."""
    record = first_object(path) if Path(path).suffix in JSON_SUFFIXES else None
    fitting = (
        name
        for name, template in TEMPLATES.items()
        if record and set(template.required) <= template.unify(record).keys()
    )
    return next(fitting, otherwise)


def load_examples(
    path, template: str, need_target: bool = True, on_bad_data: str = "error", max_samples: int | None = None
) -> tuple[list[Example], ReadReport]:
    """The examples of a Selection as a list, and the reader's report. Raises DataError."""
    report = ReadReport(str(path))
    return list(Selection(path, template, need_target, on_bad_data, max_samples).examples(report)), report
