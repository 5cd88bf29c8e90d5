"""Hateful Memes: memes of both dev files count once, tests may lack labels."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from data.row import Dropped, Row
from data.sources.hateful_memes import HatefulMemesOptions, published_rows, rows


@pytest.fixture
def folder(make_sample: Callable, tmp_path: Path) -> str:
    return make_sample("hateful_memes", tmp_path / "set").path


def read(folder: str, **options) -> list[Row | Dropped]:
    return list(rows(folder, seed=0, options=HatefulMemesOptions(**options)))


def test_a_row_as_published(folder: str):
    first = next(row for row in read(folder) if isinstance(row, Row) and row.split == "train")
    assert (first.id, first.text, first.caption) == ("0", "look at this 0", "look at this 0")
    assert first.labels == {"hateful": "not hateful"}
    assert first.extra == {"part": "train"}
    assert first.group == "img/00000.png"


def test_a_meme_of_both_dev_files_counts_once(folder: str):
    (dropped,) = [row for row in read(folder) if isinstance(row, Dropped)]
    assert (dropped.id, dropped.split, dropped.reason) == ("dev_unseen.jsonl:1", "validation", "duplicate_id")
    assert "id 11 came before, in validation" in dropped.detail


def test_a_test_without_labels_can_only_be_predicted(folder: str):
    unlabelled = [row.id for row in read(folder) if isinstance(row, Row) and row.labels["hateful"] is None]
    assert unlabelled == ["22"]


@pytest.mark.parametrize(
    ("part", "parts"), [("seen", {"seen"}), ("unseen", {"unseen"}), ("both", {"seen", "unseen"})]
)
def test_parts_are_chosen(folder: str, part, parts: set[str]):
    found = Counter(
        row.extra["part"] for row in read(folder, validation=part, test=part) if isinstance(row, Row)
    )
    assert set(found) == {"train"} | {f"{short}_{name}" for short in ("dev", "test") for name in parts}


def test_a_meme_in_train_and_test_stays_in_test(folder: str):
    train = Path(folder) / "train.jsonl"
    train.write_text(train.read_text() + (Path(folder) / "test_seen.jsonl").read_text())
    found = read(folder)
    assert {row.id for row in found if isinstance(row, Row) and row.split == "test"} == {"20", "21", "22"}
    assert sum(isinstance(row, Dropped) and row.split == "train" for row in found) == 2


def test_names_of_the_first_phase(folder: str):
    for old, new in (("dev", "dev_seen"), ("test", "test_seen")):
        (Path(folder) / f"{new}.jsonl").rename(Path(folder) / f"{old}.jsonl")
    assert {row.extra["part"] for row in read(folder) if isinstance(row, Row)} >= {"dev", "test"}


def test_rows_as_published():
    assert published_rows(HatefulMemesOptions()) == {"train": 8500, "validation": 1040, "test": 3000}
    assert published_rows(HatefulMemesOptions(test="unseen", validation="seen")) == {
        "train": 8500, "validation": 500, "test": 2000,
    }  # fmt: skip
