"""Where things come from and go to: places that cannot be written, names that are no text, homes, closed pipes, other
terminals."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

import export_generation_model
import finetune_generation
import predict_generation
from glm import command_line, metrics
from glm.export import program
from glm.files import places
from glm.inference.arguments import PromptArguments
from glm.weights import __main__, adapters, builtin_model, model_directory
from tests.helpers import ROOT
from tests.helpers.runs import DEV, SMALL, read_lines

MODEL = ["--model_name_or_path", "glm-tiny-chinese"]


@pytest.fixture
def data(tmp_path):
    """A file of two records."""
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(DEV.read_text(encoding="utf8").split("\n")[:2]), encoding="utf8")
    return path


def ended(capfd, main, *arguments):
    """(exit code, what was written to stderr) of a script."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ending:
        main([str(argument) for argument in arguments])
    return ending.value.code, capfd.readouterr().err


# Script, its flag for a result, what else it needs.
RESULTS = {
    "predict": (predict_generation.main, "--output_file", ["--data_file", "DATA"]),
    "merge": (predict_generation.main, "--merge_tensor_parallel_path", []),
    "merge an adapter": (predict_generation.main, "--merge_lora_path", ["--lora_path", "nothing yet"]),
    "write for PEFT": (predict_generation.main, "--export_peft", ["--lora_path", "nothing yet"]),
    "export": (export_generation_model.main, "--output_path", []),
    "train": (finetune_generation.main, "--output_dir", ["--task_name", "demo_qg", "--do_train"]),
}


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("place", ["FILE/below", "/proc/below", "l" * 300, "LINK/below"])
def test_a_place_that_cannot_be_written_is_told_before_there_is_work(name, place, data, tmp_path, monkeypatch, capfd):
    main, flag, others = RESULTS[name]
    (tmp_path / "file").write_text("mine", encoding="utf8")
    (tmp_path / "link").symlink_to(tmp_path / "link")
    place = place.replace("FILE", str(tmp_path / "file")).replace("LINK", str(tmp_path / "link"))
    for module in (adapters, model_directory):
        monkeypatch.setattr(module, "load_model", lambda *arguments, **more: pytest.fail("work began"))
    others = [str(data) if other == "DATA" else other for other in others]
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    code, told = ended(capfd, main, *MODEL, *others, flag, place)
    (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
    assert code == 2
    assert flag in line
    assert "another place" in line
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "file").read_text(encoding="utf8") == "mine"


def test_a_directory_is_no_answer_file(data, tmp_path, capfd):
    for place in (tmp_path, f"{tmp_path}/new/"):
        flags = [*MODEL, "--data_file", data, "--output_file", place]
        code, told = ended(capfd, predict_generation.main, *flags)
        assert code == 2
        assert "--output_file" in told
        assert "is a directory" in told
    assert not (tmp_path / "new").exists()


def test_trying_leaves_nothing_and_overwrites_nothing(tmp_path):
    there = tmp_path / "there.jsonl"
    there.write_text("kept", encoding="utf8")
    places.check_file(there, "--output_file")
    places.check_file(tmp_path / "a" / "b" / "new.jsonl", "--output_file")
    places.check_directory(tmp_path / "c" / "d", "--output_dir")
    places.check_file("/dev/null", "--output_file")
    assert list(tmp_path.iterdir()) == [there]
    assert there.read_text(encoding="utf8") == "kept"


def test_those_who_try_one_place_at_the_same_time_do_not_meet(tmp_path):
    """As the ranks of a job do, and runs into directories of one that is not there yet."""

    def tries(number):
        for _ in range(50):
            places.check_directory(tmp_path / "runs" / "one", "--output_dir")
            places.check_file(tmp_path / "runs" / f"{number}" / "answers.jsonl", "--output_file")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(tries, range(4)))
    assert list(tmp_path.iterdir()) == []


# Commands that say something on standard output.
TALKERS = {
    "help": ["predict_generation.py", "--help"],
    "configuration": ["predict_generation.py", *MODEL, "--print_config", "-"],
    "answers": ["predict_generation.py", *MODEL, "--data_file", "DATA", "--tgt_length", "4"],
    "scores": ["-m", "glm.metrics", "ANSWERS"],
    "shards": ["-m", "glm.weights", "split", "MODEL", "TARGET", "--tensor_parallel_degree", "2"],
}


@pytest.mark.parametrize("name", TALKERS)
def test_a_pipe_that_nobody_reads_ends_a_command_without_a_word(name, data, tmp_path):
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"prediction": "甲", "target": "乙"}\n', encoding="utf8")
    names = {"DATA": data, "ANSWERS": answers, "MODEL": builtin_model.build(), "TARGET": tmp_path / "shards"}
    command = [sys.executable, *(str(names.get(part, part)) for part in TALKERS[name])]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=200)
    finally:
        os.close(writing)
    for word in ("Traceback", "Exception ignored", "error", "Broken"):
        assert word not in done.stderr
    assert done.returncode == 141


