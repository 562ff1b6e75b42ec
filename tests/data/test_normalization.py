"""Traditional characters become simplified ones, and nothing else changes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm.data.normalization import normalized, normalizer
from glm.data.preparation import Preparation
from glm.data.selections import load_examples
from glm.data.templates import templates_of

TEXT = "體育館在臺北，開於一九九八年。"
SIMPLE = "体育馆在台北，开于一九九八年。"


def test_traditional_characters_become_simplified_ones():
    assert normalizer("simplified")(TEXT) == SIMPLE
    assert normalizer("off")(TEXT) == TEXT


@given(st.text(st.sampled_from("天气很好我们去公园the quick 12，。\n<n>😀"), max_size=30))
def test_what_is_simplified_already_stays(text):
    assert normalizer("simplified")(text) == text


@given(st.text(st.sampled_from("乾隆皇帝乾淨後來皇后頭髮發現麵條面臺台"), min_size=1, max_size=12), st.data())
def test_an_answer_that_stands_in_the_context_still_does(context, data):
    start = data.draw(st.integers(0, len(context) - 1))
    answer = context[start : data.draw(st.integers(start + 1, len(context)))]
    found = normalized({"context": context, "answer": answer, "id": 7}, "simplified")
    assert found["answer"] in found["context"]
    assert found["id"] == 7
    assert normalized({"context": context, "answer": answer}, "off") == {"context": context, "answer": answer}


@pytest.mark.parametrize("prompt", [None, "{context}問{answer}"])
def test_all_fields_of_a_record_are_normalized_alike_and_the_record_that_is_handed_on_is_not(tmp_path, prompt):
    record = {"context": TEXT, "answer": "體育館", "question": "開於何處"}
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf8")
    (example,), _ = load_examples(path, "qg", prompt=prompt, normalize="simplified", keep_records=True)
    assert (example.context, example.keep, example.target) == (SIMPLE, "体育馆", "开于何处")
    assert json.loads(example.record) == record
    template = templates_of(Preparation(prompt, "simplified"))["own" if prompt else "qg"]
    assert template.example({**record, "question": ""}).source == example.source
