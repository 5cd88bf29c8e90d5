"""What a pretraining objective is: a loss over views of the same batch that all objectives share.

Shapes: B rows, T tokens, N patches (without the CLS token), D a stream's width.
"""

import importlib
import pkgutil
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from data.batch import ImageTextBatch
from model.vilbert import TwoStream, TwoStreamOutput


@dataclass(frozen=True, kw_only=True)
class JointViews:
    """One clean and one masked forward pass over a batch, and a clean one over mismatched pairs.

    is_target_BT: tokens that were corrupted for the masked text (True = predict it).
    masked_patches_BN: patches that were hidden in the masked image (True = hidden).
    mismatched: rows whose text belongs to another image; `is_mismatch_B` is False where the shuffle
    happened to give the very same text or the same image (such rows are no negatives).
    """

    batch: ImageTextBatch
    clean: TwoStreamOutput
    masked: TwoStreamOutput
    mismatched: TwoStreamOutput
    is_target_BT: Tensor
    masked_patches_BN: Tensor
    is_mismatch_B: Tensor


class Objective(nn.Module):
    """A pretraining loss with whatever head it needs; built for one network."""

    def __init__(self, network: TwoStream) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, network: TwoStream, views: JointViews) -> Tensor:
        """The mean loss of a batch, a scalar."""


def objective_names() -> tuple[str, ...]:
    """The pretraining objectives there are, by file name."""
    names = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    return tuple(sorted(name for name in names if not name.startswith("_")))


def build_objective(name: str, network: TwoStream) -> Objective:
    """The objective of that file name, built for `network`.

    Raises:
        ValueError: there is no such objective.
    """
    if name not in objective_names():
        raise ValueError(
            f"no pretraining objective is called {name!r}; there are {', '.join(objective_names())}"
        )
    return importlib.import_module(f"model.pretraining.{name}").OBJECTIVE(network)
