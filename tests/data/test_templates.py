"""Prompts byte for byte, and which examples a selection takes from a file."""

import json

import pytest

from glm.data import records, selections, truncation
from glm.data.selections import Selection, load_examples
from glm.data.validation import DataError

TALK = "Human:甲\nAssistant:乙，\n丙\nHuman:丁\nAssistant: \nHuman:戊\nAssistant:己\nHuman:庚\nAssistant:"


def only(path, template="qg", **options):
    (example,) = load_examples(path, template, **options)[0]
    return example


def write_record(directory, **fields):
    path = directory / "data.jsonl"
    path.write_text(json.dumps(fields, ensure_ascii=False), encoding="utf-8")
    return path


def test_question_template_byte_for_byte(tmp_path):
    record = {"context": "天空{是}蓝色的。", "answer": "蓝色", "question": "什么颜色？", "id": 3}
    path = write_record(tmp_path, **record)
    example = only(path)
    assert example.source == "答案：蓝色，上下文：天空{是}蓝色的。。在已知答案的前提下，问题："
    assert (example.target, example.keep, example.record_id, example.place) == ("什么颜色？", "蓝色", 3, f"{path}:1")


@pytest.mark.parametrize(
    ("instruction", "more", "source"),
    [
        ("写一首诗", "", "Human:写一首诗\nAssistant:"),
        ("翻译：", "good", "Human:翻译：good\nAssistant:"),
        ("Human:你好\nAssistant:", "", "Human:你好\nAssistant:"),
        ("Human: 你好 Assistant: ", "", "Human: 你好 Assistant: "),
        ("Human:甲\nAssistant:乙\nHuman:丙\nAssistant:", "", "Human:甲\nAssistant:乙\nHuman:丙\nAssistant:"),
        ("背景。\nHuman：甲\nAssistant：", "", "背景。\nHuman：甲\nAssistant："),
        ("Human:甲\nAssistant:", "丁", "Human:甲丁\nAssistant:"),
        ("Human:甲\nAssistant:乙", "丁", "Human:甲\nAssistant:乙\nHuman:丁\nAssistant:"),
        ("Human:甲\nAssistant:乙\nHuman:丙", "", "Human:甲\nAssistant:乙\nHuman:丙\nAssistant:"),
        ("解释 Assistant: 一词", "", "Human:解释 Assistant: 一词\nAssistant:"),
    ],
)
def test_instruction_is_one_human_turn_and_a_talk_is_not_wrapped_again(tmp_path, instruction, more, source):
    path = write_record(tmp_path, instruction=instruction, input=more, output="好")
    assert only(path, "instruction").source == source
    assert only(path, "instruction").target == "好"


def test_training_needs_a_target_and_prediction_does_not(tmp_path):
    path = write_record(tmp_path, context="天空是蓝色的。", answer="蓝色", question="")
    assert only(path, need_target=False).target is None
    with pytest.raises(DataError, match="field 'question' is empty"):
        load_examples(path, "qg")
    texts = tmp_path / "prompts.txt"
    texts.write_text("甲\n乙\n", encoding="utf-8")
    assert [e.source for e in load_examples(texts, "qg", need_target=False)[0]] == ["甲", "乙"]
    with pytest.raises(DataError, match="cannot tell the format"):
        load_examples(texts, "qg")


def test_pairs_are_prompts_already_and_targets_stay_when_predicting(tmp_path):
    (tmp_path / "train.source").write_text("甲\n乙\n", encoding="utf-8")
    (tmp_path / "train.target").write_text("1\n2\n", encoding="utf-8")
    for need_target in (True, False):
        examples, report = load_examples(tmp_path / "train.source", "instruction", need_target)
        assert [(e.source, e.target) for e in examples] == [("甲", "1"), ("乙", "2")]
        assert report.read == 2
    assert len(load_examples(tmp_path / "train", "qg", max_samples=1)[0]) == 1


def selected(path, template="instruction", **options):
    """(examples, report) of a selection."""
    report = records.ReadReport(str(path))
    return list(Selection(path, template, **options).examples(report)), report


def test_each_earlier_turn_of_the_assistant_is_asked_for_as_it_would_have_been(tmp_path):
    path = write_record(tmp_path, instruction=TALK, input="", output="辛")
    found, report = selected(path, with_history=True)
    assert [(example.source, example.target) for example in found] == [
        ("Human:甲\nAssistant:", "乙，\n丙"),
        # The turn that says nothing is no example of its own.
        ("Human:甲\nAssistant:乙，\n丙\nHuman:丁\nAssistant: \nHuman:戊\nAssistant:", "己"),
        (TALK, "辛"),
    ]
    assert report.read == 1
    assert [example.source for example in selected(path)[0]] == [TALK]
    # What they consist of says what may be cut: the beginning of the talk, and never its last words.
    assert all(example.after == "\nAssistant:" and example.side == "tail" for example in found)
    single = write_record(tmp_path, instruction="甲", input="", output="辛")
    assert len(selected(single, with_history=True)[0]) == 1


def test_two_parts_share_out_the_good_records_and_the_complaints(tmp_path):
    path = tmp_path / "data.jsonl"
    good = [json.dumps({"instruction": f"{i}", "output": "好"}) for i in range(6)]
    path.write_text("\n".join([good[0], "", good[1], "{", good[2], "[]", *good[3:]]) + "\n\n", encoding="utf8")
    assert records.count_records(path) == 8
    chosen = frozenset([0, 2, 5])
    (dev, dev_report), (train, train_report) = (
        selected(path, on_bad_data="skip", part=records.Part(chosen, others)) for others in (False, True)
    )
    assert [example.context for example in dev] == ["0", "3"]
    assert [example.context for example in train] == ["1", "2", "4", "5"]
    assert (dev_report.skipped.total(), train_report.skipped.total()) == (1, 1)
    assert [example.place for example in dev] == [f"{path}:1", f"{path}:7"]


