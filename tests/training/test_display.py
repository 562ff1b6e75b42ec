"""What a run shows: its plan, plain lines or a bar, samples of what the model writes."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import finetune_generation
from glm.training import callbacks, display
from tests.helpers import ROOT
from tests.helpers.answered import answered
from tests.helpers.runs import DEV, SMALL, TRAINING, read_lines

FLAGS = [*SMALL, *TRAINING, "--do_eval", "--eval_steps", "4", "--num_beams", "1", "--report_to", "none"]


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    """What a run of eight steps writes where there is no terminal."""
    output = ["--output_dir", str(tmp_path_factory.mktemp("run"))]
    command = [sys.executable, str(ROOT / "finetune_generation.py"), *FLAGS, *output]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)


def test_lines_without_a_terminal_are_plain_and_say_how_far_it_is(screen):
    assert "\x1b" not in screen.stdout
    steps = re.findall(
        r"step (\d+)/8, loss \d+\.\d{4}, lr \d\.\d{2}e-\d{2}, [\d,]+ tokens/s, 0:\d{2}:\d{2} left", screen.stdout
    )
    assert steps == [str(step) for step in range(1, 9)]
    assert "training:" not in screen.stderr


def test_a_run_says_first_what_it_is_about_to_do(screen):
    head = screen.stdout[: screen.stdout.index("step 1/8")]
    for text in (
        "train.json: 48 records",
        "parameters: 666,432",
        "cpu, ",
        "GiB",
        "plan: 8 steps in 2 epochs, 8 examples",
    ):
        assert text in head, text
    assert "learning rate 0.01, linear; saved every 4 steps, evaluated every 4 steps" in head


def test_each_evaluation_shows_predictions_beside_their_targets(screen):
    assert screen.stdout.count("sample of ") == 2 * display.SAMPLES
    for step in (4, 8):
        assert re.search(rf"step {step}: eval_loss \d+\.\d{{4}}, eval_perplexity", screen.stdout)
    assert "    target      " in screen.stdout
    assert "    prediction  " in screen.stdout


def test_what_paddlenlp_says_beside_it_is_left_out(screen):
    for text in display.NOISE:
        assert text.strip() not in screen.stdout.replace("Total ", "")


def test_what_stands_at_both_ends_of_a_long_source_is_shown():
    lines = display.samples([answered("答案：三百，上下文：" + "一" * 200 + "问题：", "多少", target="几个")])
    assert lines[0].startswith("sample of 答案：三百，上下文：一一")
    assert lines[0].endswith("一问题：")
    assert len(lines[0]) < 100
    assert [line.split() for line in lines[1:]] == [["target", "几个"], ["prediction", "多少"]]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 10, 100, 1000])
def test_samples_are_of_different_prompts_from_all_parts_of_a_file(count):
    # Six questions to a context after one another, as files have them; then a context once more.
    answers = [answered(f"文{row // 6}", "无", target=f"问{row}") for row in range(count)]
    found = display.chosen(answers)
    assert found == display.chosen(answers)
    contexts = {answer.source for answer in found}
    assert len(contexts) == len(found) == min(display.SAMPLES, len({answer.source for answer in answers}))
    if count >= 100:
        rows = [int(answer.target[1:]) for answer in found]
        assert max(rows) - min(rows) > count / 3


@pytest.mark.parametrize(
    ("steps", "interval"), [(0, 1), (1, 1), (49, 1), (100, 2), (1000, 20), (5000, 100), (10**6, 100)]
)
def test_a_run_logs_fifty_times_or_every_hundred_steps(steps, interval):
    assert display.logging_interval(steps) == interval


@pytest.fixture(scope="module")
def defaults(tmp_path_factory):
    """(screen, output directory) of a run that leaves to the defaults what is logged and evaluated."""
    directory = tmp_path_factory.mktemp("run of defaults") / "out"
    flags = [*SMALL, "--do_train", "--do_eval", "--max_steps", "101", "--per_device_train_batch_size", "1"]
    flags += ["--num_beams", "1", "--max_eval_samples", "4", "--output_dir", str(directory)]
    command = [sys.executable, str(ROOT / "finetune_generation.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout, directory


def test_a_run_of_the_defaults_shows_how_it_goes_from_its_first_step_to_its_last(defaults):
    screen, directory = defaults
    expected = [1, *range(2, 101, 2), 101]
    assert [int(step) for step in re.findall(r"step (\d+)/101, loss", screen)] == expected
    logged = [entry["step"] for entry in read_lines(directory / "metrics.jsonl") if "loss" in entry]
    assert logged == expected


def test_the_picture_has_the_last_evaluation(defaults):
    _, directory = defaults
    evaluated = [entry for entry in read_lines(directory / "metrics.jsonl") if "eval_loss" in entry]
    assert [entry["step"] for entry in evaluated] == [101]
    # Drawn anew of all entries, it is the same picture.
    drawn = (directory / "loss.png").read_bytes()
    callbacks.draw_metrics(directory)
    assert (directory / "loss.png").read_bytes() == drawn


def test_scores_are_told_once_and_by_nobody_else(defaults):
    screen, _ = defaults
    assert screen.count("eval_loss") == 1
    assert "logging_steps" not in screen
    assert "reset to" not in screen


def test_the_last_lines_say_where_the_results_are_and_their_commands_work(defaults, tmp_path):
    screen, directory = defaults
    last = [line.split(" INFO ", 1)[1] for line in screen.splitlines()][-7:]
    for line, start in zip(last, ("model", "predictions", "curves", "scores"), strict=False):
        name, path = line.split(": ", 1)
        assert name == start
        assert Path(path).exists()
    commands = dict(line.split(":", 1) for line in last[4:])
    assert list(commands) == ["predict", "export", "serve"]
    command = shlex.split(commands["predict"])
    command[command.index("FILE")] = str(DEV)
    # The directory has spaces in its name.
    assert command[command.index("--model_name_or_path") + 1] == str(directory)
    (tmp_path / "data.json").write_text(DEV.read_text(encoding="utf8").split("\n")[0], encoding="utf8")
    command[command.index(str(DEV))] = str(tmp_path / "data.json")
    predicted = subprocess.run(
        [sys.executable, str(ROOT / command[1]), *command[2:]], capture_output=True, cwd=tmp_path, timeout=200
    )
    assert predicted.returncode == 0, predicted.stderr
    assert len(read_lines(tmp_path / "predictions.jsonl")) == 1


def test_an_adapter_is_named_with_its_base():
    arguments = {"do_train": True, "lora": True, "model_name_or_path": "base model"}
    lines = display.closing("out", arguments, ["loss.png"])
    assert lines[:2] == ["LoRA adapter: out", "curves: out/loss.png"]
    assert all("--model_name_or_path 'base model' --lora_path out" in line for line in lines[2:])
    assert len(lines) == 5


def test_evaluation_alone_names_its_results_and_no_model():
    lines = display.closing("out", {"do_train": False, "lora": False}, ["predictions.jsonl", "all_results.json"])
    assert lines == ["predictions: out/predictions.jsonl", "scores: out/all_results.json"]


def test_a_run_that_is_resumed_advises_no_flag_that_trains_on_rows_twice(tmp_path, capsys):
    flags = [*SMALL, "--do_train", "--max_steps", "4", "--save_steps", "2", "--output_dir", str(tmp_path)]
    finetune_generation.main(flags)
    shutil.rmtree(tmp_path / "checkpoint-4")
    capsys.readouterr()
    finetune_generation.main(flags)
    screen = capsys.readouterr().out
    assert "resuming from" in screen
    assert "ignore_data_skip" not in screen
    assert "Continuing" not in screen


def test_on_a_terminal_there_is_a_bar_with_the_figures(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    args = SimpleNamespace(
        disable_tqdm=False,
        dataset_world_size=2,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=4,
        learning_rate=0.01,
        lr_scheduler_type="linear",
        save_strategy="epoch",
        save_steps=1,
        evaluation_strategy="no",
        eval_steps=None,
        output_dir="out",
    )
    state = SimpleNamespace(is_world_process_zero=True, global_step=5, max_steps=10, num_train_epochs=1)
    assert "5 of them done, 24 examples a step (3 rows x 4 accumulated x 2 ranks)" in display.plan(args, state)[0]
    progress = display.Progress()
    progress.on_train_begin(args, state, None)
    state.global_step = 7
    progress.on_step_end(args, state, None)
    progress.on_log(args, state, None, logs={"loss": 2.5, "learning_rate": 0.005, "tokens_per_second": 1234.4})
    progress.on_train_end(args, state, None)
    assert "7/10" in (shown := capsys.readouterr().err)
    assert "loss 2.5000, lr 5.00e-03, 1,234 tokens/s" in shown


def test_other_ranks_are_silent(capsys):
    state = SimpleNamespace(is_world_process_zero=False, global_step=0, max_steps=10, num_train_epochs=1)
    progress = display.Progress()
    progress.on_train_begin(SimpleNamespace(disable_tqdm=False), state, None)
    progress.on_log(None, state, None, logs={"loss": 2.5})
    progress.on_step_end(None, state, None)
    assert capsys.readouterr() == ("", "")
