"""The documents tell the truth: both READMEs agree, flags and defaults exist, the map is that of the code."""

import ast
import dataclasses
import enum
import importlib
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

import arguments

ROOT = Path(__file__).resolve().parents[1]
READMES = ("README.md", "README_en.md")
FINETUNE = {"qg": "finetune_generation.py", "instruction": "finetune_instruction_generation.py"}
SCRIPTS = (*FINETUNE.values(), "export_generation_model.py", "infer_generation.py", "predict_generation.py")
SCRIPTS += ("serve_generation.py",)
REQUIRED = ("必填", "required")


class Parsed(Exception):
    """A script has told which dataclasses its flags come from."""


@cache
def flags(script):
    """{flag: dataclass field} of a script, from what its main() hands to arguments.parse."""
    module = importlib.import_module(script.removesuffix(".py"))
    stated = []

    def record(classes, argv=None, description=None):
        stated.extend(classes)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "parse", record)
        with pytest.raises(Parsed):
            module.main([])
    return {spec.name: (cls, spec) for cls in stated for spec in dataclasses.fields(cls) if spec.init}


def text_of(name):
    return (ROOT / name).read_text(encoding="utf8")


def code_blocks(text, language):
    """Contents of the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def prose(text):
    """A Markdown text without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def headings(text):
    return [len(level) for level in re.findall(r"^(#+) ", prose(text), re.MULTILINE)]


def commands(text):
    """The commands of all bash blocks, each as a list of words."""
    return [
        shlex.split(line)
        for block in code_blocks(text, "bash")
        for line in block.replace("\\\n", " ").splitlines()
        if line.strip()
    ]


def parameter_tables(text):
    """[(script, {flag: default as written})] of the tables marked by <!-- parameters: script -->."""
    tables = re.findall(r"<!-- parameters: (\S+) -->\n\|.*\n\|[-|]+\n((?:\|.*\n)+)", text)
    return [(script, dict(re.findall(r"^\| `(\w+)` \| `?(.+?)`? \|", rows, re.MULTILINE))) for script, rows in tables]


def default_of(spec):
    """Default of a dataclass field, MISSING if it must be given."""
    default = spec.default if spec.default_factory is dataclasses.MISSING else spec.default_factory()
    return default.value if isinstance(default, enum.Enum) else default


def says(written, default):
    """Whether a table's text stands for a default."""
    if default is dataclasses.MISSING:
        return written in REQUIRED
    if isinstance(default, float):
        return float(written) == default
    return written == str(default)


def test_both_readmes_have_the_same_sections_commands_and_tables():
    chinese, english = map(text_of, READMES)
    assert headings(chinese) == headings(english)
    assert code_blocks(chinese, "bash") == code_blocks(english, "bash")
    comments = [re.findall(r"<!-- .*? -->", text) for text in (chinese, english)]
    assert comments[0] == comments[1]
    rows = [re.findall(r"^\|", prose(text), re.MULTILINE) for text in (chinese, english)]
    assert len(rows[0]) == len(rows[1])


@pytest.mark.parametrize("readme", READMES)
def test_commands_are_accepted_by_their_scripts(readme, monkeypatch):
    monkeypatch.chdir(ROOT)
    shown = set()
    for command in commands(text_of(readme)):
        if command[0] != "python":
            continue
        launched = next(number for number, word in enumerate(command) if word.endswith(".py"))
        script, *words = command[launched:]
        assert (ROOT / script).is_file(), script
        shown.add(script)
        if script in SCRIPTS:
            classes = dict.fromkeys(cls for cls, _ in flags(script).values())
            # For ranks that are not here, a command can be planned.
            planned = ["--dry_run"] if script in FINETUNE.values() else []
            if "--print_config" in words:
                place = words.index("--print_config")
                del words[place : place + 2]
            arguments.parse(tuple(classes), [*words, *planned])
    assert set(SCRIPTS) <= shown


