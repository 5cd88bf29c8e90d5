"""Asynchronous successive halving (Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning",
algorithm 2, in its stopping form), as a pure decision: who goes on past a rung?

    rungs = Rungs(first_epoch=2, reduction=3, last_epoch=20)
    rungs.levels                                          # (2, 6, 18)
    rungs.goes_on("a", epoch=2, score=0.7)                # True: the first one at a rung goes on
    rungs.goes_on("b", epoch=2, score=0.6)                # False: not among the best third of two
"""

import math
from collections.abc import Iterable

import numpy as np

from nas.search.records import TrialRecord


class Rungs:
    """What trials scored at each rung. Scores are gains: more is better; NaN never goes on.

    The last epoch is no rung: a trial that is about to end is left to end.

    Raises:
        ValueError: `reduction` is 1 or negative, or `first_epoch` is below 1.
    """

    def __init__(self, *, first_epoch: int, reduction: int, last_epoch: int) -> None:
        if reduction == 1 or reduction < 0:
            raise ValueError(f"stopping.reduction must be 0 (stop nothing) or at least 2; got {reduction}")
        if first_epoch < 1:
            raise ValueError(f"stopping.first_epoch must be at least 1; got {first_epoch}")
        self.reduction = reduction
        levels = []
        epoch = first_epoch
        while reduction and epoch < last_epoch:
            levels.append(epoch)
            epoch *= reduction
        self.levels = tuple(levels)
        self._scores: dict[int, dict[str, float]] = {level: {} for level in self.levels}

    def goes_on(self, trial: str, *, epoch: int, score: float) -> bool:
        """Whether a trial that has this score after this epoch goes on; notes the score."""
        if epoch not in self._scores:
            return True
        seen = self._scores[epoch]
        seen[trial] = score
        finite = [value for value in seen.values() if math.isfinite(value)]
        return math.isfinite(score) and score >= np.quantile(finite, 1 - 1 / self.reduction)

    def replay(self, trials: Iterable[TrialRecord], metric: str, sign: float) -> None:
        """Takes in what recorded trials scored, so that a resumed search stops by the same bar."""
        for trial in trials:
            for report in trial.reports:
                if report.epoch in self._scores:
                    self._scores[report.epoch][trial.trial] = sign * report.metrics.get(metric, math.nan)
