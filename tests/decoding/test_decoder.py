"""Decoding with a model: against paddlenlp's generate(), against single rows, and against its own limits."""

import numpy as np
import paddle
import pytest
from paddlenlp.generation.logits_process import NoRepeatNGramLogitsProcessor

from glm.decoding.decoder import Decoder, generate, run
from glm.decoding.generation_config import GenerationConfig
from glm.errors import UserError
from tests.helpers import models

LENGTHS = (16, 11, 20)
NEW = 14


@pytest.fixture(scope="module")
def model():
    return models.make_model()


@pytest.fixture(scope="module")
def stock(model):
    return models.stock_twin(model)


def layout_of_paddlenlp(prompts, new):
    """input_ids, position_ids and attention_mask as stock generate() wants them, prepared for `new` more pieces."""
    ids, real = prompts["input_ids"], prompts["source_mask"].astype("int64")
    batch, source = ids.shape
    total = source + new
    positions = np.zeros([batch, 2, total], "int64")
    positions[:, 0, :source] = np.arange(source)
    positions[:, 0, source:] = prompts["mask_index"][:, None]
    positions[:, 1, source:] = np.arange(1, new + 1)
    mask = np.zeros([batch, 1, total, total], "int64")
    mask[:, 0, :, :source] = real[:, None, :]
    mask[:, 0, source:, source:] = np.tril(np.ones([new, new]))
    started = np.concatenate([ids, np.full([batch, 1], models.SOP)], axis=1)
    return [paddle.to_tensor(array) for array in (started, positions, mask)]


@pytest.fixture(autouse=True, scope="module")
def sound_bans():
    """On paddle 3, writing to places [row, columns] of a view of a tensor writes elsewhere, at worst into the memory of
    another. paddlenlp's bans do that to logits, which are a view: here they get a copy."""
    ban = NoRepeatNGramLogitsProcessor.__call__
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(NoRepeatNGramLogitsProcessor, "__call__", lambda self, ids, logits: ban(self, ids, logits + 0))
        yield


def stock_texts(stock, inputs, eop, **choices):
    """Texts of paddlenlp's generate(), end piece included."""
    ids, positions, mask = inputs
    ids, _ = stock.generate(
        ids,
        position_ids=positions,
        attention_mask=mask,
        max_new_tokens=NEW,
        eos_token_id=eop,
        pad_token_id=models.PAD,
        decode_strategy="beam_search" if choices.get("num_beams", 1) > 1 else "greedy_search",
        **choices,
    )
    return models.trimmed(ids.numpy(), eop)


def our_texts(model, inputs, eop, **choices):
    ids = generate(model, *inputs, eos_token_id=eop, pad_token_id=models.PAD, max_new_tokens=NEW, **choices)
    return models.trimmed(ids.numpy(), eop)


@pytest.fixture(scope="module")
def inputs():
    return layout_of_paddlenlp(models.random_prompts(LENGTHS), NEW)


@pytest.fixture(scope="module")
def eop(model, inputs):
    """A piece that greedy search produces in the middle of a text, to play the end piece."""
    ids = generate(model, *inputs, eos_token_id=-1, pad_token_id=models.PAD, max_new_tokens=NEW).numpy()
    return int(ids[0, 5])


