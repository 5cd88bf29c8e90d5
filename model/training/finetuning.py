"""A network with a task's head, as something that the loop can train."""

import torch
from torch import Tensor, nn

from data.batch import ImageTextBatch
from model.fusion_head import FusionHead
from model.network_config import NetworkConfig
from model.tasks._task import Task
from model.vilbert import TwoStream


class FineTuning(nn.Module):
    """A two-stream network, the head that joins its streams, and the task that the head answers."""

    def __init__(self, network: TwoStream, config: NetworkConfig, task: Task) -> None:
        super().__init__()
        self.network = network
        self.head = FusionHead(network, config, num_outputs=task.num_outputs)
        self.task = task

    def forward(self, batch: ImageTextBatch) -> Tensor:
        """Logits [B, C]."""
        return self.head(self.network(batch.token_ids_BT, batch.text_mask_BT, batch.images_BCHW))

    def losses(self, batch: ImageTextBatch, generator: torch.Generator) -> dict[str, Tensor]:
        return {"loss": self.task.loss(self(batch), batch.labels)}
