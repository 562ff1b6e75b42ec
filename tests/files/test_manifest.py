"""Every damage to a directory with a manifest is noticed and named, and nothing of it is loaded."""

import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

import export_generation_model
import finetune_generation
import infer_generation
from glm.files import manifest
from glm.training import saving
from glm.weights import adapters, model_directory
from tests.helpers.runs import SMALL, TRAINING, weights_of


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Output directory of a run of eight steps with checkpoints of steps 4 and 8."""
    directory = tmp_path_factory.mktemp("run")
    finetune_generation.main([*SMALL, *TRAINING, "--output_dir", str(directory)])
    return directory


@pytest.fixture(scope="module")
def exported(whole, tmp_path_factory):
    """Directory of its program."""
    directory = tmp_path_factory.mktemp("program")
    export_generation_model.main(["--model_name_or_path", str(whole), "--output_path", str(directory / "glm")])
    return directory


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "altered": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
}


def each_damage(directory, copy):
    """(kind, name) of each damage to each file of a directory, while `copy` is a copy of it that has the damage."""
    for name in sorted(path.name for path in directory.iterdir()):
        for kind, damage in DAMAGES.items():
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(directory, copy)
            damage(copy / name)
            yield kind, name


def test_every_damage_to_every_file_of_a_checkpoint_is_named(whole, tmp_path):
    source, names = whole / "checkpoint-8", set()
    for kind, name in each_damage(source, tmp_path / "copy"):
        with pytest.raises(manifest.DamageError) as told:
            manifest.verify(tmp_path / "copy", required=True)
        assert f"{tmp_path / 'copy' / name}" in str(told.value)
        assert name == manifest.FILE or kind in str(told.value)
        names.add(name)
    assert names >= {"model.safetensors", "optimizer.safetensors", "trainer_state.json", "progress.json", manifest.FILE}


def test_a_run_goes_on_from_the_newest_whole_checkpoint_and_ends_the_same(whole, tmp_path, capfd):
    """Whatever is damaged of the newest one."""
    expected = weights_of(whole)
    for number, (_, name) in enumerate(each_damage(whole / "checkpoint-8", tmp_path / "copy")):
        if number % 5:  # every fifth: each damage, and each file but for a few
            continue
        directory = tmp_path / f"run{number}"
        shutil.copytree(whole / "checkpoint-4", directory / "checkpoint-4")
        shutil.copytree(tmp_path / "copy", directory / "checkpoint-8")
        capfd.readouterr()
        finetune_generation.main([*SMALL, *TRAINING, "--output_dir", str(directory)])
        said = capfd.readouterr().out
        assert f"{directory / 'checkpoint-8'} is not used: {directory / 'checkpoint-8' / name}" in said
        assert f"resuming from {directory / 'checkpoint-4'}" in said
        found = weights_of(directory)
        assert all((expected[name] == found[name]).all() for name in expected)
        manifest.verify(directory / "checkpoint-8", required=True)


def refused(capfd, main, *arguments):
    """The one line that a script ends with."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    return line


def test_a_run_without_a_whole_checkpoint_does_not_start_anew_unasked(whole, tmp_path, capfd):
    shutil.copytree(whole / "checkpoint-4", tmp_path / "checkpoint-4")
    flip(tmp_path / "checkpoint-4" / "model.safetensors")
    line = refused(capfd, finetune_generation.main, *SMALL, *TRAINING, "--output_dir", tmp_path)
    assert "none of its 1 checkpoints is whole; --overwrite_output_dir" in line
    assert (tmp_path / "checkpoint-4").is_dir()


def test_what_is_asked_to_resume_from_has_to_be_a_whole_checkpoint(whole, tmp_path, capfd):
    arguments = [*SMALL, *TRAINING, "--output_dir", tmp_path / "out", "--resume_from_checkpoint"]
    assert "is no checkpoint directory" in refused(capfd, finetune_generation.main, *arguments, tmp_path)
    damaged = tmp_path / "checkpoint-4"
    shutil.copytree(whole / "checkpoint-4", damaged)
    flip(damaged / "optimizer.safetensors")
    line = refused(capfd, finetune_generation.main, *arguments, damaged)
    assert f"{damaged / 'optimizer.safetensors'}: altered since it was written" in line


