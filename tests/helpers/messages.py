"""The messages that are in the code: templates of what its strings and f-strings make, found by their words."""

import ast
import re
from functools import lru_cache

from tests.helpers import ROOT

# What a message has: two words, or a word beside a value.
WORDS = re.compile(r"[A-Za-z]{2,},? [A-Za-z]{2,}|[a-z]+ \{\d|\d\} [a-z]+")
# Places of values in what is filled in later: "{}", "{:.2e}", "%d".
LATER = re.compile(r"\{\}|\{:[^{}]+\}|%d")
PLACE = re.compile(r"\{\d+\*?\}")
# What parts of a message are joined by, and what stands around a part.
AROUND = re.compile(r"^(?:\{\d+\}|[;:,.\s()])+|(?:\{\d+\}|[;:,.\s()])+$")
# Modules whose words go to programs (answers of the server in JSON, its metrics) or are of other programs.
FOR_PROGRAMS = {
    f"glm/serving/{name}.py"
    for name in ("requests", "schemas", "openai_requests", "catalogue", "exchanges", "monitoring", "origins", "forms")
}

# Several lines, each a message of its own.
LINES = ("All scores: 0-100",)


def sources():
    """{path from the root: parsed file} of the scripts, what they share, and the library."""
    paths = [*ROOT.glob("*.py"), *(ROOT / "glm").rglob("*.py")]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf8")) for path in sorted(paths)}


@lru_cache
def strings():
    """{template: where it is} of all strings in the code that may be told."""
    return {
        part: f"{path}:{line}"
        for path, tree in sources().items()
        if path not in FOR_PROGRAMS
        for line, template in texts_of(tree)
        for part in (template.split("\n") if template.startswith(LINES) else [template])
    }


def texts_of(node):
    """(line, template) of each string in a piece of code that is no docstring; values are {0}, {1}, …, adjacent ones
    one."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    inner = ast.iter_child_nodes(node)
    if isinstance(node, ast.JoinedStr):
        values = [part.value if isinstance(part, ast.Constant) else None for part in node.values]
        yield node.lineno, numbered(values)
        inner = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        parts = LATER.split(node.value)
        yield node.lineno, numbered([part for text in parts for part in (None, text)][1:])
    for child in inner:
        yield from texts_of(child)


def numbered(parts):
    """A template of texts and values (None)."""
    found, number = "", 0
    for part in parts:
        if part is not None:
            found += part
        elif not found.endswith("}") or not PLACE.search(found[-4:]):
            found += f"{{{number}}}"
            number += 1
    return found


def core(template):
    """A template without what is around its words, its places all alike: the same for a part and for what has it."""
    return PLACE.sub("{}", AROUND.sub("", template))
