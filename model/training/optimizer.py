"""The optimiser and its schedule, in real optimiser steps."""

import math

import torch
from torch import nn

from model.training.config import TrainingConfig

ENCODERS = ("network.text.", "network.vision.")
"""What every trainee calls the encoders of its network."""


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW in four groups: encoders or not, decayed (matrices of linear maps and convolutions) or not (biases,
    norms, gates, embeddings, positions, tokens).

    Encoders get `encoder_learning_rate` times the learning rate; each group keeps its factor as `lr_factor`.
    """
    matrices = {id(module.weight) for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = config.encoder_learning_rate if name.startswith(ENCODERS) else 1.0
        decay = config.weight_decay if id(parameter) in matrices else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                # Plain numbers: a NumPy scalar, as samplers give them, would make the state file unreadable.
                "lr": float(config.learning_rate * factor),
                "weight_decay": float(decay),
                "lr_factor": float(factor),
            }
            for (factor, decay), parameters in groups.items()
        ],
        betas=(0.9, 0.98),
        fused=True,
    )


def set_learning_rate(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, *, step: int, steps: int
) -> float:
    """Sets the learning rate of step `step` (0-based) out of `steps` and returns it (before group factors)."""
    rate = learning_rate_at(config, step=step, steps=steps)
    for group in optimizer.param_groups:
        group["lr"] = float(rate * group["lr_factor"])
    return rate


def learning_rate_at(config: TrainingConfig, *, step: int, steps: int) -> float:
    """Linear warm-up to the peak, then a half cosine down to `final_learning_rate` of it at the very last step."""
    warmup = round(config.warmup_fraction * steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    peak = max(0, warmup - 1)
    progress = (step - peak) / max(1, steps - 1 - peak)
    floor = config.final_learning_rate
    return config.learning_rate * (floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2)
