"""GLM-Large's shape (24 layers, hidden size 1024, 16 heads, vocabulary 50048) with random weights, as it is deployed.

    python benchmarks/bench_large.py --json

In Python and by each runtime: the time to load it, tokens a second for 2 prompts of 257 tokens (greedy and 5 beams, 64
new tokens), and the most memory that the process had.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

from bench_decode import BATCH, BEAMS, LARGE, SIDES, TITLES, available, prepare
from measuring import Figure, Worker, machine, parser, prepared_directory, report, seconds, serve

SOURCE, NEW = 257, 64
MEASURED = {**TITLES, "exported_int8": "the same with `--dtype int8`, Paddle Inference"}
MEASURED = {side: MEASURED[side] for side in ("eager", "exported", "exported_int8", "fastdeploy", "onnx", "onnx_int8")}
COLUMNS = [f"{search}_{what}" for search in ("greedy", f"beam{BEAMS}") for what in ("tokens_per_second", "peak_mib")]
ROWS = [
    f"| {title} | {{{side}_greedy_load_seconds}} | " + " | ".join(f"{{{side}_{column}}}" for column in COLUMNS) + " |"
    for side, title in MEASURED.items()
]
REPORT = """
| Side | seconds to load | greedy, tokens a second | peak, MiB | 5 beams, tokens a second | peak, MiB |
|---|---|---|---|---|---|
""" + "\n".join(ROWS)


def work(side, directory):
    """Serve {"load": beams}, then requests {source, beams, new} of a side."""
    if side == "prepare":
        return serve(lambda: prepare(directory, LARGE) or {})
    opened = {}

    def answer(load=None, **request):
        if load:
            return {"seconds": seconds(lambda: opened.update(decode=SIDES[side](directory, [load])))}
        return {"seconds": seconds(lambda: opened["decode"](**request))}

    return serve(answer)


def measure(side, beams, directory, repeats):
    """The figures of one side with one number of beams, by name."""
    name = f"{side}_{'greedy' if beams == 1 else f'beam{beams}'}"
    with Worker(__file__, side, "--directory", directory) as worker:
        loaded = worker.ask(load=beams)
        times = [worker.ask(source=SOURCE, beams=beams, new=NEW) for _ in range(repeats + 1)]
    return {
        f"{name}_load_seconds": Figure(loaded["seconds"], 2),
        f"{name}_tokens_per_second": Figure([BATCH * NEW / one["seconds"] for one in times[1:]], 1),
        f"{name}_peak_mib": round(times[-1]["peak_mib"]),
    }


def main():
    """Measure every side and report."""
    arguments = parser(__doc__).parse_args()
    if arguments.worker:
        return work(arguments.worker, arguments.directory)
    print(machine())
    results = {}
    with prepared_directory(__file__) as directory:
        results["weights_mib"] = round(Path(directory, "model.safetensors").stat().st_size / 2**20)
        for beams in (1, BEAMS):
            for side in available(*MEASURED):
                results.update(measure(side, beams, directory, arguments.repeats))
    return report(results, arguments, __file__, REPORT)


if __name__ == "__main__":
    main()
