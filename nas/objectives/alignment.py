"""How well the two streams' representations align, by one measure, on held-out rows."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from nas.objectives._objective import Objective, Outcome


@dataclass(frozen=True, kw_only=True)
class Alignment(Objective):
    """The alignment measure `name` between the streams.

    `where` "last" reads the last tap of both streams, "mean" averages over all pairs of taps, "max" takes
    the best pair. A network with one stream has no alignment: NaN.
    """

    name: str = "linear_cka_debiased"
    direction: Literal["max", "min"] = "max"
    where: Literal["last", "mean", "max"] = "last"

    def value(self, outcome: Outcome) -> float:
        if not outcome.alignment:
            return float("nan")
        if self.name not in outcome.alignment:
            raise ValueError(
                f"the objective {self.name!r} is not measured; add it to evaluation.measures "
                f"({', '.join(outcome.alignment)} are)"
            )
        matrix = np.asarray(outcome.alignment[self.name])
        return float({"last": matrix[-1, -1], "mean": matrix.mean(), "max": matrix.max()}[self.where])
