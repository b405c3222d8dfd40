"""The mathematics of experiments against second derivations and planted truths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from eval.experiment.effect import effect
from eval.experiment.looks import EveryLook, OneLook
from eval.experiment.moments import Estimate, Moments, adjusted
from eval.experiment.plan import days_to_go, required_customers
from eval.experiment.shares import THRESHOLD, check_shares
from feature_repo.errors import ConfigError, DataError

VALUES = st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=40)


def spend(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.binomial(1, 0.1, n) * rng.lognormal(3, 0.7, n)


@settings(max_examples=60, deadline=None)
@given(VALUES, st.integers(1, 38), st.integers(0, 10**6))
def test_moments_of_parts_are_those_of_the_whole(values: list[float], cut: int, seed: int) -> None:
    y = np.array(values)
    x = np.random.default_rng(seed).normal(1e3, 1, len(y))
    cut = min(cut, len(y) - 1)
    parts = [Moments.of(y[:cut], x[:cut]), Moments.of(y[cut:], x[cut:])]
    stacked = Moments(*(np.array(pair) for pair in zip(*(part._parts() for part in parts), strict=True)))
    whole, merged = Moments.of(y, x), stacked.merged()
    for name in ("n", "y", "x", "yy", "xx", "xy"):
        scale = 1 + np.abs(y).max() ** 2 + 1e3
        assert getattr(merged, name) == pytest.approx(getattr(whole, name), rel=1e-9, abs=1e-9 * scale), name
    first = stacked.cumulated()
    assert first.y[0] == pytest.approx(parts[0].y, rel=1e-9, abs=1e-6)


def test_one_look_is_welch() -> None:
    rng = np.random.default_rng(1)
    a, b = spend(rng, 300), spend(rng, 500)
    found = effect(Moments.of(a).mean(), Moments.of(b).mean(), OneLook())
    theirs = stats.ttest_ind(b, a, equal_var=False)
    interval = theirs.confidence_interval(0.95)
    assert float(found.p) == pytest.approx(theirs.pvalue, rel=1e-10)
    assert (float(found.low), float(found.high)) == pytest.approx((interval.low, interval.high), rel=1e-10)


def test_relative_interval_is_the_set_of_ratios_that_are_not_refused() -> None:
    """Fieller by brute force: the ends are where the test of treatment − q · control is just refused."""
    control, treatment = (
        Estimate(*(np.asarray(v) for v in values)) for values in ((900.0, 2.0, 0.09), (800.0, 3.0, 0.16))
    )
    for looks in (OneLook(), EveryLook(2000)):
        found = effect(control, treatment, looks)
        freedom = np.asarray((0.25**2) / (0.09**2 / 899 + 0.16**2 / 799))
        reach = float(looks.reach(np.asarray(1700.0), freedom, 0.05))

        def beyond(q: float, reach: float = reach) -> float:
            return abs(3.0 - q * 2.0) / np.sqrt(0.16 + q * q * 0.09) - reach

        low, high = optimize.brentq(beyond, -0.5, 1.5), optimize.brentq(beyond, 1.5, 9.0)
        assert (float(found.relative_low), float(found.relative_high)) == pytest.approx(
            (low - 1, high - 1), abs=1e-9
        )


def test_relative_change_is_not_told_where_the_control_may_be_zero() -> None:
    near = Estimate(np.asarray(500.0), np.asarray(0.1), np.asarray(0.01))
    assert np.isnan(effect(near, near, OneLook()).relative_low)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-3, 3),
    st.floats(0.1, 3),
    st.floats(0.01, 1),
    st.floats(0.01, 1),
    st.integers(50, 10**6),
    st.booleans(),
)
def test_p_interval_and_relative_interval_say_the_same(
    shift: float, mean: float, vc: float, vt: float, n: int, every: bool
) -> None:
    looks = EveryLook(1000) if every else OneLook()
    control, treatment = (
        Estimate(np.asarray(float(n)), np.asarray(m), np.asarray(v))
        for m, v in ((mean, vc), (mean + shift, vt))
    )
    found = effect(control, treatment, looks)
    outside = not found.low <= 0 <= found.high
    if abs(float(found.p) - 0.05) > 1e-9:
        assert (found.p < 0.05) == outside
        if np.isfinite(found.relative_low):
            assert (not found.relative_low <= 0 <= found.relative_high) == outside


def test_ratio_has_the_error_of_customers_not_of_exposures() -> None:
    """The delta method beside the bootstrap over customers; a test of exposures claims less."""
    rng = np.random.default_rng(3)
    n = 4000
    taste = rng.gamma(0.5, 2.0, n)
    shown = 1 + rng.poisson(10 * taste)  # who buys more sees more, so that both vary together
    bought = rng.poisson(0.1 * shown * rng.gamma(1.0, 1.0, n))
    found = Moments.of(bought, shown).ratio()
    drawn = rng.integers(n, size=(2000, n))
    ratios = bought[drawn].sum(axis=1) / shown[drawn].sum(axis=1)
    error = float(np.sqrt(found.error2))
    assert float(found.mean) == pytest.approx(bought.sum() / shown.sum(), rel=1e-12)
    assert error == pytest.approx(ratios.std(), rel=0.06)  # 2000 resamples fix a deviation to 1.6 %
    binomial = np.sqrt(found.mean * (1 - found.mean) / shown.sum())
    assert binomial < 0.9 * error


def test_past_narrows_by_its_correlation_and_moves_nothing() -> None:
    """ρ = .8: the error shrinks to √(1 − .64) = .6 of itself; the planted effect stays."""
    rng = np.random.default_rng(4)
    n = 50_000
    past = rng.normal(5, 2, (2, n))
    now = 0.8 * past + rng.normal(0, 1.2, (2, n))
    now[1] += 0.5
    arms = [Moments.of(now[i], past[i]) for i in (0, 1)]
    plain = effect(arms[0].mean(), arms[1].mean(), OneLook())
    narrow = effect(*adjusted(arms[0], arms[1]), OneLook())
    assert float(narrow.error / plain.error) == pytest.approx(0.6, abs=0.01)
    assert float(narrow.difference) == pytest.approx(0.5, abs=4 * float(narrow.error))
    assert float(narrow.error) == pytest.approx(1.2 * np.sqrt(2 / n), rel=0.02)


def test_adjustment_is_the_regression_on_arm_and_past() -> None:
    """A second derivation: the coefficient of the arm beside the past, by least squares."""
    rng = np.random.default_rng(8)
    past, arm = rng.gamma(1.0, 3.0, 400), np.repeat([0, 1], (150, 250))
    past += 2.0 * arm  # as unequal as chance could hardly have it
    now = 3 + 0.7 * past + 0.4 * arm + rng.normal(0, 1, 400)
    found = effect(
        *adjusted(*(Moments.of(now[arm == side], past[arm == side]) for side in (0, 1))), OneLook()
    )
    coefficients = np.linalg.lstsq(np.column_stack([np.ones(400), arm, past]), now, rcond=None)[0]
    assert float(found.difference) == pytest.approx(coefficients[1], rel=1e-9)


def test_past_without_variation_changes_nothing() -> None:
    rng = np.random.default_rng(5)
    arms = [Moments.of(spend(rng, 200), np.ones(200)) for _ in range(2)]
    plain, same = (
        effect(*pair, OneLook()) for pair in ((arms[0].mean(), arms[1].mean()), adjusted(arms[0], arms[1]))
    )
    assert same.difference == plain.difference
    assert same.error == plain.error


def test_every_look_is_the_published_boundary() -> None:
    """The reach at n is √n times the margin of theorem 2.2; narrowest where it was asked to be."""
    rule = EveryLook(10_000)
    n = np.array([100.0, 1e4, 1e6])
    rho2 = rule._rho2
    margin = np.sqrt(2 * (n * rho2 + 1) / (n**2 * rho2) * np.log(np.sqrt(n * rho2 + 1) / 0.05))
    assert rule.reach(n, n, 0.05) == pytest.approx(np.sqrt(n) * margin)
    at = np.asarray(10_000.0)
    own = float(rule.reach(at, at, 0.05))
    others = [float(EveryLook(round(10_000 * f)).reach(at, at, 0.05)) for f in (0.3, 0.7, 1.5, 3)]
    assert own < min(others)
    assert 1.5 < own / 1.96 < 1.6
    with pytest.raises(ConfigError, match="at least 2 customers"):
        EveryLook(1)


def test_the_docstring_tells_what_a_wrong_expectation_costs() -> None:
    n = np.asarray(20_000.0)
    best = float(EveryLook(20_000).reach(n, n, 0.05))
    assert float(EveryLook(2_000).reach(n, n, 0.05)) / best == pytest.approx(1.07, abs=0.005)
    assert float(EveryLook(200_000).reach(n, n, 0.05)) / best == pytest.approx(1.27, abs=0.005)


def test_shares_are_checked_against_the_plan() -> None:
    check = check_shares({"a": 5000, "b": 5000}, {"a": 1, "b": 1})
    assert check.p == 1.0 and not check.failed
    check = check_shares({"a": 821_588, "b": 815_482}, {"a": 0.5, "b": 0.5})  # Kohavi, Tang & Xu 2020, p. 45
    assert check.failed
    assert check.p == pytest.approx(1.8e-6, rel=0.05)
    assert not check_shares({"a": 9000, "b": 1000}, {"a": 9, "b": 1}).failed
    assert check_shares({"a": 5000}, {"a": 1, "b": 1}).p < THRESHOLD
    with pytest.raises(ConfigError, match="found also c"):
        check_shares({"a": 1, "c": 1}, {"a": 1, "b": 1})
    with pytest.raises(ConfigError, match="at least two variants"):
        check_shares({"a": 1}, {"a": 1})
    with pytest.raises(ConfigError, match="positive share"):
        check_shares({"a": 1}, {"a": 1, "b": 0})
    with pytest.raises(DataError, match="found none"):
        check_shares({}, {"a": 1, "b": 1})


def test_so_many_customers_find_the_effect_as_often_as_promised() -> None:
    """Planned for a difference of 0.2 standard deviations, power .8: 2 · 393 customers (Cohen 1988, table 2.4.1)."""
    required = required_customers(4.0, 0.2, OneLook(), share=0.5)
    assert required is not None
    assert required == pytest.approx(2 * 393, abs=4)
    rng = np.random.default_rng(6)
    half = required // 2
    found = effect(
        Moments.of(rng.normal(0, 1, (2000, half))).mean(),
        Moments.of(rng.normal(0.2, 1, (2000, half))).mean(),
        OneLook(),
    )
    assert (found.p < 0.05).mean() == pytest.approx(0.8, abs=4 * np.sqrt(0.16 / 2000))
    every = required_customers(4.0, 0.2, EveryLook(2000), share=0.5)
    assert every is not None and every > 1.5 * required
    assert required_customers(0.0, 0.2, OneLook(), share=0.5) is None
    assert days_to_go(1000, 500, 10) == 10
    assert days_to_go(400, 500, 10) == 0
    assert days_to_go(400, 0, 10) is None


def test_values_that_are_none_are_refused() -> None:
    with pytest.raises(DataError, match="finite values"):
        Moments.of([1.0, np.nan])
    with pytest.raises(DataError, match="two values for each"):
        Moments.of([1.0, 2.0], [1.0])
