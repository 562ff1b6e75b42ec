"""Merging tensor-parallel shards: glm.weights merge on a model of 1.6 GB in 4 shards, beside copying its files.

    python benchmarks/bench_merge.py --json [--directory SCRATCH]

merge_peak_over_largest: the most memory that merging had, less that of an interpreter that has imported the same and
less 200 MB, over the size of the largest weight. merge_time_vs_cp: the time of merging, writing to disk and reading
back included, over that of `cp` of the shards; merge_time_vs_cp_fsync: over that of `cp` and of forcing the copies to
the disk, which `cp` alone leaves to the system. All start with the files in memory and take turns.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

import shutil
import subprocess
import tempfile

import numpy as np
from measuring import Figure, machine, parser, report, seconds

from glm.weights import builtin_model, resharding
from glm.weights.stored_weights import expected_shapes, write_json
from glm.weights.weight_writers import SafetensorsWriter

ROOT = Path(__file__).resolve().parents[1]
SHAPE = {"num_layers": 28, "hidden_size": 1024, "num_attention_heads": 16, "vocab_size": 50048}
DEGREE = 4
OWN = 200e6
REPORT = """
| Key | Figure |
|---|---|
| model, GB | {model_gb} |
| its largest weight, MB | {largest_weight_mb} |
| `merge_peak_mib`, of which the interpreter has | {merge_peak_mib}, {interpreter_peak_mib} |
| `merge_peak_over_largest` | {merge_peak_over_largest} |
| `merge_seconds`, `cp_seconds` | {merge_seconds}, {cp_seconds} |
| `merge_time_vs_cp` | {merge_time_vs_cp} |
| `cp_fsync_seconds`: the copies forced to the disk, as what is merged is | {cp_fsync_seconds} |
| `merge_time_vs_cp_fsync` | {merge_time_vs_cp_fsync} |
"""


def make_model(directory):
    """Write a random model without holding it; the sizes of its weights in bytes, by name."""
    config = {**builtin_model.CONFIG, **SHAPE}
    write_json(config, directory / "config.json")
    shapes, rng = expected_shapes(config), np.random.default_rng(0)
    with SafetensorsWriter(directory / "model.safetensors", shapes, "float32") as writer:
        for shape in shapes.values():
            writer.write(rng.standard_normal(shape, dtype="float32"))
    return {name: 4 * int(np.prod(shape)) for name, shape in shapes.items()}


def run(*command):
    """Seconds that a command takes. Raises CalledProcessError if it fails."""
    return seconds(lambda: subprocess.run([*map(str, command)], check=True, stdout=subprocess.DEVNULL))


def peak_of(code):
    """The most memory, in bytes, that a fresh interpreter had once it has run some code that may use `command`, that
    of glm.weights.

    Not what the system says of a child that has ended: that counts the parent's memory, which it once shared.
    """
    code = f"from glm.weights import __main__ as command; {code}; print(open('/proc/self/status').read())"
    status = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def main():
    """Measure and report."""
    arguments = parser(__doc__).parse_args()
    print(machine())
    merge_times, copy_times, forced_times = [], [], []
    with tempfile.TemporaryDirectory(dir=arguments.directory) as scratch:
        whole, shards, target = (Path(scratch, name) for name in ("whole", "shards", "target"))
        whole.mkdir()
        sizes = make_model(whole)
        resharding.reshard(whole, shards, DEGREE)
        shutil.rmtree(whole)
        own = peak_of("pass")
        peak = peak_of(f"command.main(['merge', {str(shards)!r}, {str(target)!r}])")
        shutil.rmtree(target)
        for _ in range(arguments.repeats + 1):
            copy_times.append(run("cp", "-r", shards, target))
            shutil.rmtree(target)
            forced_times.append(run("sh", "-c", f"cp -r {shards} {target} && sync {target}/*"))
            shutil.rmtree(target)
            merge_times.append(run(sys.executable, "-m", "glm.weights", "merge", shards, target))
            shutil.rmtree(target)
    merge, copy, forced = (np.array(times[1:]) for times in (merge_times, copy_times, forced_times))
    return report(
        {
            "model_gb": Figure(sum(sizes.values()) / 1e9, 2),
            "largest_weight_mb": Figure(max(sizes.values()) / 1e6),
            "interpreter_peak_mib": Figure(own / 2**20),
            "merge_peak_mib": Figure(peak / 2**20),
            "merge_peak_over_largest": Figure((peak - own - OWN) / max(sizes.values()), 2),
            "merge_seconds": Figure(merge, 2),
            "cp_seconds": Figure(copy, 2),
            "merge_time_vs_cp": Figure(merge / copy, 2),
            "cp_fsync_seconds": Figure(forced, 2),
            "merge_time_vs_cp_fsync": Figure(merge / forced, 2),
        },
        arguments,
        __file__,
        REPORT,
    )


if __name__ == "__main__":
    main()
