"""Greedy search, sampling and beam search over one "next logits" step.

The loops are written in tensor operations and in one form of while, so the same code runs eagerly and is exported as a
static program. Every random number comes in as an input: operators that draw cannot be seeded in all runtimes.

What a model remembers is a list of tensors with one entry a token along axis 2, its keys and values. They come in two
parts: `settled`, at first the source's, and `recent`, which grows by every step. Growing copies all of a tensor, so
recent ones are short, and join the settled ones now and then. All texts of a prompt share them: `lineage` says which
entries are a text's own, and a beam that is copied or dropped moves no keys and values.
"""

from typing import NamedTuple

import paddle

from glm.decoding import scores, within
from glm.decoding.generation_config import BANNED, IMPOSSIBLE, NOT_FINITE, OUTSIDE, PENALTIES
from glm.ops.control_flow import while_loop

# Where `fixed` has the edges that texts are bound to; in front of them are a model's own.
EDGES = 1
# Steps after which recent entries join the settled ones.
SETTLE_AFTER = 64


class Model(NamedTuple):
    """The model as a search sees it.

    step(tokens, number, settled, recent, fixed, lineage) → (logits, recent): read the token number `number` [1] int64
        of each text, tokens [prompts, texts] int64; give the logits [prompts * texts, vocab] of the next, and recent
        entries with those of the tokens added. lineage: [prompts, texts, all entries, the tokens' own too] float32, 1
        where an entry belongs to the text and 0 elsewhere.
    empty(prompts): recent entries before the first step; prompts: int32 tensor [].
    """

    step: object
    empty: object


class Rules(NamedTuple):
    """What a search has to obey.

    config: GenerationConfig, of which only the structure counts. special: SpecialIds.
    limits: tensors by name as generation_config.feeds() names them.
    banned, ending: [vocab] float32, BANNED at what may never be produced, and at the end piece alone.
    on_token: called after each step of a search without beams with the numbers of the prompts that are still decoded
        and their newest pieces, numpy int64; None in exported programs.
    """

    config: object
    special: object
    limits: dict
    banned: paddle.Tensor
    ending: paddle.Tensor
    on_token: object = None

    @property
    def lost(self):
        """The score of what may be looked at and must not win, such as equal texts."""
        return OUTSIDE if self.config.within_source else BANNED

    def exist(self, totals):
        """Whether there are texts of such log probabilities, a tensor of bool: where texts are bound, not beside
        them."""
        return totals > (OUTSIDE / 2 if self.config.within_source else IMPOSSIBLE)

    def biased(self, logits, number, state, fixed):
        """Logits [rows, vocab], lowered for what may not come next. state: Rows or Beams; fixed: as of search()."""
        too_early = (number < self.limits["min_new_tokens"]).astype("float32")
        bias, size = self.banned + too_early * self.ending, self.config.no_repeat_ngram_size
        history = state.history
        if size or self.config.penalties:
            history = history.reshape([-1, paddle.shape(history)[-1]])
        if self.config.penalties:
            logits = scores.penalized(logits, history, number, *(self.limits[name] for name in PENALTIES))
        if not self.config.within_source:
            return scores.ban_repeated_ngrams(logits + bias, history, size)
        room = self.limits["max_new_tokens"] - number - 1
        bans = scores.ban_repeated_ngrams(paddle.zeros_like(logits) + bias, history, size) if size else bias
        return within.bound(logits, state.places, fixed[EDGES], room, bans, self.special.pad)

    def first_places(self, fixed, prompts):
        """Where texts are in their prompts' edges before the first piece; without edges, a number for each prompt."""
        if self.config.within_source:
            return within.first_places(fixed[EDGES], self.config.num_beams)
        return paddle.full([prompts, 1, 1], 0.0, dtype="float32")

    def followed(self, places, fixed, pieces):
        """Places after pieces [prompts, texts]."""
        return within.followed(places, fixed[EDGES], pieces) if self.config.within_source else places + 0.0

    def probabilities(self, logits):
        """The distribution to draw from, [rows, vocab], of biased logits."""
        return scores.kept_probabilities(logits, *(self.limits[name] for name in ("temperature", "top_k", "top_p")))


class Rows(NamedTuple):
    """State of a search that follows one text a prompt.

    done: [prompts] int64, 1 where the text has ended; bad: the same, where it had to, for its logits were not finite.
    lineage: [prompts, 1, entries] float32. history: [prompts, n] int64: what came before, then the text. total:
    [prompts] float32, its log probability; 0 where nobody asked for it. places: see within; of no meaning without
    edges.
    """

    done: paddle.Tensor
    bad: paddle.Tensor
    lineage: paddle.Tensor
    history: paddle.Tensor
    total: paddle.Tensor
    places: paddle.Tensor


