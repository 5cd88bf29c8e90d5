"""Shards -> batches, in this process: every distinct picture decoded once, every text tokenised once.

A split of small pictures lies in memory as uint8 (10,000 at 64 px are 120 MB), so that a batch is a few index
operations. Splits that do not fit, or many workers, take the Ray Data path at the end of the file.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from data import images
from data.batch import ImageTextBatch
from data.manifest import LabelColumn, ShardError
from data.shards import ShardSet
from data.text import Tokenizer, bucketed_batches

CACHE_BYTES = 4 << 30
"""Decoded splits kept for the next trial of this process; the one used longest ago goes first."""


@dataclass(frozen=True, kw_only=True)
class DecodedSplit:
    """A split in memory. Texts are ragged: row r's tokens are `tokens[starts_R[r] : starts_R[r] + lengths_R[r]]`."""

    images_GCHW: Tensor
    """uint8, each distinct picture once."""
    image_of_row_R: Tensor
    tokens: Tensor
    starts_R: Tensor
    lengths_R: Tensor
    labels: dict[str, Tensor]
    """One int64 tensor [R] for each label column."""
    label_columns: tuple[LabelColumn, ...]
    ids: list[str]
    extra: dict[str, list[str]]
    pad_id: int
    text_column: str

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_images(self) -> int:
        """How many distinct pictures the rows refer to."""
        return len(torch.unique(self.image_of_row_R))

    def batches(
        self,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        bucket: bool = True,
        first_batch: int = 0,
    ) -> Iterator[ImageTextBatch]:
        """One epoch: every row once, in an order that (seed, epoch) alone decide.

        Without `shuffle` rows come in their stored order. `bucket` puts texts of like length together (see
        `text.bucketed_batches`). `first_batch` goes on in the middle of an epoch without building what came before.
        """
        for rows in self._batch_rows(batch_size, seed, epoch, shuffle, drop_last, bucket)[first_batch:]:
            yield self.batch(rows)

    def num_batches(self, batch_size: int, *, drop_last: bool = False) -> int:
        """How many batches an epoch has."""
        return len(self) // batch_size if drop_last else -(-len(self) // batch_size)

    def batch(self, rows: np.ndarray) -> ImageTextBatch:
        """These rows, in this order, as one batch."""
        rows_B = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.int64)).to(self.tokens.device)
        lengths_B = self.lengths_R[rows_B]
        position_T = torch.arange(int(lengths_B.max()) if len(rows) else 0, device=self.tokens.device)
        mask_BT = position_T < lengths_B[:, None]
        # Padding would read past the end of the last text: let it read its own first token, then overwrite it.
        where_BT = self.starts_R[rows_B][:, None] + position_T * mask_BT
        return ImageTextBatch(
            images_BCHW=self.images_GCHW[self.image_of_row_R[rows_B]],
            token_ids_BT=self.tokens[where_BT].masked_fill_(~mask_BT, self.pad_id),
            text_mask_BT=mask_BT,
            labels={name: values[rows_B] for name, values in self.labels.items()},
            ids=[self.ids[row] for row in rows],
            extra={name: [values[row] for row in rows] for name, values in self.extra.items()},
        )

    def select(self, rows: np.ndarray) -> DecodedSplit:
        """The split of these rows only, in this order; pictures and tokens are shared, not copied."""
        rows_R = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.int64)).to(self.tokens.device)
        return replace(
            self,
            image_of_row_R=self.image_of_row_R[rows_R],
            starts_R=self.starts_R[rows_R],
            lengths_R=self.lengths_R[rows_R],
            labels={name: values[rows_R] for name, values in self.labels.items()},
            ids=[self.ids[row] for row in rows],
            extra={name: [values[row] for row in rows] for name, values in self.extra.items()},
        )

    def rows_with_distinct_images(self, count: int, seed: int) -> DecodedSplit:
        """`count` rows of which no two show the same picture, drawn by `seed`, in the stored order.

        Alignment measures compare sets of pairs; a picture that came twice would be its own nearest neighbour.
        Raises ShardError when the split has fewer pictures.
        """
        order = np.random.default_rng([seed, len(self)]).permutation(len(self))
        _, first = np.unique(self.image_of_row_R.cpu().numpy()[order], return_index=True)
        if len(first) < count:
            raise ShardError(
                f"{count} rows with distinct pictures asked for; this split has {len(first)} pictures"
            )
        return self.select(np.sort(order[np.sort(first)[:count]]))

    def to(self, device: torch.device | str) -> DecodedSplit:
        """The split with its tensors on `device`: batches are then built there, without any transfer."""
        names = ("images_GCHW", "image_of_row_R", "tokens", "starts_R", "lengths_R")
        moved = {name: getattr(self, name).to(device) for name in names}
        return replace(self, labels={name: v.to(device) for name, v in self.labels.items()}, **moved)

    def _batch_rows(
        self, batch_size: int, seed: int, epoch: int, shuffle: bool, drop_last: bool, bucket: bool
    ) -> list[np.ndarray]:
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more; got {batch_size}")
        rng = np.random.default_rng([seed, epoch])
        if shuffle and bucket:
            return bucketed_batches(self.lengths_R.cpu().numpy(), batch_size, rng, drop_last=drop_last)
        order = rng.permutation(len(self)) if shuffle else np.arange(len(self))
        starts = range(0, self.num_batches(batch_size, drop_last=drop_last) * batch_size, batch_size)
        return [order[start : start + batch_size] for start in starts]


