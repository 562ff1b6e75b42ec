"""Prediction and inference from end to end on the built-in model: they agree, in files, pipes and conversations."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

import export_generation_model
import infer_generation
import predict_generation
from glm.export import engines
from tests.helpers import ROOT
from tests.helpers.runs import DEV, read_lines


def test_predictions_agree_in_python_and_both_runtimes(trained, tmp_path):
    strategies = (
        ["--num_beams", "1", "--no_repeat_ngram_size", "1"],
        ["--num_beams", "3", "--length_penalty", "0.6", "--no_repeat_ngram_size", "2"],
        ["--select_topk", "False", "--temperature", "1.5", "--top_p", "0.9", "--seed", "7"],
    )
    for strategy in strategies:
        model = ["--model_name_or_path", str(trained), "--tgt_length", "24", "--min_tgt_length", "8", *strategy]
        data = tmp_path / "data.json"
        data.write_text("".join(DEV.read_text(encoding="utf8").splitlines(keepends=True)[:10]), encoding="utf8")
        prompts = ["--data_file", str(data), "--batch_size", "4"]
        predict_generation.main([*model, *prompts, "--output_file", str(tmp_path / "python.jsonl")])
        export_generation_model.main([*model, "--output_path", str(tmp_path / "infer" / "glm")])
        program = ["--model_path", str(tmp_path / "infer"), "--model_prefix", "glm"]
        infer_generation.main(
            [*program, *prompts, "--runtime", "paddle", "--output_file", str(tmp_path / "paddle.jsonl")]
        )
        expected = read_lines(tmp_path / "python.jsonl")
        assert [line["question"] for line in expected] == [record["question"] for record in read_lines(data)]
        assert any(line["prediction"] for line in expected)
        assert read_lines(tmp_path / "paddle.jsonl") == expected
        if importlib.util.find_spec("fastdeploy"):
            # In a process of its own: FastDeploy and paddle crash together.
            flags = [*program, *prompts, "--runtime", "fastdeploy", "--output_file", str(tmp_path / "fastdeploy.jsonl")]
            subprocess.run([sys.executable, ROOT / "infer_generation.py", *flags], check=True, capture_output=True)
            assert read_lines(tmp_path / "fastdeploy.jsonl") == expected


def test_stops_and_penalties_are_the_same_however_texts_are_decoded(trained, tmp_path):
    """By layers, by the ONNX engine, by an ONNX program and by one of Paddle's, with other choices and without."""
    stops = ["--stop", "什么", "哪"]
    penalties = ["--repetition_penalty", "1.4", "--frequency_penalty", "0.3"]
    data = tmp_path / "data.json"
    data.write_text("".join(DEV.read_text(encoding="utf8").splitlines(keepends=True)[:10]), encoding="utf8")
    prompts = ["--data_file", str(data), "--batch_size", "4"]

    def predicted(main, *flags):
        main([*flags, *prompts, "--output_file", str(tmp_path / "out.jsonl")])
        return [line["prediction"] for line in read_lines(tmp_path / "out.jsonl")]

    for number, search in enumerate(([], ["--num_beams", "3"], ["--select_topk", "False", "--seed", "4"])):
        model = ["--model_name_or_path", str(trained), "--tgt_length", "24", "--min_tgt_length", "16", *search]
        plain, whole = (predicted(predict_generation.main, *model, *more) for more in ([], penalties))
        both = predicted(predict_generation.main, *model, *penalties, *stops)
        assert plain != whole
        assert both == [
            text[: min(place for place in (text.find("什么"), text.find("哪"), 99) if place >= 0)] for text in whole
        ]
        assert both != whole
        assert predicted(predict_generation.main, *model, *penalties, *stops, "--engine", "python") == both
        for kind, runtime in (("paddle", "paddle"), ("onnx", "onnx")):
            directory = tmp_path / f"{kind}{number}"
            export_generation_model.main(
                [*model, *penalties, "--format", kind, "--output_path", str(directory / "glm")]
            )
            program = ["--model_path", str(directory), "--runtime", runtime]
            assert predicted(infer_generation.main, *program, *stops) == both
            neutral = ["--repetition_penalty", "1", "--frequency_penalty", "0"]
            assert predicted(infer_generation.main, *program, *neutral) == plain


def test_without_a_file_the_example_prompts_are_answered(trained, tmp_path, capsys):
    predict_generation.main(["--model_name_or_path", str(trained), "--tgt_length", "5"])
    predicted = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    export_generation_model.main(
        ["--model_name_or_path", str(trained), "--tgt_length", "5", "--output_path", str(tmp_path / "glm")]
    )
    capsys.readouterr()
    infer_generation.main(["--model_path", str(tmp_path), "--runtime", "paddle"])
    inferred = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert len(predicted) == 2
    assert predicted == inferred