class Beams(NamedTuple):
    """State of a beam search.

    done, bad: as of Rows. lineage: [prompts, beams, entries] float32, of the open texts; history: [prompts, beams, n]
        int64: what came before, then the open texts; open_scores: [prompts, beams], their log probabilities.
    finished, finished_scores: the best texts that have ended, like history and open_scores; their scores are divided by
        the length penalty. places: of the open texts, as of Rows.
    """

    done: paddle.Tensor
    bad: paddle.Tensor
    lineage: paddle.Tensor
    history: paddle.Tensor
    open_scores: paddle.Tensor
    finished: paddle.Tensor
    finished_scores: paddle.Tensor
    places: paddle.Tensor


def search(model, source, fixed, visible, history, rules):
    """Texts for prompts: ids [prompts, texts, new] int64, best first, padded after their ends, NOT_FINITE where logits
    were no finite numbers; and their scores, [prompts, texts] float32, see GenerationConfig.output_scores.

    model: Model. source: list of tensors, what it remembers of the sources. fixed: list of other tensors that it needs,
    number EDGES the edges if rules.config.within_source, the last one the noise if rules.config.do_sample. visible:
    [prompts, entries of source] float32, 0 at padding. history: [prompts, start] int64, what n-grams may not repeat,
    ending with the first token to read.
    All have one entry a prompt along the first axis.
    """
    if rules.config.num_beams > 1:
        grow, finish, state = grow_beams, finish_beams, first_beams(visible, history, fixed, rules)
    else:
        grow, finish, state = grow_rows, finish_rows, first_rows(visible, history, fixed, rules)
    split = Parts(type(state), len(source), len(fixed))
    limit, start = rules.limits["max_new_tokens"], paddle.shape(history)[1]

    def any_open(number, output, values, slots, *variables):
        state, _, _ = split(variables)
        return (number < limit) & (paddle.min(state.done, axis=[0], keepdim=True) < 1)

    def decode_stretch(number, output, values, slots, *variables):
        state, settled, fixed = split(variables)
        stop = paddle.minimum(limit, number + SETTLE_AFTER)

        def mostly_open(number, done, *rest):
            # Fewer prompts make faster steps, but each time some leave, all that is kept is copied.
            count = paddle.sum(done, axis=[0], keepdim=True)
            return (number < stop) & (count * 4 < paddle.shape(done)[0].astype("int64"))

        def decode_one(number, *variables):
            state, recent, _ = split(variables)
            state, recent = grow(model.step, number, settled, recent, fixed, state, rules)
            if rules.on_token is not None:
                rules.on_token(slots.numpy(), state.history[:, -1].numpy())
            return [number + 1, *state, *recent]

        recent = model.empty(paddle.shape(state.done)[0])
        number, *variables = while_loop(mostly_open, decode_one, [number + 0, *state, *recent])
        state, recent, _ = split(variables)
        texts, totals = finish(number, state, rules)
        texts = paddle.where(state.bad.reshape([-1, 1, 1]) > 0, paddle.full_like(texts, NOT_FINITE), texts)
        texts = texts[:, :, start:]
        if rules.config.within_source:
            texts = without_lost(texts, totals, rules)
        output = put_texts(output, slots, texts, rules.special.pad)
        values = paddle.scatter(values, slots, totals)
        settled = [paddle.concat(pair, axis=2) for pair in zip(settled, recent, strict=True)]
        kept = open_prompts(state.done)
        return [number, output, values, *(paddle.gather(tensor, kept) for tensor in (slots, *state, *settled, *fixed))]

    prompts = paddle.shape(history)[0]
    output = paddle.full([prompts, rules.config.num_beams, paddle.zeros([], dtype="int32")], 0, dtype="int64")
    values = paddle.full([prompts, rules.config.num_beams], 0.0, dtype="float32")
    slots = paddle.arange(prompts, dtype="int64")
    variables = [paddle.zeros([1], dtype="int64"), output, values, slots, *state, *source, *fixed]
    return while_loop(any_open, decode_stretch, variables)[1:3]


class Parts(NamedTuple):
    """Takes the variables of a loop apart: a state of a kind, entries (settled or recent), and what is fixed."""

    kind: type
    entries: int
    fixed: int

    def __call__(self, variables):
        fields = len(self.kind._fields)
        variables = list(variables)
        return (
            self.kind(*variables[:fields]),
            variables[fields : fields + self.entries],
            variables[fields + self.entries :],
        )


