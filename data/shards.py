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
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data._split_writer import SplitWriter
from data.manifest import SCHEMA_VERSION, LabelColumn, Manifest, ShardError, sha256_of_file
from data.row import TEXT_COLUMNS, Dropped, Row, UnusableError, check_column_names

DROPPED_NAME = "dropped.parquet"
"""Lies beside the shards of a set of which rows were dropped: id, split, reason, detail."""

_ROWS_A_GROUP = 4096
_CHECKSUM_BYTES = 1 << 30


def write_shards(
    rows: Iterable[Row | Dropped],
    folder: str | Path,
    *,
    source: Mapping[str, Any],
    labels: Sequence[LabelColumn],
    rows_a_group: int = _ROWS_A_GROUP,
) -> Manifest:
    """Writes `rows` as a set of shards at `folder`, which appears whole or not at all.

    What was dropped, or has a picture that cannot be read, is counted in the manifest and listed in DROPPED_NAME.
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
    rows: Iterable[Row | Dropped],
    folder: Path,
    source: dict[str, Any],
    labels: tuple[LabelColumn, ...],
    rows_a_group: int,
) -> Manifest:
    splits: dict[str, SplitWriter] = {}
    split_of_group: dict[str, str] = {}
    ids: set[str] = set()
    dropped: list[Dropped] = []
    first: Row | None = None
    extra_columns: tuple[str, ...] = ()
    for row in rows:
        if isinstance(row, Dropped):
            dropped.append(row)
            continue
        if first is None:
            first, extra_columns = row, tuple(sorted(row.extra))
            check_column_names(labels, extra_columns)
        if tuple(sorted(row.extra)) != extra_columns:
            raise ShardError(
                f"row {row.id}: extra columns {sorted(row.extra)}, earlier rows have {list(extra_columns)}"
            )
        if row.id in ids:
            raise ShardError(f"row id {row.id!r} comes twice; ids must be unique")
        if split_of_group.get(row.group, row.split) != row.split:
            raise ShardError(
                f"row {row.id}: group {row.group!r} is in {split_of_group[row.group]} and in {row.split}; "
                "a group belongs to one split"
            )
        if row.split not in splits:
            splits[row.split] = SplitWriter(
                row.split, folder, labels, extra_columns, rows_a_group, len(first.embedding) // 2
            )
        try:
            splits[row.split].add(row)
        except UnusableError as error:
            dropped.append(Dropped(id=row.id, split=row.split, reason=error.reason, detail=str(error)))
            continue
        ids.add(row.id)
        split_of_group[row.group] = row.split
    splits = {name: splits[name] for name in sorted(splits) if splits[name].rows}
    reasons = dict(sorted(Counter(drop.reason for drop in dropped).items()))
    if first is None or not splits:
        why = f"; it dropped {len(dropped)}: {reasons}" if dropped else ""
        raise ShardError(f"the source gave no rows{why}")
    if dropped:
        write_dropped(dropped, folder / DROPPED_NAME)
    written = [writer.close() for writer in splits.values()]
    sizes = {size for writer in splits.values() for size in writer.image_sizes}
    height, width = next(iter(sizes), (0, 0))
    return Manifest(
        schema_version=SCHEMA_VERSION,
        source=json.loads(json.dumps(source)),  # as it will read back: tuples become lists
        splits={name: writer.counts() for name, writer in splits.items()},
        labels=labels,
        text_columns=tuple(
            name for name in TEXT_COLUMNS if any(name in writer.texts_seen for writer in splits.values())
        ),
        extra_columns=extra_columns,
        image_size=height if len(sizes) == 1 and height == width else 0,
        fingerprint=_set_fingerprint(splits, labels),
        files=tuple(file for files in written for file in files),
        dropped=reasons,
        embedding_size=len(first.embedding) // 2,
    )


def write_dropped(dropped: Sequence[Dropped], path: Path) -> None:
    """Writes what was dropped as one Parquet table, in the order given."""
    columns = {
        name: [getattr(drop, name) for drop in dropped] for name in ("id", "split", "reason", "detail")
    }
    pq.write_table(pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), path)


def _set_fingerprint(splits: Mapping[str, SplitWriter], labels: Sequence[LabelColumn]) -> str:
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
