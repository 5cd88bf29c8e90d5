"""The record beside a set of shards: what is in it, where it came from, and how to tell that it is whole."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from data.storage import Storage, open_storage

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
LONG_TEXT_WORDS = 64
"""Texts of more words are counted: a tokeniser that keeps 64 tokens cuts them, and perhaps somewhat shorter ones."""
NO_LABEL = -1
"""What shards and batches hold where a label is not known, as in a test split without answers."""


class ShardError(ValueError):
    """A set of shards that is missing, damaged or not what was asked for; the message says how to mend it."""


@dataclass(frozen=True, kw_only=True)
class LabelColumn:
    """A column the tasks learn from: one class a row, or any number of them. Shards store positions in `class_names`."""

    name: str
    kind: Literal["class", "multilabel"] = "class"
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """How many classes there are, seen in the data or not."""
        return len(self.class_names)


@dataclass(frozen=True, kw_only=True)
class ShardFile:
    """One Parquet file of a set."""

    name: str
    split: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """How much a split holds. `labels` counts rows per class: {column: [rows of class 0, of class 1, …]}."""

    rows: int
    groups: int
    images: int
    labels: dict[str, list[int]]
    unlabelled: dict[str, int] = field(default_factory=dict)
    """{label column: rows whose label is not known}, for columns that have such rows."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `manifest.json` says."""

    schema_version: int
    source: dict[str, Any]
    """Whatever made the rows: {"name", "path", "seed", "options"} when `prepare` did."""
    splits: dict[str, SplitCounts]
    labels: tuple[LabelColumn, ...]
    text_columns: tuple[str, ...]
    extra_columns: tuple[str, ...]
    image_size: int
    """Side in pixels where every stored picture is the same square, else 0."""
    fingerprint: str
    """sha256 of the content in order: ids, pictures, texts, labels. Not of file names, options or times."""
    files: tuple[ShardFile, ...]
    dropped: dict[str, int] = field(default_factory=dict)
    """{reason: rows of the source that are not in the set}"""
    embedding_size: int = 0
    """Numbers in the `embedding` column, 0 where there is none."""
    long_texts: dict[str, int] = field(default_factory=dict)
    """{text column: rows whose text has more than LONG_TEXT_WORDS words}, for columns that have such rows."""

    def label(self, name: str) -> LabelColumn:
        """The label column of that name. Raises ShardError listing the known ones."""
        for column in self.labels:
            if column.name == name:
                return column
        known = ", ".join(column.name for column in self.labels) or "none"
        raise ShardError(f"no label column {name!r}; this set has: {known}")

    def counts(self, split: str) -> SplitCounts:
        """The counts of that split. Raises ShardError listing the known ones."""
        if split not in self.splits:
            raise ShardError(f"no split {split!r}; this set has: {', '.join(sorted(self.splits))}")
        return self.splits[split]

    def save(self, place: Storage) -> None:
        """Writes `manifest.json` into `place`."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False)
        place.write(MANIFEST_NAME, f"{text}\n".encode())

    @classmethod
    def load(cls, folder: str | Path) -> Manifest:
        """Reads `manifest.json` of a folder or address. Raises ShardError with the mend when that cannot be done."""
        place = open_storage(folder)
        folder = place.label
        try:
            record = json.loads(place.read(MANIFEST_NAME))
            version = record["schema_version"]
        except FileNotFoundError:
            raise ShardError(
                f"no {MANIFEST_NAME} in {folder}: nothing was prepared there; {_mend(folder)}"
            ) from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ShardError(f"{folder}/{MANIFEST_NAME} cannot be read ({error}); {_mend(folder)}") from error
        if version != SCHEMA_VERSION:
            raise ShardError(
                f"{folder} has shards of schema {version}, this version reads {SCHEMA_VERSION}; {_mend(folder)}"
            )
        try:
            return _from_record(record)
        except (TypeError, KeyError, AttributeError) as error:
            raise ShardError(
                f"{folder}/{MANIFEST_NAME} lacks or has unknown fields ({error}); {_mend(folder)}"
            ) from error


def _from_record(record: dict[str, Any]) -> Manifest:
    labels = tuple(
        LabelColumn(**{**column, "class_names": tuple(column["class_names"])}) for column in record["labels"]
    )
    return Manifest(
        **{
            **record,
            "splits": {name: SplitCounts(**counts) for name, counts in record["splits"].items()},
            "labels": labels,
            "text_columns": tuple(record["text_columns"]),
            "extra_columns": tuple(record["extra_columns"]),
            "files": tuple(ShardFile(**file) for file in record["files"]),
        }
    )


def _mend(folder: str) -> str:
    return f"delete {folder} and run again"
