"""How the scripts take mistakes: one line, exit code 2, nothing lost."""

import subprocess
import sys

import pytest

import export_generation_model
import finetune_generation
import infer_generation
import predict_generation
from tests.helpers import ROOT
from tests.helpers.runs import RECIPE, SMALL, read_lines

GOOD = '{"context": "甲在乙。", "answer": "乙", "question": "甲在哪里"}\n'


def write(path, text):
    path.write_bytes(text.encode("utf8") if isinstance(text, str) else text)
    return str(path)


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
        (export_generation_model, ["--model_name_or_path", "glm-tiny-chinese", "--dtype", "int3"], "float16"),
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
