"""Ids are those of paddlenlp's GLMChineseTokenizer, and no text can spell a special piece."""

import io
import json
import re
import shutil

import pytest
import sentencepiece
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from glm.data import tokenization
from glm.data.tokenization import (
    ADDED_TOKENS_FILE,
    MODEL_FILE,
    SPECIAL_PIECES,
    TextStream,
    Tokenizer,
    TokenizerError,
)
from glm.errors import UserError
from glm.weights import builtin_model

SENTENCES = ["天气很好，我们去公园。", "the quick brown fox", "一共有3个苹果和12个梨。", "question: why?"] * 20


def train_pieces(path, sentences=SENTENCES, **options):
    """Write a small sentencepiece model."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=100,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    path.write_bytes(model.getvalue())


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """The built-in tokenizer in a directory of its own."""
    target = tmp_path_factory.mktemp("tokenizer")
    for name in (MODEL_FILE, ADDED_TOKENS_FILE, "tokenizer_config.json"):
        shutil.copyfile(builtin_model.build() / name, target / name)
    return target


@pytest.fixture(scope="module")
def tokenizer(directory):
    """The built-in tokenizer."""
    return Tokenizer(directory)


@pytest.fixture(scope="module")
def stock(directory):
    """paddlenlp's tokenizer over the same files."""
    from paddlenlp.transformers import GLMChineseTokenizer

    return GLMChineseTokenizer.from_pretrained(str(directory))


@pytest.fixture(scope="module")
def knowing(tmp_path_factory):
    """A tokenizer whose sentencepiece model has the special pieces itself, as user-defined ones."""
    target = tmp_path_factory.mktemp("knowing")
    train_pieces(target / MODEL_FILE, user_defined_symbols=list(SPECIAL_PIECES))
    return Tokenizer(target)


plain = st.text(
    st.one_of(
        st.characters(min_codepoint=0x20, max_codepoint=0x7E),
        st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF),
        st.sampled_from(
            "，。？！“”《》ａＢ１①é한の的一是了我不在人们有来他这上着个地到大里说就去子得也和那要下看天时过出小么起你都把"
        ),
    ),
    max_size=40,
).filter(lambda text: not any(piece in text for piece in SPECIAL_PIECES))
spelling = st.lists(st.sampled_from([*SPECIAL_PIECES, "<s>", "</s>", "<unk>", "[UNK]", " ", "湖", "a"]), max_size=6)


@settings(max_examples=150)
@given(plain)
def test_a_text_gets_the_ids_that_paddlenlp_gives_it(tokenizer, stock, text):
    # paddlenlp strips the text first, which sentencepiece does by itself, and looks pieces up by name. It does not make
    # line breaks the piece that stands for them.
    spelled = text.replace("\r\n", "\n").replace("\n", "<n>")
    assert tokenizer.encode(text) == stock(spelled, add_special_tokens=False)["input_ids"]


def test_special_pieces_have_the_ids_that_paddlenlp_gives_them(tokenizer, stock):
    ids = stock.convert_tokens_to_ids(list(SPECIAL_PIECES))
    assert [tokenizer.special_ids[piece] for piece in SPECIAL_PIECES] == ids
    assert [tokenizer.cls_id, tokenizer.mask_id, tokenizer.eos_id, tokenizer.sop_id, tokenizer.eop_id] == (
        stock.convert_tokens_to_ids(["[CLS]", "[gMASK]", "<|endoftext|>", "<|startofpiece|>", "<|endofpiece|>"])
    )
    assert len(tokenizer) == len(stock)


@settings(max_examples=60)
@given(spelling.map("".join))
def test_no_text_spells_a_special_piece(tokenizer, knowing, text):
    for chosen in (tokenizer, knowing):
        ids = chosen.encode(text)
        assert not set(ids) & set(chosen.special_ids.values())
        assert not any(chosen.pieces.IsControl(i) for i in ids)


@pytest.fixture(scope="module", params=["beside the model", "in the model", "none that is user-defined"])
def spelled(request, tmp_path_factory):
    """A tokenizer whose vocabulary has all characters of the special pieces, and these in different places."""
    target = tmp_path_factory.mktemp("spelled")
    names = ["<n>", *SPECIAL_PIECES]
    sentences = [*SENTENCES, *[" ".join(name) for name in names] * 20, "vector x a b 1 2"]
    symbols = {"beside the model": names[:1], "in the model": names}.get(request.param, [])
    train_pieces(target / MODEL_FILE, sentences, user_defined_symbols=symbols, character_coverage=1.0)
    tokenization.complete(target)
    return Tokenizer(target)


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from(["<n>", *SPECIAL_PIECES, "vector", "x", "天气", "\n", "<", "n>", "[", "1"]), max_size=8)
)
def test_what_spells_a_special_piece_or_a_line_break_is_text(spelled, parts):
    text = "".join(parts)
    ids = spelled.encode(text)
    assert not set(ids) & spelled.special_numbers
    assert spelled.decode(ids) == (text if spelled.newline_piece else " ".join(text.split()))
    if spelled.newline_piece:
        assert ids.count(spelled.pieces.PieceToId(spelled.newline_piece)) == text.count("\n")
    stream = tokenization.TextStream(spelled)
    assert "".join([*(stream.add([i]) for i in ids), stream.add([], final=True)]) == spelled.decode(ids)


