"""The Ray Data path gives the rows of the shards to several readers, each row once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from data.prepare import prepare
from data.shards import open_shards
from data.stream import batches_from_ray, load_split, ray_dataset
from data.text import WordTokenizer

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


def test_ray_batches_hold_every_row_once(local_ray: None, tmp_path: Path):
    folder = tmp_path / "set"
    prepare(
        "scenes", "", folder, seed=0, options={"train_images": 60, "validation_images": 2, "test_images": 2}
    )
    shards = open_shards(folder)
    tokenizer = WordTokenizer.from_texts(shards.read("train", ["text"])["text"].to_pylist())
    split = load_split(shards, "train", tokenizer)
    held = {batch.ids[0]: batch for batch in split.batches(1)}

    rows = ray_dataset(folder, "train").iterator()
    for shuffle_rows in (0, 128):
        seen: list[str] = []
        torn = 0
        for batch in batches_from_ray(
            rows, shards.manifest, tokenizer, batch_size=32, shuffle_rows=shuffle_rows, seed=1
        ):
            seen += batch.ids
            first = split.ids.index(batch.ids[0])
            torn += batch.ids != split.ids[first : first + len(batch)]
            for i, row_id in enumerate(batch.ids):
                assert (batch.images_BCHW[i] == held[row_id].images_BCHW[0]).all()
                words = batch.token_ids_BT[i][batch.text_mask_BT[i]]
                assert words.tolist() == held[row_id].token_ids_BT[0].tolist()
                assert batch.labels["answer"][i] == held[row_id].labels["answer"][0]
        assert sorted(seen) == sorted(split.ids)
        assert (torn > 0) == (shuffle_rows > 0)
