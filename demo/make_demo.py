"""Write the demo data sets, the same bytes each time:

python demo/make_demo.py
python demo/make_demo.py --output_dir another_directory
"""

import argparse
import json
import random
from pathlib import Path

from qg_documents import generate_documents
from qg_records import generate_records
from word_problems import generate_problems

HERE = Path(__file__).resolve().parent
QG_COUNTS = {"train": 4000, "dev": 200}
PROBLEM_COUNTS = {"train": 6000, "dev": 300}
# One handwritten record in this many goes to dev.
HANDWRITTEN_DEV_SHARE = 12


def main():
    """Write both data sets into the directory that the command line names."""
    parser = argparse.ArgumentParser(description="Write the demo data: qg/, instruction/ and documents/.")
    parser.add_argument("--output_dir", type=Path, default=HERE, help="where they are written (default: %(default)s)")
    output_dir = parser.parse_args().output_dir
    for task, splits in (("qg", make_qg()), ("instruction", make_instruction())):
        (output_dir / task).mkdir(parents=True, exist_ok=True)
        for split, records in splits.items():
            write_jsonl(output_dir / task / f"{split}.json", records)
            print(f"{task}/{split}.json: {len(records)} records")
    (output_dir / "documents").mkdir(exist_ok=True)
    for name, text in generate_documents(random.Random("documents")).items():
        (output_dir / "documents" / name).write_text(text, encoding="utf8")
        print(f"documents/{name}: {len(text)} characters")


def make_qg():
    """Return {"train": records, "dev": records} of {"context", "answer", "question", "id"}."""
    train, train_entities = generate_records(random.Random("qg train"), QG_COUNTS["train"], for_dev=False)
    dev, dev_entities = generate_records(random.Random("qg dev"), QG_COUNTS["dev"], for_dev=True)
    assert not train_entities & dev_entities, "a dev entity was drawn for train"
    splits = {"train": train, "dev": dev}
    add_handwritten(splits, read_jsonl(HERE / "handwritten_qg.jsonl"))
    for number, record in enumerate(splits["train"] + splits["dev"], start=1):
        record["id"] = number
    return splits


def make_instruction():
    """Return {"train": records, "dev": records} of {"instruction", "input", "output"}."""
    dev, dev_keys = generate_problems(random.Random("problems dev"), PROBLEM_COUNTS["dev"], for_dev=True)
    train, train_keys = generate_problems(
        random.Random("problems train"), PROBLEM_COUNTS["train"], for_dev=False, refused=dev_keys
    )
    assert not train_keys & dev_keys, "a dev problem was drawn for train"
    splits = {"train": train, "dev": dev}
    add_handwritten(splits, read_jsonl(HERE / "handwritten_instruction.jsonl"))
    return splits


def add_handwritten(splits, records):
    """Spread the handwritten records over the generated ones of both splits, in place."""
    shares = {"train": [], "dev": []}
    for number, record in enumerate(records, start=1):
        shares["train" if number % HANDWRITTEN_DEV_SHARE else "dev"].append(record)
    for split, share in shares.items():
        splits[split] += share
        random.Random(f"order {split}").shuffle(splits[split])


def read_jsonl(path):
    """Return the records of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_jsonl(path, records):
    """Write one JSON object a line, UTF-8 and "\\n" on every system."""
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    path.write_bytes("".join(lines).encode("utf-8"))


if __name__ == "__main__":
    main()
