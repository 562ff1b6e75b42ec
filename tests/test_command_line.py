"""Command lines and configuration files: what they mean, and that every mistake in them is told in one line."""

import dataclasses
import json
from dataclasses import dataclass
from enum import Enum
from typing import List, Optional, Union  # noqa: UP035  paddlenlp's own dataclasses are written with these

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glm.command_line import UsageError, choice, parse
from glm.errors import one_line_errors
from glm.inference.arguments import DecodingArguments, PromptArguments, to_generation_config


class Pace(Enum):
    """A choice as paddlenlp writes them."""

    SLOW = "slow"
    FAST = "fast"


@dataclass
class Run:
    """A run."""

    output_dir: str
    steps: int = choice(5, "How many; 100% of them.")
    rate: float = choice(0.5, "How fast.")
    resume: bool = choice(False, "Go on.")
    clean: bool = choice(True, "Tidy up.")
    mode: str = choice("near", "Where to.", choices=("near", "far"))
    limit: int = choice(None, "At most.")


@dataclass
class Reports:
    """What is told."""

    report_to: Optional[List[str]] = choice(None, "Who is told.")  # noqa: UP006, UP045
    quiet: Optional[bool] = choice(None, "Tell less.")  # noqa: UP045
    sharding: Union[bool, str] = choice("", "Text, or nothing.")  # noqa: UP007
    pace: Pace = choice(Pace.SLOW, "The pace.")
    sizes: list[int] = dataclasses.field(default_factory=lambda: [1, 2], metadata={"help": "Sizes."})


BOTH = (Run, Reports)
FIELDS = {field.name: field for cls in BOTH for field in dataclasses.fields(cls)}


@pytest.fixture
def config(tmp_path):
    """A function that writes a configuration file, from text or an object, and returns its path."""

    def write(content):
        path = tmp_path / "run.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1), encoding="utf8")
        return str(path)

    return write


def run(*argv):
    """The arguments of a command line whose required flag is given."""
    return parse(BOTH, [*argv, "--output_dir", "out"])


