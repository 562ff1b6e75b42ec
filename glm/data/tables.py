"""The rows of tables as what may be records: CSV and TSV, Parquet, Excel. What reads the latter two is imported when
the first such file is read.

A row is a dict from the names of columns to cells. Its place is the line that it begins on, of Excel the number of its
row, of Parquet, which has neither, its number from 1.
"""

import csv
import datetime
import io
import math
import zipfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path

from glm.data.kinds import DELIMITERS, EXCEL, PARQUET
from glm.data.text_lines import Candidate, bad, blank, decoded, raw_lines
from glm.data.validation import DataError, bad_record
from glm.errors import one_line
from glm.files import lines

# Rows of a Parquet file in memory at a time.
BATCH = 1000
# Bytes of an Excel file's parts, unpacked.
LARGEST_SHEETS = 2**31


def table_candidates(path, kind: str) -> Iterator[Candidate]:
    """The rows of a table of a kind in kinds. Raises DataError for what is wrong with the table as a whole."""
    read = {PARQUET: parquet_candidates, EXCEL: excel_candidates}.get(kind, csv_candidates)
    return read(Path(path))


def csv_candidates(path: Path) -> Iterator[Candidate]:
    """The rows of a CSV or TSV file, one at a time: RFC 4180, a cell in quotes may have line breaks and the delimiter.

    Where the head has no such delimiter, another usual one divides.
    """
    csv.field_size_limit(lines.limit())
    first, head = next(((line, raw) for line, raw in raw_lines(path) if raw is None or raw.strip()), (1, b""))
    delimiter = delimiter_of(path, decoded(head, path, first))
    rows = csv_rows(path, first, delimiter)
    names = None
    for line, cells in rows:
        if isinstance(cells, DataError):
            if names is None:
                raise cells
            yield path, line, bad(cells)
        elif names is None:
            names = head_names(cells, path, line)
        elif not any(map(str.strip, cells)):
            yield path, line, blank
        else:
            yield path, line, partial(csv_record, cells, names, path, line)


def delimiter_of(path: Path, head: str) -> str:
    """What divides the cells of a table whose first line this is."""
    usual = [DELIMITERS.get(path.suffix.lower(), ","), ",", "\t", ";"]
    return next((delimiter for delimiter in usual if delimiter in head), usual[0])


def csv_rows(path: Path, first: int, delimiter: str) -> Iterator[tuple[int, list[str] | DataError]]:
    """(line it begins on, cells) of each row from a line on; a DataError in place of the cells of a bad row. Raises
    DataError for a quote that is never closed: all that follows is inside of it."""
    numbered = (item for item in raw_lines(path) if item[0] >= first)
    begun = ended = first

    def texts():
        nonlocal ended
        for line, raw in numbered:
            ended = line
            yield decoded(raw, path, line) + "\n"

    while True:
        # What has raised is over: behind a bad line, reading goes on anew.
        reader = csv.reader(texts(), delimiter=delimiter, strict=True)
        try:
            for cells in reader:
                yield begun, cells
                begun = ended + 1
            return
        except DataError as error:
            yield ended, error
        except csv.Error as error:
            advice = 'put the cell in quotes, and write a quote inside of it twice ("")'
            if "unexpected end of data" in str(error):
                raise bad_record("bad CSV", path, begun, "a quote that begins here never ends", advice) from None
            yield begun, bad_record("bad CSV", path, begun, f"bad CSV ({error})", advice)
        begun = ended + 1


def csv_record(cells: list[str], names: list[str], path: Path, line: int) -> tuple[dict, None]:
    """A row as a dict, for a candidate. Raises DataError."""
    if len(cells) != len(names):
        problem = f"{len(cells)} cells, but the head has {len(names)}"
        advice = "put a cell that has the delimiter in it in quotes"
        raise bad_record("wrong number of cells", path, line, problem, advice)
    return dict(zip(names, cells, strict=True)), None


