"""UPMC Food-101: 90,704 web pictures of 101 dishes with the titles of their pages.

Wang et al. 2015, "Recipe recognition with large multimodal food dataset". Two forms, both read:

- as published: `images/{train,test}/<class>/<name>.jpg` and `texts/{train,test}_titles.csv`, rows of picture, title and
  class without a header (67,988 and 22,716 rows);
- tables with a header, `train.csv`, `test.csv` and perhaps `validation.csv`: a picture's path from that folder, its title
  and its class, in columns of the names in COLUMNS; others are passed over.

Nobody published a validation split: where no table gives one, a seeded part of train is held out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data.manifest import LabelColumn
from data.row import Dropped, Row, UnusableError
from data.sources._image_file import image_file
from data.sources._source import (
    SourceError,
    check_fraction,
    existing_folder,
    is_held_out,
    kept_or_dropped,
)
from data.sources._tables import Line, column_names, read_csv

NEEDS_PATH = True
COLUMNS = {
    "image": ("image", "image_path", "path", "filename"),
    "title": ("title", "text", "caption"),
    "class": ("class", "class_name", "label"),
}

_TITLES: tuple[str, ...] = ("image", "title", "class")


@dataclass(frozen=True, kw_only=True)
class UpmcFood101Options:
    """How to read UPMC Food-101."""

    validation_fraction: float = 0.1
    """Of train, held out by the seed; unused where there is a validation.csv."""
    allow_outside: bool = False
    """Whether a picture may lie outside the dataset's folder."""

    def __post_init__(self) -> None:
        check_fraction("validation_fraction", self.validation_fraction)


OPTIONS = UpmcFood101Options


def labels(path: str, options: UpmcFood101Options) -> tuple[LabelColumn, ...]:
    """One column, `dish`: the folders of images/train, or the classes of train.csv, in the order of the alphabet."""
    folder = existing_folder(path)
    if _is_published_form(folder):
        names = [entry.name for entry in (folder / "images" / "train").iterdir() if entry.is_dir()]
    else:
        file = folder / "train.csv"
        columns = _columns(file)
        names = {line.values[columns["class"]].strip() for line in read_csv(file) if not line.problem} - {""}
    if not names:
        raise SourceError(f"{folder} names no classes: images/train has no folders, and train.csv no rows")
    return (LabelColumn(name="dish", class_names=tuple(sorted(names))),)


def published_rows(options: UpmcFood101Options) -> dict[str, int]:
    """Rows as published; what is held out for validation counts as train."""
    return {"train+validation": 67988, "test": 22716}


def rows(path: str, *, seed: int, options: UpmcFood101Options) -> Iterator[Row | Dropped]:
    """A row a picture; its title is also its caption. Raises SourceError when the folder holds neither form."""
    folder = existing_folder(path)
    classes = set(labels(path, options)[0].class_names)
    files = _files(folder)
    fraction = 0.0 if "validation" in files else options.validation_fraction
    return kept_or_dropped(
        candidate
        for split, file in files.items()
        for candidate in _candidates(folder, file, split, classes, fraction, seed, options)
    )


def _candidates(
    folder: Path,
    file: Path,
    split: str,
    classes: set[str],
    fraction: float,
    seed: int,
    options: UpmcFood101Options,
) -> Iterator[tuple[str, str, Callable[[], Row]]]:
    published = _is_published_form(folder)
    columns = dict(zip(_TITLES, _TITLES, strict=True)) if published else _columns(file)
    root = folder / "images" / split if published else folder
    for line in read_csv(file, _TITLES if published else None):
        image = "" if line.problem else line.text(columns["image"])
        own = "validation" if split == "train" and is_held_out(image, fraction, seed) else split
        yield line.where, own, partial(_row, line, columns, own, root, published, classes, options)


def _row(
    line: Line,
    columns: dict[str, str],
    split: str,
    root: Path,
    published: bool,
    classes: set[str],
    options: UpmcFood101Options,
) -> Row:
    name, dish = line.required(columns["image"]), line.text(columns["class"])
    if dish not in classes:
        raise UnusableError("bad_label", f"{line.where}: no class {dish!r}; there are {len(classes)}")
    if not (title := line.text(columns["title"])):
        raise UnusableError("empty_text", f"{line.where}: no title")
    place = f"{dish}/{name}" if published else name
    return Row(
        id=f"{root.name}/{place}" if published else place,
        split=split,
        group=f"{root.name}/{place}" if published else place,
        image=image_file(root, place, allow_outside=options.allow_outside),
        caption=title,
        text=title,
        labels={"dish": dish},
    )


def _is_published_form(folder: Path) -> bool:
    return (folder / "texts" / "train_titles.csv").is_file()


def _files(folder: Path) -> dict[str, Path]:
    """{split: its table}, evaluated splits first."""
    if _is_published_form(folder):
        files = {split: folder / "texts" / f"{split}_titles.csv" for split in ("test", "train")}
    else:
        files = {split: folder / f"{split}.csv" for split in ("test", "validation", "train")}
    found = {split: file for split, file in files.items() if file.is_file()}
    if "train" not in found:
        raise SourceError(f"{folder} has neither texts/train_titles.csv nor train.csv")
    return found


def _columns(file: Path) -> dict[str, str]:
    """{what: the column that holds it}. Raises SourceError naming what is missing."""
    there = column_names(file)
    found = {what: next((name for name in names if name in there), "") for what, names in COLUMNS.items()}
    for what, name in found.items():
        if not name:
            raise SourceError(
                f"{file} has no column for the {what} ({', '.join(COLUMNS[what])}); it has: {', '.join(there)}"
            )
    return found
