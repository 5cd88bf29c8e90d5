"""A metric of the downstream task, on validation rows."""

from dataclasses import dataclass
from typing import Literal

from nas.objectives._objective import Objective


@dataclass(frozen=True, kw_only=True)
class TaskMetric(Objective):
    """The metric `name` of the task; accuracy by default."""

    name: str = "accuracy"
    direction: Literal["max", "min"] = "max"
