"""The scripts from end to end on the built-in model: what they leave, that they agree, how they take mistakes."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import export_generation_model
import finetune_generation
import infer_generation
import metrics
import predict_generation

ROOT = Path(__file__).resolve().parents[1]
DEV = ROOT / "demo" / "qg" / "dev.json"
RECIPE = ["--model_name_or_path", "glm-tiny-chinese", "--task_name", "demo_qg", "--src_length", "128"]
RECIPE += ["--tgt_length", "12", "--min_tgt_length", "0"]
SMALL = [*RECIPE, "--max_train_samples", "48", "--max_eval_samples", "6", "--per_device_eval_batch_size", "4"]
TRAINING = ["--do_train", "--per_device_train_batch_size", "8", "--max_steps", "8", "--save_steps", "4"]
TRAINING += ["--logging_steps", "1", "--learning_rate", "1e-2", "--disable_tqdm", "True"]


def read_lines(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf8").splitlines()]


def weights_of(directory):
    """The weights that a run has written, of a model or of an adapter."""
    from safetensors.numpy import load_file

    (path,) = (path for path in Path(directory).glob("*.safetensors") if not path.name.startswith("optimizer."))
    return load_file(str(path))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Output directory of a short run with beams, n-gram bans and a length penalty in its evaluation."""
    directory = tmp_path_factory.mktemp("run")
    search = ["--num_beams", "3", "--no_repeat_ngram_size", "2", "--min_tgt_length", "4", "--length_penalty", "0.5"]
    finetune_generation.main(
        [*SMALL, *TRAINING, *search, "--do_eval", "--eval_steps", "4", "--output_dir", str(directory)]
    )
    return directory


def test_a_run_leaves_every_output(trained):
    results = json.loads((trained / "all_results.json").read_text(encoding="utf8"))
    scores = {"eval_loss", "eval_perplexity", *metrics.SCORES, "train_loss", "train_tokens_per_second"}
    assert scores <= results.keys()
    assert np.isclose(results["eval_perplexity"], np.exp(results["eval_loss"]))
    assert json.loads((trained / "args.json").read_text(encoding="utf8"))["num_beams"] == 3
    assert (trained / "loss.png").read_bytes().startswith(b"\x89PNG")
    for name in ("model.safetensors", "config.json", "cog-pretrain.model", "added_tokens.json", "checkpoint-8"):
        assert (trained / name).exists(), name

    logged = [entry for entry in read_lines(trained / "metrics.jsonl") if "loss" in entry]
    assert [entry["step"] for entry in logged] == list(range(1, 9))
    assert all({"learning_rate", "tokens_per_second", "grad_norm", "memory_gib"} <= entry.keys() for entry in logged)
    evaluated = [entry["step"] for entry in read_lines(trained / "metrics.jsonl") if "eval_bleu4" in entry]
    assert evaluated == [4, 8], "every eval_steps; the last one is the end's"

    predictions = read_lines(trained / "predictions.jsonl")
    records = read_lines(DEV)[:6]
    assert [line["target"] for line in predictions] == [record["question"] for record in records]
    again = metrics.score([line["prediction"] for line in predictions], [line["target"] for line in predictions])
    assert {name: results[name] for name in again} == pytest.approx(again)


def test_a_resumed_run_ends_with_the_same_weights(trained, tmp_path):
    shutil.copytree(trained / "checkpoint-4", tmp_path / "checkpoint-4")
    finetune_generation.main([*SMALL, *TRAINING, "--output_dir", str(tmp_path)])
    expected, resumed = weights_of(trained), weights_of(tmp_path)
    assert all(np.array_equal(expected[name], resumed[name]) for name in expected)
    assert not np.array_equal(
        expected["glm.word_embeddings.weight"], weights_of(trained / "checkpoint-4")["glm.word_embeddings.weight"]
    )


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
        assert [line["target"] for line in expected] == [record["question"] for record in read_lines(data)]
        assert any(line["prediction"] for line in expected)
        assert read_lines(tmp_path / "paddle.jsonl") == expected
        if importlib.util.find_spec("fastdeploy"):
            # In a process of its own: FastDeploy and paddle crash together.
            flags = [*program, *prompts, "--runtime", "fastdeploy", "--output_file", str(tmp_path / "fastdeploy.jsonl")]
            subprocess.run([sys.executable, ROOT / "infer_generation.py", *flags], check=True, capture_output=True)
            assert read_lines(tmp_path / "fastdeploy.jsonl") == expected


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


