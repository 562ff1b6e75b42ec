"""Files that want more than to be read: they are refused by name, and nothing of theirs happens."""

import io
import json
import pickle
import shutil
import sys
import tarfile
import zipfile

import numpy as np
import pytest

import data
from glm.data import tokenization
from glm.errors import UserError
from glm.files import archives
from glm.weights import builtin_model, model_directory


@pytest.fixture
def directory(tmp_path):
    """The built-in model, without its weights."""
    target = tmp_path / "model"
    shutil.copytree(builtin_model.build(), target, ignore=shutil.ignore_patterns("model.safetensors"))
    return target


class Malicious:
    """Makes a file when it is unpickled the usual way."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


def refused(directory):
    with pytest.raises(UserError) as told:
        model_directory.load_model(directory)
    (line,) = str(told.value).splitlines()
    return line


def test_the_pickles_here_are_dangerous_to_others(tmp_path):
    pickle.loads(pickle.dumps(Malicious(tmp_path / "made")))
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("place", ["value", "key", "top", "state of an array"])
def test_a_malicious_pdparams_is_refused_and_nothing_runs(directory, tmp_path, protocol, place):
    malicious, array = Malicious(tmp_path / "made"), np.ones(3, "float32")
    content = {
        "value": {"a": array, "glm.word_embeddings.weight": malicious},
        "key": {(malicious, 1): array},
        "top": malicious,
        "state of an array": {"a": np.array([malicious], dtype=object)},
    }[place]
    (directory / "model_state.pdparams").write_bytes(pickle.dumps(content, protocol))
    line = refused(directory)
    assert "model_state.pdparams: cannot be read (" in line
    assert "nothing that weights are made of" in line
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_pytorch_model_is_refused_and_nothing_runs(directory, tmp_path, protocol):
    with zipfile.ZipFile(directory / "pytorch_model.bin", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({"a": Malicious(tmp_path / "made")}, protocol))
    assert "system is nothing that weights are made of" in refused(directory)
    assert not (tmp_path / "made").exists()


def test_builtins_that_pickles_like_to_call_are_refused(directory, tmp_path):
    for call in ("builtins\neval", "builtins\nexec", "builtins\ngetattr", "posix\nsystem", "numpy\nload"):
        (directory / "model_state.pdparams").write_bytes(f"c{call}\n(V__import__\ntR.".encode())
        assert "nothing that weights are made of" in refused(directory)


def zip_of(path, name, link=False):
    info = zipfile.ZipInfo(name)
    info.external_attr = (0o120777 if link else 0o100644) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train.json", "{}")
        archive.writestr(info, "/etc" if link else "{}")


def tar_of(path, name, link=False):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = (tarfile.SYMTYPE, "/etc", 0) if link else (tarfile.REGTYPE, "", 2)
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(info, io.BytesIO(b"" if link else b"{}"))


@pytest.mark.parametrize("make", [zip_of, tar_of])
@pytest.mark.parametrize(
    ("name", "link"), [("../../outside.json", False), ("/tmp/outside.json", False), ("..\\x", False), ("link", True)]
)
def test_an_archive_that_would_leave_its_directory_is_not_unpacked(tmp_path, monkeypatch, make, name, link):
    from paddle.utils import download

    (tmp_path / "cache").mkdir()
    archive = tmp_path / "cache" / "DuReaderQG.archive"
    make(archive, name, link)
    monkeypatch.setattr(download, "_download", lambda *_, **__: str(archive))
    monkeypatch.setattr(download, "_download_dist", lambda *_, **__: str(archive), raising=False)
    monkeypatch.setattr("paddlenlp.datasets.dureader_qg.DATA_HOME", str(tmp_path / "cache"))
    with pytest.raises(archives.ArchiveError, match="would leave the directory; it is not unpacked"):
        data.question_generation("dureader_qg", True, False)
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}


def test_a_tokenizer_path_outside_is_refused(directory):
    path = directory / tokenization.CONFIGURATION_FILE
    content = json.loads(path.read_text(encoding="utf8"))
    path.write_text(json.dumps({**content, "vocab_file": "../../etc/passwd"}), encoding="utf8")
    with pytest.raises(tokenization.TokenizerError, match="vocab_file is ../../etc/passwd, outside"):
        tokenization.Tokenizer(directory)


def test_a_configuration_imports_nothing(tmp_path, monkeypatch):
    """Whatever it asks for in the ways that other loaders follow."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'made')!r}, 'w')\n", encoding="utf8")
    shutil.copytree(builtin_model.build(), tmp_path / "model")
    shutil.copy(tmp_path / "evil.py", tmp_path / "model" / "modeling_evil.py")
    path = tmp_path / "model" / "config.json"
    asked = {
        "auto_map": {"AutoModel": "modeling_evil.Model", "AutoConfig": "evil.Config"},
        "trust_remote_code": True,
        "architectures": ["evil.Model"],
        "_name_or_path": "evil",
        "tokenizer_class": "evil.Tokenizer",
        "custom_generate": "evil",
    }
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf8")), **asked}), encoding="utf8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path / "model")
    model_directory.load_model(tmp_path / "model")
    model_directory.load_tokenizer(tmp_path / "model")
    assert not (tmp_path / "made").exists()
    assert not [name for name in sys.modules if "evil" in name]


def test_what_the_project_writes_holds_no_pickle(tmp_path):
    import finetune_generation
    from tests.helpers.runs import SMALL

    flags = [*SMALL, "--do_train", "--max_steps", "1", "--disable_tqdm", "True", "--output_dir", str(tmp_path)]
    finetune_generation.main([*flags, "--save_steps", "1"])
    kinds = {path.suffix for path in tmp_path.rglob("*") if path.is_file() and "runs" not in path.parts}
    assert kinds == {".safetensors", ".json", ".jsonl", ".model", ".png"}
