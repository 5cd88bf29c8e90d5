"""Conceptual Captions: 3.3 million web pictures with their alt texts, as captions and addresses.

Sharma et al. 2018. As published: Train_GCC-training.tsv and Validation_GCC-1.1.0-Validation.tsv, lines of
`caption<TAB>url` without a header. The pictures are fetched with `crosstie data download`; what is read then is a table
(CSV, JSONL or Parquet) with a caption and a picture's path from the table's folder, in columns of the names in COLUMNS,
and perhaps a status. A TSV that was not downloaded can be checked all the same: its rows are dropped as not_downloaded.

Rows that share a picture are one group, wherever they stand: a table made by naming files after the last part of their
address has hundreds of captions on one "1.jpg", which `crosstie data check` shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from data.manifest import LabelColumn
from data.row import Dropped, Row, StoredImage, UnusableError
from data.sources._image_file import image_file
from data.sources._source import SourceError, kept_or_dropped
from data.sources._tables import Line, column_names, read_table, read_tsv

NEEDS_PATH = True
COLUMNS = {
    "caption": ("caption", "text"),
    "image": ("path", "filepath", "image"),
    "status": ("status",),
    "detail": ("detail", "error"),
}
"""{what: the columns that may hold it, the first there is}; a table needs the first two."""
DONE = ("ok", "success")
"""What the status of a row with a picture says."""

_STEMS = {
    "validation": ("Validation_GCC-1.1.0-Validation", "validation"),
    "train": ("Train_GCC-training", "train"),
}
_ENDINGS = (".csv", ".jsonl", ".parquet", ".tsv")  # the one with pictures before the one without


@dataclass(frozen=True, kw_only=True)
class ConceptualCaptionsOptions:
    """How to read Conceptual Captions."""

    split: Literal["train", "validation", "test"] = "train"
    """Of a single table; in a folder the tables are called as published, or train and validation."""
    allow_outside: bool = False
    """Whether a picture may lie outside the table's folder."""


OPTIONS = ConceptualCaptionsOptions


@dataclass(frozen=True)
class NotDownloaded:
    """A StoredImage that nobody has fetched."""

    url: str

    def read(self) -> bytes:
        """Raises UnusableError, always."""
        raise UnusableError("not_downloaded", f"{self.url}: fetch it with `crosstie data download` first")


def labels(path: str, options: ConceptualCaptionsOptions) -> tuple[LabelColumn, ...]:
    """None: captions only."""
    return ()


def rows(path: str, *, seed: int, options: ConceptualCaptionsOptions) -> Iterator[Row | Dropped]:
    """A row a caption. `path` is a table, or a folder of them. Raises SourceError when there is none."""
    return kept_or_dropped(
        candidate
        for split, file in _tables(Path(path), options).items()
        for candidate in _candidates(file, split, options)
    )


def captions_and_urls(file: Path) -> Iterator[Line]:
    """The rows of a published TSV as {"caption", "url"}, broken ones with their problem."""
    return read_tsv(file, ("caption", "url"))


def _tables(path: Path, options: ConceptualCaptionsOptions) -> dict[str, Path]:
    if path.is_file():
        return {options.split: path}
    if not path.is_dir():
        raise SourceError(f"no file or folder {path}")
    found: dict[str, Path] = {}
    for split, stems in _STEMS.items():
        there = [path / f"{stem}{ending}" for ending in _ENDINGS for stem in stems]
        if file := next((file for file in there if file.is_file()), None):
            found[split] = file
    if not found:
        known = ", ".join(stem for stems in _STEMS.values() for stem in stems)
        raise SourceError(f"{path} has no table named {known} with an ending of {', '.join(_ENDINGS)}")
    return found


def _candidates(
    file: Path, split: str, options: ConceptualCaptionsOptions
) -> Iterator[tuple[str, str, Callable[[], Row]]]:
    if file.suffix == ".tsv":
        for number, line in enumerate(captions_and_urls(file)):
            yield line.where, split, partial(_row_of_tsv, line, f"{split}-{number:08d}", split)
        return
    there = column_names(file)
    columns = {what: next((name for name in names if name in there), "") for what, names in COLUMNS.items()}
    for what in ("caption", "image"):
        if not columns[what]:
            raise SourceError(
                f"{file} has no column for the {what} ({', '.join(COLUMNS[what])}); it has: {', '.join(there)}"
            )
    for number, line in enumerate(read_table(file)):
        make = partial(_row, line, f"{split}-{number:08d}", split, columns, file.absolute().parent, options)
        yield line.where, split, make


def _row_of_tsv(line: Line, row_id: str, split: str) -> Row:
    url = line.required("url")
    if "://" not in url:
        raise UnusableError("bad_row", f"{line.where}: {url!r} is no address")
    return _made(line, row_id, split, "caption", group=url, image=NotDownloaded(url))


def _row(
    line: Line,
    row_id: str,
    split: str,
    columns: Mapping[str, str],
    folder: Path,
    options: ConceptualCaptionsOptions,
) -> Row:
    status = line.text(columns["status"]) if columns["status"] else DONE[0]
    if not line.problem and status not in DONE:
        detail = line.text(columns["detail"]) if columns["detail"] else ""
        raise UnusableError(
            "not_downloaded", f"{line.where}: {status or 'not tried'}{detail and f': {detail}'}"
        )
    name = line.required(columns["image"])
    image = image_file(folder, name, allow_outside=options.allow_outside)
    return _made(line, row_id, split, columns["caption"], group=image.path, image=image)


def _made(line: Line, row_id: str, split: str, column: str, *, group: str, image: StoredImage) -> Row:
    if not (caption := line.text(column)):
        raise UnusableError("empty_text", f"{line.where}: no caption")
    return Row(id=row_id, split=split, group=group, image=image, caption=caption)
