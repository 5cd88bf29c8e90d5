"""easy-VQA: 64-px pictures of one coloured shape, 48,248 templated questions, 13 answers.

V. Zhou, https://github.com/vzhou842/easy-VQA, MIT. It comes whole in the pip package `easy-vqa` (3 MB), whose files
are read where they lie. The published test split stays test; validation is a tenth of the training pictures.
"""

from __future__ import annotations

import importlib.util
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data.manifest import LabelColumn
from data.row import Row
from data.sources._source import SourceError

NEEDS_PATH = False
VALIDATION_FRACTION = 0.1


@dataclass(frozen=True, kw_only=True)
class EasyVqaOptions:
    """What to take of easy-VQA."""

    max_images_per_split: int = 0
    """The first so many pictures of each split, for small runs; 0 takes all (3,600 + 400 + 1,000)."""

    def __post_init__(self) -> None:
        if self.max_images_per_split < 0:
            raise SourceError(
                f"max_images_per_split must be 0 (all) or more; got {self.max_images_per_split}"
            )


OPTIONS = EasyVqaOptions

# Every template of the package's questions. A "no" to a negated question says that the thing is there.
_ASKS_PRESENCE = [
    (re.compile(r"(?:does the image contain|is there) (a .+?)(?: in the image)?\?"), False),
    (re.compile(r"is (a .+) present\?"), False),
    (re.compile(r"(?:does the image not contain|is there not) (a .+?)(?: in the image)?\?"), True),
    (re.compile(r"is no (.+) present\?"), True),
]
_ASKS_WHAT = [
    (
        re.compile(r"what shape (?:does the image contain|is in the image|is present)\?"),
        "there is a {answer} in the image",
    ),
    (re.compile(r"what is the (\w+) shape\?"), "the {0} shape is a {answer}"),
    (re.compile(r"what color is the (\w+)\?"), "the {0} is {answer}"),
    (re.compile(r"what is the color of the (\w+)\?"), "the {0} is {answer}"),
]


def labels(path: str, options: EasyVqaOptions) -> tuple[LabelColumn, ...]:
    """One column, `answer`, with the classes in the order of the package's answers.txt."""
    names = (_package_data() / "answers.txt").read_text(encoding="utf-8").split()
    return (LabelColumn(name="answer", class_names=tuple(names)),)


def rows(path: str, *, seed: int, options: EasyVqaOptions) -> Iterator[Row]:
    """A row a question, pictures in the order of their numbers; `seed` decides which pictures validate."""
    folder = _package_data()
    for part in ("train", "test"):
        questions = _questions_by_image(folder / part / "questions.json")
        split_of = _splits(part, sorted(questions), seed)
        taken = dict.fromkeys(split_of.values(), 0)
        for image in sorted(questions):
            split = split_of[image]
            if options.max_images_per_split and taken[split] >= options.max_images_per_split:
                continue
            taken[split] += 1
            stored = (folder / part / "images" / f"{image}.png").read_bytes()
            for number, (question, answer) in enumerate(questions[image]):
                yield Row(
                    id=f"{part}-{image:05d}-{number:02d}",
                    split=split,
                    group=f"{part}-{image:05d}",
                    image=stored,
                    caption=statement(question, answer) or f"{question} {answer}",
                    text=question,
                    labels={"answer": answer},
                )


def statement(question: str, answer: str) -> str | None:
    """What question and answer say together, or None for a question of no known template.

    >>> statement("is there not a red shape?", "no")
    'there is a red shape in the image'
    """
    for template, is_negated in _ASKS_PRESENCE:
        if match := template.fullmatch(question):
            thing = match[1].removeprefix("a ")
            is_there = (answer == "yes") != is_negated
            return f"there is {'a' if is_there else 'no'} {thing} in the image"
    for template, says in _ASKS_WHAT:
        if match := template.fullmatch(question):
            return says.format(*match.groups(), answer=answer)
    return None


def _questions_by_image(path: Path) -> dict[int, list[tuple[str, str]]]:
    questions: dict[int, list[tuple[str, str]]] = {}
    for question, answer, image in json.loads(path.read_text(encoding="utf-8")):
        questions.setdefault(image, []).append((question, answer))
    return questions


def _splits(part: str, images: list[int], seed: int) -> dict[int, str]:
    if part == "test":
        return dict.fromkeys(images, "test")
    held_out = set(random.Random(seed).sample(images, round(VALIDATION_FRACTION * len(images))))
    return {image: "validation" if image in held_out else "train" for image in images}


def _package_data() -> Path:
    spec = importlib.util.find_spec("easy_vqa")  # finds the folder without importing the package
    if spec is None or spec.origin is None:
        raise SourceError("source easy_vqa needs the package of that name: pip install easy-vqa")
    return Path(spec.origin).parent / "data"
