"""Confidence intervals of means, shares and paired differences.

    >>> print(mean_interval([0.70, 0.72, 0.74]))
    0.7200 [0.6703, 0.7697] (n = 3)
    >>> print(mean_interval([0.70]))
    0.7000 [unknown] (n = 1)

One run has no spread, so its interval is everything, not a point: it is never distinguishable from anything.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

Values = Sequence[float] | np.ndarray


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and its confidence interval. `low` and `high` are infinite where n = 1 leaves them unknown.

    `sd` is the standard deviation of one value (n - 1 in the denominator); NaN where n = 1.
    """

    mean: float
    low: float
    high: float
    n: int
    sd: float
    confidence: float = 0.95

    @property
    def is_known(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        bounds = f"{self.low:.4f}, {self.high:.4f}" if self.is_known else "unknown"
        return f"{self.mean:.4f} [{bounds}] (n = {self.n})"


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """The mean of a - b over pairs, and the two-sided p value of "there is no difference" (NaN if n = 1)."""

    interval: Interval
    p_value: float


def is_distinguishable(interval: Interval) -> bool:
    """Whether the interval of a difference is known and leaves 0 out."""
    return interval.is_known and not interval.low <= 0 <= interval.high


def mean_interval(values: Values, confidence: float = 0.95) -> Interval:
    """The mean of independent runs with its Student t interval.

    Exact for normal values, at any n from 2. Values that are all equal give zero width.

    Raises:
        ValueError: no values, a value that is not finite, or a confidence outside (0, 1).
    """
    numbers = _checked(values, confidence)
    n, mean = len(numbers), float(numbers.mean())
    if n == 1:
        return _unknown(mean, confidence)
    sd = float(numbers.std(ddof=1))
    half_width = float(stats.t.ppf((1 + confidence) / 2, df=n - 1)) * sd / math.sqrt(n)
    return Interval(
        mean=mean, low=mean - half_width, high=mean + half_width, n=n, sd=sd, confidence=confidence
    )


def paired_difference(
    a: Values | Mapping[int, float], b: Values | Mapping[int, float], confidence: float = 0.95
) -> PairedDifference:
    """The difference a - b of two networks run with the same seeds: the t interval and test of the pairs.

    a and b are in the same order of seeds, or map seed to value; of mappings the seeds that both have are
    compared (`interval.n` tells how many). Pairing removes what a seed does to both networks alike.

    Raises:
        ValueError: sequences of unequal length, mappings without a common seed, or values not finite.
    """
    a_values, b_values = _pairs(a, b)
    interval = mean_interval(a_values - b_values, confidence)
    if interval.n == 1:
        p_value = math.nan
    elif interval.sd == 0:  # t is 0/0 or infinite
        p_value = 1.0 if interval.mean == 0 else 0.0
    else:
        t = interval.mean / (interval.sd / math.sqrt(interval.n))
        p_value = float(2 * stats.t.sf(abs(t), df=interval.n - 1))
    return PairedDifference(interval=interval, p_value=p_value)


def proportion_interval(num_right: int, n: int, confidence: float = 0.95) -> Interval:
    """A share of n independent rows (an accuracy) with its Wilson score interval.

    This is the noise of the test rows alone: it says nothing about what another seed would give.

    Raises:
        ValueError: not 0 <= num_right <= n, or n < 1.
    """
    if not (n >= 1 and 0 <= num_right <= n):
        raise ValueError(f"a share needs 0 <= right answers <= rows and rows >= 1; got {num_right} of {n}")
    _check_confidence(confidence)
    wilson = stats.binomtest(int(num_right), int(n)).proportion_ci(confidence, method="wilson")
    share = num_right / n
    # The n / (n - 1) makes it the sample standard deviation of the 0/1 values, as in `Interval`.
    sd = math.sqrt(share * (1 - share) * n / (n - 1)) if n > 1 else math.nan
    return Interval(
        mean=share, low=float(wilson.low), high=float(wilson.high), n=n, sd=sd, confidence=confidence
    )


def bootstrap_interval(
    values: Values,
    statistic: Callable[[np.ndarray], float] = np.mean,
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    num_resamples: int = 2000,
) -> Interval:
    """A statistic of a sample with its percentile bootstrap interval; `mean` holds the statistic.

    For what has no formula (a median, a correlation of rows [n, 2]); too narrow below n of about 20, so
    take `mean_interval` for means over seeds. Rows of a 2-d array are resampled whole.

    Raises:
        ValueError: no values, a value that is not finite, or a confidence outside (0, 1).
    """
    rows = _checked(values, confidence)
    estimate, n = float(statistic(rows)), len(rows)
    if n == 1:
        return _unknown(estimate, confidence)
    estimates = [statistic(rows[rng.integers(n, size=n)]) for _ in range(num_resamples)]
    low, high = np.quantile(estimates, [(1 - confidence) / 2, (1 + confidence) / 2])
    sd = float(rows.std(ddof=1)) if rows.ndim == 1 else math.nan
    return Interval(mean=estimate, low=float(low), high=float(high), n=n, sd=sd, confidence=confidence)


def _unknown(mean: float, confidence: float) -> Interval:
    return Interval(mean=mean, low=-math.inf, high=math.inf, n=1, sd=math.nan, confidence=confidence)


def _pairs(a: Values | Mapping[int, float], b: Values | Mapping[int, float]) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(a, Mapping) != isinstance(b, Mapping):
        raise ValueError("pairs are two sequences or two mappings from seed to value; got one of each")
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        seeds = [seed for seed in a if seed in b]
        if not seeds:
            raise ValueError(
                f"no seed is common to both: {sorted(a)} and {sorted(b)}; run them with the same"
            )
        a, b = [a[seed] for seed in seeds], [b[seed] for seed in seeds]
    if len(a) != len(b):
        raise ValueError(f"pairs need one value a seed on both sides; got {len(a)} and {len(b)} values")
    return np.asarray(a, dtype=float), np.asarray(b, dtype=float)


def _checked(values: Values, confidence: float) -> np.ndarray:
    _check_confidence(confidence)
    numbers = np.asarray(values, dtype=float)
    if numbers.shape[:1] in ((), (0,)):
        raise ValueError("an interval needs at least one value; got none")
    if not np.isfinite(numbers).all():
        raise ValueError(
            f"values must be finite; got {numbers.tolist()}: a failed run has no score, leave it out"
        )
    return numbers


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1, as 0.95 does; got {confidence}")
