"""What a network is worth on held-out rows: task metrics, and how well its streams' states align."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from data.decoded_split import DecodedSplit
from model.alignment._suite import measure_layers
from model.training.finetuning import FineTuning
from model.vilbert import Pooling, TwoStream


@torch.no_grad()
def evaluate_task(
    trainee: FineTuning, rows: DecodedSplit, *, device: torch.device, batch_size: int = 500
) -> dict[str, float]:
    """The task's metrics over all of `rows`, with dropout off."""
    trainee.eval()
    logits: list[Tensor] = []
    labels: list[dict[str, Tensor]] = []
    for batch in rows.batches(batch_size, shuffle=False):
        logits.append(trainee(batch.to(device)).float().cpu())
        labels.append({name: values.cpu() for name, values in batch.labels.items()})
    merged = {name: torch.cat([part[name] for part in labels]) for name in labels[0]}
    return trainee.task.metrics(torch.cat(logits), merged)


@torch.no_grad()
def tap_features(
    network: TwoStream,
    rows: DecodedSplit,
    *,
    device: torch.device,
    pooling: Pooling = "cls",
    batch_size: int = 500,
) -> tuple[Tensor, Tensor]:
    """Pooled states of every tap: text [L, N, D_t] and vision [M, N, D_v], on the CPU in float32.

    Raises:
        ValueError: the network has one stream only.
    """
    if network.text is None or network.vision is None:
        raise ValueError("alignment is between two streams; this network has one")
    network.eval()
    text: list[Tensor] = []
    vision: list[Tensor] = []
    for batch in rows.batches(batch_size, shuffle=False):
        batch = batch.to(device)
        output = network(batch.token_ids_BT, batch.text_mask_BT, batch.images_BCHW, taps=pooling)
        assert output.text_taps_BLD is not None
        assert output.vision_taps_BLD is not None
        text.append(output.text_taps_BLD.float().cpu())
        vision.append(output.vision_taps_BLD.float().cpu())
    return torch.cat(text).transpose(0, 1), torch.cat(vision).transpose(0, 1)


def measure_alignment(
    network: TwoStream,
    rows: DecodedSplit,
    measures: Sequence[str],
    *,
    device: torch.device,
    pooling: Pooling = "cls",
) -> dict[str, np.ndarray]:
    """Each measure between every text tap and every vision tap: {measure: [L, M]}.

    `rows` must be held out: alignment on training rows is not comparable between networks.
    """
    text_LND, vision_MND = tap_features(network, rows, device=device, pooling=pooling)
    return {name: matrix.numpy() for name, matrix in measure_layers(text_LND, vision_MND, measures).items()}
