"""Every number that a flag takes has bounds, in every script, before anything is loaded; the server's requests have the
same."""

import json
import math
import typing

import pytest
from pydantic import ValidationError

from glm.bounds import NUMBERS, SMALLEST, Bounds
from glm.command_line import FieldKind, hidden_names, parse
from glm.data.templates import TEMPLATES
from glm.serving import schemas
from tests.docs.test_pages import SCRIPTS, flags

ALL_FLAGS = [
    (script, name, cls, kind)
    for script in SCRIPTS
    for name, (cls, spec) in flags(script).items()
    for kind in [FieldKind.of(spec, typing.get_type_hints(cls)[name])]
    if kind.type in (int, float)
]
FLAGS = [flag for flag in ALL_FLAGS if flag[1] not in hidden_names(flag[2])]
# Flags of paddlenlp's, which differ from stack to stack.
HIDDEN = [flag for flag in ALL_FLAGS if flag not in FLAGS]


def outside(bounds, kind):
    """Numbers of a type that bounds do not allow."""
    step = 1 if kind is int else 1e-3
    yield bounds.least if bounds.above else bounds.least - step
    yield bounds.most if bounds.below else bounds.most + step
    yield from (10**30, -(10**30))
    if kind is float:
        yield from (math.nan, math.inf, -math.inf, 1e-45)


@pytest.mark.parametrize(("script", "name", "cls", "kind"), FLAGS, ids=lambda part: str(part)[:40])
def test_numbers_out_of_bounds_are_refused_in_one_line(tmp_path, capsys, script, name, cls, kind):
    classes = tuple({owner for owner, _ in flags(script).values()})
    for number in outside(NUMBERS[name], kind.type):
        (tmp_path / "config.json").write_text(json.dumps({name: number}), encoding="utf8")
        for arguments in ([f"--{name}={number}"], [str(tmp_path / "config.json")]):
            with pytest.raises(SystemExit) as ended:
                parse(classes, arguments)
            assert ended.value.code == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert f"{name} is " in line
            assert "it must be" in line


@pytest.mark.parametrize(("script", "name", "cls", "kind"), HIDDEN, ids=lambda part: str(part)[:40])
def test_numbers_that_nothing_acts_on_are_refused_in_one_line(tmp_path, capsys, script, name, cls, kind):
    classes = tuple({owner for owner, _ in flags(script).values()})
    for number in (-7, 7, 10**30):
        with pytest.raises(SystemExit) as ended:
            parse(classes, [f"--{name}={number}", "--output_dir", str(tmp_path)])
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert name in line


def test_defaults_are_within_bounds():
    for script, name, _, kind in FLAGS:
        default = flags(script)[name][1].default
        assert default is None or kind.bounds.hold(default), (script, name)


@pytest.mark.parametrize("name", schemas.KINDS)
def test_requests_have_the_bounds_of_the_flags(name):
    bounds, kind = NUMBERS[name], schemas.KINDS[name]
    model = schemas.generate_request(TEMPLATES)
    for number in outside(bounds, kind):
        with pytest.raises(ValidationError) as refused:
            model.model_validate({name: number})
        told, field = schemas.message_of(refused.value.errors(), model)
        assert (field, str(bounds) in told, told.startswith(name)) == (name, True, True)
    assert getattr(model.model_validate({name: kind(bounds.least)}), name) == bounds.least


@pytest.mark.parametrize(
    ("bounds", "number", "allowed"),
    [
        (Bounds(0, 1), 0, True),
        (Bounds(0, 1), 1.0, True),
        (Bounds(0, 1, above=True), 0, False),
        (Bounds(0, 1, below=True), 1, False),
        (Bounds(0, 1), SMALLEST, True),
        (Bounds(0, 1), SMALLEST / 2, False),
        (Bounds(-1, 1), -SMALLEST / 2, False),
        (Bounds(0, 1), math.nan, False),
    ],
)
def test_bounds_hold(bounds, number, allowed):
    assert bounds.hold(number) == allowed


def test_bounds_in_words():
    assert str(Bounds(0, 1, above=True)) == "above 0 and at most 1"
    assert str(Bounds(1, 2**40)) == "at least 1 and at most 2^40"
    assert str(Bounds(0, 86_400, below=True)) == "at least 0 and below 86,400"
