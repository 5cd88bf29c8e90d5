"""`rungs.py` as a scheduler of Ray Tune."""

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from nas.objectives import Objective
from nas.search.rungs import Rungs


class RungScheduler(FIFOScheduler):
    """Stops a trial at a rung that it does not pass. Ray's own ASHA never stops a NaN, forgets its rungs when
    a search is resumed, and draws from the global random generator; `Rungs` does none of that."""

    def __init__(self, rungs: Rungs, objective: Objective) -> None:
        super().__init__()
        self._rungs = rungs
        self._objective = objective

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict) -> str:
        if result["is_final"]:
            return TrialScheduler.CONTINUE
        name = trial.config["spec"].trial
        score = self._objective.gain(result[self._objective.name])
        goes_on = self._rungs.goes_on(name, epoch=result["epoch"], score=score)
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP
