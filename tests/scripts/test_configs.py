"""Every recipe runs, on the built-in model and two steps."""

import importlib
import json

import pytest

from glm import command_line
from glm.training.arguments import GLMTrainingArguments, LoraArguments, ModelArguments
from glm.training.data_arguments import InstructionDataArguments, QuestionDataArguments
from tests.helpers import ROOT

CONFIGS = sorted((ROOT / "configs").glob("*.json"))
TINY = ["--model_name_or_path", "glm-tiny-chinese", "--max_steps", "2", "--max_train_samples", "4"]
TINY += ["--max_eval_samples", "1", "--eval_steps", "2", "--evaluation_strategy", "steps", "--disable_tqdm", "True"]
TINY += ["--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "1", "--tgt_length", "64"]
TINY += ["--tensor_parallel_degree", "1"]


def is_instruction(path):
    """Whether a recipe is for instructions."""
    return path.stem.startswith("belle") or "instruction" in path.stem


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_a_recipe_runs_for_two_steps(path, tmp_path, monkeypatch):
    kind, task = ("instruction_", "demo_instruction") if is_instruction(path) else ("", "demo_qg")
    script = importlib.import_module(f"finetune_{kind}generation")
    content = json.loads(path.read_text(encoding="utf8"))
    saving = ["--save_steps", "2"] if content.get("load_best_model_at_end") else []
    script.main([str(path), *TINY, "--task_name", task, "--output_dir", str(tmp_path), *saving])
    results = json.loads((tmp_path / "all_results.json").read_text(encoding="utf8"))
    assert {"train_loss", "eval_loss", "bleu4"} <= results.keys()
    assert (tmp_path / "lora_config.json").exists() == content.get("lora", False)


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_every_value_of_a_recipe_reaches_the_arguments(path):
    data = InstructionDataArguments if is_instruction(path) else QuestionDataArguments
    parsed = {}
    classes = ModelArguments, data, LoraArguments, GLMTrainingArguments
    # One that divides the model is for ranks that are not here.
    for part in command_line.parse(classes, [str(path), "--dry_run"]):
        parsed.update(vars(part))
    content = json.loads(path.read_text(encoding="utf8"))
    # On CPU half precision is off.
    parsed["tensor_parallel_degree"] = parsed["asked_degree"]
    for name in content.keys() - {"fp16", "fp16_opt_level"}:
        assert getattr(parsed[name], "value", parsed[name]) == content[name], name
