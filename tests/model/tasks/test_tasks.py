"""Every task keeps the contract; an unknown one lists those that there are."""

import pytest
import torch

from data.manifest import NO_LABEL, LabelColumn
from model.tasks._task import Metric, load_task, task_names

ANSWER = LabelColumn(name="answer", class_names=("no", "yes", "red"))


def test_an_unknown_task_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no task is called 'vqa'; there are .*visual_question_answering"):
        load_task("vqa", ())


def test_machinery_is_no_task() -> None:
    assert "visual_question_answering" in task_names()
    assert not [name for name in task_names() if name.startswith("_")]


class TestVisualQuestionAnswering:
    task = load_task("visual_question_answering", (ANSWER,))

    def test_contract(self) -> None:
        assert self.task.num_outputs == 3
        assert self.task.selection == Metric(name="accuracy", higher_is_better=True, low=0.0, high=1.0)
        assert self.task.text_column == "text"

    def test_metrics_by_hand(self) -> None:
        logits_NC = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 1.0], [5.0, 0.0, 0.0]])
        metrics = self.task.metrics(logits_NC, {"answer": torch.tensor([0, 1, 0, 2])})
        assert metrics["accuracy"] == 0.5
        assert metrics["loss"] == pytest.approx((0.2395 + 0.0949 + 1.5514 + 5.0134) / 4, abs=1e-3)

    def test_guessing_evenly_costs_the_logarithm_of_the_classes(self) -> None:
        loss = self.task.loss(torch.zeros(4, 3), {"answer": torch.tensor([0, 1, 2, 0])})
        assert loss.item() == pytest.approx(1.0986, abs=1e-4)

    def test_unknown_answers_do_not_count(self) -> None:
        logits_NC = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
        known = self.task.metrics(logits_NC[:1], {"answer": torch.tensor([0])})
        assert self.task.metrics(logits_NC, {"answer": torch.tensor([0, NO_LABEL])}) == known

    def test_half_precision_logits_are_scored_in_full(self) -> None:
        loss = self.task.loss(torch.zeros(1, 3, dtype=torch.bfloat16), {"answer": torch.tensor([0])})
        assert loss.dtype == torch.float32

    def test_data_without_answers_are_refused(self) -> None:
        genre = LabelColumn(name="genre", class_names=("drama",))
        with pytest.raises(ValueError, match="needs a label column 'answer'; the data set has genre"):
            load_task("visual_question_answering", (genre,))
        several = LabelColumn(name="answer", kind="multilabel", class_names=("a", "b"))
        with pytest.raises(ValueError, match="one answer a row"):
            load_task("visual_question_answering", (several,))
