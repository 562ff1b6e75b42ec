"""What answers look like: as JSON, whole or as server-sent events. This is the form of /generate; openai_forms.py has
others."""

import json
from typing import NamedTuple

from glm.errors import printable_json
from glm.inference.stops import StoppedStream, cut

# type and code of an error for OpenAI's clients, by status; others are of type invalid_request_error without a code.
TYPES = {
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "not_found"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    500: ("server_error", None),
    503: ("server_error", "unavailable"),
    504: ("server_error", "timeout"),
    507: ("server_error", None),
}


class Finished(NamedTuple):
    """A text as it is answered: without special tokens, cut before a stop. tokens: how many were generated for it, end
    token included. reason: "stop" if it ended by itself or before a stop, "length" if at its limit. ids: its own, and
    each: their log probabilities where they are known, else None."""

    text: str
    tokens: int
    reason: str
    ids: list
    each: list | None = None


def finished(text, tokenizer, config):
    """The Finished of a continuous.Text that was decoded by a GenerationConfig."""
    whole = tokenizer.decode(text.ids)
    shown = cut(whole, config.stop)
    ended = bool(text.ids) and text.ids[-1] == tokenizer.eop_id
    reason = "stop" if ended or shown != whole else "length"
    return Finished(shown, len(text.ids), reason, text.ids, text.each)


def by_prompts(asked, results):
    """Of each prompt of a PromptRequest its texts, from {number of its job: texts}."""
    copies = asked.copies
    jobs = [[results[row * copies + copy] for copy in range(copies)] for row in range(len(asked.encoded))]
    return [[text for texts in of_row for text in texts] for of_row in jobs]


class Streams:
    """The texts of a PromptRequest as they come. Choices are numbered through: prompt * texts of each + text."""

    def __init__(self, asked, tokenizer):
        self.asked, self.tokenizer = asked, tokenizer
        self.of_jobs = [self.stream() for _ in range(len(asked.encoded) * asked.copies)]

    def stream(self):
        """A stream of one text."""
        return StoppedStream(self.tokenizer, self.asked.config.stop)

    def add(self, news, results):
        """Yield (choice, what to show of it, its Finished at its end or None) of inbox.News. What is Finished goes into
        results, by the number of its job."""
        for number in news.pieces.keys() | news.done.keys():
            first = number * (1 if self.asked.copies > 1 else self.asked.config.num_return_sequences)
            texts = news.done.get(number)
            if texts is None:
                yield first, self.of_jobs[number].add(news.pieces[number]), None
                continue
            results[number] = [finished(text, self.tokenizer, self.asked.config) for text in texts]
            for place, text in enumerate(texts):
                # Only one text of a job comes in pieces; of its last there may be no other word.
                stream = self.stream() if place else self.of_jobs[number]
                shown = stream.add(text.ids[stream.count :], final=True)
                yield first + place, shown, results[number][place]


class GenerateForm:
    """Answers of /generate. asked: PromptRequest. request_id, model: what answers say of themselves."""

    media_type = "text/event-stream; charset=utf-8"

    def __init__(self, asked, request_id, model):
        self.asked, self.request_id, self.model = asked, request_id, model

    def whole(self, answers):
        """The answer as JSON: of one prompt, or of all of a batch in their order."""
        contents = [self.answer(*row) for row in zip(self.asked.encoded, self.asked.unknown, answers, strict=True)]
        named = {"id": self.request_id, "model": self.model}
        return {"answers": contents, **named} if self.asked.is_batch else {**contents[0], **named}

    def answer(self, encoded, unknown, texts):
        """The answer to one prompt."""
        best = texts[0]
        return {
            "source": encoded.source,
            "prediction": best.text,
            "tokens": best.tokens,
            "source_tokens": len(encoded.source_ids),
            "source_cut": encoded.source_cut,
            "unknown_characters": unknown,
            "finish_reason": best.reason,
            **({"predictions": [text.text for text in texts]} if len(texts) > 1 else {}),
        }

    def begin(self):
        """What a stream begins with."""
        return b""

    def piece(self, choice, text, ended):
        """A piece of a text; ended: its Finished at its end, else None."""
        texts = self.asked.config.num_return_sequences
        of = {"index": choice // texts, **({"sequence": choice % texts} if texts > 1 else {})}
        return event("piece", {**of, "text": text}) if text else b""

    def end(self, answers):
        """What a stream ends with."""
        return event("done", self.whole(answers))

    def failure(self, content):
        """What a stream ends with instead; content: that of an error."""
        return event("error", content)


def event(name, content):
    """A server-sent event with JSON as its data, in one line, whatever its reader takes for the end of one."""
    return f"event: {name}\n".encode() + data(content)


def data(content):
    """The data of a server-sent event without a name."""
    return f"data: {printable_json(json.dumps(content, ensure_ascii=False))}\n\n".encode()


def error_content(status, message, param=None, code=None):
    """The JSON of an error, the same in all interfaces."""
    kind, usual = TYPES.get(status, ("invalid_request_error", None))
    return {"error": {"status": status, "message": message, "type": kind, "param": param, "code": code or usual}}