@pytest.mark.parametrize("readme", READMES)
def test_flags_in_the_text_exist_somewhere(readme):
    known = set().union(*(flags(script) for script in SCRIPTS))
    known |= {spec.metadata.get("alias") for script in SCRIPTS for _, spec in flags(script).values()}
    mentioned = set(re.findall(r"(?<![\w-])--(\w+)", prose(text_of(readme))))
    assert mentioned
    assert (
        mentioned - known - {"help", "print_config", "numbers", "format"} == set()
    )  # metrics.py's and checkpoint.py's


@pytest.mark.parametrize("readme", READMES)
def test_parameter_tables_state_the_defaults_of_the_code(readme):
    tables = parameter_tables(text_of(readme))
    assert len(tables) == text_of(readme).count("<!-- parameters: ")
    for script, rows in tables:
        assert len(rows) > 5
        for name, written in rows.items():
            assert name in flags(script), f"{script} has no --{name}"
            default = default_of(flags(script)[name][1])
            assert says(written, default), f"{readme}: {script} --{name} is {default!r}, not {written}"


@pytest.mark.parametrize("readme", READMES)
def test_parameter_tables_leave_none_of_our_own_flags_out(readme):
    shared = {cls for cls, _ in flags(FINETUNE["qg"]).values()}
    for script in {script for script, _ in parameter_tables(text_of(readme))}:
        described = set().union(*(rows for name, rows in parameter_tables(text_of(readme)) if name == script))
        # What both finetune scripts have is described once.
        elsewhere = shared if script == FINETUNE["instruction"] else set()
        ours = {name for name, (cls, _) in flags(script).items() if name in own_fields(cls) and cls not in elsewhere}
        assert ours <= described, script


def own_fields(cls):
    """Names of the fields that a dataclass of this project declares itself, not those of a paddlenlp parent."""
    return set(cls.__annotations__)


@pytest.mark.parametrize("document", [*READMES, "CONTRIBUTING.md", "BENCHMARKS.md", "docs/scaling.md"])
def test_files_that_documents_name_exist(document):
    text = text_of(document)
    links = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if not target.startswith("http")]
    named = re.findall(r"(?<![\w/.-])((?:\w+/)*\w+\.py)\b", text)
    for name in [*links, *named]:
        assert any((ROOT / folder / name).is_file() for folder in (".", "demo", "tests", "benchmarks")), name


def test_the_template_stands_in_both_readmes_byte_for_byte():
    import templates

    template = templates.QUESTION_BEFORE + "{context}" + templates.QUESTION_AFTER + "\n"
    for readme in READMES:
        assert template in code_blocks(text_of(readme), "text")


def layers():
    """[names of modules] of each layer of CONTRIBUTING.md's map, highest first."""
    section = text_of("CONTRIBUTING.md").split("## The map\n")[1].split("\n## ")[0]
    return [re.findall(r"^\| `(\w+)\.py` ", part, re.MULTILINE) for part in section.split("\n### ")[1:]]


def imported_modules(path):
    """Names of all modules that a file imports, at its top or inside functions."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom)}


def test_the_map_lists_every_module_once():
    listed = [name for layer in layers() for name in layer]
    assert sorted(listed) == sorted(path.stem for path in ROOT.glob("*.py"))


def test_imports_point_downwards_only():
    depth = {name: number for number, layer in enumerate(layers()) for name in layer}
    for name in depth:
        for imported in imported_modules(ROOT / f"{name}.py") & depth.keys():
            assert depth[imported] > depth[name], f"{name} imports {imported}"


def requirements(name):
    """{package: version} that a requirements file pins for our own imports and for what must not float."""
    lines = re.findall(r"^([\w.-]+)==([\w.]+)", text_of(name), re.MULTILINE)
    return {package.lower(): version for package, version in lines}


def test_gpus_need_the_same_packages_but_for_paddle_and_fastdeploy():
    cpu, gpu = requirements("requirements.txt"), requirements("requirements-gpu.txt")
    assert gpu.pop("paddlepaddle-gpu") == cpu.pop("paddlepaddle")
    for package in ("fastdeploy-python", "opencv-python"):
        cpu.pop(package)
    assert gpu == cpu
