"""What loading a model in half precision allocates: the weights, and next to nothing beside them."""

import sys

import pytest

from tests.helpers import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import bench_load
import measuring


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_load_of_glm_10bs_shape_allocates_less_than_a_twentieth_beyond_the_file(dtype, tmp_path):
    """A sixteenth as wide, so that each weight has its share of the whole; a copy in float32 would take three times."""
    bench_load.prepare(tmp_path, dtype)
    with measuring.Worker(bench_load.__file__, dtype, "--directory", tmp_path) as worker:
        found = worker.ask()
    assert found["dtypes"] == [dtype]
    assert found["held"] < found["file"] < 1.01 * found["held"]
    assert found["held"] <= found["most"] < 1.05 * found["file"]


def test_what_is_held_twice_of_glm_10b_is_its_largest_weight():
    figures = bench_load.arithmetic()
    # 12 h² + 13 h a layer, the last norm, the words and two tables of positions.
    hidden, layers, words = 4096, 48, 50048
    count = layers * (12 * hidden**2 + 13 * hidden) + 2 * hidden + (words + 2 * 1025) * hidden
    assert figures["large_parameters"] == f"{count:,}"
    assert float(figures["large_ratio"]) == pytest.approx(1 + words * hidden / count, abs=1e-3)
    assert float(figures["large_ratio"]) < 1.05
