"""A run goes on as the run it was, or longer; as another one, not at all."""

import json
import shutil

import pytest

import finetune_generation
from glm.weights import builtin_model
from tests.helpers import ROOT
from tests.helpers.runs import SMALL, distance, read_lines, weights_of

TRAIN = ROOT / "demo" / "qg" / "train.json"
RUN = [*SMALL, "--do_train", "--max_steps", "4", "--save_steps", "2", "--per_device_train_batch_size", "4"]
RUN += ["--learning_rate", "1e-2", "--disable_tqdm", "True"]
LORA = ["--lora", "True", "--r", "4"]


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """{"full": a run that has ended, "LoRA": one of an adapter}."""
    directory = tmp_path_factory.mktemp("ended")
    for name, flags in (("full", []), ("LoRA", LORA)):
        finetune_generation.main([*RUN, *flags, "--output_dir", str(directory / name)])
    return {name: directory / name for name in ("full", "LoRA")}


@pytest.fixture
def copied(ended, tmp_path):
    """A function: which → a copy of a run that has ended, or (unfinished=True) that was interrupted after step 2."""

    def copy(which, unfinished=False):
        directory = shutil.copytree(ended[which], tmp_path / which)
        if unfinished:
            shutil.rmtree(directory / "checkpoint-4")
            for path in directory.iterdir():
                if path.is_file() and path.name != "args.json":
                    path.unlink()
        return directory

    return copy


def other_records(tmp_path):
    """A file of as many records as the run has, in which one word differs."""
    lines = TRAIN.read_text(encoding="utf8").split("\n")
    record = json.loads(lines[5])
    lines[5] = json.dumps({**record, "question": record["question"] + "吗"}, ensure_ascii=False)
    (tmp_path / "other.json").write_text("\n".join(lines), encoding="utf8")
    return str(tmp_path / "other.json")


def other_model(tmp_path):
    """The built-in model with a weight of another value."""
    from safetensors.numpy import load_file, save_file

    directory = shutil.copytree(builtin_model.build(), tmp_path / "other")
    weights = load_file(directory / "model.safetensors")
    weights["glm.transformer.final_layernorm.bias"] = weights["glm.transformer.final_layernorm.bias"] + 1
    save_file(weights, directory / "model.safetensors")
    return str(directory)


# Which run, flags that differ → what the message names. A function: of tmp_path.
OTHER_RUNS = [
    ("full", ["--learning_rate", "2e-2"], "--learning_rate 0.01, now 0.02"),
    ("full", ["--seed", "7"], "--seed 42, now 7"),
    ("full", ["--per_device_train_batch_size", "8"], "examples a step 4, now 8 (--per_device_train_batch_size"),
    ("full", ["--gradient_accumulation_steps", "2"], "examples a step 4, now 8"),
    ("full", ["--lr_scheduler_type", "cosine"], '--lr_scheduler_type "linear", now "cosine"'),
    ("full", ["--label_smoothing", "0"], "--label_smoothing 0.1, now 0"),
    ("full", ["--packing", "True"], "--packing false, now true"),
    ("full", ["--max_train_samples", "40"], "--task_name: other training data"),
    ("full", ["--src_length", "40"], "--task_name: other training data"),
    ("full", ["--task_name", other_records], "--task_name: other training data"),
    ("full", ["--model_name_or_path", other_model], "--model_name_or_path: another base model"),
    ("full", LORA, "--lora false, now true"),
    ("LoRA", ["--lora", "False"], "--lora true, now false"),
    ("LoRA", [*LORA, "--r", "8"], "--r 4, now 8"),
    ("LoRA", [*LORA, "--lora_dropout", "0.1"], "--lora_dropout 0.0, now 0.1"),
    ("LoRA", [*LORA, "--lora_target_modules", "all"], '--lora_target_modules ["query_key_value"], now'),
    ("LoRA", [*LORA, "--lora_plus_scale", "16"], "--lora_plus_scale 1.0, now 16"),
]


