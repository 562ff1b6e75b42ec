"""Prompts of several LoRA adapters decoded together by one graph, against the layers of each."""

from collections import deque
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from glm.data.preparation import Preparation
from glm.decoding.generation_config import GenerationConfig
from glm.export import engines, onnx_program
from glm.export.adapter_bank import AdapterBank
from glm.inference.continuous import Continuous
from glm.model.lora import LoraConfig, add_lora, lora_parameters
from glm.weights import adapters, builtin_model, model_directory
from tests.helpers import models

KINDS = {
    "all": LoraConfig(r=4, alpha=16, target_modules=("all",), rslora=True),
    "of attention": LoraConfig(r=2, alpha=3, target_modules=("query_key_value",)),
    "of the rest": LoraConfig(r=7, alpha=14, target_modules=("dense_h_to_4h", "dense_4h_to_h")),
}


def adapted_model(name):
    """The tests' model with an adapter of a kind, not merged; None is none."""
    model = models.make_model()
    if name is None:
        return model
    add_lora(model, KINDS[name])
    for number, factor in enumerate(lora_parameters(model).values()):
        rng = np.random.default_rng([number, len(name)])
        factor.set_value(paddle.to_tensor(0.2 * rng.standard_normal(factor.shape).astype("float32")))
    model.eval()
    return model


def factors_of(model, config):
    """What adapters.read_factors() gives for a model's adapter."""
    found = {}
    for name, factor in lora_parameters(model).items():
        place, _, kind = name.removeprefix(adapters.LAYERS).rpartition(".")
        layer, kind_of_layer = place.split(".", 1)
        scale = config.scaling if kind == "lora_B" else 1.0
        found.setdefault((int(layer), kind_of_layer), []).append(factor.numpy() * np.float32(scale))
    return {place: tuple(pair) for place, pair in found.items()}


@pytest.fixture(scope="module")
def bank():
    shapes = adapters.shapes_of_layers(models.model_config())
    bank = AdapterBank(shapes)
    for name, config in KINDS.items():
        bank.add(name, factors_of(adapted_model(name), config))
    return bank


@pytest.fixture(scope="module")
def engine(bank, tmp_path_factory):
    path = tmp_path_factory.mktemp("graph") / "glm.onnx"
    onnx_program.write(models.make_model(), path, adapted=True)
    return engines.OnnxEngine(path, models.special_ids(), 129, bank)


CHOICES = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "drawn": {"do_sample": True, "seed": 4},
}


def encoded_prompts(lengths):
    """Prompts as jobs have them, and as arrays."""
    prompts = models.random_prompts(lengths)
    rows = [
        SimpleNamespace(source_ids=ids[mask > 0].astype("int32"), mask_index=int(place))
        for ids, mask, place in zip(
            *(prompts[name] for name in ("input_ids", "source_mask", "mask_index")), strict=True
        )
    ]
    return rows, prompts


@pytest.mark.parametrize("choices", CHOICES.values(), ids=CHOICES)
def test_prompts_of_several_adapters_in_one_batch_get_the_texts_of_each_adapters_own_layers(choices, engine, bank):
    config = GenerationConfig(max_new_tokens=25, **choices)
    names = [None, *KINDS] * 2
    rows, prompts = encoded_prompts((9, 5, 12, 7, 6, 11, 8, 10))
    done = {}
    continuous = Continuous(engine.open_search, engine.special, 10**6, adapted=True)
    jobs = [
        SimpleNamespace(encoded=row, config=config, row=number, tokens=(20, 25), settled=False, number=number,
                        adapter=bank.numbers.get(name, 0))
        for number, (row, name) in enumerate(zip(rows, names, strict=True))
    ]  # fmt: skip

    def tell(job, kind, value):
        if kind != "piece":
            done[job.number] = kind, value

    waiting = deque(jobs)
    while waiting or continuous.running:
        continuous.round([waiting.popleft()] if waiting else [], tell)
    wanted = {name: engines.PythonEngine(adapted_model(name), engine.special) for name in {*names}}
    texts = {}
    for number, name in enumerate(names):
        one = {key: array[number : number + 1] for key, array in prompts.items()}
        length = int(one["source_mask"].sum())
        one["input_ids"], one["source_mask"] = one["input_ids"][:, :length], one["source_mask"][:, :length]
        kind, found = done[number]
        assert kind == "done"
        assert [found[0].ids] == models.trimmed(wanted[name].run(one, config, [number]))
        texts.setdefault(number % 4, found[0].ids)
    assert len(set(map(tuple, texts.values()))) == 4


def test_a_number_in_use_is_not_given_to_another_adapter():
    bank = AdapterBank({(0, "attention.dense"): (4, 4)})
    factors = {(0, "attention.dense"): (np.ones([4, 2], "float32"), np.ones([2, 4], "float32"))}
    first = bank.add("a", factors)
    arrays = bank.arrays
    assert bank.add("b", factors) != first
    assert bank.arrays is not arrays, "who reads the arrays goes on with what they were"
    bank.remove("a")
    assert bank.numbers.keys() == {"b"}
    assert bank.add("c", factors, in_use=[first]) not in (0, first, bank.numbers["b"])
    assert bank.add("d", factors) == first


def test_factors_of_an_adapters_directory_are_held_against_the_base(tmp_path):
    tokenizer = model_directory.load_tokenizer(builtin_model.NAME)
    size = model_directory.load_config(model_directory.resolve(builtin_model.NAME)).vocab_size
    base, other = tmp_path / "base", tmp_path / "other"
    for seed, directory in enumerate((base, other)):
        model_directory.save_model(models.make_model(seed, vocab_size=size), tokenizer, directory)
    fingerprint = {}
    model = model_directory.load_model(base, fingerprint=fingerprint)
    assert model_directory.fingerprint_of(base) == fingerprint
    add_lora(model, KINDS["all"])
    for factor in lora_parameters(model).values():
        factor.set_value(paddle.full_like(factor, 0.5))
    (tmp_path / "adapter").mkdir()
    adapters.Adapter(model, KINDS["all"], str(base), fingerprint).save_whole(tmp_path / "adapter")
    found, preparation = adapters.read_factors(tmp_path / "adapter", base, fingerprint)
    assert preparation == Preparation()
    expected = factors_of(model, KINDS["all"])
    assert found.keys() == expected.keys()
    for place, pair in expected.items():
        np.testing.assert_array_equal(found[place][0], pair[0])
        np.testing.assert_array_equal(found[place][1], pair[1])
    with pytest.raises(adapters.ModelError, match="this adapter was not trained on"):
        adapters.read_factors(tmp_path / "adapter", other, model_directory.fingerprint_of(other))
