"""OpenAI's interface: what clients of it send, as pydantic models, and the prompts that it means. No HTTP.

As https://platform.openai.com/docs/api-reference describes /chat/completions and /completions. What would change an
answer and is not known here is refused; what would not is taken and has no effect.
"""

import secrets
from dataclasses import dataclass, replace
from typing import Any

from pydantic import create_model

from glm.bounds import Bounds
from glm.serving.requests import PromptRequest, Refusal, check_count, example_by, prompt_request, shown
from glm.serving.schemas import Asked, anything, flag, number, stops, text

# Fields that say nothing about the answer.
WITHOUT_EFFECT = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
WITHOUT_EFFECT += ("prompt_cache_retention", "parallel_tool_calls", "reasoning_effort", "verbosity")
# Fields of which a value other than these would change the answer in a way that nothing here can.
ONLY = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "top_logprobs": (0,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
}
TEMPERATURE = Bounds(0, 2)
PENALTY = Bounds(-2, 2)
TOKENS, TEXTS = Bounds(1, 2**20), Bounds(1, 128)
SEED = Bounds(-(2**63), 2**63, below=True)
# Temperatures below that leave nothing to chance.
COLDEST = 0.01


class Completion(Asked):
    """What both kinds of requests may say."""

    model: text("model", "Name of the model, or of an adapter of it; see GET /v1/models.") = None
    max_tokens: number("max_tokens", int, TOKENS, "Most tokens of a text, its end included.") = None
    temperature: number("temperature", float, TEMPERATURE, "0: the likeliest tokens; above: drawn at it.") = None
    top_p: number("top_p", float, help="Draw from the smallest set of tokens of this total probability.") = None
    n: number("n", int, TEXTS, "Texts of each prompt.") = None
    seed: number("seed", int, SEED, "The same seed draws the same text; without one, each request another.") = None
    stop: stops() = None
    stream: flag("stream", "Server-sent events, as texts come.") = None
    stream_options: anything(type="object", description="include_usage: a last event with usage.") = None
    presence_penalty: number("presence_penalty", float, PENALTY, "See --presence_penalty.") = None
    frequency_penalty: number("frequency_penalty", float, PENALTY, "See --frequency_penalty.") = None
    repetition_penalty: number("repetition_penalty", float, help="See --repetition_penalty; not OpenAI's.") = None
    num_beams: number("num_beams", int, help="Beams of the search; not OpenAI's.") = None
    length_penalty: number("length_penalty", float, help="See --length_penalty; not OpenAI's.") = None
    min_tokens: number("min_tokens", int, Bounds(0, 2**20), "Fewest tokens of a text; not OpenAI's.") = None
    top_k: number("top_k", int, help="Draw from so many likeliest tokens only; not OpenAI's.") = None


# Fields that are taken as long as they change nothing.
Tolerant = create_model("Tolerant", __base__=Completion, **dict.fromkeys((*WITHOUT_EFFECT, *ONLY), (Any, None)))


class ChatCompletion(Tolerant):
    """A request to /v1/chat/completions."""

    messages: anything(
        type="array",
        items={"type": "object", "properties": {"role": {"type": "string"}, "content": {}}},
        description="Turns of a talk: role system, user or assistant, and content, a text.",
    ) = None
    max_completion_tokens: number("max_completion_tokens", int, TOKENS, "The same as max_tokens.") = None
    logprobs: flag("logprobs", "Whether to give log probabilities of the tokens.") = None


class TextCompletion(Tolerant):
    """A request to /v1/completions."""

    prompt: anything(description="A text, or several.") = None
    context: anything(type="string", description="With answer: a passage to ask about; not OpenAI's.") = None
    answer: anything(type="string", description="The answer to ask for; not OpenAI's.") = None
    logprobs: number("logprobs", int, Bounds(0, 5), "Whether to give log probabilities of tokens; more than 0 of "
                     "others are not known here.") = None  # fmt: skip


@dataclass(frozen=True)
class OpenAIRequest(PromptRequest):
    """A PromptRequest with what its answer is to have. repeats: how often a text that is not drawn is given. logprobs,
    usage: whether log probabilities are, and in a stream the numbers of tokens."""

    repeats: int = 1
    logprobs: bool = False
    usage: bool = False

    @property
    def choices(self):
        """How many texts are asked for."""
        return len(self.encoded) * self.config.num_return_sequences * self.repeats


def read_chat(asked, offer):
    """The OpenAIRequest of a ChatCompletion. Raises Refusal."""
    fields = checked(asked)
    messages = [plain(turn, f"messages[{i}]") for i, turn in enumerate(messages_of(fields))]
    template = offer.templates.get("instruction")
    prompt = {"messages": messages}
    if template is None:
        if len(messages) > 1:
            told = "this model has a prompt of its own: send one message, whose text it is to read"
            raise Refusal(422, told, param="messages")
        return request_of(fields, [messages[0]["content"]], offer)
    example = example_by(template, prompt, "", offer.limits)
    return request_of(fields, [example], offer)


