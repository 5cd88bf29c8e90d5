"""What tells one picture from another: its bytes, and what is left of it after resizing and compression."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.fft import dctn

from data.images import decode, stored_size

_PAIRS_AT_ONCE = 1 << 22
_HASHED_SIDE = 64
_FLAT = 2.0  # standard deviation of grey levels below which a picture shows nothing to tell it by


@dataclass(frozen=True)
class PictureFacts:
    """What is remembered of a picture."""

    digest: bytes
    """The first half of the sha256 of its stored bytes."""
    perceptual_hash: int | None
    """64 bits that survive resizing and compression; None for a picture of one colour."""
    height: int
    width: int


def picture_facts(stored: bytes, name: str = "image") -> PictureFacts:
    """The facts of a picture, which is decoded to its end. Raises ImageError, naming `name`, when it cannot be."""
    height, width = stored_size(stored, name=name)
    # of a large JPEG an eighth is decoded, which is enough and half the time
    pixels_CHW = decode(stored, size=_HASHED_SIDE, resize="stretch", name=name)
    return PictureFacts(hashlib.sha256(stored).digest()[:16], perceptual_hash(pixels_CHW), height, width)


def perceptual_hash(pixels_CHW: np.ndarray) -> int | None:
    """64 bits: which of the lowest frequencies of the grey picture lie above their median (pHash, Zauner 2010)."""
    grey = Image.fromarray(np.ascontiguousarray(pixels_CHW.transpose(1, 2, 0))).convert("L")
    small_HW = np.asarray(grey.resize((32, 32), Image.Resampling.BOX, reducing_gap=2.0), dtype=np.float32)
    if small_HW.std() < _FLAT:
        return None
    # without the first row and column, which tell brightness and its slopes rather than what is seen
    low = np.asarray(dctn(small_HW, norm="ortho"))[1:9, 1:9].ravel()
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def near_pairs(first_N: np.ndarray, second_M: np.ndarray, max_bits: int) -> np.ndarray:
    """Pairs (i, j) [P, 2] of uint64 hashes that differ in at most `max_bits` bits, sorted by j, then i.

    The 64 bits are cut into max_bits + 1 bands: hashes that differ in fewer bits than there are bands agree in one band
    at least, so only pairs that do are compared. All pairs of a million and ten thousand would take minutes.
    """
    edges = np.linspace(0, 64, max_bits + 2).astype(int)
    found = [np.empty((0, 2), dtype=np.int64)]
    for low, high in itertools.pairwise(edges.tolist()):
        mask = np.uint64((1 << (high - low)) - 1)
        keys_N, keys_M = (first_N >> np.uint64(low)) & mask, (second_M >> np.uint64(low)) & mask
        order_N = np.argsort(keys_N, kind="stable")
        starts_M = np.searchsorted(keys_N[order_N], keys_M, "left")
        counts_M = np.searchsorted(keys_N[order_N], keys_M, "right") - starts_M
        for rows in _cut(counts_M, _PAIRS_AT_ONCE):
            j_P = np.repeat(rows, counts_M[rows])
            within_P = np.arange(len(j_P)) - np.repeat(
                np.cumsum(counts_M[rows]) - counts_M[rows], counts_M[rows]
            )
            i_P = order_N[starts_M[j_P] + within_P]
            is_near_P = np.bitwise_count(first_N[i_P] ^ second_M[j_P]) <= max_bits
            found.append(np.stack([i_P[is_near_P], j_P[is_near_P]], axis=1))
    pairs = np.unique(np.concatenate(found), axis=0)
    return pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]


def _cut(counts: np.ndarray, limit: int) -> Iterator[np.ndarray]:
    """Runs of row numbers whose counts make about `limit` together."""
    part = np.cumsum(counts) // limit
    yield from np.split(np.arange(len(counts)), np.flatnonzero(np.diff(part)) + 1) if len(counts) else ()
