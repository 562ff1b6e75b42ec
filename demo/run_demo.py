"""The whole way on a tiny model: fine-tune, evaluate, export, run in C++ and in Python, compare.

    python demo/run_demo.py

Everything it makes is in checkpoints/demo; all_results.json there has the figures of the closing table.
"""

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "checkpoints" / "demo"
RECIPE = ROOT / "configs" / "tiny_cpu.json"
DEV = ROOT / "demo" / "qg" / "dev.json"


def main():
    """Run every step; exit with a step's code if it fails."""
    start = time.time()
    recipe = json.loads(RECIPE.read_text(encoding="utf8"))
    before = OUTPUT / "before"
    step("scores before training", "finetune_generation.py", RECIPE, "--output_dir", before, "--do_train", False)
    step("fine-tuning", "finetune_generation.py", RECIPE, "--output_dir", OUTPUT, "--overwrite_output_dir")
    lengths = ["--tgt_length", recipe["tgt_length"]]
    program = OUTPUT / "infer" / "glm"
    model = ["--model_name_or_path", OUTPUT]
    step("export", "export_generation_model.py", *model, "--output_path", program, *lengths)

    prompts = ["--data_file", DEV, "--src_length", recipe["src_length"], "--batch_size", 32]
    predicted = {"Python": OUTPUT / "predict.jsonl"}
    step(
        "prediction in Python",
        "predict_generation.py",
        *model,
        *lengths,
        *prompts,
        "--output_file",
        predicted["Python"],
    )
    for name, runtime in runtimes().items():
        predicted[name] = OUTPUT / f"infer_{runtime}.jsonl"
        flags = ["--model_path", program.parent, "--model_prefix", program.name, "--runtime", runtime]
        step(f"inference by {name}", "infer_generation.py", *flags, *prompts, "--output_file", predicted[name])

    results = collect(before, predicted)
    (OUTPUT / "all_results.json").write_text(json.dumps(results, ensure_ascii=False, indent=2) + "\n", encoding="utf8")
    report(results, time.time() - start)


def step(title, script, *flags):
    """Run a script with flags; say what it does and how long it took."""
    print(f"\n=== {title}: {script} {' '.join(map(str, flags))}", flush=True)
    start = time.time()
    code = subprocess.call([sys.executable, ROOT / script, *map(str, flags)], cwd=ROOT)
    if code:
        print(f"{script} ended with exit code {code}", file=sys.stderr)
        raise SystemExit(code)
    print(f"=== {title}: {time.time() - start:.0f} s", flush=True)


def runtimes():
    """The C++ runtimes that are installed: name → value of --runtime."""
    found = {"FastDeploy": "fastdeploy"} if find_spec("fastdeploy") else {}
    return {**found, "Paddle Inference": "paddle"}


def collect(before, predicted):
    """The figures of all steps in one object."""
    results = read_json(OUTPUT / "all_results.json")
    first = read_json(before / "all_results.json")
    results.update({f"{name}_before": first[name] for name in ("bleu4", "exact_match", "eval_loss")})
    texts = {name: predictions(path) for name, path in predicted.items()}
    results["cpp"] = {
        name: {"equal": sum(map(str.__eq__, texts[name], texts["Python"])), "total": len(texts["Python"])}
        for name in texts
        if name != "Python"
    }
    results["cpp_equal"] = sum(count["equal"] for count in results["cpp"].values())
    results["cpp_total"] = sum(count["total"] for count in results["cpp"].values())
    return results


def read_json(path):
    """Content of a JSON file."""
    return json.loads(path.read_text(encoding="utf8"))


def predictions(path):
    """The predictions in a JSON Lines file, in order."""
    return [json.loads(line)["prediction"] for line in path.read_text(encoding="utf8").splitlines()]


def report(results, seconds):
    """Print some predictions and the closing table."""
    print("\nsome predictions on dev (target | prediction)")
    for line in (OUTPUT / "predictions.jsonl").read_text(encoding="utf8").splitlines()[:5]:
        answer = json.loads(line)
        print(f"  {answer['target']} | {answer['prediction']}")
    rows = [("", "before", "after")]
    rows += [
        (name, f"{results[key + '_before']:.1f}", f"{results[key]:.1f}")
        for name, key in (("BLEU-4 on dev", "bleu4"), ("exact match on dev", "exact_match"))
    ]
    rows += [
        ("C++ equals Python", name, f"{count['equal']} of {count['total']}") for name, count in results["cpp"].items()
    ]
    print(f"\nresults ({seconds:.0f} s, all in {OUTPUT.relative_to(ROOT)})")
    for row in rows:
        print("  {:<20} {:>18} {:>12}".format(*row))


if __name__ == "__main__":
    main()
