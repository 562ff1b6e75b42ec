"""How the prompts of a file come together: in batches of similar length, as prediction has them, or by continuous
batching, as the server has it.

    python benchmarks/bench_batches.py --write

One model, the ONNX graph of 6 layers with hidden size 512 in float32, and one budget of tokens. --prompts sources as
long as DuReaderQG's (median 195 tokens); texts as short as its questions (7 tokens in the mean), and longer ones (60).
Each text ends at a limit of its own. Both ways take turns in one process and must give the same texts.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

from collections import deque
from dataclasses import dataclass

import numpy as np
from bench_decode import SMALL, SPECIAL, save_model
from measuring import Figure, machine, parser, prepared_directory, report, seconds, serve

from glm.data import examples
from glm.data.templates import Example
from glm.decoding.generation_config import GenerationConfig
from glm.export.engines import OnnxEngine
from glm.inference.answers import scheduled
from glm.inference.continuous import Continuous

# Of prediction: rows of the longest source with the most tokens that are generated.
BATCH, LONGEST, NEW = 8, 608, 160
# Mean tokens of a text.
TEXTS = {"short": 7, "long": 60}
REPORT = """
| Tokens of a text, mean | sorted batches, s | continuous, s | continuous vs sorted |
|---|---|---|---|
| 7 | {short_sorted} | {short_continuous} | {short_continuous_vs_sorted} |
| 60 | {long_sorted} | {long_continuous} | {long_continuous_vs_sorted} |
"""


@dataclass(eq=False)
class Job:
    """A prompt as Continuous has it."""

    encoded: examples.Encoded
    row: int
    config: GenerationConfig
    settled: bool = False

    @property
    def tokens(self):
        """See Continuous."""
        return len(self.encoded.source_ids), NEW


def prepare(directory):
    """Write the graph."""
    from glm.export import onnx_program
    from glm.weights import model_directory

    save_model(directory, SMALL)
    onnx_program.write(model_directory.load_model(directory), Path(directory) / "glm.onnx")


def exactly(tokens):
    """The GenerationConfig of a text of so many tokens."""
    return GenerationConfig(max_new_tokens=int(tokens), min_new_tokens=int(tokens) - 1)


def in_sorted_batches(engine, rows, limits):
    """Texts of prompts, as prediction decodes them."""
    found = {}
    for batch in scheduled([len(row.source_ids) for row in rows], BATCH, LONGEST, NEW):
        prompts = examples.collate_prompts([rows[row] for row in batch], SPECIAL.pad)
        prompts["max_new_tokens"] = limits[batch]
        for row, ids in zip(batch, engine.run(prompts, exactly(NEW), batch), strict=True):
            found[row] = ids[: limits[row]].tolist()
    return found


def continuously(engine, rows, limits):
    """The same, as the server decodes them."""
    found, continuous = {}, Continuous(engine.open_search, SPECIAL, BATCH * (LONGEST + NEW))
    waiting = deque(Job(row, number, exactly(limits[number])) for number, row in enumerate(rows))

    def tell(job, kind, value):
        if kind != "piece":
            found[job.row] = value[0].ids

    while waiting or continuous.running:
        continuous.round(continuous.take(waiting), tell)
    return found


def compared(name, engine, rows, limits, repeats):
    """Figures of both ways, of which the first round warms up."""
    taken, texts = {in_sorted_batches: [], continuously: []}, []
    for _ in range(repeats + 1):
        for way, times in taken.items():
            times.append(seconds(lambda way=way: texts.append(way(engine, rows, limits))))
    assert all(one == texts[0] for one in texts)
    batches, joined = (np.array(times[1:]) for times in taken.values())
    return {
        f"{name}_sorted": Figure(batches, 1),
        f"{name}_continuous": Figure(joined, 1),
        f"{name}_continuous_vs_sorted": Figure(joined / batches, 2),
    }


def main():
    """Compare both ways and report."""
    flags = parser(__doc__)
    flags.add_argument("--prompts", type=int, default=200, help="how many there are (default: 200)")
    arguments = flags.parse_args()
    if arguments.worker:
        return serve(lambda: prepare(arguments.directory) or {})
    print(machine())
    rng, results = np.random.default_rng(0), {}
    lengths = np.clip(np.exp(rng.normal(np.log(195), 0.5, arguments.prompts)), 36, LONGEST).astype(int)
    rows = [
        examples.Encoded(Example("", "", ""), rng.integers(10, 50000, length).astype("int32"), None, int(length), 0)
        for length in lengths
    ]
    with prepared_directory(__file__) as directory:
        engine = OnnxEngine(Path(directory) / "glm.onnx", SPECIAL, 1025)
        for name, mean in TEXTS.items():
            limits = np.clip(rng.geometric(1 / mean, arguments.prompts) + 1, 2, NEW).astype("int64")
            results |= compared(name, engine, rows, limits, arguments.repeats)
    return report(results, arguments, __file__, REPORT)


if __name__ == "__main__":
    main()
