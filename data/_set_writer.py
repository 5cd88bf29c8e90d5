"""Writes a set of shards row by row, so that what was finished before a kill need not be made again.

The set grows in a working folder: beside its place on disk, as `<folder>.partial`, or in its place on an object store,
where a set without a manifest counts for nothing. Whenever a shard is finished, a note of it goes to `unfinished/`
there, with the rows dropped since the last one. Who starts again with the same source and rows in the same order finds
in `finished` how many rows of each split lie in such shards, and gives those without their pictures.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data._split_writer import RowsChangedError, SplitWriter
from data.manifest import MANIFEST_NAME, SCHEMA_VERSION, LabelColumn, Manifest, ShardError, ShardFile
from data.row import TEXT_COLUMNS, Dropped, Row, UnusableError, check_column_names
from data.storage import Storage

log = logging.getLogger(__name__)

DROPPED_NAME = "dropped.parquet"
"""Lies beside the shards of a set of which rows were dropped: id, split, reason, detail."""

_NOTES = "unfinished"
_ASKED = f"{_NOTES}/asked.json"


@dataclass(frozen=True)
class AlreadyWritten:
    """A row that lies in a finished shard; its picture is not looked at."""

    row: Row


@dataclass(frozen=True)
class Finished:
    """What an interrupted writer left: leading rows of each split, and what came of rows that were dropped."""

    rows: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[int, Dropped] = field(default_factory=dict)
    """{position in the source: what was given in place of the row}"""


def skip_finished(
    items: Iterable[Row | Dropped], finished: Finished
) -> Iterator[Row | Dropped | AlreadyWritten]:
    """The items of a source, with rows that are finished marked as such, so that nobody decodes them again."""
    left = dict(finished.rows)
    for position, item in enumerate(items):
        if isinstance(item, Row):
            dropped = finished.dropped.get(position)
            if dropped is not None and (dropped.id, dropped.split) == (item.id, item.split):
                yield dropped
                continue
            if left.get(item.split, 0):
                left[item.split] -= 1
                yield AlreadyWritten(item)
                continue
        yield item


@contextmanager
def writing_set(
    target: Storage, *, source: Mapping[str, Any], labels: Sequence[LabelColumn], rows_a_group: int
) -> Iterator[SetWriter]:
    """A writer of the set at `target`. When the block fails, finished shards are kept for the next try.

    One process writes at a time; another one waits. Raises ShardError when `target` already holds something.
    """
    place = _working_place(target)
    with _locked(place):
        try:
            _refuse_existing(target)
        except ShardError:
            if target.is_local:
                with contextlib.suppress(OSError):
                    os.rmdir(place.root)
            raise
        writer = SetWriter(target, place, dict(source), tuple(labels), rows_a_group)
        try:
            yield writer
        except BaseException as error:
            writer.abandon(keep_finished=not isinstance(error, RowsChangedError))
            raise


class SetWriter:
    """Takes rows and dropped rows in the order of their source. Made by `writing_set`."""

    def __init__(
        self,
        target: Storage,
        place: Storage,
        source: dict[str, Any],
        labels: tuple[LabelColumn, ...],
        rows_a_group: int,
    ) -> None:
        self.target, self.place, self.labels, self.rows_a_group = target, place, labels, rows_a_group
        self.source = json.loads(json.dumps(source))  # as it will read back: tuples become lists
        self._splits: dict[str, SplitWriter] = {}
        self._split_of_group: dict[str, str] = {}
        self._ids: set[str] = set()
        self._dropped: list[tuple[int, Dropped]] = []
        self._first: Row | None = None
        self._extra_columns: tuple[str, ...] = ()
        self._position = 0
        self._num_noted_drops = 0
        self._files, self.finished = self._resumed()

    def add(self, item: Row | Dropped | AlreadyWritten) -> None:
        """Takes the next item of the source.

        Raises ShardError for an id that comes twice, a label that is not among the class names, or extra columns
        other than the first row's; RowsChangedError for a row that is not the one that was written.
        """
        position, self._position = self._position, self._position + 1
        if isinstance(item, Dropped):
            self._dropped.append((position, item))
            return
        row = item.row if isinstance(item, AlreadyWritten) else item
        self._check(row)
        if self._split_of_group.get(row.group, row.split) != row.split:
            detail = f"row {row.id}: {row.group} is in {self._split_of_group[row.group]} already"
            drop = Dropped(id=row.id, split=row.split, reason="in_other_split", detail=detail)
            self._dropped.append((position, drop))
            return
        split = self._split(row)
        if isinstance(item, AlreadyWritten):
            split.add_written(row)
        else:
            try:
                split.add(row)
            except UnusableError as error:
                drop = Dropped(id=row.id, split=row.split, reason=error.reason, detail=str(error))
                self._dropped.append((position, drop))
                return
        self._ids.add(row.id)
        self._split_of_group[row.group] = row.split

    def finish(self) -> Manifest:
        """Writes what is left, the manifest last, and puts the set in its place. Raises ShardError for a set of no rows."""
        splits = {name: self._splits[name] for name in sorted(self._splits) if self._splits[name].rows}
        reasons = dict(sorted(Counter(drop.reason for _, drop in self._dropped).items()))
        if self._first is None or not splits:
            why = f"; it dropped {len(self._dropped)}: {reasons}" if self._dropped else ""
            raise ShardError(f"the source gave no rows{why}")
        files = tuple(file for writer in splits.values() for file in writer.close())
        if not {file.name for file in self._files} <= {file.name for file in files}:
            raise RowsChangedError("the source gives fewer rows than before the interruption; run again")
        if self._dropped:
            write_dropped([drop for _, drop in self._dropped], self.place)
        sizes = {size for writer in splits.values() for size in writer.image_sizes}
        height, width = next(iter(sizes), (0, 0))
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            source=self.source,
            splits={name: writer.counts() for name, writer in splits.items()},
            labels=self.labels,
            text_columns=tuple(
                name for name in TEXT_COLUMNS if any(name in writer.texts_seen for writer in splits.values())
            ),
            extra_columns=self._extra_columns,
            image_size=height if len(sizes) == 1 and height == width else 0,
            fingerprint=_set_fingerprint(splits, self.labels),
            files=files,
            dropped=reasons,
            embedding_size=len(self._first.embedding) // 2,
            long_texts={
                name: count
                for name in TEXT_COLUMNS
                if (count := sum(writer.long_texts[name] for writer in splits.values()))
            },
        )
        manifest.save(self.place)
        self._publish()
        return manifest

    def abandon(self, *, keep_finished: bool) -> None:
        """Leaves finished shards for the next try, if there are any; otherwise nothing."""
        for writer in self._splits.values():
            writer.abandon()
        num_files = len(
            {file.name for file in self._files} | {f.name for w in self._splits.values() for f in w.files}
        )
        if keep_finished and num_files:
            log.info("%s: %d finished shards are kept for the next try", self.target.label, num_files)
            return
        self._wipe()
        if self.target.is_local:
            shutil.rmtree(self.place.root, ignore_errors=True)

    def _check(self, row: Row) -> None:
        if self._first is None:
            self._first, self._extra_columns = row, tuple(sorted(row.extra))
            check_column_names(self.labels, self._extra_columns)
        if tuple(sorted(row.extra)) != self._extra_columns:
            raise ShardError(
                f"row {row.id}: extra columns {sorted(row.extra)}, earlier rows have {list(self._extra_columns)}"
            )
        if row.id in self._ids:
            raise ShardError(f"row id {row.id!r} comes twice; ids must be unique")

    def _split(self, row: Row) -> SplitWriter:
        if row.split not in self._splits:
            assert self._first is not None
            self._splits[row.split] = SplitWriter(
                row.split,
                self.place,
                self.labels,
                self._extra_columns,
                self.rows_a_group,
                len(self._first.embedding) // 2,
                finished=[file for file in self._files if file.split == row.split],
                on_file=self._note,
            )
        return self._splits[row.split]

    def _note(self, file: ShardFile) -> None:
        """Makes a finished shard, and the drops up to now, survive a kill."""
        drops = [[position, asdict(drop)] for position, drop in self._dropped[self._num_noted_drops :]]
        self._num_noted_drops = len(self._dropped)
        note = _as_json({"file": asdict(file), "dropped": drops})
        self.place.write(f"{_NOTES}/{file.name}.json", note)

    def _resumed(self) -> tuple[list[ShardFile], Finished]:
        """What an interrupted writer of the same set left; everything else in the working folder is removed."""
        asked = _as_json(
            {
                "schema_version": SCHEMA_VERSION,
                "source": self.source,
                "labels": [asdict(column) for column in self.labels],
                "rows_a_group": self.rows_a_group,
            }
        )
        files, dropped = _trusted(self.place, _read_notes(self.place, asked))
        if not files:
            self._wipe()
            self.place.write(_ASKED, asked)
            return [], Finished()
        keep = {file.name for file in files} | {_NOTES}
        for name in self.place.names():
            if name not in keep and _is_ours(name):
                self.place.delete(name)
        rows: Counter[str] = Counter()
        for file in files:
            rows[file.split] += file.rows
        log.info("%s: going on after %d rows in %d shards", self.target.label, rows.total(), len(files))
        return files, Finished(rows, dropped)

    def _wipe(self) -> None:
        """Removes every file of ours from the working folder."""
        for name in self.place.names():
            if _is_ours(name):
                self.place.delete(name)
        self.place.delete_folder(_NOTES)

    def _publish(self) -> None:
        if self.target.is_local:
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(self.target.root)  # only an empty one gets here
            os.rename(self.place.root, self.target.root)
        self.target.delete_folder(_NOTES)


def write_dropped(dropped: Sequence[Dropped], place: Storage) -> None:
    """Writes what was dropped as one Parquet table, in the order given."""
    columns = {
        # names of files need not be UTF-8
        name: [getattr(drop, name).encode("utf-8", "backslashreplace").decode() for drop in dropped]
        for name in ("id", "split", "reason", "detail")
    }
    with place.writing(DROPPED_NAME) as stream:
        pq.write_table(
            pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), stream
        )


def _as_json(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, indent=1, sort_keys=True).encode()


def _is_ours(name: str) -> bool:
    return name.endswith((".parquet", ".parquet.unfinished", ".json.unfinished")) or name == MANIFEST_NAME


def _working_place(target: Storage) -> Storage:
    if not target.is_local:
        return target
    return Storage(target.filesystem, f"{target.root}.partial", f"{target.label}.partial")


def _refuse_existing(target: Storage) -> None:
    names = target.names()
    is_unfinished = not target.is_local and _NOTES in names and MANIFEST_NAME not in names
    if names and not is_unfinished:
        raise ShardError(f"{target.label} already holds something; delete it, or choose another folder")


def _read_notes(place: Storage, asked: bytes) -> list[dict[str, Any]]:
    """The notes of a writer that was asked for the same, by split and number; none of another one."""
    if _NOTES not in place.names():
        return []
    try:
        if place.read(_ASKED) == asked:
            names = place.below(_NOTES).names()
            return [
                json.loads(place.read(f"{_NOTES}/{name}")) for name in names if name.endswith(".parquet.json")
            ]
    except (FileNotFoundError, json.JSONDecodeError):
        pass
    log.warning("%s: left by another preparation, removed", place.label)
    return []


def _trusted(
    place: Storage, notes: Sequence[Mapping[str, Any]]
) -> tuple[list[ShardFile], dict[int, Dropped]]:
    """The files of the notes that are whole, as far as none before them in their split is missing; and all drops."""
    files: list[ShardFile] = []
    damaged: set[str] = set()
    for note in notes:
        file = ShardFile(**note["file"])
        if (
            file.split in damaged
            or place.size(file.name) != file.bytes
            or place.sha256(file.name) != file.sha256
        ):
            damaged.add(file.split)
        else:
            files.append(file)
    return files, {position: Dropped(**drop) for note in notes for position, drop in note["dropped"]}


def _set_fingerprint(splits: Mapping[str, SplitWriter], labels: Sequence[LabelColumn]) -> str:
    digest = hashlib.sha256(
        json.dumps([SCHEMA_VERSION, [[c.name, c.kind, c.class_names] for c in labels]]).encode()
    )
    for name in sorted(splits):
        digest.update(name.encode() + splits[name].content.digest())
    return digest.hexdigest()


@contextmanager
def _locked(place: Storage) -> Iterator[None]:
    """Holds the working folder on disk for this process alone. An object store has no locks: there two writers of one
    set write the same bytes twice."""
    if not place.is_local:
        yield
        return
    descriptor = _lock(place)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(place: Storage) -> int:
    while True:
        os.makedirs(place.root, exist_ok=True)
        descriptor = os.open(place.root, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: another process is writing there; waiting for it", place.label)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            log.warning("%s cannot be locked (%s): see that nobody else writes there", place.label, error)
        with contextlib.suppress(FileNotFoundError):
            if os.stat(place.root).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)  # the other one has finished and moved the folder to its place
