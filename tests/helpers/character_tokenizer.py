"""A tokenizer whose pieces are given, for tests of what texts are made of."""

from types import SimpleNamespace


def tokenizer_of(pieces, eop, begins_with_space=False, first_id=0):
    """The part of tokenization.Tokenizer that allowed_texts needs; texts are spelled as they are. The pieces get ids
    from first_id on."""
    return SimpleNamespace(
        spellings={piece: first_id + number for number, piece in enumerate(pieces)},
        beginnings=frozenset(piece[:length] for piece in pieces for length in range(1, len(piece))),
        begins_with_space=begins_with_space,
        eop_id=eop,
        normalized=lambda text: (text, list(range(len(text) + 1))),
    )
