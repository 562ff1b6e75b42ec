"""What programs say is in the reader's language, and what is data in it stays what it is."""

import logging
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm import help_parser, texts
from glm.data import records
from glm.data.templates import TEMPLATES
from glm.errors import UserError
from glm.message_templates import Template
from glm.serving.requests import Refusal, parse_json
from glm.training.display import made_printable
from tests.helpers import ROOT

SCRIPTS = ("finetune_generation", "finetune_instruction_generation", "export_generation_model")
SCRIPTS += ("infer_generation", "predict_generation", "serve_generation")


def environment(monkeypatch, **variables):
    for name in (texts.VARIABLE, *texts.LOCALE):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "language"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_TW.Big5"}, "zh"),
        ({"LANG": "en_US.UTF-8"}, "en"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "", "LC_ALL": ""}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "GLM_LANG": "en"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "C", "GLM_LANG": "zh"}, "zh"),
        ({"GLM_LANG": "zh_CN"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "GLM_LANG": ""}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "GLM_LANG": "fr"}, "zh"),
    ],
)
def test_the_users_word_comes_before_the_locale_and_all_of_it_before_lang(monkeypatch, variables, language):
    environment(monkeypatch, **variables)
    assert texts.language() == language


LITERALS = st.sampled_from([" is ", "; it must be ", ": no such file", " of ", " (", ")", "; ", ": ", "，", ""])
VALUES = st.lists(st.text(max_size=8) | LITERALS | st.just("{0}") | st.just("{1*}"), max_size=4).map("".join)


@given(st.data())
def test_a_message_gives_its_values_back_or_nothing(data):
    """Values may hold anything, also what stands between them: then it is not certain, and there is no guess."""
    inner = data.draw(st.lists(LITERALS.filter(bool), max_size=2))
    literals = [data.draw(LITERALS), *inner, data.draw(LITERALS)]
    values = [data.draw(VALUES) for _ in literals[1:]]
    english = literals[0] + "".join(f"{{{i}}}{literal}" for i, literal in enumerate(literals[1:]))
    template = Template(english, "译文" + "、".join(f"「{{{i}}}」" for i in reversed(range(len(values)))))
    message = literals[0] + "".join(value + literal for value, literal in zip(values, literals[1:], strict=True))
    ways = template.ways(message)
    assert (ways == [values]) if len(values) == 1 else ways
    if len(ways) == 1:
        assert ways == [values]
        assert template.filled(values, str) == "译文" + "、".join(f"「{value}」" for value in reversed(values))


def test_it_does_not_matter_where_values_end_between_which_both_languages_have_the_same_mark():
    template = Template("{0}:{1}: not JSON ({2})", "{0}:{1}: 不是 JSON（{2}）")
    assert template.filled(*template.ways("a:7:3: not JSON (x)"), str) == "a:7:3: 不是 JSON（x）"


def with_messages(monkeypatch, messages):
    monkeypatch.setenv("GLM_LANG", "zh")
    texts.templates.cache_clear()
    monkeypatch.setattr(texts, "table", lambda: {"messages": messages, "foreign": {}})


@pytest.fixture(autouse=True)
def own_templates():
    """Those of another table are forgotten."""
    yield
    texts.templates.cache_clear()


MESSAGES = {
    "unknown name {0}: {1}": "未知的参数 {0}（{1*}）",
    "it is fixed: export it anew": "导出时已定",
    "error: {0}": "错误：{0*}",
    "{0}: cannot be read ({1})": "{0}: 无法读取（{1*}）",
    "it is damaged": "已损坏",
    "field {0} is empty": "字段 {0} 为空",
    "fill it in": "请填写",
    "unknown name {0}": "未知的参数 {0}",
    "unknown name {0}; did you mean {1}?": "未知的参数 {0}，是否想写 {1}？",
}


@pytest.mark.parametrize(
    ("message", "chinese"),
    [
        ("error: a b.json: cannot be read (it is damaged)", "错误：a b.json: 无法读取（已损坏）"),
        # What is data is never taken for a message.
        ("error: it is damaged: cannot be read (fill it in: x)", "错误：it is damaged: 无法读取（fill it in: x）"),
        ("field 'a; b' is empty; fill it in", "字段 'a; b' 为空；请填写"),
        ("a: b.json:3: field 'c' is empty; fill it in", "a: b.json:3: 字段 'c' 为空；请填写"),
        ("error: c.json:2: unknown name x; did you mean y?", "错误：c.json:2: 未知的参数 x，是否想写 y？"),
        # Where a text could be parted in several ways, a message in it tells.
        ("unknown name --r: it is fixed: export it anew", "未知的参数 --r（导出时已定）"),
        ("unknown name --r: it is: what", "未知的参数 --r: it is: what"),
        ("disk on fire; fill it in", "disk on fire; 请填写"),
        ("nobody knows this", "nobody knows this"),
        ("error: nobody knows this", "错误：nobody knows this"),
    ],
)
def test_messages_are_put_together_from_known_ones(monkeypatch, message, chinese):
    with_messages(monkeypatch, MESSAGES)
    assert texts.translated(message) == chinese
    monkeypatch.setenv("GLM_LANG", "en")
    assert texts.translated(message) == message


