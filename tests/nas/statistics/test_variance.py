import math

import numpy as np
import pytest
from scipy import stats

from nas.statistics import variance_components


def test_components_by_hand() -> None:
    """Networks with values (1, 3) and (5, 7): MS within 2, MS between 16, n0 2, so between = 7."""
    components = variance_components({"t1-v1": [1, 3], "t3-v3": [5, 7]})
    assert components.within == 2
    assert components.between == 7
    assert components.share == pytest.approx(7 / 9)
    assert components.within_sd == pytest.approx(math.sqrt(2))
    assert (components.num_networks, components.num_values) == (2, 4)
    assert components.p_value == pytest.approx(stats.f_oneway([1, 3], [5, 7]).pvalue)


def test_planted_variances_are_found_with_unequal_numbers_of_seeds() -> None:
    rng = np.random.default_rng(0)
    groups = [rng.normal(rng.normal(0, 2), 1, size=n) for n in rng.integers(1, 6, size=3000)]
    components = variance_components(groups)
    assert components.between == pytest.approx(4, rel=0.1)
    assert components.within == pytest.approx(1, rel=0.05)


def test_noise_alone_has_no_share() -> None:
    rng = np.random.default_rng(1)
    components = variance_components(rng.normal(0, 1, size=(200, 4)))
    assert components.share < 0.1
    assert components.p_value > 0.01
    assert variance_components([[1, 3], [2, 2]]).between == 0  # the estimator would be negative


def test_what_the_data_cannot_tell_is_nan() -> None:
    no_replicates = variance_components([[0.1], [0.2], [0.3]])
    assert math.isnan(no_replicates.within)
    assert math.isnan(no_replicates.share)
    one_network = variance_components([[0.1, 0.2], []])
    assert one_network.within == pytest.approx(0.005)
    assert math.isnan(one_network.between)
    with pytest.raises(ValueError, match="at least one value"):
        variance_components([])
    with pytest.raises(ValueError, match="failed run"):
        variance_components([[0.1, math.nan]])
