"""The head's three joins, on streams of unequal width, and a unimodal network's head."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from data.batch import ImageTextBatch
from model.fusion_head import FusionHead
from model.network_config import NetworkConfig, VisionEncoderConfig
from model.vilbert import TwoStream, TwoStreamOutput

Build = Callable[..., TwoStream]


@pytest.fixture
def unequal(tiny: NetworkConfig) -> NetworkConfig:
    return replace(tiny, vision=VisionEncoderConfig(depth=2, width=24, heads=2, image_size=16, patch_size=8))


@pytest.mark.parametrize("join", ["concat", "product", "sum"])
def test_what_the_classifier_reads(build: Build, unequal: NetworkConfig, join: str) -> None:
    network, config = build(unequal), replace(unequal, join=join)  # type: ignore[arg-type]
    head = FusionHead(network, config, num_outputs=3)
    assert head.text is not None
    assert head.vision is not None
    text_BD, vision_BD = torch.randn(5, 16), torch.randn(5, 24)
    text, vision = head.text(text_BD), head.vision(vision_BD)
    assert text.shape == vision.shape == (5, 24)
    joined = {"concat": torch.cat([text, vision], -1), "product": text * vision, "sum": text + vision}[join]
    out = TwoStreamOutput(text_BTD=text_BD[:, None], vision_BND=vision_BD[:, None])
    torch.testing.assert_close(head(out), head.classifier(joined))
    assert head(out).shape == (5, 3)


@pytest.mark.parametrize("modality", ["text", "vision"])
@pytest.mark.parametrize("join", ["concat", "product"])
def test_a_unimodal_head_reads_its_only_stream(
    build: Build, make_batch: Callable[..., ImageTextBatch], modality: str, join: str
) -> None:
    config = NetworkConfig(modality=modality, join=join)  # type: ignore[arg-type]
    network = build(config)
    head = FusionHead(network, config, num_outputs=3)
    batch = make_batch(size=64)
    logits_BC = head(network(batch.token_ids_BT, batch.text_mask_BT, batch.images_BCHW))
    assert logits_BC.shape == (4, 3)
    logits_BC.square().sum().backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []


def test_a_width_of_its_own(build: Build, tiny: NetworkConfig) -> None:
    head = FusionHead(build(), tiny, num_outputs=3, width=10)
    first = head.classifier[1]
    assert isinstance(first, nn.Linear)
    assert first.in_features == 20
