"""A table of one's own: pictures with texts, labels, or both, in columns one names.

    crosstie data check own_table memes.csv image=file text=words label=verdict

`path` is a CSV, TSV, JSONL or Parquet file, or a folder of such, called train, validation (or val) and test. A picture is a
path from the table's folder, or, in Parquet, its bytes (also as Hugging Face's {"bytes", "path"}).

What the labels are is found from them. A cell that is a list, a list in JSON, or names with `label_separator` between
them makes the column multi-label; otherwise each value is a class, of which two make it binary. Whole numbers sort as
numbers, all else by the alphabet. A test row may lack its label; other rows without one are dropped.

Where nothing says which split a row belongs to, a seeded draw does, by the picture: two rows of one picture never part.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from data.manifest import LabelColumn
from data.row import Dropped, Row, StoredImage, UnusableError, printable
from data.sources._image_file import MAX_IMAGE_BYTES, image_file
from data.sources._source import SourceError, check_fraction, is_held_out, kept_or_dropped
from data.sources._tables import Line, column_names, read_table

NEEDS_PATH = True
SPLIT_NAMES = {
    "test": ("test", "testing"),
    "validation": ("validation", "val", "valid", "dev"),
    "train": ("train", "training"),
}
ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
MAX_CLASSES = 100_000
MAX_DIFFERENT_VALUES = 1_000_000

_WHOLE_NUMBER = re.compile(r"(-?\d+)\.0+")
_FRACTION = re.compile(r"-?\d*\.\d+(e-?\d+)?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class OwnTableOptions:
    """Which column holds what; "" for none of it."""

    image: str = "image"
    text: str = "text"
    """What a task reads."""
    label: str = "label"
    caption: str = ""
    """A statement about the picture, for pretraining; "" takes the text."""
    id: str = ""
    """Unique in the table; "" counts the rows."""
    split: str = ""
    """Values are train, validation (val, valid, dev) or test."""
    label_kind: Literal["auto", "class", "multilabel"] = "auto"
    label_separator: str = "|"
    validation_fraction: float = 0.1
    """Held out by the seed where no row is said to be validation."""
    test_fraction: float = 0.1
    """Held out by the seed where nothing says which split a row is in."""
    images: str = ""
    """The folder that paths of pictures start from; "" for the table's own."""
    allow_outside: bool = False
    """Whether a picture may lie outside that folder."""

    def __post_init__(self) -> None:
        check_fraction("validation_fraction", self.validation_fraction)
        check_fraction("test_fraction", self.test_fraction)
        check_fraction(
            "validation_fraction and test_fraction together", self.validation_fraction + self.test_fraction
        )
        if not self.image:
            raise SourceError("own_table needs the column of the pictures: image=NAME")
        if not self.label_separator:
            raise SourceError("label_separator must not be empty")


OPTIONS = OwnTableOptions


def labels(path: str, options: OwnTableOptions) -> tuple[LabelColumn, ...]:
    """The label column with the classes found in the table; none for `label=`.

    Raises SourceError for a column that is missing, empty, or holds numbers with fractions or as many values as rows.
    """
    if not options.label:
        return ()
    values = _different_values(_values(_tables(path, options).values(), options.label))
    is_multilabel = options.label_kind == "multilabel" or (
        options.label_kind == "auto" and any(_is_list(value, options) for value, _ in values)
    )
    found: set[str] = set()
    num_labelled = 0
    for value, count in values:
        try:
            names = _names(value, is_multilabel, options)
        except UnusableError:
            continue
        found.update(names or ())
        num_labelled += count if names is not None else 0
    _check_classes(found, num_labelled, options)
    kind = "multilabel" if is_multilabel else "class"
    return (LabelColumn(name=options.label, kind=kind, class_names=_in_order(found)),)


def rows(path: str, *, seed: int, options: OwnTableOptions) -> Iterator[Row | Dropped]:
    """A row a row. Raises SourceError for a table that cannot be read or lacks a column that was named."""
    tables = _tables(path, options)
    columns = labels(path, options)
    wanted = {options.image, options.text, options.label, options.caption, options.id, options.split} - {""}
    draw = _split_draw(tables, seed, options)
    return kept_or_dropped(
        candidate
        for split, file in tables.items()
        for candidate in _candidates(file, split, draw, sorted(wanted), columns, options)
    )


