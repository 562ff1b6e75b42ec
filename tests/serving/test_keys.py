"""Who may ask a server that has keys."""

import pytest

from glm.errors import UserError
from glm.serving.keys import VARIABLE, Keys, keys_of


@pytest.fixture(autouse=True)
def no_key_in_the_environment(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def test_a_key_is_allowed_as_it_is_and_nothing_else():
    keys = Keys(["first-key-1", "second-key"])
    right = [f"{scheme} {key}" for scheme in ("Bearer", "bearer") for key in ("first-key-1", "second-key")]
    assert all(map(keys.allow, right))
    wrong = [None, "", "Bearer", "Bearer ", "Bearer first-key", "Bearer first-key-12", "first-key-1"]
    wrong += ["Basic first-key-1", "Bearer first-key-1 second-key", "Bearer \udce4\xff", "Bearer FIRST-KEY-1"]
    assert not any(map(keys.allow, wrong))


def test_keys_are_nowhere_to_be_read():
    keys = Keys(["first-key-1"])
    assert "first" not in repr(vars(keys))


def test_keys_come_from_a_file_and_from_the_environment(tmp_path, monkeypatch):
    assert keys_of(None) is None
    path = tmp_path / "keys"
    path.write_text("# of the page\nkey-of-the-page\n\n  key-of-a-script  \n")
    monkeypatch.setenv(VARIABLE, "key-of-the-environment")
    keys = keys_of(path)
    allowed = [keys.allow(f"Bearer {key}") for key in ("key-of-the-page", "key-of-a-script", "key-of-the-environment")]
    assert allowed == [True] * 3
    assert not keys.allow("Bearer # of the page")
    assert keys_of(None).allow("Bearer key-of-the-environment")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no key in it"),
        (b"# none\n", "no key in it"),
        (b"short\n", "at least 8 ASCII characters"),
        (b"two words here\n", "without spaces"),
        ("中文的钥匙也不行的\n".encode(), "ASCII"),
        (b"\xff\xfe\xff\xfe", "not UTF-8"),
    ],
)
def test_a_file_without_usable_keys_is_refused(content, message, tmp_path):
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(UserError, match=message):
        keys_of(tmp_path / "keys")
    with pytest.raises(UserError, match="No such file"):
        keys_of(tmp_path / "other")
