"""Whatever files hold and whatever flags say: it is taken as what it is, or refused in one line; no traceback, and
nothing damaged is taken for whole. make test-faults tries some thousands of examples, make test fewer."""

import contextlib
import dataclasses
import io
import json
import pickle
import shutil
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import finetune_generation
from glm import command_line
from glm.data import records, tokenization
from glm.data.selections import load_examples
from glm.data.templates import TEMPLATES
from glm.decoding.generation_config import GenerationConfig
from glm.errors import UserError
from glm.export import inspection, program
from glm.files import manifest
from glm.inference.arguments import DecodingArguments, PromptArguments, to_generation_config
from glm.training import saving
from glm.weights import __main__, builtin_model, model_directory, resharding
from glm.weights.stored_weights import read_weights
from tests.export import test_program
from tests.helpers import killing, models

CONFIG = {**builtin_model.CONFIG, "num_layers": 1, "hidden_size": 8, "vocab_size": 2560, "max_sequence_length": 16}
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Directory of a small model with a manifest; beside it the same weights as .pdparams and pytorch_model.bin."""
    directory = tmp_path_factory.mktemp("model")
    parameters = model_directory.empty_model(glm_config()).named_parameters()
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(value.shape).astype("float32") for name, value in parameters}
    source = directory / "plain"
    source.mkdir()
    save_file(weights, str(source / "model.safetensors"))
    (source / "config.json").write_text(json.dumps(CONFIG), encoding="utf8")
    tokenization.copy(builtin_model.build(), source)
    __main__.main(["split", str(source), str(directory / "shards"), "--tensor_parallel_degree", "2"])
    resharding.reshard(source, directory / "whole", 1)
    resharding.reshard(source, directory / "pdparams", 1, "pdparams")
    return directory


def glm_config():
    from paddlenlp.transformers import GLMConfig

    return GLMConfig(**CONFIG)


@st.composite
def damage(draw):
    """A function that changes bytes: flips some, cuts, doubles, or replaces a part."""
    place, kind = draw(st.floats(0, 1)), draw(st.sampled_from(["flip", "cut", "insert", "replace", "double"]))
    inserted = draw(st.binary(min_size=1, max_size=16))
    bit = draw(st.integers(0, 7))

    def change(content):
        at = int(place * max(len(content) - 1, 0))
        return {
            "flip": content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :] if content else b"",
            "cut": content[:at],
            "insert": content[:at] + inserted + content[at:],
            "replace": content[:at] + inserted + content[at + len(inserted) :],
            "double": content + content[at:],
        }[kind]

    return change


def refused_or(action, *arguments):
    """What an action returns; None if it is refused in one line."""
    try:
        return action(*arguments)
    except UserError as error:
        told = str(error)
    assert len(told.splitlines()) == 1, told
    return None


def ended_with(action, *arguments):
    """The exit code that an action ends the program with, None if it does not."""
    try:
        action(*arguments)
    except SystemExit as ended:
        return ended.code
    return None


def damaged_copy(source, target, name, change):
    """Copy a directory, with one file changed; whether it is another file now."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    before = (target / name).read_bytes()
    (target / name).write_bytes(change(before))
    return (target / name).read_bytes() != before


@SHARED
@given(st.lists(st.dictionaries(st.sampled_from(["context", "answer", "question", "x"]), values, max_size=4) | values))
def test_records_of_any_json_are_read_or_refused(tmp_path, content):
    path = tmp_path / "data.json"
    for text in ("\n".join(map(json.dumps, content)), json.dumps(content)):
        path.write_text(text, encoding="utf8")
        found = refused_or(records.read_records, path, TEMPLATES["qg"].fields(need_target=False))
        for record in found[0] if found else ():
            assert all(isinstance(record.fields[name], str) for name in ("context", "answer"))
        found = refused_or(load_examples, path, "instruction")
        assert found is None or all(isinstance(example.target, str | None) for example in found[0])


