"""What a network is, as data: enough to build it, to price it and to name it.

`NetworkConfig.key` is what trials are keyed on: two points that give the same key build the same network.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Literal

from model.placement import Placement

Join = Literal["concat", "product", "sum"]
Modality = Literal["both", "text", "vision"]
Direction = Literal["both", "text_from_vision", "vision_from_text"]


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """A BERT-family text encoder.

    `source` is "random" (a small BERT of the sizes below, randomly initialised), a hub name or a local
    folder; with the last two the sizes come from the checkpoint and the fields below are not read.
    """

    source: str = "random"
    depth: int = 4
    width: int = 64
    heads: int = 4
    feedforward_ratio: int = 4
    max_length: int = 32
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class VisionEncoderConfig:
    """A timm ViT.

    `source` is "random" (a small ViT of the sizes below), a timm or hub name ("vit_base_patch16_224",
    "hf-hub:…") or a local folder; with the last two the sizes come from the checkpoint.
    """

    source: str = "random"
    depth: int = 4
    width: int = 64
    heads: int = 4
    feedforward_ratio: int = 4
    image_size: int = 64
    patch_size: int = 16
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class CoAttentionConfig:
    """A co-attention layer: `heads` of `width // heads` features each.

    `gated` multiplies what a layer adds by a learnt gate that starts at zero, so that a newly inserted
    layer is the identity and a placement's depth is not confounded with the damage of inserting it.
    """

    heads: int = 4
    width: int = 64
    feedforward_ratio: int = 2
    gated: bool = True
    direction: Direction = "both"
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Two streams, the ties between them, and how the head joins their CLS vectors.

    `modality` "text" or "vision" leaves the other stream out: a unimodal baseline, which has no ties.

    Raises:
        ValueError: a unimodal network is given ties.
    """

    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    vision: VisionEncoderConfig = field(default_factory=VisionEncoderConfig)
    coattention: CoAttentionConfig = field(default_factory=CoAttentionConfig)
    placement: Placement = field(default_factory=Placement)
    join: Join = "concat"
    modality: Modality = "both"

    def __post_init__(self) -> None:
        if self.modality != "both" and self.placement.pairs:
            raise ValueError(f"a {self.modality}-only network has no ties; got {self.placement}")

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits that are equal exactly for equal networks."""
        parts = asdict(self)
        if self.modality != "both" or not self.placement.pairs:
            parts["coattention"] = None
        if self.modality != "both":
            parts["join"] = None
            parts["vision" if self.modality == "text" else "text"] = None
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """What tells this network from its siblings: "t1-v1 t3-v3 · product"."""
        if self.modality != "both":
            return f"{self.modality} only"
        return f"{self.placement} · {self.join}"
