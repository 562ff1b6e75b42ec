"""Texts of predictions within their passage, or of a list: prompts that are cut, fewer texts than beams, bad input."""

import json

import pytest

import predict_generation
from glm.words import segmenter
from tests.helpers.runs import read_lines

MODEL = ["--model_name_or_path", "glm-tiny-chinese", "--tgt_length", "12"]
RECORDS = [
    {"context": "云栖湖位于青岚山脚下，湖面海拔一千二百米。四月到六月可以观鸟。" * 3, "answer": "观鸟"},
    {"context": "木桥", "answer": "木桥"},
]


def predicted(tmp_path, records, *flags):
    data, output = tmp_path / "data.jsonl", tmp_path / "out.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf8")
    predict_generation.main([*MODEL, "--data_file", str(data), "--output_file", str(output), *flags])
    return read_lines(output)


@pytest.mark.parametrize("template", ["qg", "extract", "text"])
@pytest.mark.parametrize("engine", ["python", "onnx"])
def test_texts_are_runs_of_what_the_model_has_read_of_the_passage(template, engine, tmp_path):
    records = [{"source": one["context"]} for one in RECORDS] if template == "text" else RECORDS
    beams = ["--num_beams", "5", "--num_return_sequences", "5", "--within_source", "True", "--template", template]
    found = predicted(tmp_path, records, *beams, "--src_length", "60", "--engine", engine, "--with_source", "True")
    words = segmenter().lcut(RECORDS[0]["context"].replace("，", ","))
    for one in found:
        texts = one.get("predictions", [one["prediction"]])
        assert len(set(texts)) == len(texts)
        for text in texts:
            assert text
            assert text in one["source"].replace("，", ",")
    # There are no more texts in a passage of one word.
    assert found[1].get("predictions", [found[1]["prediction"]]) == ["木桥"]
    # None begins or ends inside of a word.
    joined = ["".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)]
    if template == "extract":
        assert set(found[0]["predictions"]) <= set(joined)


def test_each_answer_is_a_line_of_the_file(tmp_path):
    listed = tmp_path / "listed.txt"
    listed.write_text("观鸟\n\n木桥\n青岚山脚下\n", encoding="utf8")
    flags = ["--bound_to", str(listed), "--num_beams", "4", "--num_return_sequences", "4"]
    for one in predicted(tmp_path, RECORDS, *flags):
        assert set(one["predictions"]) <= {"观鸟", "木桥", "青岚山脚下"}
        assert len(set(one["predictions"])) == len(one["predictions"]) > 1


@pytest.mark.parametrize(
    ("records", "flags", "told"),
    [
        ([{"context": "𠮷𠮷", "answer": "𠮷"}], ["--within_source"], "data.jsonl:1: the passage has no words that"),
        (RECORDS, ["--bound_to", "{listed}"], "the vocabulary can spell none of its texts"),
        (RECORDS, ["--bound_to", "{missing}"], "no such file"),
        (RECORDS, ["--within_source", "--tgt_length", "2"], "the shortest text that may be written takes"),
    ],
)
def test_what_leaves_nothing_to_write_is_told_in_one_line(records, flags, told, tmp_path, capfd):
    (tmp_path / "listed.txt").write_text("𠮷\n", encoding="utf8")
    places = {"listed": tmp_path / "listed.txt", "missing": tmp_path / "missing.txt"}
    with pytest.raises(SystemExit) as ended:
        predicted(tmp_path, records, *(flag.format(**places) for flag in flags))
    assert ended.value.code == 2
    assert told in capfd.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out.jsonl").exists()


def test_a_passage_without_words_may_be_left_out(tmp_path):
    records = [{"context": "𠮷𠮷", "answer": "𠮷"}, RECORDS[1]]
    found = predicted(tmp_path, records, "--within_source", "True", "--on_bad_data", "skip")
    assert [one["prediction"] for one in found] == ["木桥"]