@SHARED
@given(
    st.binary(max_size=200),
    st.sampled_from(["data.json", "data.jsonl", "data.txt", "data.source", "data.csv", "data.tsv", "data.parquet"]),
)
def test_records_of_any_bytes_are_read_or_refused(tmp_path, content, name):
    for other in tmp_path.iterdir():
        other.unlink()
    (tmp_path / name).write_bytes(content)
    (tmp_path / "data.target").write_bytes(content[::-1])
    for template in TEMPLATES:
        found = refused_or(load_examples, tmp_path / name, template)
        assert found is None or all(isinstance(example.source, str) for example in found[0])


@SHARED
@given(
    st.lists(
        st.sampled_from(["--num_beams", "--top_p", "--select_topk", "--tgt_length", "--data_file", "--seed=3", "--nul"])
        | st.text(max_size=8)
        | st.integers().map(str)
        | st.floats().map(str),
        max_size=6,
    )
)
def test_flags_are_parsed_or_refused_in_one_line(words):
    told = io.StringIO()
    classes = (PromptArguments, DecodingArguments)
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        code = ended_with(command_line.parse, classes, words, "")
        assert code in (None, 0) or (code == 2 and len(told.getvalue().splitlines()) == 1)
        if code is not None:
            return
        prompts, decoding = command_line.parse(classes, words, "")
        assert isinstance(decoding.num_beams, int)
        assert isinstance(decoding.select_topk, bool)
        assert isinstance(prompts.batch_size, int)
        refused_or(to_generation_config, decoding, decoding.seed)


@SHARED
@given(values | st.dictionaries(st.sampled_from(["num_beams", "top_k", "data_file", "select_topk"]), values))
def test_a_configuration_file_is_taken_or_refused_in_one_line(tmp_path, content):
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf8")
    told = io.StringIO()
    classes = (PromptArguments, DecodingArguments)
    with contextlib.redirect_stderr(told):
        code = ended_with(command_line.parse, classes, [str(tmp_path / "config.json")])
    assert code is None or (code == 2 and len(told.getvalue().splitlines()) == 1)


@SHARED
@given(damage(), st.data())
def test_a_changed_file_of_a_directory_with_a_manifest_is_always_noticed(model, tmp_path, change, data):
    source = model / data.draw(st.sampled_from(["whole", "pdparams", "shards"]))
    name = data.draw(st.sampled_from(sorted(path.name for path in source.iterdir())))
    if damaged_copy(source, tmp_path / "copy", name, change):
        with pytest.raises(manifest.DamageError) as told:
            model_directory.load_model(tmp_path / "copy")
        assert name in str(told.value)
        with pytest.raises(manifest.DamageError):
            resharding.reshard(tmp_path / "copy", tmp_path / "other", 2)
    assert not (tmp_path / "other").exists()


@SHARED
@given(damage(), st.data())
def test_a_changed_file_without_a_manifest_is_read_as_it_is_or_refused(model, tmp_path, change, data):
    """What is accepted has every weight of its shape, and the shard tool has left nothing but a whole model."""
    source = model / data.draw(st.sampled_from(["whole", "pdparams", "shards"]))
    name = data.draw(st.sampled_from(sorted(path.name for path in source.iterdir() if path.name != manifest.FILE)))
    damaged_copy(source, tmp_path / "copy", name, change)
    (tmp_path / "copy" / manifest.FILE).unlink()
    shutil.rmtree(tmp_path / "other", ignore_errors=True)
    refused_or(model_directory.load_model, tmp_path / "copy")
    refused_or(tokenization.Tokenizer, tmp_path / "copy")
    refused_or(resharding.reshard, tmp_path / "copy", tmp_path / "other", 1)
    if (tmp_path / "other").exists():
        manifest.verify(tmp_path / "other", required=True)
        found = read_weights(tmp_path / "other")
        whole = load_file(str(model / "whole" / "model.safetensors"))
        assert {key: tuple(shape) for key, shape in found.shapes.items()} == {key: a.shape for key, a in whole.items()}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@SHARED
