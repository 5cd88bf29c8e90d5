"""Shards -> batches: decoded once into this process's memory, or streamed by Ray Data.

`load_split` is the way of a search, where many short trials read one small dataset: a plain loop over memory is 100 times
as fast as any pipeline. `ray_dataset` and `batches_from_ray` are the way of splits that do not fit into memory and of
training on many workers; stored bytes travel and are decoded beside the training, in background threads.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from data import images
from data.batch import ImageTextBatch
from data.decoded_split import DecodedSplit
from data.manifest import Manifest, ShardError
from data.row import label_values
from data.shards import ShardSet, open_shards
from data.text import Tokenizer, pad_ragged

if TYPE_CHECKING:
    from ray.data import DataIterator, Dataset

CACHE_BYTES = 4 << 30
"""Decoded splits kept for the next trial of this process; the one used longest ago goes first."""


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
    size = _checked_image_size(manifest, text_column, image_size)
    pictures_key = (manifest.fingerprint, split, limit, size)
    pictures = _cached(("pictures", *pictures_key), lambda: _load_pictures(shards, split, limit, size))
    key = ("split", *pictures_key, text_column, max_length, tokenizer.fingerprint)
    return _cached(key, lambda: _tokenise(pictures, tokenizer, text_column, max_length, manifest))


def clear_cache() -> None:
    """Forgets every split this process has decoded."""
    with _cache_lock:
        _cache.clear()


def ray_dataset(folder: str | Path, split: str) -> Dataset:
    """A split of the shards at `folder` as a Ray dataset of stored rows. Ray must have been started.

    `folder` must be one that every node can read. Raises ShardError as `open_shards` does.
    """
    import ray.data

    return ray.data.read_parquet([str(path) for path in open_shards(folder).paths(split)])


def batches_from_ray(
    rows: DataIterator,
    manifest: Manifest,
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    text_column: str = "text",
    max_length: int = 64,
    image_size: int = 0,
    shuffle_rows: int = 0,
    seed: int = 0,
    drop_last: bool = False,
    prefetch_batches: int = 2,
) -> Iterator[ImageTextBatch]:
    """Batches of one epoch from this worker's part of a `ray_dataset` (`ray.train.get_dataset_shard(name)`).

    Rows of one picture are stored together: `shuffle_rows` (0: none) is how many rows are held to draw from, by
    `seed`; give another seed each epoch. Whole batches may overtake one another (several threads decode them), so
    unlike `load_split`'s the order is not the same from run to run. Raises as `load_split` does.
    """
    from ray.data.collate_fn import ArrowBatchCollateFn

    size = _checked_image_size(manifest, text_column, image_size)

    class Collate(ArrowBatchCollateFn):
        def __call__(self, batch: pa.Table) -> ImageTextBatch:
            return batch_from_table(
                batch, manifest, tokenizer, text_column=text_column, max_length=max_length, image_size=size
            )

    # An ImageTextBatch passes through untouched; "cpu" keeps Ray from claiming a device for it.
    batches: Iterable[Any] = rows.iter_torch_batches(
        batch_size=batch_size,
        collate_fn=Collate(),
        device="cpu",
        drop_last=drop_last,
        prefetch_batches=prefetch_batches,
        local_shuffle_buffer_size=max(shuffle_rows, batch_size) if shuffle_rows else None,
        local_shuffle_seed=seed if shuffle_rows else None,
    )
    yield from batches


def batch_from_table(
    table: pa.Table,
    manifest: Manifest,
    tokenizer: Tokenizer,
    *,
    text_column: str,
    max_length: int,
    image_size: int,
) -> ImageTextBatch:
    """Rows as they are stored -> a batch; a picture that several rows share is decoded once."""
    ids: list[str] = table["id"].to_pylist()
    stored: list[bytes] = table["image"].to_pylist()
    decoded: dict[bytes, Tensor] = {}
    for row_id, picture in zip(ids, stored, strict=True):
        if picture not in decoded:
            decoded[picture] = torch.from_numpy(images.decode(picture, size=image_size, name=f"row {row_id}"))
    token_ids_BT, text_mask_BT = pad_ragged(
        tokenizer.encode(table[text_column].to_pylist(), max_length), tokenizer.pad_id
    )
    return ImageTextBatch(
        images_BCHW=torch.stack([decoded[picture] for picture in stored]),
        token_ids_BT=token_ids_BT,
        text_mask_BT=text_mask_BT,
        labels={c.name: torch.from_numpy(label_values(c, table[c.name])) for c in manifest.labels},
        ids=ids,
        extra={name: table[name].to_pylist() for name in manifest.extra_columns},
    )


def _checked_image_size(manifest: Manifest, text_column: str, image_size: int) -> int:
    """The side to decode pictures to; complains of a text column that is not there as well."""
    if text_column not in manifest.text_columns:
        raise ShardError(f"no text column {text_column!r}; this set has: {', '.join(manifest.text_columns)}")
    size = image_size or manifest.image_size
    if not size:
        raise ShardError("the stored pictures differ in size: say which image_size to decode them to")
    return size


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
    manifest: Manifest,
) -> DecodedSplit:
    table, labels = pictures.columns, manifest.labels
    texts = table[text_column].combine_chunks().dictionary_encode()  # templated questions repeat: each once
    token_lists = tokenizer.encode(texts.dictionary.to_pylist(), max_length)
    lengths = np.array([len(tokens) for tokens in token_lists], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    text_of_row = texts.indices.to_numpy(zero_copy_only=False)
    return DecodedSplit(
        images_GCHW=pictures.images_GCHW,
        image_of_row_R=pictures.image_of_row_R,
        tokens=torch.tensor([token for tokens in token_lists for token in tokens], dtype=torch.int64),
        starts_R=torch.from_numpy(starts[text_of_row]),
        lengths_R=torch.from_numpy(lengths[text_of_row]),
        labels={c.name: torch.from_numpy(label_values(c, table[c.name])) for c in labels},
        label_columns=labels,
        ids=table["id"].to_pylist(),
        extra={name: table[name].to_pylist() for name in manifest.extra_columns},
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
        while len(_cache) > 1 and _cached_bytes() > CACHE_BYTES:
            _cache.popitem(last=False)
        return value


def _cached_bytes() -> int:
    """Of the pictures, which outweigh the rest; entries that share their pictures count once."""
    return sum({entry.images_GCHW.data_ptr(): entry.images_GCHW.nbytes for entry in _cache.values()}.values())
