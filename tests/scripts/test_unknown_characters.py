"""Unknown characters are told before anything is trained, and what teaches nothing is a bad record."""

import json

import pytest

import finetune_generation
from tests.helpers.runs import TRAINING

TEXTS = [("钟楼高三十米😀。", "多高"), ("钟楼在东街。", "在哪😀"), ("體育馆在东街。", "在哪"), ("钟楼在东街。", "😀")]
RUN = ["--model_name_or_path", "glm-tiny-chinese", "--src_length", "60", "--tgt_length", "12"]


@pytest.fixture
def data_file(tmp_path):
    records = [{"context": context, "answer": "东街", "question": question} for context, question in TEXTS]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf8")
    return path


@pytest.mark.parametrize("dry", [True, False])
def test_a_runs_first_lines_count_them_and_say_where_they_stand(data_file, tmp_path, capsys, dry):
    flags = [*RUN, *TRAINING, "--task_name", str(data_file), "--output_dir", str(tmp_path / "run"), "--max_steps", "1"]
    flags += ["--dry_run"] if dry else []
    with pytest.raises(SystemExit) as ended:
        finetune_generation.main(flags)
    assert ended.value.code == 2
    assert f"{data_file}:4: the vocabulary has no character of the target (😀)" in capsys.readouterr().err
    finetune_generation.main([*flags, "--on_bad_data", "skip"])
    said = capsys.readouterr().out
    assert f"{data_file}: 2 of 3 sources and 1 of their targets have characters that the vocabulary does not" in said
    assert f"e.g. 😀 ({data_file}:1), 體 ({data_file}:3); --normalize simplified" in said
    assert "unknown target x 1" in said
    finetune_generation.main([*flags, "--on_bad_data", "skip", "--normalize", "simplified", "--overwrite_output_dir"])
    said = capsys.readouterr().out
    assert "1 of 3 sources and 1 of their targets have characters" in said
    assert "--normalize" not in said.split("does not know")[1].split("\n")[0]