def without_lost(texts, values, rules):
    """Texts [prompts, texts, new], empty where their values [prompts, texts] are those of texts that do not exist."""
    place = paddle.arange(paddle.shape(texts)[2], dtype="int64")
    empty = paddle.where(place < 1, rules.special.eop + 0 * place, rules.special.pad + 0 * place)
    # Where logits were no numbers, that is to be seen.
    lost = (values < IMPOSSIBLE / 2) & (texts[:, :, 0] != NOT_FINITE)
    return paddle.where(lost.unsqueeze(2), empty + 0 * texts, texts)


def put_texts(output, slots, texts, pad):
    """output [all prompts, texts, old length] made as long as texts [prompts, texts, length], which go to slots."""
    missing = paddle.shape(texts)[2] - paddle.shape(output)[2]
    padding = paddle.full([paddle.shape(output)[0], output.shape[1], missing], pad, dtype="int64")
    return paddle.scatter(paddle.concat([output, padding], axis=2), slots, texts)


def open_prompts(done):
    """Places where done [prompts] is 0, or one place if there is none: a tensor without entries would need care."""
    count = paddle.clip(paddle.sum(1 - done, axis=[0]), min=1)
    return paddle.slice(paddle.argsort(done), [0], [0], [count])


def first_rows(visible, history, fixed, rules):
    """Rows before the first step; see search()."""
    done = paddle.full([paddle.shape(history)[0]], 0, dtype="int64")
    return Rows(
        done=done,
        bad=done + 0,
        lineage=visible.unsqueeze(1),
        history=history,
        total=paddle.full([paddle.shape(history)[0]], 0.0, dtype="float32"),
        places=rules.first_places(fixed, paddle.shape(history)[0]),
    )


def grow_rows(step, number, settled, recent, fixed, rows, rules):
    """One more piece for each text that has not ended, the likeliest or a drawn one: (Rows, recent entries)."""
    lineage = paddle.concat([rows.lineage, paddle.ones_like(rows.lineage[:, :, :1])], axis=2)
    logits, recent = step(rows.history[:, -1:], number, settled, recent, fixed, lineage)
    plain, logits = logits, rules.biased(logits, number, rows, fixed)
    if rules.config.do_sample:
        chosen = scores.draw(rules.probabilities(logits), scores.noise_of_step(fixed[-1], number))[:, 0]
    else:
        chosen = paddle.argmax(logits, axis=-1)
    total = rows.total
    if rules.config.output_scores:
        total = total + scores.log_probability(plain, chosen) * (1 - rows.done).astype("float32")
    chosen = paddle.where(rows.done > 0, paddle.full_like(chosen, rules.special.pad), chosen)
    bad = paddle.maximum(rows.bad, scores.not_finite(plain) * (1 - rows.done))
    done = paddle.maximum(rows.done, paddle.maximum(bad, (chosen == rules.special.eop).astype("int64")))
    history = paddle.concat([rows.history, chosen.unsqueeze(1)], axis=1)
    places = rules.followed(rows.places, fixed, chosen.unsqueeze(1))
    return Rows(done, bad, lineage, history, total, places), recent


def finish_rows(number, rows, rules):
    """[prompts, 1, n]: history and text; [prompts, 1]: its score."""
    return rows.history.unsqueeze(1), rows.total.unsqueeze(1)


def first_beams(visible, history, fixed, rules):
    """Beams before the first step; see search(). Of the equal beams only the first may be extended."""
    beams = rules.config.num_beams
    prompts, start = paddle.shape(history)[0], paddle.shape(history)[1]
    first = paddle.to_tensor([[0.0] + [rules.lost] * (beams - 1)], dtype="float32")
    return Beams(
        done=paddle.full([prompts], 0, dtype="int64"),
        bad=paddle.full([prompts], 0, dtype="int64"),
        lineage=visible.unsqueeze(1).tile([1, beams, 1]),
        history=history.unsqueeze(1).tile([1, beams, 1]),
        open_scores=first + paddle.full([prompts, 1], 0.0, dtype="float32"),
        finished=paddle.full([prompts, beams, start], 0, dtype="int64"),
        finished_scores=paddle.full([prompts, beams], IMPOSSIBLE, dtype="float32"),
        places=rules.first_places(fixed, prompts),
    )


