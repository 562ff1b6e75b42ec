"""The documents tell the truth: both languages agree, flags and defaults exist, tables are those of the code."""

import dataclasses
import enum
import importlib
import re
import shlex
import sys
from functools import cache

import pytest

from glm import command_line
from glm.data import templates
from tests.helpers import ROOT

sys.path.insert(0, str(ROOT / "docs"))
import make_parameters

READMES = ("README.md", "README_en.md")
PAGES = sorted(path.name for path in (ROOT / "docs" / "zh").glob("*.md"))
# In Chinese and in English.
PAIRS = [READMES, *((f"docs/zh/{name}", f"docs/en/{name}") for name in PAGES)]
DOCUMENTS = [name for pair in PAIRS for name in pair]
PARAMETERS = ("docs/zh/parameters.md", "docs/en/parameters.md")
FINETUNE = {"qg": "finetune_generation.py", "instruction": "finetune_instruction_generation.py"}
SCRIPTS = (*FINETUNE.values(), "export_generation_model.py", "infer_generation.py", "predict_generation.py")
SCRIPTS += ("serve_generation.py", "generate_pairs.py")
REQUIRED = ("必填", "required")


class Parsed(Exception):
    """A script has told which dataclasses its flags come from."""


@cache
def flags(script):
    """{flag: dataclass field} of a script, from what its main() hands to command_line.parse."""
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
    """[(scripts, {flag: default as written})] of the tables marked by <!-- parameters: scripts -->."""
    tables = re.findall(r"<!-- parameters: (.+) -->\n\|.*\n\|[-|]+\n((?:\|.*\n)+)", text)
    return [
        (scripts.split(), dict(re.findall(r"^\| `(\w+)` \| `?(.+?)`? \|", rows, re.MULTILINE)))
        for scripts, rows in tables
    ]


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
    return written == (str(default) or '""')


def test_every_page_is_there_in_both_languages():
    assert sorted(path.name for path in (ROOT / "docs" / "en").glob("*.md")) == PAGES


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0])
def test_both_languages_have_the_same_sections_commands_and_tables(pair):
    chinese, english = map(text_of, pair)
    assert headings(chinese) == headings(english)
    assert code_blocks(chinese, "bash") == code_blocks(english, "bash")
    comments = [re.findall(r"<!-- .*? -->", text) for text in (chinese, english)]
    assert comments[0] == comments[1]
    rows = [re.findall(r"^\|", prose(text), re.MULTILINE) for text in (chinese, english)]
    assert len(rows[0]) == len(rows[1])


def test_the_front_door_is_short():
    assert all(text_of(readme).count("\n") <= 300 for readme in READMES)
    assert text_of("CONTRIBUTING.md").count("\n") <= 150


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_are_accepted_by_their_scripts(document, monkeypatch):
    monkeypatch.chdir(ROOT)
    for command in commands(text_of(document)):
        assert all((ROOT / word).is_file() for word in command if word.endswith(".py")), command
        if not scripts_of(command):
            continue
        (launched,) = (number for number, word in enumerate(command) if word.endswith(".py"))
        script, *words = command[launched:]
        classes = dict.fromkeys(cls for cls, _ in flags(script).values())
        # For ranks that are not here, a command can be planned.
        planned = ["--dry_run"] if script in FINETUNE.values() else []
        if "--print_config" in words:
            place = words.index("--print_config")
            del words[place : place + 2]
        assert len(command_line.parse(tuple(classes), [*words, *planned])) == len(classes)


def scripts_of(command):
    """The script that a command runs, as a list; none where it runs something else."""
    return [word for word in command if word in SCRIPTS] if command[0] == "python" else []


@pytest.mark.parametrize("readme", READMES)
def test_the_readme_shows_every_script(readme):
    assert {script for command in commands(text_of(readme)) for script in scripts_of(command)} == set(SCRIPTS)


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if "parameters" not in name])
def test_flags_in_the_text_exist_somewhere(document):
    known = set().union(*(flags(script) for script in SCRIPTS))
    known |= {spec.metadata.get("alias") for script in SCRIPTS for _, spec in flags(script).values()}
    mentioned = set(re.findall(r"(?<![\w-])--(\w+)", prose(text_of(document))))
    # Those of glm.metrics, glm.weights and glm.pairs, which have no dataclasses.
    known |= {"help", "print_config", "numbers", "references", "bootstrap", "judge_model", "format", "to"}
    assert mentioned - known - {"without_passage"} == set()


def test_pages_of_parameters_are_those_of_the_code():
    texts = make_parameters.read_texts()
    for language in make_parameters.LANGUAGES:
        page = text_of(f"docs/{language}/parameters.md")
        assert page == make_parameters.page(language, texts), "run make docs"
    assert make_parameters.superfluous(texts) == []


def test_pages_of_parameters_are_made_of_what_the_scripts_parse():
    for script, classes in make_parameters.classes_by_script().items():
        assert set(classes) == {cls for cls, _ in flags(script).values()}, script


@pytest.mark.parametrize("document", PARAMETERS)
def test_parameter_tables_state_the_defaults_of_the_code(document):
    tables = parameter_tables(text_of(document))
    assert len(tables) == text_of(document).count("<!-- parameters: ")
    for scripts, rows in tables:
        for name, written in rows.items():
            for script in scripts:
                assert name in flags(script), f"{script} has no --{name}"
                default = default_of(flags(script)[name][1])
                assert says(written, default), f"{document}: {script} --{name} is {default!r}, not {written}"


@pytest.mark.parametrize("document", PARAMETERS)
def test_parameter_tables_leave_none_of_our_own_flags_out(document):
    for script in SCRIPTS:
        described = set().union(*(rows for scripts, rows in parameter_tables(text_of(document)) if script in scripts))
        assert {name for name, (cls, _) in flags(script).items() if name in own_fields(cls)} <= described, script


def own_fields(cls):
    """Names of the fields that a dataclass of this project declares itself, not those of a paddlenlp parent."""
    return set(cls.__annotations__)


@pytest.mark.parametrize("document", [*DOCUMENTS, "CONTRIBUTING.md", "BENCHMARKS.md"])
def test_files_that_documents_name_exist(document):
    text, folder = text_of(document), (ROOT / document).parent
    links = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if not target.startswith("http")]
    for target in links:
        assert (folder / target).is_file(), target
    for name in re.findall(r"(?<![\w/.-])((?:\w+/)*\w+\.py)\b", text):
        assert any((ROOT / place / name).is_file() for place in (".", "demo", "tests", "benchmarks")), name


def test_the_template_stands_on_both_pages_about_data_byte_for_byte():
    template = templates.QUESTION_BEFORE + "{context}" + templates.QUESTION_AFTER + "\n"
    for page in ("docs/zh/data.md", "docs/en/data.md"):
        assert template in code_blocks(text_of(page), "text")


def requirements(name):
    """{package: version} that a requirements file pins for our own imports and for what must not float."""
    lines = re.findall(r"^([\w.-]+)==([\w.]+)", text_of(name), re.MULTILINE)
    return {package.lower(): version for package, version in lines}


def test_gpus_need_the_same_packages_but_for_paddle():
    cpu, gpu = requirements("requirements.txt"), requirements("requirements-gpu.txt")
    assert gpu.pop("paddlepaddle-gpu") == cpu.pop("paddlepaddle")
    assert gpu == cpu
