"""Question–answer pairs of the demonstration: what one model learns of three tasks, and what is kept of what it makes.

    python benchmarks/bench_pairs.py --write

The tiny model is trained for asking alone and for all three tasks, then makes pairs of the contexts of
demo/qg/dev.json, whose questions are known.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))
import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

import json
import tempfile

from measuring import Figure, machine, parser, report, run
from pair_figures import LEVELS, figures, read_lines, write_passages

from glm.pairs import scores

ROOT = Path(__file__).resolve().parents[1]
DEV = ROOT / "demo" / "qg" / "dev.json"
REPORT = """
What is asked of `demo/qg/dev.json`, percent:

| Model | exact match of questions | BLEU-4 | recall of answers, 6 candidates | exact match of answers | F1 of answers |
|---|---|---|---|---|---|
| asking alone | {single_exact_match} | {single_bleu4} | – | – | – |
| three tasks | {exact_match} | {bleu4} | {extract_recall} | {answer_exact_match} | {answer_f1} |

Pairs of its {passages} contexts: {candidates} candidates, {duplicates} of them duplicates, {recall} % of the known
answers among them. By what `--keep` asks for (kept are those that are no duplicates; exact match is with the known
questions):

| `--keep` | hold | kept | exact match of those that hold, % | of the others, % |
|---|---|---|---|---|
{ROWS}

Of the questions kept at `exact`, {exact_duplicates} % are equal to an earlier one and {near_duplicates} % near one;
{answers_at_place} % of the answers are the text at their place.

| Pairs of | seconds | passages a second | pairs kept an hour | peak memory, MiB |
|---|---|---|---|---|
| those contexts, by the ONNX graph in float32 | {seconds} | {speed} | {pairs_an_hour} | {peak} |
"""


def tables(_):
    """REPORT with a row for each level."""
    rows = [
        f"| `{level}` | {{held_{name}}} | {{kept_{name}}} | {{kept_match_{name}}} | {{rejected_match_{name}}} |"
        for level, name in ((level, level.replace("=0.6", "")) for level in LEVELS)
    ]
    return REPORT.replace("{ROWS}", "\n".join(rows))


def trained(recipe, directory):
    """Scores of a model that a preset has trained into a directory."""
    run([sys.executable, "finetune_generation.py", f"configs/{recipe}.json", "--output_dir", directory])
    return json.loads((directory / "all_results.json").read_text(encoding="utf8"))


def made(model, data, directory, level):
    """(pairs kept, others, seconds, peak MiB) of a run of generate_pairs.py."""
    kept, others = directory / f"{level}.jsonl", directory / f"{level}.rejected.jsonl"
    command = [sys.executable, "generate_pairs.py", "--model_name_or_path", model, "--data_file", data]
    seconds, peak = run([*command, "--keep", level, "--output_file", kept, "--rejected", others])
    return read_lines(kept), read_lines(others), seconds, peak


def measured(directory, repeats):
    """All results by name."""
    single = trained("tiny_cpu", directory / "single")
    scored = trained("tiny_pairs_cpu", directory / "tasks")
    names = ("exact_match", "bleu4", "extract_recall", "answer_exact_match", "answer_f1")
    results = {name: Figure(scored[name], 1) for name in names}
    results |= {f"single_{name}": Figure(single[name], 1) for name in names[:2]}
    write_passages(DEV, directory / "passages.jsonl")
    # The graph of the model goes into the cache.
    kept, others, _, _ = made(directory / "tasks", directory / "passages.jsonl", directory, "all")
    found = figures([*kept, *others], read_lines(DEV))
    results |= {name: Figure(value, 1) if isinstance(value, float) else value for name, value in found.items()}
    runs = [made(directory / "tasks", directory / "passages.jsonl", directory, "exact") for _ in range(repeats)]
    kept, others, _, _ = runs[0]
    of_kept = scores.scores(kept)
    texts = [pair["passage"][pair["start"] - pair["passage_start"] :][: len(pair["answer"])] for pair in kept]
    at_place = sum(text == pair["answer"] for text, pair in zip(texts, kept, strict=True))
    seconds = [taken for _, _, taken, _ in runs]
    results |= {name: Figure(of_kept[name], 1) for name in ("exact_duplicates", "near_duplicates")}
    results |= {
        "answers_at_place": Figure(100 * at_place / len(kept), 1),
        "seconds": Figure(seconds, 1),
        "speed": Figure([found["passages"] / taken for taken in seconds], 1),
        "pairs_an_hour": Figure([3600 * len(kept) / taken for taken in seconds]),
        "peak": Figure([peak for *_, peak in runs]),
    }
    return results


def main():
    """Measure and report."""
    arguments = parser(__doc__).parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as directory:
        results = measured(Path(directory), arguments.repeats)
    report(results, arguments, __file__, tables(results))


if __name__ == "__main__":
    main()
