"""Greedy search, sampling and beam search over one "next logits" step.

The loops are written in tensor operations and in one form of while, so the same code runs eagerly and is exported as a
static program. `step(tokens, number, cache)` stands for the model: it gives the logits that follow the tokens, and the
cache grown by one. Every random number comes in as an input: operators that draw cannot be seeded in all runtimes.
"""

import numpy as np
import paddle
import paddle.nn.functional as F

from generation_config import GenerationConfig, SpecialIds, check_positions, feeds, repeat_prompts

# Added to the score of what must not be chosen. Far below any sum of log probabilities, and finite: infinities turn
# into NaN as soon as two of them meet.
BANNED = -1e9
# A score that even a banned candidate beats.
IMPOSSIBLE = -1e18


class Decoder(paddle.nn.Layer):
    """A model and a way to search, as one layer from prompts to new ids.

    model: modeling.GLMForConditionalGeneration. config: GenerationConfig, of which only the structure is used; the rest
    comes as inputs. special_ids: SpecialIds.
    """

    def __init__(self, model, config, special_ids):
        super().__init__()
        self.model = model
        self.config = config
        self.special = special_ids
        banned = np.zeros(model.config.vocab_size, dtype="float32")
        banned[list(special_ids.banned)] = BANNED
        self.register_buffer("banned", paddle.to_tensor(banned), persistable=True)

    def forward(self, inputs):
        """Take the tensors that generation_config.input_names lists, by name; return ids [batch, texts, new] int64.

        texts is num_beams, best first. Texts end with <|endofpiece|> if they ended, then padding.
        """
        return self.decode(inputs)

    @paddle.jit.not_to_static
    def decode(self, inputs):
        """forward(), kept out of the translation of Python source into graphs: it needs none."""
        model = self.model
        num_beams = self.config.num_beams
        prefix = model.prefill(inputs["input_ids"], inputs["source_mask"], inputs["mask_index"])
        batch = paddle.shape(inputs["input_ids"])[0]
        cache = model.empty_cache(batch * num_beams)

        def step(tokens, number, cache):
            return model.decode_step(tokens, number, prefix, cache, num_beams)

        search = search_beams if num_beams > 1 else search_rows
        return search(step, cache, self.first_history(inputs, batch), inputs, self.config, self.special, self.banned)

    def first_history(self, inputs, batch):
        """What n-grams may not repeat before anything is generated, [batch * beams, at least 1] int64.

        It ends with the <|startofpiece|> that generation starts from.
        """
        start = paddle.full([batch, 1], self.special.sop, dtype="int64")
        if self.config.ban_source_ngrams:
            start = paddle.concat([inputs["input_ids"], start], axis=1)
        if self.config.num_beams > 1:
            start = start.unsqueeze(1).tile([1, self.config.num_beams, 1]).flatten(0, 1)
        return start


def while_loop(condition, body, variables):
    """Repeat body while condition holds; both take the variables. A Python loop eagerly, one operator when exported."""
    if paddle.in_dynamic_mode():
        while bool(condition(*variables)):
            variables = body(*variables)
        return variables
    return paddle.static.nn.while_loop(condition, body, variables)


def search_rows(step, cache, history, inputs, config, special, banned):
    """Greedy search, or sampling where config.do_sample: one text a prompt.

    step: see the module. cache: list of tensors. history: [batch, start] int64, ending with the first token to read.
    inputs: tensors by name. banned: [vocab] float32, added to logits.
    Returns ids [batch, 1, new] int64.
    """

    def unfinished(number, tokens, finished, history, *cache):
        return (number < inputs["max_new_tokens"]) & (paddle.min(finished, axis=[0], keepdim=True) < 1)

    def grow(number, tokens, finished, history, *cache):
        logits, cache = step(tokens, number, list(cache))
        logits = logits + banned
        logits = logits + ending_bias(logits, number, inputs["min_new_tokens"], special.eop)
        logits = logits + repeated_ngram_bias(history, config.no_repeat_ngram_size, logits)
        if config.do_sample:
            chosen = draw(filtered_probabilities(logits, inputs), noise_of_step(inputs["noise"], number))[:, 0]
        else:
            chosen = paddle.argmax(logits, axis=-1)
        chosen = paddle.where(finished > 0, paddle.full_like(chosen, special.pad), chosen)
        finished = paddle.maximum(finished, (chosen == special.eop).astype("int64"))
        return [number + 1, chosen, finished, paddle.concat([history, chosen.unsqueeze(1)], axis=1), *cache]

    # Each variable is a tensor of its own: an exported loop whose variables share one loses its results.
    rows, start = paddle.shape(history)[0], paddle.shape(history)[1]
    number = paddle.zeros([1], dtype="int64")
    state = [number, paddle.full([rows], special.sop, dtype="int64"), paddle.full([rows], 0, dtype="int64"), history]
    state = while_loop(unfinished, grow, [*state, *cache])
    return state[3][:, start:].unsqueeze(1)


