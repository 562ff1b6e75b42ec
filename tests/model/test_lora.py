"""LoRA layers against NumPy, written from the definition; what training changes, and what it leaves as it was."""

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle.base import core

from glm.errors import UserError
from glm.model.dropout import Noise
from glm.model.lora import TARGETS, LoraConfig, LoRALinear, add_lora, lora_parameters, merge_lora, places
from tests.helpers import models
from tests.helpers.models import gradients

LENGTHS = [(9, 4), (5, 7), (12, 1)]
ALL = tuple(TARGETS)


def adapted_model(seed=3, **config):
    """A small model whose LoRA layers change what it says: lora_B is not zero."""
    model = add_lora(models.make_model(), LoraConfig(**config), seed)
    rng = np.random.default_rng(seed)
    for name, factor in lora_parameters(model).items():
        if name.endswith("lora_B"):
            factor.set_value(rng.standard_normal(factor.shape).astype("float32") * 0.1)
    return model


def arrays(model):
    return {name: parameter.numpy() for name, parameter in model.named_parameters()}


def logits(model):
    batch = models.padded_batch(models.random_rows(LENGTHS))
    return model(batch["input_ids"], batch["position_ids"], batch["source_length"]).numpy()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.floats(0.5, 64), st.booleans(), st.integers(1, 5))
