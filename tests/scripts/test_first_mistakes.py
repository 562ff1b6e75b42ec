"""What somebody meets who starts here: another Python, no environment, another directory, names of other projects."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import export_generation_model
import finetune_generation
import infer_generation
import predict_generation
import serve_generation
from glm import errors, flag_names
from glm.command_line import all_fields
from tests.helpers import ROOT
from tests.scripts.test_effects import CLASSES

SCRIPTS = sorted(path.name for path in ROOT.glob("*_generation*.py"))
MODULES = {
    f"{module.__name__}.py": module
    for module in (
        finetune_generation,
        predict_generation,
        export_generation_model,
        infer_generation,
        serve_generation,
    )
}


def told(main, flags, capfd):
    """The one line that a script ends with for a mistake."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(flag) for flag in flags])
    assert ended.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    return line.removeprefix("error: ")


def other_pythons():
    """Interpreters without this project's packages: the oldest and the newest that there are."""
    found = sorted(Path.home().glob(".pyenv/versions/3.*/bin/python"), key=lambda path: [
        int(part) for part in path.parts[-3].split(".") if part.isdigit()
    ])  # fmt: skip
    others = [path for path in found if not path.parts[-3].startswith(("3.10.", "3.11.", "3.12.", "3.13."))]
    return [*others[:1], *others[-1:]]


@pytest.mark.parametrize("python", other_pythons(), ids=lambda path: path.parts[-3])
@pytest.mark.parametrize("script", SCRIPTS)
def test_another_python_is_told_how_to_get_the_right_one(python, script, tmp_path):
    """Of the current directory nothing is asked. Where packages are there after all, --help is what it always is."""
    environment = {"PATH": os.environ["PATH"]}
    flags = ["--output_dir", "x", "--do_train"] if script.startswith("finetune") else []
    command = [str(python), str(ROOT / script), *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    if done.returncode == 0:
        pytest.skip("has the packages")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "make setup" in line
    assert ".venv/bin/python" in line
    assert f"Python {'.'.join(python.parts[-3].split('.')[:2])}" in line


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name != "serve_generation.py"])
@pytest.mark.parametrize("package", ["paddle", "paddlenlp", "sentencepiece", "numpy"])
def test_a_package_that_is_missing_is_told_in_one_line(script, package, tmp_path):
    if package == "paddle" and script.startswith("infer"):
        pytest.skip("needs none")
    flags = {"finetune": ["--output_dir", "x", "--do_train", "--task_name", "demo_qg"], "infer": []}
    flags = [*flags.get(script.split("_")[0], []), *(["--model_path", "none"] if script.startswith("infer") else [
        "--model_name_or_path", "glm-tiny-chinese"])]  # fmt: skip
    # A graph in the cache needs no paddle.
    flags += ["--engine", "python"] if script.startswith("predict") else []
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = {[script, *flags]!r}\n"
        f"sys.modules[{package!r}] = None\n"
        f"import {script.removesuffix('.py')} as script\nscript.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    if script.startswith("infer") and "no such" in done.stderr:
        pytest.skip("is told first that there is no program")
    if package == "paddlenlp" and not script.startswith("finetune"):
        # Training alone needs it.
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 2, done.stderr
    assert [line for line in done.stderr.splitlines() if f"has no module {package!r}: run make setup" in line]
    assert "Traceback" not in done.stderr


def test_a_module_of_ones_own_that_is_missing_is_a_fault():
    with pytest.raises(ModuleNotFoundError), errors.one_line_errors():
        raise ModuleNotFoundError("No module named 'glm.nothing'", name="glm.nothing")


