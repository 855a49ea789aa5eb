"""Shares of patients with intervals: against scipy, with weights."""

import numpy as np
import pytest
from scipy import stats

from qspjax.population import share


@pytest.mark.parametrize(("count", "size"), [(0, 5), (5, 5), (8, 10), (37, 200)])
def test_intervals_are_wilsons(count, size):
    found = share(np.arange(size) < count, level=0.9)
    wanted = stats.binomtest(count, size).proportion_ci(0.9, method="wilson")
    np.testing.assert_allclose(found, [count / size, wanted.low, wanted.high], atol=1e-14)


def test_weights_count_by_their_ratios():
    responded, weights = np.array([1.0, 0.0, 1.0, np.nan, 0.0]), np.array([2.0, 1.0, 0.0, 9.0, 1.0])
    found = share(responded, weights=weights)
    assert found.estimate == 0.5
    np.testing.assert_allclose(share(responded, weights=7.0 * weights), found, rtol=1e-14)
    np.testing.assert_allclose(share(responded[:3], weights=[3.0] * 3), share(responded[:3]), rtol=1e-14)
    wanted = stats.norm.ppf(0.975)
    size = 16.0 / 6.0  # effective: (2 + 1 + 1)^2 / (4 + 1 + 1)
    centre = found.estimate - 0.5  # the interval of one half lies about it
    half = wanted * np.sqrt(0.25 / size + wanted**2 / (4 * size**2)) / (1 + wanted**2 / size)
    np.testing.assert_allclose([centre, found.high - 0.5, 0.5 - found.low], [0.0, half, half], atol=1e-14)


def test_nobody_and_wrong_data():
    assert all(np.isnan(share([np.nan])))
    with pytest.raises(ValueError, match="`responded` must be true or false for each patient"):
        share([0.3])
    with pytest.raises(ValueError, match="`weights` must have a number of at least 0 for each patient .1."):
        share([1.0], weights=[1.0, 2.0])
    with pytest.raises(ValueError, match="`level` must be between 0 and 1"):
        share([1.0], level=95)
