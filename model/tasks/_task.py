"""What a downstream task is: how wide its head is, its loss, its metrics, and which of them selects.

A task is a file of this folder with a class named in its module constant `TASK`; `load_task` finds it by
the file's name, so that adding one is adding a file.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from data.manifest import LabelColumn


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that a task reports: its name, its direction and its range."""

    name: str
    higher_is_better: bool = True
    low: float = 0.0
    high: float = 1.0


class Task(Protocol):
    """A downstream problem. `selection` picks epochs and networks, and is what reports lead with."""

    selection: Metric
    text_column: str
    num_outputs: int

    def loss(self, logits_BC: Tensor, labels: Mapping[str, Tensor]) -> Tensor:
        """The mean loss of a batch, a scalar."""
        ...

    def metrics(self, logits_NC: Tensor, labels: Mapping[str, Tensor]) -> dict[str, float]:
        """Every metric over a whole split, the selection metric among them."""
        ...


def task_names() -> tuple[str, ...]:
    """The tasks there are, by file name."""
    names = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    return tuple(sorted(name for name in names if not name.startswith("_")))


def load_task(name: str, label_columns: tuple[LabelColumn, ...]) -> Task:
    """The task of that file name, for a data set with these labels.

    Raises:
        ValueError: there is no such task, or the data set lacks the labels that it reads.
    """
    if name not in task_names():
        raise ValueError(f"no task is called {name!r}; there are {', '.join(task_names())}")
    return importlib.import_module(f"model.tasks.{name}").TASK(label_columns)
