"""A store of vectors: keys, memory maps, and only the row groups that are asked for."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.row import Row
from data.sources._source import SourceError
from data.sources.embedding_store import EmbeddingStoreOptions, open_store, rows


@pytest.fixture
def folder(make_sample: Callable, tmp_path: Path) -> str:
    return make_sample("embedding_store", tmp_path / "set").path


def test_keys_vectors_and_captions(folder: str):
    found = [row for row in rows(folder, seed=0, options=EmbeddingStoreOptions()) if isinstance(row, Row)]
    assert [row.id for row in found[:2]] == ["en-0000-000000000", "en-0000-000000001"]
    assert found[-1].id == "multi-0003-000000001"
    assert found[-1].caption == "一只猫"
    assert found[-1].extra == {"url": "https://1"}
    assert found[-1].image == b""
    shard = open_store(folder)[1]
    assert (
        np.frombuffer(found[-1].embedding, "<f2").tolist() == shard.vectors()[1].astype(np.float16).tolist()
    )


def test_shards_are_mapped_not_loaded(folder: str):
    shards = open_store(folder)
    assert [(shard.part, shard.number, shard.num_rows()) for shard in shards] == [
        ("en", 0, 5),
        ("multi", 3, 2),
    ]
    assert isinstance(shards[0].vectors(), np.memmap)
    assert not shards[0].vectors().flags.writeable


@pytest.mark.parametrize(("start", "stop"), [(0, 5), (1, 2), (2, 4), (3, 5), (4, 5)])
def test_metadata_of_some_rows(folder: str, start: int, stop: int):
    shard = open_store(folder)[0]  # row groups of two
    table = shard.metadata(["caption"], start, stop)
    assert table["caption"].to_pylist() == [f"caption {i}" for i in range(start, stop)]


def test_flat_layout_and_the_other_tower(folder: str, tmp_path: Path):
    flat = tmp_path / "flat"
    flat.mkdir()
    shard = open_store(folder)[0]
    (flat / "text_emb_0000.npy").write_bytes(shard.vectors_path.read_bytes())
    (flat / "metadata_0000.parquet").write_bytes(shard.metadata_path.read_bytes())
    (found,) = open_store(str(flat), tower="text")
    assert found.key(7) == "0000-000000007"
    with pytest.raises(SourceError, match=r"has no img_emb_<number>.npy"):
        open_store(str(flat))
    (flat / "metadata_0000.parquet").unlink()
    with pytest.raises(
        SourceError, match=r"text_emb_0000.npy has no metadata/metadata_0000.parquet to go with it"
    ):
        open_store(str(flat), tower="text")
