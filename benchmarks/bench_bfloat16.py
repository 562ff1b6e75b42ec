"""Whether bfloat16 is faster on CPU, by the one way in which Paddle computes in it there: oneDNN in Paddle Inference.

    python benchmarks/bench_bfloat16.py --json

An exported program of 6 layers (hidden size 512, vocabulary 50048) and random weights, 2 prompts of 257 tokens, greedy:
by Paddle's own kernels, by oneDNN in float32, and by oneDNN with bfloat16 wherever it has kernels for it. On the
reference stack; paddle 3 gives other texts by oneDNN. The sides take turns.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

from contextlib import ExitStack
from dataclasses import replace

from bench_decode import SMALL, SPECIAL, decoding, random_prompts, save_model
from measuring import Figure, Worker, alternated, machine, parser, prepared_directory, report, seconds, serve

from glm import stacks
from glm.decoding import generation_config
from glm.export import program
from glm.export.runners import PaddleRunner

SIDES = {"paddle": "Paddle's own kernels", "onednn": "oneDNN, float32", "bfloat16": "oneDNN, bfloat16"}
LENGTHS, SOURCE, PREFIX = (2, 34), 257, "glm"
ROWS = [f"| {title} | " + " | ".join(f"{{{side}_{new}}}" for new in LENGTHS) + " |" for side, title in SIDES.items()]
REPORT = f"""
| Side | seconds for {LENGTHS[0]} tokens, nearly all of them the prompt's | for {LENGTHS[1]} tokens |
|---|---|---|
{chr(10).join(ROWS)}

Time of oneDNN with bfloat16 over that of Paddle's own kernels in float32: {{ratio_{LENGTHS[0]}}} and
{{ratio_{LENGTHS[1]}}}.
"""


class HalfRunner(PaddleRunner):
    """Runs a program by oneDNN with bfloat16."""

    def config(self, config, program, device, backend):
        """As PaddleRunner.config."""
        config = super().config(config, program, device, backend)
        config.enable_mkldnn_bfloat16()
        return config


def work(side, directory):
    """Serve {new} of a side."""
    if side == "prepare":
        return serve(lambda: prepare(directory) or {})
    exported = program.read(directory, PREFIX)
    kind = HalfRunner if side == "bfloat16" else PaddleRunner
    runner = kind(exported, "cpu", "paddle" if side == "paddle" else "onednn")

    def answer(new):
        config = replace(exported.config, max_new_tokens=new, min_new_tokens=new - 1)
        feeds = generation_config.feeds(random_prompts(SOURCE), config)
        return {"seconds": seconds(lambda: runner.run(feeds))}

    return serve(answer)


def prepare(directory):
    """Write the program."""
    from glm.weights import model_directory

    save_model(directory, SMALL)
    program.write(model_directory.load_model(directory), SPECIAL, decoding(1, LENGTHS[-1]), directory, PREFIX)


def main():
    """Measure and report."""
    arguments = parser(__doc__).parse_args()
    if arguments.worker:
        return work(arguments.worker, arguments.directory)
    if stacks.current().program_format != "paddle":
        print("on this stack oneDNN gives other texts: nothing to measure")
        return None
    print(machine())
    requests = {side: {new: {"new": new} for new in LENGTHS} for side in SIDES}
    with prepared_directory(__file__) as directory, ExitStack() as held:
        workers = {side: held.enter_context(Worker(__file__, side, "--directory", directory)) for side in SIDES}
        times = alternated(workers, requests, arguments.repeats)
    results = {f"{side}_{new}": Figure(times[side, new], 2) for side in SIDES for new in LENGTHS}
    for new in LENGTHS:
        results[f"ratio_{new}"] = Figure(times["bfloat16", new] / times["paddle", new], 2)
    return report(results, arguments, __file__, REPORT)


if __name__ == "__main__":
    main()
