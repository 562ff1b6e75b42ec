"""Short runs of the scripts on the built-in model, and what they leave."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.helpers import ROOT

DEV = ROOT / "demo" / "qg" / "dev.json"
# Files, for those may have what evaluation needs for runs that only train, too.
RECIPE, SMALL = [str(ROOT / "tests" / "helpers" / "recipe.json")], [str(ROOT / "tests" / "helpers" / "small.json")]
TRAINING = ["--do_train", "--per_device_train_batch_size", "8", "--max_steps", "8", "--save_steps", "4"]
TRAINING += ["--logging_steps", "1", "--learning_rate", "1e-2", "--disable_tqdm", "True"]
LAUNCH = ["-m", "paddle.distributed.launch", "--backend", "gloo"]


def read_lines(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf8").splitlines()]


def weights_of(directory):
    """The weights that a run has written, of a model or of an adapter."""
    from safetensors.numpy import load_file

    (path,) = (path for path in Path(directory).glob("*.safetensors") if not path.name.startswith("optimizer."))
    return load_file(str(path))


def distance(one, other):
    """The root of the mean squared difference of two models' weights. Not the largest: where a gradient is 0 but for
    rounding (the biases of keys), Adam makes steps of rounding errors."""
    differences = np.concatenate([(one[name] - other[name]).ravel() for name in one])
    return np.sqrt(np.mean(differences.astype("float64") ** 2))


def launched(tmp_path, script, *flags, ranks):
    """Run a script on so many ranks; what it said."""
    command = [sys.executable, *LAUNCH, "--nproc_per_node", str(ranks), "--log_dir", str(tmp_path / "log"), str(script)]
    done = subprocess.run([*command, *map(str, flags)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr
