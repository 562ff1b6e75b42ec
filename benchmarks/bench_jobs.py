"""The README's jobs as a user runs them: how long each takes, how much memory, and what comes out.

    python benchmarks/bench_jobs.py --json

Each is a command of its own, start of Python and imports included, on the models and data that come with the project.
Memory is the most that any of its processes had. Jobs of more than a minute run once.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

import json
import tempfile

from measuring import Figure, machine, parser, report, run

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--backend", "gloo"]
QG, INSTRUCTION = "configs/tiny_cpu.json", "configs/tiny_instruction_cpu.json"
QG_LORA = ["--lora", "True", "--r", "8", "--lora_target_modules", "all", "--learning_rate", "1e-2"]
INSTRUCTION_LORA = [*QG_LORA[:-1], "6e-3", "--weight_decay", "0", "--num_train_epochs", "40"]
# What each job runs, where {name} is the directory of another job's results. Those that write no model themselves are
# given where to put their output.
JOBS = {
    "demo": ["demo/run_demo.py"],
    "qg": ["finetune_generation.py", QG],
    "qg_lora": ["finetune_generation.py", QG, *QG_LORA],
    "qg_data_parallel": [*LAUNCH, "finetune_generation.py", QG],
    "qg_tensor_parallel": [*LAUNCH, "finetune_generation.py", QG, "--tensor_parallel_degree", "2"],
    "evaluate": ["finetune_generation.py", QG, "--do_train", "False", "--model_name_or_path", "{qg}"],
    "export": ["export_generation_model.py", "--model_name_or_path", "{qg}"],
    "infer": ["infer_generation.py", "--model_path", "{export}", "--data_file", "demo/qg/dev.json"],
    "export_onnx": [
        *["export_generation_model.py", "--model_name_or_path", "{qg}", "--format", "onnx", "--dtype", "int8"]
    ],
    "infer_onnx": ["infer_generation.py", "--model_path", "{export_onnx}", "--data_file", "demo/qg/dev.json"],
    "predict": ["predict_generation.py", "--model_name_or_path", "{qg}", "--data_file", "demo/qg/dev.json"],
    "split": ["-m", "glm.weights", "split", "{qg}", "{split}", "--tensor_parallel_degree", "2"],
    "instruction": ["finetune_instruction_generation.py", INSTRUCTION],
    "instruction_before": [
        *["finetune_instruction_generation.py", INSTRUCTION, "--do_train", "False", "--model_name_or_path", "{qg}"]
    ],
    "instruction_lora": [
        *["finetune_instruction_generation.py", INSTRUCTION, "--model_name_or_path", "{qg}", *INSTRUCTION_LORA]
    ],
}
LONG = 60
TITLES = {
    "demo": "`make demo`, all of it",
    "qg": "fine-tuning the tiny model for question generation",
    "qg_lora": "the same with LoRA (all layers, r 8)",
    "qg_data_parallel": "the same with two data-parallel processes",
    "qg_tensor_parallel": "the same with two tensor-parallel processes",
    "evaluate": "evaluation of that model (212 questions)",
    "export": "export",
    "infer": "inference of 212 prompts (FastDeploy; without it, Paddle Inference)",
    "export_onnx": "export to ONNX, int8",
    "infer_onnx": "inference of the same by onnxruntime",
    "predict": "prediction of 212 prompts in Python",
    "split": "splitting a model into two shards",
    "instruction": "instruction tuning of the tiny model, 14 epochs",
    "instruction_lora": "the QG model on instructions with LoRA (all layers, r 8), 40 epochs",
}
REPORT = (
    """
| Job | seconds | peak memory, MiB |
|---|---|---|
"""
    + "\n".join(f"| {title} | {{{name}_seconds}} | {{{name}_peak_mib}} |" for name, title in TITLES.items())
    + """

The questions of `demo/qg/dev.json`:

| What | eval_loss | BLEU-4 | exact match |
|---|---|---|---|
| before training | {demo_eval_loss_before} | {demo_bleu4_before} | {demo_exact_match_before} |
| all weights | {qg_eval_loss} | {qg_bleu4} | {qg_exact_match} |
| LoRA | {qg_lora_eval_loss} | {qg_lora_bleu4} | {qg_lora_exact_match} |
| all weights, two data-parallel processes | {qg_data_parallel_eval_loss} | {qg_data_parallel_bleu4} | {qg_data_parallel_exact_match} |
| all weights, two tensor-parallel processes | {qg_tensor_parallel_eval_loss} | {qg_tensor_parallel_bleu4} | {qg_tensor_parallel_exact_match} |

Texts by C++ equal to Python's in the demo: {demo_cpp_equal} of {demo_cpp_total}.

The 310 word problems of `demo/instruction/dev.json`, none of which is in the training set:

| What | eval_loss | BLEU-4 | ROUGE-L | exact match | number match |
|---|---|---|---|---|---|
| all weights, 14 epochs | {instruction_eval_loss} | {instruction_bleu4} | {instruction_rougel} | {instruction_exact_match} | {instruction_number_match} |
| the QG model, before | {instruction_before_eval_loss} | {instruction_before_bleu4} | {instruction_before_rougel} | {instruction_before_exact_match} | {instruction_before_number_match} |
| the QG model with LoRA, 40 epochs | {instruction_lora_eval_loss} | {instruction_lora_bleu4} | {instruction_lora_rougel} | {instruction_lora_exact_match} | {instruction_lora_number_match} |
"""  # noqa: E501
)
DIGITS = {"eval_loss": 3, "cpp_equal": 0, "cpp_total": 0}


def command_of(name, scratch, repeat):
    """(command line of a job, directory of its results)."""
    places = {job: Path(scratch, job) for job in JOBS}
    output = places[name] if repeat == 0 else Path(scratch, f"{name}-{repeat}")
    here = {**places, name: output}
    words = [sys.executable, *(word.format_map(here) for word in JOBS[name])]
    if any("finetune" in word for word in words):
        words += ["--output_dir", output]
        if "launch" in words[2]:
            words[3:3] = ["--log_dir", Path(scratch, f"log-{name}-{repeat}")]
    elif name.startswith("export"):
        words += ["--output_path", output / "glm"]
    elif name in ("infer", "infer_onnx", "predict"):
        words += ["--output_file", f"{output}.jsonl"]
    return list(map(str, words)), ROOT / "checkpoints" / "demo" if name == "demo" else output


def scores_of(name, directory):
    """What a job's all_results.json has of the figures in REPORT."""
    path = directory / "all_results.json"
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf8"))
    return {
        f"{name}_{key}": Figure(value, DIGITS.get(key.removesuffix("_before"), 1))
        for key, value in found.items()
        if isinstance(value, (int, float))
    }


def measured(name, scratch, repeats):
    """The figures of a job."""
    times, peaks, results = [], [], {}
    for repeat in range(repeats):
        command, output = command_of(name, scratch, repeat)
        taken, peak = run(command)
        times.append(taken)
        peaks.append(peak)
        results = results or scores_of(name, output)
        print(f"{name}: {taken:.1f} s, {peak:.0f} MiB", flush=True)
        if taken > LONG:
            break
    return {f"{name}_seconds": Figure(times, 1), f"{name}_peak_mib": Figure(peaks), **results}


def main():
    """Run every job and report."""
    arguments = parser(__doc__).parse_args()
    print(machine())
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in JOBS:
            results.update(measured(name, scratch, arguments.repeats))
    return report(results, arguments, __file__, REPORT)


if __name__ == "__main__":
    main()