def test_scripts_run_from_another_directory_with_its_paths(tmp_path):
    (tmp_path / "prompts.txt").write_text("你好\n", encoding="utf8")
    flags = ["--model_name_or_path", "glm-tiny-chinese", "--tgt_length", "4", "--data_file", "prompts.txt"]
    command = [sys.executable, str(ROOT / "predict_generation.py"), *flags, "--output_file", "answers.jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "answers.jsonl").read_text(encoding="utf8").count("\n") == 1


@pytest.mark.parametrize(
    "flags", [["--do_train", "{config}"], ["--output_dir", "x", "{config}"], ["--do_train", "True", "{config}"]]
)
def test_a_configuration_after_flags_is_told_to_come_first(flags, tmp_path, capfd):
    config = tmp_path / "run.json"
    config.write_text("{}")
    line = told(finetune_generation.main, [flag.format(config=config) for flag in flags], capfd)
    assert line.startswith(f"{config}: a configuration file comes first")


@pytest.mark.parametrize(
    ("script", "name", "here"),
    [
        ("finetune_generation.py", "lr", "--learning_rate"),
        ("finetune_generation.py", "batch_size", "--per_device_train_batch_size"),
        ("finetune_generation.py", "per_device_batch_size", "--per_device_train_batch_size"),
        ("finetune_generation.py", "epochs", "--num_train_epochs"),
        ("finetune_generation.py", "num-epochs", "--num_train_epochs"),
        ("finetune_generation.py", "train_file", "--task_name"),
        ("finetune_generation.py", "validation_file", "--task_name"),
        ("finetune_generation.py", "dataset", "--task_name"),
        ("finetune_generation.py", "cutoff_len", "--src_length"),
        ("finetune_generation.py", "lora_target", "--lora_target_modules"),
        ("finetune_generation.py", "max_length", "--tgt_length"),
        ("finetune_generation.py", "output", "--output_dir"),
        ("finetune_generation.py", "model", "--model_name_or_path"),
        ("finetune_generation.py", "gradient_checkpointing", "--recompute"),
        ("finetune_generation.py", "optimizer", "--optim"),
        ("predict_generation.py", "max_new_tokens", "--tgt_length"),
        ("predict_generation.py", "output", "--output_file"),
        ("predict_generation.py", "input_file", "--data_file"),
        ("predict_generation.py", "do_sample", "--select_topk"),
        ("predict_generation.py", "adapter_name_or_path", "--lora_path"),
        ("export_generation_model.py", "output_dir", "--output_path"),
        ("serve_generation.py", "batch_size", "--max_batch_size"),
    ],
)
def test_names_of_other_projects_are_told_what_they_are_called_here(script, name, here, capfd):
    line = told(MODULES[script].main, [f"--{name}", "1"], capfd)
    assert f"unknown name --{name}: here it is called {here}" in line


def test_every_synonym_stands_for_a_flag_that_there_is():
    everything = {name for classes in CLASSES.values() for name in all_fields(classes)} | {"lora_rank"}
    assert {flag for flags in flag_names.SYNONYMS.values() for flag in flags} <= everything
    assert flag_names.REMARKS.keys() <= flag_names.SYNONYMS.keys()


@pytest.mark.parametrize("flag", ["num_beams", "select_topk", "no_repeat_ngram_size", "model_name_or_path"])
def test_what_is_fixed_at_export_is_told_to_be(flag, capfd):
    line = told(infer_generation.main, [f"--{flag}", "2"], capfd)
    assert f"unknown name --{flag}: " in line
    assert "export_generation_model.py" in line


def test_an_output_that_is_a_directory_needs_a_prefix(tmp_path, capfd):
    for path in (tmp_path, f"{tmp_path}/new/"):
        line = told(export_generation_model.main, ["--output_path", path], capfd)
        assert line.startswith(f"--output_path {path} is a directory; ")
        assert line.endswith(str(Path(path) / "glm"))


def test_another_prefix_is_told_which_there_are(tmp_path, capfd):
    for prefix in ("one", "two"):
        (tmp_path / f"{prefix}_generation_config.json").write_text("{}")
    line = told(infer_generation.main, ["--model_path", tmp_path, "--model_prefix", "glm"], capfd)
    assert line == f"{tmp_path} has no program glm, but one, two: give --model_prefix one"


def test_a_server_loads_its_model_without_paddlenlp():
    code = (
        "import sys; sys.modules['paddlenlp'] = None\n"
        "import serve_generation as script\n"
        "from glm.command_line import parse\n"
        "asked = parse((script.ServerArguments, script.DecodingArguments), "
        "['--model_name_or_path', 'glm-tiny-chinese'], '')\n"
        "engine = script.build(*asked).engine\n"
        "engine.load()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