@pytest.mark.parametrize(
    ("unfinished", "which", "flags", "told"),
    # In turn: both kinds of directories are looked at by the same code.
    [(bool(number % 2), *other) for number, other in enumerate(OTHER_RUNS)],
    ids=lambda part: (
        " ".join(getattr(flag, "__name__", str(flag)) for flag in part[:2]) if isinstance(part, list) else None
    ),
)
def test_another_run_is_refused_with_the_flags_that_differ_and_nothing_is_touched(
    unfinished, which, flags, told, copied, tmp_path, capsys
):
    directory = copied(which, unfinished)
    flags = [flag(tmp_path) if callable(flag) else flag for flag in flags]
    before = contents(directory)
    if "--lora" in flags and flags[flags.index("--lora") + 1] == "False":
        flags = ["--lora", "False"]
    with pytest.raises(SystemExit) as ending:
        finetune_generation.main([*RUN, *flags, "--output_dir", str(directory)])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert ending.value.code == 2
    assert told in line
    assert "--overwrite_output_dir" in line
    assert contents(directory) == before


def contents(directory):
    """{path: bytes} of all files under a directory but its lock."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.name != ".lock"}


def test_several_differences_are_told_at_once(copied, tmp_path, capsys):
    flags = ["--learning_rate", "2e-2", "--seed", "7", "--task_name", other_records(tmp_path)]
    with pytest.raises(SystemExit):
        finetune_generation.main([*RUN, *flags, "--output_dir", str(copied("full"))])
    line = capsys.readouterr().err
    assert "--seed" in line
    assert "--learning_rate" in line
    assert "--task_name" in line


@pytest.mark.parametrize(
    "flags",
    [
        # The same examples in each step, divided otherwise.
        ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"],
        # The same records, elsewhere.
        ["--task_name", lambda tmp_path: shutil.copy(TRAIN, tmp_path / "moved.json")],
        # What a run says and keeps, and what it puts up with.
        ["--logging_steps", "2", "--save_total_limit", "3", "--max_bad_steps", "3"],
        ["--async_save", "True"],
    ],
    ids=["divided", "moved", "reports", "background"],
)
def test_the_same_run_goes_on_whatever_does_not_shape_it(flags, ended, copied, tmp_path):
    directory = copied("full", unfinished=True)
    flags = [str(flag(tmp_path)) if callable(flag) else flag for flag in flags]
    finetune_generation.main([*RUN, *flags, "--output_dir", str(directory)])
    one, start = weights_of(ended["full"]), weights_of(builtin_model.build())
    assert distance(one, weights_of(directory)) < 5e-3 * distance(one, start)


@pytest.mark.parametrize("longer", [["--max_steps", "6"], ["--max_steps", "-1", "--num_train_epochs", "0.5"]])
def test_a_run_that_has_ended_is_made_longer(longer, copied):
    directory = copied("full")
    finetune_generation.main([*RUN, *longer, "--output_dir", str(directory)])
    assert read_lines(directory / "metrics.jsonl")[-1]["step"] == 6
    assert (directory / "checkpoint-6").is_dir()


@pytest.mark.parametrize("shorter", [["--max_steps", "3"], ["--max_steps", "-1", "--num_train_epochs", "0.1"]])
def test_a_run_is_not_made_shorter(shorter, copied, capsys):
    with pytest.raises(SystemExit) as ending:
        finetune_generation.main([*RUN, *shorter, "--output_dir", str(copied("full"))])
    assert ending.value.code == 2
    assert "can be made longer, not shorter" in capsys.readouterr().err


def test_a_run_begins_anew_where_that_is_asked_for(copied, capsys):
    directory = copied("full")
    flags = ["--learning_rate", "2e-2", "--overwrite_output_dir", "True"]
    finetune_generation.main([*RUN, *flags, "--output_dir", str(directory)])
    assert json.loads((directory / "args.json").read_text(encoding="utf8"))["learning_rate"] == 2e-2


def test_what_would_be_overwritten_stays_where_another_run_is_refused(copied, tmp_path, capsys):
    directory = copied("full")
    asked = ["--resume_from_checkpoint", str(directory / "checkpoint-2"), "--overwrite_output_dir", "True"]
    with pytest.raises(SystemExit):
        finetune_generation.main([*RUN, *asked, "--seed", "7", "--output_dir", str(directory)])
    assert "--model_name_or_path" in capsys.readouterr().err
    assert (directory / "checkpoint-4").is_dir()


def test_a_directory_of_checkpoints_is_answered_with_the_newest(copied, capsys):
    directory = copied("full")
    with pytest.raises(SystemExit):
        finetune_generation.main([*RUN, "--resume_from_checkpoint", str(directory), "--output_dir", str(directory)])
    assert f"the newest one in it is {directory / 'checkpoint-4'}" in capsys.readouterr().err
