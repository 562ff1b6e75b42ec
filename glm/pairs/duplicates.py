"""Questions that were asked before: the same one, or one whose characters are nearly the same.

Two questions are near where the sets of their runs of 3 characters have a Jaccard index above 0.8. Candidates for that
are found by MinHash (Broder 1997, "On the resemblance and containment of documents") in bands, then compared. What was
asked is kept in a temporary SQLite database, so that memory does not grow with it.
"""

import sqlite3
import zlib

import numpy as np

from glm.metrics import normalize

NEAR = 0.8
# So many hashes, of which a band has so many: of questions at the threshold, 0.9998 meet in one band at least.
HASHES, ROWS = 64, 4
PRIME = 2**61 - 1
_generator = np.random.default_rng(20)
FACTORS = [int(number) for number in _generator.integers(1, PRIME, HASHES)]
SHIFTS = [int(number) for number in _generator.integers(0, PRIME, HASHES)]


class Asked:
    """Questions that pairs were kept for, by which later ones are held to be duplicates."""

    def __init__(self):
        # An empty name is a database in a temporary file, which goes with the connection.
        self.database = sqlite3.connect("")
        self.database.execute("PRAGMA journal_mode = OFF")
        self.database.execute("CREATE TABLE questions (number INTEGER PRIMARY KEY, id TEXT, question TEXT)")
        self.database.execute("CREATE TABLE bands (band INTEGER, number INTEGER)")
        self.database.execute("CREATE INDEX of_band ON bands (band)")

    def find(self, question: str) -> str | None:
        """The id of a pair that asks the same, the first there is; None if there is none."""
        ours, bands = grams(question), bands_of(question)
        places = ",".join("?" * len(bands))
        query = f"SELECT DISTINCT number FROM bands WHERE band IN ({places}) ORDER BY number"
        for (number,) in self.database.execute(query, bands).fetchall():
            pair, other = self.database.execute(
                "SELECT id, question FROM questions WHERE number = ?", [number]
            ).fetchone()
            if jaccard(ours, grams(other)) > NEAR:
                return pair
        return None

    def add(self, pair: str, question: str) -> None:
        """Have a pair's question be one that was asked."""
        cursor = self.database.execute("INSERT INTO questions (id, question) VALUES (?, ?)", [pair, question])
        rows = [(band, cursor.lastrowid) for band in bands_of(question)]
        self.database.executemany("INSERT INTO bands VALUES (?, ?)", rows)

    def close(self) -> None:
        """Let go of the database."""
        self.database.close()


def plain(question: str) -> str:
    """A question as it is compared: its letters and digits, normalized, in lower case."""
    return "".join(character for character in normalize(question).lower() if character.isalnum())


def grams(question: str, size: int = 3) -> frozenset:
    """The runs of 3 characters of a question as it is compared; of a shorter one, itself."""
    text = plain(question)
    return frozenset(text[i : i + size] for i in range(max(1, len(text) - size + 1)))


def jaccard(a: frozenset, b: frozenset) -> float:
    """Jaccard index of two sets."""
    return len(a & b) / len(a | b) if a or b else 1.0


def bands_of(question: str) -> list[int]:
    """Numbers of 64 bits, of which two questions that are near have one in common."""
    numbers = [zlib.crc32(gram.encode("utf8", "surrogatepass")) for gram in grams(question)]
    least = [min((a * number + b) % PRIME for number in numbers) for a, b in zip(FACTORS, SHIFTS, strict=True)]
    return [hash_of((band, *least[band * ROWS : (band + 1) * ROWS])) for band in range(HASHES // ROWS)]


def hash_of(numbers) -> int:
    """A number below 2**63 that stands for some numbers."""
    content = ",".join(map(str, numbers)).encode()
    return zlib.crc32(content) << 31 ^ zlib.adler32(content)
