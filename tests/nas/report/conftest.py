"""Searches that never ran: event logs with realistic numbers, from a seed."""

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from nas.search.records import TrialLog, TrialRecord

MEASURES = ("linear_cka_debiased", "mutual_knn", "svcca")
DEPTH = 4


@pytest.fixture(scope="session")
def make_trial() -> Callable[..., TrialRecord]:
    """One `done` trial of the placement stage; every field can be said."""

    def make(
        number: int, accuracy: float = 0.8, network_name: str = "t1-v1 · product", **more
    ) -> TrialRecord:
        fields = {
            "stage": "placement",
            "trial": f"trial-{number:04d}",
            "number": number,
            "point": {},
            "seed": number,
        }
        fields |= {"network": network_name, "network_name": network_name, "state": "done", "seconds": 10.0}
        fields |= {"metrics": {"accuracy": accuracy}, "cost": {"flops": 1e6, "parameters": 1e5}}
        return TrialRecord(**{**fields, **more})

    return make


@pytest.fixture(scope="session")
def make_confirmed(make_trial) -> Callable[..., list[TrialRecord]]:
    """One trial of the confirmation a score, with seeds 1, 2, 3 …; test is a little below validation."""

    def make(
        label: str, network_name: str, scores: list[float], *, role: str = "baseline", **more
    ) -> list[TrialRecord]:
        return [
            make_trial(
                seed,
                score + 0.01,
                network_name,
                stage="confirm",
                seed=seed,
                trial=f"confirm-{label}-{seed}",
                label=label,
                role=role,
                **{"test": {"accuracy": score}, **more},
            )
            for seed, score in enumerate(scores, start=1)
        ]

    return make


@pytest.fixture(scope="session")
def write_search() -> Callable[..., Path]:
    """Writes `trials.jsonl` of a two-stage search with confirmation into a run folder."""
    return _write_search


def _write_search(
    run_folder: Path,
    *,
    num_trials: int,
    num_seeds: int = 3,
    depth: int = DEPTH,
    gain_of_a_tie: float = 0.01,
    seed: int = 0,
) -> Path:
    rng = random.Random(seed)
    with TrialLog(run_folder / "trials.jsonl") as log:
        for number in range(num_trials // 3):
            _run(
                log, rng, stage="hyperparameters", number=number, ties=[1, 3], point=_recipe(rng), noise=0.03
            )
        for number in range(num_trials - num_trials // 3):
            ties = [layer for layer in range(depth + 1) if rng.random() < 0.5]
            join = rng.choice(["concat", "product"])
            point = {f"layer_{layer}": layer in ties for layer in range(depth + 1)} | {"join": join}
            _run(
                log,
                rng,
                stage="placement",
                number=number,
                ties=ties,
                join=join,
                point=point,
                gain=gain_of_a_tie,
            )
        for seed_number in range(num_seeds if num_trials else 0):
            _confirm(log, rng, seed_number, depth, gain_of_a_tie)
    return run_folder


def _confirm(log: TrialLog, rng: random.Random, seed_number: int, depth: int, gain: float) -> None:
    networks = {
        "best placement": [0, 2, 3],
        "no ties, concatenated": [],
        "no ties, multiplied": [],
        "early": [1],
        "late": [depth - 1],
        "full": list(range(depth)),
        "question only": None,
    }
    luck = rng.gauss(0, 0.004)  # what a seed does to all networks alike
    for index, (label, ties) in enumerate(networks.items()):
        join = "concat" if label.endswith("concatenated") else "product"
        role = "finalist" if label == "best placement" else "baseline"
        number = seed_number * len(networks) + index
        more = {
            "join": join,
            "gain": gain,
            "luck": luck,
            "label": label,
            "role": role,
            "seed": 100 + seed_number,
        }
        _run(log, rng, stage="confirm", number=number, ties=ties, point={}, is_confirmation=True, **more)


def _recipe(rng: random.Random) -> dict:
    return {
        "learning_rate": 10 ** rng.uniform(-4, -2.5),
        "weight_decay": 10 ** rng.uniform(-4, -1),
        "dropout": 0.1,
    }


def _run(
    log: TrialLog,
    rng: random.Random,
    *,
    stage: str,
    number: int,
    ties: list[int] | None,
    point: dict,
    join: str = "product",
    noise: float = 0.006,
    gain: float = 0.01,
    luck: float = 0.0,
    epochs: int = 6,
    is_confirmation: bool = False,
    **start,
) -> None:
    name = "text only" if ties is None else f"{_placement(ties)} · {join}"
    trial = f"{stage}-{number:04d}"
    cost = {"parameters": 180_000 + 21_000 * len(ties or []), "flops": 4.1e6 + 0.55e6 * len(ties or [])}
    log.start(**{"stage": stage, "trial": trial, "number": number, "point": point, "network": name, "seed": number,
                 "network_name": name, "cost": cost, **start})  # fmt: skip
    level = 0.62 if ties is None else 0.74 + gain * len(ties) + 0.03 * (join == "product")
    level += luck + rng.gauss(0, noise)
    fate = 1.0 if is_confirmation else rng.random()
    last = 0 if fate < 0.06 else 2 if fate < 0.3 else epochs
    accuracies = []
    for epoch in range(1, last + 1):
        accuracies.append(level - 0.3 * math.exp(-epoch / 1.6) + rng.gauss(0, 0.004))
        alignment = (
            {measure: _matrix(rng, ties or [], epoch) for measure in MEASURES} if ties is not None else {}
        )
        summaries = {measure: matrix[-1][-1] for measure, matrix in alignment.items()}
        metrics = {
            "accuracy": accuracies[-1],
            "loss": 1.2 - accuracies[-1],
            "train_loss": 1.1 - accuracies[-1],
        }
        log.report(trial=trial, stage=stage, epoch=epoch, step=40 * epoch, seconds=3.1 * epoch,
                   metrics=metrics | summaries, alignment=alignment)  # fmt: skip
    if last == 0:
        log.end(
            trial=trial,
            stage=stage,
            state="failed",
            reason="RuntimeError: loss is nan at step 17 <b>&",
            seconds=1.0,
        )
        return
    best = max(accuracies)
    test = {"accuracy": best - 0.01 + rng.gauss(0, 0.003)} if is_confirmation else {}
    state = "done" if last == epochs else "stopped"
    log.end(trial=trial, stage=stage, state=state, epochs=last, seconds=3.1 * last + 1, test=test,
            metrics={"accuracy": best, **summaries})  # fmt: skip


def _placement(ties: list[int]) -> str:
    return " ".join(f"t{layer}-v{layer}" for layer in ties) or "no co-attention"


def _matrix(rng: random.Random, ties: list[int], epoch: int) -> list[list[float]]:
    def value(text: int, vision: int) -> float:
        above = sum(tie <= min(text, vision) for tie in ties)
        return min(
            1.0,
            max(-0.02, 0.05 + 0.12 * above + 0.02 * epoch - 0.03 * abs(text - vision) + rng.gauss(0, 0.01)),
        )

    return [[value(text, vision) for vision in range(DEPTH + 1)] for text in range(DEPTH + 1)]
