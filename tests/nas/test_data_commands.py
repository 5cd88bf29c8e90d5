"""`crosstie data check` says in one table, or in JSON, what a dataset is worth; mistakes are one line."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.images import encode
from nas import cli


def check(*words: object) -> int:
    return cli.main(["data", "check", *map(str, words)])


@pytest.fixture
def own_table(tmp_path: Path) -> Path:
    """Six pictures of two classes in three splits."""
    lines = ["picture,words,verdict,part"]
    for i, part in enumerate(["train", "train", "train", "dev", "test", "test"]):
        pixels = np.random.default_rng(i).integers(0, 256, (3, 16, 16), dtype=np.uint8)
        (tmp_path / f"{i}.png").write_bytes(encode(pixels))
        lines.append(f"{i}.png,some words,{i % 2},{part}")
    (tmp_path / "table.csv").write_text("\n".join([*lines, "no.png,some words,1,train"]))
    return tmp_path / "table.csv"


COLUMNS = ("image=picture", "text=words", "label=verdict", "split=part")


def test_a_table_for_a_person(own_table: Path, capsys: pytest.CaptureFixture):
    assert check("own_table", own_table, *COLUMNS) == 0
    said = capsys.readouterr().out
    assert "verdict in train: 0 66.7% · 1 33.3%" in said
    assert "dropped, missing_file: 1" in said


def test_json_for_a_program(own_table: Path, capsys: pytest.CaptureFixture):
    assert check("own_table", own_table, "--json", *COLUMNS) == 0
    report = json.loads(capsys.readouterr().out)
    assert {name: split["rows"] for name, split in report["splits"].items()} == {
        "train": 3, "validation": 1, "test": 2,
    }  # fmt: skip
    assert report["splits"]["train"]["dropped"] == {"missing_file": 1}


def test_a_problem_is_exit_code_1(own_table: Path, capsys: pytest.CaptureFixture):
    (own_table.parent / "5.png").write_bytes((own_table.parent / "0.png").read_bytes())
    assert check("own_table", own_table, *COLUMNS) == 1
    assert "PROBLEM: 1 picture is the same in train and test" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["flickr"], "no source named 'flickr'; known: "),
        (["own_table"], "source own_table needs the path of its dataset"),
        (["scenes", "/data"], "source scenes takes no path, and options as option=value; got '/data'"),
        (["scenes", "grib=3"], "unknown field grib; did you mean grid?"),
        (["scenes", "grid=many"], "grid expects a whole number"),
        (["own_table", "/nowhere.csv"], "no file /nowhere.csv"),
        (["hateful_memes", "/"], "/ has no train.jsonl"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture):
    assert check(*words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert len(said.err.splitlines()) == 1


def test_a_dataset_without_a_usable_row_says_the_first_reason(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "t.tsv").write_text("a dog\thttp://example.org/1.jpg\n")
    assert check("conceptual_captions", tmp_path / "t.tsv") == 2
    said = capsys.readouterr()
    assert "dropped, not_downloaded: 1" in said.out
    assert (
        "can be used; the first: http://example.org/1.jpg: fetch it with `crosstie data download` first"
        in said.err
    )
