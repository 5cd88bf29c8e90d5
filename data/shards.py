"""The shard format: Parquet files of rows, a manifest beside them, a writer that never leaves half a set behind.

A row is a picture with a text. Rows that share a picture stand together, so that Parquet's dictionary encoding
stores the picture once a row group. Columns: `id`, `split`, `group`, `image`, `caption`, `text`, one integer column
for each label, and the source's extra columns (strings, for reporting).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.images import stored_size
from data.manifest import (
    SCHEMA_VERSION,
    LabelColumn,
    Manifest,
    ShardError,
    ShardFile,
    SplitCounts,
    sha256_of_file,
)

TEXT_COLUMNS = ("caption", "text")
FIXED_COLUMNS = ("id", "split", "group", "image", *TEXT_COLUMNS)

_ROWS_A_GROUP = 4096
_IMAGE_BYTES_A_GROUP = 32 << 20
_IMAGE_BYTES_A_FILE = 128 << 20
_CHECKSUM_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Row:
    """One picture with one text, as a source gives it."""

    id: str
    """Unique in the set, and the same every time the source is read."""
    split: str
    group: str
    """What must not be torn apart: splits share no group. Usually the picture's own name."""
    image: bytes
    """Encoded as stored on disk (JPEG, PNG, …)."""
    caption: str
    """A statement about the picture, for pretraining."""
    text: str
    """What a task reads, e.g. a question."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """{label column: class name}"""
    extra: Mapping[str, str] = field(default_factory=dict)
    """Columns for reporting; every row of a set has the same ones."""


def write_shards(
    rows: Iterable[Row],
    folder: str | Path,
    *,
    source: Mapping[str, Any],
    labels: Sequence[LabelColumn],
    rows_a_group: int = _ROWS_A_GROUP,
) -> Manifest:
    """Writes `rows` as a set of shards at `folder`, which appears whole or not at all.

    Files are written beside `folder` under a temporary name and renamed at the end, the manifest last. Equal rows
    give byte-identical files. Raises ShardError when `folder` already holds something, when an id comes twice, when a
    group is in two splits, or when a label is not among the class names.
    """
    folder = Path(folder).absolute()
    _refuse_existing(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    partial = folder.with_name(f"{folder.name}.partial-{socket.gethostname()}-{os.getpid()}")
    partial.mkdir()
    try:
        manifest = _write_all(rows, partial, dict(source), tuple(labels), rows_a_group)
        manifest.save(partial)
        if folder.is_dir():
            folder.rmdir()  # only an empty one gets here
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


@dataclass(frozen=True)
class ShardSet:
    """A checked set of shards on disk."""

    folder: Path
    manifest: Manifest

    def paths(self, split: str) -> list[Path]:
        """The Parquet files of a split, in order. Raises ShardError for an unknown split."""
        self.manifest.counts(split)
        return [self.folder / file.name for file in self.manifest.files if file.split == split]

    def read(self, split: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of a split in order. `image` comes dictionary-encoded: each distinct picture once."""
        wanted = None if columns is None else list(columns)
        tables = [pq.ParquetFile(path, read_dictionary=["image"]).read(wanted) for path in self.paths(split)]
        return pa.concat_tables(tables).unify_dictionaries()


def open_shards(folder: str | Path, *, checksum_bytes: int = _CHECKSUM_BYTES) -> ShardSet:
    """The set of shards at `folder`, checked.

    Every file must be there in its full size; up to `checksum_bytes` in all their sha256 is compared too (1 GiB takes
    about a second; a larger set would delay every trial by minutes). Raises ShardError naming the file and the mend.
    """
    folder = Path(folder).absolute()
    manifest = Manifest.load(folder)
    with_checksum = sum(file.bytes for file in manifest.files) <= checksum_bytes
    for file in manifest.files:
        path = folder / file.name
        if not path.is_file():
            raise ShardError(f"{path} is missing; delete {folder} and run again")
        if path.stat().st_size != file.bytes or (with_checksum and sha256_of_file(path) != file.sha256):
            raise ShardError(
                f"{path} is damaged (not the file that was written); delete {folder} and run again"
            )
    return ShardSet(folder, manifest)