def test_an_onnx_program_answers_as_python_does(trained, tmp_path):
    beams = ["--num_beams", "2", "--scores", "--tgt_length", "8"]
    model, files = ["--model_name_or_path", str(trained)], ["--data_file", str(DEV), "--num_return_sequences", "2"]
    export = [*model, "--output_path", str(tmp_path / "glm"), "--format", "onnx"]
    export_generation_model.main([*export, *beams])
    answers = {}
    for name, script, flags in (
        ("python", predict_generation, [*model, *beams]),
        ("onnx", infer_generation, ["--model_path", str(tmp_path), "--scores"]),
    ):
        script.main([*flags, *files, "--output_file", str(tmp_path / name)])
        lines = (tmp_path / name).read_text(encoding="utf8").splitlines()
        answers[name] = [json.loads(line) for line in lines]
    scores = {name: np.array([record.pop("scores") for record in records]) for name, records in answers.items()}
    np.testing.assert_allclose(scores["onnx"], scores["python"], atol=1e-4)
    for records in answers.values():
        for record in records:
            record.pop("score")
    assert answers["onnx"] == answers["python"]


def test_a_program_refuses_flags_it_was_not_exported_for(trained, tmp_path, capfd):
    export_generation_model.main(["--model_name_or_path", str(trained), "--output_path", str(tmp_path / "glm")])
    for flag, value, advice in (("--length_penalty", "0.5", "--num_beams"), ("--top_k", "5", "--select_topk False")):
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            infer_generation.main(["--model_path", str(tmp_path), "--runtime", "paddle", flag, value])
        assert stopped.value.code == 2
        assert advice in capfd.readouterr().err


