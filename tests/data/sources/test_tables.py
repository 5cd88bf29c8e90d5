"""Tables give every row or say what is wrong with it, whatever is in the file."""

from pathlib import Path

import pytest

from data.row import UnusableError
from data.sources import _tables
from data.sources._source import SourceError
from data.sources._tables import Line, column_names, read_csv, read_json, read_jsonl, read_table, read_tsv


@pytest.fixture(autouse=True)
def _small_bounds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_tables, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(_tables, "MAX_CELL_CHARACTERS", 500)
    monkeypatch.setattr(_tables, "MAX_JSON_BYTES", 1000)


def test_jsonl(tmp_path: Path):
    (tmp_path / "t.jsonl").write_bytes(
        b'\xef\xbb\xbf{"a": 1}\r\n\n[1]\n{"a": "' + b"x" * 5000 + b'"}\n{"a": 2}'
    )
    lines = list(read_jsonl(tmp_path / "t.jsonl"))
    assert [(line.where, line.values, bool(line.problem)) for line in lines] == [
        ("t.jsonl:1", {"a": 1}, False),
        ("t.jsonl:3", {}, True),
        ("t.jsonl:4", {}, True),
        ("t.jsonl:5", {"a": 2}, False),
    ]


def test_csv_with_quotes_line_ends_and_broken_rows(tmp_path: Path):
    (tmp_path / "t.csv").write_bytes(
        b'\xef\xbb\xbfa,b\n1,"two\nlines, and ""quotes"""\n1,2,3\n\n\xff,1\n5,' + b"x" * 600 + b"\n6,7\n"
    )
    lines = list(read_csv(tmp_path / "t.csv"))
    assert lines[0] == Line("t.csv:2", {"a": "1", "b": 'two\nlines, and "quotes"'})
    assert [(line.where, line.problem.split(":")[0].split(" (")[0]) for line in lines[1:4]] == [
        ("t.csv:4", "2 cells are needed"), ("t.csv:6", "not UTF-8"), ("t.csv:7", "not CSV"),
    ]  # fmt: skip
    assert lines[4] == Line("t.csv:8", {"a": "6", "b": "7"})
    assert column_names(tmp_path / "t.csv") == ["a", "b"]


def test_a_header_names_each_column_once(tmp_path: Path):
    (tmp_path / "t.csv").write_text("a,a\n1,2\n")
    with pytest.raises(SourceError, match="names a column twice: a, a"):
        list(read_csv(tmp_path / "t.csv"))


def test_a_file_without_line_ends_does_not_fill_the_memory(tmp_path: Path):
    (tmp_path / "t.tsv").write_bytes(b"x" * 100_000 + b"\na\tb\n")
    first, second = read_tsv(tmp_path / "t.tsv", ("p", "q"))
    assert "a line of more than" in first.problem
    assert second.values == {"p": "a", "q": "b"}


def test_one_document(tmp_path: Path):
    (tmp_path / "d.json").write_text('{"a": [1]}')
    assert read_json(tmp_path / "d.json") == {"a": [1]}
    (tmp_path / "deep.json").write_text("[" * 900)
    (tmp_path / "large.json").write_text(" " * 2000)
    for name, message in (("deep", "is not JSON"), ("large", "has more than"), ("lost", "no file")):
        with pytest.raises(SourceError, match=message):
            read_json(tmp_path / f"{name}.json")


def test_cells_as_text():
    line = Line("t:1", {"a": " x ", "n": 7, "nan": float("nan"), "none": None, "list": [1]})
    assert [line.text(column) for column in ("a", "n", "nan", "none", "lost")] == ["x", "7", "", "", ""]
    for column, message in (("list", "list should be text; got list"), ("none", "t:1: no none")):
        with pytest.raises(UnusableError, match=message):
            line.required(column)
    with pytest.raises(UnusableError, match="t:1: spoiled"):
        Line("t:1", {}, "spoiled").required("a")


def test_a_folder_in_place_of_a_table(tmp_path: Path):
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(SourceError, match="is a folder; a file is needed"):
        list(read_table(tmp_path / "t.csv"))
