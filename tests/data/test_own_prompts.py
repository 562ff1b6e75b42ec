"""Templates of one's own: what they make of a record, what may be cut, what is told of wrong ones."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm.data import preparation, truncation
from glm.data.columns import parse_columns
from glm.data.own_prompts import OwnPrompt
from glm.data.preparation import Preparation
from glm.data.selections import load_examples
from glm.data.templates import own_template
from glm.errors import UserError
from glm.inference import interactive
from glm.inference.arguments import PromptArguments
from glm.serving import requests
from tests.helpers.answered import prompts_of

RECORD = {"passage": "钟楼高三十米。", "q": "多高", "reply": "三十米", "id": "7"}

names = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="{}"), min_size=1, max_size=5).filter(
    lambda name: name == name.strip()
)
literals = st.text(st.characters(exclude_categories=("Cs",)), max_size=8).filter(lambda text: "[gMASK]" not in text)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(RECORD, ensure_ascii=False) + "\n", encoding="utf8")
    return path


def pairs(path, prompt, columns=(), template="qg", **more):
    examples, _ = load_examples(path, template, prompt=prompt, columns=parse_columns(columns), **more)
    return [(example.source, example.target) for example in examples]


@given(st.lists(st.tuples(literals, names), min_size=1, max_size=4), literals, st.dictionaries(names, literals))
def test_a_prompt_is_its_text_with_the_fields_in_it(parts, last, fields):
    fields = {**fields, **{name: f"<{name}>" for _, name in parts}}
    text = "".join(f"{literal.replace('{', '{{').replace('}', '}}')}{{{name}}}" for literal, name in parts)
    prompt = OwnPrompt.parse(text + last.replace("{", "{{").replace("}", "}}"))
    example = own_template(text + last.replace("{", "{{").replace("}", "}}")).example(fields)
    assert example.source == "".join(literal + fields[name] for literal, name in parts) + last
    assert prompt.names == tuple(dict.fromkeys(name for _, name in parts))
    assert example.context == fields[prompt.cut]


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        ("问题", "no placeholder in it"),
        ("{{q}}", "no placeholder in it"),
        ("", "no placeholder in it"),
        ("{q", "a { at character 1 has no partner"),
        ("{q}}", "a } at character 4 has no partner"),
        ("{q{passage}}", "a { at character 1 has no partner"),
        ("问{}", "the braces at character 2 are empty"),
        ("{ }", "the braces at character 1 are empty"),
        ("[gMASK]{q}", r"\[gMASK\] stands at the end"),
    ],
)
def test_what_is_no_prompt_is_told_in_one_line_before_anything_is_read(prompt, problem):
    with pytest.raises(UserError, match=problem) as caught:
        PromptArguments(prompt=prompt)
    assert "\n" not in str(caught.value)


def test_the_mask_comes_after_a_prompt_whether_it_is_written_there_or_not(path):
    assert (
        pairs(path, "{q}？[gMASK]", need_target=False) == pairs(path, "{q}？", need_target=False) == [("多高？", None)]
    )


@pytest.mark.parametrize(
    ("record", "prompt", "columns", "target"),
    [
        ({"a": "1", "target": "2", "question": "3", "output": "4"}, "{a}", [], "2"),
        ({"a": "1", "question": "3", "output": "4"}, "{a}", [], "3"),
        ({"a": "1", "question": "3", "output": "4"}, "{question}", [], "4"),
        ({"a": "1", "question": "3", "output": "4"}, "{question}", ["target=a"], "1"),
        ({"a": "1", "b": "2"}, "{b}", ["target=a"], "1"),
    ],
)
def test_what_a_prompt_asks_for(tmp_path, record, prompt, columns, target):
    (tmp_path / "data.jsonl").write_text(json.dumps(record) + "\n", encoding="utf8")
    assert [found for _, found in pairs(tmp_path / "data.jsonl", prompt, columns)] == [target]


@pytest.mark.parametrize(
    ("prompt", "columns", "problem"),
    [
        (
            "{pasage}",
            ["target=reply"],
            "no column 'pasage', did you mean 'passage'. .there are .*; mend the placeholder",
        ),
        ("{q}", [], "no column 'target' .there are passage, q, reply, id.; give the one .*--columns target="),
        ("{q}{reply}", ["target=reply"], "--prompt shows it as {reply}"),
        ("{x}", ["target=reply", "y=q"], "no field 'y' .known are x, target"),
    ],
)
def test_a_prompt_that_does_not_fit_the_records_is_told_in_one_line(path, prompt, columns, problem):
    with pytest.raises(UserError, match=problem):
        pairs(path, prompt, columns)


def test_placeholders_may_be_called_otherwise_than_columns(path):
    columns = ["context=passage", "target=reply"]
    assert pairs(path, "{context}问：{q}", columns) == [("钟楼高三十米。问：多高", "三十米")]


@pytest.mark.parametrize(
    ("prompt", "limit", "left"),
    [
        ("文{context}问{question}", 6, "文abc问？"),
        ("文{context}问{answer}", 6, "文bcd问c"),
        ("问{question}文{x}", 6, "问？文jkl"),
        ("{x}问{question}{context}", 9, "jklm问？abc"),
    ],
)
def test_of_a_long_prompt_the_context_is_cut_or_else_the_last_placeholder(prompt, limit, left):
    example = own_template(prompt).example({"context": "abcde", "question": "？", "answer": "c", "x": "jklm"})
    ids, length, _ = truncation.fit_source(example, list, limit)
    assert "".join(ids) == left
    assert length == len(example.source)


def test_input_and_system_may_be_empty_and_nothing_else(tmp_path):
    path = tmp_path / "data.jsonl"
    records = [{"instruction": "甲", "input": "", "output": "丙"}, {"instruction": "", "input": "乙", "output": "丙"}]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf8")
    prompt = "问{instruction}{input}答"
    assert pairs(path, prompt, template="instruction", on_bad_data="skip") == [("问甲答", "丙")]
    with pytest.raises(UserError, match="data.jsonl:2: field 'instruction' is empty"):
        pairs(path, prompt, template="instruction")


def test_lines_and_pairs_are_what_a_prompt_has_one_placeholder_for(tmp_path):
    for suffix, text in ((".txt", "甲\n乙\n"), (".source", "甲\n乙\n"), (".target", "一\n二\n")):
        (tmp_path / f"data{suffix}").write_text(text, encoding="utf8")
    assert pairs(tmp_path / "data.txt", "译：{en}。", need_target=False) == [("译：甲。", None), ("译：乙。", None)]
    assert pairs(tmp_path / "data.source", "译：{source}。") == [("译：甲。", "一"), ("译：乙。", "二")]
    with pytest.raises(UserError, match="is plain text, which has no {b} of --prompt"):
        pairs(tmp_path / "data.txt", "{a}{b}", need_target=False)


def test_flags_come_before_what_a_model_remembers(path):
    remembered = Preparation("记{q}", "simplified")
    for flags, source in (
        ({}, "记多高"),
        ({"prompt": "旗{q}"}, "旗多高"),
        ({"prompt": "builtin", "template": None, "columns": ["source=q"]}, "多高"),
        ({"template": "text", "columns": ["source=q"]}, "多高"),
    ):
        examples, _ = prompts_of(PromptArguments(data_file=str(path), **flags), remembered)
        assert [example.source for example in examples] == [source]
    with pytest.raises(UserError, match="leave one out"):
        PromptArguments(template="qg", prompt="{q}")
    with pytest.raises(UserError, match="the example prompts have no q"):
        prompts_of(PromptArguments(), remembered)
    fitting = Preparation("{answer}/{context}")
    assert prompts_of(PromptArguments(), fitting)[0][0].source.startswith("四月到六月/云栖湖")


def test_a_conversation_asks_for_the_placeholders():
    lines, found = iter(["钟楼高三十米。", "多高", ""]), []
    interactive.converse(
        "qg",
        lambda example, _: found.append(example.source),
        Preparation("{p}问{q}"),
        lambda _: next(lines),
        lambda _: None,
    )
    assert found == ["钟楼高三十米。问多高"]


def test_a_request_has_the_placeholders_as_fields():
    templates = requests.templates_of(Preparation("{p}问{q}{input}"))
    limits = requests.Limits(prompts=1, characters=100, src_length=50)
    assert requests.example_of({"p": "甲", "q": "乙"}, "", limits, templates).source == "甲问乙"
    assert requests.example_of("丙", "", limits, templates).source == "丙"
    for prompt in ({"p": "甲"}, {"context": "甲", "answer": "乙"}, {}):
        with pytest.raises(requests.Refusal):
            requests.example_of(prompt, "", limits, templates)
    assert requests.expected(templates).startswith('send {"p": ..., "q": ..., "input": ...}, {"source": ...} or')


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "prompt.json:1: not JSON"),
        ("[]", "must hold one object"),
        ('{"prompt": "甲", "normalize": "off"}', "prompt.json: --prompt: no placeholder"),
        ('{"prompt": 5, "normalize": "off"}', "prompt is 5"),
        ('{"prompt": null, "normalize": "x"}', "normalize is"),
        ('{"prompt": null, "normalize": "off", "more": 1}', "unknown key more"),
        ('{"prompt": null}', "lacks normalize"),
    ],
)
def test_a_memory_that_says_nothing_is_told(tmp_path, content, problem):
    (tmp_path / preparation.FILE).write_text(content, encoding="utf8")
    with pytest.raises(UserError, match=problem):
        preparation.read(tmp_path)


def test_what_is_written_is_read():
    assert Preparation("{q}", "simplified").changed("builtin", "off") == preparation.DEFAULT
    assert Preparation("{q}").changed(None, "simplified") == Preparation("{q}", "simplified")
