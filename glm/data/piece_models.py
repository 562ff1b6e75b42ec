"""The sentencepiece model of a vocabulary, changed in memory so that a text never spells what is not text.

A user defined piece is found in any text that spells it: the published vocabulary has <n> as one, which stands for a
line break, and vector<n> would be read as vector and a line break. Here that piece has a name that no text has, and
special pieces that the model knows itself are made control pieces, which are never found. Ids stay what they are.
"""

from functools import lru_cache

# What a line break is written as, if the sentencepiece model has it as a piece.
NEWLINE_PIECE = "<n>"
# The name of that piece here: a code point that is no character, and that Unicode never makes one.
NEWLINE_CHARACTER = "\ufdd0"
# Of sentencepiece_model.proto, SentencePiece.Type.
CONTROL, USER_DEFINED = 3, 4


def load_pieces(content, special_pieces):
    """A SentencePieceProcessor of a model file's bytes, changed as above. Raises ValueError, in one line."""
    import sentencepiece
    from google.protobuf.message import DecodeError

    pieces = sentencepiece.SentencePieceProcessor()
    try:
        model = message_class().FromString(content)
        for piece in model.pieces:
            if piece.piece == NEWLINE_PIECE:
                piece.piece, piece.type = NEWLINE_CHARACTER, USER_DEFINED
            elif piece.piece in special_pieces:
                piece.type = CONTROL
        pieces.LoadFromSerializedProto(model.SerializeToString())
    except (DecodeError, RuntimeError) as error:
        raise ValueError(str(error).splitlines()[0]) from None
    return pieces


@lru_cache
def message_class():
    """A protobuf class of the part of sentencepiece's ModelProto that is changed; the rest goes through it as it is.

    sentencepiece's own needs a newer protobuf than paddlenlp works with.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="glm_pieces.proto", package="glm_pieces", syntax="proto2")
    kinds = descriptor_pb2.FieldDescriptorProto
    piece = file.message_type.add(name="Piece")
    for number, (name, kind) in enumerate(
        (("piece", kinds.TYPE_STRING), ("score", kinds.TYPE_FLOAT), ("type", kinds.TYPE_INT32)), 1
    ):
        piece.field.add(name=name, number=number, type=kind, label=kinds.LABEL_OPTIONAL)
    model = file.message_type.add(name="Model")
    label = kinds.LABEL_REPEATED
    model.field.add(name="pieces", number=1, type=kinds.TYPE_MESSAGE, type_name=".glm_pieces.Piece", label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("glm_pieces.Model"))
