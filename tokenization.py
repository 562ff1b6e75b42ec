"""The tokenizer of GLM-Large-Chinese and GLM-10B-Chinese, read from a directory by sentencepiece alone.

A directory is what paddlenlp's GLMChineseTokenizer reads and writes: the sentencepiece model cog-pretrain.model, and
added_tokens.json with the ids of the special pieces. Texts get the ids that GLMChineseTokenizer gives them, with two
differences: line breaks become the piece <n>, which the published model has for them, instead of spaces; and a text
never produces special pieces, not even if it spells "[gMASK]". Importing this takes no paddle, so the C++ runtimes can
be served by it.
"""

import json
import shutil
from pathlib import Path

from errors import UserError

MODEL_FILE = "cog-pretrain.model"
ADDED_TOKENS_FILE, CONFIGURATION_FILE = "added_tokens.json", "tokenizer_config.json"
# What a line break is written as, if the sentencepiece model has it as a piece that texts may spell.
NEWLINE_PIECE = "<n>"
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
    """Text ↔ ids. cls_id, mask_id ([gMASK]), eos_id (<|endoftext|>, also the padding), sop_id and eop_id are ints."""

    def __init__(self, directory):
        """Read a tokenizer directory. Raises TokenizerError."""
        import sentencepiece

        self.directory = Path(directory)
        model_file = self.directory / MODEL_FILE
        if not model_file.is_file():
            raise TokenizerError(f"{directory}: no {MODEL_FILE} there; it is no directory of a GLM tokenizer")
        self.pieces = sentencepiece.SentencePieceProcessor()
        try:
            self.pieces.Load(str(model_file))
        except (OSError, RuntimeError) as error:
            raise TokenizerError(f"{model_file}: not a sentencepiece model ({str(error).splitlines()[0]})") from None
        check_configuration(self.directory / CONFIGURATION_FILE)
        self.special_ids = self._read_special_ids()
        self.special_numbers = frozenset(self.special_ids.values())
        self.cls_id = self.special_ids["[CLS]"]
        self.mask_id = self.special_ids["[gMASK]"]
        self.eos_id = self.special_ids["<|endoftext|>"]
        self.sop_id = self.special_ids["<|startofpiece|>"]
        self.eop_id = self.special_ids["<|endofpiece|>"]
        # sentencepiece itself turns line breaks into spaces.
        known = self.pieces.PieceToId(NEWLINE_PIECE) != self.pieces.unk_id()
        self.newline_piece = NEWLINE_PIECE if known else ""

    def _read_special_ids(self):
        """Ids of SPECIAL_PIECES, from added_tokens.json or, failing that, from the sentencepiece model."""
        path = self.directory / ADDED_TOKENS_FILE
        ids = {}
        if path.is_file():
            try:
                ids = json.loads(path.read_text(encoding="utf8"))
            except (ValueError, RecursionError) as error:
                raise TokenizerError(f"{path}: not JSON ({error})") from None
            if not isinstance(ids, dict) or not all(type(number) is int for number in ids.values()):
                raise TokenizerError(f"{path}: must hold one object, from pieces to their ids")
        for piece in SPECIAL_PIECES:
            ids.setdefault(piece, self.pieces.PieceToId(piece))
        missing = [piece for piece in SPECIAL_PIECES if ids[piece] == self.pieces.unk_id()]
        if missing:
            raise TokenizerError(
                f"{self.directory}: no ids for {', '.join(missing)}; put {ADDED_TOKENS_FILE} beside {MODEL_FILE}"
            )
        special_ids = {piece: ids[piece] for piece in SPECIAL_PIECES}
        if len(set(special_ids.values())) < len(SPECIAL_PIECES) or min(special_ids.values()) < 0:
            raise TokenizerError(f"{path}: every special piece needs an id of its own")
        return special_ids

    def __len__(self):
        """Number of ids, special pieces included: one more than the highest."""
        return max(len(self.pieces), max(self.special_ids.values()) + 1)

    def encode(self, text):
        """Ids of a text, without special pieces: where the sentencepiece model knows them, they are taken out."""
        special = self.special_numbers
        if self.newline_piece:
            text = text.replace("\r\n", "\n").replace("\n", self.newline_piece)
        return [piece_id for piece_id in self.pieces.Encode(text) if piece_id not in special]

    def decode(self, ids):
        """Text of ids; special pieces are left out, and so is everything from the first <|endofpiece|> on."""
        text_ids = []
        for piece_id in map(int, ids):
            if piece_id == self.eop_id:
                break
            if piece_id not in self.special_numbers and piece_id < len(self.pieces):
                text_ids.append(piece_id)
        return self._text(text_ids)

    def _text(self, ids):
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
            text += self._text(pending) + names.get(piece_id, "")
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
    """The text of a growing list of ids, in pieces that are never taken back and join to the whole text."""

    def __init__(self, tokenizer):
        self.tokenizer, self.sent = tokenizer, ""

    def piece(self, ids, final=False):
        """What to show after the pieces before: "" while characters are incomplete, all that is missing if final."""
        text = self.tokenizer.decode(ids)
        if not final:
            # Bytes that make no character yet are decoded as this one; and what begins a line break may become one.
            text = text.rstrip("\ufffd")
            newline = self.tokenizer.newline_piece
            begun = (newline[:length] for length in range(len(newline) - 1, 0, -1))
            text = text.removesuffix(next(filter(text.endswith, begun), ""))
        if not text.startswith(self.sent):
            return ""
        new, self.sent = text[len(self.sent) :], text
        return new


def check_configuration(path):
    """Raise TokenizerError if a tokenizer_config.json wants files from elsewhere: other readers would follow it."""
    if not path.is_file():
        return
    try:
        content = json.loads(path.read_text(encoding="utf8"))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: not JSON ({error})") from None
    for key, value in content.items() if isinstance(content, dict) else ():
        if key.endswith("_file") and isinstance(value, str) and Path(value).name != value:
            raise TokenizerError(f"{path}: {key} is {value}, outside of the directory; remove it")


def complete(directory):
    """Make a directory that may hold the sentencepiece model alone a tokenizer: write the ids of the special pieces.

    They are numbered as the published vocabulary numbers them. A model that knows them itself is left as it is.
    """
    import sentencepiece

    if (Path(directory) / ADDED_TOKENS_FILE).is_file():
        return
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(Path(directory) / MODEL_FILE))
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
    """Copy what there is of a tokenizer in one directory into another."""
    for name in (MODEL_FILE, ADDED_TOKENS_FILE, CONFIGURATION_FILE):
        if (Path(source) / name).is_file():
            shutil.copyfile(Path(source) / name, Path(target) / name)
