"""What no model gets to read of prompts is counted, and told with examples."""

import pytest

from glm.data import lost_text
from glm.data.examples import encode_all
from glm.data.templates import Example
from glm.data.tokenization import Tokenizer
from glm.weights import builtin_model


@pytest.fixture(scope="module")
def tokenizer():
    """The built-in tokenizer."""
    return Tokenizer(builtin_model.build())


def rows(tokenizer, *texts, src_length=12):
    """Prompts of such texts, encoded."""
    return encode_all([Example("", text, "", place="here") for text in texts], tokenizer, src_length, 8)


def test_of_unknown_characters_each_is_told_once_as_far_as_it_was_read(tokenizer):
    found = rows(tokenizer, "𠮷的😀𠮷", "的", "一" * 30 + "𠮷", "的\n的")
    assert [row.unknown_source for row in found] == ["𠮷😀", "", "", ""]
    assert [row.source_cut for row in found] == [False, False, True, False]


def test_prompts_are_counted_and_the_most_frequent_characters_shown(tokenizer):
    texts = ["𠮷", "😀𠮷", "的", "的" * 30, "一" * 20]
    told = lost_text.told(rows(tokenizer, *texts), 12)
    longest = len(tokenizer.encode(texts[3])) + 3
    cut, unknown = told.split("; ")
    assert (
        cut == f"2 of 5 prompts were cut to --src_length 12 tokens (the longest has {longest}), a higher one keeps more"
    )
    assert unknown.startswith("2 of 5 prompts have characters that the vocabulary does not know")
    assert unknown.endswith("e.g. 𠮷 😀")
    assert lost_text.told(rows(tokenizer, "的", "一"), 12) is None
    assert "know" not in lost_text.told(rows(tokenizer, "的" * 30), 12)
    assert "cut" not in lost_text.told(rows(tokenizer, "𠮷"), 12)


def test_of_very_many_unknown_characters_a_few_are_shown_and_no_terminal_obeys_them(tokenizer):
    told = lost_text.told(rows(tokenizer, "𠮷" + "".join(map(chr, range(0x20000, 0x20040))), src_length=200), 200)
    assert len(told.partition("e.g. ")[2].split()) == lost_text.SHOWN
    assert "\u202e" not in (lost_text.told(rows(tokenizer, "\u202e的"), 12) or "")