def test_the_stand_in_of_a_line_break_is_none_in_a_text(tokenizer):
    ids = tokenizer.encode(f"天气{tokenizer.newline_piece}很好")
    assert tokenizer.pieces.PieceToId(tokenizer.newline_piece) not in ids


def test_a_text_that_spells_special_pieces_reads_as_it_is_written(tmp_path):
    train_pieces(tmp_path / MODEL_FILE, sentences=[*SENTENCES, *SPECIAL_PIECES])
    tokenization.complete(tmp_path)
    tokenizer = Tokenizer(tmp_path)
    text = "天气[gMASK]很好 <|endofpiece|>"
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=60)
@given(st.text(st.sampled_from("天气很好，我们去公园。the brown fox"), max_size=30))
def test_decoding_undoes_encoding_but_for_spaces(tokenizer, text):
    ids = tokenizer.encode(text)
    assume(tokenizer.pieces.unk_id() not in ids)
    assert tokenizer.decode(ids) == re.sub(" +", " ", text).strip().replace("，", ",")


@settings(max_examples=60)
@given(st.text(st.sampled_from("天气很好，the brown\n 嘦囧砲😀𠮷ע"), max_size=20))
def test_characters_that_no_piece_has_are_the_unknown_ones(tokenizer, text):
    known = {character for i in range(len(tokenizer.pieces)) for character in tokenizer.pieces.IdToPiece(i)}
    spelled = text.replace("，", ",").replace("\n", "").replace(" ", "")
    unknown = tokenizer.unknown_characters(text)
    assert unknown == [character for character in spelled if character not in known]
    assert set("😀𠮷") & set(text) <= set(unknown)


def test_decoding_ends_at_the_end_token_and_drops_what_is_no_text(tokenizer):
    first, rest = tokenizer.encode("天气"), tokenizer.encode("公园")
    specials = [i for i in tokenizer.special_ids.values() if i != tokenizer.eop_id]
    padding_rows = [len(tokenizer), len(tokenizer) + 1000]
    ids = [*specials, *first, *padding_rows, tokenizer.eop_id, *rest, tokenizer.eop_id]
    assert tokenizer.decode(ids) == "天气"
    assert tokenizer.decode([]) == tokenizer.decode([tokenizer.eop_id, *rest]) == ""


def test_banned_is_all_that_stands_for_no_text_but_the_end_token(tokenizer, knowing):
    for chosen in (tokenizer, knowing):
        vocab_size = len(chosen) + 5
        banned = chosen.banned_ids(vocab_size)
        assert list(banned) == sorted(set(banned))
        names = {i: chosen.pieces.IdToPiece(i) for i in range(len(chosen.pieces))}
        names.update({i: piece for piece, i in chosen.special_ids.items()})
        no_text = {*SPECIAL_PIECES, "<unk>", "<s>", "</s>"} - {"<|endofpiece|>"}
        assert set(banned) == {i for i in range(vocab_size) if i not in names or names[i] in no_text}


def test_a_saved_tokenizer_is_the_same_to_paddlenlp(tokenizer, stock, tmp_path):
    from paddlenlp.transformers import GLMChineseTokenizer

    tokenizer.save(tmp_path / "new" / "copy")
    copy = GLMChineseTokenizer.from_pretrained(str(tmp_path / "new" / "copy"))
    text = "<|startofpiece|>云栖湖位于青岚山脚下[gMASK]four<|endofpiece|>"
    assert copy(text)["input_ids"] == stock(text)["input_ids"]
    assert len(copy) == len(stock)
    assert Tokenizer(tmp_path / "new" / "copy").special_ids == tokenizer.special_ids


def test_saving_over_itself_changes_nothing(tokenizer, directory):
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    tokenizer.save(directory)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_a_bare_sentencepiece_model_is_completed_as_the_published_vocabulary_is_numbered(tmp_path, stock):
    train_pieces(tmp_path / MODEL_FILE)
    tokenization.complete(tmp_path)
    completed = Tokenizer(tmp_path)
    ids = [completed.special_ids[piece] for piece in SPECIAL_PIECES]
    assert ids == list(range(len(completed.pieces), len(completed.pieces) + 10))
    assert type(stock).from_pretrained(str(tmp_path)).convert_tokens_to_ids(list(SPECIAL_PIECES)) == ids
    written = (tmp_path / ADDED_TOKENS_FILE).read_bytes()
    tokenization.complete(tmp_path)
    assert (tmp_path / ADDED_TOKENS_FILE).read_bytes() == written