@given(st.dictionaries(st.sampled_from([*CONFIG, "dtype", "self", "x", "tensor_parallel_degree"]), values, min_size=1))
def test_any_configuration_of_a_model_is_taken_or_refused(model, tmp_path, changes):
    shutil.rmtree(tmp_path / "copy", ignore_errors=True)
    shutil.copytree(model / "plain", tmp_path / "copy")
    (tmp_path / "copy" / "config.json").write_text(json.dumps({**CONFIG, **changes}), encoding="utf8")
    shutil.rmtree(tmp_path / "other", ignore_errors=True)
    refused_or(model_directory.load_model, tmp_path / "copy")
    refused_or(resharding.reshard, tmp_path / "copy", tmp_path / "other", 2)


@SHARED
@given(values | st.dictionaries(st.text(max_size=5), values), st.binary(max_size=60), st.integers(0, 5))
def test_pickles_and_zip_files_of_anything_are_refused(model, tmp_path, content, junk, protocol):
    """None of them is a GLM."""
    shutil.rmtree(tmp_path / "copy", ignore_errors=True)
    shutil.copytree(model / "plain", tmp_path / "copy", ignore=shutil.ignore_patterns("model.safetensors"))
    pickled = pickle.dumps(content, protocol)
    for blob in (pickled, junk, pickled[:-1] + junk):
        (tmp_path / "copy" / "model_state.pdparams").write_bytes(blob)
        assert refused_or(model_directory.load_model, tmp_path / "copy") is None
    (tmp_path / "copy" / "model_state.pdparams").unlink()
    with zipfile.ZipFile(tmp_path / "copy" / "pytorch_model.bin", "w") as file:
        file.writestr("a/data.pkl", pickled)
        file.writestr("a/data/0", junk)
    assert refused_or(model_directory.load_model, tmp_path / "copy") is None


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Output directory with checkpoints of steps 1 and 2."""

    directory = tmp_path_factory.mktemp("run")
    flags = [*killing.RUN, "--max_steps", "2", "--save_total_limit", "5", "--output_dir", str(directory)]
    finetune_generation.main(flags)
    return directory


@SHARED
@given(damage(), st.data())
def test_a_changed_checkpoint_is_passed_over(checkpoints, tmp_path, change, data):
    name = data.draw(st.sampled_from(sorted(path.name for path in (checkpoints / "checkpoint-2").iterdir())))
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    shutil.copytree(checkpoints / "checkpoint-1", tmp_path / "run" / "checkpoint-1")
    warnings = []
    changed = damaged_copy(checkpoints / "checkpoint-2", tmp_path / "run" / "checkpoint-2", name, change)
    found = saving.newest_whole(tmp_path / "run", warnings.append)
    assert found.name == ("checkpoint-1" if changed else "checkpoint-2")
    assert len(warnings) == changed


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Directory of a program of Paddle's and an ONNX one, both called after their format."""
    directory = tmp_path_factory.mktemp("programs")
    for kind in ("paddle", "onnx"):
        small = models.make_model(num_layers=1)
        program.save(small, test_program.Tokenizer(), GenerationConfig(num_beams=2), directory, kind, "float32", kind)
    return directory


@SHARED
@given(damage(), st.sampled_from(["paddle", "onnx"]), st.integers(0, 1))
def test_a_changed_program_is_noticed_and_graphs_of_anything_are_looked_at(programs, tmp_path, change, prefix, file):
    """As it is, by its manifest; and if that was made anew, inspection takes it or refuses it in one line."""
    name = f"{prefix}{program.FILES[program.format_here(prefix)][file]}"
    changed = damaged_copy(programs, tmp_path / "copy", name, change)
    described = refused_or(program.describe, tmp_path / "copy", prefix)
    assert (described is None) == changed
    whole = program.describe(programs, prefix)
    refused_or(inspection.check, dataclasses.replace(whole, directory=tmp_path / "copy"))
