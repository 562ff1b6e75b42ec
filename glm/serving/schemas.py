"""What the JSON of /generate may be, as pydantic models: they check requests one field after another, and are what
/openapi.json says. The bounds are those of the flags."""

from dataclasses import fields
from functools import partial
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, create_model, model_validator
from pydantic_core import PydanticCustomError

from glm.bounds import NUMBERS
from glm.data.templates import NAMED
from glm.inference.arguments import DecodingArguments, PromptArguments
from glm.serving.requests import SAMPLING, expected, prompt_fields, shown, unknown_field, without_null

# Decoding option → its type; what is left out is as the server's flags have it.
KINDS = {
    "tgt_length": int,
    "min_tgt_length": int,
    "num_beams": int,
    "num_return_sequences": int,
    "length_penalty": float,
    "repetition_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "seed": int,
}
# The most stops of a request, and the longest.
STOPS, STOP_LENGTH = 16, 200
# The error of a field whose message is one for the client.
REFUSED = "refused"
HELP = {spec.name: spec.metadata["help"] for cls in (DecodingArguments, PromptArguments) for spec in fields(cls)}


def refused(message):
    """The error of a value that is refused with a message."""
    return PydanticCustomError(REFUSED, "{message}", {"message": message})


def checked_number(name, kind, bounds, value):
    """A value that is a number of its kind within bounds; a whole number is a float, too."""
    if value is None:
        return None
    if not isinstance(value, (kind, int)) or isinstance(value, bool):
        raise refused(f"{name} is {shown(value)}; it must be {'a whole number' if kind is int else 'a number'}")
    if not bounds.hold(value):
        raise refused(f"{name} is {shown(value)}; it must be {bounds}")
    return kind(value)


def checked_flag(name, value):
    """A value that is true, false or null."""
    if value is not None and not isinstance(value, bool):
        raise refused(f"{name} is {shown(value)}; it must be true or false")
    return value


def checked_text(name, value):
    """A value that is a text or null."""
    if value is not None and not isinstance(value, str):
        raise refused(f"{name} is {shown(value)}; it must be a string")
    return value


def checked_stops(name, value):
    """Stops, of which one may stand alone, as a list."""
    if value is None:
        return None
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) and 0 < len(stop) <= STOP_LENGTH for stop in stops):
        raise refused(f"{name} is {shown(value)}; it must be texts of 1 to {STOP_LENGTH} characters")
    if len(stops) > STOPS:
        raise refused(f"{name}: {len(stops)} texts; at most {STOPS} are allowed")
    return stops


def number(name, kind, bounds=None, help=None):
    """The type of a number with bounds, those of the flag of its name by default."""
    bounds = bounds or NUMBERS[name]
    schema = {"type": "integer" if kind is int else "number", "description": help or HELP.get(name, "")}
    schema["exclusiveMinimum" if bounds.above else "minimum"] = bounds.least
    schema["exclusiveMaximum" if bounds.below else "maximum"] = bounds.most
    return Annotated[kind | None, BeforeValidator(partial(checked_number, name, kind, bounds)), WithJsonSchema(schema)]


def flag(name, help):
    """The type of a choice of two."""
    return Annotated[bool | None, BeforeValidator(partial(checked_flag, name)), Field(description=help)]


def text(name, help):
    """The type of a text."""
    return Annotated[str | None, BeforeValidator(partial(checked_text, name)), Field(description=help)]


def stops(name="stop"):
    """The type of stops."""
    items = {"type": "string", "minLength": 1, "maxLength": STOP_LENGTH}
    schema = {"anyOf": [items, {"type": "array", "items": items, "maxItems": STOPS}], "description": HELP["stop"]}
    return Annotated[list | None, BeforeValidator(partial(checked_stops, name)), WithJsonSchema(schema)]


def anything(**schema):
    """The type of what is checked elsewhere, where what it is depends on other fields."""
    return Annotated[Any, WithJsonSchema(schema)]


