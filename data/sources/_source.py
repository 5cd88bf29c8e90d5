"""The contract of a source, and how one is found: by its file name in this folder.

A source is a module with

    OPTIONS                               a frozen keyword-only dataclass; its defaults are the dataset as published
    rows(path, *, seed, options)          an iterator of Row, and of Dropped for a row that cannot be used; same
                                          arguments, same rows in the same order; those of one group stand together
    labels(path, options)                 the label columns, a tuple of LabelColumn
    NEEDS_PATH                            whether `path` must name the dataset's folder (else it must be "")
    published_rows(options)               optional: {split: rows that its authors count}, broken ones included

A source never reads outside the dataset's folder unless told to, never unpickles, and never holds the whole dataset.
Where splits share a row, the one that is evaluated keeps it: sources give test rows first, then validation, then train.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import data.sources
from data.manifest import LabelColumn
from data.row import Dropped, Row, UnusableError, printable


class SourceError(ValueError):
    """A source that does not exist, or cannot be read as asked; the message says what to do."""


@dataclass(frozen=True)
class Source:
    """A dataset that `prepare` can turn into shards."""

    name: str
    rows: Callable[..., Iterator[Row | Dropped]]
    labels: Callable[[str, Any], tuple[LabelColumn, ...]]
    options_class: type
    needs_path: bool
    published_rows: Callable[[Any], dict[str, int]]

    def options(self, values: Mapping[str, Any]) -> Any:
        """The options with these values put in. Raises SourceError for an unknown name or an impossible value."""
        known = [field.name for field in dataclasses.fields(self.options_class)]
        unknown = [name for name in values if name not in known]
        if unknown:
            raise SourceError(
                f"source {self.name} has no option {unknown[0]!r}; known: {', '.join(known) or 'none'}"
            )
        return self.options_class(**values)


def source_names() -> list[str]:
    """Every source, by name."""
    return sorted(
        module.name
        for module in pkgutil.iter_modules(data.sources.__path__)
        if not module.name.startswith("_")
    )


def load_source(name: str) -> Source:
    """The source of that name. Raises SourceError listing the known ones."""
    if name not in source_names():
        raise SourceError(f"no source named {name!r}; known: {', '.join(source_names())}")
    module = importlib.import_module(f"data.sources.{name}")
    published_rows = getattr(module, "published_rows", lambda options: {})
    return Source(name, module.rows, module.labels, module.OPTIONS, module.NEEDS_PATH, published_rows)


def kept_or_dropped(candidates: Iterable[tuple[str, str, Callable[[], Row]]]) -> Iterator[Row | Dropped]:
    """The rows that candidates (where it stands, split, what makes it) give; Dropped for those that cannot be used.

    So is a row whose id came before: the first one stays.
    """
    split_of_id: dict[str, str] = {}
    for where, split, make in candidates:
        try:
            row = make()
            _check_unicode(row)
            if row.id in split_of_id:
                raise UnusableError(
                    "duplicate_id", f"{where}: id {row.id} came before, in {split_of_id[row.id]}"
                )
        except UnusableError as error:
            yield Dropped(id=where, split=split, reason=error.reason, detail=str(error))
            continue
        split_of_id[row.id] = row.split
        yield row


def _check_unicode(row: Row) -> None:
    """Raises UnusableError for a text that no file can hold: half a character, as a cut emoji in JSON, or a name of bytes."""
    for text in (row.id, row.group, row.caption, row.text, *row.extra.values()):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UnusableError("bad_row", f"{printable(row.id)}: {printable(text)} is not Unicode") from None


def is_held_out(name: str, fraction: float, seed: int) -> bool:
    """Whether a seeded draw puts the row of that name into the held-out part; other rows have no say in it."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def check_fraction(name: str, fraction: float) -> None:
    """Raises SourceError unless it is one that leaves something to train on."""
    if not 0 <= fraction < 1:
        raise SourceError(f"{name} must be 0 or more and below 1; got {fraction}")


def existing_folder(path: str) -> Path:
    """The dataset's folder. Raises SourceError when there is none."""
    folder = Path(path)
    if not folder.is_dir():
        raise SourceError(f"no folder {path}" if not folder.exists() else f"{path} is not a folder")
    return folder
