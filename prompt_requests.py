"""The JSON that clients send → prompts and how to decode them, checked. No HTTP, no model."""

import json
import math
from dataclasses import dataclass, replace

import data
from arguments import BEAMS_ONLY, OVERRIDES, SAMPLING_ONLY
from errors import UserError
from templates import TEMPLATES, Example
from validation import DataError, validate

# Fields of a prompt, in any template.
PROMPT_FIELDS = ("context", "answer", "instruction", "input", "source")
# Decoding option → its type, the least and the greatest value that a request may ask for. Far beyond these, float32 or
# int64 would overflow; tgt_length has the server's own as its greatest.
BOUNDS = {
    "tgt_length": (int, 1, 2**31),
    "min_tgt_length": (int, 0, 2**31),
    "length_penalty": (float, -10.0, 10.0),
    "temperature": (float, 0.01, 100.0),
    "top_k": (int, 0, 2**31),
    "top_p": (float, 0.001, 1.0),
    "seed": (int, 0, 2**63 - 1),
}
EXPECTED = (
    'send {"context": ..., "answer": ...}, {"instruction": ..., "input": ...}, {"source": ...} or {"prompts": [...]}'
)


class Refusal(Exception):
    """A request that is not answered: HTTP status, a message in one line, seconds after which to try again or None."""

    def __init__(self, status, message, retry_after=None):
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after


@dataclass(frozen=True)
class Limits:
    """The most that a request may ask for: prompts in it, characters of a prompt, source tokens that are kept."""

    prompts: int
    characters: int
    src_length: int


@dataclass(frozen=True)
class PromptRequest:
    """A checked request: its prompts as data.Encoded, its GenerationConfig, whether it is a batch, and is streamed."""

    encoded: list
    config: object
    is_batch: bool
    stream: bool


def read_request(body, config, limits, tokenizer):
    """The PromptRequest of a body, bytes. config: the GenerationConfig of a request without options. Raises Refusal."""
    content = parse_json(body)
    if not isinstance(content, dict):
        raise Refusal(422, f"the request must be a JSON object; {EXPECTED}")
    options = {name: content.pop(name) for name in (*OVERRIDES, "stream") if name in content}
    stream = options.pop("stream", False)
    if not isinstance(stream, bool):
        raise Refusal(422, f"stream is {shown(stream)}; it must be true or false")
    is_batch = "prompts" in content
    prompts = batch_of(content, limits) if is_batch else [content]
    places = [f"prompts[{number}]: " for number in range(len(prompts))] if is_batch else [""]
    chosen = overridden(config, options)
    examples = [example_of(prompt, place, limits) for prompt, place in zip(prompts, places, strict=True)]
    encoded = [encode(*pair, limits, chosen, tokenizer) for pair in zip(examples, places, strict=True)]
    return PromptRequest(encoded, chosen, is_batch, stream)


def parse_json(body):
    """What a body of UTF-8 JSON says. Raises Refusal."""
    try:
        return json.loads(body.decode("utf-8-sig"), parse_constant=refuse_constant)
    except UnicodeDecodeError as error:
        raise Refusal(400, f"the body is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise Refusal(400, f"the body is not JSON: {error.msg}, line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise Refusal(400, "the body is nested too deeply; no request needs more than three levels") from None
    except ValueError:
        # Python refuses to read integers of thousands of digits.
        raise Refusal(400, "the body holds a number that is too long") from None


def refuse_constant(name):
    """Refuse what Python reads as a number and JSON does not know."""
    raise Refusal(400, f"the body is not JSON: {name} is no JSON value")


def batch_of(content, limits):
    """The prompts of a batch. Raises Refusal."""
    check_names(content, ("prompts",))
    prompts = content["prompts"]
    if not isinstance(prompts, list) or not prompts:
        raise Refusal(422, "prompts must be a list of at least one prompt")
    if len(prompts) > limits.prompts:
        raise Refusal(413, f"{len(prompts)} prompts in one request; at most {limits.prompts} are allowed")
    return prompts


def check_names(content, known):
    """Raise Refusal for a name that nothing has."""
    unknown = [name for name in content if name not in known]
    if unknown:
        raise Refusal(422, f"unknown field {shown(unknown[0])}; known are {', '.join(known)}")


def example_of(prompt, place, limits):
    """The templates.Example of a prompt: an object with a template's fields, or a text. Raises Refusal."""
    if isinstance(prompt, str):
        prompt = {"source": prompt}
    if not isinstance(prompt, dict):
        raise Refusal(422, f"{place}a prompt must be an object or a string, not {shown(prompt)}")
    try:
        check_names(prompt, (*PROMPT_FIELDS, *(() if place else ("prompts", *OVERRIDES, "stream"))))
    except Refusal as refusal:
        raise Refusal(422, place + refusal.message) from None
    template = template_of(prompt, place)
    try:
        fields = validate(prompt, template.fields(need_target=False), "prompt", 1)
    except DataError as error:
        raise Refusal(422, place + str(error).removeprefix("prompt:1: ")) from None
    characters = sum(len(text) for text in fields.values())
    if characters > limits.characters:
        raise Refusal(413, f"{place}the prompt has {characters} characters; at most {limits.characters} are allowed")
    return Example(**template.prompt(fields), place=place.removesuffix(": "))


def template_of(prompt, place):
    """The Template whose fields a prompt has, and no others. Raises Refusal."""
    for template in TEMPLATES.values():
        known = {*template.required, *template.optional}
        if prompt and prompt.keys() <= known and prompt.keys() & set(template.required):
            return template
    raise Refusal(422, f"{place}{', '.join(prompt) or 'nothing'} makes no prompt; {EXPECTED}")


def encode(example, place, limits, config, tokenizer):
    """The data.Encoded of an Example. Raises Refusal."""
    try:
        return data.encode(example, tokenizer, limits.src_length, config.max_new_tokens)
    except UserError as error:
        message = str(error)
        raise Refusal(422, message if message.startswith(place) else place + message) from None


def overridden(config, options):
    """The GenerationConfig with a request's options, which are named like the flags. Raises Refusal."""
    for name, value in options.items():
        if name in BEAMS_ONLY and config.num_beams == 1:
            raise Refusal(422, f"{name}: this server decodes without beams")
        if name in SAMPLING_ONLY and not config.do_sample:
            raise Refusal(422, f"{name}: this server does not sample")
        check_option(name, value, *BOUNDS[name])
    if options.get("tgt_length", 0) > config.max_new_tokens:
        raise Refusal(422, f"tgt_length is {options['tgt_length']}; this server allows {config.max_new_tokens}")
    try:
        return replace(config, **{OVERRIDES[name]: BOUNDS[name][0](value) for name, value in options.items()})
    except UserError as error:
        message = str(error).replace("max_new_tokens", "tgt_length").replace("min_new_tokens", "min_tgt_length")
        raise Refusal(422, message) from None


def check_option(name, value, kind, least, greatest):
    """Raise Refusal unless a value is a number of a kind within bounds; a whole number is a float, too."""
    is_number = isinstance(value, (kind, int)) and not isinstance(value, bool)
    if not is_number:
        article = "a whole number" if kind is int else "a number"
        raise Refusal(422, f"{name} is {shown(value)}; it must be {article}")
    if not (least <= value <= greatest and math.isfinite(value)):
        raise Refusal(422, f"{name} is {shown(value)}; it must be between {least} and {greatest}")


def shown(value):
    """A JSON value as a message shows it: its beginning, without what cannot be encoded."""
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else text[:57] + "..."
