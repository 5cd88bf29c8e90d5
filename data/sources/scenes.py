"""Generated scenes: coloured shapes on a grid, and questions that need words and picture together.

Made so that a search has something to find: "what colour is the star?" is settled by neither stream alone, and a
network that lets the words look into the picture early answers it sooner than one that joins two finished summaries.

    colour_of_shape   what colour is the star?                          only one star in the picture
    shape_of_colour   what shape is red?                                only one red thing
    colour_beside     what colour is the shape left of the red star?    right of, above, below; the next cell
    shape_beside      what shape is left of the red star?
    shape_at          what shape is in row two column three?
    colour_at         what colour is the shape in row two column three?

Answers are colours and shapes. Of the questions that a picture allows, the one is asked whose answer came least often
to that very question, so that a guess from the question alone stays near 1 in the number of colours or of shapes.
Cells are CELL_SIZE = 16 pixels wide: with 16-pixel patches each object lies in a patch of its own.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data.images import encode
from data.manifest import LabelColumn
from data.row import Row
from data.sources._source import SourceError
from data.sources._sprites import SHAPES, sprite

NEEDS_PATH = False

COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 80, 200),
    "yellow": (250, 210, 30),
    "purple": (148, 60, 190),
    "orange": (255, 127, 14),
    "black": (25, 25, 25),
    "cyan": (40, 200, 215),
}
KINDS = ("colour_of_shape", "shape_of_colour", "colour_beside", "shape_beside", "shape_at", "colour_at")
SIDES = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")

CELL_SIZE = 16
_BACKGROUND = 235


@dataclass(frozen=True, kw_only=True)
class ScenesOptions:
    """How many scenes, how full, and what is asked about them."""

    train_images: int = 6000
    validation_images: int = 600
    test_images: int = 1200
    questions_per_image: int = 5
    """At most; a picture that allows fewer has fewer."""
    grid: int = 4
    """Cells a side; the picture has 16 times as many pixels a side."""
    objects_min: int = 4
    objects_max: int = 5
    num_shapes: int = 6
    num_colours: int = 8
    weight_colour_of_shape: float = 4.0
    weight_shape_of_colour: float = 4.0
    weight_colour_beside: float = 1.0
    weight_shape_beside: float = 1.0
    weight_shape_at: float = 1.0
    weight_colour_at: float = 1.0

    def __post_init__(self) -> None:
        _require(
            min(self.train_images, self.validation_images, self.test_images) >= 1,
            "every split needs a picture",
        )
        _require(self.questions_per_image >= 1, "questions_per_image must be 1 or more")
        _require(2 <= self.grid <= len(NUMBERS), f"grid must be 2..{len(NUMBERS)}; got {self.grid}")
        _require(
            1 <= self.objects_min <= self.objects_max <= self.grid**2,
            f"1 <= objects_min <= objects_max <= {self.grid**2} cells; got {self.objects_min}, {self.objects_max}",
        )
        _require(
            2 <= self.num_shapes <= len(SHAPES), f"num_shapes must be 2..{len(SHAPES)}; got {self.num_shapes}"
        )
        _require(
            2 <= self.num_colours <= len(COLOURS),
            f"num_colours must be 2..{len(COLOURS)}; got {self.num_colours}",
        )
        _require(
            min(self.weights.values()) >= 0 and max(self.weights.values()) > 0,
            f"weights must be 0 or more, not all 0; got {self.weights}",
        )

    @property
    def weights(self) -> dict[str, float]:
        """How often each kind of question is asked, relative to the others."""
        return {kind: getattr(self, f"weight_{kind}") for kind in KINDS}


OPTIONS = ScenesOptions


class Thing(NamedTuple):
    """An object of a scene, and the cell it is in."""

    row: int
    column: int
    shape: str
    colour: str


class Question(NamedTuple):
    """Something to ask about a scene, its answer, and both as one statement."""

    kind: str
    text: str
    answer: str
    statement: str


def labels(path: str, options: ScenesOptions) -> tuple[LabelColumn, ...]:
    """One column, `answer`: the colours, then the shapes."""
    names = (*tuple(COLOURS)[: options.num_colours], *SHAPES[: options.num_shapes])
    return (LabelColumn(name="answer", class_names=names),)


def rows(path: str, *, seed: int, options: ScenesOptions) -> Iterator[Row]:
    """A row a question. A scene depends on seed, split and its number only: more scenes begin with the same ones."""
    counts = {
        "train": options.train_images,
        "validation": options.validation_images,
        "test": options.test_images,
    }
    for split, num_images in counts.items():
        asked: Counter[tuple[str, str]] = Counter()
        for number in range(num_images):
            rng = random.Random(f"{seed}/{split}/{number}")
            things = draw_things(rng, options)
            stored = encode(paint(things, rng, options))
            for i, question in enumerate(_choose(candidates(things), asked, rng, options)):
                yield Row(
                    id=f"{split}-{number:06d}-{i:02d}",
                    split=split,
                    group=f"{split}-{number:06d}",
                    image=stored,
                    caption=question.statement,
                    text=question.text,
                    labels={"answer": question.answer},
                    extra={"kind": question.kind},
                )


def draw_things(rng: random.Random, options: ScenesOptions) -> list[Thing]:
    """Objects in cells of their own; shapes and colours are drawn independently and evenly."""
    cells = rng.sample(range(options.grid**2), rng.randint(options.objects_min, options.objects_max))
    colours = tuple(COLOURS)[: options.num_colours]
    shapes = SHAPES[: options.num_shapes]
    return [Thing(*divmod(cell, options.grid), rng.choice(shapes), rng.choice(colours)) for cell in cells]


def candidates(things: list[Thing]) -> list[Question]:
    """Every question with exactly one answer in this scene."""
    shapes = Counter(thing.shape for thing in things)
    colours = Counter(thing.colour for thing in things)
    looks = Counter((thing.shape, thing.colour) for thing in things)
    at = {(thing.row, thing.column): thing for thing in things}
    found: list[Question] = []
    for thing in things:
        shape, colour = thing.shape, thing.colour
        if shapes[shape] == 1:
            found.append(
                Question(
                    "colour_of_shape", f"what colour is the {shape}?", colour, f"the {shape} is {colour}"
                )
            )
        if colours[colour] == 1:
            found.append(
                Question(
                    "shape_of_colour", f"what shape is {colour}?", shape, f"the {colour} shape is a {shape}"
                )
            )
        where = f"in row {NUMBERS[thing.row]} column {NUMBERS[thing.column]}"
        found.append(
            Question("shape_at", f"what shape is {where}?", shape, f"the shape {where} is a {shape}")
        )
        found.append(
            Question(
                "colour_at", f"what colour is the shape {where}?", colour, f"the shape {where} is {colour}"
            )
        )
        if looks[shape, colour] > 1:
            continue
        for side, (down, right) in SIDES.items():
            if neighbour := at.get((thing.row + down, thing.column + right)):
                place = f"{side} the {colour} {shape}"
                what = f"what colour is the shape {place}?"
                found.append(
                    Question(
                        "colour_beside", what, neighbour.colour, f"the shape {place} is {neighbour.colour}"
                    )
                )
                what = f"what shape is {place}?"
                found.append(
                    Question(
                        "shape_beside", what, neighbour.shape, f"the shape {place} is a {neighbour.shape}"
                    )
                )
    return found


def paint(things: list[Thing], rng: random.Random, options: ScenesOptions) -> np.ndarray:
    """The scene as uint8 pixels [3, H, W]; sizes and places vary a little inside the cells."""
    cell = CELL_SIZE
    canvas_HWC = np.full((options.grid * cell, options.grid * cell, 3), _BACKGROUND, dtype=np.float32)
    for thing in things:
        side = rng.randint(11, 14)
        top = thing.row * cell + rng.randint(1, cell - 1 - side)
        left = thing.column * cell + rng.randint(1, cell - 1 - side)
        cover = sprite(thing.shape, side)[:, :, None]
        area = canvas_HWC[top : top + side, left : left + side]
        area += cover * (np.asarray(COLOURS[thing.colour], dtype=np.float32) - area)
    return np.rint(canvas_HWC).astype(np.uint8).transpose(2, 0, 1)


def _choose(
    found: list[Question], asked: Counter[tuple[str, str]], rng: random.Random, options: ScenesOptions
) -> list[Question]:
    """Kinds by weight; within a kind the question and answer asked least so far. Counts in `asked` go up."""
    left = {kind: [question for question in found if question.kind == kind] for kind in KINDS}
    chosen: list[Question] = []
    while len(chosen) < options.questions_per_image:
        kinds = [kind for kind in KINDS if left[kind] and options.weights[kind] > 0]
        if not kinds:
            break
        kind = rng.choices(kinds, [options.weights[kind] for kind in kinds])[0]
        rarest = min(left[kind], key=lambda question: (asked[question.text, question.answer], rng.random()))
        left[kind].remove(rarest)
        asked[rarest.text, rarest.answer] += 1
        chosen.append(rarest)
    return chosen


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise SourceError(f"source scenes: {message}")
