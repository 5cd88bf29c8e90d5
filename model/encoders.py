"""The two streams' encoders, opened up block by block so that ties can stand between the blocks.

Shapes: B rows, T text tokens, N image tokens (CLS and patches), H x W pixels, D a stream's width.
Each encoder has `depth`, `width`, `embed`, `blocks` and `final`; `vilbert.py` runs them.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from model import torchvision_guard  # noqa: F401  (must come before timm and transformers)
from model.network_config import TextEncoderConfig, VisionEncoderConfig

# isort: split
import timm
from timm.models.vision_transformer import VisionTransformer
from transformers import AutoModel, BertConfig, BertModel


class TextEncoder(nn.Module):
    """A BERT-family encoder; token 0 of its output is the CLS vector."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        if not (hasattr(bert, "embeddings") and hasattr(bert, "encoder") and hasattr(bert.encoder, "layer")):
            raise ValueError(
                f"the text encoder must be of the BERT family (embeddings, encoder.layer); "
                f"got {type(bert).__name__}"
            )
        self.embeddings = bert.embeddings
        self.blocks: nn.ModuleList = bert.encoder.layer
        self.width: int = bert.config.hidden_size
        self.vocabulary_size: int = bert.config.vocab_size
        self.max_length: int = bert.config.max_position_embeddings

    @property
    def depth(self) -> int:
        return len(self.blocks)

    def embed(self, token_ids_BT: Tensor, type_ids_BT: Tensor | None = None) -> Tensor:
        """Token ids [B, T] to embeddings [B, T, D].

        Raises:
            ValueError: a text is longer than the encoder has positions for.
        """
        if token_ids_BT.shape[1] > self.max_length:
            raise ValueError(
                f"a text of {token_ids_BT.shape[1]} tokens does not fit the encoder's {self.max_length} "
                f"positions; lower max_length of the tokenizer"
            )
        return self.embeddings(input_ids=token_ids_BT, token_type_ids=type_ids_BT)

    def run_block(self, index: int, x_BTD: Tensor, attends_B11T: Tensor) -> Tensor:
        """Block `index` on [B, T, D]; `attends_B11T` is True where a key may be attended to."""
        out = self.blocks[index](x_BTD, attention_mask=attends_B11T)
        return out[0] if isinstance(out, tuple) else out

    def final(self, x_BTD: Tensor) -> Tensor:
        """BERT's blocks end in a LayerNorm of their own: nothing more to do."""
        return x_BTD


