"""UPMC Food-101: both forms, and a validation split that nobody published."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from data.row import Row, read_image
from data.sources._source import SourceError
from data.sources.upmc_food101 import UpmcFood101Options, labels, rows


def read(path: Path, seed: int = 0, **options) -> list[Row]:
    found = rows(str(path), seed=seed, options=UpmcFood101Options(**options))
    return [row for row in found if isinstance(row, Row)]


@pytest.fixture
def folder(make_sample: Callable, tmp_path: Path) -> Path:
    return Path(make_sample("upmc_food101", tmp_path / "set").path)


def test_titles_keep_commas_quotes_and_line_ends(folder: Path):
    found = {row.id: row for row in read(folder)}
    assert found["test/pho/pho_50.jpg"].text == "Phở | a\nrecipe"
    assert found["train/pho/pho_0.jpg"].text == 'pho, "the best" 0'
    assert found["train/pho/pho_0.jpg"].labels == {"dish": "pho"}
    assert labels(str(folder), UpmcFood101Options())[0].class_names == ("pho", "ramen")


def test_validation_is_cut_from_train_by_the_seed(folder: Path):
    first, again, other = (
        {row.id: row.split for row in read(folder, seed, validation_fraction=0.4)} for seed in (1, 1, 2)
    )
    assert first == again != other
    assert Counter(first.values())["validation"] in range(2, 9)
    assert [split for row, split in first.items() if row.startswith("test/")] == ["test"]
    assert "validation" not in {row.split for row in read(folder, validation_fraction=0.0)}
    with pytest.raises(SourceError, match="validation_fraction must be 0 or more and below 1"):
        UpmcFood101Options(validation_fraction=1.0)


def test_more_rows_do_not_move_the_others(folder: Path):
    before = {row.id: row.split for row in read(folder, validation_fraction=0.4)}
    titles = folder / "texts" / "train_titles.csv"
    titles.write_text("ramen_1.jpg,moved to the front,ramen\n" + titles.read_text())
    after = {row.id: row.split for row in read(folder, validation_fraction=0.4)}
    assert after == before


def test_tables_with_a_header(folder: Path, tmp_path: Path):
    picture = read_image(read(folder)[0].image)
    (tmp_path / "csv" / "pictures").mkdir(parents=True)
    (tmp_path / "csv" / "pictures" / "a.jpg").write_bytes(picture)
    (tmp_path / "csv" / "pictures" / "b.jpg").write_bytes(picture)
    (tmp_path / "csv" / "train.csv").write_text(
        'path,onehot,class,title\npictures/a.jpg,"[0, 1]",pho,A bowl\n'
    )
    (tmp_path / "csv" / "test.csv").write_text("class,title,image_path\npho,Another,pictures/b.jpg\n")
    found = read(tmp_path / "csv", validation_fraction=0.0)
    assert [(row.split, row.id, row.text, row.labels["dish"]) for row in found] == [
        ("test", "pictures/b.jpg", "Another", "pho"),
        ("train", "pictures/a.jpg", "A bowl", "pho"),
    ]
    assert all(read_image(row.image) == picture for row in found)


def test_what_is_missing_is_named(tmp_path: Path):
    with pytest.raises(
        SourceError, match=r"has neither texts/train_titles.csv nor train.csv|no file .*train.csv"
    ):
        read(tmp_path)
    (tmp_path / "train.csv").write_text("path,class\na.jpg,pho\n")
    with pytest.raises(
        SourceError, match=r"no column for the title \(title, text, caption\); it has: path, class"
    ):
        read(tmp_path)
