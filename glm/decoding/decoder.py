"""A model and a search as one: Decoder, the layer that is exported, and generate().

Decoder takes what generation_config.feeds() makes and gives ids, eagerly and as a static program. SearchLayer is the
part of it that knows nothing of the model.
"""

import numpy as np
import paddle
from paddle.base.framework import EagerParamBase

from glm.decoding import scores
from glm.decoding.generation_config import PROMPT, GenerationConfig, SpecialIds, answered, check_positions
from glm.decoding.search import Model, Rules, search
from glm.errors import UserError
from glm.ops import device
from glm.ops.dtypes import of_dtype
from glm.ops.strides import without_views


class SearchLayer(paddle.nn.Layer):
    """A way to search, as a layer from prompts to new ids; its subclasses have the model.

    config: GenerationConfig, of which only the structure is used; the rest comes as inputs. special_ids: SpecialIds.
    vocab_size: rows of the embeddings. on_token: see search.Rules.

    A subclass has prefill(input_ids, source_mask, mask_index) → (entries, what of a prompt does not change), step() and
    empty_cache() as search.Model takes them; see modeling.GLMForConditionalGeneration for their shapes.
    """

    def __init__(self, config, special_ids, vocab_size, on_token=None):
        super().__init__()
        self.config = config
        self.special = special_ids
        self.on_token = on_token
        self.register_buffer("banned", scores.bias_of(special_ids.banned, vocab_size))
        self.register_buffer("ending", scores.bias_of([special_ids.eop], vocab_size))

    def forward(self, inputs):
        """Take the tensors that generation_config.input_names lists, by name; return ids [batch, texts, new] int64,
        with config.output_scores a pair of them and of scores [batch, texts] float32.

        texts is num_beams, best first. Texts end with <|endofpiece|> if they ended, then padding.
        """
        return self.decode(inputs)

    @paddle.jit.not_to_static
    def decode(self, inputs):
        """forward(), kept out of the translation of Python source into graphs: it needs none."""
        source, of_prompt = self.prefill(inputs["input_ids"], inputs["source_mask"], inputs["mask_index"])
        given = [name for name in ("edges", "noise") if name in inputs]
        fixed = [of_prompt, *(inputs[name] + 0 for name in given)]  # an input must not become a variable of a loop
        rules = Rules(self.config, self.special, inputs, self.banned, self.ending, self.on_token)
        seen = inputs["source_mask"] + 0.0
        model = Model(self.step, self.empty_cache)
        texts, values = search(model, source, fixed, seen, self.first_history(inputs), rules)
        return (texts, values) if self.config.output_scores else texts

    def first_history(self, inputs):
        """What n-grams may not repeat before anything is generated, [batch, at least 1] int64.

        It ends with the <|startofpiece|> that generation starts from.
        """
        start = paddle.full([paddle.shape(inputs["input_ids"])[0], 1], self.special.sop, dtype="int64")
        if self.config.ban_source_ngrams:
            start = paddle.concat([inputs["input_ids"], start], axis=1)
        return start


class Decoder(SearchLayer):
    """A model and a way to search.

    model: modeling.GLMForConditionalGeneration. The rest: see SearchLayer.

    for_cpu: whether the head is kept a second time, as [hidden, vocab]: a step reads all of it, and on CPU that is up
    to twice as fast as from [vocab, hidden]. Default: where this process computes on CPU. head: that of another Decoder
    of the model, to be used here, too.

    The model may be of half precision. Logits are float32 in any case, and so is all that a search makes of them: sums
    of log probabilities, and what keeps pieces from being chosen, are more than halves can hold.
    """

    def __init__(self, model, config, special_ids, on_token=None, for_cpu=None, head=None):
        super().__init__(config, special_ids, model.config.vocab_size, on_token)
        self.model = model
        for_cpu = not device.takes_gpu_branches() if for_cpu is None else for_cpu
        if for_cpu and head is None:
            head = transposed(model.glm.word_embeddings.weight)
        self.head = head

    def prefill(self, input_ids, source_mask, mask_index):
        """See GLMForConditionalGeneration.prefill."""
        return self.model.prefill(input_ids, source_mask, mask_index)

    def empty_cache(self, prompts):
        """See GLMForConditionalGeneration.empty_cache."""
        return self.model.empty_cache(prompts)

    def step(self, tokens, number, settled, recent, fixed, lineage):
        """Logits [prompts * texts, vocab] of the pieces after `tokens`, and the recent keys and values; see
        GLMForConditionalGeneration.decode_step."""
        hidden, recent = self.model.decode_step(tokens, number, settled, recent, fixed[0], lineage)
        return self.model.ranks.columns(self.logits(hidden.flatten(0, 1))), recent

    def logits(self, hidden):
        """Logits [texts, a rank's pieces] float32 of hidden states [texts, hidden]."""
        if self.head is not None:
            return paddle.matmul(hidden, self.head)
        weight = self.model.glm.word_embeddings.weight
        return of_dtype(paddle.matmul(hidden, weight, transpose_y=True), paddle.float32)


