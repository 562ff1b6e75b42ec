"""Documents to verified question–answer pairs on a tiny model: train it for three tasks, make pairs, look at them.

    python demo/run_pairs.py

Everything it makes is in checkpoints/demo-pairs.
"""

import time

from pair_figures import figures, read_lines, write_passages
from run_demo import ROOT, read_json, step

OUTPUT = ROOT / "checkpoints" / "demo-pairs"
RECIPE = ROOT / "configs" / "tiny_pairs_cpu.json"
DEV = ROOT / "demo" / "qg" / "dev.json"
DOCUMENTS = ROOT / "demo" / "documents"
SHOWN = 8


def main():
    """Run every step; exit with a step's code if it fails."""
    start = time.time()
    step("learning to ask, to find answers and to answer", "finetune_generation.py", RECIPE, "--output_dir", OUTPUT,
         "--overwrite_output_dir")  # fmt: skip
    model = ["--model_name_or_path", OUTPUT]
    documents = OUTPUT / "pairs.jsonl"
    step("pairs of the documents", "generate_pairs.py", *model, "--data_file", DOCUMENTS, "--passage_length", 60,
         "--output_file", documents, "--rejected", OUTPUT / "rejected.jsonl")  # fmt: skip
    passages, all_pairs, others = (OUTPUT / name for name in ("passages.jsonl", "dev_pairs.jsonl", "dev_others.jsonl"))
    write_passages(DEV, passages)
    step("pairs of the contexts of dev.json, whose questions are known", "generate_pairs.py", *model, "--data_file",
         passages, "--keep", "all", "--output_file", all_pairs, "--rejected", others)  # fmt: skip
    report(documents, [*read_lines(all_pairs), *read_lines(others)], time.time() - start)


def report(documents, pairs, seconds):
    """Print some pairs of the documents and the closing table."""
    made = read_lines(documents)
    print(f"\nsome of the {len(made)} pairs of {DOCUMENTS.relative_to(ROOT)} (document, question, answer)")
    for pair in made[:: max(1, len(made) // SHOWN)][:SHOWN]:
        print(f"  {pair['document']} | {pair['question']} | {pair['answer']}")
    scores, found = read_json(OUTPUT / "all_results.json"), figures(pairs, read_lines(DEV))
    rows = [
        ("passages of dev.json", found["passages"]),
        ("candidates", found["candidates"]),
        ("recall of known answers", f"{found['recall']:.1f} %"),
        ("duplicates removed", found["duplicates"]),
        ("pairs whose answer comes back", found["held_exact"]),
        ("pairs kept of these", found["kept_exact"]),
        ("exact match of kept questions", f"{found['kept_match_exact']:.1f} %"),
        ("exact match of rejected ones", f"{found['rejected_match_exact']:.1f} %"),
        ("exact match when asking for all", f"{scores['exact_match']:.1f} %"),
    ]
    print(f"\nresults ({seconds:.0f} s, all in {OUTPUT.relative_to(ROOT)})")
    for name, value in rows:
        print(f"  {name:<34} {value:>8}")


if __name__ == "__main__":
    main()
