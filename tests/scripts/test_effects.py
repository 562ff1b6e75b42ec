"""No flag without effect: every flag of every script changes what docs/effects.json says it does, or is refused.

docs/make_parameters.py writes the same declarations into the tables of parameters.
"""

import ast
import importlib
import json
import subprocess
import sys

import pytest

from glm import command_line, stacks
from glm.needs import all_needs
from tests.helpers import ROOT
from tests.helpers.effects import BASES, DECLARED, Inputs, differs, effects_of, run_script, seen

sys.path.insert(0, str(ROOT / "docs"))
CLASSES = importlib.import_module("make_parameters").classes_by_script()
SHOWN = {
    script: [name for cls in classes for names in command_line.groups_of(cls).values() for name in names]
    for script, classes in CLASSES.items()
}


def is_long(script, effect):
    """Whether a case trains and evaluates, which takes seconds: make test-faults runs those."""
    return script.startswith("finetune") and "--do_eval" in effect.get("with", [])


CASES = [
    pytest.param(script, flag, id=f"{script}-{flag}", marks=[pytest.mark.faults] if is_long(script, effect) else [])
    for script in CLASSES
    for flag, effect in DECLARED["flags"][script].items()
    if "value" in effect
]
# The flags that both scripts of training have, once more beside instructions.
AGAIN = [("finetune_instruction_generation.py", flag) for flag, effect in effects_of("finetune_generation.py").items()
         if "value" in effect and flag not in DECLARED["flags"]["finetune_instruction_generation.py"]]  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return Inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def baselines():
    """{(script, flags): what is seen of the run}, for flags that share one."""
    return {}


def check(script, flag, inputs, baselines, tmp_path):
    """Run without the flag and with it, and compare."""
    effect = effects_of(script)[flag]
    flags = [*BASES[script], *effect.get("with", [])]
    alone = (script, *flags)
    if alone not in baselines or "{earlier_run}" in flags or "{kept}" in flags:
        baselines[alone] = seen(script, inputs.filled(flags, tmp_path / "without"), tmp_path / "without")
    changed = [*flags, f"--{flag}", *str(effect["value"]).split()]
    with_flag = seen(script, inputs.filled(changed, tmp_path / "with"), tmp_path / "with")
    assert differs(baselines[alone], with_flag, effect["changes"]), effect
    if effect["changes"] != "refusal":
        assert not with_flag.get("refusal"), with_flag["refusal"]