def test_a_run_goes_on_when_nobody_reads_what_it_says(tmp_path):
    flags = [*SMALL, "--do_train", "--max_steps", "2", "--output_dir", str(tmp_path / "run")]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, "finetune_generation.py", *flags]
        done = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=writing, timeout=200)
    finally:
        os.close(writing)
    assert done.returncode == 0
    assert (tmp_path / "run" / "model.safetensors").is_file()


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "latin-1", "utf-8"])
def test_json_lines_are_utf8_whatever_the_terminal(encoding, data, tmp_path):
    command = [sys.executable, "predict_generation.py", *MODEL, "--tgt_length", "4", "--data_file", str(data)]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.decode("utf8").splitlines()]
    assert [line["context"] for line in lines] == [record["context"] for record in read_lines(data)]


@pytest.fixture
def nameless(tmp_path):
    """A directory whose name is no UTF-8."""
    directory = tmp_path / os.fsdecode(b"d\xff\xe9")
    directory.mkdir()
    return directory


def test_a_run_in_a_directory_without_a_readable_name(nameless, data, capfd):
    flags = [*SMALL, "--do_train", "--do_eval", "--num_beams", "1", "--max_steps", "2", "--save_steps", "1", "--lora"]
    flags += ["--task_name", shutil.copy(data, nameless / "data.jsonl"), "--dev_ratio", "0.5"]
    flags += ["--output_dir", nameless / "run"]
    flags = list(map(str, flags))
    finetune_generation.main(flags)
    shutil.rmtree(nameless / "run" / "checkpoint-2")
    capfd.readouterr()
    finetune_generation.main(flags)
    assert "resuming from" in capfd.readouterr().out
    adapter = [*MODEL, "--lora_path", str(nameless / "run")]
    predict_generation.main([*adapter, "--merge_lora_path", str(nameless / "merged")])
    asked = ["--data_file", str(data), "--tgt_length", "4", "--output_file"]
    predict_generation.main([*adapter, *asked, str(nameless / "one.jsonl")])
    merged = ["--model_name_or_path", str(nameless / "merged")]
    predict_generation.main([*merged, *asked, str(nameless / "two.jsonl")])
    assert (nameless / "one.jsonl").read_bytes() == (nameless / "two.jsonl").read_bytes()
    assert metrics.main([str(nameless / "one.jsonl")]) == 0
    __main__.main(["split", str(nameless / "merged"), str(nameless / "shards"), "--tensor_parallel_degree", "2"])
    assert capfd.readouterr().out


@pytest.mark.parametrize("kind", ["paddle", "onnx"])
def test_programs_in_a_directory_without_a_readable_name(kind, nameless, data, tmp_path):
    for place in (nameless, tmp_path / "plain"):
        export_generation_model.main([*MODEL, "--format", kind, "--output_path", str(place / "glm")])
    # Paddle numbers what its graphs hold for as long as a process lives: their weights alone are the same.
    for suffix in program.FILES[kind][1:]:
        assert (nameless / f"glm{suffix}").read_bytes() == (tmp_path / "plain" / f"glm{suffix}").read_bytes()
    for number, place in enumerate((nameless, tmp_path / "plain")):
        # FastDeploy crashes in a process that has imported paddle.
        command = [sys.executable, "infer_generation.py", "--model_path", str(place), "--model_prefix", "glm"]
        command += ["--data_file", str(data), "--output_file", str(tmp_path / f"{number}.jsonl")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=200)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "0.jsonl").read_bytes() == (tmp_path / "1.jsonl").read_bytes()


def test_a_program_whose_own_name_is_no_text_is_refused(tmp_path, capfd):
    place = tmp_path / os.fsdecode(b"\xff")
    code, told = ended(capfd, export_generation_model.main, *MODEL, "--output_path", place)
    assert code == 2
    assert "its name is not UTF-8" in told


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home directory."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_a_tilde_means_home_on_the_command_line_and_in_files(home, data, tmp_path):
    shutil.copy(data, home / "data.jsonl")
    (home / "flags.json").write_text(json.dumps({"data_file": "~/data.jsonl"}), encoding="utf8")
    (parsed,) = command_line.parse((PromptArguments,), ["~/flags.json", "--output_file=~/out.jsonl"])
    assert (parsed.data_file, parsed.output_file) == (str(home / "data.jsonl"), str(home / "out.jsonl"))
    predict_generation.main(["~/flags.json", *MODEL, "--tgt_length", "4", "--output_file=~/out.jsonl"])
    assert len(read_lines(home / "out.jsonl")) == 2


def test_what_is_no_path_keeps_its_tilde(home):
    (parsed,) = command_line.parse((PromptArguments,), ["--prompt", "~/{x}", "--data_file", "~/run"])
    assert parsed.prompt == "~/{x}"
    assert parsed.data_file == str(home / "run")


def test_the_cache_and_other_commands_know_a_home(home, monkeypatch, capsys):
    from glm import cache

    monkeypatch.setenv("GLM_CACHE_DIR", "~/cache")
    assert cache.cache_directory() == home / "cache"
    (home / "answers.jsonl").write_text('{"prediction": "甲", "target": "乙"}\n', encoding="utf8")
    assert metrics.main(["~/answers.jsonl"]) == 0
    shutil.copytree(builtin_model.build(), home / "model")
    __main__.main(["split", "~/model", "~/shards", "--tensor_parallel_degree", "2"])
    assert (home / "shards").is_dir()
