"""VizWiz: five rows a picture, spam and canned captions dropped, a test without captions."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data.integrity import check_source
from data.row import Row
from data.sources._source import SourceError, load_source
from data.sources.vizwiz import VizwizOptions, rows


@pytest.fixture
def found(make_sample: Callable, tmp_path: Path) -> list[Row]:
    sample = make_sample("vizwiz", tmp_path / "set")
    return [row for row in rows(sample.path, seed=0, options=VizwizOptions()) if isinstance(row, Row)]


def test_captions_of_a_picture_share_its_group(found: list[Row]):
    train = [row for row in found if row.split == "train"]
    assert [row.group for row in train] == ["VizWiz_train_00000000.jpg"] * 3 + [
        "VizWiz_train_00000001.jpg"
    ] * 3
    assert len({row.image for row in train}) == 2
    assert train[0].caption == "caption 0 of a thing"
    assert train[0].text == ""


def test_ids_for_the_scorer_are_the_published_ones(found: list[Row]):
    (validation,) = [row for row in found if row.split == "validation"]
    assert validation.extra == {"image_id": "10", "text_detected": "true"}
    assert validation.id == "validation-00000010-0"


def test_the_test_has_pictures_and_no_captions(found: list[Row]):
    assert [(row.id, row.caption) for row in found if row.split == "test"] == [
        ("test-00000020-0", ""), ("test-00000021-0", ""),
    ]  # fmt: skip


def test_counts_are_held_against_the_published_ones(make_sample: Callable, tmp_path: Path):
    sample = make_sample("vizwiz", tmp_path / "set")
    report = check_source(load_source("vizwiz"), sample.path, seed=0, options=VizwizOptions())
    assert "train: 7 rows, 117,155 were published" in report.notes
    assert "test: 2 rows, 8,000 were published" in report.notes


def test_a_file_of_another_form_is_named(tmp_path: Path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.json").write_text('{"images": {}}')
    with pytest.raises(SourceError, match=r"train\.json should hold a list of objects named images"):
        list(rows(str(tmp_path), seed=0, options=VizwizOptions()))
