"""--normalize: texts in the characters that the vocabulary has."""

from functools import lru_cache

# "simplified": traditional Chinese characters become simplified ones, as OpenCC's t2s has them.
CHOICES = ("off", "simplified")


@lru_cache
def normalizer(name: str):
    """A function from text to text, one of CHOICES."""
    if name == "off":
        return str
    import opencc

    return opencc.OpenCC("t2s").convert


def normalized(fields: dict, name: str) -> dict:
    """A record's fields with all texts normalized.

    How a character is written may depend on those beside it, so an answer that stands in the context is taken from
    there: it still stands there afterwards.
    """
    if name == "off":
        return fields
    convert = normalizer(name)
    found = {field: convert(text) if isinstance(text, str) else text for field, text in fields.items()}
    context, answer = fields.get("context"), fields.get("answer")
    if isinstance(context, str) and isinstance(answer, str) and len(found["context"]) == len(context):
        start = context.find(answer)
        if start >= 0:
            found["answer"] = found["context"][start : start + len(answer)]
    return found
