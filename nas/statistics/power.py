"""How small a difference so many seeds can show, and how many seeds a difference needs.

Both ask the two-sided paired t test (`paired_difference`), whose power at a true mean difference d over n
pairs of standard deviation sd follows the noncentral t distribution with noncentrality d sqrt(n) / sd.
`sd` is that of the *differences*; for unpaired runs of equal noise s it is s sqrt(2).

    >>> round(minimum_detectable_difference(sd=0.010, n=5), 4)
    0.0168
    >>> seeds_needed(sd=0.010, difference=0.005)
    34
"""

import math

from scipy import optimize, stats


def minimum_detectable_difference(sd: float, n: int, power: float = 0.8, confidence: float = 0.95) -> float:
    """The true difference that n pairs would find significant with probability `power`; infinite for n = 1.

    Raises:
        ValueError: a negative or non-finite sd, n < 1, or a power not between 1 - confidence and 1.
    """
    _check(sd, power, confidence)
    if n < 1:
        raise ValueError(f"a number of seeds is at least 1; got {n}")
    if n == 1:
        return math.inf
    return sd / math.sqrt(n) * _noncentrality(n, power, confidence)


def seeds_needed(
    sd: float, difference: float, power: float = 0.8, confidence: float = 0.95, max_seeds: int = 10_000
) -> int | None:
    """The fewest pairs that detect a true difference of that size; None if more than `max_seeds`.

    Raises:
        ValueError: as `minimum_detectable_difference`, or a difference that is not finite.
    """
    _check(sd, power, confidence)
    if not math.isfinite(difference):
        raise ValueError(f"a difference must be finite; got {difference}")

    def is_enough(n: int) -> bool:
        return minimum_detectable_difference(sd, n, power, confidence) <= abs(difference)

    if difference == 0 or not is_enough(max_seeds):
        return None
    low, high = 1, max_seeds  # low is too few, high is enough; what is detectable falls with n
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def _noncentrality(n: int, power: float, confidence: float) -> float:
    df, critical = n - 1, float(stats.t.ppf((1 + confidence) / 2, df=n - 1))

    def surplus(noncentrality: float) -> float:
        # The far tail, rejecting on the wrong side, is left out: at these powers it is below 1e-6.
        return float(stats.nct.sf(critical, df, noncentrality)) - power

    high = critical
    while surplus(high) < 0:
        high *= 2
    return optimize.root_scalar(surplus, bracket=(0.0, high)).root


def _check(sd: float, power: float, confidence: float) -> None:
    if not (sd >= 0 and math.isfinite(sd)):
        raise ValueError(
            f"a standard deviation is a number from 0 up; got {sd}: it takes two runs to know it"
        )
    if not 0 < confidence < 1 or not 1 - confidence < power < 1:
        raise ValueError(f"power lies between 1 - confidence and 1; got {power} at confidence {confidence}")