class Asked(BaseModel):
    """A request: what is null is as if it were not there, and what nothing knows is refused."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def leave_null_out(cls, content):
        """Leave out what is null."""
        return without_null(content) if isinstance(content, dict) else content

    def given(self):
        """{name: value} of what the request says, known fields first."""
        known = (name for name in type(self).model_fields if name in self.model_fields_set)
        return {**{name: getattr(self, name) for name in known}, **(self.model_extra or {})}


class AskedOfAny(Asked):
    """The same, of which further fields are looked at later."""

    model_config = ConfigDict(extra="allow")


class AdapterRequest(Asked):
    """A LoRA adapter to load, or to remove."""

    lora_name: text("lora_name", "The name that requests have for it.")
    lora_path: text("lora_path", "The adapter's directory, on the server's machine.") = None


def generate_request(templates, open_to_others=False):
    """The Asked of /generate for prompts of these templates.Template, by name. open_to_others: whether there may be
    further fields, which are looked at later."""
    options = {name: (number(name, kind), None) for name, kind in KINDS.items()}
    fields = dict.fromkeys((*prompt_fields(templates), *prompt_fields(NAMED)))
    prompt = {name: (anything(type="string", description="A field of the prompt."), None) for name in fields}
    return create_model(
        "GenerateRequest",
        __base__=AskedOfAny if open_to_others else Asked,
        __doc__=f"A prompt, or several as `prompts`, and how to decode: {expected(templates)}.",
        **prompt,
        prompts=(anything(type="array", description="Several prompts: objects, or texts."), None),
        template=(
            text("template", "What prompts are made of where fields do not tell: extract or answer."),
            None,
        ),
        within_source=(flag("within_source", "Texts are runs of words of the prompt's passage."), None),
        model=(text("model", "Name of the model, or of an adapter of it; see GET /v1/models."), None),
        stream=(flag("stream", "Server-sent events, as texts come."), False),
        stop=(stops(), None),
        **{SAMPLING: (flag(SAMPLING, HELP[SAMPLING]), None)},
        **options,
    )


def message_of(errors, model, templates=None):
    """(message, name of the field or None) of the first of pydantic's errors about an Asked."""
    first = errors[0]
    place = [part for part in first["loc"] if part != "body"]
    name = str(place[0]) if place else None
    if first["type"] == REFUSED:
        return first["ctx"]["message"], name
    if first["type"] == "extra_forbidden":
        return unknown_field(name, tuple(model.model_fields)), name
    if not place:
        more = f"; {expected(templates)}" if templates else ""
        return f"the request must be a JSON object{more}", None
    if first["type"] == "missing":
        return f"{name} is missing", name
    return f"{'.'.join(map(str, place))}: {first['msg']}", name


class Answer(BaseModel):
    """An answer to a prompt."""

    source: str = Field(description="What the model has read.")
    prediction: str = Field(description="The text, the best where there are several.")
    tokens: int = Field(description="Tokens of the text, end token included.")
    source_tokens: int = Field(description="Tokens that the model has read.")
    source_cut: bool = Field(description="Whether the prompt was cut.")
    unknown_characters: list[str] = Field(description="Characters that the vocabulary does not know.")
    finish_reason: str = Field(description="stop: the text ended by itself, or before a stop; length: at its limit.")
    predictions: list[str] | None = Field(None, description="All texts, where there are several.")


class OneAnswer(Answer):
    """The answer to a request of one prompt."""

    id: str = Field(description="The request's id; it is the header X-Request-Id, too.")
    model: str = Field(description="Name of the model.")


class Answers(BaseModel):
    """The answers to several prompts, in their order."""

    id: str
    model: str
    answers: list[Answer]


class Failure(BaseModel):
    """What went wrong."""

    class Error(BaseModel):
        """A message in one line, with what OpenAI's clients look for."""

        status: int
        message: str
        type: str
        param: str | None
        code: str | None

    error: Error
