"""Conceptual Captions: the published TSV, and tables of downloaded pictures."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data.integrity import check_source
from data.row import Dropped, Row, UnusableError, read_image
from data.sources._source import SourceError, load_source
from data.sources.conceptual_captions import ConceptualCaptionsOptions, captions_and_urls, rows


def read(path: Path, **options) -> list[Row | Dropped]:
    return list(rows(str(path), seed=0, options=ConceptualCaptionsOptions(**options)))


def test_the_published_table(tmp_path: Path):
    file = tmp_path / "Validation_GCC-1.1.0-Validation.tsv"
    file.write_bytes(
        b'author : a life in "photography\thttp://a.org/1.jpg\nno address\n\thttps://a.org/2.jpg\n'
        + b"\xff\thttps://a.org/3.jpg\r\na cat\tnowhere\nthe end\thttps://a.org/4.jpg"
    )
    assert [line.values.get("url") for line in captions_and_urls(file) if not line.problem] == [
        "http://a.org/1.jpg", "https://a.org/2.jpg", "nowhere", "https://a.org/4.jpg",
    ]  # fmt: skip
    found = read(tmp_path)
    kept = [row for row in found if isinstance(row, Row)]
    assert [(row.id, row.split, row.caption) for row in kept] == [
        ("validation-00000000", "validation", 'author : a life in "photography'),
        ("validation-00000005", "validation", "the end"),
    ]
    dropped = [(row.id.rpartition(":")[2], row.reason) for row in found if isinstance(row, Dropped)]
    assert dropped == [("2", "bad_row"), ("3", "empty_text"), ("4", "bad_row"), ("5", "bad_row")]
    with pytest.raises(
        UnusableError, match=r"http://a.org/1.jpg: fetch it with `crosstie data download` first"
    ):
        read_image(kept[0].image)


def test_a_status_says_which_pictures_there_are(make_sample: Callable, tmp_path: Path):
    make_sample("conceptual_captions", tmp_path / "set")
    table = tmp_path / "set" / "downloaded.csv"
    table.write_text("caption,path,status,detail\na,0.jpg,ok,\nb,,failed,HTTP 404\nc,,,\n")
    found = read(table, split="validation")
    assert [type(row) for row in found] == [Row, Dropped, Dropped]
    assert {row.split for row in found} == {"validation"}
    assert [(row.reason, row.detail) for row in found if isinstance(row, Dropped)] == [
        ("not_downloaded", "downloaded.csv:3: failed: HTTP 404"),
        ("not_downloaded", "downloaded.csv:4: not tried"),
    ]


def test_captions_that_lost_their_picture_to_one_name_are_seen(make_sample: Callable, tmp_path: Path):
    make_sample("conceptual_captions", tmp_path / "set")
    lines = [f"caption {i},{'1.jpg' if i % 2 else '0.jpg'}" for i in range(20)]
    (tmp_path / "set" / "train.csv").write_text("\n".join(["caption,path", *lines]))
    report = check_source(
        load_source("conceptual_captions"), str(tmp_path / "set"), seed=0, options=ConceptualCaptionsOptions()
    )
    each = report.splits["train"].rows_per_picture
    assert each is not None
    assert (report.splits["train"].rows, report.splits["train"].pictures, each.largest) == (20, 2, 10)


def test_what_is_missing_is_named(tmp_path: Path):
    with pytest.raises(SourceError, match="has no table named Validation_GCC"):
        read(tmp_path)
    (tmp_path / "train.csv").write_text("text,file\na,b\n")
    with pytest.raises(
        SourceError, match=r"no column for the image \(path, filepath, image\); it has: text, file"
    ):
        read(tmp_path)
