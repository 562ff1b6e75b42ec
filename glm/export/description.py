"""PREFIX_generation_config.json: the choices that a program was exported with, and what it says of itself."""

import dataclasses
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from glm import json_text
from glm.data import preparation
from glm.decoding.generation_config import GenerationConfig, SpecialIds
from glm.errors import UserError
from glm.files import descriptions

FILE_NAME = "generation_config.json"
LARGEST_ID = 2**31


class ProgramError(UserError):
    """An exported program cannot be used; the message says why, in one line."""


def count(least=0, most=LARGEST_ID):
    """A whole number."""
    return Annotated[int, Field(ge=least, le=most)]


class ConfigSchema(BaseModel):
    """A generation_config.GenerationConfig, which checks its values itself."""

    model_config = ConfigDict(extra="forbid")

    max_new_tokens: count(1)
    min_new_tokens: count()
    num_beams: count(1, 1024)
    length_penalty: Annotated[float, Field(ge=-1e6, le=1e6)]
    early_stopping: bool
    no_repeat_ngram_size: count()
    ban_source_ngrams: bool
    do_sample: bool
    temperature: Annotated[float, Field(gt=0, le=1e6)]
    top_k: count()
    top_p: Annotated[float, Field(gt=0, le=1)]
    seed: count(most=2**63)
    num_return_sequences: count(1, 1024)
    output_scores: bool
    within_source: bool = False
    repetition_penalty: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-1e6, le=1e6)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-1e6, le=1e6)] = 0.0
    penalties: bool = False
    stop: list[Annotated[str, Field(min_length=1, max_length=1000)]] = []


class SpecialIdsSchema(BaseModel):
    """A generation_config.SpecialIds."""

    model_config = ConfigDict(extra="forbid")

    sop: count()
    eop: count()
    pad: count()
    banned: Annotated[list[count()], Field(max_length=2**20)]


class DescriptionSchema(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid")

    generation: ConfigSchema
    special_ids: SpecialIdsSchema
    dtype: Literal["float32", "float16", "bfloat16", "int8", "int4"]
    positions: count(1)
    vocab_size: count(1)
    format: Literal["paddle", "pir", "onnx"]
    preparation: dict | None = None
    compute: Literal["float32", "float16", "bfloat16"] = "float32"


def save(path, config, special_ids, **facts):
    """Write config, special ids and the other facts of DescriptionSchema about an exported program as JSON."""
    content = {"generation": dataclasses.asdict(config), "special_ids": dataclasses.asdict(special_ids), **facts}
    path.write_text(json_text.pretty(content), encoding="utf8")


def load(path):
    """Read what save() wrote: (GenerationConfig, SpecialIds, dict of the facts). Raises UserError."""
    content = descriptions.read(path, DescriptionSchema, ProgramError)
    special = content.pop("special_ids")
    special["banned"] = tuple(special["banned"])
    if content.get("preparation") is not None:
        content["preparation"] = preparation.checked(content["preparation"], path)
    generation = content.pop("generation")
    generation["stop"] = tuple(generation.get("stop", ()))
    return GenerationConfig(**generation), SpecialIds(**special), content
