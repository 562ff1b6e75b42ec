"""The JSON that clients send → prompts and how to decode them, checked. No HTTP, no model."""

import json
from dataclasses import dataclass, replace

from glm.bounds import NUMBERS
from glm.data.examples import encode
from glm.data.templates import TEMPLATES, templates_of
from glm.data.validation import DataError, validate
from glm.errors import UserError
from glm.inference.arguments import BEAMS_ONLY, OVERRIDES, SAMPLING_ONLY

# Decoding option → its type; bounds are those of the flags, and tgt_length has the server's own as its greatest.
KINDS = {"tgt_length": int, "min_tgt_length": int, "length_penalty": float, "temperature": float, "top_k": int}
KINDS |= {"top_p": float, "seed": int}


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
    """A checked request: its prompts as examples.Encoded, its GenerationConfig, whether a batch, and streamed; of each
    prompt the characters that the vocabulary does not know."""

    encoded: list
    config: object
    is_batch: bool
    stream: bool
    unknown: list


def read_request(body, config, limits, tokenizer):
    """The PromptRequest of a body, bytes. config: the GenerationConfig of a request without options. Raises Refusal."""
    content = parse_json(body)
    if not isinstance(content, dict):
        raise Refusal(422, f"the request must be a JSON object; {expected(templates_of(tokenizer.preparation))}")
    content = without_null(content)
    options = {name: content.pop(name) for name in (*OVERRIDES, "stream") if name in content}
    stream = options.pop("stream", False)
    if not isinstance(stream, bool):
        raise Refusal(422, f"stream is {shown(stream)}; it must be true or false")
    is_batch = "prompts" in content
    prompts = batch_of(content, limits) if is_batch else [content]
    places = [f"prompts[{number}]: " for number in range(len(prompts))] if is_batch else [""]
    chosen = overridden(config, options)
    templates = templates_of(tokenizer.preparation)
    examples = [example_of(prompt, place, limits, templates) for prompt, place in zip(prompts, places, strict=True)]
    encoded = [encoded_example(*pair, limits, chosen, tokenizer) for pair in zip(examples, places, strict=True)]
    unknown = [list(row.unknown_source) for row in encoded]
    return PromptRequest(encoded, chosen, is_batch, stream, unknown)


def without_null(fields):
    """An object's fields but for those that are null: in many languages that is how one is left out."""
    return {name: value for name, value in fields.items() if value is not None}


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


def example_of(prompt, place, limits, templates=TEMPLATES):
    """The templates.Example of a prompt: an object with the fields of one of the templates, by name, or a text. Raises
    Refusal."""
    if isinstance(prompt, str):
        prompt = {"source": prompt}
    if not isinstance(prompt, dict):
        raise Refusal(422, f"{place}a prompt must be an object or a string, not {shown(prompt)}")
    prompt = without_null(prompt)
    try:
        check_names(prompt, (*prompt_fields(templates), *(() if place else ("prompts", *OVERRIDES, "stream"))))
    except Refusal as refusal:
        raise Refusal(422, place + refusal.message) from None
    template = template_of(prompt, place, templates)
    try:
        fields = validate(prompt, template.fields(need_target=False), "prompt", 1)
    except DataError as error:
        raise Refusal(422, place + str(error).removeprefix("prompt:1: ")) from None
    characters = sum(len(text) for text in fields.values())
    if characters > limits.characters:
        raise Refusal(413, f"{place}the prompt has {characters} characters; at most {limits.characters} are allowed")
    return template.example(fields, place=place.removesuffix(": "))


def prompt_fields(templates):
    """Fields of a prompt, in any of the templates."""
    return tuple(
        dict.fromkeys(name for template in templates.values() for name in (*template.required, *template.optional))
    )


def expected(templates):
    """What a request may be, in words."""
    kinds = ("{" + ", ".join(f'"{name}": ...' for name in prompt_fields({"": one})) + "}" for one in templates.values())
    return f'send {", ".join(kinds)} or {{"prompts": [...]}}'


def template_of(prompt, place, templates):
    """The Template whose fields a prompt has, and no others. Raises Refusal."""
    for template in templates.values():
        known = {*template.required, *template.optional}
        if prompt and prompt.keys() <= known and prompt.keys() & set(template.required):
            return template
    raise Refusal(422, f"{place}{', '.join(prompt) or 'nothing'} makes no prompt; {expected(templates)}")


def encoded_example(example, place, limits, config, tokenizer):
    """The examples.Encoded of an Example. Raises Refusal."""
    try:
        return encode(example, tokenizer, limits.src_length, config.max_new_tokens)
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
        check_option(name, value)
    if options.get("tgt_length", 0) > config.max_new_tokens:
        raise Refusal(422, f"tgt_length is {options['tgt_length']}; this server allows {config.max_new_tokens}")
    try:
        return replace(config, **{OVERRIDES[name]: KINDS[name](value) for name, value in options.items()})
    except UserError as error:
        message = str(error).replace("max_new_tokens", "tgt_length").replace("min_new_tokens", "min_tgt_length")
        raise Refusal(422, message) from None


def check_option(name, value):
    """Raise Refusal unless the value of a decoding option is a number of its kind within bounds; a whole number is a
    float, too."""
    is_number = isinstance(value, (KINDS[name], int)) and not isinstance(value, bool)
    if not is_number:
        article = "a whole number" if KINDS[name] is int else "a number"
        raise Refusal(422, f"{name} is {shown(value)}; it must be {article}")
    if not NUMBERS[name].hold(value):
        raise Refusal(422, f"{name} is {shown(value)}; it must be {NUMBERS[name]}")


def shown(value):
    """A JSON value as a message shows it: its beginning, without what cannot be encoded."""
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else text[:57] + "..."