def ending_bias(scores, number, min_new_tokens, eop):
    """[1, vocab] bias that forbids the end token while fewer than min_new_tokens have been generated."""
    too_early = (number < min_new_tokens).astype("float32") * BANNED
    is_end = (paddle.arange(scores.shape[-1], dtype="int64") == eop).astype("float32")
    return (too_early * is_end).unsqueeze(0)


def repeated_ngram_bias(history, size, scores):
    """Bias [rows, vocab] against pieces that would complete an n-gram already in the row's history (0 where size is 0).

    history: [rows, at least 1] int64. Every window of size - 1 pieces is compared with the newest size - 1; where they
    agree, the piece after the window is banned. Imaginary pieces in front keep every slice non-empty.
    """
    if not size:
        return 0.0
    rows = paddle.shape(history)[0]
    padded = paddle.concat([paddle.full([rows, size - 1], -1, dtype="int64"), history], axis=1) if size > 1 else history
    length = paddle.shape(padded)[1]
    following = padded[:, size - 1 :]
    repeats = following >= 0
    for offset in range(size - 1):
        newest = paddle.slice(padded, [1], [length - (size - 1) + offset], [length - (size - 1) + offset + 1])
        window = paddle.slice(padded, [1], [offset], [length - (size - 1) + offset])
        repeats = repeats & (window == newest)
    vocab = scores.shape[-1]
    row_numbers = paddle.arange(rows, dtype="int64").unsqueeze(1)
    flat_ids = (row_numbers * vocab + paddle.clip(following, min=0)).flatten()
    counts = paddle.scatter(
        paddle.zeros_like(scores).flatten(), flat_ids, repeats.astype("float32").flatten(), overwrite=False
    )
    return paddle.clip(counts, max=1.0).reshape([-1, vocab]) * BANNED


def filtered_probabilities(logits, inputs):
    """Probabilities [rows, vocab] at a temperature, cut to the top_k likeliest pieces and to the smallest set that
    reaches top_p; not renormalised, in descending order, with the piece ids [rows, vocab] beside them."""
    scores, ids = paddle.topk(logits / inputs["temperature"], logits.shape[-1], axis=-1)
    probabilities = F.softmax(scores, axis=-1)
    before = paddle.cumsum(probabilities, axis=-1) - probabilities
    rank = paddle.arange(logits.shape[-1], dtype="int64").unsqueeze(0)
    keep = (rank < inputs["top_k"]) | (inputs["top_k"] == 0)
    keep = keep & ((before < inputs["top_p"]) | (rank == 0))
    return probabilities * keep.astype("float32"), ids


def noise_of_step(noise, number):
    """The uniform numbers [rows, draws] of a step, from noise [rows, draws, steps]."""
    return paddle.gather(noise, number, axis=2).squeeze(2)


def draw(candidates, noise):
    """Draw without replacement by the inverse of the cumulative distribution.

    candidates: weights [rows, n] and ids [rows, n]. noise: [rows, draws], uniform in [0, 1).
    Returns ids [rows, draws]; a row with fewer candidates than draws is filled up with ids[:, 0].
    """
    weights, ids = candidates
    places = paddle.arange(weights.shape[-1], dtype="int64").unsqueeze(0)
    drawn = []
    for column in range(noise.shape[1]):
        cumulative = paddle.cumsum(weights, axis=-1)
        threshold = noise[:, column : column + 1] * cumulative[:, -1:]
        place = (cumulative <= threshold).astype("int64").sum(axis=-1, keepdim=True)
        place = paddle.minimum(place, (weights > 0).astype("int64") * places).max(axis=-1, keepdim=True)
        drawn.append(paddle.take_along_axis(ids, place, axis=-1))
        weights = weights * (places != place).astype("float32")
    return paddle.concat(drawn, axis=-1)


