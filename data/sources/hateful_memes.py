"""Hateful Memes: 10,000 memes with the text on them, hateful or not.

Kiela et al. 2020, arXiv:2005.04790. As published: `img/`, and one JSON object a line (`id`, `img`, `text`, `label`) in
train, dev_seen, dev_unseen, test_seen and test_unseen.jsonl (the first phase called two of them dev and test). 400 of
the 540 memes of dev_unseen are in dev_seen too: they count once. The tests came without labels at first; then theirs
is None, and a network can only predict.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from data.manifest import LabelColumn
from data.row import Dropped, Row, UnusableError
from data.sources._image_file import image_file
from data.sources._source import SourceError, existing_folder, kept_or_dropped
from data.sources._tables import Line, read_jsonl

NEEDS_PATH = True
CLASS_NAMES = ("not hateful", "hateful")

_FILES = {
    "test": {"seen": ("test_seen", "test"), "unseen": ("test_unseen",)},
    "validation": {"seen": ("dev_seen", "dev"), "unseen": ("dev_unseen",)},
    "train": {"both": ("train",)},
}
_ROWS = {"train": 8500, "dev_seen": 500, "dev_unseen": 540, "test_seen": 1000, "test_unseen": 2000}

Part = Literal["seen", "unseen", "both"]


@dataclass(frozen=True, kw_only=True)
class HatefulMemesOptions:
    """What to take of Hateful Memes."""

    validation: Part = "both"
    """500 memes of dev_seen, 540 of dev_unseen, or the 640 of either."""
    test: Part = "both"
    allow_outside: bool = False
    """Whether a picture may lie outside the dataset's folder."""


OPTIONS = HatefulMemesOptions


def labels(path: str, options: HatefulMemesOptions) -> tuple[LabelColumn, ...]:
    """One column, `hateful`."""
    return (LabelColumn(name="hateful", class_names=CLASS_NAMES),)


def published_rows(options: HatefulMemesOptions) -> dict[str, int]:
    """Rows of each split as published, the memes that come twice among them."""
    return {
        "train": _ROWS["train"],
        **{
            split: sum(_ROWS[f"{short}_{part}"] for part in ("seen", "unseen") if asked in (part, "both"))
            for split, short, asked in (
                ("validation", "dev", options.validation),
                ("test", "test", options.test),
            )
        },
    }


def rows(path: str, *, seed: int, options: HatefulMemesOptions) -> Iterator[Row | Dropped]:
    """A row a meme; its text is also its caption. Raises SourceError when the folder has no train.jsonl."""
    folder = existing_folder(path)
    if not (folder / "train.jsonl").is_file():
        raise SourceError(f"{folder} has no train.jsonl; give the folder that holds it and img/")
    return kept_or_dropped(
        (line.where, split, partial(_row, line, split, file.stem, folder, options))
        for split, file in _files(folder, options)
        for line in read_jsonl(file)
    )


def _files(folder: Path, options: HatefulMemesOptions) -> Iterator[tuple[str, Path]]:
    asked = {"validation": options.validation, "test": options.test, "train": "both"}
    for split, parts in _FILES.items():
        for part, stems in parts.items():
            for stem in stems:
                file = folder / f"{stem}.jsonl"
                if asked[split] in (part, "both") and file.is_file():
                    yield split, file


def _row(line: Line, split: str, part: str, folder: Path, options: HatefulMemesOptions) -> Row:
    image = line.required("img")
    if not (text := line.text("text")):
        raise UnusableError("empty_text", f"{line.where}: no text")
    return Row(
        id=line.required("id"),
        split=split,
        group=image,
        image=image_file(folder, image, allow_outside=options.allow_outside),
        caption=text,
        text=text,
        labels={"hateful": _class_name(line, split)},
        extra={"part": part},
    )


def _class_name(line: Line, split: str) -> str | None:
    label = line.text("label")
    if not label and split == "test":
        return None
    if label not in ("0", "1"):
        raise UnusableError(
            "bad_label", f"{line.where}: label is {line.values.get('label')!r}; 0 or 1 is needed"
        )
    return CLASS_NAMES[int(label)]
