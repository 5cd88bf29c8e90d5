"""All pretraining objectives together, from at most one clean, one masked and one mismatched forward pass."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from data.batch import ImageTextBatch
from data.masking import mask_patches, mask_tokens
from data.text import Tokenizer
from model.pretraining._objective import JointViews, build_objective
from model.vilbert import TwoStream


class JointPretraining(nn.Module):
    """A network and the pretraining objectives that it is trained on.

    `weights` maps the names of objectives to the weights of their losses in the sum.

    Raises:
        ValueError: an unknown objective, or none, or one that needs a stream that the network has not.
    """

    def __init__(
        self,
        network: TwoStream,
        tokenizer: Tokenizer,
        weights: Mapping[str, float],
        *,
        token_probability: float = 0.15,
        patch_probability: float = 0.25,
    ) -> None:
        super().__init__()
        if not weights:
            raise ValueError("pretraining needs at least one objective")
        if network.text is None or network.vision is None:
            raise ValueError("pretraining needs both streams; a unimodal network is only fine-tuned")
        self.network = network
        self.weights = dict(weights)
        self.objectives = nn.ModuleDict({name: build_objective(name, network) for name in weights})
        self.mask_token_D = nn.Parameter(0.02 * torch.randn(network.vision.width))
        self.token_probability = token_probability
        self.patch_probability = patch_probability
        self._masking = {
            "mask_id": tokenizer.mask_id,
            "vocabulary_size": tokenizer.vocabulary_size,
            "special_ids": tokenizer.special_ids,
        }

    def losses(self, batch: ImageTextBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The weighted sum as `loss`, and each objective's own loss under its name."""
        views = self._views(batch, generator)
        losses = {name: objective(self.network, views) for name, objective in self.objectives.items()}
        total = sum((self.weights[name] * loss for name, loss in losses.items()), torch.tensor(0.0))
        return {"loss": total} | losses

    def _views(self, batch: ImageTextBatch, generator: torch.Generator) -> JointViews:
        assert self.network.vision is not None
        corrupted_BT, is_target_BT = mask_tokens(
            batch.token_ids_BT,
            batch.text_mask_BT,
            probability=self.token_probability,
            generator=generator,
            **self._masking,
        )
        masked_BN = mask_patches(
            len(batch),
            self.network.vision.num_patches,
            probability=self.patch_probability,
            generator=generator,
            device=batch.images_BCHW.device,
        )
        return JointViews(
            network=self.network,
            batch=batch,
            corrupted_BT=corrupted_BT,
            is_target_BT=is_target_BT,
            masked_patches_BN=masked_BN,
            mask_token_D=self.mask_token_D,
            # A rotation by a random amount: every text gets an image that is not its own row's.
            shift=int(torch.randint(1, max(2, len(batch)), (1,), generator=generator)),
        )
