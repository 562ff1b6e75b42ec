"""Texts at which answers end."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from glm.inference.stops import StoppedStream, Stops, StopsOfBatch, cut
from glm.weights import builtin_model, model_directory

TOKENIZER = model_directory.load_tokenizer(model_directory.resolve(builtin_model.NAME))
pieces = st.lists(st.integers(4, 900), max_size=25)
stops = st.lists(st.text(st.sampled_from("的一是\n，。人"), min_size=1, max_size=3), min_size=1, max_size=3)


def definition(text, stops):
    """The longest beginning of a text, such that no stop begins in it."""
    for place in range(len(text)):
        if any(text[place : place + len(stop)] == stop for stop in stops):
            return text[:place]
    return text


@given(st.text(st.sampled_from("aab")), st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
def test_a_text_is_cut_before_the_first_stop(text, stops):
    assert cut(text, stops) == definition(text, stops)


@given(pieces, stops, st.data())
def test_a_stream_shows_what_is_before_the_first_stop_and_takes_nothing_back(ids, stops, data):
    # Often one that the text has.
    text = TOKENIZER.decode(ids)
    if text and data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(text) - 1))
        stops = [*stops, text[place : place + 2]]
    stream, shown = StoppedStream(TOKENIZER, stops), ""
    for number, piece in enumerate(ids):
        shown += stream.add([piece], final=number == len(ids) - 1)
        assert definition(text, stops).startswith(shown)
    assert shown == definition(text, stops)
    assert stream.over == (definition(text, stops) != text)


@given(pieces, stops)
def test_a_text_is_known_to_be_over_as_soon_as_a_stop_is_there(ids, stops):
    watch = Stops(TOKENIZER, stops)
    for number, piece in enumerate(ids):
        is_over = watch(piece)
        text = TOKENIZER.decode(ids[: number + 1]).rstrip("\ufffd")
        assert is_over == (definition(text, stops) != text)
        if is_over:
            return


@given(st.lists(pieces, min_size=1, max_size=4), stops)
def test_texts_of_a_batch_end_each_for_itself(texts, stops):
    of_batch, alone = StopsOfBatch(TOKENIZER, stops), [Stops(TOKENIZER, stops) for _ in texts]
    for number in range(max(map(len, texts))):
        open_texts = [row for row, ids in enumerate(texts) if number < len(ids)]
        newest = [texts[row][number] for row in open_texts]
        found = of_batch(np.array(open_texts), np.array(newest))
        assert found.tolist() == [alone[row](piece) for row, piece in zip(open_texts, newest, strict=True)]
