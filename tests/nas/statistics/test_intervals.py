import math

import numpy as np
import pytest
from scipy import stats

from nas.statistics import (
    bootstrap_interval,
    is_distinguishable,
    mean_interval,
    paired_difference,
    proportion_interval,
)


def test_mean_interval_is_student_t() -> None:
    """By hand: mean 3, sd sqrt(2.5), half width 2.7764 * sqrt(2.5 / 5)."""
    interval = mean_interval([1, 2, 3, 4, 5])
    assert interval.mean == 3
    assert interval.sd == pytest.approx(math.sqrt(2.5))
    assert interval.half_width == pytest.approx(2.7764 * math.sqrt(0.5), abs=1e-4)
    assert interval.n == 5
    assert mean_interval([1, 2, 3, 4, 5], confidence=0.9).half_width < interval.half_width


def test_ninety_five_percent_of_intervals_hold_the_true_mean() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(10, 3, size=(2000, 3))
    intervals = [mean_interval(draw) for draw in draws]
    assert np.mean([i.low <= 10 <= i.high for i in intervals]) == pytest.approx(0.95, abs=0.015)


def test_one_run_says_that_it_knows_no_spread() -> None:
    interval = mean_interval([0.7])
    assert (interval.mean, interval.low, interval.high) == (0.7, -math.inf, math.inf)
    assert math.isnan(interval.sd)
    assert not interval.is_known
    assert not is_distinguishable(interval)
    assert str(interval) == "0.7000 [unknown] (n = 1)"
    assert str(mean_interval([0.70, 0.72, 0.74])) == "0.7200 [0.6703, 0.7697] (n = 3)"


@pytest.mark.parametrize(
    ("values", "confidence", "message"),
    [
        ([], 0.95, "at least one value"),
        ([0.1, math.nan], 0.95, "finite"),
        ([0.1, 0.2], 95, "between 0 and 1"),
    ],
)
def test_unusable_values_are_refused(values: list[float], confidence: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mean_interval(values, confidence)


def test_paired_difference_agrees_with_scipy_and_beats_the_unpaired_one() -> None:
    """Seeds shift both networks alike, so the pairs show what the two intervals apart would hide."""
    a, b = [0.71, 0.75, 0.69, 0.80], [0.69, 0.735, 0.67, 0.775]
    difference = paired_difference(a, b)
    assert difference.p_value == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert difference.interval.mean == pytest.approx(0.02)
    assert is_distinguishable(difference.interval)
    assert mean_interval(a).low < mean_interval(b).high


def test_interval_and_p_value_give_the_same_verdict() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        difference = paired_difference(rng.normal(0.02, 0.02, 4), rng.normal(0, 0.02, 4))
        assert is_distinguishable(difference.interval) == (difference.p_value < 0.05)


def test_pairs_are_matched_by_seed_where_seeds_are_given() -> None:
    difference = paired_difference({1: 0.5, 2: 0.6, 3: 0.9}, {2: 0.5, 1: 0.4})
    assert difference.interval.n == 2
    assert difference.interval.mean == pytest.approx(0.1)
    with pytest.raises(ValueError, match="no seed is common"):
        paired_difference({1: 0.5}, {2: 0.5})
    with pytest.raises(ValueError, match="got 2 and 1 values"):
        paired_difference([0.1, 0.2], [0.1])
    with pytest.raises(ValueError, match="one of each"):
        paired_difference([0.1, 0.2], {1: 0.1})


def test_differences_without_spread() -> None:
    assert math.isnan(paired_difference([0.7], [0.6]).p_value)
    assert paired_difference([0.5, 0.5], [0.5, 0.5]).p_value == 1
    assert not is_distinguishable(paired_difference([0.5, 0.5], [0.5, 0.5]).interval)
    assert paired_difference([0.75, 0.75], [0.5, 0.5]).p_value == 0


def test_share_of_rows_has_a_wilson_interval() -> None:
    """Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662."""
    interval = proportion_interval(81, 263)
    assert (interval.low, interval.high) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert interval.mean == pytest.approx(81 / 263)
    all_right = proportion_interval(10, 10)
    assert all_right.low < 0.8
    assert all_right.high == 1
    with pytest.raises(ValueError, match="11 of 10"):
        proportion_interval(11, 10)


def test_bootstrap_agrees_with_t_for_a_mean_and_resamples_rows_whole() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(0, 1, 100)
    exact, resampled = mean_interval(values), bootstrap_interval(values, rng=rng)
    assert resampled.low == pytest.approx(exact.low, abs=0.05)
    assert resampled.high == pytest.approx(exact.high, abs=0.05)
    rows = np.stack([values, 2 * values], axis=1)
    correlation = bootstrap_interval(rows, lambda r: float(np.corrcoef(r.T)[0, 1]), rng=rng, num_resamples=50)
    assert correlation.low == pytest.approx(1)
    assert not bootstrap_interval([1.0], rng=rng).is_known
