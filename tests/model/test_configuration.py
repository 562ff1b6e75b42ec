"""Our layers and configuration against paddlenlp's classes of the same names."""

import dataclasses
import json

import numpy as np
import paddle
import paddlenlp.transformers
import pytest

from glm.model.configuration import GLMConfig
from glm.model.layers import GLM
from glm.model.modeling import GLMForConditionalGeneration
from tests.helpers import models


def test_sizes_and_constants_have_the_names_and_defaults_of_paddlenlp():
    stock = paddlenlp.transformers.GLMConfig()
    for spec in dataclasses.fields(GLMConfig):
        if spec.name != "dtype":
            assert getattr(stock, spec.name) == spec.default, spec.name


def test_paddlenlp_reads_a_configuration_that_we_write(tmp_path):
    config = models.model_config(attention_scale=8.0, layernorm_epsilon=1e-6)
    (tmp_path / "config.json").write_text(json.dumps(config.as_dict()), encoding="utf8")
    stock = paddlenlp.transformers.GLMConfig.from_pretrained(str(tmp_path))
    found = {name: getattr(stock, name) for name in vars(config)}
    assert found == vars(config)
    assert (stock.output_predict, stock.model_type) == (True, "glm")


@pytest.mark.parametrize("changes", [{}, {"num_layers": 1, "hidden_size": 24, "vocab_size": 90}])
def test_parameters_have_the_names_shapes_and_order_of_paddlenlps(changes):
    config, found = models.model_config(**changes), []
    stock = paddlenlp.transformers.GLMForConditionalGeneration
    for kind, its_config in ((GLMForConditionalGeneration, config), (stock, models.stock_config(config))):
        with paddle.utils.unique_name.guard():
            parameters = kind(its_config).named_parameters()
        # Optimizers keep their state by the second.
        found.append([(name, parameter.name, parameter.shape) for name, parameter in parameters])
    assert found[0] == found[1]


def test_weights_are_drawn_as_the_configuration_says():
    config = models.model_config(hidden_size=64, initializer_range=0.05)
    for name, parameter in GLM(config).named_parameters():
        values = parameter.numpy()
        if name.endswith("bias"):
            assert not values.any()
        elif "layernorm" in name:
            np.testing.assert_array_equal(values, 1.0)
        else:
            assert values.std() == pytest.approx(0.05, rel=0.05), name


def test_heads_that_do_not_divide_the_hidden_size_are_refused():
    with pytest.raises(ValueError, match="48 is no multiple of 5"):
        GLM(models.model_config(num_attention_heads=5))


def test_a_configuration_is_json_of_all_fields():
    content = json.loads(json.dumps(GLMConfig().as_dict()))
    assert content.keys() >= set(vars(GLMConfig()))
