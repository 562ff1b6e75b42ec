"""GLM's own example command, flag by flag, on DuReaderQG as paddlenlp keeps it after downloading it."""

import json
import os
import shlex
import subprocess
import sys

import pytest

from tests.helpers import ROOT
from tests.helpers.runs import read_lines

EMPTY = 7  # number, from 0, of the training record whose answer is empty, as one of DuReaderQG's is
COMMAND = """
    --model_name_or_path THUDM/glm-large-chinese --task_name dureader_qg --num_train_epochs 4 --learning_rate 3e-5
    --warmup_ratio 0.06 --weight_decay 0.1 --label_smoothing 0.1 --save_steps 100 --logging_steps 1 --eval_steps 100
    --src_length 608 --tgt_length 160 --min_tgt_length 55 --length_penalty 0.7 --no_repeat_ngram_size 3 --num_beams 5
    --select_topk True --per_device_eval_batch_size 2 --per_device_train_batch_size 2 --max_grad_norm 1.0
    --lr_scheduler_type linear --fp16 --fp16_opt_level O2 --recompute --do_train --do_eval
"""
# A model and a length of run that a CPU has; everything else is the command's.
SMALL = "--model_name_or_path glm-tiny-chinese --num_train_epochs 1 --max_eval_samples 2 --disable_tqdm True"


@pytest.fixture
def paddlenlp_home(tmp_path):
    """A home of paddlenlp with a data set of demo/ in DuReaderQG's place."""
    directory = tmp_path / "paddlenlp" / "datasets" / "DuReaderQG"
    directory.mkdir(parents=True)
    for split, count in (("train", 20), ("dev", 3)):
        records = read_lines(ROOT / "demo" / "qg" / f"{split}.json")[:count]
        if split == "train":
            records[EMPTY]["answer"] = ""
        lines = (json.dumps({**record, "id": number}, ensure_ascii=False) for number, record in enumerate(records))
        (directory / f"{split}.json").write_text("\n".join(lines) + "\n", encoding="utf8")
    return directory.parents[1]


def test_the_examples_command_trains_to_the_end_and_says_what_it_skipped(paddlenlp_home, tmp_path):
    flags = [*shlex.split(f"{COMMAND} {SMALL}"), "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "finetune_generation.py"), *flags],
        env={**os.environ, "PPNLP_HOME": str(paddlenlp_home), "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    place = paddlenlp_home / "datasets" / "DuReaderQG" / "train.json"
    assert f"{place}: 19 records read, 1 bad records skipped" in said
    assert f"first {place}:{EMPTY + 1}: field 'answer' is empty" in said
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert len(read_lines(tmp_path / "out" / "predictions.jsonl")) == 2
    results = json.loads((tmp_path / "out" / "all_results.json").read_text(encoding="utf8"))
    assert results["train_loss"] > 0


def test_offline_a_data_set_that_is_not_there_is_told_in_one_line(tmp_path):
    flags = ["--model_name_or_path", "glm-tiny-chinese", "--task_name", "dureader_qg", "--do_train"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "finetune_generation.py"), *flags, "--output_dir", str(tmp_path / "out")],
        env={**os.environ, "PPNLP_HOME": str(tmp_path / "empty"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "dureader_qg could not be downloaded (HF_HUB_OFFLINE forbids it)" in line
