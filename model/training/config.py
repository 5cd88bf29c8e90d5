"""How a network is trained, as data."""

from dataclasses import dataclass, field
from typing import Literal

Precision = Literal["float32", "bfloat16", "auto"]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """One phase of training.

    An epoch is `steps_per_epoch` optimiser steps, after which the network is evaluated and reported; 0
    means as many as the training rows make. Data order does not depend on it: rows come in exact passes
    over the data, and an epoch goes on where the last one stopped.

    warmup_fraction, final_learning_rate: of all optimiser steps, and of the peak learning rate.
    encoder_learning_rate: times the learning rate, for the encoders (ties and heads get 1).
    clip_norm: the gradient's norm is cut to it; 0 means never.
    patience: epochs without a new best after which training ends early; 0 means never.
    precision: "auto" is bfloat16 autocast on a GPU and float32 on a CPU, where small networks run faster so.
    """

    epochs: int = 5
    steps_per_epoch: int = 0
    batch_size: int = 32
    accumulation: int = 1
    learning_rate: float = 1e-3
    encoder_learning_rate: float = 1.0
    weight_decay: float = 0.01
    warmup_fraction: float = 0.1
    final_learning_rate: float = 0.02
    clip_norm: float = 1.0
    patience: int = 0
    precision: Precision = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("warmup_fraction", "final_learning_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1; got {getattr(self, name)}")
        for name in ("steps_per_epoch", "encoder_learning_rate", "weight_decay", "clip_norm", "patience"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive; got {self.learning_rate}")


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """The pretraining phase before fine-tuning; `training.epochs` is not read when `enabled` is False.

    objectives: names of files in `model/pretraining/` and the weights of their losses.
    num_workers: 1 trains in the trial's own process; more go through Ray Train.
    cpus_per_worker: what each of those workers reserves. One CPU more must stay free for Ray Data.
    """

    enabled: bool = True
    objectives: dict[str, float] = field(
        default_factory=lambda: {"masked_language": 1.0, "alignment_prediction": 1.0, "masked_image": 1.0}
    )
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(epochs=1))
    num_workers: int = 1
    cpus_per_worker: float = 1.0

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ValueError(f"num_workers must be at least 1; got {self.num_workers}")
        if not self.cpus_per_worker > 0:
            raise ValueError(f"cpus_per_worker must be positive; got {self.cpus_per_worker}")
