"""Tables as people publish them (CSV, TSV, JSONL, Parquet, one JSON document), read row by row, each broken one named."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.row import UnusableError
from data.sources._source import SourceError

MAX_LINE_BYTES = 16 << 20
MAX_CELL_CHARACTERS = 4 << 20
MAX_JSON_BYTES = 1 << 30
PARQUET_ROWS = 256
"""Rows of a Parquet file in memory at once; they may hold pictures."""


@dataclass(frozen=True)
class Line:
    """A row of a table: where it stands, as "train.jsonl:17", and what it says, or what is wrong with it."""

    where: str
    values: dict[str, Any]
    problem: str = ""

    def text(self, column: str) -> str:
        """The cell as text without white space around it; "" for one that is missing. Raises UnusableError for others."""
        value = self.values.get(column)
        if value is None or value != value:  # a missing cell of a Parquet column of floats is NaN
            return ""
        if isinstance(value, bool | int | float):
            return str(value)
        if not isinstance(value, str):
            raise UnusableError(
                "bad_row", f"{self.where}: {column} should be text; got {type(value).__name__}"
            )
        return value.strip()

    def required(self, column: str) -> str:
        """The cell as text. Raises UnusableError when the row is broken or has no such cell."""
        if self.problem:
            raise UnusableError("bad_row", f"{self.where}: {self.problem}")
        if not (text := self.text(column)):
            raise UnusableError("bad_row", f"{self.where}: no {column}")
        return text


def read_jsonl(path: Path) -> Iterator[Line]:
    """One JSON object a line; empty lines are skipped. Raises SourceError when there is no such file."""
    for where, line in _lines(path):
        if not line.strip():
            continue
        try:
            values = json.loads(_decoded(line))
        except (ValueError, RecursionError) as error:
            yield Line(where, {}, f"not JSON: {error}")
            continue
        if isinstance(values, dict):
            yield Line(where, values)
        else:
            yield Line(where, {}, f"a JSON object is needed; got {type(values).__name__}")


def read_tsv(path: Path, columns: Sequence[str]) -> Iterator[Line]:
    """Cells between tabs, in the order of `columns`; quotes mean nothing. Raises SourceError as `read_jsonl`."""
    for where, line in _lines(path):
        try:
            cells = _decoded(line).rstrip("\r\n").split("\t")
        except ValueError as error:
            yield Line(where, {}, str(error))
            continue
        if cells == [""]:
            continue
        yield _row_of_cells(where, cells, columns)


def read_csv(path: Path, columns: Sequence[str] | None = None, delimiter: str = ",") -> Iterator[Line]:
    """Rows of a CSV. `columns` names the cells of a file without a header; None takes them from its first row.

    Raises SourceError when there is no such file, or no header where one is needed.
    """
    csv.field_size_limit(MAX_CELL_CHARACTERS)
    with _opened(path) as stream:
        # A byte that is not UTF-8 spoils its own row, not the file.
        lines = (line.decode("utf-8", "surrogateescape") for line in _bounded(stream))
        reader = csv.reader(lines, delimiter=delimiter)
        first = 1
        while True:
            where = f"{path.name}:{first}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Line(where, {}, f"not CSV: {error}")
                first = reader.line_num + 1
                continue
            first = reader.line_num + 1
            if not cells:
                continue
            if columns is None:
                columns = [cell.removeprefix("\ufeff").strip() for cell in cells]
                if len(set(columns)) < len(columns):
                    raise SourceError(f"{path}: the header names a column twice: {', '.join(columns)}")
                continue
            if any("\udc80" <= letter <= "\udcff" for cell in cells for letter in cell):
                yield Line(where, {}, "not UTF-8")
            else:
                yield _row_of_cells(where, cells, columns)


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> Iterator[Line]:
    """Rows of a Parquet file. Raises SourceError when it is missing or damaged."""
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(PARQUET_ROWS, columns=list(columns) if columns else None):
                for values in batch.to_pylist():
                    yield Line(f"{path.name}:{number}", values)
                    number += 1
    except FileNotFoundError:
        raise SourceError(f"no file {path}") from None
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{path} is not a Parquet file, or is damaged: {error}") from error


def read_table(path: Path, columns: Sequence[str] | None = None) -> Iterator[Line]:
    """Rows of a CSV, TSV (both with a header), JSONL or Parquet file, told apart by the ending of its name.

    Of a Parquet file only `columns` are read. Raises SourceError for another ending.
    """
    ending = path.suffix.lower()
    if ending == ".csv":
        return read_csv(path)
    if ending == ".tsv":
        return read_csv(path, delimiter="\t")
    if ending in (".jsonl", ".ndjson"):
        return read_jsonl(path)
    if ending in (".parquet", ".pq"):
        return read_parquet(path, columns)
    raise SourceError(f"{path}: a table ends in .csv, .tsv, .jsonl or .parquet")


def column_names(path: Path) -> list[str]:
    """The columns of a table; of a JSONL file those of its first row."""
    if path.suffix.lower() in (".parquet", ".pq"):
        try:
            return pq.read_schema(path).names
        except FileNotFoundError:
            raise SourceError(f"no file {path}") from None
        except (OSError, pa.ArrowException) as error:
            raise SourceError(f"{path} is not a Parquet file, or is damaged: {error}") from error
    for line in read_table(path):
        if not line.problem:
            return list(line.values)
    raise SourceError(f"{path} has no rows")


def read_json(path: Path) -> Any:
    """One JSON document. Raises SourceError when it is missing, too large or not JSON."""
    with _opened(path) as stream:
        if os.fstat(stream.fileno()).st_size > MAX_JSON_BYTES:
            raise SourceError(f"{path} has more than {MAX_JSON_BYTES >> 20} MiB")
        try:
            return json.loads(stream.read(MAX_JSON_BYTES))
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{path} is not JSON: {error}") from None


def _row_of_cells(where: str, cells: list[str], columns: Sequence[str]) -> Line:
    if len(cells) != len(columns):
        return Line(where, {}, f"{len(columns)} cells are needed ({', '.join(columns)}); got {len(cells)}")
    return Line(where, dict(zip(columns, cells, strict=True)))


def _decoded(line: bytes) -> str:
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"a line of more than {MAX_LINE_BYTES >> 20} MiB")
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from None


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    with _opened(path) as stream:
        for number, line in enumerate(_bounded(stream), start=1):
            yield f"{path.name}:{number}", line


def _bounded(stream: Any) -> Iterator[bytes]:
    """Lines, of an over-long one the beginning; so a file without line ends cannot fill the memory."""
    while line := stream.readline(MAX_LINE_BYTES + 1):
        yield line
        while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE_BYTES + 1)


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        raise SourceError(f"no file {path}") from None
    except IsADirectoryError:
        raise SourceError(f"{path} is a folder; a file is needed") from None
