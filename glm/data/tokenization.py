"""The tokenizer of GLM-Large-Chinese and GLM-10B-Chinese, read from a directory by sentencepiece alone.

A directory is what paddlenlp's GLMChineseTokenizer reads and writes: the sentencepiece model cog-pretrain.model, and
added_tokens.json with the ids of the special pieces. Texts get the ids that GLMChineseTokenizer gives them, with two
differences: line breaks become the piece <n>, which the published model has for them, instead of spaces; and a text
never produces special pieces, not even if it spells "[gMASK]". Importing this takes no paddle, so the C++ runtimes can
be served by it.
"""

import json
import shutil
from functools import cached_property
from pathlib import Path
from typing import Annotated

from glm.data import preparation
from glm.data.piece_models import NEWLINE_CHARACTER, load_pieces
from glm.errors import UserError
from glm.files import descriptions
from glm.files.native_paths import native_path

MODEL_FILE = "cog-pretrain.model"
ADDED_TOKENS_FILE, CONFIGURATION_FILE = "added_tokens.json", "tokenizer_config.json"
# The order in which the published vocabulary numbers them, right after the sentencepiece model's own pieces.
SPECIAL_PIECES = (
    "<|endoftext|>",
    "[SEP]",
    "[CLS]",
    "[MASK]",
    "[UNUSED1]",
    "[UNUSED2]",
    "<|startofpiece|>",
    "<|endofpiece|>",
    "[sMASK]",
    "[gMASK]",
)


class TokenizerError(UserError):
    """A directory is no usable GLM tokenizer; the message says why, in one line."""


