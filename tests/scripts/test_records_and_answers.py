"""A file of predictions is its file of records with what was generated, and what of them no model has read is told."""

import json
import shutil
import subprocess

import pytest

import export_generation_model
import infer_generation
import predict_generation
from glm import metrics
from tests.helpers.runs import read_lines

CONTEXT, ANSWER = "云栖湖位于青岚山脚下，湖面海拔一千二百米。", "青岚山脚下"
PROMPT = f'"context": "{CONTEXT}", "answer": "{ANSWER}"'
# Records as people spell them.
SPELLED = [
    f'{{"id": "q-001", {PROMPT}, "question": "湖在哪里？"}}',
    f'{{{PROMPT}, "id": 1.0, "rate": 1e5, "tiny": -0.10E-3, "big": 123456789012345678901234567890}}',
    f'{{"s": 3, "z": null, {PROMPT}, "a": {{"y": [1.50, {{}}], "x": "\\u4e2d\\/\\ud83d\\ude00", "h": "\\ud800"}}}}',
    f'{{"n":[],"t":true,{PROMPT},"line\\nbreak":"a\\u2028b\u2028c\x85d"}}',
    f'  {{ {PROMPT} ,\t"spaced" : 1 }}  ',
]


@pytest.fixture(scope="module")
def scripts(trained, tmp_path_factory):
    """{name: function that answers with flags}, in Python and in C++."""
    program = tmp_path_factory.mktemp("program")
    export_generation_model.main(
        ["--model_name_or_path", str(trained), "--tgt_length", "6", "--output_path", str(program / "glm")]
    )
    model = ["--model_name_or_path", str(trained), "--tgt_length", "6"]
    return {
        "predict_generation": lambda *flags: predict_generation.main([*model, *map(str, flags)]),
        "infer_generation": lambda *flags: infer_generation.main(
            ["--model_path", str(program), "--runtime", "paddle", *map(str, flags)]
        ),
    }


each_script = pytest.mark.parametrize("script", ["predict_generation", "infer_generation"])


def spelled(text):
    """What a JSON text says, with numbers as they are spelled and members in their order."""
    return json.loads(text, object_pairs_hook=list, parse_int=str, parse_float=str)


def without_prediction(line):
    """The members of a line but its prediction, which has to be the last."""
    *others, (name, prediction) = spelled(line)
    assert name == "prediction"
    assert isinstance(prediction, str)
    return others


def lines_of(path):
    """Its lines, which LF alone ends."""
    return path.read_text(encoding="utf8").removesuffix("\n").split("\n")


@each_script
@pytest.mark.parametrize("layout", ["lines", "array"])
def test_without_their_predictions_the_lines_are_the_records(scripts, tmp_path, script, layout):
    data, output = tmp_path / "data.json", tmp_path / "out.jsonl"
    array = "[" + ",\n".join(text.replace(", ", ",\n   ") for text in SPELLED) + "]"
    data.write_text("\n".join(SPELLED) + "\n" if layout == "lines" else array, encoding="utf8")
    scripts[script]("--data_file", data, "--output_file", output)
    assert list(map(without_prediction, lines_of(output))) == list(map(spelled, SPELLED))
    if layout == "lines":
        starts = [text.strip().removesuffix("}").rstrip() + ', "prediction": ' for text in SPELLED]
        for line, start in zip(lines_of(output)[:-1], starts, strict=False):
            assert line.startswith(start)
    if shutil.which("jq"):
        # jq has no halves of characters.
        records, answers = (path.read_bytes().replace(b"\\ud800", b"") for path in (data, output))
        every = [".[]"] if layout == "array" else ["."]
        assert jq(answers, "del(.prediction)") == jq(records, *every)


def jq(text, program):
    """What jq makes of a text."""
    return subprocess.run(["jq", "-c", program], input=text, capture_output=True, check=True).stdout


@each_script
def test_texts_that_are_no_json_become_records(scripts, tmp_path, script):
    (tmp_path / "pair.source").write_text("甲 “引”\n乙\n", encoding="utf8")
    (tmp_path / "pair.target").write_text("一\n二\n", encoding="utf8")
    (tmp_path / "plain.txt").write_text("甲 “引”\n", encoding="utf8")
    output = tmp_path / "out.jsonl"
    found = {}
    for name, data, flags in (
        ("pair", "pair.source", []),
        ("text", "plain.txt", []),
        ("instruction", "plain.txt", ["--template", "instruction"]),
    ):
        scripts[script]("--data_file", tmp_path / data, "--output_file", output, *flags)
        found[name] = list(map(without_prediction, lines_of(output)))
    pair = [[("source", "甲 “引”"), ("target", "一")], [("source", "乙"), ("target", "二")]]
    assert found == {"pair": pair, "text": [[("source", "甲 “引”")]], "instruction": [[("instruction", "甲 “引”")]]}


