"""What of a prompt a model does not get to read: what was cut off, and characters that its vocabulary does not know."""

from collections import Counter

from glm.errors import printable

# How many characters a message shows.
SHOWN = 5


def unknown_characters(row, tokenizer) -> list[str]:
    """The characters in the source of an examples.Encoded, as far as it was not cut, that the vocabulary does not know:
    each once, in their order. tokenizer: tokenization.Tokenizer."""
    if tokenizer.unk_id not in row.source_ids:
        return []
    return list(dict.fromkeys(tokenizer.unknown_characters(row.source)))


def told(rows, tokenizer, src_length) -> str | None:
    """How many of the prompts, a list of examples.Encoded, were cut to src_length and how many have unknown characters,
    in one line with what helps; None where nothing was lost."""
    cut = [row for row in rows if row.source_cut]
    unknown = [found for row in rows if (found := unknown_characters(row, tokenizer))]
    parts = []
    if cut:
        longest = max(row.full_source_length for row in cut)
        parts.append(
            f"{len(cut)} of {len(rows)} prompts were cut to --src_length {src_length} tokens "
            f"(the longest has {longest}), a higher one keeps more"
        )
    if unknown:
        counts = Counter(character for found in unknown for character in found)
        shown = printable(" ".join(character for character, _ in counts.most_common(SHOWN)))
        parts.append(
            f"{len(unknown)} of {len(rows)} prompts have characters that the vocabulary does not know, and that are "
            f"all the same to the model, e.g. {shown}"
        )
    return "; ".join(parts) or None