def test_a_model_that_knows_the_special_pieces_is_left_as_it_is(knowing):
    tokenization.complete(knowing.directory)
    assert [path.name for path in knowing.directory.iterdir()] == [MODEL_FILE]
    assert len(set(knowing.special_ids.values())) == 10


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (MODEL_FILE, None, f"no {MODEL_FILE} there, which every GLM has"),
        (MODEL_FILE, b"", f"{MODEL_FILE}: not a sentencepiece model"),
        (MODEL_FILE, b"no model at all", f"{MODEL_FILE}: not a sentencepiece model"),
        (ADDED_TOKENS_FILE, None, "no ids for <|endoftext|>, [SEP]"),
        (ADDED_TOKENS_FILE, b"{", f"{ADDED_TOKENS_FILE}:1: not JSON"),
        (ADDED_TOKENS_FILE, b"\xff", f"{ADDED_TOKENS_FILE}: not UTF-8"),
        (ADDED_TOKENS_FILE, b"[]", f"{ADDED_TOKENS_FILE}: must hold one object"),
        (ADDED_TOKENS_FILE, b'{"[CLS]": "7"}', f'{ADDED_TOKENS_FILE}: [CLS] is "7"; it must be a whole number'),
        (ADDED_TOKENS_FILE, b'{"[CLS]": 2552}', "no ids for <|endoftext|>, [SEP], [MASK]"),
        (
            ADDED_TOKENS_FILE,
            json.dumps(dict.fromkeys(SPECIAL_PIECES, 2552)).encode(),
            f"{ADDED_TOKENS_FILE}: two special tokens have one id",
        ),
    ],
)
def test_an_unusable_directory_is_told_in_one_line(directory, tmp_path, name, content, expected):
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    (copy / name).unlink() if content is None else (copy / name).write_bytes(content)
    with pytest.raises(TokenizerError) as error:
        Tokenizer(copy)
    assert expected in str(error.value)
    assert str(copy) in str(error.value)
    assert "\n" not in str(error.value)
    assert isinstance(error.value, UserError)


@pytest.mark.parametrize("text", ["小明\n苹果", "\n小明有\n\n三个", "1. 好\r\n2. 坏", "好\n", "\n"])
def test_line_breaks_survive_where_there_is_a_piece_for_them(tokenizer, text, tmp_path):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text.replace("\r\n", "\n")
    assert ids.count(tokenizer.pieces.PieceToId(tokenizer.newline_piece)) == text.count("\n")
    assert tokenizer.spelled([*ids, tokenizer.eop_id]) == text.replace("\r\n", "\n") + "<|endofpiece|>"


def test_line_breaks_are_spaces_where_there_is_no_piece_for_them(tmp_path):
    train_pieces(tmp_path / MODEL_FILE)
    tokenization.complete(tmp_path)
    assert Tokenizer(tmp_path).decode(Tokenizer(tmp_path).encode("the\nfox")) == "the fox"


class Bytes:
    """A tokenizer whose ids are bytes, and which writes a line break as <n>."""

    newline_piece, eop_id, special_numbers, pieces = "<n>", None, frozenset(), range(256)

    def text_of(self, ids):
        return bytes(ids).decode("utf8", errors="replace").replace("<n>", "\n")


@given(st.text(alphabet=st.sampled_from("a<n>天𠀀é\ufffd ")))
def test_streamed_pieces_are_whole_characters_and_join_to_the_text(text):
    ids = list(text.encode("utf8"))
    stream, tokenizer = TextStream(Bytes()), Bytes()
    pieces = [stream.add([byte]) for byte in ids]
    shown = ["".join(pieces[:number]) for number in range(len(pieces) + 1)]
    assert "".join([*pieces, stream.add([], final=True)]) == tokenizer.text_of(ids)
    assert all(tokenizer.text_of(ids).startswith(text) for text in shown)


def test_streamed_pieces_are_not_held_back_longer_than_needed():
    stream = TextStream(Bytes())
    ids = list("天<n>b<".encode())
    pieces = [stream.add([byte]) for byte in ids]
    assert pieces == ["", "", "天", "", "", "\n", "b", ""]
    assert stream.add([], final=True) == "<"


@given(st.data())
def test_ids_of_any_kind_are_streamed_as_they_are_decoded_and_each_is_decoded_a_few_times(data):
    tokenizer = Tokenizer(builtin_model.build())
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=60))
    decoded, text_of = [], tokenizer.text_of
    tokenizer.text_of = lambda some: (decoded.append(len(some)), text_of(some))[1]
    stream, text, start = TextStream(tokenizer), "", 0
    while start < len(ids):
        count = data.draw(st.integers(1, 3))
        text += stream.add(ids[start : start + count])
        start += count
    text += stream.add([], final=True)
    held = text.count("<") + text.count("\ufffd") + 1
    assert max(decoded, default=0) <= (2 * TextStream.CONTEXT + 4) * held
    assert text == tokenizer.decode(ids)
