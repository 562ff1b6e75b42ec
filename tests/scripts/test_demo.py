"""The demo data sets: what their README says of them is true, and they can be made again."""

import json
import random
import re
import subprocess
import sys
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import ROOT

DEMO = ROOT / "demo"
FILES = [f"{task}/{split}.json" for task in ("qg", "instruction") for split in ("train", "dev")]
EQUATION = re.compile(r"(\d+)([-+×÷])(\d+)=(\d+)")


@pytest.fixture(scope="module", autouse=True)
def demo_modules():
    """Let the tests import the generator's modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DEMO))
        yield


def load(name):
    return [json.loads(line) for line in (DEMO / name).read_text(encoding="utf-8").splitlines()]


def without_handwritten(task, split):
    """The generated records of a split, told by exclusion: all that the handwritten file does not hold."""
    handwritten = {json.dumps(record, sort_keys=True) for record in load(f"handwritten_{task}.jsonl")}
    records = [{key: value for key, value in record.items() if key != "id"} for record in load(f"{task}/{split}.json")]
    return [record for record in records if json.dumps(record, sort_keys=True) not in handwritten]


@cache
def question_patterns():
    from qg_facts import relations

    wordings = {question for relation in relations() for _, question in relation.wordings}
    return [re.compile(re.escape(question).replace(r"\{e\}", "(.+)")) for question in wordings]


def asked_entity(question):
    """The entity of a generated question: what its wording leaves over, of the longest wording that fits."""
    return min((match.group(1) for pattern in question_patterns() if (match := pattern.fullmatch(question))), key=len)


@cache
def story_patterns():
    from word_problem_templates import ONE_STEP, TWO_STEPS

    holes = {"n": "小.", "o": "小.", "m": ".", "i": ".{1,3}", "a": r"(\d+)", "b": r"(\d+)", "c": r"(\d+)"}
    return [re.compile(template.story.format(**holes)) for template in ONE_STEP + TWO_STEPS]


def read_problem(record):
    """(index of the template, the numbers of the story), whoever and whatever the story is about."""
    story = record["input"] or record["instruction"]
    matches = [pattern.fullmatch(story) for pattern in story_patterns()]
    (problem,) = [(index, match.groups()) for index, match in enumerate(matches) if match]
    return problem


def check_worked_answer(record):
    """Compute every equation again; each takes the story's numbers or the result before, and the last is the answer."""
    known = {int(number) for number in re.findall(r"\d+", record["input"] or record["instruction"])}
    equations = EQUATION.findall(record["output"])
    assert equations, record
    for left, operator, right, result in equations:
        left, right, result = int(left), int(right), int(result)
        assert {left, right} <= known, record
        assert {"+": left + right, "-": left - right, "×": left * right, "÷": left / right}[operator] == result, record
        known.add(result)
    assert re.search(r"答案：(\d+)$", record["output"]).group(1) == equations[-1][3], record
    assert f"{equations[-1][3]}" in record["output"].split("所以")[1].split("。")[0], record


@pytest.mark.parametrize("name", FILES)
def test_making_the_sets_again_gives_the_shipped_bytes(name, made_again):
    assert (made_again / name).read_bytes() == (DEMO / name).read_bytes()


@pytest.fixture(scope="module")
def made_again(tmp_path_factory):
    """A directory that make_demo.py has written the sets into."""
    directory = tmp_path_factory.mktemp("demo")
    subprocess.run([sys.executable, DEMO / "make_demo.py", "--output_dir", directory], check=True, cwd=directory)
    return directory


@pytest.mark.parametrize("name", FILES)
def test_no_record_is_there_twice(name):
    key = ("context", "question") if name.startswith("qg") else ("instruction", "input")
    keys = [tuple(record[field] for field in key) for record in load(name)]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("task", ["qg", "instruction"])
def test_every_handwritten_record_is_in_one_split(task):
    handwritten = load(f"handwritten_{task}.jsonl")
    assert len(handwritten) >= 100
    total = sum(len(load(f"{task}/{split}.json")) for split in ("train", "dev"))
    generated = sum(len(without_handwritten(task, split)) for split in ("train", "dev"))
    assert total - generated == len(handwritten)


def test_the_sets_are_small():
    assert sum(path.stat().st_size for path in DEMO.rglob("*.json*")) < 3_000_000


@pytest.mark.parametrize("name", FILES)
def test_readme_states_the_number_of_records(name):
    assert f"| `{name}` | {len(load(name))} |" in (DEMO / "README.md").read_text(encoding="utf-8")


def test_ids_are_unique_over_both_splits():
    ids = [record["id"] for split in ("train", "dev") for record in load(f"qg/{split}.json")]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("split", ["train", "dev"])
def test_answer_occurs_once_in_its_context(split):
    for record in load(f"qg/{split}.json"):
        assert record["answer"]
        assert record["context"].count(record["answer"]) == 1, record


@pytest.mark.parametrize("split", ["train", "dev"])
def test_question_asks_about_the_sentence_that_holds_the_answer(split):
    for record in without_handwritten("qg", split):
        sentence = next(s for s in record["context"].split("。") if record["answer"] in s)
        assert asked_entity(record["question"]) in sentence, record


def test_dev_asks_only_about_entities_unseen_in_train():
    train_text = "\n".join(record["context"] for record in without_handwritten("qg", "train"))
    for record in without_handwritten("qg", "dev"):
        assert asked_entity(record["question"]) not in train_text, record


def test_some_contexts_are_asked_about_twice():
    records = without_handwritten("qg", "train")
    assert len({record["context"] for record in records}) < 0.8 * len(records)


@pytest.mark.parametrize("split", ["train", "dev"])
def test_every_word_problem_is_worked_out_correctly(split):
    for record in without_handwritten("instruction", split):
        check_worked_answer(record)


def test_dev_problems_are_unseen_in_train():
    train = {read_problem(record) for record in without_handwritten("instruction", "train")}
    dev = {read_problem(record) for record in without_handwritten("instruction", "dev")}
    assert not train & dev


def test_readme_states_the_share_of_unseen_equations():
    seen = {e for record in without_handwritten("instruction", "train") for e in EQUATION.findall(record["output"])}
    dev = without_handwritten("instruction", "dev")
    unseen = sum(any(e not in seen for e in EQUATION.findall(record["output"])) for record in dev)
    assert f"{len(dev)} 道应用题中有 {unseen} 道（{unseen / len(dev):.0%}）" in (DEMO / "README.md").read_text("utf-8")


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_word_problems_are_correct_for_every_seed(seed):
    from word_problems import generate_problems

    records, keys = generate_problems(random.Random(seed), 40, for_dev=False)
    for record in records:
        check_worked_answer(record)
    again, _ = generate_problems(random.Random(seed + 1), 10, for_dev=False, refused=keys)
    assert not {read_problem(record) for record in again} & {read_problem(record) for record in records}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_entities_of_the_splits_are_disjoint_for_every_seed(seed):
    from qg_records import generate_records

    _, train = generate_records(random.Random(seed), 60, for_dev=False)
    dev_records, dev = generate_records(random.Random(seed), 60, for_dev=True)
    assert not train & dev
    assert all(record["context"].count(record["answer"]) == 1 for record in dev_records)


def test_the_example_of_own_data_is_such_data():
    records = load("own/questions.jsonl")
    assert len(records) == 24
    for record in records:
        assert list(record) == ["id", "context", "answer", "question"]
        assert record["context"].count(record["answer"]) == 1, record["id"]
    # The demonstration's model is not made of them.
    assert not {record["question"] for record in records} & {record["question"] for record in load("qg/train.json")}
