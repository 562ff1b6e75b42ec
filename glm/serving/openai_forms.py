"""Answers as OpenAI's interface has them: chat completions and completions, whole or as chunks of a stream."""

import time

from glm.serving.forms import data

DONE = b"data: [DONE]\n\n"


class CompletionForm:
    """Answers of /v1/completions. asked: openai_requests.OpenAIRequest. request_id, model: what answers say of
    themselves. tokenizer: tokenization.Tokenizer."""

    media_type = "text/event-stream; charset=utf-8"
    kind, chunk, prefix = "text_completion", "text_completion", "cmpl-"

    def __init__(self, asked, request_id, model, tokenizer):
        self.asked, self.tokenizer = asked, tokenizer
        self.head = {"id": self.prefix + request_id, "created": int(time.time()), "model": model}

    def whole(self, answers):
        """The answer as JSON."""
        choices = [
            {"index": index, **self.told(text), "logprobs": self.logprobs(text), "finish_reason": text.reason}
            for index, text in enumerate(self.repeated(answers))
        ]
        usage, facts = self.usage(answers), self.facts()
        return {**self.head, "object": self.kind, "choices": choices, "usage": usage, "prompts": facts}

    def facts(self):
        """What of prompts no model has read; not OpenAI's."""
        return [
            {"source_cut": row.source_cut, "unknown_characters": unknown}
            for row, unknown in zip(self.asked.encoded, self.asked.unknown, strict=True)
        ]

    def repeated(self, answers):
        """All texts, those that are not drawn as often as they are asked for."""
        return [text for texts in answers for text in texts for _ in range(self.asked.repeats)]

    def told(self, text):
        """A text in its choice."""
        return {"text": text.text}

    def usage(self, answers):
        """Numbers of tokens."""
        read = sum(len(row.source_ids) for row in self.asked.encoded)
        written = sum(text.tokens for text in self.repeated(answers))
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def logprobs(self, text):
        """Log probabilities of a text's tokens, None where nobody asked."""
        if not self.asked.logprobs or text.each is None:
            return None
        tokens = [self.tokenizer.decode([piece]) for piece in text.ids]
        offsets, place = [], 0
        for token in tokens:
            offsets.append(place)
            place += len(token)
        return {"tokens": tokens, "token_logprobs": text.each, "top_logprobs": None, "text_offset": offsets}

    def event(self, choices, **more):
        """A chunk of a stream."""
        return data({**self.head, "object": self.chunk, "choices": choices, **more})

    def indices(self, choice):
        """The numbers of a choice and those that repeat it."""
        return range(choice * self.asked.repeats, (choice + 1) * self.asked.repeats)

    def begin(self):
        """What a stream begins with."""
        return b""

    def piece(self, choice, text, ended):
        """A piece of a text; ended: its forms.Finished at its end, else None."""
        reason = None if ended is None else ended.reason
        if not text and ended is None:
            return b""
        return b"".join(
            self.event([{"index": index, "text": text, "logprobs": None, "finish_reason": reason}])
            for index in self.indices(choice)
        )

    def end(self, answers):
        """What a stream ends with."""
        last = self.event([], usage=self.usage(answers), prompts=self.facts()) if self.asked.usage else b""
        return last + DONE

    def failure(self, content):
        """What a stream ends with instead; content: that of an error."""
        return data(content) + DONE


class ChatForm(CompletionForm):
    """Answers of /v1/chat/completions."""

    kind, chunk, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl-"

    def told(self, text):
        """See CompletionForm."""
        return {"message": {"role": "assistant", "content": text.text, "refusal": None}}

    def logprobs(self, text):
        """See CompletionForm."""
        if not self.asked.logprobs or text.each is None:
            return None
        tokens = [self.tokenizer.decode([piece]) for piece in text.ids]
        content = [
            {"token": token, "logprob": value, "bytes": list(token.encode()), "top_logprobs": []}
            for token, value in zip(tokens, text.each, strict=True)
        ]
        return {"content": content, "refusal": None}

    def begin(self):
        """See CompletionForm."""
        delta = {"role": "assistant", "content": ""}
        return b"".join(self.delta(index, delta) for index in range(self.asked.choices))

    def delta(self, index, delta, reason=None):
        """A chunk of one choice."""
        return self.event([{"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}])

    def piece(self, choice, text, ended):
        """See CompletionForm."""
        parts = []
        for index in self.indices(choice):
            if text:
                parts.append(self.delta(index, {"content": text}))
            if ended is not None:
                parts.append(self.delta(index, {}, ended.reason))
        return b"".join(parts)
