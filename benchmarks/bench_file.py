"""Files of prompts as question generation has them, in GLM-Large's shape (24 layers, hidden size 1024, 16 heads,
vocabulary 50048) with random weights: much to read, little to write.

    python benchmarks/bench_file.py --json

Two files: sources as long as DuReaderQG's (median 158 tokens, 36 to 600) with 7 tokens to write for each, and as CMRC
2018's (median 285) with 10. Each is decoded by every decoder in turn, in batches as the scripts make them; the former
also with one token a text, so that reading and writing can be told apart. Beside it: the time from a prompt of
257 tokens to its first token, the most memory that processes had, and how long predict_generation.py takes from its
start to three texts, against importing paddle alone.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

import json
import subprocess
import tempfile
from contextlib import ExitStack

import numpy as np
from bench_decode import LARGE, SPECIAL, decoding, save_model
from measuring import Figure, Worker, alternated, machine, parser, prepared_directory, report, run, seconds, serve

from glm.inference.answers import scheduled

ROOT = Path(__file__).resolve().parents[1]
# Of a file: median and spread of the logarithms of its sources' lengths, tokens of a text.
FILES = {"dureader": (158, 0.62, 7), "cmrc": (285, 0.38, 10)}
PROMPTS, BATCH, LONGEST = 24, 8, 608
# Programs by side: format, dtype.
PROGRAMS = {"program": ("paddle", "float32"), "onnx": ("onnx", "float32")}
PROGRAMS |= {dtype: ("onnx", dtype) for dtype in ("int8", "int4")}
TITLES = {
    "python": "`--engine python`",
    "program": "program of Paddle's, Paddle Inference",
    "onnx": "ONNX, float32: `--engine auto`",
    "int8": "ONNX, `--dtype int8`",
    "int4": "ONNX, `--dtype int4`",
}
COLUMNS = ("dureader_rate", "dureader_read", "dureader_write", "cmrc_rate", "first_token", "peak_mib")
ROWS = "\n".join(
    f"| {title} | " + " | ".join(f"{{{side}_{column}}}" for column in COLUMNS) + " |" for side, title in TITLES.items()
)
REPORT = f"""
| Decoder | DuReaderQG: records/s | reading, ms a record | writing | CMRC: records/s | first token, ms | peak, MiB |
|---|---|---|---|---|---|---|
{ROWS}

| Key | Figure |
|---|---|
| `file_int8_vs_python` | {{file_int8_vs_python}} |
| `file_auto_vs_python` | {{file_auto_vs_python}} |
| `first_token_int8_vs_float32` | {{first_token_int8_vs_float32}} |
| `peak_int8_mib`, one prompt of 257 tokens, 64 new | {{peak_int8_mib}} |
| `peak_int4_mib`, the same | {{peak_int4_mib}} |
| `peak_int8_batch_mib`: 16 prompts of 36–374, 64 new | {{peak_int8_batch_mib}} |
| `peak_float32_beams_mib`, the same with 5 beams in float32 | {{peak_float32_beams_mib}} |
| `startup_over_paddle`, seconds: three prompts predicted, less `import paddle` | {{startup_over_paddle}} |
| `startup_python_over_paddle`, the same with `--engine python` | {{startup_python_over_paddle}} |
| `startup_peak_mib`, with `--engine python` | {{startup_peak_mib}}, {{startup_python_peak_mib}} |
"""


def lengths(file):
    """Tokens of a file's sources."""
    median, spread, _ = FILES[file]
    drawn = np.random.default_rng(0).lognormal(np.log(median), spread, PROMPTS)
    return np.clip(drawn.astype(int), 36, 600)


def prompts_of(sizes):
    """Prompts of so many tokens, as arrays by name."""
    rng = np.random.default_rng(1)
    mask = (np.arange(sizes.max()) < sizes[:, None]).astype("float32")
    ids = np.where(mask > 0, rng.integers(0, 50000, mask.shape), SPECIAL.pad)
    return {"input_ids": ids, "source_mask": mask, "mask_index": sizes - 2}


def prepare(directory):
    """Write the model, and its programs."""
    from glm.export import program
    from glm.files.atomic import replaced_files
    from glm.weights import model_directory

    save_model(directory, LARGE)
    for prefix, (kind, dtype) in PROGRAMS.items():
        with replaced_files(directory, {}, program.manifest_name(prefix)) as workshop:
            model = model_directory.load_model(directory)
            program.write(model, SPECIAL, decoding(1, 64), workshop, prefix, dtype, kind)


def engine_of(side, directory):
    """A function (prompts, config) that decodes by a side."""
    if side == "python":
        from glm.export import engines
        from glm.weights import model_directory

        model = model_directory.load_model(directory)
        return engines.PythonEngine(model, SPECIAL).run
    from glm.decoding import generation_config
    from glm.export import program, runners

    runtime = "paddle" if side == "program" else "onnx"
    opened = runners.open_program(program.describe(directory, side), runtime)
    return lambda prompts, config: generation_config.answered(opened, prompts, config)


