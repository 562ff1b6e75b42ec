"""The tokenizer of GLM-Large-Chinese and GLM-10B-Chinese, read from a directory by sentencepiece alone.

A directory is what paddlenlp's GLMChineseTokenizer reads and writes: the sentencepiece model cog-pretrain.model, and
added_tokens.json with the ids of the special pieces. Texts get the ids that GLMChineseTokenizer gives them, with one
difference that matters for untrusted input: a text never produces special pieces, not even if it spells "[gMASK]".
Importing this takes no paddle, so the C++ runtimes can be served by it.
"""

import json
import shutil
from pathlib import Path

from errors import UserError

MODEL_FILE = "cog-pretrain.model"
ADDED_TOKENS_FILE = "added_tokens.json"
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
        self.special_ids = self._read_special_ids()
        self.cls_id = self.special_ids["[CLS]"]
        self.mask_id = self.special_ids["[gMASK]"]
        self.eos_id = self.special_ids["<|endoftext|>"]
        self.sop_id = self.special_ids["<|startofpiece|>"]
        self.eop_id = self.special_ids["<|endofpiece|>"]

    def _read_special_ids(self):
        """Ids of SPECIAL_PIECES, from added_tokens.json or, failing that, from the sentencepiece model."""
        path = self.directory / ADDED_TOKENS_FILE
        ids = {}
        if path.is_file():
            try:
                ids = json.loads(path.read_text(encoding="utf8"))
            except ValueError as error:
                raise TokenizerError(f"{path}: not JSON ({error})") from None
        for piece in SPECIAL_PIECES:
            ids.setdefault(piece, self.pieces.PieceToId(piece))
        missing = [piece for piece in SPECIAL_PIECES if ids[piece] == self.pieces.unk_id()]
        if missing:
            raise TokenizerError(
                f"{self.directory}: no ids for {', '.join(missing)}; put {ADDED_TOKENS_FILE} beside {MODEL_FILE}"
            )
        return {piece: ids[piece] for piece in SPECIAL_PIECES}

    def __len__(self):
        """Number of ids, special pieces included: one more than the highest."""
        return max(len(self.pieces), max(self.special_ids.values()) + 1)

    def encode(self, text):
        """Ids of a text, without special pieces."""
        return self.pieces.Encode(text)

    def decode(self, ids):
        """Text of ids; special pieces are left out, and so is everything from the first <|endofpiece|> on."""
        special = set(self.special_ids.values())
        text_ids = []
        for piece_id in map(int, ids):
            if piece_id == self.eop_id:
                break
            if piece_id not in special and piece_id < len(self.pieces):
                text_ids.append(piece_id)
        return self.pieces.Decode(text_ids)

    def banned_ids(self, vocab_size):
        """Ids that must not be generated, sorted: all that stand for no text, except <|endofpiece|>.

        These are the special pieces, the sentencepiece model's control and unknown pieces, and the rows of the
        embedding matrix (vocab_size of them) that belong to no piece.
        """
        no_text = [i for i in range(len(self.pieces)) if self.pieces.IsControl(i) or self.pieces.IsUnknown(i)]
        banned = {*no_text, *self.special_ids.values(), *range(len(self), vocab_size)} - {self.eop_id}
        return tuple(sorted(banned))

    def save(self, directory):
        """Copy the tokenizer into a directory, in the form that GLMChineseTokenizer.from_pretrained reads."""
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        model_file = target / MODEL_FILE
        if not (model_file.exists() and model_file.samefile(self.directory / MODEL_FILE)):
            shutil.copyfile(self.directory / MODEL_FILE, model_file)
        write_configuration(target, self.special_ids)


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
    for name, content in ((ADDED_TOKENS_FILE, special_ids), ("tokenizer_config.json", configuration)):
        text = json.dumps(content, ensure_ascii=False, indent=2)
        (Path(directory) / name).write_text(text + "\n", encoding="utf8")
