"""A folder of pictures in one folder a class, as ImageNet has it; no texts.

`<folder>/{train,val,test}/<class>/<picture>`, or `<folder>/<class>/<picture>`, which is train then. Pictures that lie in
a split's folder itself have no label, as ImageNet's test. `words.txt` (lines of class and words, as WordNet's ids and
their names) or LOC_synset_mapping.txt may say what the classes are called.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data.manifest import LabelColumn
from data.row import Dropped, Row, printable
from data.sources._image_file import image_file
from data.sources._source import SourceError, check_fraction, existing_folder, is_held_out, kept_or_dropped

NEEDS_PATH = True
WORDS_FILES = ("words.txt", "LOC_synset_mapping.txt")

_SPLITS = {"test": ("test",), "validation": ("val", "validation"), "train": ("train",)}


@dataclass(frozen=True, kw_only=True)
class ImageFolderOptions:
    """How to read a folder of pictures."""

    validation_fraction: float = 0.0
    """Of train, held out by the seed; unused where the folder has a validation split."""
    allow_outside: bool = False
    """Whether a picture may be a link to a place outside the folder."""

    def __post_init__(self) -> None:
        check_fraction("validation_fraction", self.validation_fraction)


OPTIONS = ImageFolderOptions


def labels(path: str, options: ImageFolderOptions) -> tuple[LabelColumn, ...]:
    """One column, `class`: the names of the folders in the order of the alphabet (ImageNet's ids; its order too)."""
    folders = _split_folders(existing_folder(path))
    names = {name for folder in folders.values() for name, is_folder in _entries(folder) if is_folder}
    if not names:
        raise SourceError(f"{path} has no folders of classes")
    if strange := [name for name in names if printable(name) != name]:
        raise SourceError(
            f"{path}: the folder {printable(strange[0])} has a name that is not UTF-8; rename it"
        )
    return (LabelColumn(name="class", class_names=tuple(sorted(names))),)


def rows(path: str, *, seed: int, options: ImageFolderOptions) -> Iterator[Row | Dropped]:
    """A row a picture; `words` says what its class is called. Raises SourceError when there are no classes."""
    root = existing_folder(path)
    folders = _split_folders(root)
    labels(path, options)
    return kept_or_dropped(_candidates(root, folders, class_words(root), seed, options))


def class_words(folder: Path) -> dict[str, str]:
    """{class: what it is called} from the first of WORDS_FILES there is, as "tench, Tinca tinca"."""
    file = next((folder / name for name in WORDS_FILES if (folder / name).is_file()), None)
    if file is None:
        return {}
    words = {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, said = line.strip().replace("\t", " ").partition(" ")
        words[name] = said.strip()
    return words


def _candidates(
    root: Path, folders: dict[str, Path], words: dict[str, str], seed: int, options: ImageFolderOptions
) -> Iterator[tuple[str, str, Callable[[], Row]]]:
    fraction = 0.0 if "validation" in folders else options.validation_fraction
    for split, folder in folders.items():
        for name, is_folder in _entries(folder):
            pictures = [f"{name}/{inner}" for inner in _files_below(folder / name)] if is_folder else [name]
            for picture in pictures:
                place = os.path.relpath(folder / picture, root)
                own = "validation" if split == "train" and is_held_out(place, fraction, seed) else split
                yield place, own, partial(_row, root, place, own, name if is_folder else None, words, options)


def _row(
    root: Path, place: str, split: str, name: str | None, words: dict[str, str], options: ImageFolderOptions
) -> Row:
    return Row(
        id=place,
        split=split,
        group=place,
        image=image_file(root, place, allow_outside=options.allow_outside),
        labels={"class": name},
        extra={"words": words.get(name or "", "")},
    )


def _split_folders(root: Path) -> dict[str, Path]:
    found = {
        split: root / name for split, names in _SPLITS.items() for name in names if (root / name).is_dir()
    }
    return found or {"train": root}


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """(name, whether it is a folder) of what lies there, hidden things and lists of words aside, by name."""
    with os.scandir(folder) as entries:
        return sorted(
            (entry.name, entry.is_dir())
            for entry in entries
            if not entry.name.startswith(".") and entry.name not in WORDS_FILES
        )


def _files_below(folder: Path) -> Iterator[str]:
    """Files at any depth (Tiny ImageNet has `<class>/images/`), as paths from `folder`, in order.

    Links to folders are not followed, since they may lead in circles; they are given as if they were files.
    """
    for name, is_folder in _entries(folder):
        if is_folder and not (folder / name).is_symlink():
            yield from (f"{name}/{inner}" for inner in _files_below(folder / name))
        else:
            yield name