def messages_of(fields):
    """The list of messages. Raises Refusal."""
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refusal(422, "messages must be a list of at least one message", param="messages")
    return messages


def plain(turn, place):
    """A message whose content is one text: of a list of texts, all of them. Raises Refusal."""
    if not isinstance(turn, dict):
        raise Refusal(422, f"{place} must be an object with role and content", param="messages")
    role, content = turn.get("role"), turn.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise Refusal(422, f"{place}: content has parts that are no texts", param="messages")
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise Refusal(422, f"{place}: content is {shown(content)}; it must be a text", param="messages")
    # Newer clients call what stands before a talk so.
    return {"role": "system" if role == "developer" else role, "content": content}


def read_completion(asked, offer):
    """The OpenAIRequest of a TextCompletion. Raises Refusal."""
    fields = checked(asked)
    pair = {name: fields[name] for name in ("context", "answer") if name in fields}
    prompt = fields.get("prompt")
    if pair and prompt is not None:
        raise Refusal(422, "prompt: context and answer take its place; leave one of them out", param="prompt")
    prompts = [pair] if pair else [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list) or not prompts or not (pair or all(isinstance(one, str) for one in prompts)):
        raise Refusal(422, f"prompt is {shown(prompt)}; it must be a text or a list of texts", param="prompt")
    check_count(prompts, offer.limits, param="prompt")
    return request_of(fields, prompts, offer)


def checked(asked):
    """{name: value} of a Completion, once what would change its answer and cannot is refused. Raises Refusal."""
    fields = asked.given()
    for name, allowed in ONLY.items():
        if name in fields and fields[name] not in allowed:
            raise Refusal(422, f"{name} is {shown(fields[name])}, which this server does not know", param=name)
    if not isinstance(fields.get("stream_options", {}), dict):
        raise Refusal(422, f"stream_options is {shown(fields['stream_options'])}; it must be an object",
                      param="stream_options")  # fmt: skip
    return fields


def request_of(fields, prompts, offer):
    """The OpenAIRequest of prompts (texts, fields or one Example) with options. Raises Refusal."""
    places = [f"prompt[{number}]: " for number in range(len(prompts))] if len(prompts) > 1 else [""]
    options = options_of(fields, offer.config)
    n = fields.get("n", 1)
    draws, beams = not options["select_topk"], options.get("num_beams", offer.config.num_beams)
    options["num_return_sequences"] = n if draws or beams > 1 else 1
    logprobs = fields.get("logprobs")
    if not isinstance(logprobs, bool) and (logprobs or 0) > 1:
        raise Refusal(422, f"logprobs is {logprobs}; those of the chosen tokens alone are known", param="logprobs")
    # Of completions 0 asks for them, too.
    logprobs = logprobs is not None and logprobs is not False
    if logprobs and (beams > 1 or fields.get("stream")):
        raise Refusal(422, "logprobs are known of whole texts without beams alone", param="logprobs")
    repeats = 1 if draws or beams > 1 else n
    if len(prompts) * n > max(offer.limits.prompts, len(prompts)):
        raise Refusal(413, f"{n} texts for each prompt; at most {offer.limits.prompts} are allowed", param="n")
    offer = replace(offer, config=replace(offer.config, output_scores=logprobs))
    found = prompt_request(prompts, places, options, offer, offer.templates)
    return OpenAIRequest(
        found.encoded,
        found.config,
        len(prompts) > 1,
        bool(fields.get("stream")),
        found.unknown,
        repeats=repeats,
        logprobs=logprobs,
        usage=bool(fields.get("stream_options", {}).get("include_usage")),
    )


def options_of(fields, config):
    """Decoding options as /generate has them."""
    names = {"stop", "presence_penalty", "frequency_penalty", "repetition_penalty", "num_beams", "length_penalty"}
    options = {name: fields[name] for name in names if name in fields}
    most = fields.get("max_completion_tokens", fields.get("max_tokens"))
    if most is not None:
        # Clients ask for as many as their own models give.
        options["tgt_length"] = min(most, config.max_new_tokens)
    if "min_tokens" in fields:
        options["min_tgt_length"] = fields["min_tokens"]
    temperature = fields.get("temperature")
    draws = temperature >= COLDEST if temperature is not None else config.do_sample or "top_p" in fields
    if draws:
        options |= {name: fields[name] for name in ("top_p", "top_k") if name in fields}
        options["seed"] = fields["seed"] % 2**32 if "seed" in fields else secrets.randbelow(2**32)
        if temperature is not None:
            options["temperature"] = temperature
    return {**options, "select_topk": not draws}
