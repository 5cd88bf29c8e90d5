"""The head that joins the two CLS vectors and answers."""

from torch import Tensor, cat, nn

from model.network_config import NetworkConfig
from model.vilbert import TwoStream, TwoStreamOutput


class FusionHead(nn.Module):
    """Joins text CLS and vision CLS by concatenation, product or sum, then a two-layer classifier.

    Both vectors are first projected to `width`, so that streams of unequal width can be multiplied and
    summed. A unimodal network's head reads its only CLS vector.
    """

    def __init__(
        self, network: TwoStream, config: NetworkConfig, *, num_outputs: int, width: int = 0
    ) -> None:
        super().__init__()
        widths = [stream.width for stream in (network.text, network.vision) if stream is not None]
        width = width or max(widths)
        self.join = config.join
        self.text = nn.Linear(network.text.width, width) if network.text is not None else None
        self.vision = nn.Linear(network.vision.width, width) if network.vision is not None else None
        joined = 2 * width if config.join == "concat" and len(widths) == 2 else width
        self.classifier = nn.Sequential(
            nn.LayerNorm(joined), nn.Linear(joined, 2 * width), nn.GELU(), nn.Linear(2 * width, num_outputs)
        )

    def forward(self, output: TwoStreamOutput) -> Tensor:
        """Logits [B, C]."""
        if self.vision is None and self.text is not None:
            return self.classifier(self.text(output.text_cls_BD))
        if self.text is None and self.vision is not None:
            return self.classifier(self.vision(output.vision_cls_BD))
        assert self.text is not None
        assert self.vision is not None
        text, vision = self.text(output.text_cls_BD), self.vision(output.vision_cls_BD)
        if self.join == "product":
            return self.classifier(text * vision)
        if self.join == "sum":
            return self.classifier(text + vision)
        return self.classifier(cat([text, vision], dim=-1))