def test_a_layer_adds_the_scaled_product_of_its_factors(r, alpha, rslora, tokens):
    rng = np.random.default_rng(0)
    plain = paddle.nn.Linear(7, 5)
    layer = LoRALinear(plain, LoraConfig(r, alpha, rslora=rslora), rng)
    x, b = (rng.standard_normal(shape).astype("float32") for shape in ([tokens, 7], [r, 5]))
    np.testing.assert_array_equal(layer(paddle.to_tensor(x)).numpy(), plain(paddle.to_tensor(x)).numpy())
    layer.lora_B.set_value(b)
    scale = alpha / (np.sqrt(r) if rslora else r)
    weight, bias, a = plain.weight.numpy(), plain.bias.numpy(), layer.lora_A.numpy()
    expected = x @ weight + bias + scale * (x @ a @ b)
    # Two-dimensional in training, three-dimensional in decoding.
    for actual in (layer(paddle.to_tensor(x)), layer(paddle.to_tensor(x[None]))[0]):
        np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(layer.merged().weight.numpy(), weight + scale * (a @ b), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("targets", [("query_key_value",), ("dense", "mlp"), ("all",)])
def test_the_layers_that_are_named_get_factors_and_nothing_else_is_trained(targets):
    if "mlp" in targets:
        with pytest.raises(UserError, match="lora_target_modules has mlp"):
            LoraConfig(target_modules=targets)
        return
    names = ALL if targets == ("all",) else targets
    model = add_lora(models.make_model(), LoraConfig(r=2, target_modules=targets))
    trained = {name for name, parameter in model.named_parameters() if not parameter.stop_gradient}
    assert trained == {
        f"glm.transformer.layers.{number}.{TARGETS[name]}.{name}.lora_{factor}"
        for number in range(3)
        for name in names
        for factor in "AB"
    }
    assert trained == set(lora_parameters(model))
    assert all(isinstance(getattr(part, name), LoRALinear) for part, name in places(model, names))


def test_gradients_of_the_factors_are_those_of_the_weight_by_the_chain_rule():
    """d loss / dA = scaling * dW @ B^T and d loss / dB = scaling * A^T @ dW, where W is trained as a whole."""
    batch = models.training_batch(models.random_rows(LENGTHS))
    model = adapted_model(r=4, alpha=6.0, target_modules=ALL)
    actual = gradients(model, model(**batch, label_smoothing=0.1))
    factors = {name: factor.numpy() for name, factor in lora_parameters(model).items()}
    merge_lora(model)
    for parameter in model.parameters():
        parameter.stop_gradient = False
    of_weights = gradients(model, model(**batch, label_smoothing=0.1))
    assert len(factors) == 3 * 4 * 2
    for name, value in factors.items():
        layer, _, factor = name.rpartition(".")
        other = factors[f"{layer}.lora_{'B' if factor == 'lora_A' else 'A'}"]
        of_weight = of_weights[layer + ".weight"]
        expected = of_weight @ other.T if factor == "lora_A" else other.T @ of_weight
        assert actual[name].shape == value.shape
        np.testing.assert_allclose(actual[name], 1.5 * expected, rtol=1e-3, atol=1e-5)


def test_a_layer_keeps_the_input_of_its_factors_and_not_what_it_adds_to():
    """Beside its result; the input itself is kept by whoever made it."""
    live = lambda: core.host_memory_stat_current_value("Allocated", 0)  # noqa: E731
    plain = paddle.nn.Linear(256, 512)
    layer = LoRALinear(plain, LoraConfig(r=4), np.random.default_rng(0))
    for parameter in plain.parameters():
        parameter.stop_gradient = True
    tokens = paddle.ones([1000, 256])
    tokens.stop_gradient = False
    before = live()
    result = layer(tokens)
    assert 4 * result.size <= live() - before < 4 * (result.size + 3 * 1000 * 4) + 4096


def test_training_changes_the_factors_alone_and_bit_for_bit_nothing_else():
    model = add_lora(models.make_model(), LoraConfig(r=2, target_modules=ALL))
    before, batch = arrays(model), models.training_batch(models.random_rows(LENGTHS))
    optimizer = paddle.optimizer.AdamW(0.01, parameters=model.parameters(), weight_decay=0.1)
    losses = []
    for _ in range(5):
        loss = model(**batch)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    for name, array in arrays(model).items():
        assert np.array_equal(array, before[name]) == (name not in lora_parameters(model)), name


def test_lora_plus_scales_the_steps_of_b_alone():
    """AdamW's first step is the learning rate for every number whose gradient is not tiny."""
    steps = {}
    for scale in (1.0, 4.0):
        model = add_lora(models.make_model(), LoraConfig(r=2), plus_scale=scale)
        for name, factor in lora_parameters(model).items():
            if name.endswith("lora_B"):
                factor.set_value(paddle.full_like(factor, 0.1))
        before = arrays(model)
        optimizer = paddle.optimizer.AdamW(0.001, parameters=model.parameters(), weight_decay=0.0)
        model(**models.training_batch(models.random_rows(LENGTHS))).backward()
        optimizer.step()
        after = arrays(model)
        for factor in "AB":
            moved = [abs(after[name] - before[name]).max() for name in after if name.endswith(f"lora_{factor}")]
            steps[scale, factor] = max(moved)
    assert steps[1.0, "A"] == pytest.approx(steps[4.0, "A"], rel=1e-3)
    assert steps[4.0, "B"] == pytest.approx(4 * steps[1.0, "B"], rel=1e-3)


def test_merged_and_unmerged_models_have_the_same_logits_and_the_same_names():
    plain = models.make_model()
    model = adapted_model(r=4, target_modules=ALL)
    unmerged = logits(model)
    assert abs(unmerged - logits(plain)).max() > 0.1
    merge_lora(model)
    np.testing.assert_allclose(logits(model), unmerged, rtol=0, atol=1e-5 * abs(unmerged).max())
    assert list(arrays(model)) == list(arrays(plain))


def test_factors_depend_on_seed_and_place_alone():
    first, again, other = (arrays(add_lora(models.make_model(), LoraConfig(), seed)) for seed in (1, 1, 2))
    name = "glm.transformer.layers.{}.attention.query_key_value.lora_A"
    np.testing.assert_array_equal(first[name.format(0)], again[name.format(0)])
    assert not np.array_equal(first[name.format(0)], other[name.format(0)])
    assert not np.array_equal(first[name.format(0)], first[name.format(1)])
    assert abs(first[name.format(0)]).max() <= 1 / np.sqrt(48)


def test_dropout_is_drawn_anew_for_each_layer_and_again_for_the_same_key():
    batch = models.training_batch(models.random_rows(LENGTHS))
    model = adapted_model(r=4, dropout=0.5, target_modules=ALL)
    model.train()
    without = float(model(**batch))
    first, again, other = (float(model(**batch, noise=Noise(*key))) for key in ((1, 2), (1, 2), (1, 3)))
    assert first == again
    assert len({without, first, other}) == 3
    model.eval()
    assert float(model(**batch)) == without


@pytest.mark.parametrize(
    "wrong",
    [{"r": 0}, {"alpha": 0.0}, {"dropout": 1.0}, {"target_modules": ()}, {"target_modules": ("query_key_valu",)}],
)
def test_impossible_adapters_are_refused_in_one_line(wrong):
    with pytest.raises(UserError) as error:
        LoraConfig(**wrong)
    assert "\n" not in str(error.value)
    if "target_modules" in wrong and wrong["target_modules"]:
        assert "did you mean query_key_value?" in str(error.value)
