"""From records to prompts: how the fields of a record become an Example. Imports numpy at most, never paddle."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from glm.data.nested_sets import with_first_answer
from glm.data.normalization import normalized
from glm.data.own_prompts import OwnPrompt
from glm.data.preparation import Preparation
from glm.data.talks import ASSISTANT, HUMAN, ROLE, TALK, TURNS, continue_talk, human_turns, talk_of_turns
from glm.data.validation import Fields

QUESTION_BEFORE = "答案：{answer}，上下文："
QUESTION_AFTER = "。在已知答案的前提下，问题："
# Of the other tasks of passages.
EXTRACTION_BEFORE = "上下文："
ANSWER_BEFORE = "问题：{question}，上下文："
ANSWER_AFTER = "。答案："

# Texts that are prompts of the templates: what stands before a context, and after it. What is to be kept is group 2.
_PROMPTS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"(答案：(.+?)，上下文：)(.*)(。在已知答案的前提下，问题：)",
        r"(问题：.+?()，上下文：)(.*)(。答案：)",
        r"(上下文：())(.*)(。答案：)",
    )
)


@dataclass(frozen=True)
class Example:
    """A prompt and its answer. The prompt is before + context + after, of which only context may be shortened.

    `keep` is the part of the context that has to survive; "" or a text that is not there means its `side`,
    "head" or "tail". `turns` says where the human's turns in a talk begin, and where the words "Human:" of each end: a
    talk is shortened by whole turns, as long as there is more than one. `target` is None where only a prediction is
    asked for. `task` is the one of TASKS that it is of, where there are several. `record` is the record as JSON text,
    spelled as the file has it, where it was to be kept.
    """

    before: str
    context: str
    after: str
    keep: str = ""
    side: str = "head"
    turns: tuple[tuple[int, int], ...] = ()
    target: str | None = None
    task: str = ""
    record_id: object = None
    place: str = ""
    record: str | None = None

    @property
    def source(self) -> str:
        return self.before + self.context + self.after


@dataclass(frozen=True)
class Template:
    """How the fields of a record become an Example. `prompt` gives its before, context, after, keep and side; `unify`
    makes the fields of those of another layout, which stand under the keys `other`. columns: (field, key) of fields
    that stand under other keys. normalize: see normalization."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    target: str
    prompt: Callable[[dict], dict]
    unify: Callable[[dict], dict] = dict
    other: tuple[str, ...] = ()
    columns: tuple[tuple[str, str], ...] = ()
    normalize: str = "off"

    def fields(self, need_target: bool) -> Fields:
        """The fields to ask of a record in training (need_target) or in prediction."""
        if need_target:
            return Fields((*self.required, self.target), self.optional, self.unify, self.columns)
        return Fields(self.required, (*self.optional, self.target), self.unify, self.columns)

    @property
    def known(self) -> tuple[str, ...]:
        """All fields that mean something to it."""
        return tuple(dict.fromkeys((*self.required, *self.optional, self.target, "target", *self.other, "id")))

    def example(self, fields: dict, **more) -> Example:
        """The Example of a validated record's fields; more: other fields of it."""
        fields = normalized(fields, self.normalize)
        return Example(**self.prompt(fields), target=fields.get(self.target) or None, **more)


def question_prompt(fields: dict) -> dict:
    """Question generation: the answer and its context are given, the question is asked for."""
    before = QUESTION_BEFORE.format(answer=fields["answer"])
    return {"before": before, "context": fields["context"], "after": QUESTION_AFTER, "keep": fields["answer"]}


def extraction_prompt(fields: dict) -> dict:
    """Extraction: a context is given; asked for is an answer in it, something that a question may be about."""
    before, keep = EXTRACTION_BEFORE, fields.get("answer", "")
    return {"before": before, "context": fields["context"], "after": ANSWER_AFTER, "keep": keep}


