"""The estimate of a run's memory: its parts by hand, and that it grows with what takes memory."""

from types import SimpleNamespace

import pytest

from glm.training.memory import GIB, largest_micro_batch, training_memory

CONFIG = SimpleNamespace(num_layers=2, hidden_size=64, num_attention_heads=4, vocab_size=1000)


def test_parameters_take_what_adamw_keeps_of_them():
    # float32: the weight, its gradient and two moments; the tied head's gradient is there beside the embeddings'.
    parts = training_memory(CONFIG, 10**6, 10**6, [(10, 2)])
    assert parts["weights"] == pytest.approx(4e6 / GIB)
    assert parts["gradients"] == pytest.approx((4e6 + 4 * 64000) / GIB)
    assert parts["optimizer"] == pytest.approx(8e6 / GIB)
    assert parts["total"] == pytest.approx(sum(size for name, size in parts.items() if name != "total"))
    # Half precision: two bytes each, and beside the moments a float32 copy.
    half = training_memory(CONFIG, 10**6, 10**6, [(10, 2)], half=True)
    assert half["weights"] == pytest.approx(2e6 / GIB)
    assert half["optimizer"] == pytest.approx(12e6 / GIB)
    frozen = training_memory(CONFIG, 10**6, 0, [(10, 2)])
    assert frozen["gradients"] == frozen["optimizer"] == 0
    # LoRA: of what is frozen, embeddings included, there is no gradient.
    adapter = training_memory(CONFIG, 10**6, 1000, [(10, 2)])
    assert adapter["gradients"] == pytest.approx(4000 / GIB)
    assert adapter["optimizer"] == pytest.approx(8000 / GIB)


def test_activations_grow_with_tokens_and_shrink_with_recompute():
    small, large = (training_memory(CONFIG, 1, 1, rows)["activations"] for rows in ([(50, 5)], [(50, 5)] * 4))
    assert large == pytest.approx(4 * small)
    long = training_memory(CONFIG, 1, 1, [(215, 5)])["activations"]
    assert long > large, "attention grows with the square of a row's length"
    assert training_memory(CONFIG, 1, 1, [(50, 5)], recompute=True)["activations"] < small
    capped = training_memory(CONFIG, 1, 1, [(50, 500)], chunk=10)["activations"]
    assert capped < training_memory(CONFIG, 1, 1, [(50, 500)])["activations"]


def test_tensor_parallelism_divides_what_ranks_have_parts_of():
    """A token's 16.5 hidden sizes of a layer: 4.5 whole and 12 divided; scores, logits and embeddings divided."""
    parts = training_memory(CONFIG, 10**6, 10**6, [(10, 2)], degree=2)
    tokens, layers, heads, hidden, vocab = 12, 2, 4, 64, 1000
    kept = layers * ((4.5 + 12 / 2) * tokens * hidden * 4 + tokens**2 * heads / 2 * 9)
    assert parts["activations"] == pytest.approx((kept + 3 * 2 * vocab / 2 * 4) / GIB)
    assert parts["gradients"] == pytest.approx((4e6 + 4 * 32000) / GIB)


def test_on_cpu_attention_and_tied_embeddings_keep_less():
    """One float and a byte for each score, where GPUs keep two and a byte; and one gradient of the embeddings."""
    for degree in (1, 2):
        gpu, cpu = (
            training_memory(CONFIG, 10**6, 10**6, [(10, 2)], degree=degree, on_gpu=on_gpu) for on_gpu in (True, False)
        )
        assert gpu["activations"] - cpu["activations"] == pytest.approx(2 * 12**2 * 4 / degree * 4 / GIB)
        assert gpu["gradients"] - cpu["gradients"] == pytest.approx(4 * 64000 / degree / GIB)


def test_the_largest_micro_batch_has_the_longest_rows():
    lengths = [(3, 1), (9, 2), (5, 5), (1, 1)]
    assert largest_micro_batch(lengths, 2) == [[9, 2], [5, 5]]
    assert [sum(row) for row in largest_micro_batch(lengths, 2, capacity=11)] == [11, 11]
