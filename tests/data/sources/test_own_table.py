"""A table of one's own: what its labels are is found from them, and no picture is in two splits."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.images import encode
from data.row import Dropped, Row
from data.sources._source import SourceError
from data.sources.own_table import OwnTableOptions, labels, rows


def picture(number: int) -> bytes:
    return encode(np.full((3, 6, 6), number, dtype=np.uint8))


def jsonl(folder: Path, label_cells: list[Any], **more: list[Any]) -> str:
    """A JSONL table with these labels, and a picture for each row."""
    (folder / "0.png").write_bytes(picture(0))
    records = [
        {"image": f"{i}.png", "text": f"text {i}", "label": cell}
        | {name: cells[i] for name, cells in more.items()}
        for i, cell in enumerate(label_cells)
    ]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, records)))
    return str(folder / "t.jsonl")


def read(path: str, seed: int = 0, **options) -> list[Row | Dropped]:
    whole = {"validation_fraction": 0.0, "test_fraction": 0.0}
    return list(rows(path, seed=seed, options=OwnTableOptions(**whole | options)))


@pytest.mark.parametrize(
    ("cells", "kind", "names", "first"),
    [
        ([1, 0, 0], "class", ("0", "1"), "1"),
        (["10", "9", "2"], "class", ("2", "9", "10"), "10"),
        ([True, False], "class", ("False", "True"), "True"),
        ([1.0, 2.0, 1.0], "class", ("1", "2"), "1"),
        (["1.0", "0.0"], "class", ("0", "1"), "1"),
        (["b", "a", " b "], "class", ("a", "b"), "b"),
        (["war|love", "love"], "multilabel", ("love", "war"), ("war", "love")),
        ([["war", "love"], [], ["space"]], "multilabel", ("love", "space", "war"), ("war", "love")),
        (['["war"]', '["love", "war"]'], "multilabel", ("love", "war"), ("war",)),
    ],
)
def test_kind_of_label_is_found(tmp_path: Path, cells: list, kind: str, names: tuple, first: Any):
    path = jsonl(tmp_path, cells)
    (column,) = labels(path, OwnTableOptions())
    assert (column.name, column.kind, column.class_names) == ("label", kind, names)
    row = read(path)[0]
    assert isinstance(row, Row)
    assert row.labels == {"label": first}


def test_kind_can_be_said(tmp_path: Path):
    path = jsonl(tmp_path, ["war|love", "love"])
    assert labels(path, OwnTableOptions(label_kind="class"))[0].class_names == ("love", "war|love")
    assert labels(path, OwnTableOptions(label_separator=";"))[0].kind == "class"
    single = jsonl(tmp_path, ["war", "love"])
    assert labels(single, OwnTableOptions(label_kind="multilabel"))[0].kind == "multilabel"


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([0.25, 0.5], "holds numbers such as 0.25; labels are classes, not quantities"),
        ([None, ""], "has no labels; label= reads a table without any"),
        (
            [f"title {i}" for i in range(1500)],
            "1500 different values in 1500 rows: texts or ids, not classes",
        ),
    ],
)
def test_what_is_no_class_is_refused(tmp_path: Path, cells: list, message: str):
    with pytest.raises(SourceError, match=message):
        read(jsonl(tmp_path, cells))


def test_a_test_row_may_lack_its_label(tmp_path: Path):
    parts = ["train", "train", "dev", "test", "TEST", "elsewhere"]
    found = read(jsonl(tmp_path, ["a", "", "b", "a", None, "a"], part=parts), split="part")
    assert [(row.split, row.labels["label"]) for row in found if isinstance(row, Row)] == [
        ("train", "a"), ("validation", "b"), ("test", "a"), ("test", None),
    ]  # fmt: skip
    assert [row.reason for row in found if isinstance(row, Dropped)] == ["bad_label", "bad_row"]


def test_pictures_of_no_label_and_no_text(tmp_path: Path):
    path = jsonl(tmp_path, ["a", "b"])
    assert labels(path, OwnTableOptions(label="", text="")) == ()
    found = read(path, label="", text="", caption="text", id="image")
    assert [(row.id, row.text, row.caption, row.labels) for row in found if isinstance(row, Row)] == [
        ("0.png", "", "text 0", {}), ("1.png", "", "text 1", {}),
    ]  # fmt: skip


def test_splits_are_drawn_by_the_picture(tmp_path: Path):
    path = jsonl(tmp_path, ["a", "b"] * 300, image=[f"{i // 3}.png" for i in range(600)])
    found = [row for row in read(path, validation_fraction=0.2, test_fraction=0.1) if isinstance(row, Row)]
    split_of: dict[str, set[str]] = {}
    for row in found:
        split_of.setdefault(row.group, set()).add(row.split)
    assert all(len(splits) == 1 for splits in split_of.values())
    counts = Counter(split for splits in split_of.values() for split in splits)
    assert counts["test"] == pytest.approx(20, abs=12)
    assert counts["validation"] == pytest.approx(40, abs=15)
    assert found == [r for r in read(path, validation_fraction=0.2, test_fraction=0.1) if isinstance(r, Row)]
    assert [r.split for r in found] != [
        r.split for r in read(path, 1, validation_fraction=0.2, test_fraction=0.1)
    ]


def test_published_splits_are_kept_and_validation_is_cut_from_train(tmp_path: Path):
    parts = ["train"] * 80 + ["test"] * 20
    path = jsonl(tmp_path, ["a", "b"] * 50, part=parts)
    found = read(path, split="part", validation_fraction=0.2, test_fraction=0.5)
    counts = Counter(row.split for row in found)
    assert counts["test"] == 20
    assert 4 < counts["validation"] < 40


def test_a_folder_of_tables(tmp_path: Path):
    for name, cells in (("train", ["a", "b"]), ("val", ["a"]), ("test", ["b"])):
        jsonl(tmp_path, cells)
        (tmp_path / "t.jsonl").rename(tmp_path / f"{name}.jsonl")
    found = read(str(tmp_path), validation_fraction=0.5)
    assert [(row.id, row.split) for row in found] == [
        ("test-00000000", "test"), ("val-00000000", "validation"), ("train-00000000", "train"), ("train-00000001", "train"),
    ]  # fmt: skip


@pytest.mark.parametrize("as_struct", [False, True])
def test_pictures_inside_parquet(tmp_path: Path, as_struct: bool):
    stored = [picture(0), picture(1), picture(0), b"", None]
    cells = [{"bytes": one, "path": None} for one in stored] if as_struct else stored
    table = pa.table({"image": cells, "text": ["t"] * 5, "label": pa.array([0, 1, 0, 1, 0])})
    pq.write_table(table, tmp_path / "t.parquet")
    found = read(str(tmp_path / "t.parquet"))
    kept = [row for row in found if isinstance(row, Row)]
    assert [row.image for row in kept] == stored[:3]
    assert kept[0].group == kept[2].group != kept[1].group
    assert [row.reason for row in found if isinstance(row, Dropped)] in (
        ["empty_file", "bad_row"], ["bad_row", "bad_row"],
    )  # fmt: skip


def test_a_column_that_is_not_there_lists_the_others(make_sample: Callable, tmp_path: Path):
    sample = make_sample("own_table", tmp_path / "set")
    with pytest.raises(
        SourceError, match=r"no column 'image'; it has: file, words, verdict; say image=NAME$"
    ):
        read(sample.path)
    with pytest.raises(SourceError, match=r"no column 'text'; .* say text=NAME, or text= for none"):
        read(sample.path, image="file")
    with pytest.raises(SourceError, match="needs the column of the pictures: image=NAME"):
        OwnTableOptions(image="")
    with pytest.raises(SourceError, match="together must be 0 or more and below 1"):
        OwnTableOptions(validation_fraction=0.6, test_fraction=0.5)
    (tmp_path / "t.xlsx").write_bytes(b"")
    with pytest.raises(SourceError, match=r"a table ends in \.csv, \.tsv, \.jsonl or \.parquet"):
        read(str(tmp_path / "t.xlsx"))
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(SourceError, match="is not a Parquet file, or is damaged"):
        read(str(tmp_path / "t.parquet"))


def test_pictures_elsewhere_need_leave(make_sample: Callable, tmp_path: Path):
    sample = make_sample("own_table", tmp_path / "set")
    outside = str(tmp_path / "secret.jpg")
    (tmp_path / "set" / "t.csv").write_text(f"image,text,label\n{outside},t,a\n")
    path = str(tmp_path / "set" / "t.csv")
    (dropped,) = read(path)
    assert isinstance(dropped, Dropped)
    assert dropped.reason == "path_escape"
    assert "allow_outside=true allows it" in dropped.detail
    (row,) = read(path, allow_outside=True)
    assert isinstance(row, Row)
    assert sample.kept == {"train": 20}


def test_half_a_character_is_dropped_wherever_it_stands(tmp_path: Path):
    path = jsonl(tmp_path, ["a", "b", "a\ud83d", "a"], text=["whole 🐈", "half \ud83d", "t", "t" * 9000])
    found = read(path)
    assert [row.reason for row in found if isinstance(row, Dropped)] == ["bad_row", "bad_label"]
    assert [row.labels["label"] for row in found if isinstance(row, Row)] == ["a", "a"]
    assert all(len(row.detail.encode()) < 400 for row in found if isinstance(row, Dropped))
    assert labels(path, OwnTableOptions())[0].class_names == ("a", "b")
