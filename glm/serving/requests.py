"""What clients send → prompts and how to decode them, checked. No HTTP, no model, and the same for every interface."""

import json
from dataclasses import dataclass, field, replace

import numpy as np

from glm.data.examples import encode
from glm.data.templates import NAMED, TEMPLATES, Example, templates_of
from glm.data.validation import DataError, validate
from glm.decoding.generation_config import PENALTIES, STRUCTURE, check_edges
from glm.errors import UserError
from glm.inference.arguments import BEAMS_ONLY, OVERRIDES, SAMPLING_ONLY, with_flags

# Decoding option → field of GenerationConfig.
OPTIONS = {**OVERRIDES, "num_beams": "num_beams", "num_return_sequences": "num_return_sequences", "stop": "stop"}
OPTIONS |= {"within_source": "within_source"}
SAMPLING = "select_topk"
# Levels of lists and objects in a request, and then some.
DEEPEST = 30


class Refusal(Exception):
    """A request that is not answered: HTTP status, a message in one line, seconds after which to try again or None; and
    for OpenAI's clients the name of what is wrong in the request, and a code, or None."""

    def __init__(self, status, message, retry_after=None, param=None, code=None):
        super().__init__(message)
        self.status, self.message, self.retry_after, self.param, self.code = status, message, retry_after, param, code


@dataclass(frozen=True)
class Limits:
    """The most that a request may ask for: prompts in it, characters of a prompt, source tokens that are kept, and
    beams."""

    prompts: int
    characters: int
    src_length: int
    beams: int = 8


@dataclass(frozen=True)
class Offer:
    """What a server can do for requests. tokenizer: tokenization.Tokenizer. config: GenerationConfig of a request
    without options. limits: Limits. fixed: whether the structure of its search is that of config, as an exported
    program has it. binding: binding.Binding of texts within their sources."""

    tokenizer: object
    config: object
    limits: Limits
    fixed: bool = False
    binding: object = None

    @property
    def templates(self):
        """{name: templates.Template} of prompts."""
        return templates_of(self.tokenizer.preparation)

    def named(self, name):
        """{name: Template} of a request that names one. Raises Refusal."""
        found = {**(NAMED if self.tokenizer.preparation.prompt is None else {}), **self.templates}
        if name not in found:
            raise Refusal(422, f"template is {shown(name)}; it must be one of {', '.join(found)}", param="template")
        return {name: replace(found[name], normalize=self.tokenizer.preparation.normalize)}


@dataclass(frozen=True)
class PromptRequest:
    """A checked request: its prompts as examples.Encoded, its GenerationConfig, whether a batch, and streamed; of each
    prompt the characters that the vocabulary does not know."""

    encoded: list
    config: object
    is_batch: bool = False
    stream: bool = False
    unknown: list = field(default_factory=list)

    @property
    def copies(self):
        """How often each prompt is decoded: texts that are drawn are drawn one by one."""
        draws = self.config.do_sample and self.config.num_beams == 1
        return self.config.num_return_sequences if draws else 1

    @property
    def job_config(self):
        """The GenerationConfig of one of them."""
        return self.config if self.config.num_beams > 1 else replace(self.config, num_return_sequences=1)


def read_request(content, offer):
    """The PromptRequest of a request to /generate, a dict whose options were checked one by one. Raises Refusal."""
    content = dict(content)
    options = {name: content.pop(name) for name in (*OPTIONS, SAMPLING) if name in content}
    # Its model is chosen by now: that is whose offer this is.
    content.pop("model", None)
    stream, template = content.pop("stream", False), content.pop("template", None)
    is_batch = "prompts" in content
    prompts = batch_of(content, offer.limits) if is_batch else [content]
    places = [f"prompts[{number}]: " for number in range(len(prompts))] if is_batch else [""]
    templates = offer.templates if template is None else offer.named(template)
    found = prompt_request(prompts, places, options, offer, templates)
    return replace(found, is_batch=is_batch, stream=stream)


def prompt_request(prompts, places, options, offer, templates):
    """The PromptRequest of prompts (a dict of the fields of one of some templates, a text, or an Example) with the
    places that messages name, and options. Raises Refusal."""
    chosen = overridden(offer, options)
    if len(prompts) * chosen.num_return_sequences > max(offer.limits.prompts, len(prompts)):
        told = f"{chosen.num_return_sequences} texts for each of {len(prompts)} prompts"
        raise Refusal(413, f"{told} in one request; at most {offer.limits.prompts} are allowed")
    examples = [example_of(*pair, offer.limits, templates) for pair in zip(prompts, places, strict=True)]
    encoded = [encoded_example(*pair, offer, chosen) for pair in zip(examples, places, strict=True)]
    if chosen.within_source:
        check_passages(encoded, places, offer, chosen)
    return PromptRequest(encoded, chosen, unknown=[list(row.unknown_source) for row in encoded])


def check_passages(encoded, places, offer, config):
    """Raise Refusal unless there is something to write within each prompt's source."""
    for row, place in zip(encoded, places, strict=True):
        try:
            check_edges(offer.binding.edges([row]), np.array([config.max_new_tokens]))
        except UserError as error:
            raise Refusal(422, place + str(error).rpartition(": ")[2], param="within_source") from None


def without_null(fields):
    """An object's fields but for those that are null: in many languages that is how one is left out."""
    return {name: value for name, value in fields.items() if value is not None}


