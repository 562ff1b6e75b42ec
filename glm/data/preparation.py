"""prompt.json: how records become texts for a model that was not trained on the built-in templates. It stands beside
the model's tokenizer and goes wherever the model goes."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from glm import json_text
from glm.data.normalization import CHOICES
from glm.data.own_prompts import OwnPrompt
from glm.errors import UserError
from glm.files import descriptions

FILE = "prompt.json"
# In the place of a prompt: the task's own template, whatever a model remembers.
BUILT_IN = "builtin"


class PreparationError(UserError):
    """prompt.json does not say how prompts are made; the message says why, in one line."""


@dataclass(frozen=True)
class Preparation:
    """prompt: a template of one's own, see own_prompts; None for the built-in ones. normalize: one of
    normalization.CHOICES."""

    prompt: str | None = None
    normalize: str = "off"

    def changed(self, prompt=None, normalize=None):
        """The same with what flags ask for; None leaves it."""
        prompt = self.prompt if prompt is None else prompt
        return Preparation(None if prompt == BUILT_IN else prompt, normalize or self.normalize)


DEFAULT = Preparation()


def schema():
    """Of prompt.json."""
    from pydantic import BaseModel, ConfigDict

    class PreparationSchema(BaseModel):
        model_config = ConfigDict(extra="forbid")

        prompt: str | None
        normalize: Literal[CHOICES]

    return PreparationSchema


def read(directory) -> Preparation | None:
    """The Preparation that a directory has, None if it has none. Raises PreparationError."""
    path = Path(directory) / FILE
    if not path.is_file():
        return None
    return checked(descriptions.parsed(descriptions.read_text(path, PreparationError), path, PreparationError), path)


def checked(content: dict, place) -> Preparation:
    """The Preparation that asdict() made a dict of. Raises PreparationError; place: what the message calls it."""
    descriptions.check(content, schema(), place, PreparationError)
    try:
        if content["prompt"] is not None:
            OwnPrompt.parse(content["prompt"])
    except UserError as error:
        raise PreparationError(f"{place}: {error}") from None
    return Preparation(**content)


def write(preparation: Preparation, directory) -> None:
    """Write a Preparation into a directory."""
    (Path(directory) / FILE).write_text(json_text.pretty(asdict(preparation)), encoding="utf8")


def write_unless_default(preparation: Preparation, directory) -> None:
    """Write what differs from what a directory without prompt.json means."""
    if preparation != DEFAULT:
        write(preparation, directory)
