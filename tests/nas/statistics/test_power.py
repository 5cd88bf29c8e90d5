import math

import numpy as np
import pytest

from nas.statistics import holm, minimum_detectable_difference, paired_difference, seeds_needed


def test_textbook_sample_size() -> None:
    """A paired t test for an effect of half a standard deviation at 80 % power needs 34 pairs (G*Power)."""
    assert seeds_needed(sd=1.0, difference=0.5) == 34
    assert seeds_needed(sd=1.0, difference=-0.5) == 34


def test_detectable_difference_is_detected_as_often_as_said() -> None:
    sd, n = 0.01, 5
    difference = minimum_detectable_difference(sd, n)
    pairs = np.random.default_rng(0).normal(difference, sd, size=(2000, n))
    share = np.mean([paired_difference(p, np.zeros(n)).p_value < 0.05 for p in pairs])
    assert share == pytest.approx(0.8, abs=0.03)


def test_more_seeds_show_less_and_one_shows_nothing() -> None:
    detectable = [minimum_detectable_difference(0.01, n) for n in (1, 2, 3, 5, 20, 1000)]
    assert detectable[0] == math.inf
    assert detectable == sorted(detectable, reverse=True)
    assert detectable[-1] < 0.001
    assert minimum_detectable_difference(0.01, 5, power=0.9) > minimum_detectable_difference(0.01, 5)


def test_seeds_needed_is_the_first_that_suffices() -> None:
    for difference in (0.03, 0.01, 0.004):
        n = seeds_needed(0.01, difference)
        assert n is not None
        assert minimum_detectable_difference(0.01, n) <= difference
        assert minimum_detectable_difference(0.01, n - 1) > difference


def test_no_number_of_seeds_shows_no_difference() -> None:
    assert seeds_needed(0.01, 0.0) is None
    assert seeds_needed(0.01, 1e-9) is None
    assert seeds_needed(0.0, 0.1) == 2


@pytest.mark.parametrize(
    ("sd", "n", "power", "message"),
    [(math.nan, 5, 0.8, "takes two runs"), (0.1, 0, 0.8, "at least 1"), (0.1, 5, 80, "between")],
)
def test_unusable_questions_are_refused(sd: float, n: int, power: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        minimum_detectable_difference(sd, n, power)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    adjusted = holm([0.02, math.nan, 0.5])
    assert adjusted[0] == 0.04
    assert math.isnan(adjusted[1])
    assert holm([]) == []