@pytest.mark.parametrize(("script", "flag"), CASES)
def test_a_flag_changes_what_is_said_of_it(script, flag, inputs, baselines, tmp_path):
    if flag == "backend" and stacks.current().program_format == "pir":
        pytest.skip("is refused with programs of paddle 3, see tests/test_stacks.py")
    check(script, flag, inputs, baselines, tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize(("script", "flag"), AGAIN, ids=["-".join(case) for case in AGAIN])
def test_a_flag_changes_it_beside_instructions_too(script, flag, inputs, baselines, tmp_path):
    check(script, flag, inputs, baselines, tmp_path)


@pytest.mark.parametrize("script", CLASSES)
def test_every_flag_is_declared_and_nothing_else(script):
    assert set(effects_of(script)) == set(SHOWN[script])
    assert {effect["changes"] for effect in effects_of(script).values()} <= DECLARED["changes"].keys()


@pytest.mark.parametrize("script", CLASSES)
def test_what_is_shown_elsewhere_is_a_test_that_there_is(script):
    for effect in effects_of(script).values():
        if "test" in effect:
            path, _, name = effect["test"].partition("::")
            tree = ast.parse((ROOT / path).read_text(encoding="utf8"))
            assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, effect


def test_batches_that_another_process_loads_make_the_same_run(tmp_path):
    """In processes of their own: paddle takes it for a failure when one that loads ends in a later run."""
    for workers in ("0", "1"):
        flags = [*BASES["finetune_generation.py"][:-2], "--dataloader_num_workers", workers]
        command = [
            sys.executable,
            str(ROOT / "finetune_generation.py"),
            *flags,
            "--output_dir",
            str(tmp_path / workers),
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert len({(tmp_path / workers / "model.safetensors").read_bytes() for workers in ("0", "1")}) == 1


def needs_of(script):
    """[(need, flag)] of a script."""
    return [(need, flag) for need in all_needs(CLASSES[script]) for flag in need.flags.split() if flag in SHOWN[script]]


# What makes a need fail, by how its refusal goes on; the others fail with what is in OTHERWISE.
BREAKING = {
    "--do_train": ["--do_train", "False", "--do_eval"],
    "--do_eval False": ["--do_train", "--do_eval", "False"],
    "--prediction_loss_only, which generates nothing": ["--do_eval", "--prediction_loss_only"],
    "--max_steps, which counts instead": ["--do_train", "--max_steps", "3"],
    "--warmup_steps, which counts instead": ["--do_train", "--warmup_steps", "3"],
    "--lr_scheduler_type constant; constant_with_warmup has one": ["--do_train", "--lr_scheduler_type", "constant"],
    "--lr_scheduler_type linear": ["--do_train", "--lr_scheduler_type", "cosine"],
    "--optim adafactor, which has no such moments": ["--do_train", "--optim", "adafactor"],
    "--save_strategy steps": ["--do_train", "--save_strategy", "epoch"],
    "--save_strategy no": ["--do_train", "--save_strategy", "no"],
    "--logging_strategy steps": ["--do_train", "--logging_strategy", "epoch"],
    "--evaluation_strategy steps": ["--do_train", "--do_eval", "--evaluation_strategy", "epoch"],
    "--overwrite_output_dir, which goes on from nothing": ["--do_train", "--overwrite_output_dir"],
    "--report_to none": ["--do_train", "--report_to", "none"],
    "--interactive": ["--interactive"],
    "--merge_lora_path, which predicts nothing": ["--lora_path", "x", "--merge_lora_path", "y"],
    "--export_peft, which predicts nothing": ["--lora_path", "x", "--export_peft", "y"],
    "--merge_tensor_parallel_path, which predicts nothing": ["--merge_tensor_parallel_path", "y"],
    "--num_beams 2 or more": ["--num_beams", "1"],
    "--bound_to": ["--bound_to", "x"],
    "--review, which serves no model": ["--review", "x"],
    "--model_path, whose program says how to decode; requests may say otherwise": ["--model_path", "z"],
    "--lora_path, which is part of the model": ["--lora_path", "x"],
    "--batching closed": ["--batching", "closed"],
    "--model_path, whose programs have their model": [
        *("--data_file", "x", "--output_file", "y", "--model_path", "z"),
    ],
    "--do_train, which goes by --fp16, --bf16 and --fp16_opt_level": ["--do_train"],
}
OTHERWISE = {script: ["--output_dir", "x", "--do_train"] if script.startswith("finetune") else [] for script in CLASSES}
OTHERWISE["generate_pairs.py"] = ["--data_file", "x", "--output_file", "y"]
VALUES = {
    "device": "gpu",
    "runtime": "paddle",
    "batching": "closed",
    "dtype": "float16",
    "engine": "onnx",
    "evaluation_strategy": "steps",
    "batch_size": "3",
    "num_beams": "3",
    "num_train_epochs": "2",
}


@pytest.mark.parametrize("script", CLASSES)
def test_a_flag_is_refused_where_it_can_have_no_effect(script, tmp_path, capfd):
    for need, flag in needs_of(script):
        value = VALUES.get(flag) or str(effects_of(script)[flag].get("value", 3)).replace("{", "").replace("}", "")
        value = {"on_save_error": "continue", "async_save": "True", "auto_batch": "True", "recompute": "True"}.get(
            flag, value
        )
        flags = [*BREAKING.get(need.missing or need.beside, OTHERWISE[script]), f"--{flag}", *value.split()]
        with pytest.raises(SystemExit) as ended:
            command_line.parse(CLASSES[script], flags)
        told = capfd.readouterr().err
        assert ended.value.code == 2, flags
        assert f"--{flag} " in told, (flags, told)
        assert "no effect" in told, (flags, told)
        assert told.count("\n") == 1


@pytest.mark.parametrize("script", CLASSES)
def test_a_printed_configuration_runs_again_whatever_was_given(script, tmp_path):
    """Every flag is in it, also those that have no effect beside the others; its own defaults are no mistakes."""
    flags = ["--output_dir", str(tmp_path)] if script.startswith("finetune") else OTHERWISE[script]
    path = tmp_path / "all.json"
    assert run_script(script, [*flags, "--print_config", path])[0] == 0
    assert json.loads(path.read_text(encoding="utf8")).keys() == set(SHOWN[script])
    assert run_script(script, [path, "--print_config", "-"])[0] == 0
