"""A searcher that searches nothing: it hands out given trials in their order."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from nas.search.stage import TrialSpec


class ListedTrials(Searcher):
    """Tune's grid search takes only plain values; a spec is an object."""

    def __init__(self, specs: Sequence[TrialSpec]) -> None:
        super().__init__()
        self._waiting = list(specs)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        return {"spec": self._waiting.pop(0)} if self._waiting else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Nothing is learnt from a trial here."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the trial log holds what a resumed run reads."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""
