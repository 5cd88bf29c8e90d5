"""MM-IMDB: 25,959 film posters with plots, any number of 23 genres each.

Arevalo et al. 2017, arXiv:1702.01992. Two published forms, both read:

- mmimdb.tar.gz: `split.json` (15,552 train, 2,608 dev, 7,799 test) and `dataset/<id>.json` beside `dataset/<id>.jpeg`.
  As in the authors' make_dataset.py, the text is the longest plot, and genres outside the 23 are passed over.
- multimodal_imdb.hdf5, the same rows and splits made ready. Its posters are 160 x 256, BGR with VGG's means taken off,
  which is undone here to within one level. Its plots are lower-case words as numbers; what they stand for is in
  metadata.npy, a pickle, which is never loaded (a pickle can run any program). So plots come from `dataset/<id>.json`
  when that folder lies beside the file, else from a vocabulary: one word a line, made by somebody who trusts the pickle:

    python -c "import numpy as np; m = np.load('metadata.npy', allow_pickle=True, encoding='latin1').item()['ix_to_word'];
    print(*(m[i] for i in range(len(m))), sep='\\n')" > vocabulary.txt
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data.manifest import LabelColumn
from data.row import Dropped, Row, UnusableError
from data.sources._image_file import image_file
from data.sources._mm_imdb_hdf5 import FilmsInHdf5, PosterInHdf5
from data.sources._source import SourceError, existing_folder, kept_or_dropped
from data.sources._tables import read_json

NEEDS_PATH = True
HDF5_NAME = "multimodal_imdb.hdf5"
GENRES = (
    "Drama", "Comedy", "Romance", "Thriller", "Crime", "Action", "Adventure", "Horror", "Documentary", "Mystery",
    "Sci-Fi", "Fantasy", "Family", "Biography", "War", "History", "Music", "Animation", "Musical", "Western", "Sport",
    "Short", "Film-Noir",
)  # fmt: skip

_SPLITS = {"test": "test", "validation": "dev", "train": "train"}


@dataclass(frozen=True, kw_only=True)
class MmImdbOptions:
    """How to read MM-IMDB."""

    vocabulary: str = ""
    """For the HDF5 form: a text file with the word of each number, one a line."""
    allow_outside: bool = False
    """Whether a picture may lie outside the dataset's folder."""


OPTIONS = MmImdbOptions


def labels(path: str, options: MmImdbOptions) -> tuple[LabelColumn, ...]:
    """One column, `genre`, multi-label."""
    return (LabelColumn(name="genre", kind="multilabel", class_names=GENRES),)


def published_rows(options: MmImdbOptions) -> dict[str, int]:
    """Rows of each split as published."""
    return {"train": 15552, "validation": 2608, "test": 7799}


def rows(path: str, *, seed: int, options: MmImdbOptions) -> Iterator[Row | Dropped]:
    """A row a film; its plot is also its caption. `path` is the folder of either form, or the HDF5 file.

    Raises SourceError when it holds neither, or when the HDF5 form lacks what its texts need.
    """
    if path.endswith((".hdf5", ".h5")):
        return _rows_of_hdf5(Path(path), options)
    folder = existing_folder(path)
    if not (folder / "split.json").is_file() and (folder / HDF5_NAME).is_file():
        return _rows_of_hdf5(folder / HDF5_NAME, options)
    split_ids = read_json(folder / "split.json")
    if not isinstance(split_ids, dict) or not all(
        isinstance(split_ids.get(s), list) for s in _SPLITS.values()
    ):
        raise SourceError(f"{folder / 'split.json'} should hold lists of ids named train, dev and test")
    return kept_or_dropped(
        (f"split.json:{published}[{number}]", split, partial(_row, str(film), split, folder, options))
        for split, published in _SPLITS.items()
        for number, film in enumerate(split_ids[published])
    )


def _row(film: str, split: str, folder: Path, options: MmImdbOptions) -> Row:
    record = _record(film, folder, options)
    genres = _list_of_text(record.get("genres"))
    known = tuple(genre for genre in GENRES if genre in genres)
    if not known:
        raise UnusableError(
            "bad_label", f"{film}: none of the 23 genres; it has: {', '.join(genres) or 'none'}"
        )
    plot = _longest_plot(film, record)
    return Row(
        id=film,
        split=split,
        group=film,
        image=image_file(folder, f"dataset/{film}.jpeg", allow_outside=options.allow_outside),
        caption=plot,
        text=plot,
        labels={"genre": known},
    )


def _record(film: str, folder: Path, options: MmImdbOptions) -> dict[str, Any]:
    stored = image_file(folder, f"dataset/{film}.json", allow_outside=options.allow_outside).read()
    try:
        record = json.loads(stored)
    except (ValueError, RecursionError) as error:
        raise UnusableError("bad_row", f"dataset/{film}.json is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise UnusableError("bad_row", f"dataset/{film}.json is not a JSON object")
    return record


def _longest_plot(film: str, record: dict[str, Any]) -> str:
    plot = max(_list_of_text(record.get("plot")), key=len, default="").strip()
    if not plot:
        raise UnusableError("empty_text", f"dataset/{film}.json has no plot")
    return plot


def _list_of_text(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]


def _rows_of_hdf5(file: Path, options: MmImdbOptions) -> Iterator[Row | Dropped]:
    films = FilmsInHdf5.opened(file, GENRES)
    words = _vocabulary(file, options)
    return kept_or_dropped(
        (f"{file.name}:{index}", split, partial(_row_of_hdf5, films, index, split, words, options))
        for split, published in _SPLITS.items()
        for index in films.ranges[published]
    )


def _row_of_hdf5(
    films: FilmsInHdf5, index: int, split: str, words: Sequence[str] | None, options: MmImdbOptions
) -> Row:
    film, genres = films.ids[index], films.genres(index)
    if words is None:
        plot = _longest_plot(film, _record(film, Path(films.path).parent, options))
    else:
        plot = films.plot(index, words)
    if not plot:
        raise UnusableError("empty_text", f"{film} has no plot")
    if not genres:
        raise UnusableError("bad_label", f"{film}: none of the 23 genres")
    image = PosterInHdf5(films.path, index)
    return Row(
        id=film, split=split, group=film, image=image, caption=plot, text=plot, labels={"genre": genres}
    )


def _vocabulary(file: Path, options: MmImdbOptions) -> list[str] | None:
    """The word of each number; None when the plots are beside the file."""
    if options.vocabulary:
        try:
            return Path(options.vocabulary).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"vocabulary {options.vocabulary} cannot be read: {error}") from None
    if (file.parent / "dataset").is_dir():
        return None
    raise SourceError(
        f"{file} has its plots as numbers: put dataset/<id>.json beside it, or give vocabulary=FILE, one word a line "
        "(metadata.npy is a pickle and is not loaded; data/sources/mm_imdb.py says how to make the file)"
    )