def search_beams(step, cache, history, inputs, config, special, banned):
    """Beam search as paddlenlp defines it; arguments as for search_rows. Returns ids [batch, num_beams, new] int64,
    best first.

    Every step extends each of the num_beams open texts by every piece and looks at the 2 * num_beams best extensions.
    Those that end, if they are among the first num_beams, compete for a place among the num_beams best finished texts;
    the first num_beams that do not end stay open. A prompt is done when no open text can beat its worst finished one.
    """
    num_beams = config.num_beams
    rows, start = paddle.shape(history)[0], paddle.shape(history)[1]
    batch = rows // num_beams

    def unfinished(number, tokens, done, *rest):
        return (number < inputs["max_new_tokens"]) & (paddle.min(done, axis=[0], keepdim=True) < 1)

    def grow(number, tokens, done, history, open_scores, finished_scores, finished, *cache):
        logits, cache = step(tokens, number, list(cache))
        bias = banned + ending_bias(logits, number, inputs["min_new_tokens"], special.eop)
        bias = bias + repeated_ngram_bias(history, config.no_repeat_ngram_size, logits)
        noise = noise_of_step(inputs["noise"], number) if config.do_sample else None
        scores, parents, pieces = best_extensions(logits, bias, open_scores, inputs, config, noise)
        texts = take_beams(history.reshape([batch, num_beams, -1]), parents)
        texts = paddle.concat([texts, pieces.unsqueeze(2)], axis=2)
        ends = pieces == special.eop

        penalty = length_penalty(number, inputs["length_penalty"])
        rewards = paddle.where(ends & (done < 1).unsqueeze(1), scores / penalty, paddle.full_like(scores, IMPOSSIBLE))
        padding = paddle.full([batch, num_beams, 1], special.pad, dtype="int64")
        finished_scores, finished = best_texts(
            paddle.concat([finished_scores, rewards[:, :num_beams]], axis=1),
            paddle.concat([paddle.concat([finished, padding], axis=2), texts[:, :num_beams]], axis=1),
            num_beams,
        )
        done = paddle.maximum(done, cannot_improve(finished_scores, scores[:, 0] / penalty, config.early_stopping))

        open_scores, kept = paddle.topk(paddle.where(ends, paddle.full_like(scores, IMPOSSIBLE), scores), num_beams)
        rows = beam_rows(paddle.take_along_axis(parents, kept, axis=1), num_beams)
        tokens = paddle.take_along_axis(pieces, kept, axis=1).flatten()
        history = take_beams(texts, kept).flatten(0, 1)
        cache = [paddle.gather(tensor, rows, axis=0) for tensor in cache]
        return [number + 1, tokens, done, history, open_scores, finished_scores, finished, *cache]

    state = while_loop(unfinished, grow, [*initial_beams(history, num_beams, special.sop), *cache])
    number, _, done, history, open_scores, finished_scores, finished = state[:7]
    still_open = open_scores / length_penalty(number, inputs["length_penalty"])
    still_open = still_open + done.astype("float32").unsqueeze(1) * IMPOSSIBLE
    _, texts = best_texts(
        paddle.concat([finished_scores, still_open], axis=1),
        paddle.concat([finished, history.reshape([batch, num_beams, -1])], axis=1),
        num_beams,
    )
    return texts[:, :, start:]


def initial_beams(history, num_beams, sop):
    """State of a beam search before its first step; history: [batch * beams, start] int64.

    Returns number [1], tokens [batch * beams], done [batch], history, open scores [batch, beams] (of the equal beams
    only the first may be extended), finished scores [batch, beams], finished texts [batch, beams, start].
    """
    rows = paddle.shape(history)[0]
    batch = rows // num_beams
    first = paddle.to_tensor([[0.0] + [BANNED] * (num_beams - 1)], dtype="float32")
    return [
        paddle.zeros([1], dtype="int64"),
        paddle.full([rows], sop, dtype="int64"),
        paddle.full([batch], 0, dtype="int64"),
        history,
        first + paddle.full([batch, 1], 0.0, dtype="float32"),
        paddle.full([batch, num_beams], IMPOSSIBLE, dtype="float32"),
        paddle.full([batch, num_beams, paddle.shape(history)[1]], 0, dtype="int64"),
    ]


def best_extensions(logits, bias, open_scores, inputs, config, noise):
    """The 2 * num_beams best extensions of the open texts, or as many drawn ones, best first.

    logits: [batch * beams, vocab]; bias: the same or [1, vocab]; open_scores: [batch, beams] log probabilities;
    noise: [batch, 2 * beams] for drawing, else None.
    Returns scores, parents (which beam), pieces, each [batch, 2 * beams].
    """
    num_beams, vocab = config.num_beams, logits.shape[-1]
    if config.do_sample:
        probabilities, ids = filtered_probabilities(logits + bias, inputs)
        log_probabilities = paddle.log(paddle.clip(probabilities, min=1e-30))
    else:
        log_probabilities = log_softmax(logits) + bias
    totals = (log_probabilities.reshape([-1, num_beams, vocab]) + open_scores.unsqueeze(2)).flatten(1)
    if not config.do_sample:
        scores, places = paddle.topk(totals, 2 * num_beams)
        return scores, places // vocab, places % vocab
    allowed = (probabilities > 0).astype("float32").reshape([-1, num_beams * vocab])
    everywhere = paddle.arange(num_beams * vocab, dtype="int64").unsqueeze(0) + paddle.zeros_like(totals, dtype="int64")
    drawn = draw((F.softmax(totals, axis=-1) * allowed, everywhere), noise)
    # With fewer candidates than draws some come again. They must lose, or equal beams would stay equal to the end.
    same = (drawn.unsqueeze(2) == drawn.unsqueeze(1)).astype("float32")
    repeated = paddle.clip(paddle.tril(same, -1).sum(axis=2), max=1.0)
    scores, order = paddle.topk(paddle.take_along_axis(totals, drawn, axis=1) + repeated * BANNED, 2 * num_beams)
    places = paddle.take_along_axis(drawn, order, axis=1)
    pieces = paddle.take_along_axis(ids.reshape([-1, num_beams * vocab]), places, axis=1)
    return scores, places // vocab, pieces