def _candidates(
    file: Path,
    split: str,
    draw: Callable[[str, str], str],
    wanted: list[str],
    columns: tuple[LabelColumn, ...],
    options: OwnTableOptions,
) -> Iterator[tuple[str, str, Callable[[], Row]]]:
    root = Path(options.images) if options.images else file.absolute().parent
    for number, line in enumerate(read_table(file, wanted)):
        said = split
        try:
            if line.problem:
                raise UnusableError("bad_row", f"{line.where}: {line.problem}")
            image, group = _image(line, root, options)
            if options.split:
                said = _said_split(line, options)
            own = draw(said, group)
        except UnusableError as error:
            yield line.where, said, partial(_refuse, error)
            continue
        row_id = f"{file.stem}-{number:08d}"
        yield line.where, own, partial(_row, line, row_id, own, group, image, columns, options)


def _row(
    line: Line,
    row_id: str,
    split: str,
    group: str,
    image: bytes | StoredImage,
    columns: tuple[LabelColumn, ...],
    options: OwnTableOptions,
) -> Row:
    text = line.text(options.text) if options.text else ""
    caption = line.text(options.caption) if options.caption else text
    for column, held in ((options.text, text), (options.caption, caption)):
        if column and not held:
            raise UnusableError("empty_text", f"{line.where}: no {column}")
    return Row(
        id=line.required(options.id) if options.id else row_id,
        split=split,
        group=group,
        image=image,
        caption=caption,
        text=text,
        labels={column.name: _label(line, column, split, options) for column in columns},
    )


def _image(line: Line, root: Path, options: OwnTableOptions) -> tuple[bytes | StoredImage, str]:
    """The picture, and what groups the rows that share it."""
    value = line.values.get(options.image)
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        if not value:
            raise UnusableError("empty_file", f"{line.where}: {options.image} has no bytes")
        if len(value) > MAX_IMAGE_BYTES:
            raise UnusableError("image_too_large", f"{line.where}: more than {MAX_IMAGE_BYTES >> 20} MiB")
        return value, hashlib.sha256(value).hexdigest()[:32]
    if not isinstance(value, str) or not value.strip():
        raise UnusableError("bad_row", f"{line.where}: no {options.image}")
    file = image_file(root, value.strip(), allow_outside=options.allow_outside)
    return file, file.path


# --- splits


def _tables(path: str, options: OwnTableOptions) -> dict[str, Path]:
    """{split, or "" when the rows decide: its table}, evaluated splits first; the columns are there."""
    place = Path(path)
    if place.is_dir():
        tables = {
            split: place / f"{name}{ending}"
            for split, names in SPLIT_NAMES.items()
            for name in reversed(names)
            for ending in reversed(ENDINGS)
            if (place / f"{name}{ending}").is_file()
        }
        if "train" not in tables:
            raise SourceError(f"{path} has no table called train ({', '.join(ENDINGS)})")
    else:
        tables = {"": place}
    for file in tables.values():
        there = column_names(file)
        for field in ("image", "text", "label", "caption", "id", "split"):
            column = getattr(options, field)
            if column and column not in there:
                hint = "" if field == "image" else f", or {field}= for none"
                raise SourceError(
                    f"{file} has no column {column!r}; it has: {', '.join(there)}; say {field}=NAME{hint}"
                )
    return tables


def _split_draw(tables: dict[str, Path], seed: int, options: OwnTableOptions) -> Callable[[str, str], str]:
    """(what the table says, group of the row) -> split."""
    if options.split:
        said = {
            _known_split(str(value)) for value in _values(tables.values(), options.split) if value is not None
        }
    else:
        said = set(tables)

    def draw(split: str, group: str) -> str:
        if split == "" and is_held_out(group, options.test_fraction, seed):
            return "test"
        if split in ("", "train") and "validation" not in said:
            left = 1 - options.test_fraction if split == "" else 1.0
            # another draw than the one above, or all that was not test would be validation
            held_out = is_held_out(f"validation/{group}", options.validation_fraction / left, seed)
            return "validation" if held_out else "train"
        return split or "train"

    return draw