def answer_prompt(fields: dict) -> dict:
    """Answering: a question and the context that answers it are given."""
    before = ANSWER_BEFORE.format(question=fields["question"])
    return {"before": before, "context": fields["context"], "after": ANSWER_AFTER, "keep": fields.get("answer", "")}


def instruction_prompt(fields: dict) -> dict:
    """A BELLE record as a talk that ends where the assistant is to speak: "Human:…\\nAssistant:".

    This is the layout of BELLE's own multi-turn records, so that one turn reads like a talk of one turn. When it is
    too long, a talk loses its oldest turns and a lone instruction its beginning (what is asked stands next to
    the answer), but an instruction with an input loses the end of the input. What a "system" turn says stands on a line
    before it, and is never cut.
    """
    instruction, more, system = fields["instruction"], fields.get("input", ""), fields.get("system", "")
    before = f"{system}\n" if system.strip() else ""
    if TALK.search(instruction):
        context, after = continue_talk(instruction, more)
        return {"before": before, "context": context, "after": after, "side": "tail", "turns": human_turns(context)}
    side = "head" if more.strip() else "tail"
    return {"before": before + HUMAN, "context": instruction + more, "after": ASSISTANT, "side": side}


def text_prompt(fields: dict) -> dict:
    """The text as it is. A question prompt or a talk, when too long, is shortened as its own template would do it."""
    source = fields["source"]
    for pattern in _PROMPTS:
        if match := pattern.fullmatch(source):
            before, keep, context, after = match.groups()
            return {"before": before, "context": context, "after": after, "keep": keep}
    if TALK.search(source):
        return {"before": "", "context": source, "after": "", "side": "tail", "turns": human_turns(source)}
    return {"before": "", "context": source, "after": ""}


TEMPLATES = {
    "qg": Template(("context", "answer"), (), "question", question_prompt, with_first_answer, ("answers",)),
    "instruction": Template(("instruction",), ("input", "system"), "output", instruction_prompt, talk_of_turns, TURNS),
    "text": Template(("source",), (), "target", text_prompt),
}
# What a model can learn of passages at once: to ask for an answer, to find answers, to answer.
TASKS = {
    "ask": TEMPLATES["qg"],
    "extract": Template(("context",), (), "answer", extraction_prompt, with_first_answer, ("answers",)),
    "answer": Template(("question", "context"), (), "answer", answer_prompt, with_first_answer, ("answers",)),
}
# All that --template knows; those of TASKS are never taken for what a record's fields fit.
NAMED = {**TEMPLATES, "extract": TASKS["extract"], "answer": TASKS["answer"]}


def own_template(prompt: str, target: str = "target") -> Template:
    """The Template of a prompt of one's own. Raises PromptError."""
    own = OwnPrompt.parse(prompt)

    def unify(record):
        record = talk_of_turns(record) if "instruction" in own.names else record
        return with_first_answer(record)

    other = ("answers", *(TURNS if "instruction" in own.names else ()))
    return Template(own.required, own.optional, target, own, unify, other)


def templates_of(preparation: Preparation) -> dict[str, Template]:
    """{name: Template} of the prompts that a model takes: one of its own and whole texts, or the built-in ones."""
    found = {"own": own_template(preparation.prompt), "text": TEMPLATES["text"]} if preparation.prompt else TEMPLATES
    return {name: replace(template, normalize=preparation.normalize) for name, template in found.items()}


def earlier_turns(example: Example) -> Iterable[Example]:
    """The assistant's earlier turns in a talk, each an example whose source is the talk before it.

    That is how they would have been asked for. One example for all of them would not be: a GLM reads its source in both
    directions, so a turn inside the source would see its own answer.
    """
    text = example.context + example.after
    roles = list(ROLE.finditer(text)) if example.turns else []
    for turn, following in zip(roles, roles[1:], strict=False):
        answer = text[turn.end() : following.start()]
        if turn.group(1) == "Assistant" and answer.strip():
            talk = text[: turn.start()]
            yield replace(example, context=talk, after=turn.group(), turns=human_turns(talk), target=answer)
