"""Logits that are no finite numbers make no text, in whatever search and in exported programs; others stay."""

import numpy as np
import paddle
import pytest

from glm.decoding.decoder import Decoder, run
from glm.decoding.generation_config import NOT_FINITE, GenerationConfig, NotFiniteError, feeds
from glm.export import program, static_program
from glm.export.runners import PaddleRunner
from tests.helpers import models

SEARCHES = {
    "greedy": {},
    "sampling": {"do_sample": True, "top_k": 5},
    "beams": {"num_beams": 3},
    "sampled beams": {"num_beams": 2, "do_sample": True},
    "scored": {"output_scores": True},
}
# The fourth token of the second prompt is poisoned: an id that no other prompt has.
POISON = 7


def prompts():
    made = models.random_prompts((9, 5, 12))
    ids = made["input_ids"]
    ids[ids == POISON] = POISON + 1
    ids[1, 3] = POISON
    return made


def poisoned(value):
    model = models.make_model()
    table = model.glm.word_embeddings.weight
    array = table.numpy()
    array[POISON] = value
    table.set_value(array)
    return model


def config_of(name):
    return GenerationConfig(max_new_tokens=6, **SEARCHES[name])


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
@pytest.mark.parametrize("name", SEARCHES)
def test_a_prompt_whose_scores_are_no_numbers_is_named(name, value):
    # The head is made of the embeddings, too: one that is sound shows what becomes of the prompts beside it.
    config, sound = config_of(name), models.make_model()
    decoder = Decoder(sound, config, models.special_ids())
    decoder.head, sound.glm.word_embeddings = decoder.head, poisoned(value).glm.word_embeddings
    with pytest.raises(NotFiniteError) as told:
        run(decoder, prompts(), config)
    assert told.value.rows == [1]
    assert "NaN or infinite" in str(told.value)


@pytest.mark.parametrize("name", ["greedy", "beams"])
def test_prompts_beside_it_have_the_texts_that_they_have_without_it(name):
    config, sound = config_of(name), models.make_model()
    decoder = Decoder(sound, config, models.special_ids())
    with paddle.no_grad():
        expected = decoder(models.tensors(feeds(prompts(), config))).numpy()
        sound.glm.word_embeddings = poisoned(np.nan).glm.word_embeddings
        found = decoder(models.tensors(feeds(prompts(), config))).numpy()
    width = min(expected.shape[2], found.shape[2])
    np.testing.assert_array_equal(found[[0, 2], :, :width], expected[[0, 2], :, :width])
    assert (found[1, :, 0] == NOT_FINITE).all()


def test_several_samples_of_a_prompt_are_one_prompt():
    config = GenerationConfig(max_new_tokens=4, do_sample=True, num_return_sequences=3)
    with pytest.raises(NotFiniteError) as told:
        run(Decoder(poisoned(np.nan), config, models.special_ids()), prompts(), config)
    assert told.value.rows == [0, 1, 2]


@pytest.mark.parametrize("name", ["greedy", "beams"])
def test_an_exported_program_says_so_too(tmp_path, name):
    config = config_of(name)
    static_program.write(poisoned(np.nan), models.special_ids(), config, tmp_path / "glm")

    class Files:
        format = program.format_here("paddle")
        model_file, params_file = (tmp_path / f"glm{suffix}" for suffix in program.FILES[format])

    (ids,) = PaddleRunner(Files, "cpu", "paddle").run(feeds(prompts(), config))
    assert (ids == NOT_FINITE).all()
