"""What of a prompt a model does not get to read: what was cut off, and characters that its vocabulary does not know."""

from collections import Counter

from glm.errors import printable

# How many characters a message shows.
SHOWN = 5


class LostText:
    """Counts what of prompts is lost, without keeping them."""

    def __init__(self):
        self.prompts, self.cut, self.longest, self.unknown, self.characters = 0, 0, 0, 0, Counter()

    def see(self, row):
        """Count an examples.Encoded."""
        self.prompts += 1
        if row.source_cut:
            self.cut += 1
            self.longest = max(self.longest, row.full_source_length)
        if row.unknown_source:
            self.unknown += 1
            self.characters.update(row.unknown_source)

    def told(self, src_length) -> str | None:
        """How many of the prompts were cut to src_length and how many have unknown characters, in one line with what
        helps; None where nothing was lost."""
        parts = []
        if self.cut:
            parts.append(
                f"{self.cut} of {self.prompts} prompts were cut to --src_length {src_length} tokens "
                f"(the longest has {self.longest}), a higher one keeps more"
            )
        if self.unknown:
            shown = printable(" ".join(character for character, _ in self.characters.most_common(SHOWN)))
            parts.append(
                f"{self.unknown} of {self.prompts} prompts have characters that the vocabulary does not know, and that "
                f"are all the same to the model, e.g. {shown}"
            )
        return "; ".join(parts) or None


def told(rows, src_length) -> str | None:
    """LostText.told() of a list of examples.Encoded."""
    lost = LostText()
    for row in rows:
        lost.see(row)
    return lost.told(src_length)