class Tokenizer:
    """Text ↔ ids. cls_id, mask_id ([gMASK]), eos_id (<|endoftext|>, also the padding), sop_id, eop_id and unk_id (what
    the vocabulary does not know) are ints. preparation: preparation.Preparation of the model that it is of."""

    def __init__(self, directory):
        """Read a tokenizer directory. Raises TokenizerError."""
        self.directory = Path(directory)
        model_file = self.directory / MODEL_FILE
        if not model_file.is_file():
            raise TokenizerError(
                f"{directory}: no {MODEL_FILE} there, which every GLM has; give the directory of a whole model"
            )
        try:
            self.pieces = load_pieces(model_file.read_bytes(), SPECIAL_PIECES)
        except (OSError, ValueError) as error:
            raise TokenizerError(f"{model_file}: not a sentencepiece model ({error})") from None
        check_configuration(self.directory / CONFIGURATION_FILE)
        self.preparation = preparation.read(self.directory) or preparation.DEFAULT
        self.special_ids = self._read_special_ids()
        self.special_numbers = frozenset(self.special_ids.values())
        self.cls_id = self.special_ids["[CLS]"]
        self.mask_id = self.special_ids["[gMASK]"]
        self.eos_id = self.special_ids["<|endoftext|>"]
        self.sop_id = self.special_ids["<|startofpiece|>"]
        self.eop_id = self.special_ids["<|endofpiece|>"]
        self.unk_id, self.piece_count = self.pieces.unk_id(), len(self.pieces)
        # sentencepiece itself turns line breaks into spaces.
        known = self.pieces.PieceToId(NEWLINE_CHARACTER) != self.unk_id
        self.newline_piece = NEWLINE_CHARACTER if known else ""

    def _read_special_ids(self):
        """Ids of SPECIAL_PIECES, from added_tokens.json or, failing that, from the sentencepiece model."""
        path = self.directory / ADDED_TOKENS_FILE
        ids = {}
        if path.is_file():
            ids = descriptions.read(path, special_ids_schema(), TokenizerError)
        for piece in SPECIAL_PIECES:
            ids.setdefault(piece, self.pieces.PieceToId(piece))
        missing = [piece for piece in SPECIAL_PIECES if ids[piece] == self.pieces.unk_id()]
        if missing:
            raise TokenizerError(
                f"{self.directory}: no ids for {', '.join(missing)}; put {ADDED_TOKENS_FILE} beside {MODEL_FILE}"
            )
        special_ids = {piece: ids[piece] for piece in SPECIAL_PIECES}
        if len(set(special_ids.values())) < len(SPECIAL_PIECES) or min(special_ids.values()) < 0:
            raise TokenizerError(
                f"{path}: two special tokens have one id, or one has none; fetch the file of the model anew"
            )
        for piece, number in special_ids.items():
            if number < len(self.pieces) and self.pieces.IdToPiece(number) != piece:
                other = self.pieces.IdToPiece(number)
                raise TokenizerError(
                    f"{path}: {piece} has the id {number}, which is that of {other!r} in {MODEL_FILE}; fetch both anew"
                )
        return special_ids

    def check_fits(self, rows, place):
        """Raise TokenizerError if a model with so many rows of embeddings, which `place` says, has none for some id."""
        if len(self) > rows:
            raise TokenizerError(
                f"{self.directory}: this tokenizer has {len(self)} ids, but {place} says vocab_size {rows}; "
                "are both of one model?"
            )

    def __len__(self):
        """Number of ids, special pieces included: one more than the highest."""
        return max(len(self.pieces), max(self.special_ids.values()) + 1)

    def encode(self, text):
        """Ids of a text. What spells a special piece, or the one for line breaks, is text like any other."""
        return self.pieces.Encode(self.with_newline_pieces(text))

    def with_newline_pieces(self, text):
        """A text whose line breaks are spelled as the sentencepiece model knows them, if it does."""
        if not self.newline_piece:
            return text
        # A text that holds the stand-in itself has no line break there.
        text = text.replace(self.newline_piece, "\ufffd")
        return text.replace("\r\n", "\n").replace("\n", self.newline_piece)

    def normalized(self, text):
        """(a text as the sentencepiece model spells it, without a space in front; list of where each character of that
        comes from in the text, and its length at the end)."""
        spelled = self.with_newline_pieces(text)
        places = list(range(len(text) + 1))
        if self.newline_piece:
            # Of \r\n one character is left.
            places = [place for place in places if text[place : place + 2] != "\r\n"]
        spelled, origin = self.pieces.Normalize(spelled, with_offsets=True)
        first = 1 if self.begins_with_space and spelled else 0
        return spelled[first:], [places[place] for place in origin[first:]]

    @cached_property
    def begins_with_space(self):
        """Whether the first piece of every text begins with a space."""
        return self.pieces.Normalize("a").startswith("▁")

    @cached_property
    def spellings(self):
        """{what a piece spells: its id} of all pieces that stand for text."""
        pieces = self.pieces
        return {
            pieces.IdToPiece(number): number
            for number in range(len(pieces))
            if number not in self.special_numbers
            and not (pieces.IsControl(number) or pieces.IsUnknown(number) or pieces.IsUnused(number))
        }

    @cached_property
    def beginnings(self):
        """What pieces that stand for text begin with, whole ones left out."""
        return frozenset(piece[:length] for piece in self.spellings for length in range(1, len(piece)))

    def unknown_characters(self, text):
        """The characters of a text that the vocabulary does not know, as a list in their order, each as often as it
        stands there. A model reads and writes the same piece for all of them. In the sentencepiece model's spelling:
        NFKC, for that of the published models."""
        text = self.with_newline_pieces(text)
        ids = self.pieces.Encode(text)
        if self.unk_id not in ids:
            return []
        # Of an unknown piece, which may be several characters, sentencepiece gives the text.
        spelled = zip(ids, self.pieces.Encode(text, out_type=str), strict=True)
        return [character for piece_id, piece in spelled if piece_id == self.unk_id for character in piece]

    def decode(self, ids):
        """Text of ids; special pieces are left out, and so is everything from the first <|endofpiece|> on."""
        ids = ids.tolist() if hasattr(ids, "tolist") else [*map(int, ids)]
        if self.eop_id in ids:
            ids = ids[: ids.index(self.eop_id)]
        return self.text_of([i for i in ids if i < self.piece_count and i not in self.special_numbers])

    def text_of(self, ids):
        """Text of ids that are no special pieces."""
        text = self.pieces.Decode(ids)
        return text.replace(self.newline_piece, "\n") if self.newline_piece else text

    def spelled(self, ids):
        """Text of ids with the names of special pieces in it, for showing what a model reads."""
        names = {number: piece for piece, number in self.special_ids.items()}
        text, pending = "", []
        for piece_id in [*map(int, ids), None]:
            if piece_id is not None and piece_id not in names:
                pending.append(piece_id)
                continue
            text += self.text_of(pending) + names.get(piece_id, "")
            pending = []
        return text

    def banned_ids(self, vocab_size):
        """Ids that must not be generated, sorted: all that stand for no text, except <|endofpiece|>.

        These are the special pieces, the sentencepiece model's control and unknown pieces, and the rows of the
        embedding matrix (vocab_size of them) that belong to no piece.
        """
        no_text = [i for i in range(len(self.pieces)) if self.pieces.IsControl(i) or self.pieces.IsUnknown(i)]
        banned = {*no_text, *self.special_numbers, *range(len(self), vocab_size)} - {self.eop_id}
        return tuple(sorted(banned))

    def save(self, directory):
        """Copy the tokenizer into a directory, in the form that GLMChineseTokenizer.from_pretrained reads."""
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        model_file = target / MODEL_FILE
        if not (model_file.exists() and model_file.samefile(self.directory / MODEL_FILE)):
            shutil.copyfile(self.directory / MODEL_FILE, model_file)
        write_configuration(target, self.special_ids)