@pytest.mark.parametrize(
    ("flags", "holds"),
    [
        (["--min_tgt_length", "6", "--num_beams", "1"], lambda ids: len(ids) >= 6),
        (["--no_repeat_ngram_size", "1", "--num_beams", "2"], lambda ids: len(set(ids)) == len(ids)),
    ],
)
def test_evaluation_decodes_as_the_flags_say(flags, holds, tmp_path):
    import checkpoint

    defaults = ["--min_tgt_length", "0", "--no_repeat_ngram_size", "0"]
    finetune_generation.main([*SMALL, *defaults, *flags, "--do_eval", "--output_dir", str(tmp_path)])
    tokenizer = checkpoint.load_tokenizer("glm-tiny-chinese")
    texts = [line["prediction"] for line in read_lines(tmp_path / "predictions.jsonl")]
    assert all(holds(tokenizer.encode(text)) or "\u2047" in text for text in texts)


def test_drawing_in_evaluation_depends_on_the_seed(tmp_path):
    texts = []
    for seed in ("1", "1", "2"):
        flags = ["--select_topk", "False", "--top_k", "50", "--num_beams", "1", "--seed", seed, "--min_tgt_length", "5"]
        finetune_generation.main([*SMALL, *flags, "--do_eval", "--output_dir", str(tmp_path)])
        texts.append([line["prediction"] for line in read_lines(tmp_path / "predictions.jsonl")])
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_half_precision_on_cpu_and_an_overlong_minimum_are_told_once(tmp_path, capsys):
    flags = ["--fp16", "--fp16_opt_level", "O2", "--min_tgt_length", "11", "--num_beams", "1"]
    finetune_generation.main([*SMALL, *flags, "--do_eval", "--output_dir", str(tmp_path)])
    output = capsys.readouterr().out
    assert output.count("everything is computed in float32") == 1
    assert output.count("min_tgt_length is 11, but 6 of 6 targets are shorter") == 1


def write(path, text):
    path.write_bytes(text.encode("utf8") if isinstance(text, str) else text)
    return str(path)


GOOD = '{"context": "甲在乙。", "answer": "乙", "question": "甲在哪里"}\n'


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (GOOD + '{"context": "甲", "answer": \n', "data.json:2: "),
        (GOOD + '{"context": "甲", "question": "乙"}\n', "data.json:2: no field 'answer'"),
        (GOOD + '{"context": "", "answer": "乙", "question": "丙"}\n', "data.json:2: field 'context' is empty"),
        (GOOD + '{"context": "甲", "answer": 3, "question": "丙"}\n', "data.json:2: field 'answer' is a number"),
        (GOOD.encode() + b'{"context": "\xff"}\n', "data.json:2: "),
        (
            GOOD + '{"context": "a\\u0000", "answer": "b", "question": "c"}\n',
            "data.json:2: field 'context' holds a NUL",
        ),
        ("", "data.json"),
    ],
)
def test_bad_data_is_one_line_and_exit_code_2(content, complaint, tmp_path, capfd):
    path = write(tmp_path / "data.json", content)
    output = tmp_path / "out"
    calls = {
        finetune_generation.main: [*RECIPE, "--task_name", path, "--do_train", "--output_dir", str(output)],
        predict_generation.main: ["--model_name_or_path", "glm-tiny-chinese", "--data_file", path],
    }
    for main, flags in calls.items():
        if main is predict_generation.main and "question" in complaint:
            continue
        with pytest.raises(SystemExit) as stopped:
            main(flags)
        assert stopped.value.code == 2
        errors = capfd.readouterr().err.splitlines()
        assert len(errors) == 1, errors
        assert complaint in errors[0]
    assert not (output / "model.safetensors").exists()


