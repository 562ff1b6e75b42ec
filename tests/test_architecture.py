"""The rooms: who may import whom, in what order, and where there is no paddle. CONTRIBUTING.md has the map."""

import ast
import re
import subprocess
import sys

import pytest

from tests.helpers import ROOT

SCRIPTS = ("finetune_generation", "finetune_instruction_generation", "export_generation_model")
SCRIPTS += ("infer_generation", "predict_generation", "serve_generation", "generate_pairs")
ROOMS = sorted(path.parent.name for path in (ROOT / "glm").glob("*/__init__.py"))
# What FastDeploy's process and --help import: no paddle, not even through what it imports itself.
WITHOUT_PADDLE = ("data", "files", "inference", "pairs")
WITHOUT_PADDLE_TOO = (
    "decoding.generation_config",
    "export.program",
    "export.runners",
    "parallel.hub",
    "parallel.sharding",
)
WITHOUT_PADDLE_TOO += ("weights.resharding", "weights.builtin_model", "serving.requests", "serving.engine")


def known_rooms():
    """{room: rooms that it may import from} of CONTRIBUTING.md's table, the highest first."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf8")
    rows = re.findall(r"^\| `glm/(\w+)/` \|[^|]*\| (.*) \|$", text, re.MULTILINE)
    return {room: set(re.findall(r"\w+", known)) for room, known in rows}


def modules(room):
    """Names of a room's modules."""
    return {path.stem for path in (ROOT / "glm" / room).glob("*.py")} - {"__init__", "__main__"}


def imported(path):
    """Dotted names of all that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports of glm are written in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_of_glm(path):
    """[("room", "module")] or [("module",)] of what a file imports from glm/."""
    return [tuple(name.split(".")[1:3]) for name in imported(path) if name.startswith("glm.")]


def test_the_map_has_every_room_and_points_downwards():
    assert sorted(known_rooms()) == ROOMS
    order = list(known_rooms())
    for room, known in known_rooms().items():
        assert known <= set(order[order.index(room) + 1 :]), room


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_from_the_rooms_of_its_row_and_from_each_of_them(room):
    found = {names[0] for path in (ROOT / "glm" / room).glob("*.py") for names in imports_of_glm(path)}
    assert found & set(ROOMS) - {room} == known_rooms()[room]


@pytest.mark.parametrize("room", ROOMS)
def test_a_rooms_docstring_lists_its_modules_from_the_lowest_up(room):
    docstring = ast.get_docstring(ast.parse((ROOT / "glm" / room / "__init__.py").read_text(encoding="utf8")))
    listed = re.findall(r"^(\w+) {2,}\S", docstring, re.MULTILINE)
    assert set(listed) == modules(room)
    assert len(listed) == len(set(listed))
    for name in listed:
        for names in imports_of_glm(ROOT / "glm" / room / f"{name}.py"):
            if names[0] == room and names[1] in listed:
                assert listed.index(names[1]) < listed.index(name), f"{name} imports {names[1]}"


def test_a_rooms_init_holds_a_docstring_alone():
    for path in (ROOT / "glm").rglob("__init__.py"):
        (only,) = ast.parse(path.read_text(encoding="utf8")).body
        assert isinstance(only, ast.Expr), path


def test_modules_at_the_top_of_the_library_know_no_room():
    for path in (ROOT / "glm").glob("*.py"):
        # The command line of glm.metrics scores files of pairs, too.
        known = {"pairs"} if path.stem == "metrics" else set()
        assert not {names[0] for names in imports_of_glm(path)} & set(ROOMS) - known, path


def test_the_library_knows_nothing_of_the_root():
    for path in (ROOT / "glm").rglob("*.py"):
        assert not {name.split(".")[0] for name in imported(path)} & {*SCRIPTS, "data", "utils"}, path


def test_the_root_holds_the_scripts_and_what_they_share():
    assert {path.stem for path in ROOT.glob("*.py")} == {*SCRIPTS, "data", "utils"}


def test_there_is_no_paddle_where_there_must_be_none():
    names = [f"glm.{room}.{name}" for room in WITHOUT_PADDLE for name in sorted(modules(room))]
    names += [f"glm.{name}" for name in WITHOUT_PADDLE_TOO]
    names += [f"glm.{path.stem}" for path in (ROOT / "glm").glob("*.py") if path.stem != "__init__"]
    names += [name for name in SCRIPTS if not name.startswith("finetune")]
    code = f"import glm.runtime, sys, {', '.join(names)}; print({{'paddle', 'paddlenlp'}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_no_file_is_over_420_lines_and_no_function_over_60():
    folders = ("glm", "tests", "benchmarks", "demo")
    for path in [*ROOT.glob("*.py"), *(path for name in folders for path in (ROOT / name).rglob("*.py"))]:
        text = path.read_text(encoding="utf8")
        assert text.count("\n") <= 420, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"
