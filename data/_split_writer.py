"""Writes the Parquet files of one split, and counts what it writes."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.images import stored_size
from data.manifest import LONG_TEXT_WORDS, NO_LABEL, LabelColumn, ShardError, ShardFile, SplitCounts
from data.row import (
    EMBEDDING_COLUMN,
    FIXED_COLUMNS,
    TEXT_COLUMNS,
    Row,
    arrow_schema,
    label_as_stored,
    read_image,
)
from data.storage import CountingStream, Storage, StorageError

IMAGE_BYTES_A_GROUP = 32 << 20
IMAGE_BYTES_A_FILE = 128 << 20


class RowsChangedError(ShardError):
    """A source that no longer gives the rows it gave before the interruption."""


class SplitWriter:
    """Writes the files of one split and keeps count.

    Rows of `finished` files, which an interrupted writer left, are given again with `add_written`, in their order; the
    rest follows with `add`. The result is the same, byte for byte, as if there had been no interruption.
    """

    def __init__(
        self,
        split: str,
        place: Storage,
        labels: tuple[LabelColumn, ...],
        extra_columns: tuple[str, ...],
        rows_a_group: int,
        embedding_size: int = 0,
        *,
        finished: Sequence[ShardFile] = (),
        on_file: Callable[[ShardFile], None] = lambda file: None,
    ) -> None:
        self.split, self.place, self.labels, self.extra_columns = split, place, labels, extra_columns
        self.rows_a_group = rows_a_group
        self.embedding_size = embedding_size
        self.schema = arrow_schema(labels, extra_columns, embedding_size)
        self.class_ids = {c.name: {name: i for i, name in enumerate(c.class_names)} for c in labels}
        self.label_counts = {column.name: [0] * column.num_classes for column in labels}
        self.unlabelled: Counter[str] = Counter()
        self.long_texts: Counter[str] = Counter()
        self.texts_seen: set[str] = set()
        """Text columns that are not empty throughout."""
        self.content = hashlib.sha256()
        self.image_sizes: set[tuple[int, int]] = set()
        self.image_digests: set[bytes] = set()
        self.groups: set[str] = set()
        self.rows = 0
        self.files: list[ShardFile] = list(finished)
        self._on_file = on_file
        self._written = _records_of(place, finished)
        self._open: _OpenFile | None = None
        self._pending: list[dict[str, Any]] = []
        self._pending_bytes = self._file_bytes = self._file_rows = 0
        self._last_image, self._last_digest = b"", b""

    def add(self, row: Row) -> None:
        """Takes one row; writes a row group when enough have come. Raises UnusableError for a picture it cannot read."""
        image = read_image(row.image)
        new_image = self._note_image(image, row)
        if new_image and (
            len(self._pending) >= self.rows_a_group or self._pending_bytes >= IMAGE_BYTES_A_GROUP
        ):
            self._write_group()  # between pictures, so that none is stored in two groups
        self._pending.append(self._counted(row, image))
        self._pending_bytes += (len(image) if new_image else 0) + len(row.embedding)

    def add_written(self, row: Row) -> None:
        """Counts a row of the finished files, whose picture need not be given. Raises RowsChangedError for another."""
        written = next(self._written, None)
        image = b"" if written is None else written["image"]
        if image or not row.embedding:
            self._note_image(image, row)
        if self._counted(row, image) != written:
            raise RowsChangedError(
                f"row {row.id} is not what it was before the interruption; run again to start anew"
            )

    def close(self) -> list[ShardFile]:
        """Writes what is left; the files of this split in order. Raises RowsChangedError for rows that did not come."""
        if next(self._written, None) is not None:
            raise RowsChangedError(
                f"{self.split} has fewer rows than before the interruption; run again to start anew"
            )
        self._write_group()
        self._end_file()
        return self.files

    def abandon(self) -> None:
        """Closes what is open without giving it the name of a finished file."""
        if self._open is not None:
            file, self._open = self._open, None
            with contextlib.suppress(Exception):
                file.parquet.close()
            with contextlib.suppress(StorageError):
                file.context.__exit__(RuntimeError, RuntimeError("abandoned"), None)

    def counts(self) -> SplitCounts:
        return SplitCounts(
            rows=self.rows,
            groups=len(self.groups),
            images=len(self.image_digests),
            labels=self.label_counts,
            unlabelled={name: count for name, count in self.unlabelled.items() if count},
        )

    def _note_image(self, image: bytes, row: Row) -> bool:
        """Whether this row's picture differs from the row's before. Without pictures every row counts as another."""
        if row.embedding and not image:
            return True
        if image == self._last_image and self.rows:
            return False
        digest = hashlib.sha256(image).digest()
        if digest not in self.image_digests:
            self.image_sizes.add(stored_size(image, name=f"row {row.id}"))
            self.image_digests.add(digest)
        self._last_image, self._last_digest = image, digest
        return True

    def _counted(self, row: Row, image: bytes) -> dict[str, Any]:
        """The row as a shard holds it, once it is counted."""
        record: dict[str, Any] = {name: getattr(row, name) for name in FIXED_COLUMNS} | {"image": image}
        record |= {column.name: self._label(row, column) for column in self.labels}
        record |= {name: row.extra[name] for name in self.extra_columns}
        self.content.update(self._last_digest)
        self.content.update(json.dumps([record[n] for n in record if n != "image"]).encode())
        if self.embedding_size:
            self._note_embedding(row, record)
        self.groups.add(row.group)
        for name in TEXT_COLUMNS:
            if record[name]:
                self.texts_seen.add(name)
                self.long_texts[name] += record[name].count(" ") >= LONG_TEXT_WORDS
        self.rows += 1
        return record

    def _note_embedding(self, row: Row, record: dict[str, Any]) -> None:
        if len(row.embedding) != 2 * self.embedding_size:
            raise ShardError(
                f"row {row.id}: an embedding of {len(row.embedding) // 2} numbers, the first has {self.embedding_size}"
            )
        record[EMBEDDING_COLUMN] = row.embedding
        self.content.update(row.embedding)

    def _label(self, row: Row, column: LabelColumn) -> int | list[int]:
        stored = label_as_stored(column, row, self.class_ids[column.name])
        counts = self.label_counts[column.name]
        if isinstance(stored, list):
            for i, value in enumerate(stored):
                counts[i] += value == 1
            is_known = NO_LABEL not in stored
        else:
            is_known = stored != NO_LABEL
            if is_known:
                counts[stored] += 1
        self.unlabelled[column.name] += not is_known
        return stored

    def _write_group(self) -> None:
        if not self._pending:
            return
        if self._open is None:
            self._open = self._new_file()
        self._open.parquet.write_table(
            pa.Table.from_pylist(self._pending, schema=self.schema), row_group_size=1 << 30
        )
        self._file_bytes += self._pending_bytes
        self._file_rows += len(self._pending)
        self._pending, self._pending_bytes = [], 0
        if self._file_bytes >= IMAGE_BYTES_A_FILE:
            self._end_file()

    def _new_file(self) -> _OpenFile:
        name = f"{self.split}-{len(self.files):05d}.parquet"
        context = self.place.writing(name)
        stream = context.__enter__()
        parquet = pq.ParquetWriter(
            stream,
            self.schema,
            compression=dict.fromkeys(self.schema.names, "zstd") | {"image": "none"},  # type: ignore[arg-type]
            dictionary_pagesize_limit=2
            * IMAGE_BYTES_A_GROUP,  # or pictures past the first MB would be repeated
        )
        return _OpenFile(name, context, stream, parquet)

    def _end_file(self) -> None:
        if self._open is None:
            return
        self._open.parquet.close()
        self._open.context.__exit__(None, None, None)
        file = ShardFile(
            name=self._open.name,
            split=self.split,
            rows=self._file_rows,
            bytes=self._open.stream.bytes,
            sha256=self._open.stream.sha256,
        )
        self.files.append(file)
        self._open, self._file_bytes, self._file_rows = None, 0, 0
        self._on_file(file)


@dataclass(frozen=True)
class _OpenFile:
    """A shard that is being written."""

    name: str
    context: AbstractContextManager[CountingStream]
    stream: CountingStream
    parquet: pq.ParquetWriter


def _records_of(place: Storage, files: Sequence[ShardFile]) -> Iterator[dict[str, Any]]:
    """Rows of files, a row group in memory at a time."""
    for file in files:
        with pq.ParquetFile(
            place.path(file.name), filesystem=place.filesystem, read_dictionary=["image"]
        ) as parquet:
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group).unify_dictionaries()
                pictures = table["image"].combine_chunks()
                distinct = pictures.dictionary.to_pylist()
                others = table.drop_columns(["image"]).to_pylist()
                for record, index in zip(others, pictures.indices.to_pylist(), strict=True):
                    yield record | {"image": distinct[index]}
