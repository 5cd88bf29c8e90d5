"""A set on an object store is the set on disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data._set_writer import SetWriter
from data.manifest import ShardError
from data.prepare import prepare
from data.shards import has_shards, open_shards, write_shards
from data.storage import open_storage
from data.stream import load_split
from data.text import WordTokenizer


def prepared(table: Any, folder: str | Path, **ways) -> None:
    prepare("own_table", table.path, folder, seed=0, options=table.options, size=48, **ways)


def contents(address: str) -> dict[str, bytes]:
    place = open_storage(address)
    return {name: place.read(name) for name in place.names()}


def on_disk(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_set_on_s3_and_on_disk(
    s3_address: Callable[[str], str], mixed_table: Any, tmp_path: Path, small_shards: None
):
    address = s3_address("sets/memes")
    prepared(mixed_table, tmp_path / "set")
    assert not has_shards(address)
    prepared(mixed_table, address)
    assert has_shards(address)
    assert contents(address) == on_disk(tmp_path / "set")
    prepared(mixed_table, address)  # there already
    with pytest.raises(ShardError, match="holds shards with size 48, asked for 32"):
        prepare("own_table", mixed_table.path, address, seed=0, options=mixed_table.options, size=32)

    here, there = open_shards(tmp_path / "set"), open_shards(address)
    assert there.manifest == here.manifest
    assert there.read("train").equals(here.read("train"))
    tokenizer = WordTokenizer.from_texts(here.read("train", ["text"])["text"].to_pylist())
    batches = [next(load_split(shards, "train", tokenizer).batches(8, seed=0)) for shards in (here, there)]
    assert batches[0].ids == batches[1].ids
    assert batches[0].images_BCHW.equal(batches[1].images_BCHW)


def test_interrupted_on_s3_and_resumed(
    s3_address: Callable[[str], str],
    mixed_table: Any,
    tmp_path: Path,
    small_shards: None,
    monkeypatch: pytest.MonkeyPatch,
):
    address = s3_address("sets/resumed")
    add, left = SetWriter.add, 100

    def counting(self, item) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        add(self, item)

    monkeypatch.setattr(SetWriter, "add", counting)
    with pytest.raises(KeyboardInterrupt):
        prepared(mixed_table, address)
    monkeypatch.setattr(SetWriter, "add", add)
    assert not has_shards(address)
    assert {"train-00000.parquet", "unfinished"} <= set(open_storage(address).names())
    with pytest.raises(ShardError, match="nothing was prepared there"):
        open_shards(address)
    prepared(mixed_table, address)
    prepared(mixed_table, tmp_path / "set")
    assert contents(address) == on_disk(tmp_path / "set")


def test_a_prefix_with_somebody_elses_files_is_refused(s3_address: Callable[[str], str]):
    address = s3_address("mine")
    open_storage(address).write("thesis.tex", b"three years")
    with pytest.raises(ShardError, match="s3://sets/mine already holds something"):
        write_shards([], address, source={}, labels=[])
    assert open_storage(address).names() == ["thesis.tex"]


def test_a_missing_shard_on_s3_is_named(s3_address: Callable[[str], str], mixed_table: Any):
    address = s3_address("broken")
    prepared(mixed_table, address)
    open_storage(address).delete("train-00000.parquet")
    with pytest.raises(ShardError, match=r"s3://sets/broken/train-00000.parquet is missing"):
        open_shards(address)


@pytest.mark.ray
def test_ray_writes_to_s3_and_reads_from_it(
    ray_local: Any, s3_address: Callable[[str], str], mixed_table: Any, tmp_path: Path
):
    from data.stream import ray_dataset

    address = s3_address("ray")
    prepared(mixed_table, address, engine="ray", workers=2)
    prepared(mixed_table, tmp_path / "set", engine="process")
    assert contents(address) == on_disk(tmp_path / "set")
    rows = ray_dataset(address, "train").take_all()
    assert sorted(row["id"] for row in rows) == sorted(open_shards(address).read("train")["id"].to_pylist())