def head_names(cells, path: Path, line: int) -> list[str]:
    """The names of a table's columns, from its first row. Raises DataError."""
    names = ["" if cell is None else str(cell).strip() for cell in cells]
    if twice := [name for name, count in Counter(filter(None, names)).items() if count > 1]:
        raise DataError(f"{path}:{line}: two columns are called {twice[0]!r}; give them different names")
    return names


def parquet_candidates(path: Path) -> Iterator[Candidate]:
    """The rows of a Parquet file, a batch in memory at a time."""
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        # Not by its name, which pyarrow takes as UTF-8 alone.
        with open(path, "rb") as opened, parquet.ParquetFile(opened) as file:
            for batch in file.iter_batches(BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield path, number, partial(typed_record, row)
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, OverflowError, MemoryError) as error:
        # pyarrow's own errors are of all these classes.
        raise DataError(f"{path}: cannot be read as Parquet behind row {number} ({one_line(error)})") from None


def excel_candidates(path: Path) -> Iterator[Candidate]:
    """The rows of the one sheet that has some."""
    import openpyxl

    try:
        with zipfile.ZipFile(path) as archive:
            if sum(part.file_size for part in archive.infolist()) > LARGEST_SHEETS:
                raise DataError(f"{path}: has more than {LARGEST_SHEETS >> 30} GiB, unpacked; save it as .csv")
        content = io.BytesIO(path.read_bytes())
        workbook = openpyxl.load_workbook(content, read_only=True, data_only=True)
        filled = [(sheet.title, rows) for sheet in workbook.worksheets if (rows := filled_rows(sheet)) is not None]
    except DataError:
        raise
    except Exception as error:  # openpyxl checks little: what it stumbles over may be of any class
        raise unreadable_sheet(path, error) from None
    if len(filled) > 1:
        titles = ", ".join(title for title, _ in filled)
        raise DataError(f"{path}: several sheets have something in them ({titles}); keep one, or save one as .csv")
    names = None
    for _, rows in filled:
        for number, cells in safely(rows, path):
            if names is None:
                names = head_names(cells, path, number)
            elif all(cell is None or not str(cell).strip() for cell in cells):
                yield path, number, blank
            else:
                row = dict(zip(names, cells, strict=False))
                yield path, number, partial(typed_record, row)


def filled_rows(sheet):
    """(number, cells) of a sheet's rows from the first one with something in it; None where there is none."""
    rows = enumerate(sheet.iter_rows(values_only=True), 1)
    for number, cells in rows:
        if any(cell is not None for cell in cells):
            return chain([(number, cells)], rows)
    return None


def safely(rows, path: Path):
    """The items of an iterator of openpyxl's. Raises DataError."""
    try:
        yield from rows
    except Exception as error:
        raise unreadable_sheet(path, error) from None


def unreadable_sheet(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read as Excel ({one_line(error)}); save it anew, or as .csv")


def typed_record(row: dict) -> tuple[dict, dict]:
    """A row of a table whose cells have types, with numbers and dates as texts: what is written there is meant; and as
    JSON has it."""
    return {name: cell_text(cell) for name, cell in row.items()}, {name: as_json(cell) for name, cell in row.items()}


def cell_text(cell):
    """A number, date or truth value as the text that it is shown as; lists and objects as JSON has them."""
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() else str(cell)
    return str(found) if isinstance(found := as_json(cell), bool | int) else found


def as_json(cell):
    """A cell as a value that JSON has."""
    if isinstance(cell, dict):
        return {str(name): as_json(value) for name, value in cell.items()}
    if isinstance(cell, list | tuple):
        return [*map(as_json, cell)]
    if cell is None or isinstance(cell, str | bool | int):
        return cell
    if isinstance(cell, float):
        return cell if math.isfinite(cell) else None
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "replace")
    midnight = isinstance(cell, datetime.datetime) and cell.time() == datetime.time()
    return str(cell.date() if midnight else cell)
