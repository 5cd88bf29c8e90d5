"""The Ray Data path gives the rows of the shards to several readers, each row once, and the same batches as memory."""

import threading

import pytest

from data.decoded_split import DecodedSplit
from data.prepare import prepare
from data.shards import ShardSet, open_shards
from data.stream import RayStream, batches_from_ray, load_split, ray_dataset
from data.text import WordTokenizer

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    folder = tmp_path_factory.mktemp("ray") / "set"
    options = {"train_images": 60, "validation_images": 2, "test_images": 2}
    prepare("scenes", "", folder, seed=0, options=options)
    return open_shards(folder)


@pytest.fixture(scope="module")
def tokenizer(shards: ShardSet) -> WordTokenizer:
    return WordTokenizer.from_texts(shards.read("train", ["text"])["text"].to_pylist())


@pytest.fixture(scope="module")
def held(shards: ShardSet, tokenizer: WordTokenizer) -> DecodedSplit:
    return load_split(shards, "train", tokenizer)


@pytest.mark.parametrize("shuffle_rows", [0, 128])
def test_ray_batches_hold_every_row_once(
    ray_local, shards: ShardSet, tokenizer: WordTokenizer, held: DecodedSplit, shuffle_rows: int
):
    rows = ray_dataset(shards.folder, "train").iterator()
    alone = {batch.ids[0]: batch for batch in held.batches(1)}
    seen: list[str] = []
    for batch in batches_from_ray(
        rows, shards.manifest, tokenizer, batch_size=32, shuffle_rows=shuffle_rows, seed=1
    ):
        seen += batch.ids
        for i, row_id in enumerate(batch.ids):
            assert (batch.images_BCHW[i] == alone[row_id].images_BCHW[0]).all()
            words = batch.token_ids_BT[i][batch.text_mask_BT[i]]
            assert words.tolist() == alone[row_id].token_ids_BT[0].tolist()
            assert batch.labels["answer"][i] == alone[row_id].labels["answer"][0]
    assert sorted(seen) == sorted(held.ids)
    assert (seen == held.ids) == (shuffle_rows == 0)


def test_two_readers_share_the_rows_the_same_way_every_time(
    ray_local, shards: ShardSet, tokenizer: WordTokenizer, held: DecodedSplit
):
    def read(first_batch: int) -> list[list[list[str]]]:
        """Two epochs of two readers, from `first_batch` on."""
        parts = ray_dataset(shards.folder, "train", seed=7).streaming_split(2, equal=True)
        seen: list[list[list[str]]] = [[], []]

        def consume(i: int) -> None:
            stream = RayStream(
                rows=parts[i], manifest=shards.manifest, split="train", tokenizer=tokenizer,
                num_workers=2, pool_rows=64,
            )  # fmt: skip
            assert len(stream) == len(held) // 2
            batches = stream.endless_batches(25, seed=3, first_batch=first_batch)
            for _ in range(2 * stream.num_batches(25, drop_last=True) - first_batch):
                seen[i].append(next(batches).ids)

        readers = [threading.Thread(target=consume, args=(i,)) for i in range(2)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(100)
        return seen

    whole = read(0)
    per_epoch = len(whole[0]) // 2
    for epoch in (0, 1):
        rows = [i for part in whole for ids in part[epoch * per_epoch : (epoch + 1) * per_epoch] for i in ids]
        assert len(set(rows)) == len(rows) == 2 * 25 * per_epoch
        assert set(rows) <= set(held.ids)
    assert whole[0][:per_epoch] != whole[0][per_epoch:]
    rest = read(3)
    assert [part[3:] for part in whole] == rest
