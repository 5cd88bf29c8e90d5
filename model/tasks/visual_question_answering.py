"""Answering a question about an image, as a choice among the answers of the training data."""

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from data.manifest import NO_LABEL, LabelColumn
from model.tasks._task import Metric


class VisualQuestionAnswering:
    """One answer out of C; cross entropy; accuracy selects. Rows whose answer is not known do not count.

    Raises:
        ValueError: the data set has no label column `answer`, or one with several classes a row.
    """

    selection = Metric(name="accuracy")
    text_column = "text"

    def __init__(self, label_columns: tuple[LabelColumn, ...]) -> None:
        answer = next((column for column in label_columns if column.name == "answer"), None)
        if answer is None:
            present = ", ".join(column.name for column in label_columns) or "none"
            raise ValueError(
                f"visual question answering needs a label column 'answer'; the data set has {present}"
            )
        if answer.kind != "class":
            raise ValueError(
                f"visual question answering needs one answer a row; the column 'answer' is of kind {answer.kind!r}"
            )
        self.num_outputs = answer.num_classes

    def loss(self, logits_BC: Tensor, labels: Mapping[str, Tensor]) -> Tensor:
        return F.cross_entropy(logits_BC.float(), labels["answer"], ignore_index=NO_LABEL)

    def metrics(self, logits_NC: Tensor, labels: Mapping[str, Tensor]) -> dict[str, float]:
        is_known_N = labels["answer"] != NO_LABEL
        is_right_N = (logits_NC.argmax(-1) == labels["answer"])[is_known_N]
        return {
            "accuracy": is_right_N.float().mean().item(),
            "loss": self.loss(logits_NC, labels).item(),
        }


TASK = VisualQuestionAnswering
