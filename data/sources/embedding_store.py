"""Vectors that somebody computed, with captions and addresses: LAION's layout of .npy shards and Parquet metadata.

`<folder>[/<part>]/img_emb/img_emb_<n>.npy` (or the files themselves without the folder in between; `text_emb` for
captions' vectors) with `metadata/metadata_<n>.parquet`, a row for a row. LAION-5B has parts named en, multi and nolang
with some thousand pairs each, a million rows of 768 float16 in one: 250 of them are 384 GB. So nothing is loaded:

    for shard in open_store("laion"):
        shard.vectors()[start:stop]                   a memory map, [rows, numbers]
        shard.metadata(["url"], start, stop)          only those columns, only those row groups

`rows` gives the same as rows, for small sets. The key of a row is `<part>-<n>-<row>`, as en-0012-000345678.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.manifest import LabelColumn
from data.row import Dropped, Row, UnusableError
from data.sources._source import SourceError, existing_folder, kept_or_dropped

NEEDS_PATH = True
URL_COLUMNS = ("url", "URL")
CAPTION_COLUMNS = ("caption", "TEXT", "text")

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class EmbeddingStoreOptions:
    """Which vectors to take."""

    tower: Literal["img", "text"] = "img"


OPTIONS = EmbeddingStoreOptions


@dataclass(frozen=True)
class EmbeddingShard:
    """One .npy file of a store and its metadata."""

    part: str
    number: int
    vectors_path: Path
    metadata_path: Path

    def key(self, row: int) -> str:
        """What the row is called in the whole store."""
        return "-".join(filter(None, (self.part, f"{self.number:04d}", f"{row:09d}")))

    def vectors(self) -> np.ndarray:
        """The vectors [rows, numbers] as a read-only memory map. Raises UnusableError for a file that holds none."""
        try:
            vectors_ND = np.load(self.vectors_path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UnusableError("damaged_embedding", f"{self.vectors_path}: {error}") from None
        if vectors_ND.ndim != 2 or vectors_ND.dtype.kind != "f":
            raise UnusableError(
                "damaged_embedding",
                f"{self.vectors_path}: {vectors_ND.dtype} {vectors_ND.shape}, not rows of floats",
            )
        return vectors_ND

    def num_rows(self) -> int:
        """Rows of the metadata. Raises UnusableError when it cannot be read."""
        with self._metadata_file() as file:
            return file.metadata.num_rows

    def metadata(self, columns: Sequence[str], start: int, stop: int) -> pa.Table:
        """These columns of rows start..stop; reads the row groups that hold them. Raises as `num_rows`."""
        with self._metadata_file() as file:
            first, groups = 0, []
            skipped = 0
            for group in range(file.metadata.num_row_groups):
                last = first + file.metadata.row_group(group).num_rows
                if first < stop and start < last:
                    skipped = skipped if groups else first
                    groups.append(group)
                first = last
            try:
                table = file.read_row_groups(groups, columns=list(columns))
            except (OSError, pa.ArrowException) as error:
                raise UnusableError("bad_row", f"{self.metadata_path}: {error}") from None
            return table.slice(start - skipped, stop - start)

    def column_names(self) -> list[str]:
        """The columns of the metadata. Raises as `num_rows`."""
        with self._metadata_file() as file:
            return file.schema_arrow.names

    def _metadata_file(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.metadata_path)
        except (OSError, pa.ArrowException) as error:
            raise UnusableError("bad_row", f"{self.metadata_path}: {error}") from None


def labels(path: str, options: EmbeddingStoreOptions) -> tuple[LabelColumn, ...]:
    """None."""
    return ()


def rows(path: str, *, seed: int, options: EmbeddingStoreOptions) -> Iterator[Row | Dropped]:
    """A row a vector: no picture, but its address in `url`. Shards whose two files differ in length are dropped whole."""
    shards = open_store(path, tower=options.tower)
    return kept_or_dropped(candidate for shard in shards for candidate in _candidates(shard))


def open_store(path: str, *, tower: str = "img") -> list[EmbeddingShard]:
    """The shards at `path` in the order of their keys. Raises SourceError when there are none, or one has no metadata."""
    root = existing_folder(path)
    name = re.compile(rf"{re.escape(tower)}_emb_(\d+)\.npy")
    shards = []
    for file in root.rglob("*.npy"):
        if not (match := name.fullmatch(file.name)):
            continue
        above = file.parent.parent if file.parent.name == f"{tower}_emb" else file.parent
        known = [folder / f"metadata_{match[1]}.parquet" for folder in (above / "metadata", above)]
        metadata = next((candidate for candidate in known if candidate.is_file()), None)
        if metadata is None:
            raise SourceError(f"{file} has no {known[0].relative_to(root)} to go with it")
        part = above.relative_to(root).as_posix().replace("/", "-").strip(".")
        shards.append(EmbeddingShard(part, int(match[1]), file, metadata))
    if not shards:
        raise SourceError(f"{root} has no {tower}_emb_<number>.npy")
    return sorted(shards, key=lambda shard: (shard.part, shard.number))


def _candidates(shard: EmbeddingShard) -> Iterator[tuple[str, str, Callable[[], Row]]]:
    try:
        num_rows = shard.num_rows()
    except UnusableError as error:
        yield str(shard.metadata_path), "train", partial(_refuse, error)
        return
    try:
        vectors_ND = shard.vectors()
        if len(vectors_ND) != num_rows:
            # which vector belongs to which caption cannot be known
            raise UnusableError(
                "damaged_embedding",
                f"{shard.vectors_path}: {len(vectors_ND)} vectors, {num_rows} rows of metadata",
            )
        there = shard.column_names()
        columns = {
            what: next((name for name in names if name in there), "")
            for what, names in (("url", URL_COLUMNS), ("caption", CAPTION_COLUMNS))
        }
    except UnusableError as error:
        for row in range(num_rows):
            yield shard.key(row), "train", partial(_refuse, error)
        return
    for start in range(0, num_rows, _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, num_rows)
        try:
            table = shard.metadata([name for name in columns.values() if name], start, stop)
        except UnusableError as error:
            for row in range(start, stop):
                yield shard.key(row), "train", partial(_refuse, error)
            continue
        told = {
            what: table[name].to_pylist() if name else [""] * (stop - start) for what, name in columns.items()
        }
        for row, url, caption in zip(range(start, stop), told["url"], told["caption"], strict=True):
            yield shard.key(row), "train", partial(_row, shard, row, vectors_ND[row], url, caption)


def _row(shard: EmbeddingShard, row: int, vector_D: np.ndarray, url: object, caption: object) -> Row:
    key = shard.key(row)
    values_D = np.asarray(vector_D).astype("<f2")
    if not np.isfinite(values_D).all() or not values_D.any():
        raise UnusableError("damaged_embedding", f"{key}: a vector that is all zero or not finite")
    text = caption.strip() if isinstance(caption, str) else ""
    if not text:
        raise UnusableError("empty_text", f"{key}: no caption")
    return Row(
        id=key,
        split="train",
        group=key,
        caption=text,
        extra={"url": url if isinstance(url, str) else ""},
        embedding=values_D.tobytes(),
    )


def _refuse(error: UnusableError) -> Row:
    raise UnusableError(error.reason, str(error))
