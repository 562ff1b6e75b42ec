"""The lines of a file of records, none longer than a limit: what was meant to be many lines, or was made to take all
memory, is not read as one. Standard library only."""

# Bytes of a line, or of an item of a JSON array; Chinese characters take three each.
DEFAULT_LIMIT = 2**26
FLAG = "max_record_bytes"
LIMIT = {"bytes": DEFAULT_LIMIT}
BLOCK = 2**20


def set_limit(size):
    """Have all reading of this process take lines of at most `size` bytes."""
    LIMIT["bytes"] = size


def limit():
    """Bytes that a line may have."""
    return LIMIT["bytes"]


def too_long():
    """What is wrong with a longer one, and what to do, as two texts."""
    return f"has more than {limit():,} bytes", f"write one record on each line, or raise --{FLAG}"


def numbered_lines(path):
    """Yield (number from 1, bytes without the end LF) for each line of a file; None instead of the bytes of one that is
    too long, which is passed over without being in memory. Raises OSError."""
    longest = limit()
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(longest + 1):
            number += 1
            if len(line) <= longest or line.endswith(b"\n"):
                yield number, line.removesuffix(b"\n")
                continue
            del line
            while (rest := file.readline(BLOCK)) and not rest.endswith(b"\n"):
                pass
            yield number, None
