"""Parts of weights: put together they are the whole again, and they are the parts that paddlenlp makes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm.parallel import sharding
from glm.parallel.sharding import ShardError

LAYER = "glm.transformer.layers.11."
NAMES = {
    "glm.word_embeddings.weight": (0, 2),
    "glm.transformer.position_embeddings.weight": (None, 2),
    f"{LAYER}input_layernorm.weight": (None, 1),
    f"{LAYER}attention.query_key_value.weight": (-1, 2),
    f"{LAYER}attention.query_key_value.bias": (-1, 1),
    f"{LAYER}attention.query_key_value.lora_A": (None, 2),
    f"{LAYER}attention.query_key_value.lora_B": (-1, 2),
    f"{LAYER}attention.dense.weight": (0, 2),
    f"{LAYER}attention.dense.bias": (None, 1),
    f"{LAYER}attention.dense.lora_A": (0, 2),
    f"{LAYER}attention.dense.lora_B": (None, 2),
    f"{LAYER}mlp.dense_h_to_4h.weight": (-1, 2),
    f"{LAYER}mlp.dense_h_to_4h.bias": (-1, 1),
    f"{LAYER}mlp.dense_4h_to_h.weight": (0, 2),
    f"{LAYER}mlp.dense_4h_to_h.bias": (None, 1),
    f"{LAYER}mlp.dense_4h_to_h.lora_A": (0, 2),
}
degrees = st.sampled_from([1, 2, 4, 8, 16])


def weight(name, head_dim, other):
    """A random weight of 16 heads of head_dim."""
    axis, dimensions = NAMES[name]
    divided = 16 * head_dim * (3 if "query_key_value" in name else 1)
    shape = [divided] if dimensions == 1 else [other, divided] if axis == -1 else [divided, other]
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


@given(st.sampled_from(sorted(NAMES)), degrees, degrees, st.integers(1, 3), st.integers(1, 4))
def test_parts_make_the_whole_again_bit_for_bit_at_any_degree(name, degree, other_degree, head_dim, other):
    whole = weight(name, head_dim, other)

    def through_files(array, degree):
        heads = 16 // degree
        parts = [sharding.local_part(name, array, rank, degree) for rank in range(degree)]
        assert {part.shape for part in parts} == {sharding.local_shape(name, array.shape, degree)}
        assert sharding.whole_shape(name, parts[0].shape, degree) == array.shape
        stored = [sharding.to_file(name, part, heads) for part in parts]
        return sharding.whole_of_parts(name, [sharding.from_file(name, part, heads) for part in stored])

    once = through_files(whole, degree)
    np.testing.assert_array_equal(once, whole)
    np.testing.assert_array_equal(through_files(through_files(once, other_degree), degree), whole)


@pytest.mark.parametrize("degree", [2, 4])
def test_shards_are_those_that_paddlenlp_makes(degree):
    from paddlenlp.transformers import GLMConfig, GLMForConditionalGeneration

    config = GLMConfig(
        num_layers=12, hidden_size=32, num_attention_heads=16, vocab_size=32, tensor_parallel_degree=degree
    )
    for rank in range(degree):
        config.tensor_parallel_rank = rank
        names = [name for name in NAMES if "lora" not in name]
        actions = GLMForConditionalGeneration.get_tensor_parallel_convert_actions(config, names)
        actions = {name.removeprefix("glm."): action for name, action in actions.items()}
        for name in names:
            whole = weight(name, 2, 3)
            action = actions.get(name.removeprefix("glm."))
            assert (action is None) == (NAMES[name][0] is None), name
            part = sharding.to_file(name, sharding.local_part(name, whole, rank, degree), 16 // degree)
            np.testing.assert_array_equal(part, whole if action is None else action(whole))


def test_a_rank_has_the_queries_keys_and_values_of_its_heads():
    whole = np.arange(3 * 4 * 2)  # [three, heads, head_dim]
    name = f"{LAYER}attention.query_key_value.bias"
    part = sharding.local_part(name, whole, 1, 2)
    assert part.tolist() == [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23]
    # In a file: query, key and value of a head, then those of the next.
    assert sharding.to_file(name, part, 2).tolist() == [4, 5, 12, 13, 20, 21, 6, 7, 14, 15, 22, 23]


@pytest.mark.parametrize(
    ("degree", "what"), [(0, "at least 1"), (3, "8 attention heads"), (8, "100 rows of embeddings")]
)
def test_degrees_that_do_not_divide_the_model_are_refused(degree, what):
    with pytest.raises(ShardError, match=what):
        sharding.check_degree(degree, 8, 64, 100)
    sharding.check_degree(4, 8, 64, 100)
