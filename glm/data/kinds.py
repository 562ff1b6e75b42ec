"""What a data file is: by its content where that decides, else by its name. Standard library only."""

import json
import re
import zipfile
from pathlib import Path

from glm.data.text_lines import BYTE_ORDER_MARK
from glm.data.validation import DataError

JSON, TABLE, PARQUET, EXCEL, PAIR, TEXT = "JSON", "a table", "Parquet", "Excel", "a pair", "plain text"
# Kinds whose records have named fields.
WITH_FIELDS = (JSON, TABLE, PARQUET, EXCEL)
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
# What divides the cells of a line.
DELIMITERS = {".csv": ",", ".tsv": "\t"}
BINARY_SUFFIXES = {".parquet": PARQUET, ".xlsx": EXCEL, ".xlsm": EXCEL}
PAIR_SUFFIXES = (".source", ".target")
FIELD_SUFFIXES = (*JSON_SUFFIXES, *DELIMITERS, *BINARY_SUFFIXES)
# What people call the records for evaluation.
DEV_NAMES = ("dev", "valid", "validation", "eval")
# Two of these in the first line of a file, divided by commas or tabs, are the head of a table.
USUAL_COLUMNS = {"context", "answer", "question", "instruction", "input", "output", "source", "target"}

# Of a file whose name does not say what it is, so many bytes tell.
_LOOKED_AT = 2**20
# What a file begins with that nothing here reads, and what to do.
_FOREIGN = {
    b"\x1f\x8b": "is compressed by gzip; unpack it (gunzip)",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd; unpack it (unzstd)",
    b"BZh": "is compressed by bzip2; unpack it (bunzip2)",
    b"\xfd7zXZ": "is compressed by xz; unpack it (unxz)",
    b"\xd0\xcf\x11\xe0": "is an Excel file of before 2007; save it as .xlsx or .csv",
    b"\xff\xfe": "is UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)",
    b"\xfe\xff": "is UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)",
    b"version https://git-lfs": "is a pointer of Git LFS, not the data; fetch them (git lfs pull)",
}


def kind_of(path, columns=()) -> str:
    """What a file is, one of the kinds above. Raises DataError for what nothing here reads.

    columns: names that the head of a table would have, where the file's name does not say that it is one.
    """
    path = Path(path)
    suffix, head = path.suffix.lower(), b""
    if path.is_file():
        with open(path, "rb") as file:
            head = file.read(_LOOKED_AT)
        if (binary := _binary_kind(path, head)) is not None:
            return binary
    if suffix in BINARY_SUFFIXES:
        check_is_file(path)
        raise DataError(f"{path}: is no {BINARY_SUFFIXES[suffix]} file, whatever its name says; give it its own name")
    if suffix in JSON_SUFFIXES:
        return JSON
    if path.suffix in PAIR_SUFFIXES or not path.is_file():
        return TABLE if suffix in DELIMITERS else PAIR
    text = head.removeprefix(BYTE_ORDER_MARK).lstrip()
    if _is_json(path, text, otherwise_told=suffix not in DELIMITERS):
        return JSON
    if suffix in DELIMITERS or _is_head(text, columns):
        return TABLE
    return PAIR if is_pair(path) else TEXT


def _binary_kind(path: Path, head: bytes) -> str | None:
    for magic, told in _FOREIGN.items():
        if head.startswith(magic):
            raise DataError(f"{path}: {told}")
    if head.startswith(b"PAR1"):
        return PARQUET
    if not head.startswith(b"PK\x03\x04"):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"{path}: cannot be read as Excel or zip ({error}); copy it anew") from None
    if "xl/workbook.xml" not in names:
        raise DataError(f"{path}: is a zip archive; unpack it")
    return EXCEL


def _is_json(path: Path, text: bytes, otherwise_told: bool) -> bool:
    if text.startswith(b"["):
        return text[1:].lstrip()[:1] in (b"{", b"]")
    try:
        return isinstance(json.loads(text.split(b"\n")[0]), dict)
    except (ValueError, RecursionError):
        # An object over several lines: what a set of questions is, or what was meant to be JSON.
        if re.match(rb'\{\s*"(version|data)"\s*:', text):
            return True
        if text.startswith(b'{"') and otherwise_told:
            advice = "call it .jsonl if it is meant to be JSON Lines, .txt with other lines if it is text"
            raise DataError(f"{path}: begins like JSON, and its first line is none; {advice}") from None
    return False


def _is_head(text: bytes, columns) -> bool:
    """Whether a text begins with the head of a table."""
    line = text.split(b"\n")[0].decode("utf-8", "replace")
    found = [{cell.strip().strip('"') for cell in line.split(delimiter)} for delimiter in DELIMITERS.values()]
    if columns:
        return any(set(columns) <= cells and len(cells) > 1 for cells in found)
    return any(len(USUAL_COLUMNS & cells) > 1 for cells in found)


def is_pair(path) -> bool:
    """Whether path is a .source or .target file, or the common stem of both, and both are there."""
    return all(file.is_file() for file in _pair_names(path))


def pair_files(path) -> tuple[Path, Path]:
    """The .source and .target file that belong to either of them or to their common stem. Raises DataError."""
    files = _pair_names(path)
    if not any(file.exists() for file in files):
        check_is_file(path)
        advice = "name it .json or .jsonl (one JSON object a line), .csv or .tsv, or give a pair .source/.target"
        raise DataError(f"{path}: cannot tell the format of this file; {advice}")
    for file in files:
        check_is_file(file)
    return files


def files_of(path) -> tuple[Path, ...]:
    """The files that are read where `path` is given: itself, or those of a pair."""
    return pair_files(path) if kind_of(path) == PAIR else (Path(path),)


def find_splits(path) -> dict[str, Path | None]:
    """The "train" and "dev" file of a data set; one that is absent is None.

    A directory holds train.json and dev.json (or another of DEV_NAMES; or of another format), or a single file with
    records. A single file is "train". Raises DataError if there is nothing, or two files for one split.
    """
    path = Path(path)
    if not path.is_dir():
        if path.suffix in PAIR_SUFFIXES or not path.exists():
            pair_files(path)
        return {"train": path, "dev": None}
    splits = {"train": _split_file(path, ("train",)), "dev": _split_file(path, DEV_NAMES)}
    if not any(splits.values()):
        files = [file for suffix in FIELD_SUFFIXES for file in path.glob("*" + suffix)]
        if len(files) == 1:
            return {"train": files[0], "dev": None}
        raise DataError(
            f"{path}: no train.json or dev.json here; put them there (.jsonl, .csv, .tsv, .parquet and .xlsx will do), "
            "or give a file"
        )
    return splits


def _split_file(directory: Path, names: tuple[str, ...]) -> Path | None:
    suffixes = (*FIELD_SUFFIXES, PAIR_SUFFIXES[0])
    files = [directory / (name + suffix) for name in names for suffix in suffixes]
    found = [file for file in files if file.exists()]
    if len(found) > 1:
        names = " and ".join(file.name for file in found)
        raise DataError(f"{directory}: {names} are both there; remove one of them, or give a file")
    return found[0] if found else None


def _pair_names(path) -> tuple[Path, Path]:
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in PAIR_SUFFIXES else path
    return tuple(stem.with_name(stem.name + suffix) for suffix in PAIR_SUFFIXES)


def check_is_file(path) -> None:
    """Raise DataError unless there is a file."""
    if Path(path).is_dir():
        raise DataError(f"{path}: is a directory; give a file")
    if not Path(path).exists():
        raise DataError(f"{path}: no such file; check the path")
