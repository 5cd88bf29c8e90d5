"""The one training loop. What differs between pretraining and fine-tuning is in the trainee.

A trainee is a module with `losses(batch, generator) -> {"loss": scalar, …}`; `fit` steps it, reports after
every epoch, restores the best epoch's weights at the end, and can go on from a state file bit for bit.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from data.batch import ImageTextBatch
from data.prefetch import prefetch, timed
from model.tasks._task import Metric
from model.training.checkpoint import CheckpointError, load_training_state, save_training_state
from model.training.config import TrainingConfig
from model.training.optimizer import build_optimizer, set_learning_rate


class NonFiniteLoss(RuntimeError):
    """The loss, its gradient or the selection metric became NaN or infinite; the message names the step."""


class Trainee(Protocol):
    """What `fit` trains: a module that turns a batch into its losses."""

    def losses(self, batch: ImageTextBatch, generator: torch.Generator) -> dict[str, Tensor]: ...


Batches = Callable[[int], Iterator[ImageTextBatch]]
"""Micro-batches without end, from a given one on; the same number always gives the same batch."""


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """What one epoch gave. `seconds` count from the start of training, `epoch` from 1.

    stall_share: of the time of the epoch's steps, how much (0..1) went by waiting for data.
    """

    epoch: int
    step: int
    seconds: float
    train_losses: dict[str, float]
    metrics: dict[str, float]
    is_best: bool
    stall_share: float = 0.0


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """The best epoch and its metrics; its weights are in the trainee. `reports` has every epoch, resumed or not."""

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
    reports: list[dict[str, Any]] = field(default_factory=list)


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
    saves_state: bool = True,
) -> FitResult:
    """Trains `trainee` for `config.epochs` epochs and leaves it with its best epoch's weights.

    `evaluate` gives held-out metrics after each epoch; `selection` says which of them picks the best.
    Without a selection the last epoch is taken for the best.
    With `state_file` the state is saved there after each epoch (before `on_epoch`), and a run that finds
    such a file goes on from it: the result is bit for bit that of an uninterrupted run on the same CPU.
    `saves_state` False only reads it, as all workers of a run on many do but the first.

    Raises:
        NonFiniteLoss: the loss, its gradient or the selection metric became NaN or infinite.
        CheckpointError: the state file is damaged, or that of another training.
        KeyError: `evaluate` does not give the selection metric.
    """
    device = training_device(config)
    trainee.to(device)
    optimizer = build_optimizer(trainee, config)
    generator = torch.Generator().manual_seed(seed)
    progress = _Progress()
    course = _course(config, seed=seed, steps_per_epoch=steps_per_epoch)
    if state_file is not None and state_file.exists():
        _restore(state_file, course, progress, trainee, optimizer, generator, device)
    total_steps = config.epochs * steps_per_epoch
    micro_batches = batches(progress.step * config.accumulation)
    # A CPU that trains has no idle core to prepare batches on; a GPU has a host to itself.
    ahead = prefetch(micro_batches, device=device) if device.type == "cuda" else micro_batches
    stream, stall = timed(ahead)

    while progress.epoch < config.epochs and not _is_out_of_patience(progress, config):
        started = time.perf_counter()
        sums: dict[str, float] = {}
        trainee.train()
        stall.restart()
        for _ in range(steps_per_epoch):
            set_learning_rate(optimizer, config, step=progress.step, steps=total_steps)
            losses, gradient_norm = _optimizer_step(trainee, optimizer, stream, generator, config, device)
            progress.step += 1
            for what, value in (("loss", losses["loss"]), ("gradient", gradient_norm)):
                if not math.isfinite(value):
                    raise NonFiniteLoss(
                        f"the {what} became {value} at step {progress.step} of {total_steps} "
                        f"(learning rate {config.learning_rate:g})"
                    )
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + loss
        stall_share = stall.lap()
        progress.epoch += 1
        metrics = {name: float(value) for name, value in evaluate().items()}
        is_best = _note_best(progress, metrics, selection, trainee)
        progress.seconds += time.perf_counter() - started
        report = EpochReport(
            epoch=progress.epoch,
            step=progress.step,
            seconds=progress.seconds,
            train_losses={name: total / steps_per_epoch for name, total in sums.items()},
            metrics=metrics,
            is_best=is_best,
            stall_share=stall_share,
        )
        progress.reports.append(asdict(report))
        if state_file is not None and saves_state:
            save_training_state(state_file, _state(course, progress, trainee, optimizer, generator, device))
        on_epoch(report)
    stream.close()
    if progress.best_weights:
        trainee.load_state_dict(progress.best_weights)
    return FitResult(
        best_epoch=progress.best_epoch,
        best_metrics=progress.best_metrics,
        reports=tuple(EpochReport(**report) for report in progress.reports),
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
) -> tuple[dict[str, float], float]:
    """One optimiser step over `accumulation` micro-batches: the means of their losses, and the gradient's norm."""
    optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    for _ in range(config.accumulation):
        batch = next(stream).to(device)
        with _autocast(config, device):
            losses = trainee.losses(batch, generator)
        (losses["loss"] / config.accumulation).backward()
        for name, loss in losses.items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + loss.detach()
    norm = nn.utils.clip_grad_norm_(trainee.parameters(), config.clip_norm or math.inf)
    # All numbers in one transfer: a GPU would have to wait for each.
    *totals, gradient_norm = torch.stack([*sums.values(), norm]).tolist()
    means = {name: total / config.accumulation for name, total in zip(sums, totals, strict=True)}
    if math.isfinite(means["loss"]) and math.isfinite(gradient_norm):
        optimizer.step()  # a step on a NaN would spoil the weights that a post-mortem looks at
    return means, gradient_norm


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
    if not math.isfinite(score):
        raise NonFiniteLoss(f"the {selection.name} became {metrics[selection.name]} at step {progress.step}")
    if progress.best_weights and not score > progress.best_score:
        return False
    progress.best_epoch, progress.best_score, progress.best_metrics = progress.epoch, score, metrics
    progress.best_weights = {name: value.detach().clone() for name, value in trainee.state_dict().items()}
    return True


def _course(config: TrainingConfig, **more: int) -> dict[str, Any]:
    """What decides the course of a training: a state from another course must not be gone on from."""
    course = more | asdict(config)
    del course["device"]
    return json.loads(json.dumps(course, default=float))


def _is_out_of_patience(progress: _Progress, config: TrainingConfig) -> bool:
    return 0 < config.patience <= progress.epoch - progress.best_epoch


def _state(
    course: Mapping[str, Any],
    progress: _Progress,
    trainee: Any,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    device: torch.device,
) -> dict[str, Any]:
    return {
        "course": dict(course),
        "progress": dict(vars(progress)),
        "weights": trainee.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def _restore(
    state_file: Path,
    course: Mapping[str, Any],
    progress: _Progress,
    trainee: Any,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    device: torch.device,
) -> None:
    state = load_training_state(state_file)
    try:
        before = state["course"]
        changed = [
            f"{name} was {before.get(name)}, is {now}"
            for name, now in course.items()
            if before.get(name) != now
        ]
        if changed:
            raise CheckpointError(
                f"{state_file} is the state of another training ({', '.join(changed)}); change that back, or delete "
                f"the file to start again"
            )
        trainee.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_rng"])
        if device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"], device)
        vars(progress).update(state["progress"])
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"{state_file} does not fit this network ({str(error).strip().splitlines()[0]}); delete it to start again"
        ) from error
