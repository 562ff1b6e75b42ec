"""Decoding choices: what is refused, what is fed, and that a file keeps them."""

import numpy as np
import pytest

from glm.decoding import generation_config
from glm.decoding.generation_config import GenerationConfig
from glm.errors import UserError


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"min_new_tokens": -1}, "min_new_tokens is -1; it must be at least 0"),
        ({"num_beams": 0}, "num_beams is 0; it must be at least 1"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1"),
        ({"do_sample": True, "top_k": -1}, "top_k is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"num_return_sequences": 0}, "num_return_sequences is 0"),
        ({"max_new_tokens": 5, "min_new_tokens": 5}, r"min_new_tokens \(5\) must be below max_new_tokens \(5\)"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        ({"do_sample": True, "top_p": 0.0}, "top_p is 0.0"),
        ({"do_sample": True, "top_p": 1.5}, "top_p is 1.5"),
        ({"top_k": 5}, "top_k and top_p have no effect without sampling"),
        ({"top_p": 0.5}, "top_k and top_p have no effect without sampling"),
        ({"num_return_sequences": 2}, r"num_return_sequences \(2\) is more than num_beams \(1\)"),
        ({"num_return_sequences": 4, "num_beams": 3}, r"num_return_sequences \(4\) is more than num_beams \(3\)"),
    ],
)
def test_impossible_choices_are_refused_in_one_line(choices, message):
    with pytest.raises(UserError, match=message) as error:
        GenerationConfig(**choices)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("choices", "tokens"),
    [({}, 7), ({"num_beams": 3}, 21), ({"num_beams": 3, "num_return_sequences": 2}, 21)]
    + [({"do_sample": True, "num_return_sequences": 4}, 28)],
)
def test_all_texts_of_a_prompt_count_where_batches_are_planned(choices, tokens):
    assert GenerationConfig(max_new_tokens=7, **choices).new_tokens_a_prompt == tokens


@pytest.mark.parametrize(
    ("choices", "names"),
    [
        ({}, []),
        ({"num_beams": 3}, ["length_penalty"]),
        ({"do_sample": True}, ["temperature", "top_k", "top_p", "noise"]),
        ({"do_sample": True, "num_beams": 3}, ["length_penalty", "temperature", "top_k", "top_p", "noise"]),
    ],
)
def test_a_decoder_is_fed_what_its_structure_reads(choices, names):
    config = GenerationConfig(max_new_tokens=7, min_new_tokens=2, length_penalty=0.5, **choices)
    prompts = {
        "input_ids": np.zeros([2, 4], "int64"),
        "source_mask": np.ones([2, 4], "float32"),
        "mask_index": np.array([2, 2]),
    }
    arrays = generation_config.feeds(prompts, config)
    assert list(arrays) == [*prompts, "max_new_tokens", "min_new_tokens", *names]
    assert arrays["max_new_tokens"].tolist() == [7]
    assert arrays["min_new_tokens"].tolist() == [2]
    assert "length_penalty" not in names or arrays["length_penalty"].tolist() == [0.5]
    assert "noise" not in names or arrays["noise"].shape == (2, 6 if config.num_beams == 3 else 1, 7)


def test_noise_of_a_row_depends_on_seed_and_row_alone():
    config = GenerationConfig(do_sample=True, num_beams=2, seed=3, max_new_tokens=5)
    longer = GenerationConfig(do_sample=True, num_beams=2, seed=3, max_new_tokens=9)
    other = GenerationConfig(do_sample=True, num_beams=2, seed=4, max_new_tokens=5)
    noise = generation_config.uniform_noise(config, [4, 1, 9])
    assert np.array_equal(noise[1], generation_config.uniform_noise(config, [1])[0])
    assert np.array_equal(noise, generation_config.uniform_noise(longer, [4, 1, 9])[:, :, :5])
    assert not np.isin(noise[0], noise[1]).any()
    assert not np.isin(noise, generation_config.uniform_noise(other, [4, 1, 9])).any()
    assert (noise >= 0).all()
    assert (noise < 1).all()


def test_sequences_of_one_prompt_are_rows_of_their_own():
    prompts = {"input_ids": np.array([[1, 2], [3, 4]])}
    sampled = GenerationConfig(do_sample=True, num_return_sequences=3)
    repeated, row_ids = generation_config.repeat_prompts(prompts, [5, 8], sampled)
    assert repeated["input_ids"].tolist() == [[1, 2]] * 3 + [[3, 4]] * 3
    assert row_ids == [15, 16, 17, 24, 25, 26]
    # The texts of a beam search come out of one search.
    beams = GenerationConfig(num_beams=3, num_return_sequences=3)
    assert generation_config.repeat_prompts(prompts, [5, 8], beams) == (prompts, [5, 8])


def test_positions_are_refused_exactly_where_the_tables_end():
    generation_config.check_positions(129, 129, 128)
    with pytest.raises(
        UserError, match="the source is 130 tokens long, which needs 130 positions, and the model has 129"
    ):
        generation_config.check_positions(129, 130, 10)
    with pytest.raises(UserError, match="max_new_tokens is 129 tokens long, which needs 130 positions"):
        generation_config.check_positions(129, 10, 129)
