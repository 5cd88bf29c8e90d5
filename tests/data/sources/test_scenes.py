"""Scenes ask questions with one true answer that the question does not give away."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from data.images import decode
from data.row import Row
from data.sources._source import SourceError
from data.sources._sprites import SHAPES, sprite
from data.sources.scenes import (
    COLOURS,
    KINDS,
    ScenesOptions,
    Thing,
    candidates,
    draw_things,
    labels,
    paint,
    rows,
)

SMALL = ScenesOptions(train_images=40, validation_images=8, test_images=8)


def by_text(things: list[Thing]) -> dict[str, tuple[str, str]]:
    return {question.text: (question.kind, question.answer) for question in candidates(things)}


def test_questions_of_a_scene_by_hand():
    #  red star | blue circle
    #  .        | blue star
    asked = by_text([Thing(0, 0, "star", "red"), Thing(0, 1, "circle", "blue"), Thing(1, 1, "star", "blue")])
    assert asked == {
        "what colour is the circle?": ("colour_of_shape", "blue"),  # two stars: their colour is not asked
        "what shape is red?": ("shape_of_colour", "star"),  # two blue things
        "what shape is in row one column one?": ("shape_at", "star"),
        "what shape is in row one column two?": ("shape_at", "circle"),
        "what shape is in row two column two?": ("shape_at", "star"),
        "what colour is the shape in row one column one?": ("colour_at", "red"),
        "what colour is the shape in row one column two?": ("colour_at", "blue"),
        "what colour is the shape in row two column two?": ("colour_at", "blue"),
        "what colour is the shape right of the red star?": ("colour_beside", "blue"),
        "what shape is right of the red star?": ("shape_beside", "circle"),
        "what colour is the shape left of the blue circle?": ("colour_beside", "red"),
        "what shape is left of the blue circle?": ("shape_beside", "star"),
        "what colour is the shape below the blue circle?": ("colour_beside", "blue"),
        "what shape is below the blue circle?": ("shape_beside", "star"),
        "what colour is the shape above the blue star?": ("colour_beside", "blue"),
        "what shape is above the blue star?": ("shape_beside", "circle"),
    }


def test_nothing_is_asked_about_one_of_two_equal_things():
    asked = by_text([Thing(0, 0, "star", "red"), Thing(2, 2, "star", "red"), Thing(0, 1, "cross", "blue")])
    assert not any("of the red star" in text for text in asked)
    assert asked["what shape is left of the blue cross?"] == ("shape_beside", "star")


def test_no_scene_asks_one_question_with_two_answers():
    for seed in range(200):
        found = candidates(draw_things(random.Random(seed), ScenesOptions(objects_min=3, objects_max=9)))
        assert len({question.text for question in found}) == len(found)


def test_things_are_painted_in_their_cells_in_their_colours():
    options = ScenesOptions(grid=3, objects_min=2, objects_max=3)
    things = [Thing(0, 2, "square", "red"), Thing(2, 1, "circle", "blue")]
    pixels = paint(things, random.Random(0), options)
    assert pixels.shape == (3, 48, 48)
    cells = pixels.reshape(3, 3, 16, 3, 16).transpose(1, 3, 0, 2, 4)  # row, column, channel, y, x
    for row in range(3):
        for column in range(3):
            thing = {(0, 2): "red", (2, 1): "blue"}.get((row, column))
            middle = cells[row, column, :, 8, 8]
            assert middle.tolist() == (list(COLOURS[thing]) if thing else [235] * 3)
            assert (cells[row, column, :, 0] == 235).all()  # a free edge keeps neighbours apart
            assert (cells[row, column, :, :, 15] == 235).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_sprites_are_whole_and_differ(shape: str):
    cover = sprite(shape, 13)
    assert cover.shape == (13, 13)
    assert 0 <= cover.min() < cover.max() == 1
    np.testing.assert_allclose(cover, cover[:, ::-1], atol=1e-6)  # all are symmetric left to right
    assert all(np.abs(cover - sprite(other, 13)).mean() > 0.08 for other in SHAPES if other != shape)


def test_rows_are_decided_by_the_seed():
    def first(seed: int) -> list[Row]:
        return list(rows("", seed=seed, options=SMALL))

    assert first(0) == first(0)
    assert {row.image for row in first(0)}.isdisjoint({row.image for row in first(1)})


def test_more_scenes_begin_with_the_same_ones():
    def train(options: ScenesOptions) -> Iterator[Row]:
        return (row for row in rows("", seed=0, options=options) if row.split == "train")

    few = list(train(SMALL))
    many = train(ScenesOptions(train_images=60, validation_images=8, test_images=8))
    assert few == [row for row, _ in zip(many, few, strict=False)]


def test_splits_share_no_picture():
    images: dict[str, set[bytes]] = defaultdict(set)
    for row in rows("", seed=0, options=SMALL):
        images[row.split].add(row.image)
    assert images["train"].isdisjoint(images["test"])
    assert images["train"].isdisjoint(images["validation"])


def test_the_question_alone_is_worth_no_more_than_chance():
    options = ScenesOptions(train_images=1500, validation_images=1, test_images=500)
    train: dict[str, Counter[str]] = defaultdict(Counter)
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for row in rows("", seed=0, options=options):
        kind, answer = row.extra["kind"], row.labels["answer"]
        if row.split == "train":
            train[row.text][answer] += 1
        elif row.split == "test":
            total[kind] += 1
            right[kind] += bool(train[row.text]) and answer == train[row.text].most_common(1)[0][0]
    for kind in KINDS:
        chance = 1 / 8 if kind.startswith("colour") else 1 / 6
        spread = 3 * (chance * (1 - chance) / total[kind]) ** 0.5
        assert total[kind] > 100
        assert right[kind] / total[kind] < chance + spread, kind


def test_weights_choose_the_kinds():
    options = replace(SMALL, **dict.fromkeys((f"weight_{kind}" for kind in KINDS[:-1]), 0.0))
    assert {row.extra["kind"] for row in rows("", seed=0, options=options)} == {KINDS[-1]}


def test_answers_are_the_colours_and_shapes_in_use():
    options = ScenesOptions(
        train_images=30,
        validation_images=1,
        test_images=1,
        num_colours=3,
        num_shapes=2,
        grid=2,
        objects_max=4,
    )
    (answer,) = labels("", options)
    assert answer.class_names == ("red", "green", "blue", "circle", "square")
    made = list(rows("", seed=0, options=options))
    assert {row.labels["answer"] for row in made} == set(answer.class_names)
    assert decode(made[0].image).shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": 9}, "grid must be"),
        ({"objects_max": 17}, "<= 16 cells"),
        ({"objects_min": 6}, "objects_min <= objects_max"),
        ({"num_shapes": 7}, r"num_shapes must be 2\.\.6; got 7"),
        ({"num_colours": 1}, r"num_colours must be 2\.\.8; got 1"),
        ({"test_images": 0}, "every split"),
        ({"questions_per_image": 0}, "1 or more"),
        ({"weight_shape_at": -1.0}, "weights must be 0 or more"),
    ],
)
def test_impossible_options_are_refused(options: dict, message: str):
    with pytest.raises(SourceError, match=message):
        ScenesOptions(**options)
