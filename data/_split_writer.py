"""Writes the Parquet files of one split, and counts what it writes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.images import stored_size
from data.manifest import NO_LABEL, LabelColumn, ShardError, ShardFile, SplitCounts, sha256_of_file
from data.row import (
    EMBEDDING_COLUMN,
    FIXED_COLUMNS,
    TEXT_COLUMNS,
    Row,
    arrow_schema,
    label_as_stored,
    read_image,
)

_IMAGE_BYTES_A_GROUP = 32 << 20
_IMAGE_BYTES_A_FILE = 128 << 20


class SplitWriter:
    """Writes the files of one split and keeps count."""

    def __init__(
        self,
        split: str,
        folder: Path,
        labels: tuple[LabelColumn, ...],
        extra_columns: tuple[str, ...],
        rows_a_group: int,
        embedding_size: int = 0,
    ) -> None:
        self.split, self.folder, self.labels, self.extra_columns = split, folder, labels, extra_columns
        self.rows_a_group = rows_a_group
        self.embedding_size = embedding_size
        self.schema = arrow_schema(labels, extra_columns, embedding_size)
        self.class_ids = {c.name: {name: i for i, name in enumerate(c.class_names)} for c in labels}
        self.label_counts = {column.name: [0] * column.num_classes for column in labels}
        self.unlabelled: Counter[str] = Counter()
        self.texts_seen: set[str] = set()
        """Text columns that are not empty throughout."""
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
        """Takes one row; writes a row group when enough have come. Raises UnusableError for a picture it cannot read."""
        image = read_image(row.image)
        new_image = self._note_image(image, row)
        record: dict[str, Any] = {name: getattr(row, name) for name in FIXED_COLUMNS} | {"image": image}
        record |= {column.name: self._label(row, column) for column in self.labels}
        record |= {name: row.extra[name] for name in self.extra_columns}
        self.content.update(self._last_digest)
        self.content.update(json.dumps([record[n] for n in record if n != "image"]).encode())
        if self.embedding_size:
            self._note_embedding(row, record)
        if new_image and (
            len(self._pending) >= self.rows_a_group or self._pending_bytes >= _IMAGE_BYTES_A_GROUP
        ):
            self._write_group()  # between pictures, so that none is stored in two groups
        self._pending.append(record)
        self._pending_bytes += (len(image) if new_image else 0) + len(row.embedding)
        self.groups.add(row.group)
        self.texts_seen |= {name for name in TEXT_COLUMNS if record[name]}
        self.rows += 1

    def close(self) -> list[ShardFile]:
        """Writes what is left; the files of this split in order."""
        self._write_group()
        self._end_file()
        return self.files

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