def work(side, directory):
    """Serve requests {file, new}, or {source, new} for a single prompt, of a side."""
    if side == "prepare":
        return serve(lambda: prepare(directory) or {})
    decode = engine_of(side, directory)

    def answer(new, file=None, source=None, times=1):
        sizes = lengths(file) if file else np.array([source])
        batches = scheduled(sizes.tolist(), BATCH, LONGEST, new)
        prompts = [prompts_of(sizes[batch]) for batch in batches]
        return {"seconds": seconds(lambda: [decode(part, decoding(1, new)) for part in prompts], times)}

    return serve(answer)


PEAK = """
import sys
sys.path[:0] = {paths!r}
import glm.runtime
import numpy as np
from bench_decode import SPECIAL, decoding
from bench_file import prompts_of
from measuring import peak_mib
from glm.decoding import numpy_search, generation_config
from glm.export.onnx_decoder import OnnxModel

model = OnnxModel({path!r}, 2)
config = decoding({beams}, 64)
search = numpy_search.opened(model, config, SPECIAL)
numpy_search.finished(search, generation_config.feeds(prompts_of(np.array({sizes})), config))
print(peak_mib())
"""


def peak_of(directory, prefix, sizes, beams=1):
    """MiB that a process has at most which decodes prompts of these sizes by an ONNX program."""
    paths = [str(ROOT), str(ROOT / "benchmarks")]
    code = PEAK.format(paths=paths, path=str(Path(directory, f"{prefix}.onnx")), beams=beams, sizes=list(sizes))
    return round(float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))


def startup(repeats):
    """Seconds from the start of predict_generation.py to three texts, less those of importing paddle; MiB."""
    figures = {}
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch, "three.json")
        lines = [{"context": f"第{number}座桥在青岚镇。", "answer": "青岚镇"} for number in "一二三"]
        data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf8")
        predict = [sys.executable, "predict_generation.py", "--model_name_or_path", "glm-tiny-chinese"]
        predict += ["--data_file", str(data)]
        commands = {
            "paddle": [sys.executable, "-c", "import paddle"],
            "": predict,
            "_python": [*predict, "--engine", "python"],
        }
        times, peaks = {}, {}
        for repeat in range(-1, max(repeats, 5)):
            for name, command in commands.items():
                taken, peak = run(command)
                if repeat >= 0:
                    times.setdefault(name, []).append(taken)
                    peaks[name] = peak
    for name in ("", "_python"):
        figures[f"startup{name}_over_paddle"] = Figure(np.array(times[name]) - times["paddle"], 2)
        figures[f"startup{name}_peak_mib"] = round(peaks[name])
    return figures


def summary(times):
    """Figures of seconds [repeats] by (side, name of the request)."""
    results = {}
    for side in TITLES:
        whole, one = times[side, "dureader"], times[side, "dureader_1"]
        results[f"{side}_dureader_rate"] = Figure(PROMPTS / whole, 2)
        results[f"{side}_dureader_read"] = Figure(1000 * one / PROMPTS)
        results[f"{side}_dureader_write"] = Figure(1000 * (whole - one) / PROMPTS)
        results[f"{side}_cmrc_rate"] = Figure(PROMPTS / times[side, "cmrc"], 2)
        results[f"{side}_first_token"] = Figure(1000 * times[side, "first"])
    whole = {side: times[side, "dureader"] for side in TITLES}
    results["file_int8_vs_python"] = Figure(whole["python"] / whole["int8"], 2)
    results["file_auto_vs_python"] = Figure(whole["python"] / whole["onnx"], 2)
    results["first_token_int8_vs_float32"] = Figure(times["onnx", "first"] / times["int8", "first"], 2)
    return results


def main():
    """Measure every side and report."""
    arguments = parser(__doc__).parse_args()
    if arguments.worker:
        return work(arguments.worker, arguments.directory)
    print(machine())
    requests = {"first": {"source": 257, "new": 1, "times": 5}, "dureader_1": {"file": "dureader", "new": 1}}
    requests |= {file: {"file": file, "new": new} for file, (_, _, new) in FILES.items()}
    times, peaks = {}, {}
    with prepared_directory(__file__) as directory:
        # Paddle Inference keeps what it has had: beside it, the others would not fit into memory.
        for group in (["program"], [side for side in TITLES if side != "program"]):
            with ExitStack() as stack:
                workers = {
                    side: stack.enter_context(Worker(__file__, side, "--directory", directory)) for side in group
                }
                times |= alternated(workers, dict.fromkeys(group, requests), arguments.repeats)
                for side, worker in workers.items():
                    peaks[f"{side}_peak_mib"] = round(worker.ask(source=257, new=1)["peak_mib"])
        results = summary(times) | peaks
        mixed = np.linspace(36, 374, 16).astype(int).tolist()
        for dtype in ("int8", "int4"):
            results[f"peak_{dtype}_mib"] = peak_of(directory, dtype, [257])
        results["peak_int8_batch_mib"] = peak_of(directory, "int8", mixed)
        results["peak_float32_beams_mib"] = peak_of(directory, "onnx", mixed, beams=5)
    results |= startup(arguments.repeats)
    return report(results, arguments, __file__, REPORT)


if __name__ == "__main__":
    main()