def parse_json(body):
    """What a body of UTF-8 JSON says. Raises Refusal."""
    too_deep = Refusal(400, "the body is nested too deeply; no request needs more than three levels")
    try:
        content = json.loads(body.decode("utf-8-sig"), parse_constant=refuse_constant)
    except UnicodeDecodeError as error:
        raise Refusal(400, f"the body is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise Refusal(400, f"the body is not JSON: {error.msg}, line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise too_deep from None
    except ValueError:
        # Python refuses to read integers of thousands of digits.
        raise Refusal(400, "the body holds a number that is too long") from None
    if is_deeper(content, DEEPEST):
        raise too_deep
    return content


def is_deeper(content, most):
    """Whether there are more than so many levels of lists and objects in what JSON says: newer Pythons read any."""
    level = [content]
    for _ in range(most + 1):
        level = [one for one in level if isinstance(one, (dict, list))]
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return bool(level)


def refuse_constant(name):
    """Refuse what Python reads as a number and JSON does not know."""
    raise Refusal(400, f"the body is not JSON: {name} is no JSON value")


def batch_of(content, limits):
    """The prompts of a batch. Raises Refusal."""
    check_names(content, ("prompts",))
    prompts = content["prompts"]
    if not isinstance(prompts, list) or not prompts:
        raise Refusal(422, "prompts must be a list of at least one prompt")
    check_count(prompts, limits)
    return prompts


def check_count(prompts, limits, param=None):
    """Raise Refusal where there are more prompts than a request may have."""
    if len(prompts) > limits.prompts:
        told = f"{len(prompts)} prompts in one request; at most {limits.prompts} are allowed"
        raise Refusal(413, told, param=param)


def check_names(content, known):
    """Raise Refusal for a name that nothing has."""
    unknown = [name for name in content if name not in known]
    if unknown:
        raise Refusal(422, unknown_field(unknown[0], known))


def unknown_field(name, known):
    """What is said of a field that nothing has."""
    return f"unknown field {shown(name)}; known are {', '.join(known)}"


def example_of(prompt, place, limits, templates=TEMPLATES):
    """The templates.Example of a prompt: an object with the fields of one of the templates, by name, or a text. Raises
    Refusal."""
    if isinstance(prompt, Example):
        return prompt
    if isinstance(prompt, str):
        prompt = {"source": prompt}
    if not isinstance(prompt, dict):
        raise Refusal(422, f"{place}a prompt must be an object or a string, not {shown(prompt)}")
    prompt = without_null(prompt)
    try:
        check_names(prompt, prompt_fields(templates))
    except Refusal as refusal:
        raise Refusal(422, place + refusal.message) from None
    return example_by(template_of(prompt, place, templates), prompt, place, limits)


def example_by(template, prompt, place, limits):
    """The templates.Example of a prompt's fields by a templates.Template. Raises Refusal."""
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


def encoded_example(example, place, offer, config):
    """The examples.Encoded of an Example. Raises Refusal."""
    try:
        return encode(example, offer.tokenizer, offer.limits.src_length, config.max_new_tokens)
    except UserError as error:
        message = str(error)
        message = message if message.startswith(place) else place + message
        raise Refusal(422, message, code="context_length_exceeded") from None


def overridden(offer, options):
    """The GenerationConfig of a request with options, which are named like the flags. Raises Refusal."""
    config = offer.config
    beams = options.get("num_beams", config.num_beams)
    draws = not options.get(SAMPLING, not config.do_sample)
    for name in options:
        if name in BEAMS_ONLY and beams == 1:
            raise Refusal(422, f"{name}: nothing is decoded with beams; send num_beams, too", param=name)
        if name in SAMPLING_ONLY and not draws:
            raise Refusal(422, f'{name}: nothing is drawn; send "{SAMPLING}": false, too', param=name)
    check_most("tgt_length", options, config.max_new_tokens)
    check_most("num_beams", options, max(offer.limits.beams, config.num_beams))
    changes = {OPTIONS[name]: value for name, value in options.items() if name != SAMPLING}
    if not draws and config.do_sample:
        # What the server draws by is of no use to a request that draws nothing.
        changes = {"top_k": 0, "top_p": 1.0, "temperature": 1.0} | changes
    if "top_p" in changes:
        # 0 has always meant "all" for this option.
        changes["top_p"] = changes["top_p"] or 1.0
    if "stop" in changes:
        changes["stop"] = tuple(changes["stop"])
    chosen = configured(config, changes | {"do_sample": draws})
    return chosen if not offer.fixed else of_program(chosen, config)


def check_most(name, options, most):
    """Raise Refusal where an option is more than this server allows."""
    if options.get(name, 0) > most:
        raise Refusal(422, f"{name} is {options[name]}; this server allows {most}", param=name)


def configured(config, changes):
    """A GenerationConfig with changes. Raises Refusal."""
    texts = changes.get("num_return_sequences", config.num_return_sequences)
    beams = changes.get("num_beams", config.num_beams)
    if beams == 1 and not changes["do_sample"] and texts > 1:
        raise Refusal(
            422, f'{texts} texts of one prompt: send num_beams, or "{SAMPLING}": false', param="num_return_sequences"
        )
    try:
        return replace(config, **changes)
    except UserError as error:
        raise Refusal(422, with_flags(str(error)).replace("--", "")) from None


def of_program(chosen, config):
    """The chosen GenerationConfig for an exported program of a config, which searches in one way alone. Raises
    Refusal."""
    penalties = [] if config.penalties else [name for name in PENALTIES if getattr(chosen, name) != PENALTIES[name]]
    others = [name for name in STRUCTURE if name != "penalties" and getattr(chosen, name) != getattr(config, name)]
    for name in (*others, *penalties):
        named = SAMPLING if name == "do_sample" else name
        raise Refusal(
            422, f"{named}: the program that this server runs is exported to search in another way", param=named
        )
    return replace(chosen, penalties=config.penalties)


def shown(value):
    """A JSON value as a message shows it: its beginning, without what cannot be encoded."""
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else text[:57] + "..."
