"""Continuous batching: prompts join those that are being decoded as soon as there is room, and leave when their own
text ends. No threads and no HTTP.

A source is read in one piece, for each of its tokens sees all the others; so at most about READ_TOGETHER tokens of
newcomers, or one source, are read between two steps of those who are there.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from glm.decoding.generation_config import NOT_FINITE, NotFiniteError, feeds_of_each
from glm.decoding.numpy_search import READ_TOGETHER
from glm.inference.binding import prompts_of


class Text(NamedTuple):
    """A text as ids, a list that ends with the end token if the text has ended by itself; its score, None where nobody
    asked; and without beams the log probabilities of its ids, a list."""

    ids: list
    score: float | None = None
    each: list | None = None


class Continuous:
    """The searches of one model, one for each structure that is asked for, with what is being decoded in them.

    Jobs have encoded (examples.Encoded), config (GenerationConfig; without beams of one text), row (what its draws
    depend on), tokens (source, new: what it takes), and settled (whether nobody waits for it any more).

    open_search: from a GenerationConfig a numpy_search.Search. special: SpecialIds. budget: most tokens of all jobs
    together; a single one may take more. binding: binding.Binding of texts within their sources. adapted: whether jobs
    have adapter, too, the number of theirs.
    """

    def __init__(self, open_search, special, budget, binding=None, adapted=False):
        self.open_search, self.special, self.budget, self.binding = open_search, special, budget, binding
        self.adapted = adapted
        # Searches by structure; structure and job by the number under which a search knows it.
        self.searches, self.jobs, self.count = {}, {}, 0

    @property
    def running(self):
        """Jobs that are being decoded."""
        return [job for _, job in self.jobs.values()]

    def take(self, waiting):
        """Take out of a deque of jobs those that are to join at the next round: in their order, as many as fit."""
        taken, read, used = [], 0, sum(sum(job.tokens) for job in self.running)
        while waiting:
            job = waiting[0]
            source, new = job.tokens
            has_room = not (self.jobs or taken) or used + source + new <= self.budget
            if not job.settled and not (has_room and (not taken or read + source <= READ_TOGETHER)):
                break
            waiting.popleft()
            if not job.settled:
                taken.append(job)
                read, used = read + source, used + source + new
        return taken

    def round(self, newcomers, tell):
        """Give each text one more piece, and let newcomers join.

        tell(job, kind, value): ("piece", its id) of texts without beams, whereupon it says whether the text is to end
        with it; then ("done", Texts, the best first) or ("failed", exception). A job that is settled leaves at the next
        round.
        """
        joining = {}
        for job in newcomers:
            key, number = key_of(job.config), self.count
            self.jobs[number], self.count = (key, job), number + 1
            joining.setdefault(key, []).append(number)
        for key in dict.fromkeys(key for key, _ in self.jobs.values()):
            try:
                for found in self.advanced(key, joining.get(key, []), tell):
                    self.finish(found, tell)
            except Exception as error:
                self.fail(key, error, tell)
        self.forget()

    def forget(self):
        """Let go of searches without prompts, whose memory for keys and values is large, but for the one used last."""
        over = [key for key, search in self.searches.items() if search.is_over]
        for key in over[: len(over) - (len(over) == len(self.searches))]:
            del self.searches[key]

    def advanced(self, key, newcomers, tell):
        """Yield what is Found in a structure's search in a round; newcomers: numbers of jobs."""
        if key not in self.searches:
            self.searches[key] = self.open_search(searched(self.jobs[newcomers[0]][1].config))
        # In the order in which they were last used.
        self.searches[key] = search = self.searches.pop(key)
        # Beams tell no pieces, for none of them is sure before the end.
        search.on_token = None if search.config.num_beams > 1 else lambda *news: self.tell_pieces(*news, tell)
        gone = {number for number in search.keys if self.jobs[number][1].settled}
        search.drop(gone)
        for number in gone:
            del self.jobs[number]
        if not search.is_over:
            yield from search.step()
        elif newcomers:
            # The room that long prompts had is not needed any more.
            search.clear()
        if newcomers:
            yield from search.add(self.feeds([self.jobs[number][1] for number in newcomers], search.config), newcomers)

    def feeds(self, jobs, config):
        """What a search is fed for jobs; config: of the search."""
        encoded = [job.encoded for job in jobs]
        prompts = prompts_of(encoded, self.special.pad, self.binding if config.within_source else None)
        if self.adapted:
            prompts["adapters"] = np.array([job.adapter for job in jobs], "int64")
        return feeds_of_each(prompts, [job.config for job in jobs], [job.row for job in jobs], config)

    def tell_pieces(self, numbers, pieces, tell):
        """Tell the newest pieces of a search: which texts are to end with them."""
        pairs = zip(numbers.tolist(), pieces.tolist(), strict=True)
        return np.array([bool(tell(self.jobs[number][1], "piece", piece)) for number, piece in pairs], bool)

    def finish(self, found, tell):
        """Tell what is Found."""
        _, job = self.jobs.pop(found.key)
        if (found.ids == NOT_FINITE).any():
            tell(job, "failed", NotFiniteError([0]))
        else:
            each = None if found.each is None else found.each.tolist()
            tell(job, "done", texts_of(found.ids, found.values, job.config, self.special.eop, each))

    def fail(self, key, error, tell):
        """Tell all jobs of a structure that they have failed; the others go on."""
        if key in self.searches:
            self.searches[key].clear()
        for number in [number for number, (of, _) in self.jobs.items() if of == key]:
            tell(self.jobs.pop(number)[1], "failed", error)


def searched(config):
    """The GenerationConfig of the search that decodes one: without beams, of a search that may draw and penalize."""
    return config if config.num_beams > 1 else replace(config, do_sample=True, penalties=True)


def key_of(config):
    """What is equal for the prompts of a search."""
    return tuple(searched(config).structure.items())


def texts_of(ids, scores, config, end, each=None):
    """The Texts of a prompt, as many as its GenerationConfig asks for: of ids [texts, new], of which the piece `end`
    ends a text, and scores [texts] or None."""
    count = config.num_return_sequences if config.num_beams > 1 else 1
    scores = scores.tolist() if config.output_scores and scores is not None else [None] * len(ids)
    return [
        Text(without_padding(row, end), score, each if config.output_scores else None)
        for row, score in zip(ids.tolist()[:count], scores[:count], strict=True)
    ]


def without_padding(ids, end):
    """A list of ids up to the piece `end`, or whole."""
    return ids[: ids.index(end) + 1] if end in ids else ids
