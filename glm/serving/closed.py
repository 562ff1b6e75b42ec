"""Closed batches: what waits is decoded together, and what comes meanwhile waits for the end of the batch. For decoders
whose loop is one call, such as exported Paddle programs."""

from dataclasses import replace

import numpy as np

from glm.decoding.generation_config import LONGEST
from glm.inference.binding import prompts_of
from glm.inference.continuous import Text, texts_of, without_padding


class BatchOver(Exception):
    """Raised inside a decoding to leave it: nobody waits for what it would still produce."""


class Closed:
    """A decoder with the batch that it decodes; take(), round() and running are those of continuous.Continuous.

    decode(prompts, config, rows, on_token) → ids [batch * texts, new], or a pair of them and of scores [batch * texts].
        prompts: as binding.prompts_of() gives them, and of each its max_new_tokens, int64 [batch]. on_token: see
        search.Rules; with beams it is not called.
    special: SpecialIds. budget: most tokens that a batch may take, rows * (its longest source + new tokens); a single
    prompt may take more. binding: binding.Binding of texts within their sources.
    """

    def __init__(self, decode, special, budget, binding=None):
        self.decode, self.special, self.budget, self.binding = decode, special, budget, binding
        self.running = []

    def take(self, waiting):
        """See Continuous.take()."""
        return take_batch(waiting, self.budget)

    def round(self, newcomers, tell):
        """Decode a batch. An error is the outcome of this batch alone."""
        self.running = newcomers
        try:
            if newcomers:
                self.decode_batch(newcomers, tell)
        except BatchOver:
            pass
        except Exception as error:
            for job in newcomers:
                tell(job, "failed", error)
        self.running = []

    def decode_batch(self, jobs, tell):
        """Decode jobs of one kind, and tell what comes of them: a text when it has ended itself."""
        longest = max((job.config for job in jobs), key=lambda config: config.max_new_tokens)
        binding = self.binding if longest.within_source else None
        prompts = prompts_of([job.encoded for job in jobs], self.special.pad, binding)
        # What decodes each prompt by a limit of its own does not go on with one whose limit has come.
        prompts["max_new_tokens"] = np.array([job.config.max_new_tokens for job in jobs], "int64")
        texts = Texts(jobs, self.special.eop, tell)
        found = self.decode(prompts, longest, [job.row for job in jobs], texts.add)
        ids, scores = found if isinstance(found, tuple) else (found, np.zeros(len(found)))
        copies = len(ids) // len(jobs)
        of_jobs = (np.reshape(array, [len(jobs), copies, *array.shape[1:]]) for array in (ids, scores))
        for job, rows, values in zip(jobs, *of_jobs, strict=True):
            most = job.config.max_new_tokens
            tell(job, "done", texts_of(rows[:, :most] if copies == 1 else rows, values, job.config, self.special.eop))


class Texts:
    """The texts of a batch as they grow."""

    def __init__(self, jobs, end, tell):
        self.jobs, self.end, self.tell = jobs, end, tell
        self.ids = [[] for _ in jobs]

    def add(self, numbers, pieces):
        """Tell the newest pieces, and the texts that end with them. Raises BatchOver after the last."""
        for number, piece in zip(numbers.tolist(), pieces.tolist(), strict=True):
            job, ids = self.jobs[number], self.ids[number]
            if job.settled:
                continue
            ids.append(piece)
            is_last = bool(self.tell(job, "piece", piece)) or piece == self.end
            # Of a text that ends here the batch's scores would be those of a longer one.
            if (is_last or len(ids) == job.config.max_new_tokens) and not job.config.output_scores:
                self.tell(job, "done", [Text(without_padding(ids, self.end))])
        if all(job.settled for job in self.jobs):
            raise BatchOver


def kind_of(config):
    """What is equal for prompts that a closed batch can have together: all but the limit, where a text is the beginning
    of the longer one that a higher limit gives."""
    return config if config.num_beams > 1 else replace(config, max_new_tokens=LONGEST)


def take_batch(waiting, budget):
    """Take the jobs of a batch out of a deque: the one that has waited longest, and of those after it all that can be
    decoded with it and fit, in their order."""
    batch, rest = [], []
    kind, longest, new = None, 0, 0
    while waiting:
        job = waiting.popleft()
        if job.settled:
            continue
        widest, most = max(longest, job.tokens[0]), max(new, job.tokens[1])
        own = kind_of(job.config)
        if not batch or (own == kind and (len(batch) + 1) * (widest + most) <= budget):
            batch.append(job)
            kind, longest, new = own, widest, most
        else:
            rest.append(job)
    waiting.extend(rest)
    return batch