def mistake(capsys, argv, classes=BOTH):
    """The one line that a wrong command line ends with, on stderr, with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        parse(classes, list(argv))
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    return captured.err[len("error: ") : -1]


def test_flags_reach_the_dataclass_that_has_them_and_the_rest_keep_their_defaults():
    first, second = run("--steps", "7", "--pace", "fast", "--mode=far")
    assert first == Run("out", steps=7, mode="far")
    assert second == Reports(pace="fast")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--resume"], True),
        (["--resume", "True"], True),
        (["--resume", "true"], True),
        (["--resume=1"], True),
        (["--resume", "False"], False),
        (["--resume", "no"], False),
        (["--resume", "--steps", "7"], True),
        (["--resume", "--resume", "False"], False),
    ],
)
def test_a_switch_stands_alone_or_takes_a_value(argv, expected):
    assert run(*argv)[0].resume is expected


def test_a_switch_that_is_on_is_turned_off():
    assert run("--clean", "False")[0].clean is False


@pytest.mark.parametrize(
    ("text", "value"), [("-1", -1.0), ("-0.5", -0.5), ("-.5", -0.5), ("-1e-5", -1e-5), ("-2E3", -2e3), ("1e-5", 1e-5)]
)
def test_negative_numbers_are_values_not_flags(text, value):
    assert run("--rate", text)[0].rate == value
    assert run(f"--rate={text}")[0].rate == value


def test_a_value_keeps_what_follows_its_first_equals_sign():
    assert parse((Run,), ["--output_dir=a=b --c"])[0].output_dir == "a=b --c"


@pytest.mark.parametrize("text", ["none", "None", "null"])
def test_none_is_a_value_only_where_a_field_may_be_none(text, capsys, config):
    assert run("--limit", "3", "--limit", text)[0].limit is None
    assert run("--quiet", text)[1].quiet is None
    assert parse(BOTH, [config({"limit": text, "quiet": None, "output_dir": "out"})])[0].limit is None
    assert "--steps is" in mistake(capsys, ["--output_dir", "out", "--steps", text])
    assert "run.json:2: steps is null" in mistake(capsys, [config({"steps": None, "output_dir": "out"})])


def test_lists_take_several_values_and_none_is_an_item_like_any_other(config):
    assert run("--report_to", "a", "b")[1].report_to == ["a", "b"]
    assert run("--report_to", "none")[1].report_to == ["none"]
    assert run("--sizes", "3", "-4")[1].sizes == [3, -4]
    content = {"report_to": ["a", "b"], "sizes": 3, "output_dir": "out"}
    assert parse(BOTH, [config(content)])[1] == Reports(report_to=["a", "b"], sizes=[3])


def test_a_switch_that_may_be_text_is_text():
    assert run("--sharding", "stage1")[1].sharding == "stage1"


def test_flags_override_the_file_and_the_file_the_defaults(config):
    path = config({"steps": 7, "rate": 2, "resume": True, "clean": "no", "output_dir": "there"})
    (arguments,) = parse((Run,), [path, "--steps", "9", "--resume", "False"])
    assert arguments == Run("there", steps=9, rate=2.0, resume=False, clean=False)
    assert type(arguments.rate) is float


def test_argv_defaults_to_the_command_line_of_the_process(monkeypatch):
    monkeypatch.setattr("sys.argv", ["script.py", "--output_dir", "x"])
    assert parse((Run,))[0].output_dir == "x"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--steps", "many"], "--steps is 'many'; it must be a whole number"),
        (["--steps", "1.5"], "--steps is '1.5'; it must be a whole number"),
        (["--rate", "fast"], "--rate is 'fast'; it must be a number"),
        (["--resume", "maybe"], "--resume is 'maybe'; it must be True or False"),
        (["--sizes", "1", "x"], "--sizes is 'x'; it must be a whole number"),
        (["--mode", "up"], "--mode is 'up'; it must be one of near, far"),
        (["--steps"], "--steps needs a value; --help explains it"),
        (["--stepz", "3"], "unknown name --stepz; did you mean --steps?"),
        (["--stepz=3"], "unknown name --stepz; did you mean --steps?"),
        (["--ste", "3"], "unknown name --ste; did you mean --steps?"),
        (["--zzzzzz"], "unknown name --zzzzzz; --help lists all"),
        (["-q"], "unknown name -q; --help lists all"),
        (["--steps", "3", "4"], "unexpected value '4' on the command line; quote what has spaces in it"),
        ([], "--output_dir is missing; --help explains it"),
    ],
)
def test_a_wrong_flag_is_told_in_one_line(argv, expected, capsys):
    assert mistake(capsys, argv) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{\n"rate": 1,\n"steps": "many"}', ":3: steps is 'many'; it must be a whole number"),
        ('{\n"rate": 1,\n"steps": 1.5}', ":3: steps is 1.5; it must be a whole number"),
        ('{"steps": true}', ":1: steps is true; it must be a whole number"),
        ('{"rate": false}', ":1: rate is false; it must be a number"),
        ('{"resume": 1}', ":1: resume is 1; it must be true or false"),
        ('{"output_dir": 3}', ":1: output_dir is 3; it must be a text in quotes"),
        ('{"output_dir": {"a": []}}', ':1: output_dir is {"a": []}; it must be a text in quotes'),
        ('{"sizes": [1, "x"]}', ":1: sizes is 'x'; it must be a whole number"),
        ('{\n\n"mode": "up"}', ":3: mode is 'up'; it must be one of near, far"),
        ('{"mode": ["near"]}', ':1: mode is ["near"]; it must be a text in quotes'),
        ('{\n"stepz": 1}', ":2: unknown name stepz; did you mean steps?"),
        ('{"steps": 1,\n"rate": 2,\n"steps": "x"}', ":3: steps is 'x'; it must be a whole number"),
        ('{"steps": 1,\n"rate"}', ":2: not JSON (Expecting ':' delimiter)"),
        ("", ":1: not JSON (Expecting value)"),
        ("[]", ": must hold one object with a value for each flag, as --print_config writes it"),
        ('"steps"', ": must hold one object with a value for each flag, as --print_config writes it"),
        ("[" * 100_000, ": cannot be read (maximum recursion depth exceeded while decoding a JSON array"),
    ],
)
def test_a_wrong_file_is_told_in_one_line_with_its_place(content, expected, capsys, config):
    path = config(content)
    assert mistake(capsys, [path, "--output_dir", "out"]).startswith(path + expected)


def test_a_file_that_cannot_be_read_is_told_in_one_line(tmp_path, capsys):
    (tmp_path / "latin").write_bytes(b'{"output_dir": "\xe9"}')
    assert mistake(capsys, ["no/such.json"]) == "no/such.json: no such file; flags begin with --"
    assert "cannot be read" in mistake(capsys, [str(tmp_path)])
    assert "cannot be read" in mistake(capsys, [str(tmp_path / "latin")])


def test_help_names_every_flag_with_its_text_and_default(capsys):
    with pytest.raises(SystemExit) as ended:
        parse(BOTH, ["--help"], "What it does.\n\n    python it.py")
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert "What it does.\n\n    python it.py" in shown
    for expected in (
        "--output_dir STR (required)",
        "--steps INT How many; 100% of them. (default: 5)",
        "--resume [BOOL] Go on. (default: False)",
        "--mode near|far Where to. (default: near)",
        "--report_to STR [STR ...] Who is told. (default: None)",
        "--pace STR The pace. (default: slow)",
        "--sizes INT [INT ...] Sizes. (default: [1, 2])",
    ):
        assert expected in " ".join(shown.split())


tokens = st.one_of(
    st.sampled_from([f"--{name}" for name in FIELDS]),
    st.sampled_from(["--", "-", "-1", "1e400", "nan", "True", "none", "near", "7", "", "=", "--=", "--steps=", "-s3"]),
    st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0/"), max_size=8),
).filter(lambda token: not token.startswith("-h") and token != "--help")


def assert_parses_or_ends_in_one_line(capsys, argv):
    """A command line either gives the arguments or ends with one line and exit code 2."""
    capsys.readouterr()
    code = None
    try:
        assert [type(part) for part in parse(BOTH, argv)] == [Run, Reports]
    except SystemExit as ended:
        code = ended.code
    assert (code, len(capsys.readouterr().err.splitlines())) in ((None, 0), (2, 1))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(tokens, max_size=6))
def test_no_command_line_ends_in_a_traceback(capsys, argv):
    assert_parses_or_ends_in_one_line(capsys, argv)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(sorted(FIELDS)) | st.text(max_size=4), json_values, max_size=3))
def test_no_configuration_file_ends_in_a_traceback(capsys, config, content):
    assert_parses_or_ends_in_one_line(capsys, [config(content), "--output_dir", "out"])


# argparse of Python 3.10 drops a "--" wherever it stands.
names = st.text(max_size=3).filter(lambda text: text != "--")


@settings(max_examples=60)
@given(st.builds(Run, names, st.integers(), st.floats(allow_nan=False), st.booleans(), st.booleans()))
def test_what_a_file_or_flags_spell_is_what_is_parsed(tmp_path_factory, wanted):
    path = tmp_path_factory.mktemp("spelled") / "run.json"
    values = {name: value for name, value in vars(wanted).items() if name != "limit"}
    path.write_text(json.dumps(values), encoding="utf8")
    assert parse((Run,), [str(path)]) == (wanted,)
    assert parse((Run,), [f"--{name}={value}" for name, value in values.items()]) == (wanted,)


def test_a_message_of_several_lines_is_told_in_one(capsys):
    with pytest.raises(SystemExit), one_line_errors():
        raise UsageError("a\nb\rc\u2028d")
    assert capsys.readouterr().err == "error: a b c d\n"


def test_other_errors_are_not_swallowed():
    with pytest.raises(KeyError), one_line_errors():
        raise KeyError("a bug")


def test_decoding_flags_become_a_generation_config():
    flags = "--tgt_length 9 --min_tgt_length 2 --num_beams 3 --length_penalty 0.5 --no_repeat_ngram_size 2"
    config = to_generation_config(parse((DecodingArguments,), flags.split())[0], 7, num_return_sequences=2)
    assert (config.max_new_tokens, config.min_new_tokens, config.num_beams, config.length_penalty) == (9, 2, 3, 0.5)
    assert (config.no_repeat_ngram_size, config.seed, config.num_return_sequences) == (2, 7, 2)
    assert (config.do_sample, config.top_k, config.top_p) == (False, 0, 1.0)

    flags = "--select_topk False --top_k 5 --top_p 0.9 --temperature 0.7"
    config = to_generation_config(parse((DecodingArguments,), flags.split())[0], 1)
    assert (config.do_sample, config.top_k, config.top_p, config.temperature) == (True, 5, 0.9, 0.7)


def test_top_p_0_keeps_everything():
    for flags in ("--top_p 0", "--top_p 0 --select_topk False"):
        assert to_generation_config(parse((DecodingArguments,), flags.split())[0], 1).top_p == 1.0


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--tgt_length 5 --min_tgt_length 5", "--min_tgt_length (5) must be below --tgt_length (5)"),
    ],
)
def test_conflicting_decoding_flags_are_named(flags, expected):
    with pytest.raises(UsageError) as error:
        to_generation_config(parse((DecodingArguments,), flags.split())[0], 1)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_shipped_prompt_flags_know_their_choices(capsys):
    assert parse((PromptArguments,), ["--data_file", "x", "--on_bad_data", "skip"])[0].on_bad_data == "skip"
    assert "error, skip" in mistake(capsys, ["--on_bad_data", "x"], (PromptArguments,))


def test_a_printed_configuration_makes_the_same_run_and_has_every_flag(tmp_path, capsys):
    """With every kind of value: enumerations, lists, null, whole numbers where others may be."""
    argv = ["--output_dir", "湖", "--rate", "3", "--print_config"]
    with pytest.raises(SystemExit) as ended:
        parse((Run, DecodingArguments), [*argv, str(tmp_path / "run.json")])
    assert ended.value.code == 0
    content = json.loads((tmp_path / "run.json").read_text(encoding="utf8"))
    fields = {field.name for cls in (Run, DecodingArguments) for field in dataclasses.fields(cls)}
    assert content.keys() == fields
    assert (content["output_dir"], content["rate"], content["limit"]) == ("湖", 3.0, None)
    assert parse((Run, DecodingArguments), [str(tmp_path / "run.json")]) == parse((Run, DecodingArguments), argv[:-1])
    with pytest.raises(SystemExit):
        parse((Run, DecodingArguments), [str(tmp_path / "run.json"), "--print_config", "-"])
    assert capsys.readouterr().out == (tmp_path / "run.json").read_text(encoding="utf8")


def test_a_configuration_that_cannot_be_written_is_told(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        parse((Run,), ["--output_dir", "x", "--print_config", str(tmp_path / "file" / "run.json")])
    assert ended.value.code == 2
    assert "run.json: cannot be written (File exists)" in capsys.readouterr().err
