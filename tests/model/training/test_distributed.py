"""Pretraining on two workers of a small Ray: both take part, the caller gets the weights, and what cannot start is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.prepare import prepare
from data.shards import open_shards
from data.text import WordTokenizer
from model.network_config import NetworkConfig, TextEncoderConfig, VisionEncoderConfig
from model.placement import Placement
from model.training.config import PretrainingConfig, TrainingConfig
from model.training.distributed import cpus_needed, pretrain_distributed
from model.training.loop import EpochReport
from model.vilbert import TwoStream, build_two_stream

pytestmark = pytest.mark.ray

NETWORK = NetworkConfig(
    text=TextEncoderConfig(depth=2, width=32, heads=2),
    vision=VisionEncoderConfig(depth=2, width=32, heads=2),
    placement=Placement.parse("t1-v1"),
)
CONFIG = PretrainingConfig(
    training=TrainingConfig(epochs=2, steps_per_epoch=12, batch_size=32, learning_rate=3e-3, device="cpu"),
    num_workers=2,
    cpus_per_worker=0.5,
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "easy_vqa"
    prepare("easy_vqa", "", folder, seed=0, options={"max_images_per_split": 12})
    return folder


@pytest.fixture(scope="module")
def tokenizer(shards: Path) -> WordTokenizer:
    return WordTokenizer.from_texts(open_shards(shards).read("train", ["caption"])["caption"].to_pylist())


@pytest.fixture
def network(tokenizer: WordTokenizer) -> TwoStream:
    torch.manual_seed(0)
    return build_two_stream(NETWORK, vocabulary_size=tokenizer.vocabulary_size, pad_id=tokenizer.pad_id)


Pretrain = Callable[..., list[EpochReport]]


@pytest.fixture
def pretrain(
    ray_local, shards: Path, tokenizer: WordTokenizer, network: TwoStream, tmp_path: Path
) -> Pretrain:
    def run(
        config: PretrainingConfig = CONFIG, *, into: TwoStream = network, seed: int = 1
    ) -> list[EpochReport]:
        return pretrain_distributed(
            into,
            NETWORK,
            shards_folder=shards,
            tokenizer=tokenizer,
            config=config,
            seed=seed,
            name="pretraining",
            storage=tmp_path,
            max_length=16,
        )

    return run


def test_two_workers_train_one_network(pretrain: Pretrain, network: TwoStream) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    reports = pretrain()
    assert [(report.epoch, report.step) for report in reports] == [(1, 12), (2, 24)]
    for report in reports:
        assert report.metrics == {"workers": 2.0, "rows": 12 * 32.0}
        assert set(report.train_losses) == {"loss", *CONFIG.objectives}
        assert all(torch.isfinite(torch.tensor(loss)) for loss in report.train_losses.values())
    assert reports[1].train_losses["loss"] < reports[0].train_losses["loss"]
    after = network.state_dict()
    trained = [name for name in before if not torch.equal(after[name], before[name])]
    assert "coattention.0.text.output.weight" in trained
    assert "text.embeddings.word_embeddings.weight" in trained
    assert len(trained) > 0.9 * len(before)

    # The same call again finds the training finished.
    torch.manual_seed(9)
    again = build_two_stream(NETWORK, vocabulary_size=len(before["text.embeddings.word_embeddings.weight"]))
    assert pretrain(into=again) == reports
    assert all(torch.equal(again.state_dict()[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(CONFIG, cpus_per_worker=1.0), r"2 workers of 1 CPUs needs 3 CPUs with the 1 for Ray Data; .* has 2"),
        (replace(CONFIG, num_workers=1, cpus_per_worker=4.0), "2 on its largest node"),
        (replace(CONFIG, training=replace(CONFIG.training, batch_size=33)), "batch_size=33 is shared by all workers"),
        (replace(CONFIG, training=replace(CONFIG.training, batch_size=9000)), "a batch of 9000 rows cannot be drawn"),
        (replace(CONFIG, training=replace(CONFIG.training, device="cuda")), "needs a GPU for each; the cluster has 0"),
    ],
)  # fmt: skip
def test_what_could_never_start_is_refused(
    pretrain: Pretrain, config: PretrainingConfig, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pretrain(config)


def test_cpus_needed() -> None:
    assert cpus_needed(CONFIG) == 2.0
    assert cpus_needed(replace(CONFIG, num_workers=4, cpus_per_worker=2.0)) == 9.0