def transposed(weight):
    """A frozen parameter [columns, rows] of one of [rows, columns]; by NumPy, which is faster at it."""
    tensor = paddle.to_tensor(np.ascontiguousarray(weight.numpy().T))
    return EagerParamBase.from_tensor(tensor, trainable=False)


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
    stream=None,
    **choices,
):
    """Generate from prompts laid out as paddlenlp's GLM tokenizers do.

    input_ids: [batch, source + 1] int64, sources padded on the right, then <|startofpiece|>.
    position_ids: [batch, 2, at least source + 1]. attention_mask: [batch, 1, at least source + 1, at least source], or
    [batch] int64, the number of real source tokens.
    eos_token_id: what ends a text (<|endofpiece|>); pad_token_id: what fills rows up; bad_token_ids: never produced.
    stream: without beams, called after each step with the newest ids [batch * num_return_sequences], numpy int64;
    pad_token_id for texts that have ended.
    choices: fields of GenerationConfig; as in paddlenlp, n-grams of the source may not be repeated either.
    Returns ids [batch * num_return_sequences, new] int64, with output_scores a pair of them and of scores [batch *
    num_return_sequences] float32. Raises UserError.
    """
    config = GenerationConfig(**{"ban_source_ngrams": True, **choices})
    if stream is not None and config.num_beams > 1:
        raise UserError("stream shows tokens as they are chosen; with num_beams above 1 they are chosen at the end")
    source = input_ids.shape[1] - 1
    special = special_ids or SpecialIds(int(input_ids[0, -1]), eos_token_id, pad_token_id, tuple(bad_token_ids))
    if attention_mask.ndim == 1:
        real = np.arange(source) < attention_mask.numpy()[:, None]
    else:
        real = attention_mask[:, 0, source, :source].numpy()
    prompts = {
        "input_ids": input_ids[:, :source].numpy(),
        "source_mask": real.astype("float32"),
        "mask_index": position_ids[:, 0, source].numpy(),
    }

    def on_token(prompt_numbers, pieces):
        ids = np.full([input_ids.shape[0] * config.num_return_sequences], special.pad)
        ids[prompt_numbers] = pieces
        stream(ids)

    decoder = Decoder(model, config, special, on_token if stream else None)
    found = run(decoder, prompts, config)
    return tuple(map(paddle.to_tensor, found)) if config.output_scores else paddle.to_tensor(found)


def run(decoder, prompts, config, row_ids=None):
    """Decode prompts (numpy arrays by name) with a Decoder; ids [batch * num_return_sequences, new], numpy int64, with
    config.output_scores a pair of them and of scores [batch * num_return_sequences].

    Raises UserError, before any work, if the positions of a prompt or of what is generated exceed the model's tables.
    """
    check_positions(decoder.model.config.max_sequence_length + 1, prompts["input_ids"].shape[1], config.max_new_tokens)
    # All prompts of a batch have the same limits here.
    prompts = {name: prompts[name] for name in PROMPT if name in prompts}
    return answered(lambda arrays: decoded(decoder, arrays), prompts, config, row_ids)


def decoded(decoder, arrays):
    """The arrays that a SearchLayer gives for arrays by input name: [ids], with its config.output_scores [ids,
    scores]; see SearchLayer.forward."""
    tensors = {name: paddle.to_tensor(array) for name, array in arrays.items()}
    with paddle.no_grad(), without_views():
        found = decoder(tensors)
    return [tensor.numpy() for tensor in (found if decoder.config.output_scores else [found])]
