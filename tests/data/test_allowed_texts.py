"""Runs of a passage in a vocabulary's spelling: what they are, where they stand in the passage, what can be written."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm.data import allowed_texts
from glm.data.tokenization import Tokenizer
from glm.weights import builtin_model
from glm.words import segmenter

# Full-width marks, one character that is spelled as two, spaces and line ends of all kinds, unknown characters.
texts = st.text("云栖湖位于青岚山脚下，：Ａb12㎡ 　\n\r𠮷", max_size=40)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(builtin_model.build())


def written(edges, ids):
    """Whether ids are a way through edges."""
    places = {0}
    for piece in ids:
        places = {int(edge[2]) for edge in edges if edge[1] == piece and edge[0] in places}
    return bool(places)


@settings(max_examples=200)
@given(texts)
def test_a_text_is_spelled_as_its_pieces_are_and_every_character_comes_from_where_it_stands(tokenizer, text):
    spelled, origin = tokenizer.normalized(text)
    pieces = "".join(tokenizer.pieces.Encode(tokenizer.with_newline_pieces(text), out_type=str))
    assert spelled == pieces.removeprefix("▁")
    assert len(origin) == len(spelled) + 1
    assert sorted(origin) == origin
    assert all(0 <= place <= len(text) for place in origin)
    for start, character in zip(origin, spelled, strict=False):
        # Of a passage that begins there, the same character comes first.
        if character not in "▁\ufdd0":
            assert tokenizer.normalized(text[start:])[0][:1] in (character, tokenizer.normalized(text[start])[0][:1])


@settings(max_examples=200)
@given(texts, st.data())
def test_any_part_that_can_be_spelled_can_be_written_and_is_found_where_it_stands(tokenizer, text, data):
    passage = allowed_texts.passage_of(text, tokenizer, "characters")
    start = data.draw(st.integers(0, len(text)))
    part = text[start : data.draw(st.integers(start, len(text)))]
    ids = tokenizer.encode(part)
    # A space or a line end at its end is none of a run's characters.
    if part != part.strip() or not part or tokenizer.unk_id in ids:
        return
    edges = allowed_texts.edges_of_runs(passage, tokenizer).tolist()
    assert written(edges, [*ids, tokenizer.eop_id])
    found = passage.find(tokenizer.decode(ids))
    assert found is not None
    assert tokenizer.decode(tokenizer.encode(text[slice(*found)])) == tokenizer.decode(ids)


@given(texts)
def test_runs_begin_and_end_at_words_and_hold_no_white_space_at_their_ends(tokenizer, text):
    passage = allowed_texts.passage_of(text, tokenizer)
    ends = set(allowed_texts.word_ends(passage.spelled))
    for place in range(len(passage.spelled) + 1):
        assert not (passage.begins[place] or passage.ends[place]) or place in ends
        if passage.begins[place]:
            assert passage.spelled[place] not in "▁\ufdd0"
        if passage.ends[place]:
            assert passage.spelled[place - 1] not in "▁\ufdd0"


def test_words_are_not_divided(tokenizer):
    text = "竹编灯笼要先把竹子剖成细篾，大约要编两天。"
    edges = allowed_texts.edges_of_runs(allowed_texts.passage_of(text, tokenizer), tokenizer).tolist()
    words = segmenter().lcut(tokenizer.normalized(text)[0])
    ends = {len("".join(words[:number])) for number in range(len(words) + 1)}
    assert len(ends) < len(text)
    for start in range(len(text)):
        for end in range(start + 1, len(text) + 1):
            ids = tokenizer.encode(text[start:end])
            part = text[start:end]
            places = [place for place in range(len(text)) if text.startswith(part, place)]
            may = any({place, place + len(part)} <= ends for place in places) and tokenizer.unk_id not in ids
            assert written(edges, [*ids, tokenizer.eop_id]) == may, part


def test_a_passage_without_words_has_no_edges(tokenizer):
    for text in ("", "  \n", "𠮷"):
        assert allowed_texts.edges_of_runs(allowed_texts.passage_of(text, tokenizer), tokenizer).shape == (0, 4)
