"""Models divided into shard files and put together again; what does not belong together is refused before writing."""

import hashlib
import json
import os
import pickle
import shutil
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import predict_generation
from glm.errors import RunError
from glm.parallel.sharding import ShardError
from glm.weights import __main__, builtin_model, model_directory, resharding, weight_writers
from glm.weights.stored_weights import expected_shapes, read_weights
from glm.weights.weight_sources import ModelError

CONFIG = {**builtin_model.CONFIG, "hidden_size": 32, "num_attention_heads": 16, "max_sequence_length": 24}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Directory of a random model of 16 heads, with a tokenizer."""
    directory = tmp_path_factory.mktemp("model") / "whole"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG), encoding="utf8")
    rng = np.random.default_rng(0)
    shapes = expected_shapes(CONFIG)
    weights = {name: rng.standard_normal(shape).astype("float32") for name, shape in shapes.items()}
    save_file(weights, str(directory / "model.safetensors"))
    model_directory.load_tokenizer(builtin_model.NAME).save(directory)
    return directory


def run(*words):
    __main__.main([str(word) for word in words])


def refused(capsys, *words):
    """The one line that the tool ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run(*words)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_the_shapes_of_a_configuration_are_those_of_its_model(model):
    parameters = model_directory.empty_model(model_directory.load_config(model)).named_parameters()
    assert {name: tuple(value.shape) for name, value in parameters} == expected_shapes(CONFIG)