def run_script(name, *flags, stdin=None):
    """A script as its own process; the finished process."""
    command = [sys.executable, str(ROOT / name), *map(str, flags)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Directory of two programs: greedy, and three beams with scores."""
    directory = tmp_path_factory.mktemp("programs")
    for prefix, flags in (("greedy", []), ("beams", ["--num_beams", "3", "--scores", "--tgt_length", "12"])):
        export_generation_model.main(
            ["--model_name_or_path", str(trained), "--output_path", str(directory / prefix), *flags]
        )
    return directory


def test_a_pipe_gets_json_lines_and_nothing_else(trained, exported):
    """Of JSON Lines and of plain text, from Python and from C++."""
    records = DEV.read_text(encoding="utf8").splitlines(keepends=True)[:3]
    texts = ["青湖在哪里？\n", "问题：\n"]
    for script, flags in (
        ("predict_generation.py", ["--model_name_or_path", trained]),
        ("infer_generation.py", ["--model_path", exported, "--model_prefix", "greedy"]),
    ):
        for lines in (records, texts):
            done = run_script(script, *flags, "--data_file", "-", "--tgt_length", "8", stdin="".join(lines))
            assert done.returncode == 0, done.stderr
            answers = [json.loads(line) for line in done.stdout.splitlines()]
            assert len(answers) == len(lines)
            assert "standard input: read as " in done.stderr
            assert "/stdin" not in done.stderr
            assert all(isinstance(answer["prediction"], str) for answer in answers)
        assert answers[0]["source"] == texts[0].strip()
        done = run_script(script, *flags, "--data_file", "-", stdin='{"context": "a"}\n')
        assert done.returncode == 2
        assert "standard input:1" in done.stderr


def test_several_texts_and_their_scores_agree_in_python_and_in_cpp(trained, exported, tmp_path):
    data = tmp_path / "data.json"
    data.write_text("".join(DEV.read_text(encoding="utf8").splitlines(keepends=True)[:4]), encoding="utf8")
    flags = ["--data_file", str(data), "--num_return_sequences", "2", "--scores", "--output_file"]
    decoder = ["--num_beams", "3", "--tgt_length", "12", "--model_name_or_path", str(trained)]
    predict_generation.main([*decoder, *flags, str(tmp_path / "python.jsonl")])
    expected = read_lines(tmp_path / "python.jsonl")
    for runtime_name in ("paddle", "fastdeploy"):
        if runtime_name == "fastdeploy" and importlib.util.find_spec("fastdeploy") is None:
            continue
        output = tmp_path / f"{runtime_name}.jsonl"
        program = ["--model_path", exported, "--model_prefix", "beams", "--runtime", runtime_name]
        assert run_script("infer_generation.py", *program, *flags, output).returncode == 0
        for ours, theirs in zip(expected, read_lines(output), strict=True):
            assert ours["predictions"] == theirs["predictions"]
            np.testing.assert_allclose(ours["scores"], theirs["scores"], rtol=1e-4)
    for answer in expected:
        assert len(answer["predictions"]) == 2
        assert answer["prediction"] == answer["predictions"][0]
        assert answer["score"] == answer["scores"][0] >= answer["scores"][1]


def test_greedy_scores_are_the_log_probabilities_of_their_texts(trained, tmp_path):
    """Against the model's own loss on these texts as targets."""
    from glm.data import examples as data_module
    from glm.data.templates import Example
    from glm.training import evaluation
    from glm.weights import model_directory

    flags = ["--model_name_or_path", str(trained), "--scores", "--tgt_length", "12", "--with_source", "--output_file"]
    predict_generation.main([*flags, str(tmp_path / "out.jsonl")])
    model, tokenizer = model_directory.load_model(trained), model_directory.load_tokenizer(trained)
    for answer in read_lines(tmp_path / "out.jsonl"):
        if not answer["prediction"]:
            continue
        example = Example("", answer["source"], "", target=answer["prediction"], place="here")
        row = data_module.encode(example, tokenizer, 128, 64)
        loss = evaluation.mean_loss(
            model, [row], lambda rows: data_module.collate(rows, tokenizer.sop_id), 1, evaluation.Share()
        )
        ends = len(row.target_ids) <= 12
        if ends:
            assert answer["score"] == pytest.approx(-loss * len(row.target_ids), rel=1e-4)


@pytest.mark.parametrize("script", ["predict_generation.py", "infer_generation.py"])
def test_a_conversation_answers_as_a_file_does(trained, exported, tmp_path, script):
    record = json.loads(DEV.read_text(encoding="utf8").splitlines()[0])
    (tmp_path / "one.json").write_text(json.dumps(record), encoding="utf8")
    model = {
        "predict_generation.py": ["--model_name_or_path", trained],
        "infer_generation.py": ["--model_path", exported, "--model_prefix", "greedy"],
    }[script]
    flags = [*model, "--tgt_length", "8"]
    expected = json.loads(run_script(script, *flags, "--data_file", tmp_path / "one.json").stdout)["prediction"]
    prompts = [record["context"], record["answer"], "x", "", "文", "𠮷", ""]
    said = run_script(script, *flags, "--interactive", stdin="\n".join(prompts) + "\n")
    assert said.returncode == 0, said.stderr
    assert f"answer: {expected}\n" in said.stdout
    # An unusable prompt is told, and does not end the conversation.
    assert "error: prompt:2" in said.stdout
    # What the model does not get to read is told with the prompt.
    assert said.stdout.count("note: 1 of 1 prompts have characters that the vocabulary does not know") == 1
    assert "𠮷" in said.stdout


def test_what_interrupts_prediction_costs_a_batch_and_a_second_run_goes_on(trained, tmp_path, capsys, monkeypatch):
    decode, calls = engines.OnnxEngine.run, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return decode(*arguments)

    flags = ["--model_name_or_path", str(trained), "--data_file", str(DEV), "--batch_size", "4", "--src_length", "128"]
    flags += ["--tgt_length", "8", "--output_file"]
    predict_generation.main([*flags, str(tmp_path / "whole.jsonl")])
    output = tmp_path / "out.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(engines.OnnxEngine, "run", interrupted)
        with pytest.raises(SystemExit) as stopped:
            predict_generation.main([*flags, str(output)])
    assert stopped.value.code == 130
    told = capsys.readouterr().err.splitlines()[-1]
    assert "answers are kept in" in told
    assert "--resume" in told
    kept = len((tmp_path / "out.jsonl.partial").read_text(encoding="utf8").splitlines()) - 1
    assert kept > 0
    assert not output.exists()
    # What was being written when a run was killed is no answer.
    with open(tmp_path / "out.jsonl.partial", "a", encoding="utf8") as file:
        file.write('{"row": 3, "answ')
    with pytest.raises(SystemExit):
        predict_generation.main([*flags, str(output), "--resume", "--no_repeat_ngram_size", "1"])
    assert "are of other data, another model or other flags" in capsys.readouterr().err
    calls.clear()
    monkeypatch.setattr(engines.OnnxEngine, "run", lambda *arguments: calls.append(1) or decode(*arguments))
    predict_generation.main([*flags, str(output), "--resume"])
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(calls) > 0
    assert not (tmp_path / "out.jsonl.partial").exists()
