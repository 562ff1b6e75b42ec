"""What makes a server safe to leave on: certificates, origins of pages, a word where anybody may ask."""

import asyncio
import re
import ssl
import subprocess

import httpx
import pytest

import serve_generation
from tests.helpers.served import Served

MODEL = ["--model_name_or_path", "glm-tiny-chinese", "--tgt_length", "8", "--src_length", "64"]
PAGE = "https://app.example"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Files of a certificate of this machine's and of its key."""
    directory = tmp_path_factory.mktemp("certificate")
    files = directory / "cert.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-out", files[0], "-keyout", files[1]]
    subprocess.run(command, check=True, capture_output=True)
    return files


def test_with_a_certificate_the_server_speaks_https(certificate, monkeypatch):
    trusted = ssl.create_default_context(cafile=certificate[0])
    get = httpx.get
    monkeypatch.setattr(httpx, "get", lambda url, **more: get(url, verify=trusted, **more))
    with Served(*MODEL, "--ssl_certfile", certificate[0], "--ssl_keyfile", certificate[1]) as server:
        assert server.url.startswith("https://127.0.0.1:")
        answer = httpx.post(f"{server.url}/generate", json={"source": "你好"}, verify=trusted)
        assert answer.status_code == 200
        with pytest.raises(httpx.HTTPError):
            get(server.url.replace("https", "http") + "/healthz")


@pytest.mark.parametrize(
    "flags", [["--ssl_certfile", "{key}"], ["--ssl_certfile", "{cert}"], ["--ssl_certfile", "/none"]]
)
def test_what_is_no_certificate_is_told_in_one_line(flags, certificate, capsys):
    flags = [flag.format(cert=certificate[0], key=certificate[1]) for flag in flags]
    with pytest.raises(SystemExit) as ended:
        serve_generation.main([*MODEL, *flags])
    assert ended.value.code == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert re.match(r"error: --ssl_certfile \S+: no certificate with its key", line)


def asked(server, method, path="/generate", **headers):
    headers = {"Origin": PAGE, **headers}
    return httpx.request(
        method, server.url + path, headers=headers, json={"source": "你好"} if method == "POST" else None
    )


def test_pages_of_other_origins_may_ask_where_the_operator_says_so():
    ahead = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,authorization"}
    with Served(*MODEL, "--allowed_origins", PAGE) as server:
        allowed = asked(server, "OPTIONS", **ahead)
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, PAGE)
        assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
        answer = asked(server, "POST")
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, PAGE)
        assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
        other = asked(server, "POST", Origin="https://evil.example")
        assert (other.status_code, "access-control-allow-origin" in other.headers) == (403, False)
        assert (
            "access-control-allow-origin"
            not in asked(server, "OPTIONS", **ahead, Origin="https://evil.example").headers
        )
    with Served(*MODEL) as server:
        assert asked(server, "POST").status_code == 403
        assert "access-control-allow-origin" not in asked(server, "OPTIONS", **ahead).headers


def test_an_origin_without_a_scheme_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        serve_generation.main([*MODEL, "--port", "0", "--allowed_origins", "app.example"])
    assert ended.value.code == 2
    assert "--allowed_origins app.example: an origin has a scheme" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "flags", "warned"),
    [("0.0.0.0", [], True), ("127.0.0.1", [], False), ("0.0.0.0", ["--api_key_file"], False)],
)
def test_a_server_that_anybody_may_use_says_so(host, flags, warned, tmp_path, monkeypatch, capsys):
    (tmp_path / "keys").write_text("a-key-for-tests\n")
    # Everything but the serving itself.
    monkeypatch.setattr(asyncio, "run", lambda serving: serving.close())
    monkeypatch.setattr(serve_generation, "leave_safely", lambda engine: None)
    serve_generation.main(
        [*MODEL, "--host", host, "--port", "0", *(flag for name in flags for flag in (name, str(tmp_path / "keys")))]
    )
    said = capsys.readouterr()
    assert ("anybody who reaches this machine may use the model" in said.err) == warned
    assert said.out.startswith("serving on http://")