@pytest.mark.parametrize("kind", ["safetensors", "pdparams"])
@pytest.mark.parametrize("degree", [2, 16])
def test_split_reshard_and_merge_give_the_model_back_bit_for_bit(model, tmp_path, degree, kind):
    form = ["--format", kind]
    run("split", model, tmp_path / "split", "--tensor_parallel_degree", degree, *form)
    run("reshard", tmp_path / "split", tmp_path / "four", "--tensor_parallel_degree", 4, *form)
    run("reshard", tmp_path / "four", tmp_path / "again", "--tensor_parallel_degree", degree, *form)
    run("merge", tmp_path / "again", tmp_path / "merged")
    names = sorted(path.name for path in (tmp_path / "split").glob("model*"))
    assert names == [f"model_state.tp{rank:02d}.{kind}" for rank in range(degree)]
    for name in names:
        assert (tmp_path / "split" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    expected, merged = (
        load_file(str(model / "model.safetensors")),
        load_file(str(tmp_path / "merged/model.safetensors")),
    )
    assert expected.keys() == merged.keys()
    assert all(np.array_equal(expected[name], merged[name]) for name in expected)
    # One process reads the shards as they are.
    whole, shards = (model_directory.load_model(tmp_path / side) for side in ("merged", "split"))
    assert all(
        np.array_equal(a.numpy(), b.numpy()) for a, b in zip(whole.parameters(), shards.parameters(), strict=True)
    )
    assert len(model_directory.load_tokenizer(tmp_path / "merged")) == len(model_directory.load_tokenizer(model))


def test_shards_in_paddles_own_format_are_those_that_paddle_reads(model, tmp_path):
    import paddle

    run("split", model, tmp_path / "split", "--tensor_parallel_degree", 4, "--format", "pdparams")
    stored = paddle.load(str(tmp_path / "split" / "model_state.tp03.pdparams"), return_numpy=True)
    whole = load_file(str(model / "model.safetensors"))
    np.testing.assert_array_equal(stored["glm.word_embeddings.weight"], whole["glm.word_embeddings.weight"][-640:])
    # And what paddle writes is read, framed and unframed arrays alike.
    paddle.save(stored, str(tmp_path / "split" / "model_state.tp03.pdparams"))
    (tmp_path / "split" / "manifest.json").unlink()
    run("merge", tmp_path / "split", tmp_path / "merged")
    merged = load_file(str(tmp_path / "merged" / "model.safetensors"))
    assert all(np.array_equal(whole[name], merged[name]) for name in whole)


def test_float16_stays_float16(model, tmp_path):
    half = shutil.copytree(model, tmp_path / "half")
    weights = {name: array.astype("float16") for name, array in load_file(str(half / "model.safetensors")).items()}
    save_file(weights, str(half / "model.safetensors"))
    run("split", half, tmp_path / "split", "--tensor_parallel_degree", 2)
    run("merge", tmp_path / "split", tmp_path / "merged")
    assert model_directory.stored_dtype(tmp_path / "merged") == "float16"
    merged = load_file(str(tmp_path / "merged" / "model.safetensors"))
    assert all(np.array_equal(weights[name], merged[name]) for name in weights)


@pytest.fixture
def shards(model, tmp_path):
    """Directory of four shards, to be spoiled; without its manifest, which would notice first."""
    run("split", model, tmp_path / "shards", "--tensor_parallel_degree", 4)
    (tmp_path / "shards" / "manifest.json").unlink()
    return tmp_path / "shards"


def test_missing_ranks_are_named(shards, tmp_path, capsys):
    (shards / "model_state.tp01.safetensors").unlink()
    assert "the shards of tp01 are missing, of 4" in refused(capsys, "merge", shards, tmp_path / "out")
    (shards / "model_state.tp03.safetensors").unlink()
    # That there was a fourth is known from the configuration alone.
    assert "the shards of tp01, tp03 are missing, of 4" in refused(capsys, "merge", shards, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["name", "configuration"])
def test_a_rank_or_degree_beyond_all_measure_takes_no_memory(shards, tmp_path, capsys, kind):
    if kind == "name":
        (shards / "model_state.tp03.safetensors").rename(shards / "model_state.tp999999999.safetensors")
        expected = "the shards of tp03, tp04, tp05, tp06, tp07, tp08, tp09, tp10 and 999999988 more are missing"
    else:
        config = json.loads((shards / "config.json").read_text(encoding="utf8"))
        (shards / "config.json").write_text(json.dumps({**config, "tensor_parallel_degree": 60_000}), encoding="utf8")
        expected = "and 59988 more are missing, of 60000"
    tracemalloc.start()
    try:
        assert expected in refused(capsys, "merge", shards, tmp_path / "out")
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


def test_shards_that_do_not_belong_together_are_named(model, shards, tmp_path, capsys):
    run("split", model, tmp_path / "two", "--tensor_parallel_degree", 2)
    shutil.copy(tmp_path / "two" / "model_state.tp01.safetensors", shards)
    told = refused(capsys, "merge", shards, tmp_path / "out")
    assert f"{shards / 'model_state.tp01.safetensors'}: glm." in told
    assert "are they of one model and degree?" in told

    (shards / "model_state.tp01.pdparams").touch()
    assert "model_state.tp01.pdparams and model_state.tp01.safetensors are both there" in refused(
        capsys, "merge", shards, tmp_path / "out"
    )

    config = json.loads((tmp_path / "two" / "config.json").read_text())
    (tmp_path / "two" / "config.json").write_text(json.dumps({**config, "vocab_size": 64}))
    (tmp_path / "two" / "manifest.json").unlink()
    told = refused(capsys, "merge", tmp_path / "two", tmp_path / "out")
    assert "glm.word_embeddings.weight is [2560, 32], but config.json asks for [64, 32]" in told
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_shard_that_is_cut_off_is_named_and_leaves_nothing(shards, tmp_path, capsys):
    path = shards / "model_state.tp02.safetensors"
    os.truncate(path, path.stat().st_size - 1)
    assert f"{path}: cannot be read" in refused(capsys, "merge", shards, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards"]


def test_a_write_that_fails_leaves_nothing(shards, tmp_path, monkeypatch):
    written = []

    def fail(*arguments):
        written.append(arguments)
        if len(written) > 5:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(weight_writers.WeightsWriter, "write", fail)
    with pytest.raises(RunError, match="could not be written: No space left on device; nothing is left of it"):
        resharding.reshard(shards, tmp_path / "out", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards"]


@pytest.mark.parametrize("kind", ["safetensors", "pdparams"])
def test_the_manifest_has_the_hashes_that_the_files_have(model, tmp_path, kind):
    # They are computed of what is written, not of what is read.
    run("split", model, tmp_path / "out", "--tensor_parallel_degree", 4, "--format", kind)
    files = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf8"))["files"]
    assert len([name for name in files if name.endswith(kind)]) == 4
    for name, entry in files.items():
        content = (tmp_path / "out" / name).read_bytes()
        assert entry == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_what_is_read_back_otherwise_than_written_is_refused(shards, tmp_path, monkeypatch):
    put = weight_writers.WeightsWriter.put

    def put_with_a_flipped_bit(self, content):
        content = bytearray(content)
        if len(content) == 4 * CONFIG["hidden_size"]:
            content[17] ^= 1
        put(self, content)

    monkeypatch.setattr(weight_writers.WeightsWriter, "put", put_with_a_flipped_bit)
    with pytest.raises(ModelError, match="what was read back is not what was written"):
        resharding.reshard(shards, tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def test_impossible_degrees_and_targets_are_refused(model, shards, tmp_path, capsys):
    target = tmp_path / "out"
    assert "3 does not divide the model's 16 attention heads" in refused(
        capsys, "split", model, target, "--tensor_parallel_degree", 3
    )
    assert "reshard writes another number" in refused(capsys, "split", shards, target, "--tensor_parallel_degree", 2)
    assert "has no shards to merge" in refused(capsys, "merge", model, target)
    assert "is there already" in refused(capsys, "merge", shards, shards)
    with pytest.raises(ShardError, match="at least 1"):
        resharding.reshard(model, target, 0)
    assert not target.exists()


def test_a_pickle_that_asks_for_more_than_arrays_is_refused_unrun(shards, tmp_path, capsys):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    (shards / "model_state.tp00.safetensors").unlink()
    (shards / "model_state.tp00.pdparams").write_bytes(pickle.dumps({"glm.word_embeddings.weight": Malicious()}))
    told = refused(capsys, "merge", shards, tmp_path / "out")
    assert "mkdir is nothing that weights are made of" in told
    assert not (tmp_path / "run").exists()


def test_prediction_merges_shards_too(shards, model, tmp_path, capsys):
    flags = ["--model_name_or_path", str(shards), "--merge_tensor_parallel_path"]
    predict_generation.main([*flags, str(tmp_path / "merged")])
    whole = load_file(str(model / "model.safetensors"))
    weights = read_weights(tmp_path / "merged")
    assert all(np.array_equal(whole[name], weights.take(name)) for name in whole)
    with pytest.raises(SystemExit):
        predict_generation.main([*flags, str(tmp_path / "merged")])
    assert "is there already" in capsys.readouterr().err
