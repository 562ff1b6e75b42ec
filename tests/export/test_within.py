"""Texts that are bound to passages: in Python, in an exported program and in onnxruntime the same ones, and none from
beside a passage, whatever the model, the vocabulary and the passage are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm.data import allowed_texts
from glm.decoding.decoder import Decoder
from glm.decoding.generation_config import GenerationConfig, feeds
from glm.export import program
from glm.export.runners import OnnxRunner, PaddleRunner
from tests.export.test_program import Tokenizer
from tests.helpers import models
from tests.helpers.character_tokenizer import tokenizer_of

LETTERS = "一二三四五六七八九十"
STRUCTURES = {
    "greedy": {"no_repeat_ngram_size": 2},
    "sampling": {"do_sample": True},
    "beams": {"num_beams": 3, "output_scores": True},
    "sampled_beams": {"num_beams": 2, "do_sample": True},
}
LIMITS = {"max_new_tokens": 14, "min_new_tokens": 2}


@pytest.fixture(scope="module")
def decoders(tmp_path_factory):
    """{structure: {what decodes: function from arrays to arrays}} of one model."""
    directory, found = tmp_path_factory.mktemp("within"), {}
    for name, structure in STRUCTURES.items():
        config = GenerationConfig(**structure, within_source=True)
        program.save(models.make_model(), Tokenizer(), config, directory, name)
        program.save(models.make_model(), Tokenizer(), config, directory, f"{name}_onnx", format="onnx")
        runners = {
            "paddle": PaddleRunner(program.describe(directory, name), "cpu", "paddle"),
            "onnx": OnnxRunner(program.describe(directory, f"{name}_onnx"), "cpu", "paddle"),
        }
        assert program.describe(directory, name).config == config
        decoder = Decoder(models.make_model(), config, models.special_ids())
        found[name] = {"python": in_python(decoder), **{kind: runner.run for kind, runner in runners.items()}}
    return found


def in_python(decoder):
    def decode(arrays):
        found = decoder(models.tensors(arrays))
        return [array.numpy() for array in (found if decoder.config.output_scores else [found])]

    return decode


def random_case(rng):
    """(a passage, its vocabulary) by a random generator."""
    passage = "".join(rng.choice(list(LETTERS[: rng.integers(2, 11)]), rng.integers(1, 60)))
    starts = rng.integers(0, len(passage), rng.integers(0, 20))
    pieces = {passage[start : start + rng.integers(1, 5)] for start in starts}
    with_space = {"▁", *("▁" + piece for piece in pieces if rng.random() < 0.3)}
    pieces = sorted({*LETTERS, *pieces, *with_space})
    numbers = rng.permutation([number for number in range(models.TEXT) if number != models.EOP])
    tokenizer = tokenizer_of(pieces, models.EOP, bool(rng.integers(2)))
    tokenizer.spellings = {piece: int(number) for piece, number in zip(pieces, numbers, strict=False)}
    return passage, tokenizer


def decoded_cases(decoders, seed, count=4):
    """(structure, {what decodes: what it gives}, cases) for random passages."""
    rng = np.random.default_rng(seed)
    name = list(STRUCTURES)[seed % len(STRUCTURES)]
    cases = [random_case(rng) for _ in range(count)]
    config = GenerationConfig(**STRUCTURES[name], **LIMITS, within_source=True, seed=seed)
    prompts = models.random_prompts(rng.integers(4, 20, count), seed)
    prompts["edges"] = allowed_texts.collated([edges_of(*case) for case in cases])
    arrays = feeds(prompts, config)
    return {kind: decode(arrays) for kind, decode in decoders[name].items()}, cases


def edges_of(passage, tokenizer):
    anywhere = np.ones(len(passage) + 1, bool)
    return allowed_texts.graph([(passage, anywhere, anywhere)], tokenizer)


def texts_of(ids, tokenizer):
    """What rows of ids spell; the piece that ends them has to be there."""
    spelled = {number: piece for piece, number in tokenizer.spellings.items()}
    texts = []
    for text in models.trimmed(ids):
        assert text[-1] == models.EOP
        texts.append("".join(spelled[number] for number in text[:-1]).replace("▁", ""))
    return texts


def check(decoders, seed):
    """Raise AssertionError unless all decoders give the same texts of random passages, and nothing but those."""
    found, cases = decoded_cases(decoders, seed)
    ids = found["python"][0]
    for kind in ("paddle", "onnx"):
        np.testing.assert_array_equal(found[kind][0], ids, err_msg=f"{kind}, seed {seed}")
        for scores, others in zip(found["python"][1:], found[kind][1:], strict=True):
            np.testing.assert_allclose(others, scores, rtol=1e-4, atol=1e-4)
    for (passage, tokenizer), of_prompt in zip(cases, ids, strict=True):
        texts = texts_of(of_prompt, tokenizer)
        assert texts[0]
        assert all(text in passage for text in texts)
    return sum(map(len, ids))


@settings(max_examples=24)
@given(st.integers(0, 2**32))
def test_all_decoders_give_the_same_texts_and_all_are_of_the_passage(decoders, seed):
    check(decoders, seed)


@pytest.mark.faults
def test_ten_thousand_texts_are_of_their_passages(decoders):
    seed = texts = 0
    while texts < 10_000:
        texts += check(decoders, seed)
        seed += 1