def is_half_written(folder: str | Path) -> bool:
    """Whether `folder` holds shards but no manifest: the rest of a set that somebody copied or deleted in part."""
    names = [path.name for path in Path(folder).glob("*")] if Path(folder).is_dir() else []
    return bool(names) and all(name.endswith(".parquet") for name in names)


def _write_all(
    rows: Iterable[Row],
    folder: Path,
    source: dict[str, Any],
    labels: tuple[LabelColumn, ...],
    rows_a_group: int,
) -> Manifest:
    splits: dict[str, _SplitWriter] = {}
    split_of_group: dict[str, str] = {}
    ids: set[str] = set()
    extra_columns: tuple[str, ...] | None = None
    for row in rows:
        if extra_columns is None:
            extra_columns = tuple(sorted(row.extra))
            _check_column_names(labels, extra_columns)
        if tuple(sorted(row.extra)) != extra_columns:
            raise ShardError(
                f"row {row.id}: extra columns {sorted(row.extra)}, earlier rows have {list(extra_columns)}"
            )
        if row.id in ids:
            raise ShardError(f"row id {row.id!r} comes twice; ids must be unique")
        ids.add(row.id)
        if split_of_group.setdefault(row.group, row.split) != row.split:
            raise ShardError(
                f"row {row.id}: group {row.group!r} is in {split_of_group[row.group]} and in {row.split}; "
                "a group belongs to one split"
            )
        if row.split not in splits:
            splits[row.split] = _SplitWriter(row.split, folder, labels, extra_columns, rows_a_group)
        splits[row.split].add(row)
    if not splits:
        raise ShardError("the source gave no rows")
    written = [splits[name].close() for name in sorted(splits)]
    sizes = {size for writer in splits.values() for size in writer.image_sizes}
    height, width = next(iter(sizes))
    return Manifest(
        schema_version=SCHEMA_VERSION,
        source=json.loads(json.dumps(source)),  # as it will read back: tuples become lists
        splits={name: splits[name].counts() for name in sorted(splits)},
        labels=labels,
        text_columns=TEXT_COLUMNS,
        extra_columns=extra_columns or (),
        image_size=height if len(sizes) == 1 and height == width else 0,
        fingerprint=_set_fingerprint(splits, labels),
        files=tuple(file for files in written for file in files),
    )