@pytest.mark.parametrize(
    "choices", [{}, {"min_new_tokens": 9}, {"no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 1}]
)
def test_greedy_search_gives_the_texts_of_paddlenlp(model, stock, inputs, eop, choices):
    expected = stock_texts(stock, inputs, eop, **choices)
    assert our_texts(model, inputs, eop, **choices) == expected
    assert choices or any(text[-1] == eop and len(text) < NEW for text in expected)


@pytest.mark.parametrize("num_beams", [2, 5])
@pytest.mark.parametrize(
    "choices",
    [
        {"length_penalty": 0.0, "early_stopping": False},
        {"length_penalty": 0.0, "early_stopping": True},
        {"length_penalty": 1.0, "early_stopping": False},
        {"length_penalty": 1.0, "early_stopping": True},
        {"length_penalty": 1.0, "min_new_tokens": 8},
        {"length_penalty": 0.5, "no_repeat_ngram_size": 1},
    ],
)
def test_beam_search_gives_the_texts_of_paddlenlp(model, stock, inputs, eop, num_beams, choices):
    choices = {"num_beams": num_beams, "num_return_sequences": num_beams, **choices}
    assert our_texts(model, inputs, eop, **choices) == stock_texts(stock, inputs, eop, **choices)


def test_source_ngrams_may_come_back_unless_they_are_banned(model, inputs, eop):
    source = inputs[0].numpy()
    free = our_texts(model, inputs, eop, no_repeat_ngram_size=1, ban_source_ngrams=False)
    banned = our_texts(model, inputs, eop, no_repeat_ngram_size=1)
    assert any(set(text) & set(row) for text, row in zip(free, source.tolist(), strict=True))
    assert not any(set(text) & set(row) for text, row in zip(banned, source.tolist(), strict=True))


def test_a_mask_of_lengths_says_the_same_as_the_square(model, inputs, eop):
    ids, positions, _ = inputs
    by_length = our_texts(model, [ids, positions, paddle.to_tensor(LENGTHS)], eop)
    assert by_length == our_texts(model, inputs, eop)


@pytest.mark.parametrize("choices", [{}, {"do_sample": True, "num_return_sequences": 2}], ids=["greedy", "samples"])
def test_a_stream_gives_the_ids_step_by_step(model, inputs, eop, choices):
    steps = []
    special = {"eos_token_id": eop, "pad_token_id": models.PAD, "max_new_tokens": NEW}
    ids = generate(model, *inputs, stream=steps.append, **special, **choices)
    np.testing.assert_array_equal(np.stack(steps, axis=1), ids.numpy())
    with pytest.raises(UserError, match="stream"):
        generate(model, *inputs, stream=steps.append, num_beams=2, **special)


def test_bad_token_ids_do_not_appear(model, inputs, eop):
    usual = our_texts(model, inputs, eop)
    bad = {piece for text in usual for piece in text} - {eop}
    assert bad
    assert not bad & {piece for text in our_texts(model, inputs, eop, bad_token_ids=bad) for piece in text}


def texts(model, prompts, row_ids=None, **choices):
    """Trimmed texts of run() with the special pieces of these models."""
    config = GenerationConfig(**{"max_new_tokens": NEW, **choices})
    decoder = Decoder(model, config, models.special_ids())
    return models.trimmed(run(decoder, prompts, config, row_ids))


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"num_beams": 4, "length_penalty": 0.6},
        {"do_sample": True, "top_k": 20, "temperature": 1.5},
        {"do_sample": True, "num_beams": 2, "top_p": 0.9},
    ],
    ids=["greedy", "beams", "sampling", "sampled beams"],
)
def test_batch_decodes_like_single_rows(model, choices):
    prompts, row_ids = models.random_prompts(LENGTHS), [7, 3, 12]
    together = texts(model, prompts, row_ids, **choices)
    for row, length in enumerate(LENGTHS):
        alone = {name: array[row : row + 1] for name, array in prompts.items()}
        # Alone, a row has no padding either.
        alone.update({name: alone[name][:, :length] for name in ("input_ids", "source_mask")})
        assert texts(model, alone, [row_ids[row]], **choices) == [together[row]]


def test_sampling_one_candidate_is_greedy_search(model):
    prompts = models.random_prompts(LENGTHS)
    assert texts(model, prompts, do_sample=True, top_k=1) == texts(model, prompts)
    assert texts(model, prompts, do_sample=True, top_p=1e-6) == texts(model, prompts)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_seed_fixes_what_is_drawn(model, num_beams):
    prompts = models.random_prompts(LENGTHS)
    first, again, other = (texts(model, prompts, do_sample=True, num_beams=num_beams, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert all(one != two for one, two in zip(first, other, strict=True))


def test_samples_of_one_prompt_differ_and_stay_together(model):
    prompts = models.random_prompts(LENGTHS)
    several = texts(model, prompts, [4, 5, 6], do_sample=True, num_return_sequences=3)
    assert len(set(map(tuple, several))) == 9
    last = {name: array[2:] for name, array in prompts.items()}
    assert texts(model, last, [6], do_sample=True, num_return_sequences=3) == several[6:]


def test_returned_beams_are_the_best_ones_in_order(model):
    prompts = models.random_prompts(LENGTHS)
    four = texts(model, prompts, num_beams=4, num_return_sequences=4)
    two = texts(model, prompts, num_beams=4, num_return_sequences=2)
    assert [four[i] for i in (0, 1, 4, 5, 8, 9)] == two


def test_a_decoder_never_produces_special_pieces(model):
    prompts = models.random_prompts(LENGTHS)
    # Longer embeddings give larger logits: without a ban the special pieces would win nearly always.
    loud = models.make_model()
    weight = loud.glm.word_embeddings.weight.numpy()
    weight[models.TEXT :] *= 20
    loud.glm.word_embeddings.weight.set_value(weight)
    for choices in ({}, {"num_beams": 3}, {"do_sample": True}, {"do_sample": True, "num_beams": 2}):
        produced = {piece for text in texts(loud, prompts, **choices) for piece in text}
        assert not produced & set(models.SPECIAL)


@pytest.mark.parametrize(
    ("length", "new", "message"), [(130, 5, "the source is 130 tokens long"), (20, 129, "max_new_tokens is 129")]
)
def test_too_few_positions_are_reported_before_any_work(monkeypatch, model, length, new, message):
    monkeypatch.setattr(model, "prefill", lambda *inputs: pytest.fail("the model was run"))
    with pytest.raises(UserError, match=message):
        texts(model, models.random_prompts([length]), max_new_tokens=new)


def test_the_last_position_can_be_used(model):
    assert len(texts(model, models.random_prompts([129]), max_new_tokens=128, min_new_tokens=127)[0]) == 128
