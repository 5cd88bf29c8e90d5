"""multimodal_imdb.hdf5 of MM-IMDB, as the authors' make_dataset.py wrote it (github.com/johnarevalo/gmu-mmimdb)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from data.images import encode
from data.row import UnusableError
from data.sources._source import SourceError

_BGR_MEANS = (103.939, 116.779, 123.68)


@dataclass(frozen=True)
class FilmsInHdf5:
    """What the file says of its films; posters and plots are read when asked for."""

    path: str
    ids: tuple[str, ...]
    ranges: dict[str, range]
    """{train, dev or test: the rows of that split}"""
    genres_NG: np.ndarray
    genre_names: tuple[str, ...]

    @classmethod
    def opened(cls, file: Path, known_genres: Sequence[str]) -> FilmsInHdf5:
        """The films of `file`. Raises SourceError when it is missing, damaged or not of that form."""
        if not file.is_file():
            raise SourceError(f"no file {file}")
        path = str(file.absolute())
        ids = [
            film.decode("ascii", "replace") if isinstance(film, bytes) else str(film)
            for film in _dataset(path, "imdb_ids")[()]
        ]
        genres_NG = np.asarray(_dataset(path, "genres")[()])
        stored = _dataset(path, "genres").attrs.get("target_names")
        names = tuple(known_genres) if stored is None else tuple(json.loads(stored))
        if genres_NG.shape != (len(ids), len(names)) or not set(names) <= set(known_genres):
            raise SourceError(
                f"{path}: genres of shape {genres_NG.shape}, named {names}; the 23 of MM-IMDB are needed"
            )
        return cls(path, tuple(ids), _ranges(path, len(ids)), genres_NG, names)

    def genres(self, row: int) -> tuple[str, ...]:
        """The names of the film's genres."""
        return tuple(
            name for name, held in zip(self.genre_names, self.genres_NG[row].tolist(), strict=True) if held
        )

    def plot(self, row: int, words: Sequence[str]) -> str:
        """The film's plot in words. Raises UnusableError when it has a number that `words` lacks."""
        numbers = np.asarray(_dataset(self.path, "sequences")[row]).tolist()
        if any(not 0 <= number < len(words) for number in numbers):
            raise UnusableError(
                "bad_row", f"{self.ids[row]}: its plot has words that the vocabulary of {len(words)} lacks"
            )
        return " ".join(str(words[number]) for number in numbers)


@dataclass(frozen=True)
class PosterInHdf5:
    """A StoredImage inside the file."""

    path: str
    row: int

    def read(self) -> bytes:
        """The poster as PNG. Raises UnusableError when the file has no such picture any more."""
        try:
            stored_CHW = np.asarray(_dataset(self.path, "images")[self.row])
        except (OSError, KeyError, ValueError, IndexError) as error:
            raise UnusableError("damaged_image", f"{self.path}: images[{self.row}]: {error}") from None
        if stored_CHW.ndim != 3 or stored_CHW.shape[0] != 3:
            raise UnusableError("damaged_image", f"{self.path}: images are {stored_CHW.shape}, not [3, H, W]")
        return encode(_without_vgg_means(stored_CHW))


def _without_vgg_means(stored_CHW: np.ndarray) -> np.ndarray:
    """RGB uint8 of what make_dataset.py stored: BGR minus the channel's mean, cut off towards zero to int32.

    What was cut off is the same for all levels above the mean, and for all below it: they come back by adding the mean
    rounded up, and rounded down. Only the two levels around the mean, both stored as 0, cannot be told apart.
    """
    planes = [
        stored_HW + np.where(stored_HW >= 0, math.ceil(mean), math.floor(mean))
        for stored_HW, mean in zip(stored_CHW.astype(np.int64), _BGR_MEANS, strict=True)
    ]
    return np.clip(np.stack(planes[::-1]), 0, 255).astype(np.uint8)


def _ranges(path: str, num_rows: int) -> dict[str, range]:
    """The rows of each split from the file's `split` attribute, a table that the fuel library defined."""
    table = _opened(path, os.getpid()).attrs.get("split")
    found: dict[str, range] = {}
    for entry in () if table is None else table:
        if entry["source"] == b"genres":
            found[entry["split"].decode()] = range(int(entry["start"]), int(entry["stop"]))
    is_whole = all(0 <= rows.start <= rows.stop <= num_rows for rows in found.values())
    if set(found) != {"train", "dev", "test"} or not is_whole:
        raise SourceError(
            f"{path}: its `split` attribute should give the rows of train, dev and test; got {found}"
        )
    return found


def _dataset(path: str, name: str) -> Any:
    """A dataset whose numbers are in the file itself: HDF5 can also point to any other file of this machine."""
    handle = _opened(path, os.getpid())
    if type(handle.get(name, getlink=True)).__name__ != "HardLink":
        raise SourceError(f"{path} has no {name} of its own; it holds: {', '.join(handle)}")
    dataset = handle[name]
    if dataset.external or dataset.is_virtual:
        raise SourceError(f"{path}: {name} points to another file, which is not followed")
    return dataset


@lru_cache(maxsize=4)
def _opened(path: str, process: int) -> Any:
    """The open file; `process` is in the key because a handle that a forked process inherits reads garbage."""
    try:
        import h5py
    except ImportError:
        raise SourceError("the HDF5 form of mm_imdb needs the package h5py: pip install h5py") from None
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise SourceError(f"{path} is not an HDF5 file, or is damaged: {error}") from error