class VisionEncoder(nn.Module):
    """A timm ViT that takes uint8 pixels and normalises them as its checkpoint was trained.

    Token 0 of its output is the CLS vector; `num_prefix_tokens` counts it and any register tokens.
    """

    def __init__(self, vit: VisionTransformer, *, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        if not getattr(vit, "has_class_token", False):
            raise ValueError("the vision encoder must have a class token: the heads read it")
        vit.reset_classifier(0)
        self.vit = vit
        self.width: int = vit.embed_dim
        self.num_prefix_tokens: int = vit.num_prefix_tokens
        # Kept as buffers: pixels travel as uint8 and become floats only here, on the training device.
        self.register_buffer("scale_C11", 1.0 / (255.0 * torch.tensor(std)).view(-1, 1, 1), persistent=False)
        self.register_buffer(
            "offset_C11", -(torch.tensor(mean) / torch.tensor(std)).view(-1, 1, 1), persistent=False
        )

    @property
    def blocks(self) -> nn.Sequential:
        """The transformer blocks, in order (they belong to `vit`, and are registered once)."""
        return self.vit.blocks

    @property
    def depth(self) -> int:
        return len(self.blocks)

    @property
    def num_patches(self) -> int:
        return self.vit.patch_embed.num_patches

    def normalise(self, images_BCHW: Tensor) -> Tensor:
        """uint8 pixels (0..255) to the float range that the checkpoint expects.

        Raises:
            ValueError: the pixels are not uint8 (normalising twice is the classic silent mistake).
        """
        if images_BCHW.dtype != torch.uint8:
            raise ValueError(f"images must be uint8 (0..255), not yet normalised; got {images_BCHW.dtype}")
        return images_BCHW.to(self.scale_C11.dtype) * self.scale_C11 + self.offset_C11

    def embed(
        self,
        images_BCHW: Tensor,
        *,
        masked_BN: Tensor | None = None,
        mask_token_D: Tensor | None = None,
    ) -> Tensor:
        """uint8 images to tokens [B, N, D]; patches where `masked_BN` is True become `mask_token_D`."""
        patches_BND = self.vit.patch_embed(self.normalise(images_BCHW))
        if masked_BN is not None:
            if mask_token_D is None:
                raise ValueError("masked patches need a mask token")
            patches_BND = torch.where(
                masked_BN.unsqueeze(-1), mask_token_D.to(patches_BND.dtype), patches_BND
            )
        return self.vit.norm_pre(self.vit.patch_drop(self.vit._pos_embed(patches_BND)))

    def run_block(self, index: int, x_BND: Tensor) -> Tensor:
        return self.blocks[index](x_BND)

    def final(self, x_BND: Tensor) -> Tensor:
        """The ViT's closing LayerNorm, without which its CLS vector is not what was trained."""
        return self.vit.norm(x_BND)


def build_text_encoder(config: TextEncoderConfig, *, vocabulary_size: int, pad_id: int = 0) -> TextEncoder:
    """The text encoder that `config` describes: random, or loaded from a hub name or a folder.

    Raises:
        ValueError: the checkpoint is not of the BERT family, or its vocabulary is smaller than the
            tokenizer's.
        FileNotFoundError: `source` looks like a path and is not there.
    """
    if config.source == "random":
        bert_config = BertConfig(
            vocab_size=vocabulary_size,
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            intermediate_size=config.width * config.feedforward_ratio,
            max_position_embeddings=config.max_length,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            pad_token_id=pad_id,
        )
        bert = BertModel(bert_config, add_pooling_layer=False)
        _initialise(bert)
        return TextEncoder(bert)
    _check_folder(config.source, field="text.source")
    bert = AutoModel.from_pretrained(
        config.source, hidden_dropout_prob=config.dropout, attention_probs_dropout_prob=config.dropout
    )
    if bert.config.vocab_size < vocabulary_size:
        raise ValueError(
            f"text.source={config.source!r} knows {bert.config.vocab_size} tokens but the tokenizer makes "
            f"{vocabulary_size}; use that checkpoint's own tokenizer"
        )
    return TextEncoder(bert)


def build_vision_encoder(config: VisionEncoderConfig) -> VisionEncoder:
    """The vision encoder that `config` describes; its normalisation is its checkpoint's own.

    Raises:
        ValueError: the checkpoint is no ViT with a class token.
        FileNotFoundError: `source` looks like a path and is not there.
    """
    if config.source == "random":
        vit = VisionTransformer(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            mlp_ratio=config.feedforward_ratio,
            num_classes=0,
            proj_drop_rate=config.dropout,
            attn_drop_rate=config.dropout,
        )
        _initialise(vit)
        return VisionEncoder(vit, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    _check_folder(config.source, field="vision.source")
    name = f"local-dir:{config.source}" if Path(config.source).is_dir() else config.source
    vit = timm.create_model(name, pretrained=True, img_size=config.image_size, num_classes=0)
    if not isinstance(vit, VisionTransformer):
        raise ValueError(f"vision.source={config.source!r} is a {type(vit).__name__}, not a timm ViT")
    # From the model, not from its name: a name falls back silently to ImageNet's mean and std.
    data = timm.data.resolve_model_data_config(vit)
    return VisionEncoder(vit, mean=data["mean"], std=data["std"])


def _initialise(encoder: nn.Module) -> None:
    """Weights of a random encoder, of unit variance per layer.

    BERT's and ViT's standard deviation of 0.02 suits widths near 768; at width 64 it leaves a network on
    a plateau for hundreds of steps (easy-VQA, 25 CPU-seconds: accuracy .69 with 0.02, .73 so).
    """
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)


def _check_folder(source: str, *, field: str) -> None:
    looks_like_path = source.startswith((".", "/", "~")) or Path(source).exists()
    if looks_like_path and not Path(source).expanduser().is_dir():
        raise FileNotFoundError(f"{field}={source!r}: no such folder; give a folder or a hub name")


def attends(mask_BT: Tensor) -> Tensor:
    """The attention mask [B, 1, 1, T] of a text mask [B, T] (True = a token, False = padding)."""
    return mask_BT[:, None, None, :]
