"""A model divided among ranks computes what one process does: losses, every gradient, logits, texts."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from glm.parallel import sharding
from tests.helpers import ROOT, models
from tests.helpers.runs import launched

MODEL = ROOT / "tests" / "helpers" / "parallel_model.py"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model of 8 heads with random weights."""
    directory = tmp_path_factory.mktemp("model")
    model = models.make_model(num_attention_heads=8)
    save_file({name: value.numpy() for name, value in model.named_parameters()}, str(directory / "model.safetensors"))
    (directory / "config.json").write_text(json.dumps(model.config.as_dict()), encoding="utf8")
    return directory


@pytest.fixture(scope="module")
def alone(directory, tmp_path_factory):
    """What one process computes."""
    output = tmp_path_factory.mktemp("alone")
    command = [sys.executable, str(MODEL), str(directory), str(output)]
    subprocess.run(command, check=True, capture_output=True)
    return dict(np.load(output / "rank0.npz"))


@pytest.mark.parametrize("degree", [2, 4])
def test_ranks_together_compute_what_one_process_does(directory, alone, tmp_path, degree):
    launched(tmp_path, MODEL, directory, tmp_path, ranks=degree)
    parts = [dict(np.load(tmp_path / f"rank{rank}.npz")) for rank in range(degree)]
    gradients = 0
    for what, expected in alone.items():
        found = [part[what] for part in parts]
        if " dropped " in what:
            continue
        if " gradient " in what:
            name = what.split()[-1]
            if sharding.axis_of(name) is None:
                # What all ranks have must stay the same on all of them, to the last bit.
                assert all(np.array_equal(found[0], other) for other in found[1:]), what
            found = [sharding.whole_of_parts(name, found)]
            assert abs(expected).max() > 1e-6, f"{what}: nothing to compare"
            gradients += 1
        for array in found:
            if "texts" in what:
                np.testing.assert_array_equal(array, expected, err_msg=what)
            else:
                np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-5, err_msg=what)
    # Of 3 layers: all 41 weights, and 24 factors; twice each.
    assert gradients == 2 * (41 + 24)
    assert alone["full texts 1"].shape[1] > 3
    assert_dropout_is_alike_where_activations_are(parts)


def assert_dropout_is_alike_where_activations_are(parts):
    """Ranks drop the same of what all of them have, else they would come apart; of their own heads, each by its own
    draws."""
    places = [set(part["lora dropped places"]) for part in parts]
    # Of a layer: what attention and MLP put out, and LoRA's inputs of the layers divided by columns.
    alike = {f"({layer}, {place})" for layer in (1, 2, 3) for place in (1, 2, 3, 5)} | {"(0,)"}
    own = [{f"({layer}, {place}, {rank})" for layer in (1, 2, 3) for place in (0, 4, 6)} for rank in range(len(parts))]
    assert places == [alike | of_rank for of_rank in own]
    for what in parts[0]:
        if " dropped " in what and "places" not in what:
            assert all(np.array_equal(parts[0][what], part[what]) for part in parts[1:]), what
