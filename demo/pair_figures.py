"""What the demonstration of pairs comes to, from pairs that were made of the contexts of dev.json with --keep all.

Only what the model has found of the known answers can be compared with the known questions.
"""

import json
from collections import defaultdict

LEVELS = {
    "exact": lambda trip: trip["exact"],
    "beam": lambda trip: trip["beam"],
    "f1=0.6": lambda trip: trip["f1"] >= 0.6,
}


def read_lines(path):
    """The objects of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]


def write_passages(dev, path):
    """Write the contexts of dev.json, each once, as passages."""
    contexts = dict.fromkeys(record["context"] for record in read_lines(dev))
    lines = [json.dumps({"passage": context}, ensure_ascii=False) + "\n" for context in contexts]
    path.write_text("".join(lines), encoding="utf8")


def figures(pairs, records):
    """{name: figure} of all pairs that were made, kept and rejected ones.

    passages, candidates, duplicates: how many. recall: percentage of the known answers that are among the candidates.
    Of each level: held_<level>, pairs that hold there; kept_<level>, those of them that are no duplicates;
    kept_match_<level> and rejected_match_<level>, percentage of exact questions of those that hold and do not.
    """
    known = defaultdict(dict)
    for record in records:
        known[record["context"]][record["answer"]] = record["question"]
    found = {(pair["passage"], pair["answer"]) for pair in pairs}
    answers = [(context, answer) for context, of_context in known.items() for answer in of_context]
    compared = [pair for pair in pairs if pair["answer"] in known[pair["passage"]]]
    result = {
        "passages": len({pair["passage"] for pair in pairs}),
        "candidates": len(pairs),
        "duplicates": sum(pair["reason"] == "duplicate" for pair in pairs),
        "recall": 100 * sum(answer in found for answer in answers) / len(answers),
    }
    for level, holds in LEVELS.items():
        name = level.replace("=0.6", "")
        matches = {True: [], False: []}
        for pair in compared:
            exact = bare(pair["question"]) == bare(known[pair["passage"]][pair["answer"]])
            matches[bool(holds(pair["round_trip"]))].append(exact)
        result[f"held_{name}"] = sum(bool(holds(pair["round_trip"])) for pair in pairs)
        result[f"kept_{name}"] = sum(bool(pair["kept"] and holds(pair["round_trip"])) for pair in pairs)
        result[f"kept_match_{name}"] = percentage(matches[True])
        result[f"rejected_match_{name}"] = percentage(matches[False])
    return result


def bare(question):
    """A question without marks at its end."""
    return question.rstrip("？?。 ")


def percentage(values):
    """The share of values that hold, 0 to 100; 0 of none."""
    return 100 * sum(values) / len(values) if values else 0.0
