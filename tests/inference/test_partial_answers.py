"""Answers that are kept while others are still to come."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm.errors import UserError
from glm.inference.partial_answers import PartialAnswers, path_of

texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r\n"))


@given(st.lists(texts, min_size=1, max_size=6))
def test_whatever_texts_hold_all_answers_are_found_again(tmp_path_factory, answers):
    output = tmp_path_factory.mktemp("answers") / "out.jsonl"
    kept = PartialAnswers(path_of(output), "settings", resume=False)
    for row, text in enumerate(answers):
        kept.add({row: {"source": text, "prediction": text}})
    size = kept.path.stat().st_size
    again = PartialAnswers(path_of(output), "settings", resume=True)
    assert again.before(99) == {row: {"source": text, "prediction": text} for row, text in enumerate(answers)}
    assert again.path.stat().st_size == size


@given(st.integers(0, 400))
def test_a_line_that_was_being_written_is_the_only_one_lost(tmp_path_factory, cut):
    output = tmp_path_factory.mktemp("answers") / "out.jsonl"
    kept = PartialAnswers(path_of(output), "settings", resume=False)
    for row in range(5):
        kept.add({row: {"prediction": "答案\u2028" * 3}})
    content = kept.path.read_bytes()
    whole = content[: len(content) - min(cut, len(content) - content.index(b"\n") - 1)]
    kept.path.write_bytes(whole)
    again = PartialAnswers(path_of(output), "settings", resume=True)
    assert list(again.before(99)) == list(range(whole.count(b"\n") - 1))
    again.add({9: {"prediction": ""}})
    assert [json.loads(line) for line in again.path.read_bytes().split(b"\n")[1:-1]][-1]["row"] == 9


def test_answers_of_other_settings_are_refused_and_stay(tmp_path):
    PartialAnswers(tmp_path / "out.jsonl.partial", "one", resume=False).add({0: {"prediction": "x"}})
    content = (tmp_path / "out.jsonl.partial").read_bytes()
    with pytest.raises(UserError, match="of other data, another model or other flags"):
        PartialAnswers(tmp_path / "out.jsonl.partial", "other", resume=True)
    assert (tmp_path / "out.jsonl.partial").read_bytes() == content