def test_a_damaged_model_is_not_loaded_and_one_without_a_manifest_is(whole, tmp_path):
    for _, name in each_damage(whole / "checkpoint-8", tmp_path / "copy"):
        if name == manifest.FILE and not (tmp_path / "copy" / name).exists():
            continue
        with pytest.raises(manifest.DamageError):
            model_directory.load_model(tmp_path / "copy")
    shutil.copytree(whole / "checkpoint-8", tmp_path / "bare", ignore=shutil.ignore_patterns(manifest.FILE))
    model_directory.load_model(tmp_path / "bare")


def test_weights_that_nobody_wrote_there_are_not_loaded(whole, tmp_path):
    shutil.copytree(whole / "checkpoint-8", tmp_path / "copy")
    shutil.copy(whole / "model.safetensors", tmp_path / "copy" / "model_state.tp00.safetensors")
    with pytest.raises(manifest.DamageError, match=r"model_state\.tp00\.safetensors: not in manifest\.json"):
        model_directory.load_model(tmp_path / "copy")


def test_a_damaged_program_is_not_run(exported, tmp_path, capfd):
    arguments = ["--model_path", tmp_path / "copy", "--runtime", "paddle"]
    for kind, name in each_damage(exported, tmp_path / "copy"):
        if name == "glm_manifest.json" and kind == "missing":
            continue
        line = refused(capfd, infer_generation.main, *arguments)
        assert f"{tmp_path / 'copy' / name}" in line


def test_weights_of_another_program_are_refused(whole, exported, tmp_path, capfd):
    shutil.copytree(exported, tmp_path / "copy")
    export_generation_model.main(
        ["--model_name_or_path", str(whole / "checkpoint-4"), "--output_path", str(tmp_path / "other" / "glm")]
    )
    shutil.copy(tmp_path / "other" / "glm.pdiparams", tmp_path / "copy")
    line = refused(capfd, infer_generation.main, "--model_path", tmp_path / "copy", "--runtime", "paddle")
    assert "glm.pdiparams: altered since it was written" in line


def test_a_damaged_adapter_is_not_loaded(whole, tmp_path):
    lora = [*SMALL, *TRAINING, "--max_steps", "1", "--lora", "True", "--output_dir", str(tmp_path / "adapter")]
    finetune_generation.main([*lora, "--model_name_or_path", str(whole)])
    adapters.load_model(whole, tmp_path / "adapter")
    flip(tmp_path / "adapter" / "lora_model_state.safetensors")
    with pytest.raises(manifest.DamageError, match="lora_model_state.safetensors: altered"):
        adapters.load_model(whole, tmp_path / "adapter")


@given(
    st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text(max_size=4) | st.lists(st.integers())),
    st.sampled_from(["files", "format", "nothing"]),
)
def test_a_manifest_is_what_it_should_be_or_is_refused(tmp_path_factory, content, place):
    directory = tmp_path_factory.getbasetemp() / "fuzzed"
    directory.mkdir(exist_ok=True)
    sound = {"format": 1, "files": {}}
    whole = {**sound, place: content} if place != "nothing" else content
    (directory / manifest.FILE).write_text(manifest.text_of(whole), encoding="utf8")
    try:
        found = manifest.verify(directory, required=True)
    except manifest.DamageError:
        return
    assert place == "files" and not content and found["files"] == {} or place == "nothing" and content == sound


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", ""])
def test_a_manifest_cannot_name_files_outside(tmp_path, name):
    entry = {"size": 0, "sha256": ""}
    (tmp_path / manifest.FILE).write_text(manifest.text_of({"format": 1, "files": {name: entry}}))
    with pytest.raises(manifest.DamageError, match="altered"):
        manifest.verify(tmp_path)


def test_the_newest_checkpoint_is_that_of_the_highest_step(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-x", "checkpoint-11.old", "other-12"):
        (tmp_path / name).mkdir()
        (tmp_path / name / manifest.FILE).touch()
    assert [path.name for path in saving.checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]