def log_softmax(logits):
    """log softmax over the last axis. F.log_softmax takes seconds for a large vocabulary on CPU; this, milliseconds."""
    shifted = logits - logits.max(axis=-1, keepdim=True)
    return shifted - paddle.log(paddle.exp(shifted).sum(axis=-1, keepdim=True))


def length_penalty(number, exponent):
    """((length + 5) / 6) ** exponent for texts of `number` pieces before their end, [1]."""
    return ((number.astype("float32") + 5.0) / 6.0) ** exponent


def best_texts(scores, texts, count):
    """The `count` best of scores [batch, n] with their texts [batch, n, length], best first."""
    scores, places = paddle.topk(scores, count)
    return scores, take_beams(texts, places)


def cannot_improve(finished_scores, best_open, early_stopping):
    """1 for each prompt [batch] that has num_beams finished texts, none of which an open text can still displace."""
    worst = finished_scores.min(axis=1)
    full = worst > IMPOSSIBLE / 2
    return (full if early_stopping else full & (worst >= best_open)).astype("int64")


def take_beams(texts, places):
    """texts [batch, n, length] at places [batch, m]: [batch, m, length]."""
    count = texts.shape[1]
    return paddle.gather(texts.flatten(0, 1), beam_rows(places, count), axis=0).reshape(
        [paddle.shape(places)[0], places.shape[1], paddle.shape(texts)[2]]
    )


def beam_rows(places, count):
    """Row numbers, in a tensor with `count` rows a prompt, of places [batch, m] within each prompt: [batch * m]."""
    first = paddle.arange(paddle.shape(places)[0], dtype="int64").unsqueeze(1) * count
    return (first + places).flatten()


def generate(
    model,
    input_ids,
    position_ids,
    attention_mask,
    *,
    special_ids=None,
    eos_token_id=None,
    pad_token_id=None,
    bad_token_ids=(),
    **choices,
):
    """Generate from prompts laid out as paddlenlp's GLM tokenizers do.

    input_ids: [batch, source + 1] int64, sources padded on the right, then <|startofpiece|>.
    position_ids: [batch, 2, at least source + 1]; attention_mask: [batch, 1, at least source + 1, at least source].
    eos_token_id: what ends a text (<|endofpiece|>); pad_token_id: what fills rows up; bad_token_ids: never produced.
    choices: fields of GenerationConfig; as in paddlenlp, n-grams of the source may not be repeated either.
    Returns ids [batch * num_return_sequences, new] int64.
    """
    config = GenerationConfig(**{"ban_source_ngrams": True, **choices})
    source = input_ids.shape[1] - 1
    special = special_ids or SpecialIds(int(input_ids[0, -1]), eos_token_id, pad_token_id, tuple(bad_token_ids))
    prompts = {
        "input_ids": input_ids[:, :source].numpy(),
        "source_mask": attention_mask[:, 0, source, :source].astype("float32").numpy(),
        "mask_index": position_ids[:, 0, source].numpy(),
    }
    return paddle.to_tensor(run(Decoder(model, config, special), prompts, config))


def run(decoder, prompts, config, row_ids=None):
    """Decode prompts (numpy arrays by name) with a Decoder; ids [batch * num_return_sequences, new], numpy int64.

    Raises UserError, before any work, if the positions of a prompt or of what is generated exceed the model's tables.
    """
    check_positions(decoder.model.config.max_sequence_length + 1, prompts["input_ids"].shape[1], config.max_new_tokens)
    row_ids = range(len(prompts["input_ids"])) if row_ids is None else row_ids
    prompts, row_ids = repeat_prompts(prompts, row_ids, config)
    tensors = {name: paddle.to_tensor(array) for name, array in feeds(prompts, config, row_ids).items()}
    with paddle.no_grad():
        texts = decoder(tensors).numpy()
    if config.num_beams > 1:
        texts = texts[:, : config.num_return_sequences]
    return texts.reshape([-1, texts.shape[-1]])