class TextStream:
    """The text of ids that come one after another, in pieces that are never taken back and join to the whole text. A
    piece takes as long as it has ids, however long the text is."""

    # Ids that are decoded again before new ones, for how a piece is spelled may depend on those before it.
    CONTEXT = 4

    def __init__(self, tokenizer):
        self.tokenizer, self.ended = tokenizer, False
        # The ids that are still decoded, and how many characters of their text have been given.
        self.ids, self.given = [], 0
        # How many ids have come.
        self.count = 0

    def add(self, ids, final=False):
        """What to show of further ids after the pieces before: "" while characters are incomplete, all that is missing
        if final."""
        tokenizer = self.tokenizer
        self.count += len(ids)
        for piece_id in map(int, ids):
            self.ended = self.ended or piece_id == tokenizer.eop_id
            if not self.ended and piece_id not in tokenizer.special_numbers and piece_id < len(tokenizer.pieces):
                self.ids.append(piece_id)
        text = tokenizer.text_of(self.ids)
        whole = text if final else self.without_beginnings(text)
        new = whole[self.given :]
        self.given = max(self.given, len(whole))
        if len(whole) == len(text) and len(self.ids) > 2 * self.CONTEXT:
            self.ids = self.ids[-self.CONTEXT :]
            self.given = len(tokenizer.text_of(self.ids))
        return new

    def without_beginnings(self, text):
        """A text without the beginning of a character, or of a line break, at its end."""
        # Bytes that make no character yet are decoded as this one.
        text = text.rstrip("\ufffd")
        newline = self.tokenizer.newline_piece
        begun = (newline[:length] for length in range(len(newline) - 1, 0, -1))
        return text.removesuffix(next(filter(text.endswith, begun), ""))


def special_ids_schema():
    """Of added_tokens.json: pieces and their ids."""
    from pydantic import Field

    return dict[str, Annotated[int, Field(ge=0, lt=2**31)]]


def check_configuration(path):
    """Raise TokenizerError if a tokenizer_config.json wants files from elsewhere: other readers would follow it."""
    if not path.exists():
        return
    for key, value in descriptions.read(path, dict, TokenizerError).items():
        if key.endswith("_file") and isinstance(value, str) and Path(value).name != value:
            raise TokenizerError(f"{path}: {key} is {value}, outside of the directory; remove it")


def complete(directory):
    """Make a directory that may hold the sentencepiece model alone a tokenizer: write the ids of the special pieces.

    They are numbered as the published vocabulary numbers them. A model that knows them itself is left as it is.
    """
    import sentencepiece

    if (Path(directory) / ADDED_TOKENS_FILE).is_file():
        return
    pieces = sentencepiece.SentencePieceProcessor()
    with native_path(Path(directory) / MODEL_FILE) as name:
        pieces.Load(str(name))
    if pieces.PieceToId("[gMASK]") == pieces.unk_id():
        write_configuration(directory, {piece: len(pieces) + i for i, piece in enumerate(SPECIAL_PIECES)})


def write_configuration(directory, special_ids):
    """Write added_tokens.json and tokenizer_config.json as paddlenlp's GLMChineseTokenizer expects them."""
    configuration = {
        "tokenizer_class": "GLMChineseTokenizer",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "unk_token": "[UNK]",
        "mask_token": "[MASK]",
        "pad_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "additional_special_tokens": list(SPECIAL_PIECES[4:]),
        "do_lower_case": True,
    }
    for name, content in ((ADDED_TOKENS_FILE, special_ids), (CONFIGURATION_FILE, configuration)):
        text = json.dumps(content, ensure_ascii=False, indent=2)
        (Path(directory) / name).write_text(text + "\n", encoding="utf8")


def copy(source, target):
    """Copy what there is of a tokenizer in one directory into another, and how a model's prompts are made."""
    for name in (MODEL_FILE, ADDED_TOKENS_FILE, CONFIGURATION_FILE, preparation.FILE):
        if (Path(source) / name).is_file():
            shutil.copyfile(Path(source) / name, Path(target) / name)
