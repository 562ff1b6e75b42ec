"""A file of any size: prediction of 10,000,000 prompts beside 10,000, with a decoder that gives one text for all; and
the demo's questions shared out among processes, with a real one.

    python benchmarks/bench_windows.py --write

A process of its own for each, without paddle. extra_mib: the peak memory with many prompts less that with few.
us_a_prompt: microseconds for reading and encoding twice, keeping and writing. For the second part, whole commands are
timed, each process on one thread; of the seconds of all cores together those are taken off that the processes need
to answer one question, for starting and loading. The files are compared byte for byte.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

import os
import subprocess
import tempfile
import time

import numpy as np
from measuring import Figure, Worker, machine, parser, report, seconds, serve

from glm.data.tokenization import Tokenizer
from glm.decoding.generation_config import GenerationConfig
from glm.inference import answers
from glm.inference.arguments import PromptArguments
from glm.weights import builtin_model

ROOT = Path(__file__).resolve().parents[1]
FEW, MANY = 10_000, 10_000_000
# How often the demo's questions are in the file that processes share out.
TIMES = 20
PROCESSES = (1, 2, 4)
REPORT = """
| Prompts in the file | peak memory, MiB | microseconds a prompt |
|---|---|---|
| {few} | {few_peak_mib} | {few_us_a_prompt} |
| {many} | {many_peak_mib} | {many_us_a_prompt} |
| more for the large file (`extra_mib`) | {extra_mib} | |

| {shared_prompts} prompts, {cores} cores | seconds | core seconds | prompts a core second, start taken off |
|---|---|---|---|
| one process | {seconds_1} | {core_seconds_1} | {prompts_a_core_1} |
| two processes | {seconds_2} | {core_seconds_2} | {prompts_a_core_2} |
| four processes | {seconds_4} | {core_seconds_4} | {prompts_a_core_4} |

Starting a process and loading the model take {start_core_seconds} core seconds.
The same bytes as the first file: {same_files} files.
"""


def make_file(path, count):
    """Write so many small records."""
    with open(path, "w", encoding="utf8") as file:
        for i in range(count):
            file.write(f'{{"id": {i}, "source": "第{i}个问题：云栖湖在哪里？"}}\n')


def work(directory):
    """Serve {"count": lines of a file that is made, answered and removed}."""
    tokenizer = Tokenizer(builtin_model.build())
    text = np.array([*tokenizer.encode("云栖湖在青岚山脚下。"), tokenizer.eop_id])
    data, output = Path(directory, "data.jsonl"), Path(directory, "out.jsonl")
    arguments = PromptArguments(data_file=str(data), output_file=str(output))

    def decoder(longest, needed):
        return lambda batch, numbers: np.tile(text, (len(numbers), 1))

    def answer(count):
        make_file(data, count)
        config = GenerationConfig(max_new_tokens=16)
        taken = seconds(lambda: answers.answer_prompts(arguments, tokenizer, config, [], decoder))
        with open(output, "rb") as file:
            written = sum(1 for _ in file)
        data.unlink()
        output.unlink()
        return {"seconds": taken, "written": written}

    return serve(answer)


def measure(name, count, directory):
    """The figures of a file of so many prompts."""
    with Worker(__file__, name, "--directory", directory) as worker:
        found = worker.ask(count=count)
    if found["written"] != count:
        raise RuntimeError(f"{found['written']} of {count} prompts were answered")
    return {
        name: f"{count:,}",
        f"{name}_peak_mib": Figure(found["peak_mib"]),
        f"{name}_us_a_prompt": Figure(1e6 * found["seconds"] / count),
    }


def shared_out(directory, repeats):
    """The figures of the demo's questions shared out among processes."""
    data, cores = Path(directory, "questions.jsonl"), int(os.environ["OMP_NUM_THREADS"])
    data.write_text((ROOT / "demo" / "qg" / "dev.json").read_text(encoding="utf8") * TIMES, encoding="utf8")
    count, times, of_cores, outputs = data.read_bytes().count(b"\n"), {}, {}, []
    for _ in range(repeats):
        for number in PROCESSES:
            output = Path(directory, f"{number}.jsonl")
            start = time.perf_counter()
            of_cores.setdefault(number, []).append(predict(data, output, number))
            times.setdefault(number, []).append(time.perf_counter() - start)
            outputs.append(output.read_bytes())
    same = f"{outputs.count(outputs[0])} of {len(outputs)}"
    results = {"shared_prompts": f"{count:,}", "cores": cores, "same_files": same}
    one = Path(directory, "one.jsonl")
    one.write_text(data.read_text(encoding="utf8").partition("\n")[0], encoding="utf8")
    starts = [predict(one, Path(directory, "out.jsonl"), 1) for _ in range(repeats)]
    results["start_core_seconds"] = Figure(starts, 1)
    for number, taken in times.items():
        results[f"seconds_{number}"] = Figure(taken, 1)
        results[f"core_seconds_{number}"] = Figure(of_cores[number], 1)
        rest = np.array(of_cores[number]) - number * np.median(starts)
        results[f"prompts_a_core_{number}"] = Figure(count / rest)
    return results


def predict(data, output, processes):
    """Run the script in so many processes of one thread each; seconds of cores that they took together. Raises
    RuntimeError."""
    flags = ["--model_name_or_path", "glm-tiny-chinese", "--src_length", "128", "--tgt_length", "24", "--scores"]
    flags += ["--data_file", data, "--output_file", output]
    command = [sys.executable, str(ROOT / "predict_generation.py"), *map(str, flags)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    parts = [["--part", f"{number + 1}/{processes}"] for number in range(processes)] if processes > 1 else [[]]
    running = [
        subprocess.Popen([*command, *part], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for part in parts
    ]
    ended = [os.wait4(process.pid, 0) for process in running]
    if any(status for _, status, _ in ended):
        raise RuntimeError(f"{processes} processes: prediction failed")
    return sum(usage.ru_utime + usage.ru_stime for *_, usage in ended)


def main():
    """Measure and report."""
    flags = parser(__doc__)
    flags.add_argument("--lines", type=int, default=MANY, help=f"prompts in the large file (default: {MANY:,})")
    arguments = flags.parse_args()
    if arguments.worker:
        return work(arguments.directory)
    print(machine())
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        results = {**measure("few", FEW, directory), **measure("many", arguments.lines, directory)}
        results |= shared_out(directory, arguments.repeats)
    results["extra_mib"] = Figure(results["many_peak_mib"].median - results["few_peak_mib"].median)
    return report(results, arguments, __file__, REPORT)


if __name__ == "__main__":
    main()