def test_bad_records_can_be_left_out(tmp_path, capfd):
    path = write(tmp_path / "data.json", GOOD + "{\n" + GOOD)
    flags = ["--model_name_or_path", "glm-tiny-chinese", "--tgt_length", "4", "--data_file", path]
    predict_generation.main([*flags, "--on_bad_data", "skip", "--output_file", str(tmp_path / "out.jsonl")])
    assert len(read_lines(tmp_path / "out.jsonl")) == 2
    assert "1 bad records skipped" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("script", "flags", "complaint"),
    [
        (finetune_generation, ["--num_beam", "3"], "did you mean --num_beams?"),
        (finetune_generation, [*RECIPE, "--output_dir", "{tmp}", "--task_name", "{tmp}/none", "--do_train"], "none"),
        (
            finetune_generation,
            [*RECIPE, "--output_dir", "{tmp}", "--model_name_or_path", "{tmp}/none", "--do_eval"],
            "no such directory",
        ),
        (finetune_generation, [*SMALL, "--output_dir", "{tmp}", "--do_eval", "--top_k", "5"], "--select_topk False"),
        (
            finetune_generation,
            [*SMALL, "--output_dir", "{tmp}", "--do_eval", "--tgt_length", "2000", "--min_tgt_length", "0"],
            "positions",
        ),
        (
            finetune_generation,
            [*SMALL, "--output_dir", "{tmp}", "--do_eval", "--src_length", "20"],
            "raise --src_length",
        ),
        (finetune_generation, [*SMALL, "--do_eval"], "--output_dir is missing"),
        (
            finetune_generation,
            [*SMALL, "--output_dir", "{tmp}", "--do_eval", "--tensor_parallel_degree", "2"],
            "there are 1: start it with python -m paddle.distributed.launch --nproc_per_node 2",
        ),
        (finetune_generation, [*SMALL, "--output_dir", "{tmp}", "--do_eval", "--sharding", "stage1"], "--sharding"),
        (finetune_generation, [*SMALL, "--output_dir", "{tmp}", "--do_predict"], "predict_generation.py"),
        (finetune_generation, ["{tmp}/none.json"], "no such file"),
        (
            finetune_generation,
            [*SMALL, "--output_dir", "{tmp}", "--do_train", "--resume_from_checkpoint", "{tmp}"],
            "no checkpoint",
        ),
        (predict_generation, ["--model_name_or_path", "{tmp}"], "no cog-pretrain.model"),
        (predict_generation, ["--model_name_or_path", "glm-tiny-chinese", "--batch_size", "x"], "whole number"),
        (export_generation_model, ["--model_name_or_path", "glm-tiny-chinese", "--dtype", "int4"], "float16"),
        (export_generation_model, ["--model_name_or_path", "{tmp}/none"], "no such directory"),
        (infer_generation, ["--model_path", "{tmp}"], "export_generation_model.py"),
        (infer_generation, ["--runtime", "tensorrt"], "must be one of"),
        (export_generation_model, ["--format", "onnx", "--dtype", "float16"], "--dtype float16 is for --format paddle"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_exit_code_2(script, flags, complaint, tmp_path, capfd):
    with pytest.raises(SystemExit) as stopped:
        script.main([flag.replace("{tmp}", str(tmp_path)) for flag in flags])
    assert stopped.value.code == 2
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == 1, errors
    assert errors[0].startswith("error: ")
    assert complaint in errors[0]


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


def test_only_so_many_checkpoints_are_kept_and_the_best_among_them(tmp_path):
    flags = ["--save_steps", "2", "--eval_steps", "2", "--save_total_limit", "2", "--load_best_model_at_end"]
    # The highest loss counts as the best: an early one.
    flags += ["--do_eval", "--prediction_loss_only", "--metric_for_best_model", "loss", "--greater_is_better", "True"]
    finetune_generation.main([*SMALL, *TRAINING, *flags, "--output_dir", str(tmp_path)])
    state = json.loads((tmp_path / "trainer_state.json").read_text(encoding="utf8"))
    losses = {entry["step"]: entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry}
    best = max(losses, key=losses.get)
    assert best < 6
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {f"checkpoint-{best}", "checkpoint-8"}
    ours, saved = weights_of(tmp_path), weights_of(tmp_path / f"checkpoint-{best}")
    assert all(np.array_equal(ours[name], saved[name]) for name in ours)
    assert not (tmp_path / "predictions.jsonl").exists()


def test_results_are_not_overwritten_unasked(trained, tmp_path, capfd):
    finished = tmp_path / "finished"
    shutil.copytree(trained, finished, ignore=shutil.ignore_patterns("checkpoint-*"))
    before = (finished / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit) as stopped:
        finetune_generation.main([*SMALL, *TRAINING, "--output_dir", str(finished)])
    assert stopped.value.code == 2
    assert "--overwrite_output_dir" in capfd.readouterr().err
    assert (finished / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", ["export_generation_model", "infer_generation", "predict_generation"])
def test_help_needs_no_paddle_and_explains_every_flag(name):
    code = (
        f"import sys; sys.argv = ['x', '--help']; sys.path.insert(0, {str(ROOT)!r})\n"
        f"import {name}\ntry:\n    {name}.main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert not {'paddle', 'paddlenlp', 'fastdeploy', 'numpy'} & sys.modules.keys(), 'heavy imports'"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    flags = [line for line in shown.splitlines() if line.lstrip().startswith("--")]
    assert flags
    assert "(default: " in shown


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
            assert all(isinstance(answer["prediction"], str) for answer in answers)
        assert answers[0]["source"] == texts[0].strip()
        done = run_script(script, *flags, "--data_file", "-", stdin='{"context": "a"}\n')
        assert done.returncode == 2
        assert "standard input:1" in done.stderr


def test_several_texts_and_their_scores_agree_in_python_and_in_cpp(trained, exported, tmp_path):
    data = tmp_path / "data.json"
    data.write_text("".join(DEV.read_text(encoding="utf8").splitlines(keepends=True)[:4]), encoding="utf8")
    flags = ["--data_file", str(data), "--num_return_sequences", "2", "--scores", "--output_file"]
    decoding = ["--num_beams", "3", "--tgt_length", "12", "--model_name_or_path", str(trained)]
    predict_generation.main([*decoding, *flags, str(tmp_path / "python.jsonl")])
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
    import checkpoint
    import data as data_module
    import evaluation
    from templates import Example

    flags = ["--model_name_or_path", str(trained), "--scores", "--tgt_length", "12", "--output_file"]
    predict_generation.main([*flags, str(tmp_path / "out.jsonl")])
    model, tokenizer = checkpoint.load_model(trained), checkpoint.load_tokenizer(trained)
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
    said = run_script(script, *flags, "--interactive", stdin=f"{record['context']}\n{record['answer']}\nx\n\n\n")
    assert said.returncode == 0, said.stderr
    assert f"答案 answer: {expected}\n" in said.stdout
    # An unusable prompt is told, and does not end the conversation.
    assert "error: prompt:2" in said.stdout


def test_what_interrupts_prediction_costs_a_batch_and_a_second_run_goes_on(trained, tmp_path, capsys, monkeypatch):
    import decoding

    decode, calls = decoding.run, []

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
        patch.setattr(decoding, "run", interrupted)
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
        predict_generation.main([*flags, str(output), "--resume", "--seed", "7"])
    assert "are of other data, another model or other flags" in capsys.readouterr().err
    calls.clear()
    monkeypatch.setattr(decoding, "run", lambda *arguments: calls.append(1) or decode(*arguments))
    predict_generation.main([*flags, str(output), "--resume"])
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(calls) > 0
    assert not (tmp_path / "out.jsonl.partial").exists()


def test_evaluation_alone_makes_its_directory(trained, tmp_path):
    flags = ["--model_name_or_path", str(trained), *SMALL[2:], "--do_eval", "--num_beams", "1"]
    finetune_generation.main([*flags, "--output_dir", str(tmp_path / "new" / "results")])
    assert {"all_results.json", "predictions.jsonl", "args.json"} <= {
        path.name for path in (tmp_path / "new" / "results").iterdir()
    }