def load_split(
    shards: ShardSet,
    split: str,
    tokenizer: Tokenizer,
    *,
    text_column: str = "text",
    limit: int = 0,
    max_length: int = 64,
    image_size: int = 0,
) -> DecodedSplit:
    """A split of `shards`, decoded; from memory when this process loaded the same one before.

    `text_column` is "text" or "caption". `limit` keeps so many rows (0: all), of as few pictures as hold them, chosen
    by their groups' names, so that neither order in the files nor a seed matters. `image_size` 0 means the size the
    pictures are stored in. Raises ShardError for an unknown split or column, or when the pictures differ in size and
    no size is given; ImageError naming the row of a picture that cannot be decoded.
    """
    manifest = shards.manifest
    manifest.counts(split)
    if text_column not in manifest.text_columns:
        raise ShardError(f"no text column {text_column!r}; this set has: {', '.join(manifest.text_columns)}")
    size = image_size or manifest.image_size
    if not size:
        raise ShardError("the stored pictures differ in size: say which image_size to decode them to")
    pictures_key = (manifest.fingerprint, split, limit, size)
    pictures = _cached(("pictures", *pictures_key), lambda: _load_pictures(shards, split, limit, size))
    key = ("split", *pictures_key, text_column, max_length, tokenizer.fingerprint)
    return _cached(key, lambda: _tokenise(pictures, tokenizer, text_column, max_length, manifest.labels))


def clear_cache() -> None:
    """Forgets every split this process has decoded."""
    with _cache_lock:
        _cache.clear()


@dataclass(frozen=True)
class _Pictures:
    """A split with its pictures decoded and its other columns as they were stored."""

    images_GCHW: Tensor
    image_of_row_R: Tensor
    columns: pa.Table


def _load_pictures(shards: ShardSet, split: str, limit: int, size: int) -> _Pictures:
    table = shards.read(split)
    if limit and limit < table.num_rows:
        table = table.take(_limited_rows(table["group"], limit))
    encoded = table["image"].combine_chunks()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    used, first_row, image_of_row = np.unique(codes, return_index=True, return_inverse=True)
    images_GCHW = torch.empty((len(used), 3, size, size), dtype=torch.uint8)
    for i, (code, row) in enumerate(zip(used.tolist(), first_row.tolist(), strict=True)):
        name = f"row {table['id'][row].as_py()}"
        images_GCHW[i] = torch.from_numpy(
            images.decode(encoded.dictionary[code].as_py(), size=size, name=name)
        )
    return _Pictures(
        images_GCHW, torch.from_numpy(image_of_row.astype(np.int64)), table.drop_columns(["image"])
    )


def _limited_rows(groups: pa.ChunkedArray, limit: int) -> np.ndarray:
    """The rows of whole groups in the order of their hashed names, until there are `limit`; in stored order."""
    names = groups.to_pylist()
    hashed = {name: hashlib.sha256(name.encode()).digest() for name in set(names)}
    return np.sort(sorted(range(len(names)), key=lambda row: (hashed[names[row]], row))[:limit])


def _tokenise(
    pictures: _Pictures,
    tokenizer: Tokenizer,
    text_column: str,
    max_length: int,
    labels: tuple[LabelColumn, ...],
) -> DecodedSplit:
    table = pictures.columns
    texts = table[text_column].combine_chunks().dictionary_encode()  # templated questions repeat: each once
    token_lists = tokenizer.encode(texts.dictionary.to_pylist(), max_length)
    lengths = np.array([len(tokens) for tokens in token_lists], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    text_of_row = texts.indices.to_numpy(zero_copy_only=False)
    known = {"id", "split", "group", "caption", "text", *(column.name for column in labels)}
    return DecodedSplit(
        images_GCHW=pictures.images_GCHW,
        image_of_row_R=pictures.image_of_row_R,
        tokens=torch.tensor([token for tokens in token_lists for token in tokens], dtype=torch.int64),
        starts_R=torch.from_numpy(starts[text_of_row]),
        lengths_R=torch.from_numpy(lengths[text_of_row]),
        labels={c.name: torch.from_numpy(table[c.name].to_numpy().astype(np.int64)) for c in labels},
        label_columns=labels,
        ids=table["id"].to_pylist(),
        extra={name: table[name].to_pylist() for name in table.column_names if name not in known},
        pad_id=tokenizer.pad_id,
        text_column=text_column,
    )


_cache: OrderedDict[tuple, Any] = OrderedDict()
_cache_lock = threading.Lock()


def _cached(key: tuple, make: Callable[[], Any]) -> Any:
    with _cache_lock:
        if key not in _cache:
            _cache[key] = make()
        _cache.move_to_end(key)
        value = _cache[key]
        while len(_cache) > 1 and sum(_nbytes(entry) for entry in _cache.values()) > CACHE_BYTES:
            _cache.popitem(last=False)
        return value


def _nbytes(entry: _Pictures | DecodedSplit) -> int:
    """Of the pictures alone, which outweigh the rest; a split shares them with its _Pictures, so it counts nothing."""
    return entry.images_GCHW.nbytes if isinstance(entry, _Pictures) else 0