def _said_split(line: Line, options: OwnTableOptions) -> str:
    split = _known_split(line.text(options.split))
    if not split:
        known = ", ".join(name for names in SPLIT_NAMES.values() for name in names)
        raise UnusableError(
            "bad_row", f"{line.where}: {options.split} is {line.text(options.split)!r}; known: {known}"
        )
    return split


def _known_split(name: str) -> str:
    return next((split for split, names in SPLIT_NAMES.items() if name.strip().lower() in names), "")


# --- labels


def _label(
    line: Line, column: LabelColumn, split: str, options: OwnTableOptions
) -> str | tuple[str, ...] | None:
    names = _names(line.values.get(column.name), column.kind == "multilabel", options)
    if names is None and split == "test":
        return None
    if names is None:
        raise UnusableError("bad_label", f"{line.where}: no {column.name}")
    return names if column.kind == "multilabel" else names[0]


def _names(value: Any, is_multilabel: bool, options: OwnTableOptions) -> tuple[str, ...] | None:
    """The classes in a cell; None for an empty one. Raises UnusableError for what cannot be a class."""
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return None
    if not is_multilabel:
        return (_class_name(value),)
    listed = _as_list(value)
    if listed is None:
        listed = value.split(options.label_separator) if isinstance(value, str) else [value]
    return tuple(dict.fromkeys(name for name in map(_class_name, listed) if name))


def _class_name(value: Any) -> str:
    if not isinstance(value, str | bool | int | float):
        raise UnusableError("bad_label", f"a label of type {type(value).__name__}: {str(value)[:40]}")
    name = str(value).strip()
    if printable(name) != name:
        raise UnusableError("bad_label", f"{printable(name)} is too long for a class, or not Unicode")
    # pandas writes 1 as 1.0 where another row of the column is empty
    return match[1] if (match := _WHOLE_NUMBER.fullmatch(name)) else name


def _is_list(value: Any, options: OwnTableOptions) -> bool:
    return _as_list(value) is not None or (isinstance(value, str) and options.label_separator in value)


def _as_list(value: Any) -> list[Any] | None:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, list) else None


def _different_values(values: Iterable[Any]) -> list[tuple[Any, int]]:
    """Each value and how often it comes, so that the table is read once only."""
    counts: dict[Any, list[Any]] = {}
    for value in values:
        if value is None or value != value:
            continue
        key = value if isinstance(value, str | int | float) else json.dumps(value, default=str)
        counts.setdefault(key, [value, 0])[1] += 1
        if len(counts) > MAX_DIFFERENT_VALUES:
            break
    return [(value, count) for value, count in counts.values()]


def _check_classes(found: set[str], num_labelled: int, options: OwnTableOptions) -> None:
    if not found:
        raise SourceError(f"column {options.label!r} has no labels; label= reads a table without any")
    if any(_FRACTION.fullmatch(name) for name in found):
        example = next(name for name in sorted(found) if _FRACTION.fullmatch(name))
        raise SourceError(
            f"column {options.label!r} holds numbers such as {example}; labels are classes, not quantities"
        )
    if len(found) > MAX_CLASSES or (len(found) > 1000 and len(found) > num_labelled / 2):
        raise SourceError(
            f"column {options.label!r} has {len(found)} different values in {num_labelled} rows: texts or ids, not classes"
        )


def _in_order(found: Iterable[str]) -> tuple[str, ...]:
    names = sorted(found)
    if all(re.fullmatch(r"-?\d{1,18}", name) for name in names):
        names.sort(key=int)
    return tuple(names)


def _values(tables: Iterable[Path], column: str) -> Iterator[Any]:
    for file in tables:
        for line in read_table(file, [column]):
            if not line.problem:
                yield line.values.get(column)


def _refuse(error: UnusableError) -> Row:
    raise UnusableError(error.reason, str(error))
