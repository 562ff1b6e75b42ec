"""--prompt: a template of one's own, a text with placeholders in braces that are columns of a record.

    问题：{question}，段落：{context}。回答：

Where a prompt is too long, what stands for {context} is shortened, or for the last placeholder, if none has that name;
the part around {answer}, if that is a placeholder too, is kept. {{ and }} are braces. [gMASK] comes after the prompt,
whether it is written there or not.
"""

import re
from dataclasses import dataclass

from glm.errors import UserError

MASK = "[gMASK]"
CUT = "context"
KEPT = "answer"
# What records may lack, or have empty.
MAY_BE_EMPTY = ("input", "system")
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class PromptError(UserError):
    """A template of one's own is none; the message says why, in one line."""


@dataclass(frozen=True)
class OwnPrompt:
    """parts: (text, placeholder that follows it or None), the last one without a placeholder."""

    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, text: str) -> "OwnPrompt":
        """Read a template. Raises PromptError."""
        body = text.removesuffix(MASK)
        parts, literal, end = [], "", 0
        for token in _TOKEN.finditer(body):
            literal += body[end : token.start()]
            end = token.end()
            if token[0] in ("{{", "}}"):
                literal += token[0][0]
            elif token[0] in ("{", "}"):
                raise PromptError(
                    f"--prompt: a {token[0]} at character {token.start() + 1} has no partner; write a brace that is "
                    "meant as one twice"
                )
            else:
                parts.append((literal, check_name(token[1].strip(), token.start())))
                literal = ""
        if MASK in body:
            raise PromptError(
                f"--prompt: {MASK} stands at the end of a prompt, and comes there by itself; leave it out"
            )
        if not parts:
            raise PromptError("--prompt: no placeholder in it; write columns of the records in braces, as in {context}")
        return cls((*parts, (literal + body[end:], None)))

    @property
    def names(self) -> tuple[str, ...]:
        """The placeholders, each once."""
        return tuple(dict.fromkeys(name for _, name in self.parts if name is not None))

    @property
    def required(self) -> tuple[str, ...]:
        """The placeholders that a record must have."""
        return tuple(name for name in self.names if name not in MAY_BE_EMPTY) or self.names

    @property
    def optional(self) -> tuple[str, ...]:
        """The placeholders that it may have."""
        return tuple(name for name in self.names if name not in self.required)

    @property
    def cut(self) -> str:
        """The placeholder of which as much is left out as does not fit."""
        return CUT if CUT in self.names else self.names[-1]

    def __call__(self, fields: dict) -> dict:
        """The prompt of a record's fields, as a templates.Template wants it."""
        # Of a placeholder that stands there several times, the last one gives way.
        place = max(i for i, (_, name) in enumerate(self.parts) if name == self.cut)
        keep = fields[KEPT] if KEPT in self.names and self.cut != KEPT else ""
        before = filled(self.parts[:place], fields) + self.parts[place][0]
        return {"before": before, "context": fields[self.cut], "after": filled(self.parts[place + 1 :], fields)} | {
            "keep": keep
        }


def filled(parts, fields: dict) -> str:
    """Parts of a prompt with a record's fields in them."""
    return "".join(literal + ("" if name is None else fields[name]) for literal, name in parts)


def check_name(name: str, place: int) -> str:
    """The name of a placeholder. Raises PromptError."""
    if not name:
        raise PromptError(f"--prompt: the braces at character {place + 1} are empty; write a column's name in them")
    return name
