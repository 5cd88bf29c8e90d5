"""What a pretraining objective is: a loss over views of the same batch that all objectives share.

Shapes: B rows, T tokens, N patches (without the CLS token), D a stream's width.
"""

import importlib
import pkgutil
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from data.batch import ImageTextBatch
from model.vilbert import TwoStream, TwoStreamOutput


@dataclass(frozen=True, kw_only=True)
class JointViews:
    """One clean and one masked forward pass over a batch, and a clean one over mismatched pairs.

    Each is run when an objective first asks for it, and shared by all that do.

    corrupted_BT, is_target_BT: the masked text, and the tokens that were corrupted in it (True = predict it).
    masked_patches_BN, mask_token_D: patches hidden in the masked image (True = hidden), and what stands there.
    shift: the mismatched pairs join text i to the image of row i - shift (modulo B).
    """

    network: TwoStream
    batch: ImageTextBatch
    corrupted_BT: Tensor
    is_target_BT: Tensor
    masked_patches_BN: Tensor
    mask_token_D: Tensor
    shift: int

    @cached_property
    def clean(self) -> TwoStreamOutput:
        """The batch as it is."""
        return self.network(self.batch.token_ids_BT, self.batch.text_mask_BT, self.batch.images_BCHW)

    @cached_property
    def masked(self) -> TwoStreamOutput:
        """The masked texts beside their own masked images."""
        return self.network(
            self.corrupted_BT,
            self.batch.text_mask_BT,
            self.batch.images_BCHW,
            masked_patches_BN=self.masked_patches_BN,
            mask_token_D=self.mask_token_D,
        )

    @cached_property
    def mismatched(self) -> TwoStreamOutput:
        """Every text beside another row's image."""
        return self.network(self.batch.token_ids_BT, self.batch.text_mask_BT, self._others_BCHW)

    @cached_property
    def is_mismatch_B(self) -> Tensor:
        """False where the other row happens to have the very same text or image: such a pair is no negative."""
        token_ids_BT, images_BCHW = self.batch.token_ids_BT, self.batch.images_BCHW
        same_text_B = (token_ids_BT == token_ids_BT.roll(self.shift, 0)).all(1)
        same_image_B = (images_BCHW == self._others_BCHW).flatten(1).all(1)
        return ~(same_text_B | same_image_B)

    @cached_property
    def _others_BCHW(self) -> Tensor:
        return self.batch.images_BCHW.roll(self.shift, 0)


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
