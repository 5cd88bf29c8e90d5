"""What the tests of model/ share: tiny networks, and batches of random words and pixels for them."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from data.batch import ImageTextBatch
from data.text import WordTokenizer
from model.network_config import CoAttentionConfig, NetworkConfig, TextEncoderConfig, VisionEncoderConfig
from model.placement import Placement
from model.vilbert import TwoStream, build_two_stream

WORDS = [f"word{i}" for i in range(20)]
NUM_CLASSES = 3

TINY = NetworkConfig(
    text=TextEncoderConfig(depth=2, width=16, heads=2, feedforward_ratio=2, max_length=12),
    vision=VisionEncoderConfig(depth=2, width=16, heads=2, feedforward_ratio=2, image_size=16, patch_size=8),
    coattention=CoAttentionConfig(heads=2, width=8),
    placement=Placement.parse("t0-v1 t1-v1 t2-v2"),
)


@pytest.fixture(scope="session")
def tokenizer() -> WordTokenizer:
    return WordTokenizer.from_texts(WORDS)


@pytest.fixture
def tiny() -> NetworkConfig:
    """Two streams of two layers, unequal only where a test makes them so, and three ties."""
    return TINY


@pytest.fixture
def build(tokenizer: WordTokenizer) -> Callable[..., TwoStream]:
    """build(config=…, gates=1.0, seed=0, **changes of the config): a network in evaluation mode, its gates open so far."""

    def make(config: NetworkConfig = TINY, *, gates: float = 0.0, seed: int = 0, **changes) -> TwoStream:
        torch.manual_seed(seed)
        network = build_two_stream(
            replace(config, **changes), vocabulary_size=tokenizer.vocabulary_size, pad_id=tokenizer.pad_id
        )
        for name, parameter in network.named_parameters():
            if name.endswith("opening_D"):
                torch.nn.init.constant_(parameter, gates)
        return network.eval()

    return make


@pytest.fixture
def make_batch(tokenizer: WordTokenizer) -> Callable[..., ImageTextBatch]:
    """make_batch(rows, lengths=…, padding=…): random words of the given lengths (with [CLS] and [SEP]), random pixels."""

    def make(
        rows: int = 4, *, lengths: list[int] | None = None, padding: int = 0, size: int = 16, seed: int = 0
    ) -> ImageTextBatch:
        generator = torch.Generator().manual_seed(seed)
        lengths = lengths or [6] * rows
        rows = len(lengths)
        longest = max(lengths) + padding
        first_word = len(tokenizer.special_ids)
        ids_BT = torch.full((rows, longest), tokenizer.pad_id)
        for row, length in enumerate(lengths):
            words = torch.randint(first_word, tokenizer.vocabulary_size, (length - 2,), generator=generator)
            ids_BT[row, :length] = torch.tensor([tokenizer.cls_id, *words, tokenizer.sep_id])
        return ImageTextBatch(
            images_BCHW=torch.randint(0, 256, (rows, 3, size, size), dtype=torch.uint8, generator=generator),
            token_ids_BT=ids_BT,
            text_mask_BT=torch.arange(longest) < torch.tensor(lengths)[:, None],
            labels={"answer": torch.randint(0, NUM_CLASSES, (rows,), generator=generator)},
            ids=[f"row-{i}" for i in range(rows)],
        )

    return make
