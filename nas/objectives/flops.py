"""What one forward pass of a row costs, by the analytic count of `model/cost.py`."""

from dataclasses import dataclass
from typing import Literal

from nas.objectives._objective import Objective


@dataclass(frozen=True, kw_only=True)
class Flops(Objective):
    """Floating-point operations of one forward pass, a row."""

    name: str = "flops"
    direction: Literal["max", "min"] = "min"
    unit: str = "FLOP"