@given(st.lists(st.sampled_from([*MESSAGES, ": ", "; ", ", ", "error: ", "x"]), max_size=300).map("".join))
def test_any_text_is_told(text):
    with pytest.MonkeyPatch.context() as monkeypatch:
        with_messages(monkeypatch, MESSAGES)
        assert texts.translated(text) or not text


@pytest.mark.parametrize("text", ["a: " * 15_000, "a; " * 15_000, "error: " * 7000, "x is ; , : " * 4000])
def test_long_texts_are_told_too(monkeypatch, text):
    with_messages(monkeypatch, MESSAGES)
    assert texts.translated(text).endswith(text[-1000:])


def test_lines_of_help_are_as_wide_as_a_terminal_and_lose_nothing():
    text = (
        "模型的目录或名称；给了 --lora_path 时为基座模型（默认：THUDM/glm-large-chinese），a/very/long/path/" + "x" * 90
    )
    lines = help_parser.wrapped(text, 40)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert max(map(help_parser.columns, lines[:-1])) <= 40
    assert not any(line.startswith(tuple("，。；：）")) or line.endswith("（") for line in lines)


def run(*command, **variables):
    """A command whose locale is not Chinese unless the variables make it so."""
    kept = {name: value for name, value in os.environ.items() if name not in (texts.VARIABLE, *texts.LOCALE)}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, encoding="utf8", env={**kept, **variables}
    )


def is_chinese(text):
    return any("一" <= character <= "鿿" for character in text)


@pytest.mark.parametrize(
    ("script", "variables"),
    [*((script, {"GLM_LANG": "zh"}) for script in SCRIPTS), ("predict_generation", {"LANG": "zh_CN.UTF-8"})],
)
def test_help_is_chinese_where_the_reader_is(script, variables):
    done = run(f"{script}.py", "--help", **variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("用法：")
    told = [line for line in done.stdout.splitlines() if line.startswith("  ") and "默认" in line]
    assert len(told) > 5
    assert all(map(is_chinese, told))


@pytest.mark.parametrize("variables", [{}, {"GLM_LANG": "en", "LANG": "zh_CN.UTF-8"}, {"LC_ALL": "C"}])
def test_help_is_english_elsewhere(variables):
    done = run("predict_generation.py", "--help", **variables)
    assert done.stdout.startswith("usage: ")
    assert not is_chinese(done.stdout)


@pytest.mark.parametrize("variables", [{"GLM_LANG": "zh"}, {"LANG": "zh_CN.UTF-8"}])
def test_a_mistake_is_one_line_in_chinese_with_the_same_exit_code(tmp_path, variables):
    """The name of the file is what it is, though it reads like a message; answers stay JSON."""
    data = tmp_path / "nothing is kept; fill it in.jsonl"
    data.write_text('{"context": "甲在乙。", "answer": ""}\n', encoding="utf8")
    command = ["predict_generation.py", "--model_name_or_path", "glm-tiny-chinese", "--data_file", str(data)]
    chinese, english = run(*command, **variables), run(*command, GLM_LANG="en", **{"LANG": "zh_CN.UTF-8"})
    assert english.stderr == (
        f"error: {data}:1: field 'answer' is empty; fill it in or remove the record; "
        "--on_bad_data skip leaves such records out\n"
    )
    assert (
        chinese.stderr
        == f"错误：{data}:1: 字段 'answer' 为空；请填写，或删去这条记录；--on_bad_data skip 可跳过这样的记录\n"
    )
    assert (chinese.returncode, english.returncode) == (2, 2)
    assert (chinese.stdout, english.stdout) == ("", "")


def test_what_programs_read_stays_english(tmp_path, monkeypatch):
    monkeypatch.setenv("GLM_LANG", "zh")
    with pytest.raises(UserError, match="no such file; check the path"):
        list(records.iter_records(tmp_path / "absent.json", TEMPLATES["qg"].fields(need_target=False)))
    with pytest.raises(Refusal, match="the body is not JSON"):
        parse_json(b"{")


def test_log_lines_are_in_the_readers_language(monkeypatch):
    monkeypatch.setenv("GLM_LANG", "zh")
    record = logging.LogRecord(
        "x", logging.INFO, "f", 1, "resuming from a\x1b/b; --overwrite_output_dir would start anew", (), None
    )
    assert made_printable(record)
    assert record.getMessage() == "从 a\\x1b/b 继续训练；加 --overwrite_output_dir 可从头开始"