class _SplitWriter:
    """Writes the files of one split and keeps count."""

    def __init__(
        self,
        split: str,
        folder: Path,
        labels: tuple[LabelColumn, ...],
        extra_columns: tuple[str, ...],
        rows_a_group: int,
    ) -> None:
        self.split, self.folder, self.labels, self.extra_columns = split, folder, labels, extra_columns
        self.rows_a_group = rows_a_group
        self.schema = _schema(labels, extra_columns)
        self.class_ids = {c.name: {name: i for i, name in enumerate(c.class_names)} for c in labels}
        self.label_counts = {column.name: [0] * column.num_classes for column in labels}
        self.content = hashlib.sha256()
        self.image_sizes: set[tuple[int, int]] = set()
        self.image_digests: set[bytes] = set()
        self.groups: set[str] = set()
        self.rows = 0
        self.files: list[ShardFile] = []
        self._writer: pq.ParquetWriter | None = None
        self._pending: list[dict[str, Any]] = []
        self._pending_bytes = self._file_bytes = self._file_rows = 0
        self._last_image, self._last_digest = b"", b""

    def add(self, row: Row) -> None:
        """Takes one row; writes a row group when enough have come."""
        new_image = self._note_image(row)
        record: dict[str, Any] = {name: getattr(row, name) for name in FIXED_COLUMNS}
        record |= {column.name: self._class_id(row, column) for column in self.labels}
        record |= {name: row.extra[name] for name in self.extra_columns}
        self.content.update(self._last_digest)
        self.content.update(json.dumps([record[n] for n in record if n != "image"]).encode())
        if new_image and (
            len(self._pending) >= self.rows_a_group or self._pending_bytes >= _IMAGE_BYTES_A_GROUP
        ):
            self._write_group()  # between pictures, so that none is stored in two groups
        self._pending.append(record)
        self._pending_bytes += len(row.image) if new_image else 0
        self.groups.add(row.group)
        self.rows += 1

    def close(self) -> list[ShardFile]:
        """Writes what is left; the files of this split in order."""
        self._write_group()
        self._end_file()
        return self.files

    def counts(self) -> SplitCounts:
        return SplitCounts(
            rows=self.rows, groups=len(self.groups), images=len(self.image_digests), labels=self.label_counts
        )

    def _note_image(self, row: Row) -> bool:
        """Whether this row's picture differs from the row's before."""
        if row.image == self._last_image and self.rows:
            return False
        self._last_image, self._last_digest = row.image, hashlib.sha256(row.image).digest()
        if self._last_digest not in self.image_digests:
            self.image_digests.add(self._last_digest)
            self.image_sizes.add(stored_size(row.image, name=f"row {row.id}"))
        return True

    def _class_id(self, row: Row, column: LabelColumn) -> int:
        class_id = self.class_ids[column.name].get(row.labels.get(column.name, ""))
        if class_id is None:
            raise ShardError(
                f"row {row.id}: {column.name} is {row.labels.get(column.name)!r}; known: {', '.join(column.class_names)}"
            )
        self.label_counts[column.name][class_id] += 1
        return class_id

    def _write_group(self) -> None:
        if not self._pending:
            return
        if self._writer is None:
            self._path = self.folder / f"{self.split}-{len(self.files):05d}.parquet"
            self._writer = pq.ParquetWriter(
                self._path,
                self.schema,
                compression=dict.fromkeys(self.schema.names, "zstd") | {"image": "none"},  # type: ignore[arg-type]
                dictionary_pagesize_limit=2
                * _IMAGE_BYTES_A_GROUP,  # or pictures past the first MB would be repeated
            )
        self._writer.write_table(
            pa.Table.from_pylist(self._pending, schema=self.schema), row_group_size=1 << 30
        )
        self._file_bytes += self._pending_bytes
        self._file_rows += len(self._pending)
        self._pending, self._pending_bytes = [], 0
        if self._file_bytes >= _IMAGE_BYTES_A_FILE:
            self._end_file()

    def _end_file(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self.files.append(
            ShardFile(
                name=self._path.name,
                split=self.split,
                rows=self._file_rows,
                bytes=self._path.stat().st_size,
                sha256=sha256_of_file(self._path),
            )
        )
        self._writer, self._file_bytes, self._file_rows = None, 0, 0


def _schema(labels: Sequence[LabelColumn], extra_columns: Sequence[str]) -> pa.Schema:
    columns = [(name, pa.binary() if name == "image" else pa.string()) for name in FIXED_COLUMNS]
    columns += [(column.name, pa.int32()) for column in labels]
    columns += [(name, pa.string()) for name in extra_columns]
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns])


def _check_column_names(labels: Sequence[LabelColumn], extra_columns: Sequence[str]) -> None:
    names = [*FIXED_COLUMNS, *(column.name for column in labels), *extra_columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ShardError(
            f"columns named twice: {', '.join(twice)}; label and extra columns need names of their own"
        )


def _set_fingerprint(splits: Mapping[str, _SplitWriter], labels: Sequence[LabelColumn]) -> str:
    digest = hashlib.sha256(
        json.dumps([SCHEMA_VERSION, [[c.name, c.kind, c.class_names] for c in labels]]).encode()
    )
    for name in sorted(splits):
        digest.update(name.encode() + splits[name].content.digest())
    return digest.hexdigest()


def _refuse_existing(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ShardError(f"{folder} already holds something; delete it, or choose another folder")


def _remove_abandoned(folder: Path) -> None:
    """Removes partial sets that processes of this host left when they were killed."""
    prefix = f"{folder.name}.partial-{socket.gethostname()}-"
    for path in folder.parent.glob(f"{prefix}*"):
        process = path.name.removeprefix(prefix)
        if process.isdigit() and (int(process) == os.getpid() or not _is_alive(int(process))):
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
