"""Alignment prediction: do this text and this image belong together?"""

from torch import Tensor, cat, nn
from torch.nn import functional as F

from model.pretraining._objective import JointViews, Objective
from model.vilbert import TwoStream


class AlignmentPrediction(Objective):
    """Binary cross entropy on matched and mismatched pairs, from the product of the projected CLS vectors.

    ViLBERT (Lu et al. 2019, section 3.1) multiplies its pooled vectors likewise. Reading both streams makes
    the objective learnable for a network without ties too, if less well.
    """

    def __init__(self, network: TwoStream) -> None:
        super().__init__(network)
        if network.text is None or network.vision is None:
            raise ValueError("alignment prediction needs both streams")
        width = max(network.text.width, network.vision.width)
        self.text = nn.Linear(network.text.width, width)
        self.vision = nn.Linear(network.vision.width, width)
        self.classifier = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1)
        )

    def forward(self, network: TwoStream, views: JointViews) -> Tensor:
        outputs = (views.clean, views.mismatched)
        text = cat([output.text_cls_BD for output in outputs])
        vision = cat([output.vision_cls_BD for output in outputs])
        logits = self.classifier(self.text(text) * self.vision(vision)).squeeze(-1).float()
        matched = logits.new_ones(views.clean.text_cls_BD.shape[0])
        labels = cat([matched, logits.new_zeros(len(views.is_mismatch_B))])
        counts = cat([matched, views.is_mismatch_B.to(logits.dtype)])
        losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return (losses * counts).sum() / counts.sum()


OBJECTIVE = AlignmentPrediction
