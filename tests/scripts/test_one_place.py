"""Two processes in one place, disks that are full, runs that branch, models that change: no work is lost or mixed."""

import json
import re
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import export_generation_model
import finetune_generation
import predict_generation
from glm.export import engines, program
from glm.files import locks, manifest
from glm.training import saving
from glm.weights import builtin_model
from glm.weights.__main__ import main as weights_command
from tests.helpers import ROOT
from tests.helpers.runs import DEV, SMALL, read_lines

TRAINING = [*SMALL, "--do_train", "--per_device_train_batch_size", "8", "--logging_steps", "1", "--save_steps", "2"]
TRAINING += ["--disable_tqdm", "True", "--report_to", "none"]
MODEL = ["--model_name_or_path", "glm-tiny-chinese"]


def refused(capfd, main, *arguments):
    """The one line on stderr that a script refuses its arguments with."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("error: "))
    return line


def train(directory, *flags):
    finetune_generation.main([*TRAINING, "--output_dir", str(directory), *map(str, flags)])


@pytest.fixture
def prompts(tmp_path):
    """A file of 12 records."""
    path = tmp_path / "data.json"
    path.write_text("".join(DEV.read_text(encoding="utf8").splitlines(keepends=True)[:12]), encoding="utf8")
    return path


def test_what_another_process_writes_into_is_left_alone(tmp_path, prompts, capfd):
    output, target = tmp_path / "out", tmp_path / "new"
    for lock, what, arguments in (
        (output / ".lock", finetune_generation.main, [*TRAINING, "--output_dir", output]),
        (output / program.LOCK, export_generation_model.main, [*MODEL, "--output_path", output / "glm"]),
        (
            tmp_path / ".answers.jsonl.lock",
            predict_generation.main,
            [*MODEL, "--data_file", prompts, "--output_file", tmp_path / "answers.jsonl"],
        ),
        (
            tmp_path / ".new.lock",
            weights_command,
            ["split", builtin_model.build(), target, "--tensor_parallel_degree", 2],
        ),
        (
            tmp_path / ".new.lock",
            predict_generation.main,
            [*MODEL, "--lora_path", tmp_path, "--merge_lora_path", target],
        ),
        (
            tmp_path / ".new.lock",
            predict_generation.main,
            [*MODEL, "--lora_path", tmp_path, "--export_peft", target],
        ),
    ):
        with locks.held(lock, "x"):
            line = refused(capfd, what, *arguments)
        assert re.search(r"is in use by process \d+ on \S+; wait", line)
    assert not target.exists()
    assert not (tmp_path / "answers.jsonl").exists()


def test_an_export_that_the_disk_takes_a_part_of_only_is_not_published(tmp_path):
    """Paddle's C++ does not say so."""
    script = [sys.executable, str(ROOT / "export_generation_model.py"), *MODEL]

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))

    done = subprocess.run(
        [*script, "--output_path", str(tmp_path / "out" / "glm")],
        capture_output=True, text=True, preexec_fn=limit, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert str(tmp_path / "out") in line
    assert list((tmp_path / "out").iterdir()) == []


def test_shards_that_the_disk_has_no_room_for_leave_nothing(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    command = [sys.executable, "-m", "glm.weights", "split", str(builtin_model.build()), str(tmp_path / "new")]
    command += ["--tensor_parallel_degree", "2"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, cwd=ROOT)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path / 'new'} could not be written: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("size", "told", "kept"),
    [(600, "--resume goes on", range(1, 12)), (1500, "--resume writes them", range(12, 13))],
    ids=["while predicting", "while writing the file"],
)
def test_answers_that_the_disk_has_no_room_for_cost_nothing_that_was_kept(tmp_path, prompts, size, told, kept):
    answers = tmp_path / "answers.jsonl"
    command = [sys.executable, str(ROOT / "predict_generation.py"), *MODEL, "--data_file", str(prompts)]
    command += ["--tgt_length", "8", "--batch_size", "1", "--src_length", "64", "--output_file", str(answers)]

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, cwd=ROOT)
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if "error: " in line)
    assert told in line
    assert not answers.exists()
    assert (tmp_path / "answers.jsonl.partial").read_bytes().count(b"\n") - 1 in kept
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert len(read_lines(answers)) == 12
    assert not (tmp_path / "answers.jsonl.partial").exists()


