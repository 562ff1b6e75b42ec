"""Models by name: found in the caches that others keep, whole or not at all, or fetched as the environment says."""

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from glm.files import archives
from glm.weights import builtin_model, model_directory, published
from glm.weights.weight_sources import ModelError
from tests.helpers import ROOT

NAME = "THUDM/glm-large-chinese"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "MODELSCOPE_CACHE")
VARIABLES += ("PPNLP_HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home without caches."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def hub(root, name=NAME, commit=COMMIT):
    """A snapshot of the built-in model in a cache of Hugging Face: links to blobs."""
    repository = root / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for path in builtin_model.build().iterdir():
        shutil.copy(path, repository / "blobs" / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    return snapshot


def plain(directory):
    """A copy of the built-in model."""
    return Path(shutil.copytree(builtin_model.build(), directory))


PLACES = {
    "hugging face": ({}, lambda home: hub(home / ".cache" / "huggingface" / "hub")),
    "HF_HOME": ({"HF_HOME": "~/hf"}, lambda home: hub(home / "hf" / "hub")),
    "HF_HUB_CACHE": ({"HF_HUB_CACHE": "{}/a", "HF_HOME": "{}/b"}, lambda home: hub(home / "a")),
    "HUGGINGFACE_HUB_CACHE": ({"HUGGINGFACE_HUB_CACHE": "{}/a"}, lambda home: hub(home / "a")),
    "XDG_CACHE_HOME": ({"XDG_CACHE_HOME": "{}/x"}, lambda home: hub(home / "x" / "huggingface" / "hub")),
    "modelscope": ({}, lambda home: plain(home / ".cache/modelscope/hub" / NAME)),
    "newer modelscope": ({}, lambda home: plain(home / ".cache/modelscope/hub/models" / NAME)),
    "its own name": ({}, lambda home: plain(home / ".cache/modelscope/hub/ZhipuAI/glm-large-chinese")),
    "MODELSCOPE_CACHE": ({"MODELSCOPE_CACHE": "{}/m"}, lambda home: plain(home / "m/models" / NAME)),
    "paddlenlp": ({}, lambda home: plain(home / ".paddlenlp/models" / NAME)),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_model_is_found_where_others_keep_it(home, monkeypatch, capsys, place):
    variables, make = PLACES[place]
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(home))
    expected = make(home)
    assert model_directory.resolve(NAME) == expected
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{NAME}: taken from ")
    assert line.endswith(str(expected))
    assert model_directory.load_model(NAME).config.hidden_size == builtin_model.CONFIG["hidden_size"]


def test_any_model_of_these_caches_has_a_name(home, capsys):
    directory = plain(home / ".cache/modelscope/hub/somebody/my-glm-1___5")
    assert model_directory.resolve("somebody/my-glm-1.5") == directory
    snapshot = hub(home / ".cache" / "huggingface" / "hub", "somebody/my-glm-1.5")
    assert model_directory.resolve("somebody/my-glm-1.5") == snapshot
    assert "Hugging Face's cache" in capsys.readouterr().err


def test_a_directory_of_that_name_comes_first(home, tmp_path, capsys):
    hub(home / ".cache" / "huggingface" / "hub")
    plain(tmp_path / NAME)
    assert model_directory.resolve(NAME) == Path(NAME)
    assert capsys.readouterr().err == ""


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
SPOILED = {
    "no weights": lambda path: (path / "model.safetensors").unlink(),
    "a pointer": lambda path: rewrite(path / "model.safetensors", POINTER),
    "half of the weights": lambda path: rewrite(path / "model.safetensors", b"{}"),
    "no tokenizer": lambda path: (path / "cog-pretrain.model").unlink(),
    "no configuration": lambda path: (path / "config.json").unlink(),
    "another model": lambda path: rewrite(path / "config.json", b'{"model_type": "chatglm"}'),
    "a part that is missing": lambda path: (
        (path / "model.safetensors").rename(path / "x.safetensors")
        and rewrite(path / "model.safetensors.index.json", b'{"weight_map": {"a": "b.safetensors"}}')
    ),
}


def rewrite(path, content):
    path.unlink(missing_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize("how", SPOILED)
def test_what_is_not_whole_is_passed_over(home, monkeypatch, capsys, how):
    snapshot = hub(home / ".cache" / "huggingface" / "hub")
    SPOILED[how](snapshot)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError) as refused:
        model_directory.resolve(NAME)
    assert "Hugging Face's cache has one that cannot be used" in str(refused.value)
    assert str(snapshot) in str(refused.value)
    whole = plain(home / ".paddlenlp/models" / NAME)
    assert model_directory.resolve(NAME) == whole
    assert "PaddleNLP's cache" in capsys.readouterr().err


def test_a_dangling_link_and_an_unknown_commit_are_not_whole(home, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    snapshot = hub(home / ".cache" / "huggingface" / "hub")
    (snapshot.parents[1] / "blobs" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights there"):
        model_directory.resolve(NAME)
    for commit in ("../../../elsewhere", "", "f" * 40):
        (snapshot.parents[1] / "refs" / "main").write_text(commit)
        with pytest.raises(ModelError, match="is in no cache"):
            model_directory.resolve(NAME)


@pytest.mark.parametrize("name", ["../secret/model", "a/../b", "a/b/c", "/etc/nowhere", "a", "", "a/.b", "~/x"])
def test_a_name_leads_nowhere_else(home, name):
    with pytest.raises(ModelError) as refused:
        model_directory.resolve(name or "nothing")
    assert "no such directory" in str(refused.value)
    assert "huggingface-cli" not in str(refused.value)


def test_what_is_missing_is_told_with_the_commands_that_fetch_it(home, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, modelscope in ((NAME, "ZhipuAI/glm-large-chinese"), ("somebody/my-glm", "somebody/my-glm")):
        with pytest.raises(ModelError) as refused:
            model_directory.resolve(name)
        told = str(refused.value)
        assert f"`huggingface-cli download {name}`" in told
        assert f"`modelscope download --model {modelscope}`" in told
        assert f"GLMForConditionalGeneration.from_pretrained('{name}')" in told
        assert len(told.splitlines()) == 1
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ModelError) as refused:
        model_directory.resolve("checkpoints/run")
    # A slip in a path, no name.
    assert "huggingface-cli" not in str(refused.value)


def test_the_line_of_paddlenlp_is_one_that_python_understands():
    command = published.commands(NAME).split("`")[5]
    line = command.removeprefix('python -c "').removesuffix('"')
    compile(line, "line", "exec")
    from paddlenlp import transformers

    for kind in ("GLMChineseTokenizer", "GLMForConditionalGeneration"):
        assert hasattr(getattr(transformers, kind), "from_pretrained")
        assert f"{kind}.from_pretrained" in line
        assert kind in transformers.__dict__


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_nothing_is_downloaded(home, monkeypatch, variable):
    from paddle.utils import download

    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(published, "download", lambda *_, **__: pytest.fail("tried to download"))
    with pytest.raises(ModelError, match="forbids"):
        model_directory.resolve(NAME)
    assert model_directory.preview(NAME)[1] is None
    with archives.contained_archives(), pytest.raises(archives.OfflineError):
        download.get_path_from_url("http://127.0.0.1:9/data.json", str(home))


class Hub(BaseHTTPRequestHandler):
    """A hub of one model, and a proxy that takes whatever host is asked of it for that hub."""

    def log_message(self, *_):
        pass

    def answer(self, with_body):
        self.server.asked.append((self.command, self.path, self.headers["Host"]))
        path = self.path.split("?")[0]
        path = "/" + path.split("/", 3)[3] if path.startswith("http") else path
        model = builtin_model.build()
        files = [item for item in model.iterdir() if item.is_file() and not item.name.startswith(".")]
        content = None
        if path.startswith(f"/api/models/{NAME}"):
            siblings = [{"rfilename": item.name} for item in files] + [{"rfilename": "modeling_glm.py"}]
            content = json.dumps({"id": NAME, "sha": COMMIT, "siblings": siblings}).encode()
        elif path.startswith(f"/{NAME}/resolve/"):
            content = (model / path.split("/")[-1]).read_bytes()
        self.send_response(200 if content is not None else 404)
        content = content or b""
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{abs(hash(path))}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def do_GET(self):
        self.answer(True)

    def do_HEAD(self):
        self.answer(False)

    def do_CONNECT(self):
        self.server.asked.append((self.command, self.path, self.headers["Host"]))
        self.send_error(403)


@pytest.fixture
def server():
    """A Hub on this machine."""
    running = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    running.asked = []
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def located(home, **variables):
    """Have a process of its own locate the model; libraries read the environment when they are imported."""
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment |= {"HOME": str(home), "PPNLP_HOME": str(home / ".paddlenlp"), **variables}
    program = (
        "import glm.runtime, sys; from glm.errors import one_line_errors; from glm.weights import model_directory\n"
    )
    program += f"with one_line_errors(): print(model_directory.resolve({NAME!r}))"
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("by_proxy", [False, True])
def test_hf_endpoint_is_where_models_are_fetched_and_proxies_are_how(home, server, by_proxy):
    address = f"http://127.0.0.1:{server.server_port}"
    variables = {"HF_ENDPOINT": address}
    if by_proxy:
        variables = {"HF_ENDPOINT": "http://hub.invalid", "http_proxy": address, "no_proxy": "elsewhere.invalid"}
    done = located(home, **variables)
    assert done.returncode == 0, done.stderr
    snapshot = home / ".cache/huggingface/hub" / f"models--{NAME.replace('/', '--')}" / "snapshots" / COMMIT
    assert done.stdout.splitlines()[-1] == str(snapshot)
    assert (snapshot / "model.safetensors").read_bytes() == (builtin_model.build() / "model.safetensors").read_bytes()
    assert not any("modeling_glm.py" in path for _, path, _ in server.asked)
    assert {host for _, _, host in server.asked} == ({"hub.invalid"} if by_proxy else {address.removeprefix("http://")})
    asked = len(server.asked)
    # The next time it is in the cache.
    assert located(home, **variables, HF_HUB_OFFLINE="1").stdout.splitlines()[-1] == str(snapshot)
    assert len(server.asked) == asked


def test_paddlenlps_server_is_asked_through_the_proxy_too(home, server):
    done = located(home, https_proxy=f"http://127.0.0.1:{server.server_port}")
    assert done.returncode == 2
    assert {command for command, _, _ in server.asked} == {"CONNECT"}
    assert all(path.endswith("bcebos.com:443") for _, path, _ in server.asked)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "could not be downloaded (OSError)" in line
    assert "huggingface-cli download" in line


def test_no_proxy_keeps_a_host_from_the_proxy(home, server):
    address = f"http://127.0.0.1:{server.server_port}"
    done = located(home, HF_ENDPOINT=address, http_proxy="http://127.0.0.1:9", no_proxy="127.0.0.1")
    assert done.returncode == 0, done.stderr