@pytest.mark.parametrize("layout", ["array", "one line", "pair"])
def test_records_of_every_format_are_counted_and_shared_out(tmp_path, layout):
    path = tmp_path / "data.json"
    if layout == "pair":
        path = tmp_path / "data.source"
        path.write_text("0\n\n1\n2\n", encoding="utf8")
        path.with_suffix(".target").write_text("好\n\n好\n好\n", encoding="utf8")
    else:
        content = [{"instruction": f"{i}", "output": "好"} for i in range(3)]
        path.write_text(json.dumps(content, indent=None if layout == "one line" else 1), encoding="utf8")
    assert records.count_records(path) == 3
    assert [e.context for e in selected(path, part=records.Part(frozenset([1])))[0]] == ["1"]
    assert [e.context for e in selected(path, part=records.Part(frozenset([1]), others=True))[0]] == ["0", "2"]


@pytest.mark.parametrize(
    ("record", "template"),
    [
        ({"context": "甲", "answer": "乙"}, "qg"),
        ({"instruction": "甲", "input": ""}, "instruction"),
        ({"source": "甲"}, "text"),
        ({"context": "甲"}, "qg"),
        ([], "qg"),
    ],
)
def test_a_file_to_answer_is_read_by_the_template_that_fits_its_first_record(tmp_path, record, template):
    path = tmp_path / "data.json"
    path.write_text("\n" + json.dumps(record) + "\n", encoding="utf8")
    assert selections.template_of(path, otherwise="qg") == template
    assert selections.template_of(tmp_path / "prompts.txt", otherwise="qg") == "qg"


def test_conversations_are_talks_whose_last_answer_is_the_target(tmp_path):
    turns = [("human", "甲"), ("assistant", "乙"), ("user", "丙"), ("gpt", "丁")]
    conversations = [{"from": speaker, "value": text} for speaker, text in turns]
    path = write_record(tmp_path, id="1", conversations=conversations)
    (example,) = selected(path)[0]
    assert (example.source, example.target) == ("Human:甲\nAssistant:乙\nHuman:丙\nAssistant:", "丁")
    assert len(selected(path, with_history=True)[0]) == 2
    assert selections.template_of(path, otherwise="qg") == "instruction"
    open_ended = write_record(tmp_path, conversations=conversations[:3])
    (example,) = selected(open_ended, need_target=False)[0]
    assert (example.source, example.target) == ("Human:甲\nAssistant:乙\nHuman:丙\nAssistant:", None)
    with pytest.raises(DataError, match="field 'output' is empty"):
        selected(open_ended)


@pytest.mark.parametrize("key", ["conversations", "messages"])
@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        ("甲", "no field 'instruction' .the record has '{key}'."),
        ([], "{key} has no turn of a human or an assistant"),
        ([{"role": "system", "content": "甲"}], "{key} has no turn of a human or an assistant"),
        ([{"from": "robot", "value": "甲"}], r"{key}\[0\] is said by 'robot', who is none of human, user, assistant"),
        ([{"role": ["user"], "content": "甲"}], r"{key}\[0\] is said by \['user'\], who is none of"),
        ([{"value": "甲"}], r"{key}\[0\] is said by nobody"),
        ([{"from": "human", "value": 1}], r"{key}\[0\] has no text"),
        ([{"role": "user", "content": "甲"}, {"role": "assistant"}], r"{key}\[1\] has no text"),
        (["甲"], r"{key}\[0\] is no object with role and content"),
        (
            [{"role": "user", "content": "甲"}, {"role": "system", "content": "乙"}],
            r"{key}\[1\] is a system turn behind others",
        ),
    ],
)
def test_turns_that_make_no_sense_are_bad_records_told_by_their_place(tmp_path, key, turns, problem):
    path = write_record(tmp_path, **{key: turns})
    with pytest.raises(DataError, match=f"data.jsonl:1: {problem.format(key=key)}"):
        selected(path)


@pytest.mark.parametrize(
    ("key", "speaker", "text"), [("messages", "role", "content"), ("conversations", "from", "value")]
)
def test_what_a_system_turn_says_stands_before_the_talk_and_is_never_cut(tmp_path, key, speaker, text):
    said = [("system", "你是助手。"), ("user", "甲" * 30), ("assistant", "乙"), ("user", "丙"), ("assistant", "丁")]
    path = write_record(tmp_path, **{key: [{speaker: who, text: what} for who, what in said]})
    (example,) = selected(path)[0]
    assert example.source == f"你是助手。\nHuman:{'甲' * 30}\nAssistant:乙\nHuman:丙\nAssistant:"
    assert example.target == "丁"
    ids, *_ = truncation.fit_source(example, list, 40)
    assert "".join(ids) == "你是助手。\nHuman:丙\nAssistant:"
    earlier, last = selected(path, with_history=True)[0]
    assert (earlier.source, earlier.target) == (f"你是助手。\nHuman:{'甲' * 30}\nAssistant:", "乙")
    assert last == example
    assert selections.template_of(path, otherwise="qg") == "instruction"


def test_a_system_field_stands_before_an_instruction(tmp_path):
    path = write_record(tmp_path, system="你是助手。", instruction="甲", input="乙", output="丙")
    assert only(path, "instruction").source == "你是助手。\nHuman:甲乙\nAssistant:"