def grow_beams(step, number, settled, recent, fixed, beams, rules):
    """One step of beam search as paddlenlp defines it: (Beams, recent entries).

    Each of the num_beams open texts is extended by every piece, and the 2 * num_beams best extensions (or as many drawn
    ones) are looked at. Those that end, if they are among the first num_beams, compete for a place among the num_beams
    best finished texts; the first num_beams that do not end stay open. A prompt is done when no open text can beat its
    worst finished one.
    """
    config, count = rules.config, rules.config.num_beams
    tokens = beams.history[:, :, -1]
    lineage = paddle.concat([beams.lineage, own_entries(beams, count)], axis=2)
    logits, recent = step(tokens, number, settled, recent, fixed, lineage)
    totals, parents, pieces = extensions(logits, number, fixed, beams, rules)
    texts = paddle.concat([take_beams(beams.history, parents), pieces.unsqueeze(2)], axis=2)
    ends = pieces == rules.special.eop

    penalty = scores.length_penalty(number, rules.limits["length_penalty"])
    impossible = paddle.full_like(totals, IMPOSSIBLE)
    counts = ends & (beams.done < 1).unsqueeze(1) & rules.exist(totals)
    rewards = paddle.where(counts, totals / penalty, impossible)
    padding = paddle.full_like(tokens, rules.special.pad).unsqueeze(2)
    finished_scores, finished = best_texts(
        paddle.concat([beams.finished_scores, rewards[:, :count]], axis=1),
        paddle.concat([paddle.concat([beams.finished, padding], axis=2), texts[:, :count]], axis=1),
        count,
    )
    bad = scores.not_finite(logits).reshape([-1, count]).max(axis=1)
    bad = paddle.maximum(beams.bad, bad * (1 - beams.done))
    done = paddle.maximum(beams.done, cannot_improve(finished_scores, totals[:, 0] / penalty, config.early_stopping))
    done = paddle.maximum(done, bad)

    open_scores, kept = paddle.topk(paddle.where(ends, impossible, totals), count)
    parents = paddle.take_along_axis(parents, kept, axis=1)
    places = beams.places
    if config.within_source:
        places = take_beams(places, parents)
        # There may be fewer texts than beams.
        done = paddle.maximum(done, 1 - rules.exist(open_scores[:, 0]).astype("int64"))
    return (
        Beams(
            done=done,
            bad=bad,
            history=take_beams(texts, kept),
            open_scores=open_scores,
            lineage=take_beams(lineage, parents),
            places=rules.followed(places, fixed, paddle.take_along_axis(pieces, kept, axis=1)),
            finished=finished,
            finished_scores=finished_scores,
        ),
        recent,
    )


def extensions(logits, number, fixed, beams, rules):
    """What scores.best_extensions() or, with sampling, drawn_extensions() gives of logits [prompts * beams, vocab]."""
    normalizers = scores.log_normalizer(logits)
    if rules.config.penalties:
        # What is multiplied is to be of one sign, and the same whatever the logits' zero is.
        logits, normalizers = logits - normalizers, normalizers * 0.0
    biased = rules.biased(logits, number, beams, fixed)
    if not rules.config.do_sample:
        return scores.best_extensions(normalizers, biased, beams.open_scores)
    noise = scores.noise_of_step(fixed[-1], number)
    return scores.drawn_extensions(rules.probabilities(biased), beams.open_scores, noise, rules.lost)


def own_entries(beams, count):
    """Lineage [prompts, beams, beams] of the newest pieces: each belongs to its own text alone."""
    own = paddle.eye(count, dtype="float32")
    return own + paddle.full([paddle.shape(beams.done)[0], 1, 1], 0.0, dtype="float32")


def finish_beams(number, beams, rules):
    """[prompts, beams, n]: history and texts, best first: what has ended, and what is open where that may still win;
    [prompts, beams]: their scores."""
    still_open = beams.open_scores / scores.length_penalty(number, rules.limits["length_penalty"])
    still_open = paddle.where(rules.exist(beams.open_scores), still_open, paddle.full_like(still_open, IMPOSSIBLE))
    still_open = still_open + beams.done.astype("float32").unsqueeze(1) * IMPOSSIBLE
    values, texts = best_texts(
        paddle.concat([beams.finished_scores, still_open], axis=1),
        paddle.concat([beams.finished, beams.history], axis=1),
        rules.config.num_beams,
    )
    return texts, values


def best_texts(values, texts, count):
    """The `count` best of values [prompts, n] with their texts [prompts, n, length], best first."""
    values, places = paddle.topk(values, count)
    return values, take_beams(texts, places)


def cannot_improve(finished_scores, best_open, early_stopping):
    """1 for each prompt [prompts] that has num_beams finished texts, none of which an open text can still displace."""
    worst = finished_scores.min(axis=1)
    full = worst > IMPOSSIBLE / 2
    return (full if early_stopping else full & (worst >= best_open)).astype("int64")


def take_beams(texts, places):
    """texts [prompts, n, length] at places [prompts, m]: [prompts, m, length]."""
    prompts = paddle.shape(places)[0]
    rows = paddle.arange(prompts, dtype="int64").unsqueeze(1) * texts.shape[1] + places
    taken = paddle.gather(texts.flatten(0, 1), rows.flatten())
    return taken.reshape([prompts, places.shape[1], paddle.shape(texts)[2]])
