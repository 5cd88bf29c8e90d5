"""easy-VQA comes out of its pip package whole, with sentences that say what is true."""

import json
from collections import Counter
from pathlib import Path

import pytest

from data.prepare import prepare
from data.shards import open_shards
from data.sources import easy_vqa
from data.sources._source import SourceError
from data.sources.easy_vqa import EasyVqaOptions, rows, statement


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("easy_vqa") / "set"
    prepare("easy_vqa", "", folder, seed=0)
    return folder


def test_counts_are_those_published(prepared: Path):
    manifest = open_shards(prepared).manifest
    counts = manifest.splits
    assert {name: split.images for name, split in counts.items()} == {
        "train": 3600,
        "validation": 400,
        "test": 1000,
    }
    assert counts["train"].rows + counts["validation"].rows == 38_575
    assert counts["test"].rows == 9_673
    assert manifest.image_size == 64
    (answer,) = manifest.labels
    assert answer.num_classes == 13
    assert answer.class_names[:3] == ("circle", "green", "red")  # the order of the package's answers.txt
    assert sum(file.bytes for file in manifest.files) < 4_000_000


def test_every_question_of_the_package_has_a_template():
    for part in ("train", "test"):
        for question, answer, _ in json.loads(
            (easy_vqa._package_data() / part / "questions.json").read_text()
        ):
            assert statement(question, answer), question


@pytest.mark.parametrize(
    ("question", "answer", "says"),
    [
        ("is there a red shape?", "yes", "there is a red shape in the image"),
        ("does the image contain a circle?", "no", "there is no circle in the image"),
        ("is a teal shape present?", "yes", "there is a teal shape in the image"),
        ("is there not a red shape in the image?", "yes", "there is no red shape in the image"),
        ("does the image not contain a triangle?", "no", "there is a triangle in the image"),
        ("is no blue shape present?", "yes", "there is no blue shape in the image"),
        ("what shape is present?", "circle", "there is a circle in the image"),
        ("what is the red shape?", "circle", "the red shape is a circle"),
        ("what color is the shape?", "red", "the shape is red"),
        ("what is the color of the rectangle?", "teal", "the rectangle is teal"),
    ],
)
def test_statements_by_hand(question: str, answer: str, says: str):
    assert statement(question, answer) == says


def test_a_foreign_question_has_no_statement():
    assert statement("how many shapes are there?", "two") is None


def test_statements_about_one_picture_do_not_contradict_each_other(prepared: Path):
    table = open_shards(prepared).read("validation", ["group", "caption"])
    said: dict[str, set[str]] = {}
    for row in table.to_pylist():
        said.setdefault(row["group"], set()).add(row["caption"])
    for captions in said.values():
        there = {c.removeprefix("there is a ") for c in captions if c.startswith("there is a ")}
        not_there = {c.removeprefix("there is no ") for c in captions if c.startswith("there is no ")}
        assert not there & not_there


def test_the_seed_draws_validation_and_leaves_test_alone():
    def splits(seed: int) -> dict[str, str]:
        options = EasyVqaOptions(max_images_per_split=40)
        return {row.group: row.split for row in rows("", seed=seed, options=options)}

    first, other = splits(0), splits(1)
    assert Counter(first.values()) == {"train": 40, "validation": 40, "test": 40}
    assert {g for g, s in first.items() if s == "test"} == {g for g, s in other.items() if s == "test"}
    assert {g for g, s in first.items() if s == "validation"} != {
        g for g, s in other.items() if s == "validation"
    }


def test_without_the_package_the_mend_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(easy_vqa.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SourceError, match="pip install easy-vqa"):
        next(rows("", seed=0, options=EasyVqaOptions()))


def test_a_negative_limit_is_refused():
    with pytest.raises(SourceError, match="got -1"):
        EasyVqaOptions(max_images_per_split=-1)
