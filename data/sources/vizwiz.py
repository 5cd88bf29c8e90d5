"""VizWiz-Captions 1.0: pictures that blind people took, five captions each (CC BY 4.0).

Gurari et al. 2020, arXiv:2002.08565. As published: `annotations/{train,val,test}.json` (objects with `images` and, but
for test, `annotations`) and the pictures in `{train,val,test}/`. Captions marked `is_rejected` (spam) or `is_precanned`
("quality issues are too severe …") are dropped, for training and for scoring; so is a picture that is left without any.
The test's captions are hidden: its rows have none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data.manifest import LabelColumn
from data.row import Dropped, Row, UnusableError
from data.sources._image_file import image_file
from data.sources._source import SourceError, existing_folder, kept_or_dropped
from data.sources._tables import read_json

NEEDS_PATH = True

_SPLITS = {"test": "test", "validation": "val", "train": "train"}


@dataclass(frozen=True, kw_only=True)
class VizwizOptions:
    """How to read VizWiz-Captions."""

    allow_outside: bool = False
    """Whether a picture may lie outside the dataset's folder."""


OPTIONS = VizwizOptions


def labels(path: str, options: VizwizOptions) -> tuple[LabelColumn, ...]:
    """None: captions only."""
    return ()


def published_rows(options: VizwizOptions) -> dict[str, int]:
    """Captions of train and validation (five for each of 23,431 and 7,750 pictures), pictures of test."""
    return {"train": 117155, "validation": 38750, "test": 8000}


def rows(path: str, *, seed: int, options: VizwizOptions) -> Iterator[Row | Dropped]:
    """A row a caption, those of a picture together; a row a picture in test. Raises SourceError without annotations."""
    folder = existing_folder(path)
    files = {split: folder / "annotations" / f"{published}.json" for split, published in _SPLITS.items()}
    files = {split: file for split, file in files.items() if file.is_file()}
    if not files:
        raise SourceError(f"{folder} has no annotations/train.json, val.json or test.json")
    return kept_or_dropped(
        candidate for split, file in files.items() for candidate in _candidates(folder, file, split, options)
    )


def _candidates(
    folder: Path, file: Path, split: str, options: VizwizOptions
) -> Iterator[tuple[str, str, Callable[[], Row]]]:
    document = read_json(file)
    images = _objects(document, "images", file)
    annotations = [] if split == "test" else _objects(document, "annotations", file)
    by_image: dict[Any, list[tuple[int, dict[str, Any]]]] = {}
    for number, annotation in enumerate(annotations):
        # a list or object in place of the number cannot be looked up; it is no picture's either way
        image_id = annotation.get("image_id")
        by_image.setdefault(image_id if isinstance(image_id, int) else None, []).append((number, annotation))
    for position, image in enumerate(images):
        where = f"{file.name}:images[{position}]"
        make = partial(_row, image, where, split, folder, options)
        if split == "test":
            yield where, split, partial(make, None, 0)
            continue
        of_image = by_image.pop(image.get("id"), []) if isinstance(image.get("id"), int) else []
        for order, (number, annotation) in enumerate(of_image):
            yield f"{file.name}:annotations[{number}]", split, partial(make, annotation, order)
        if not any(_is_usable(annotation) for _, annotation in of_image):
            yield (
                where,
                split,
                partial(_refuse, "no_caption", f"{where}: {image.get('file_name')} has no caption left"),
            )
    for image_id, of_image in by_image.items():
        for number, _ in of_image:
            where = f"{file.name}:annotations[{number}]"
            yield where, split, partial(_refuse, "bad_row", f"{where}: no picture of id {image_id}")


def _row(
    image: dict[str, Any],
    where: str,
    split: str,
    folder: Path,
    options: VizwizOptions,
    annotation: dict[str, Any] | None,
    order: int,
) -> Row:
    name, image_id = image.get("file_name"), image.get("id")
    if not isinstance(name, str) or not isinstance(image_id, int):
        raise UnusableError("bad_row", f"{where}: a picture needs a file_name and an id")
    caption = ""
    if annotation is not None:
        if annotation.get("is_rejected"):
            raise UnusableError("rejected", f"{name}: caption {annotation.get('id')} is marked is_rejected")
        if annotation.get("is_precanned"):
            raise UnusableError("precanned", f"{name}: caption {annotation.get('id')} is marked is_precanned")
        caption = _caption(annotation)
        if not caption:
            raise UnusableError("empty_text", f"{name}: caption {annotation.get('id')} is empty")
    return Row(
        id=f"{split}-{image_id:08d}-{order}",
        split=split,
        group=name,
        image=image_file(folder / _SPLITS[split], name, allow_outside=options.allow_outside),
        caption=caption,
        extra={"image_id": str(image_id), "text_detected": str(image.get("text_detected")).lower()},
    )


def _is_usable(annotation: dict[str, Any]) -> bool:
    return (
        bool(_caption(annotation))
        and not annotation.get("is_rejected")
        and not annotation.get("is_precanned")
    )


def _caption(annotation: dict[str, Any]) -> str:
    caption = annotation.get("caption")
    return caption.strip() if isinstance(caption, str) else ""


def _refuse(reason: Any, detail: str) -> Row:
    raise UnusableError(reason, detail)


def _objects(document: Any, name: str, file: Path) -> list[dict[str, Any]]:
    listed = document.get(name) if isinstance(document, dict) else None
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise SourceError(f"{file} should hold a list of objects named {name}")
    return listed
