"""The built-in model is the same wherever it is built, complete, and what its config says."""

import json
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from glm.data.tokenization import SPECIAL_PIECES, Tokenizer
from glm.weights import builtin_model


@pytest.fixture(scope="module")
def few_texts():
    """A tenth of the texts of demo/: enough for the vocabulary, and quick to train on."""
    return builtin_model.demo_texts()[::10]


def files(directory):
    """{name: bytes} of a directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_builds_agree_byte_for_byte_and_may_run_at_once(few_texts, tmp_path, monkeypatch):
    monkeypatch.setattr(builtin_model, "demo_texts", lambda: few_texts)
    caches = [tmp_path / "one", tmp_path / "one", tmp_path / "other"]
    with ThreadPoolExecutor(3) as pool:
        built = list(pool.map(builtin_model.build, caches))
    assert built[0] == built[1]
    assert built[0].name == built[2].name
    assert files(built[0]) == files(built[2])
    assert set(files(built[0])) >= {"config.json", "model.safetensors", "cog-pretrain.model", "added_tokens.json"}
    assert [path.name for path in (tmp_path / "one").iterdir()] == [built[0].name]


def test_what_is_there_is_not_built_again(few_texts, tmp_path, monkeypatch):
    monkeypatch.setattr(builtin_model, "demo_texts", lambda: few_texts)
    monkeypatch.setenv("GLM_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(builtin_model, "train_tokenizer", lambda texts, directory: None)
    first = builtin_model.build()
    assert first.parent == tmp_path
    monkeypatch.setattr(builtin_model, "write_model", lambda directory: pytest.fail("built again"))
    assert builtin_model.build() == first


def test_another_recipe_is_another_directory(few_texts, tmp_path, monkeypatch):
    monkeypatch.setattr(builtin_model, "train_tokenizer", lambda texts, directory: None)
    changed = tmp_path / "changed.py"
    changed.write_text(
        Path(builtin_model.__file__).read_text(encoding="utf8").replace("SEED = ", "SEED = 1"), encoding="utf8"
    )
    built = set()
    for texts, source in (
        (few_texts, builtin_model.__file__),
        (few_texts[1:], builtin_model.__file__),
        (few_texts, changed),
    ):
        monkeypatch.setattr(builtin_model, "demo_texts", lambda texts=texts: texts)
        monkeypatch.setattr(builtin_model, "__file__", str(source))
        built.add(builtin_model.build(tmp_path / "cache"))
    assert len(built) == 3


def test_a_build_that_fails_leaves_nothing_behind(few_texts, tmp_path, monkeypatch):
    def fail(directory):
        raise OSError("disk full")

    monkeypatch.setattr(builtin_model, "demo_texts", lambda: few_texts)
    monkeypatch.setattr(builtin_model, "train_tokenizer", lambda texts, directory: None)
    monkeypatch.setattr(builtin_model, "write_model", fail)
    with pytest.raises(OSError, match="disk full"):
        builtin_model.build(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_is_its_users_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(builtin_model, "demo_texts", lambda: [])
    monkeypatch.setattr(builtin_model, "train_tokenizer", lambda texts, directory: None)
    built = builtin_model.build(tmp_path / "cache")
    assert [path.stat().st_mode & 0o777 for path in (built, tmp_path / "cache")] == [0o700, 0o700]


def test_special_pieces_are_the_last_ten_of_the_vocabulary():
    directory = builtin_model.build()
    vocab_size = json.loads((directory / "config.json").read_text(encoding="utf8"))["vocab_size"]
    tokenizer = Tokenizer(directory)
    assert [tokenizer.special_ids[piece] for piece in SPECIAL_PIECES] == list(range(vocab_size - 10, vocab_size))
    assert len(tokenizer) == vocab_size


def test_weights_are_those_of_paddlenlps_model_by_name_and_shape():
    from paddlenlp.transformers import GLMConfig, GLMForConditionalGeneration

    weights = builtin_model.random_weights()
    stock = GLMForConditionalGeneration(GLMConfig(**builtin_model.CONFIG)).state_dict()
    assert {name: list(array.shape) for name, array in weights.items()} == {
        name: tensor.shape for name, tensor in stock.items()
    }
    assert {array.dtype.name for array in weights.values()} == {"float32"}


def test_weights_start_small_and_layer_norms_neutral():
    for name, array in builtin_model.random_weights().items():
        if "layernorm" in name:
            assert (array == (1 if name.endswith("weight") else 0)).all()
        elif name.endswith("bias"):
            assert not array.any()
        else:
            layers = builtin_model.CONFIG["num_layers"]
            writes_to_residual = name.endswith(("attention.dense.weight", "dense_4h_to_h.weight"))
            expected = 0.05 / (2 * layers) ** 0.5 if writes_to_residual else 0.05
            assert array.std() == pytest.approx(expected, rel=0.03)


def test_demo_texts_survive_encoding_up_to_normalization():
    tokenizer = Tokenizer(builtin_model.build())
    texts = builtin_model.demo_texts()
    assert len(texts) > 1000
    for text in texts[::7]:
        lines = unicodedata.normalize("NFKC", text).split("\n")
        normalized = "\n".join(" ".join(line.split()) for line in lines)
        assert tokenizer.decode(tokenizer.encode(text)) == normalized
