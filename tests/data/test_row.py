"""What the contract of rows allows beyond one picture, one text and one class comes back from shards as it went in."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data.images import encode
from data.manifest import NO_LABEL, LabelColumn, Manifest, ShardError
from data.row import Dropped, Row, UnusableError, label_values
from data.shards import DROPPED_NAME, open_shards, write_shards
from data.stream import load_split
from data.text import WordTokenizer

GENRE = LabelColumn(name="genre", kind="multilabel", class_names=("war", "love", "space"))
VERDICT = LabelColumn(name="verdict", class_names=("no", "yes"))
PICTURE = encode(np.full((3, 8, 8), 7, dtype=np.uint8))


@dataclass(frozen=True)
class Lost:
    """A picture that cannot be read."""

    def read(self) -> bytes:
        raise UnusableError("missing_file", "no file lost.jpg")


@dataclass(frozen=True)
class Late:
    """A picture that is read when wanted."""

    def read(self) -> bytes:
        return PICTURE


def row(number: int, genre: tuple[str, ...] | None, verdict: str | None, **change) -> Row:
    made = Row(
        id=str(number), split="train", group=str(number), image=PICTURE, caption=f"caption {number}",
        labels={"genre": genre, "verdict": verdict},
    )  # fmt: skip
    return replace(made, **change)


ROWS = [
    row(0, ("space", "war"), "yes"),
    row(1, (), "no"),
    row(2, None, None, image=Late()),
    row(3, ("love",), "no"),
]


def written(folder: Path, rows: list[Row | Dropped] | Iterator[Row | Dropped]) -> Manifest:
    return write_shards(rows, folder, source={}, labels=[GENRE, VERDICT])


def test_several_labels_none_and_unknown_ones(tmp_path: Path):
    manifest = written(tmp_path / "set", ROWS)
    table = open_shards(tmp_path / "set").read("train")
    unknown = [NO_LABEL] * 3
    assert label_values(GENRE, table["genre"]).tolist() == [[1, 0, 1], [0, 0, 0], unknown, [0, 1, 0]]
    assert label_values(GENRE, table.slice(1, 2)["genre"]).tolist() == [[0, 0, 0], unknown]
    assert label_values(VERDICT, table["verdict"]).tolist() == [1, 0, NO_LABEL, 0]
    counts = manifest.counts("train")
    assert counts.labels == {"genre": [1, 1, 1], "verdict": [2, 1]}
    assert counts.unlabelled == {"genre": 1, "verdict": 1}
    assert Manifest.load(tmp_path / "set") == manifest


def test_batches_hold_a_column_a_class(tmp_path: Path):
    written(tmp_path / "set", ROWS)
    shards = open_shards(tmp_path / "set")
    tokenizer = WordTokenizer.from_texts(["caption"])
    split = load_split(shards, "train", tokenizer, text_column="caption")
    batch = split.batch(np.array([3, 0]))
    assert batch.labels["genre"].tolist() == [[0, 1, 0], [1, 0, 1]]
    assert batch.labels["verdict"].tolist() == [0, 1]


def test_a_text_that_nobody_wrote_is_no_column(tmp_path: Path):
    assert written(tmp_path / "set", ROWS).text_columns == ("caption",)
    shards = open_shards(tmp_path / "set")
    with pytest.raises(ShardError, match="no text column 'text'; this set has: caption"):
        load_split(shards, "train", WordTokenizer.from_texts(["a"]))


def test_dropped_rows_are_counted_and_listed(tmp_path: Path):
    dropped = Dropped(id="table.csv:7", split="test", reason="bad_row", detail="2 cells are needed")
    manifest = written(tmp_path / "set", [dropped, *ROWS, row(9, (), "no", image=Lost())])
    assert manifest.dropped == {"bad_row": 1, "missing_file": 1}
    assert manifest.counts("train").rows == 4
    listed = pq.read_table(tmp_path / "set" / DROPPED_NAME).to_pylist()
    assert listed == [
        {"id": "table.csv:7", "split": "test", "reason": "bad_row", "detail": "2 cells are needed"},
        {"id": "9", "split": "train", "reason": "missing_file", "detail": "no file lost.jpg"},
    ]
    assert manifest.fingerprint == written(tmp_path / "other", ROWS).fingerprint


def test_nothing_but_dropped_rows_says_why(tmp_path: Path):
    with pytest.raises(ShardError, match=r"no rows; it dropped 1: {'missing_file': 1}"):
        written(tmp_path / "set", [row(9, (), "no", image=Lost())])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"genre": ("jazz",), "verdict": "no"}, "genre is .*jazz.*; known: war, love, space"),
        ({"genre": "war", "verdict": "no"}, "genre is 'war'"),
        ({"genre": (), "verdict": ("no",)}, "verdict is"),
        ({"genre": ()}, "verdict is None"),
    ],
)
def test_labels_of_another_kind_are_refused(tmp_path: Path, labels: dict, message: str):
    with pytest.raises(ShardError, match=message):
        written(tmp_path / "set", [row(0, (), "no", labels=labels)])


def test_embeddings_come_back_without_a_picture(tmp_path: Path):
    vectors = np.arange(6, dtype="<f2").reshape(2, 3)
    rows = [
        Row(id=str(i), split="train", group=str(i), caption="a", embedding=vectors[i].tobytes())
        for i in range(2)
    ]
    manifest = write_shards(rows, tmp_path / "set", source={}, labels=[])
    assert (manifest.embedding_size, manifest.image_size, manifest.counts("train").images) == (3, 0, 0)
    stored = open_shards(tmp_path / "set").read("train", ["embedding"])["embedding"]
    assert np.frombuffer(b"".join(stored.to_pylist()), "<f2").reshape(2, 3).tolist() == vectors.tolist()
    with pytest.raises(ShardError, match="an embedding of 2 numbers, the first has 3"):
        write_shards([rows[0], replace(rows[1], embedding=b"1234")], tmp_path / "other", source={}, labels=[])
