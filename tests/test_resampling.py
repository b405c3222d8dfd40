"""The bootstrap over clusters, and Holm's correction: laws, and outside implementations."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from eval.resampling import clustered_means
from eval.significance import holm
from feature_repo.errors import ConfigError, DataError

P_VALUES = [0.01, 0.04, 0.03, 0.005, 0.2, 0.04, 0.9, 0.0005]
#: multipletests(P_VALUES, method="holm")[1] of statsmodels 0.15.0
STATSMODELS = [0.06, 0.16, 0.15, 0.035, 0.4, 0.16, 0.9, 0.004]


def test_holm_is_that_of_statsmodels() -> None:
    assert holm(P_VALUES).tolist() == pytest.approx(STATSMODELS, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_holm_is_that_of_the_installed_statsmodels(seed: int) -> None:
    reason = "statsmodels, with which it is compared, is not installed"
    multitest = pytest.importorskip("statsmodels.stats.multitest", reason=reason)
    drawn = np.random.default_rng(seed).random(30) ** 3
    np.testing.assert_allclose(holm(drawn), multitest.multipletests(drawn, method="holm")[1], atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_the_closure_of_bonferroni(seed: int) -> None:
    """A hypothesis is as improbable as the least improbable set that holds it (Marcus, Peritz & Gabriel 1976)."""
    p = np.round(np.random.default_rng(seed).random(6) ** 2, 2)  # rounded: with ties
    closed = np.zeros(len(p))
    for size in range(1, len(p) + 1):
        for chosen in combinations(range(len(p)), size):
            together = min(1.0, size * p[list(chosen)].min())
            closed[list(chosen)] = np.maximum(closed[list(chosen)], together)
    assert holm(p).tolist() == pytest.approx(closed.tolist(), abs=1e-12)


def test_holm_of_nothing_and_of_nonsense() -> None:
    assert holm([]).tolist() == []
    with pytest.raises(DataError, match="between 0 and 1"):
        holm([0.1, 1.2])


def sample(seed: int, n: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.3, 1.0, (n, 2))


def test_rows_of_one_customer_are_drawn_together() -> None:
    """Each row four times over is no new knowledge: the interval stays, to the last bit."""
    values = sample(1)
    clusters = np.arange(len(values))
    once = clustered_means(values, clusters)
    again = clustered_means(np.tile(values, (4, 1)), np.tile(clusters, 4))
    np.testing.assert_allclose(again.resampled, once.resampled, atol=1e-12)
    loose = clustered_means(np.tile(values, (4, 1)), np.arange(4 * len(values)))
    # independent rows would have half the standard error; 4000 draws put about 2 % of noise on a width
    assert loose.resampled[:, 0].std() == pytest.approx(once.resampled[:, 0].std() / 2, rel=0.1)


def test_single_rows_have_the_standard_error_of_the_mean() -> None:
    values = sample(2)
    means = clustered_means(values, np.arange(len(values)), resamples=4000)
    assert means.observed.tolist() == pytest.approx(values.mean(axis=0).tolist(), abs=1e-12)
    expected = values[:, 0].std() / np.sqrt(len(values))
    assert means.resampled[:, 0].std() == pytest.approx(
        expected, rel=0.06
    )  # five standard errors, 1/√(2·4000) each
    interval = means.difference(0, 1)
    assert interval is not None
    assert interval.mean == pytest.approx(float((values[:, 0] - values[:, 1]).mean()), abs=1e-12)
    assert interval.p is not None and (interval.p < 0.05) == (0.0 not in interval)


def test_weights_and_missing_values_count_as_they_say() -> None:
    values = np.array([[1.0, np.nan], [3.0, 5.0], [np.nan, 7.0]])
    means = clustered_means(values, ["a", "b", "b"], weights=[2.0, 1.0, 3.0])
    assert means.observed.tolist() == pytest.approx([(2 * 1 + 3) / 3, (5 + 3 * 7) / 4])
    doubled = clustered_means(np.repeat(values, [2, 1, 3], axis=0), np.repeat(["a", "b", "b"], [2, 1, 3]))
    np.testing.assert_allclose(doubled.resampled, means.resampled, atol=1e-12)
    assert means.interval(1) is None  # a fourth of the resamples never draw b, and have no mean


def test_a_ratio_is_of_the_same_customers() -> None:
    values = np.abs(sample(3))
    values[:, 1] = 2 * values[:, 0]
    ratio = clustered_means(values, np.arange(len(values))).ratio(1, 0)
    assert ratio is not None
    assert (ratio.mean, ratio.low, ratio.high) == pytest.approx((2.0, 2.0, 2.0), abs=1e-12)
    nothing = clustered_means(np.column_stack([values[:, 0], np.zeros(len(values))]), np.arange(len(values)))
    assert nothing.ratio(0, 1) is None


def test_what_cannot_be_resampled_is_refused() -> None:
    with pytest.raises(DataError, match="at least two clusters"):
        clustered_means([[1.0], [2.0]], [0, 0])
    with pytest.raises(DataError, match="one cluster for each row"):
        clustered_means([[1.0], [2.0]], [0])
    with pytest.raises(ConfigError, match="at least 100"):
        clustered_means([[1.0], [2.0]], [0, 1], resamples=10)
