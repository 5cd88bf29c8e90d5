"""A folder of pictures in the layout of ImageNet."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from data.row import Dropped, Row
from data.sources._source import SourceError
from data.sources.image_folder import ImageFolderOptions, class_words, labels, rows


def read(path: Path, **options) -> list[Row]:
    found = rows(str(path), seed=0, options=ImageFolderOptions(**options))
    return [row for row in found if isinstance(row, Row)]


@pytest.fixture
def folder(make_sample: Callable, tmp_path: Path) -> Path:
    return Path(make_sample("image_folder", tmp_path / "set").path)


def test_classes_words_and_splits(folder: Path):
    found = {row.id: row for row in read(folder)}
    assert labels(str(folder), ImageFolderOptions())[0].class_names == ("n01", "n02")
    assert found["train/n01/a.JPEG"].labels == {"class": "n01"}
    assert found["train/n01/a.JPEG"].extra == {"words": "tench, Tinca tinca"}
    assert found["train/n02/images/c.JPEG"].labels == {"class": "n02"}
    assert found["val/n01/d.JPEG"].split == "validation"
    assert found["test/e.JPEG"].labels == {"class": None}
    assert not any(row.caption or row.text for row in found.values())


def test_words_as_kaggle_writes_them(folder: Path):
    (folder / "words.txt").unlink()
    (folder / "LOC_synset_mapping.txt").write_text("n01 tench, Tinca tinca\n")
    assert class_words(folder) == {"n01": "tench, Tinca tinca"}


def test_classes_without_splits_are_train(folder: Path):
    found = read(folder / "train")
    assert {row.split for row in found} == {"train"}
    assert {row.labels["class"] for row in found} == {"n01", "n02"}
    assert {row.split for row in read(folder / "train", validation_fraction=0.5)} == {"train", "validation"}


def test_names_that_are_not_unicode(folder: Path):
    strange = os.fsdecode(b"caf\xe9.jpg")
    (folder / "train" / "n01" / strange).write_bytes(b"x")
    (dropped,) = [
        row for row in rows(str(folder), seed=0, options=ImageFolderOptions()) if isinstance(row, Dropped)
    ]
    assert (dropped.id, dropped.reason) == ("train/n01/caf\\udce9.jpg", "bad_row")
    (folder / "train" / strange).mkdir()
    with pytest.raises(SourceError, match=r"has a name that is not UTF-8; rename it"):
        read(folder)


def test_no_classes_and_links_out(folder: Path, tmp_path: Path):
    with pytest.raises(SourceError, match="has no folders of classes"):
        read(folder / "test")
    (folder / "train" / "n03").symlink_to(folder / "val" / "n01")
    linked = [row for row in read(folder) if row.labels["class"] == "n03"]
    assert [row.id for row in linked] == ["train/n03/d.JPEG"]  # within the set: allowed
