"""Every command of the documents works, one after another, on small settings: fewer steps and records, the built-in
model in place of the published ones, two ranks in place of eight cards. (Both languages have the same commands, see
test_pages.py.)"""

import importlib
import os
import shlex
import shutil
import subprocess
import sys
from contextlib import ExitStack

import pytest

from tests.docs.test_pages import FINETUNE, PAIRS, commands, text_of
from tests.helpers import ROOT
from tests.helpers.served import Served

TRAINING = (
    "--max_steps 2 --max_train_samples 16 --max_eval_samples 3 --per_device_train_batch_size 2 --disable_tqdm True"
)
# What has an effect without training.
EVALUATION = "--max_eval_samples 3 --disable_tqdm True"
SMALL = dict.fromkeys(FINETUNE.values(), TRAINING.split())
# Of a model that has hardly learned, nothing comes back.
SMALL["generate_pairs.py"] = ["--keep", "all", "--question_length", "6"]
SMALL["predict_generation.py"] = SMALL["infer_generation.py"] = ["--tgt_length", "6"]
# Where a command names what has to be downloaded, or cards.
INSTEAD = {
    "finetune_generation.py": ["--model_name_or_path", "glm-tiny-chinese", "--task_name", "demo_qg"],
    "finetune_instruction_generation.py": [
        "--model_name_or_path",
        "glm-tiny-chinese",
        "--task_name",
        "demo_instruction",
    ],
}
PUBLISHED = ("THUDM/", "10b", "large")
CARDS = ["--gpus", "0,1,2,3,4,5,6,7"]
# make's targets are what runs these tests, and the virtual environment is on.
ELSEWHERE = ("make", "source")
# What talks with a terminal, or runs a program by FastDeploy, which does not go with paddle.
IN_ITS_OWN = {"--interactive", "--model_path"}
TYPED = "青湖在山脚下，从山路走去要半天。\n半天\n\n"


def small(command):
    """A command on small settings."""
    script = next((word for word in command if word.endswith(".py")), None)
    published = any(part in word for word in command for part in PUBLISHED)
    flags = EVALUATION.split() if "--do_train False" in " ".join(command) else SMALL.get(script, [])
    words = [*command, *flags, *(INSTEAD.get(script, []) if published else [])]
    if script == "predict_generation.py" and any(word in " ".join(words) for word in ("merge", "--export_peft")):
        words = command
    if script in FINETUNE.values() and "--num_train_epochs" in words:
        # Steps count instead.
        place = words.index("--num_train_epochs")
        del words[place : place + 2]
    if any("pairs_cpu" in word for word in words):
        # Enough to write questions that have letters in them: what has none is no pair.
        words += ["--max_steps", "60", "--max_train_samples", "256", "--per_device_train_batch_size", "8"]
    if words[3:5] == CARDS:
        words[3:5] = ["--nproc_per_node", "2", "--backend", "gloo"]
    if any("tp8" in word for word in words):
        # The built-in model has four heads.
        words += ["--tensor_parallel_degree", "2"]
    return words


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A directory that looks like the project's, without checkpoints, with three records to answer."""
    for path in ROOT.iterdir():
        if path.name not in ("checkpoints", "demo") and not path.name.startswith("."):
            (tmp_path / path.name).symlink_to(path)
    shutil.copytree(ROOT / "demo", tmp_path / "demo", ignore=shutil.ignore_patterns("__pycache__"))
    dev = tmp_path / "demo" / "qg" / "dev.json"
    dev.write_text("".join(dev.read_text(encoding="utf8").splitlines(keepends=True)[:3]), encoding="utf8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command, monkeypatch):
    """Run a command; None, or what went wrong."""
    words = small(command)
    if words[0] == "python" and words[1] != "-m" and "infer" not in words[1] and not IN_ITS_OWN & {*words}:
        monkeypatch.setattr(sys, "argv", words[1:])
        try:
            ended = importlib.import_module(words[1].removesuffix(".py")).main(words[2:])
        except SystemExit as stopped:
            ended = stopped.code
        return None if ended in (None, 0) or isinstance(ended, dict) else f"ended with {ended}"
    text = " ".join("|" if word == "|" else shlex.quote(word) for word in words)
    environment = {**os.environ, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    done = subprocess.run(text, shell=True, input=TYPED, capture_output=True, text=True, timeout=200, env=environment)
    return None if done.returncode == 0 else done.stdout[-1500:] + done.stderr[-1500:]


def served(command, stack):
    """Run the command of a server until the stack is closed; its address."""
    (script, *flags) = command[1:]
    assert script == "serve_generation.py"
    return stack.enter_context(Served(*flags)).url


def reviewed(command):
    """Run the command of a server of pairs until it listens."""
    process = subprocess.Popen([sys.executable, *command[1:], "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline().startswith("reviewing ")
    finally:
        process.terminate()
        process.communicate(timeout=30)


def asked(command, address):
    """Run a request to the server of the README; None, or what went wrong. Nothing without curl."""
    if shutil.which("curl") is None:
        return None
    words = [word.replace("http://127.0.0.1:8000", address) for word in command]
    done = subprocess.run([*words, "--silent", "--fail-with-body"], capture_output=True, text=True, timeout=60)
    return None if done.returncode == 0 and '"prediction"' in done.stdout else done.stdout + done.stderr


def test_every_command_of_the_documents_works(workplace, monkeypatch, capsys):
    shown = [tuple(command) for document, _ in PAIRS for command in commands(text_of(document))]
    with ExitStack() as stack:
        # What stands on several pages is run once.
        run_all(map(list, dict.fromkeys(shown)), stack, monkeypatch, capsys)
    answers = (workplace / "checkpoints" / "infer" / "predictions.jsonl").read_text(encoding="utf8")
    assert len(answers.splitlines()) == 3


def run_all(all_commands, stack, monkeypatch, capsys):
    """Run commands one after another."""
    count, address = 0, None
    for command in all_commands:
        if command[0] in ELSEWHERE:
            continue
        count += 1
        if "--review" in command:
            reviewed(command)
            continue
        if "serve_generation.py" in command:
            address = served(command, stack)
            continue
        problem = asked(command, address) if command[0] == "curl" else run(command, monkeypatch)
        assert problem is None, f"{' '.join(command)}\n{problem}\n{capsys.readouterr().err[-1500:]}"
    assert count > 30