@each_script
def test_fields_of_a_lines_own_take_the_place_of_a_records(scripts, tmp_path, capfd, script):
    data, output = tmp_path / "data.jsonl", tmp_path / "out.jsonl"
    record = {"prediction": "old", "context": CONTEXT, "predictions": ["old"], "answer": ANSWER, "source": "a book"}
    data.write_text(json.dumps(record) + "\n" + json.dumps({"context": CONTEXT, "answer": ANSWER}), encoding="utf8")
    scripts[script]("--data_file", data, "--output_file", output)
    told = capfd.readouterr().err
    assert told.count("records had already: 'prediction' (1 of 2 records)") == 1
    first, second = read_lines(output)
    assert list(first) == ["context", "predictions", "answer", "source", "prediction"]
    assert first["prediction"] == second["prediction"]
    # What is predicted of predictions is the same.
    scripts[script]("--data_file", output, "--output_file", tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == output.read_bytes()
    scripts[script]("--data_file", data, "--output_file", output, "--with_source")
    assert "'source' (1 of 2 records), 'prediction' (1 of 2 records)" in capfd.readouterr().err
    first, second = read_lines(output)
    assert list(first) == ["context", "predictions", "answer", "source", "prediction"]
    assert first["source"] == second["source"] == f"答案：{ANSWER}，上下文：{CONTEXT}。在已知答案的前提下，问题："
    scripts[script]("--data_file", data, "--output_file", output, "--only_predictions")
    assert [list(line) for line in read_lines(output)] == [["source", "prediction"]] * 2
    assert "replaced" not in capfd.readouterr().err


@each_script
@pytest.mark.parametrize("first", [[], ["--with_source"], ["--only_predictions"]])
def test_what_was_interrupted_goes_on_with_the_records_whatever_its_lines_are(
    scripts, tmp_path, monkeypatch, script, first
):
    data, output = tmp_path / "data.jsonl", tmp_path / "out.jsonl"
    data.write_text("\n".join(SPELLED), encoding="utf8")
    flags = ["--data_file", data, "--output_file", output, "--batch_size", "1", "--src_length", "64"]
    scripts[script](*flags)
    whole = output.read_bytes()
    output.unlink()
    interrupt_after(2, monkeypatch)
    with pytest.raises(SystemExit) as stopped:
        scripts[script](*flags, *first)
    assert stopped.value.code == 130
    monkeypatch.undo()
    kept = (tmp_path / "out.jsonl.partial").read_text(encoding="utf8")
    assert kept.count("\n") == 3
    assert CONTEXT not in kept
    scripts[script](*flags, "--resume")
    assert output.read_bytes() == whole


def interrupt_after(count, monkeypatch):
    """Have the batch after so many be interrupted, whatever decodes."""
    from glm.inference.partial_answers import PartialAnswers

    keep, calls = PartialAnswers.add, []

    def add(self, answers):
        keep(self, answers)
        calls.append(answers)
        if len(calls) == count:
            raise KeyboardInterrupt

    monkeypatch.setattr(PartialAnswers, "add", add)


@each_script
def test_predictions_are_scored_by_their_records_own_fields(scripts, tmp_path, capsys, script):
    data, output = tmp_path / "data.jsonl", tmp_path / "out.jsonl"
    data.write_text(SPELLED[0] + "\n", encoding="utf8")
    scripts[script]("--data_file", data, "--output_file", output)
    (line,) = read_lines(output)
    assert metrics.read_predictions(str(output)) == ([line["prediction"]], ["湖在哪里？"])


@each_script
def test_what_no_model_reads_is_told_in_a_line(scripts, tmp_path, capfd, script):
    data, output = tmp_path / "data.jsonl", tmp_path / "out.jsonl"
    records = [{"context": CONTEXT * n, "answer": ANSWER + rare} for n, rare in ((1, ""), (9, "𠮷"), (1, "𠮷😀"))]
    data.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf8")
    flags = ["--data_file", data, "--output_file", output, "--with_source"]
    scripts[script](*flags, "--src_length", "70")
    told = [line for line in capfd.readouterr().err.splitlines() if "of 3 prompts" in line]
    assert len(told) == 1
    assert "1 of 3 prompts were cut to --src_length 70 tokens" in told[0]
    assert "2 of 3 prompts have characters that the vocabulary does not know" in told[0]
    assert told[0].endswith("e.g. 𠮷 😀")
    # The source is what was read of it.
    sources = [line["source"] for line in read_lines(output)]
    assert sources[0] == f"答案：{ANSWER}，上下文：{CONTEXT}。在已知答案的前提下，问题："
    assert CONTEXT[-9:] in sources[1]
    assert len(sources[1]) < len(CONTEXT) * 5
    data.write_text(json.dumps(records[0]), encoding="utf8")
    scripts[script](*flags)
    assert " prompts " not in capfd.readouterr().err
