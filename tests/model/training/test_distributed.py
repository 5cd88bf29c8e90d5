"""Pretraining on two workers of a small Ray: both take part, the caller gets the weights, and what cannot start is refused."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data.prepare import prepare
from data.shards import open_shards
from data.text import WordTokenizer
from model.network_config import NetworkConfig, TextEncoderConfig, VisionEncoderConfig
from model.placement import Placement
from model.training.checkpoint import load_training_state
from model.training.config import PretrainingConfig, TrainingConfig
from model.training.distributed import WorkersFailed, cpus_needed, pretrain_distributed
from model.training.loop import EpochReport, NonFiniteLoss
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
        config: PretrainingConfig = CONFIG, *, into: TwoStream = network, name: str = "pretraining"
    ) -> list[EpochReport]:
        return pretrain_distributed(
            into,
            NETWORK,
            shards_folder=shards,
            tokenizer=tokenizer,
            config=config,
            seed=1,
            name=name,
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


@pytest.mark.slow
def test_a_loss_that_explodes_is_not_tried_again(pretrain: Pretrain) -> None:
    with pytest.raises(NonFiniteLoss, match=r"the (loss|gradient) became (nan|inf) at step \d+ of 24"):
        pretrain(replace(CONFIG, training=replace(CONFIG.training, learning_rate=1e30)))


@pytest.mark.slow
def test_a_failing_worker_says_why_in_one_line(pretrain: Pretrain, network: TwoStream) -> None:
    assert network.text is not None
    network.text.max_length = 2  # no caption is so short
    with pytest.raises(WorkersFailed, match=r"worker 0: .*a text of \d+ tokens does not fit") as error:
        pretrain()
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_goes_on(
    pretrain: Pretrain,
    network: TwoStream,
    tokenizer: WordTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # so that a checkpoint counts at once
    config = replace(CONFIG, training=replace(CONFIG.training, epochs=3))
    with ThreadPoolExecutor(1) as thread:
        reports = thread.submit(pretrain, config)
        while not (states := list(tmp_path.glob("pretraining-*/checkpoint_*/state.pt"))):
            assert not reports.done(), reports.result()
            time.sleep(0.1)
        time.sleep(0.5)
        before = load_training_state(states[0])["progress"]["reports"]
        os.kill(min(_train_workers()), signal.SIGKILL)
        after = reports.result()
    assert len(before) < 3
    assert [report.epoch for report in after] == [1, 2, 3]
    # The times show that epoch 1 was not trained again.
    assert [report.seconds for report in after[: len(before)]] == [report["seconds"] for report in before]

    # The same call again finds the training finished.
    torch.manual_seed(9)
    again = build_two_stream(NETWORK, vocabulary_size=tokenizer.vocabulary_size)
    assert pretrain(config, into=again) == after
    for name, value in again.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name

    # And the weights, to the last bit, show nothing else.
    torch.manual_seed(0)
    undisturbed = build_two_stream(NETWORK, vocabulary_size=tokenizer.vocabulary_size)
    losses = [report.train_losses for report in pretrain(config, into=undisturbed, name="undisturbed")]
    assert losses == [report.train_losses for report in after]
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


def _train_workers() -> list[int]:
    """Ray Train's workers among our descendants (other people's run on this machine too)."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in table.stdout.splitlines()]
    parent_of = {int(pid): int(parent) for pid, parent, _ in rows}

    def is_ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parent_of and is_ours(parent_of[pid]))

    return [int(pid) for pid, _, args in rows if args.startswith("ray::RayTrainWorker") and is_ours(int(pid))]


@pytest.mark.slow
def test_inside_a_trial_of_tune(ray_local, shards: Path, tokenizer: WordTokenizer, tmp_path: Path) -> None:
    from ray import tune

    def trial(point: dict[str, Any]) -> None:
        torch.manual_seed(0)
        network = build_two_stream(NETWORK, vocabulary_size=tokenizer.vocabulary_size)
        before = network.state_dict()["coattention.0.text.output.weight"].clone()
        reports = pretrain_distributed(
            network,
            NETWORK,
            shards_folder=shards,
            tokenizer=tokenizer,
            config=CONFIG,
            seed=point["seed"],
            name=f"pretraining-{point['seed']}",
            storage=tmp_path,
            max_length=16,
        )
        moved = (network.state_dict()["coattention.0.text.output.weight"] - before).abs().max().item()
        tune.report(
            {
                "loss": reports[-1].train_losses["loss"],
                "workers": reports[-1].metrics["workers"],
                "moved": moved,
            }
        )

    results = tune.Tuner(
        tune.with_resources(trial, {"CPU": 0, "memory": 1}),
        param_space={"seed": tune.grid_search([1])},
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=tune.RunConfig(name="tune", storage_path=str(tmp_path), verbose=0),
    ).fit()
    assert not results.errors
    metrics = results[0].metrics
    assert metrics is not None
    assert metrics["workers"] == 2.0
    assert metrics["moved"] > 0
