"""What exports with fewer bits cost: size of the weights, scores, and texts that change.

    python benchmarks/bench_precision.py --json

The model of `make demo` is trained (configs/tiny_cpu.json), exported in each format and dtype, and answers the 212
questions of demo/qg/dev.json in every runtime that reads it. How fast they are, bench_decode.py and bench_large.py
say, where a model is large enough for it to matter.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

import importlib.util
import json
import subprocess
import tempfile

from measuring import Figure, machine, parser, report

from glm import metrics
from glm.export import program

ROOT = Path(__file__).resolve().parents[1]
DEV = ROOT / "demo" / "qg" / "dev.json"
VARIANTS = [
    *(("paddle", dtype) for dtype in ("float32", "float16", "int8")),
    *(("onnx", dtype) for dtype in ("float32", "int8", "int4")),
]
RUNTIMES = {"paddle": ["paddle", "fastdeploy"], "onnx": ["onnx"]}
REPORT = """
| `--format` | `--dtype` | weights, kB | BLEU-4 | exact match | other texts, of {texts} | runtimes agree |
|---|---|---|---|---|---|---|
""" + "\n".join(
    f"| {kind} | {dtype} | "
    + " | ".join(f"{{{kind}_{dtype}_{name}}}" for name in ("kilobytes", "bleu4", "exact_match", "changed", "agree"))
    + " |"
    for kind, dtype in VARIANTS
)


def run(script, *flags):
    """Run a script. Raises CalledProcessError if it fails."""
    command = [sys.executable, ROOT / script, *flags]
    subprocess.run([*map(str, command)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def answers(directory, prefix, name):
    """Lines of the predictions by one runtime."""
    target = directory / f"{prefix}_{name}.jsonl"
    files = ["--data_file", DEV, "--output_file", target]
    run("infer_generation.py", "--model_path", directory, "--model_prefix", prefix, "--runtime", name, *files)
    return [json.loads(line) for line in target.read_text(encoding="utf8").splitlines()]


def figures(directory, model, kind, dtype, reference):
    """(figures of one variant, its predictions); reference: the predictions to compare with, None for the first."""
    prefix = f"{kind}_{dtype}"
    formats = ["--format", kind, "--dtype", dtype, "--tgt_length", 40]
    run("export_generation_model.py", "--model_name_or_path", model, "--output_path", directory / prefix, *formats)
    names = [name for name in RUNTIMES[kind] if name != "fastdeploy" or importlib.util.find_spec("fastdeploy")]
    by_runtime = [answers(directory, prefix, name) for name in names]
    records = by_runtime[0]
    texts = [record["prediction"] for record in records]
    scores = metrics.score(texts, [record["question"] for record in records])
    return {
        f"{prefix}_kilobytes": Figure(program.describe(directory, prefix).params_file.stat().st_size / 1000),
        f"{prefix}_bleu4": Figure(scores["bleu4"], 2),
        f"{prefix}_exact_match": Figure(scores["exact_match"], 1),
        f"{prefix}_changed": sum(one != other for one, other in zip(texts, reference or texts, strict=True)),
        f"{prefix}_agree": "yes" if all(other == records for other in by_runtime) else "no",
    }, texts


def main():
    """Train, export, predict and report."""
    arguments = parser(__doc__).parse_args()
    print(machine())
    results, reference = {}, None
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch, "model")
        run("finetune_generation.py", "configs/tiny_cpu.json", "--output_dir", model)
        for kind, dtype in VARIANTS:
            found, texts = figures(Path(scratch), model, kind, dtype, reference)
            reference = reference or texts
            results.update(found)
    return report({"texts": len(reference), **results}, arguments, __file__, REPORT)


if __name__ == "__main__":
    main()
