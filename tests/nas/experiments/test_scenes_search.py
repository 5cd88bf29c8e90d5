"""The planted truth: on scenes whose questions need ties, the search finds ties and the confirmation says so."""

import subprocess
import sys

import pytest

from cluster.connect import REPOSITORY_ROOT
from nas.search.records import read_trials
from nas.statistics import is_distinguishable, paired_difference


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_confirmed_placement_beats_both_heads_without_ties(tmp_path):
    command = [sys.executable, REPOSITORY_ROOT / "nas" / "run_search.py", "scenes_search"]
    smaller = [
        "hyperparameters.num_trials=2",
        "placement.num_trials=5",
        "confirmation.baselines=none_concat,none_product",
    ]
    subprocess.run([*command, *smaller, "--runs", tmp_path], cwd=tmp_path, check=True, timeout=2300)

    (log,) = tmp_path.glob("scenes_search-*/trials.jsonl")
    confirmed = [trial for trial in read_trials(log) if trial.stage == "confirm"]
    best = {trial.seed: trial.test["accuracy"] for trial in confirmed if trial.role == "finalist"}
    assert len(best) == 3
    for label in ("no ties, concatenated", "no ties, multiplied"):
        without = {trial.seed: trial.test["accuracy"] for trial in confirmed if trial.label == label}
        difference = paired_difference(best, without).interval
        assert is_distinguishable(difference), f"{label}: {difference}"
        assert difference.low > 0, f"{label}: {difference}"
