"""The check of splits says what is wrong with them, and nothing else."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from data.images import encode
from data.integrity import Report, check_source, table
from data.manifest import LabelColumn
from data.row import Dropped, Row
from data.sources._source import Source

VERDICT = LabelColumn(name="verdict", class_names=("no", "yes", "perhaps"))


def photograph(seed: int, side: int = 64) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    return encode(np.asarray(smooth).transpose(2, 0, 1))


def row(number: int, split: str, **change) -> Row:
    made = Row(
        id=f"{split}-{number}", split=split, group=f"{split}-{number}", image=photograph(number),
        text=f"a text of {number} words", labels={"verdict": "yes" if number % 2 else "no"},
    )  # fmt: skip
    return replace(made, **change)


CLEAN = [row(0, "train"), row(1, "train"), row(2, "validation"), row(3, "test", labels={"verdict": None})]


def checked(rows: Sequence[Row | Dropped], published: dict[str, int] | None = None) -> Report:
    def given(path: str, *, seed: int, options: object) -> Iterator[Row | Dropped]:
        return iter(rows)

    source = Source(
        "mine", given, lambda path, options: (VERDICT,), object, True, lambda options: published or {}
    )
    return check_source(source, "/data/mine", seed=0, options=None, num_threads=1)


def test_a_clean_set_in_numbers():
    report = checked(CLEAN, {"train": 2, "validation+test": 2})
    assert report.problems == report.notes == report.overlaps == ()
    train = report.splits["train"]
    assert list(report.splits) == ["train", "validation", "test"]
    assert (train.rows, train.pictures, train.dropped) == (2, 2, {})
    assert train.labels == {"verdict": {"no": 1, "yes": 1, "perhaps": 0}}
    assert (train.heights, train.words) == (report.splits["test"].heights, report.splits["test"].words)
    assert train.words is not None
    assert train.words.median == 5
    assert report.splits["test"].unlabelled == {"verdict": 1}
    assert json.loads(json.dumps(report.as_dict()))["splits"]["train"]["heights"]["median"] == 64


def test_the_same_picture_in_two_splits_is_a_problem():
    report = checked([*CLEAN, row(0, "test"), row(4, "test")])
    assert report.problems == ("1 picture is the same in train and test, as train-0 and test-0",)
    (overlap,) = report.overlaps
    assert (overlap.splits, overlap.is_same, overlap.pictures) == (("train", "test"), True, 1)


def test_a_near_picture_is_a_note():
    report = checked([*CLEAN, row(9, "test", image=photograph(1, side=80))])
    assert report.problems == ()
    assert report.notes[0] == "1 picture is near in train and test, as train-1 and test-9"


def test_a_group_in_two_splits_is_a_problem():
    (problem,) = checked([*CLEAN, row(9, "test", group="train-0")]).problems
    assert problem == "train and test share 1 group of rows, as train-0"


def test_a_class_that_is_never_trained_on_is_a_problem():
    (problem,) = checked([*CLEAN, row(9, "validation", labels={"verdict": "perhaps"})]).problems
    assert problem == "validation has 1 class of verdict that train has not, as perhaps"


def test_texts_names_and_counts_are_noted():
    same = row(0, "train", id="other", group="other.jpg", text="another text")
    dropped = Dropped(id="x:1", split="train", reason="bad_row", detail="x:1: nothing there")
    report = checked(
        [*CLEAN, same, dropped, row(9, "test", text="a text of 0 words")], {"train": 5, "test": 2}
    )
    assert report.notes == (
        "1 of 2 rows of test have a text that train has too",
        "train has 1 picture under more than one name, as train-0",
        "train: 4 rows, 5 were published",
    )
    assert report.splits["train"].rows_per_picture is not None
    assert report.splits["train"].rows_per_picture.largest == 2


def test_a_picture_that_breaks_takes_all_its_rows():
    broken = [row(9, "train", id=f"train-9-{i}", image=b"<html>") for i in range(3)]
    report = checked([*CLEAN, *broken, row(8, "train", image=b"")])
    assert report.splits["train"].dropped == {"empty_file": 1, "not_an_image": 3}
    assert report.splits["train"].rows == 2


def test_the_table_for_a_person():
    dropped = Dropped(id="x:1", split="train", reason="bad_row", detail="x:1: nothing there")
    lines = table(checked([*CLEAN, dropped, row(0, "test")], {"test": 9})).splitlines()
    assert lines[0].split("  ")[0] == "split"
    assert lines[1].split() == ["train", "2", "1", "2", "1", "64", "x", "64", "5"]
    assert "verdict in train: no 50.0% · yes 50.0% · perhaps 0.0%" in lines
    assert "verdict in test: no 100.0% · yes 0.0% · perhaps 0.0% · 1 row without a label" in lines
    assert "dropped, bad_row: 1, as x:1: nothing there" in lines
    assert "note: test: 2 rows, 9 were published" in lines
    assert lines[-1] == "PROBLEM: 1 picture is the same in train and test, as train-0 and test-0"
