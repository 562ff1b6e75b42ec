"""What a run shows: its plan, plain lines or a bar, samples of what the model writes."""

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from test_scripts import ROOT, SMALL, TRAINING

import display
from inference import Answer

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


def test_a_long_source_is_shown_from_its_end():
    lines = display.samples([Answer("一" * 200 + "问题：", ("多少",), "几个")])
    assert lines[0].endswith("一问题：")
    assert len(lines[0]) < 80
    assert [line.split() for line in lines[1:]] == [["target", "几个"], ["prediction", "多少"]]


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
