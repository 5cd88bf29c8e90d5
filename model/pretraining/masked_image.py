"""Contrastive masked-image modelling: which patch of which image was hidden here?"""

from torch import Tensor, arange, nn
from torch.nn import functional as F

from model.pretraining._objective import JointViews, Objective
from model.vilbert import TwoStream

TEMPERATURE = 0.1
"""The thesis' (its library's default)."""


class MaskedImage(Objective):
    """InfoNCE (van den Oord et al. 2018, equation 4) at the hidden patches.

    The query is what the masked view predicts at a hidden patch, the key the clean view's state at the same
    patch (no gradient flows into keys), the negatives are the keys of every other hidden patch of the batch.
    Both views are the same pixels, so that equal indices are equal regions.
    """

    def __init__(self, network: TwoStream) -> None:
        super().__init__(network)
        if network.vision is None:
            raise ValueError("masked-image modelling needs a vision stream")
        width = network.vision.width
        self.predictor = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, network: TwoStream, views: JointViews) -> Tensor:
        assert network.vision is not None
        assert views.masked.vision_BND is not None
        assert views.clean.vision_BND is not None
        prefix = network.vision.num_prefix_tokens
        queries_MD = self.predictor(views.masked.vision_BND[:, prefix:][views.masked_patches_BN])
        keys_MD = views.clean.vision_BND[:, prefix:][views.masked_patches_BN].detach()
        scores_MM = F.normalize(queries_MD.float(), dim=-1) @ F.normalize(keys_MD.float(), dim=-1).T
        return F.cross_entropy(scores_MM / TEMPERATURE, arange(len(queries_MD), device=queries_MD.device))


OBJECTIVE = MaskedImage
