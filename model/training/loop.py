"""The one training loop. What differs between pretraining and fine-tuning is in the trainee.

A trainee is a module with `losses(batch, generator) -> {"loss": scalar, …}`; `fit` steps it, reports after
every epoch, restores the best epoch's weights at the end, and can go on from a state file bit for bit.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from data.batch import ImageTextBatch
from model.tasks._task import Metric
from model.training.checkpoint import load_training_state, save_training_state
from model.training.config import TrainingConfig
from model.training.optimizer import build_optimizer, set_learning_rate


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; the message names the step."""


class Trainee(Protocol):
    """What `fit` trains: a module that turns a batch into its losses."""

    def losses(self, batch: ImageTextBatch, generator: torch.Generator) -> dict[str, Tensor]: ...


Batches = Callable[[int], Iterator[ImageTextBatch]]
"""Micro-batches without end, from a given one on; the same number always gives the same batch."""


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """What one epoch gave. `seconds` count from the start of training, `epoch` from 1."""

    epoch: int
    step: int
    seconds: float
    train_losses: dict[str, float]
    metrics: dict[str, float]
    is_best: bool


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """The best epoch and its metrics; its weights are in the trainee."""

    best_epoch: int
    best_metrics: dict[str, float]
    reports: tuple[EpochReport, ...]


@dataclass
class _Progress:
    """What `fit` must know to go on: all of it goes into the state file."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    best_score: float = -math.inf
    best_metrics: dict[str, float] = field(default_factory=dict)
    best_weights: dict[str, Tensor] = field(default_factory=dict)


def fit(
    trainee: Any,
    *,
    batches: Batches,
    steps_per_epoch: int,
    config: TrainingConfig,
    seed: int,
    evaluate: Callable[[], Mapping[str, float]] = dict,
    selection: Metric | None = None,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
    state_file: Path | None = None,
) -> FitResult:
    """Trains `trainee` for `config.epochs` epochs and leaves it with its best epoch's weights.

    `evaluate` gives held-out metrics after each epoch; `selection` says which of them picks the best.
    Without a selection the last epoch is taken for the best.
    With `state_file` the state is saved there after each epoch (before `on_epoch`), and a run that finds
    such a file goes on from it: the result is bit for bit that of an uninterrupted run on the same CPU.

    Raises:
        NonFiniteLoss: the loss became NaN or infinite.
        KeyError: `evaluate` does not give the selection metric.
    """
    device = training_device(config)
    trainee.to(device)
    optimizer = build_optimizer(trainee, config)
    generator = torch.Generator().manual_seed(seed)
    progress = _Progress()
    if state_file is not None and state_file.exists():
        _restore(progress, load_training_state(state_file), trainee, optimizer, generator)
    total_steps = config.epochs * steps_per_epoch
    stream = batches(progress.step * config.accumulation)
    reports: list[EpochReport] = []

    while progress.epoch < config.epochs:
        started = time.perf_counter()
        sums: dict[str, float] = {}
        trainee.train()
        for _ in range(steps_per_epoch):
            set_learning_rate(optimizer, config, step=progress.step, steps=total_steps)
            losses = _optimizer_step(trainee, optimizer, stream, generator, config, device)
            progress.step += 1
            if not math.isfinite(losses["loss"]):
                raise NonFiniteLoss(
                    f"the loss became {losses['loss']} at step {progress.step} of {total_steps} "
                    f"(learning rate {config.learning_rate:g})"
                )
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + loss
        progress.epoch += 1
        metrics = dict(evaluate())
        is_best = _note_best(progress, metrics, selection, trainee)
        progress.seconds += time.perf_counter() - started
        report = EpochReport(
            epoch=progress.epoch,
            step=progress.step,
            seconds=progress.seconds,
            train_losses={name: total / steps_per_epoch for name, total in sums.items()},
            metrics=metrics,
            is_best=is_best,
        )
        reports.append(report)
        if state_file is not None:
            save_training_state(state_file, _state(progress, trainee, optimizer, generator))
        on_epoch(report)
        if config.patience and progress.epoch - progress.best_epoch >= config.patience:
            break
    if progress.best_weights:
        trainee.load_state_dict(progress.best_weights)
    return FitResult(
        best_epoch=progress.best_epoch, best_metrics=progress.best_metrics, reports=tuple(reports)
    )


def training_device(config: TrainingConfig) -> torch.device:
    """The device that `config` names; "auto" is the GPU where there is one."""
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(config.device)


def _optimizer_step(
    trainee: Any,
    optimizer: torch.optim.Optimizer,
    stream: Iterator[ImageTextBatch],
    generator: torch.Generator,
    config: TrainingConfig,
    device: torch.device,
) -> dict[str, float]:
    """One optimiser step over `accumulation` micro-batches; the mean of their losses."""
    optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    for _ in range(config.accumulation):
        batch = next(stream).to(device)
        with _autocast(config, device):
            losses = trainee.losses(batch, generator)
        (losses["loss"] / config.accumulation).backward()
        for name, loss in losses.items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + loss.detach()
    if config.clip_norm > 0:
        nn.utils.clip_grad_norm_(trainee.parameters(), config.clip_norm)
    means = {name: total.item() / config.accumulation for name, total in sums.items()}
    if math.isfinite(means["loss"]):  # a step on a NaN would spoil the weights that a post-mortem looks at
        optimizer.step()
    return means


def _autocast(config: TrainingConfig, device: torch.device) -> contextlib.AbstractContextManager:
    wants_bfloat16 = config.precision == "bfloat16" or (config.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16) if wants_bfloat16 else contextlib.nullcontext()


def _note_best(
    progress: _Progress, metrics: dict[str, float], selection: Metric | None, trainee: Any
) -> bool:
    if selection is None:
        progress.best_epoch, progress.best_metrics = progress.epoch, metrics
        return True
    score = metrics[selection.name] if selection.higher_is_better else -metrics[selection.name]
    if progress.best_weights and not score > progress.best_score:
        return False
    progress.best_epoch, progress.best_score, progress.best_metrics = progress.epoch, score, metrics
    progress.best_weights = {name: value.detach().clone() for name, value in trainee.state_dict().items()}
    return True


def _state(
    progress: _Progress, trainee: Any, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> dict[str, Any]:
    return {
        "progress": dict(vars(progress)),
        "weights": trainee.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
        "torch_rng": torch.get_rng_state(),
    }


def _restore(
    progress: _Progress,
    state: dict[str, Any],
    trainee: Any,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> None:
    vars(progress).update(state["progress"])
    trainee.load_state_dict(state["weights"])
    optimizer.load_state_dict(state["optimizer"])
    generator.set_state(state["generator"])
    torch.set_rng_state(state["torch_rng"])