def test_a_run_goes_on_where_its_by_products_find_no_room(tmp_path, capfd):
    """What they are: names that are taken by directories cannot be written."""
    output = tmp_path / "out"
    for name in ("metrics.jsonl", "loss.png", "args.json", "trainer_state.json"):
        (output / name).mkdir(parents=True)
    train(output, "--max_steps", "4")
    said = capfd.readouterr().out
    for name in ("metrics.jsonl", "loss.png", "args.json", "trainer_state.json"):
        assert f"{name} is not written" in said
    manifest.verify(output, required=True)
    manifest.verify(output / "checkpoint-4", required=True)


def test_a_report_that_fails_or_hangs_stops_nothing(tmp_path, capfd, monkeypatch):
    from paddlenlp.trainer import integrations

    from glm.training import byproducts

    def fail(self, *arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(integrations.VisualDLCallback, "on_log", fail)
    train(tmp_path / "out", "--max_steps", "2", "--report_to", "visualdl")
    said = capfd.readouterr().out
    assert said.count("VisualDL is not written: No space left on device; the run goes on without it") == 1

    import threading

    forever = threading.Event()
    monkeypatch.setattr(integrations.VisualDLCallback, "on_log", lambda self, *args, **kw: forever.wait())
    monkeypatch.setattr(byproducts, "PATIENCE", 0.1)
    train(tmp_path / "other", "--max_steps", "2", "--report_to", "visualdl")
    forever.set()
    assert "VisualDL does not end; the run goes on without it" in capfd.readouterr().out
    manifest.verify(tmp_path / "other", required=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Output directory with checkpoints of steps 2, 4 and 6."""
    directory = tmp_path_factory.mktemp("trained") / "out"
    train(directory, "--max_steps", "6")
    return directory


def steps(directory):
    return [saving.step_of(path) for path in saving.checkpoints(directory)]


def test_going_on_from_an_older_checkpoint_asks_for_another_place(trained, tmp_path, capfd):
    output = shutil.copytree(trained, tmp_path / "out")
    asked = ["--resume_from_checkpoint", output / "checkpoint-2", "--max_steps", "8"]
    line = refused(capfd, finetune_generation.main, *TRAINING, "--output_dir", output, *asked)
    assert "checkpoint-6 of another run" in line
    assert "another --output_dir, or --overwrite_output_dir" in line
    assert steps(output) == [2, 4, 6]


def test_a_line_of_its_own_goes_on_with_the_same_command(trained, tmp_path, capfd):
    """Its checkpoints are those of the branch, and none of the trunk is pruned."""
    branch, trunk = tmp_path / "branch", shutil.copytree(trained, tmp_path / "trunk")
    asked = ["--resume_from_checkpoint", trunk / "checkpoint-2", "--save_total_limit", "2"]
    train(branch, *asked, "--max_steps", "4")
    assert steps(branch) == [4]
    capfd.readouterr()
    train(branch, *asked, "--max_steps", "8")
    assert f"resuming from {branch / 'checkpoint-4'}" in capfd.readouterr().out
    assert (steps(branch), steps(trunk)) == ([6, 8], [2, 4, 6])
    # And without the flag, and with it again.
    train(branch, "--max_steps", "10")
    train(branch, *asked, "--max_steps", "12")
    assert steps(branch)[-1] == 12
    line = refused(
        capfd, finetune_generation.main, *TRAINING, "--output_dir", branch, *asked[:1], trunk / "checkpoint-4"
    )
    assert "checkpoint-12 of another run" in line


def test_a_line_that_is_given_up_goes_and_what_it_began_at_stays(trained, tmp_path):
    output = shutil.copytree(trained, tmp_path / "out")
    flags = ["--resume_from_checkpoint", output / "checkpoint-4", "--overwrite_output_dir"]
    train(output, *flags, "--max_steps", "5", "--save_steps", "100")
    assert steps(output) == [2, 4]
    train(output, "--resume_from_checkpoint", output / "checkpoint-4", "--max_steps", "8")
    assert steps(output) == [2, 4, 6, 8]
    train(output, "--resume_from_checkpoint", output / "checkpoint-4", "--max_steps", "10")
    assert steps(output)[-1] == 10


CHANGES = {
    "weights": lambda model, data: altered(model),
    "target": lambda model, data: data.write_text(
        data.read_text("utf8").replace('"question": "', '"question": "新'), "utf8"
    ),
    "context": lambda model, data: data.write_text(
        data.read_text("utf8").replace('"context": "', '"context": "新'), "utf8"
    ),
    "nothing": lambda model, data: None,
}


def altered(model):
    weights = load_file(str(model / "model.safetensors"))
    save_file({name: array + np.float32(0.01) for name, array in weights.items()}, str(model / "model.safetensors"))


def replaced(path, old, new):
    path.write_text(path.read_text(encoding="utf8").replace(old, new), encoding="utf8")


@pytest.mark.parametrize("kind", CHANGES)
def test_answers_are_kept_of_the_same_model_and_the_same_records_alone(tmp_path, prompts, capfd, kind):
    model = shutil.copytree(builtin_model.build(), tmp_path / "model")
    output = tmp_path / "answers.jsonl"
    flags = ["--model_name_or_path", model, "--data_file", prompts, "--output_file", output, "--tgt_length", "4"]
    flags = [str(flag) for flag in [*flags, "--src_length", "64", "--batch_size", "1"]]
    interrupted = pytest.MonkeyPatch()
    with interrupted.context() as patch:
        run, calls = engines.OnnxEngine.run, []

        def stopping(*arguments):
            calls.append(1)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return run(*arguments)

        patch.setattr(engines.OnnxEngine, "run", stopping)
        with pytest.raises(SystemExit):
            predict_generation.main(flags)
    CHANGES[kind](model, prompts)
    if kind == "nothing":
        moved = model.rename(tmp_path / "moved")
        flags[1] = str(moved)
        predict_generation.main([*flags, "--resume"])
        assert len(read_lines(output)) == 12
        return
    assert "its answers are of other data, another model" in refused(capfd, predict_generation.main, *flags, "--resume")
    assert json.loads((tmp_path / "answers.jsonl.partial").read_text(encoding="utf8").split("\n")[1])["answer"]


def test_evaluation_alone_leaves_a_run_as_it_is(trained, tmp_path, capfd):
    output = shutil.copytree(trained, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}
    flags = [*SMALL, "--model_name_or_path", output, "--do_eval", "--num_beams", "1", "--output_dir"]
    line = refused(capfd, finetune_generation.main, *flags, output)
    assert f"--output_dir {output} holds a training run" in line
    assert {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()} == before
    for _ in range(2):
        finetune_generation.main([*map(str, flags), str(tmp_path / "evaluated")])
    assert (tmp_path / "evaluated" / "predictions.jsonl").is_file()


@pytest.mark.parametrize("kind", ["the file", "a link", "a hard link", "a pair", "what is kept"])
def test_answers_do_not_replace_the_data(tmp_path, prompts, capfd, kind):
    output, data = tmp_path / "out.jsonl", prompts
    if kind == "the file":
        output = data
    elif kind == "a link":
        output.symlink_to(data)
    elif kind == "a hard link":
        output.hardlink_to(data)
    elif kind == "a pair":
        data = tmp_path / "a.source"
        for name in ("a.source", "a.target"):
            (tmp_path / name).write_text("问题\n", encoding="utf8")
        output = tmp_path / "a.target"
    else:
        output, data = tmp_path / "data", tmp_path / "data.partial"
        data.write_text("问题\n", encoding="utf8")
    before = data.read_bytes()
    line = refused(capfd, predict_generation.main, *MODEL, "--data_file", data, "--output_file", output)
    assert "would replace the data" in line
    assert data.read_bytes() == before
