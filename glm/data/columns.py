"""--columns: which column of a data file each field of a record is. Standard library only."""

import difflib
import re

from glm.errors import UserError

# Names at the most that a message lists.
SHOWN = 20


def parse_columns(texts) -> tuple[tuple[str, str], ...]:
    """(field, column) pairs of "field=column" texts, several of which may stand in one, divided by commas. Raises
    UserError."""
    pairs = []
    for text in texts or ():
        # A column's own name may have commas: one divides where a field follows it.
        for pair in re.split(r",(?=[^,=]+=)", text):
            field, sign, column = (part.strip() for part in pair.partition("="))
            if not (field and sign and column):
                raise UserError(f"--columns {pair}: write FIELD=COLUMN, as in context=passage")
            pairs.append((field, column))
    fields = [field for field, _ in pairs]
    if twice := [field for field in fields if fields.count(field) > 1]:
        raise UserError(f"--columns: {twice[0]} is given twice")
    return tuple(pairs)


def check_fields(columns, known) -> None:
    """Raise UserError for a field on the left that nothing knows."""
    for field, column in columns:
        if field not in known:
            raise UserError(f"--columns {field}={column}: {unknown('no field', field, known, 'known are')}")


def check_columns(columns, present, path) -> None:
    """Raise UserError for a column that a file, which has those `present`, has not."""
    for field, column in columns:
        if column not in present:
            told = unknown("no column", column, present, "it has")
            raise UserError(f"{path}: {told}; mend --columns {field}={column}")


def unknown(what, name, known, have) -> str:
    """Words for a name that is not among the known ones: its nearest neighbour, and all of them."""
    known = [*map(str, known)]
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    guess = f", did you mean {near[0]!r}?" if near else ""
    names = ", ".join(known[:SHOWN]) + (", …" if len(known) > SHOWN else "")
    return f"{what} {name!r}{guess} ({have} {names})"
