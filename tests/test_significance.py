"""The bootstrap: right coverage, the gain from pairing, the same result for the same seed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from eval import significance
from eval.significance import Interval, bootstrap_mean, paired_difference
from feature_repo.errors import ConfigError, DataError


def recall_like(rng: np.random.Generator, n: int) -> np.ndarray:
    """Values as a recall has them: most customers 0, the others a fraction. True mean 0.4 · 0.5 = 0.2."""
    return rng.binomial(1, 0.4, n) * rng.beta(2.0, 2.0, n)


def test_the_interval_covers_the_true_mean() -> None:
    # 800 planted samples: the standard error of an observed coverage of .95 is √(.95·.05/800) = .0077;
    # four of them, 0.031. The bootstrap's own defect at n = 300 is of order 1/n and lost in that.
    repetitions = 800
    rng = np.random.default_rng(11)
    covered = sum(
        0.2 in bootstrap_mean(recall_like(rng, 300), resamples=500, seed=repetition)
        for repetition in range(repetitions)
    )
    assert covered / repetitions == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / repetitions))


def test_the_p_value_is_right_under_the_null_and_agrees_with_the_interval() -> None:
    # As above for the share of p < .05 where the true difference is zero.
    repetitions, resamples = 600, 500
    rng = np.random.default_rng(12)
    rejected = 0
    for repetition in range(repetitions):
        a, b = recall_like(rng, 300), recall_like(rng, 300)
        result = paired_difference(a, b, resamples=resamples, seed=repetition)
        assert result.p is not None
        rejected += result.p < 0.05
        if abs(result.p - 0.05) > 2 / (resamples + 1):  # the stated resolution
            assert (result.p < 0.05) == (0.0 not in result)
    assert rejected / repetitions == pytest.approx(0.05, abs=4 * np.sqrt(0.95 * 0.05 / repetitions))


def test_the_ends_are_those_of_the_normal_theory_where_it_holds() -> None:
    # For a mean of 5000 normal values, mean ± 1.96 s/√n. With 4000 resamples a 2.5 % quantile has the
    # standard error √(.025·.975/4000)/φ(1.96) = 0.042 bootstrap deviations; 0.2 is more than four.
    values = np.random.default_rng(1).normal(3.0, 2.0, 5000)
    result = bootstrap_mean(values, resamples=4000)
    deviation = values.std() / np.sqrt(len(values))
    assert result.mean == pytest.approx(values.mean(), rel=1e-12)
    assert result.low == pytest.approx(values.mean() - 1.96 * deviation, abs=0.2 * deviation)
    assert result.high == pytest.approx(values.mean() + 1.96 * deviation, abs=0.2 * deviation)


def test_pairing_narrows_the_interval_by_the_correlation() -> None:
    # Equal variances σ² and correlation ρ: paired variance 2σ²(1−ρ), unpaired 2σ². Quantiles of 2000
    # resamples put about 3 % of noise on a width; 15 % is safe.
    rng = np.random.default_rng(2)
    ease, own_a, own_b = rng.normal(size=(3, 4000))
    a, b = 0.3 * own_a + ease, 0.3 * own_b + ease
    width = {
        name: interval.high - interval.low
        for name, interval in {
            "a": bootstrap_mean(a),
            "b": bootstrap_mean(b, seed=1),
            "paired": paired_difference(a, b),
        }.items()
    }
    unpaired = np.hypot(width["a"], width["b"])
    correlation = np.corrcoef(a, b)[0, 1]
    assert width["paired"] < 0.5 * unpaired
    assert width["paired"] / unpaired == pytest.approx(np.sqrt(1 - correlation), rel=0.15)


def test_a_planted_difference_is_found_and_antisymmetric() -> None:
    rng = np.random.default_rng(3)
    b = recall_like(rng, 2000)
    a = b + rng.normal(0.02, 0.1, 2000)  # nine standard errors above
    forth, back = paired_difference(a, b), paired_difference(b, a)
    assert 0.0 not in forth
    assert 0.02 in forth
    assert forth.p == back.p == pytest.approx(2 / 2001)  # the smallest there is
    assert (back.mean, back.low, back.high) == pytest.approx((-forth.mean, -forth.high, -forth.low))


def test_equal_models_differ_by_nothing() -> None:
    values = recall_like(np.random.default_rng(4), 50)
    assert paired_difference(values, values) == Interval(0.0, 0.0, 0.0, 0.95, 1.0)


def test_same_seed_same_result_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    values = recall_like(np.random.default_rng(5), 101)
    result = bootstrap_mean(values, seed=7)
    assert bootstrap_mean(values, seed=7) == result
    assert bootstrap_mean(values, seed=8) != result
    for draws in (50, 1000):  # less than one resample, about ten
        monkeypatch.setattr(significance, "_DRAWS_AT_ONCE", draws)
        assert bootstrap_mean(values, seed=7) == result


def test_more_confidence_is_wider() -> None:
    values = recall_like(np.random.default_rng(6), 200)
    narrow, wide = (bootstrap_mean(values, confidence=c) for c in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high
    assert (narrow.confidence, wide.confidence) == (0.8, 0.99)


def test_an_interval_is_written_for_people() -> None:
    assert str(Interval(0.12345, 0.1, 0.2)) == "0.1235 [0.1000, 0.2000]"
    assert f"{Interval(0.12345, 0.1, 0.2, p=0.0123):.2f}" == "0.12 [0.10, 0.20] p=0.012"


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([0.5], "at least two customers"),
        ([[0.5, 0.5]], "shape"),
        ([0.5, np.nan], "1 of 2"),
        ([0.5, np.inf, 1], "finite"),
    ],
)
def test_unusable_values_are_refused(values: list[float], why: str) -> None:
    with pytest.raises(DataError, match=why):
        bootstrap_mean(values)
    with pytest.raises(DataError, match=why):
        paired_difference(values, values)


@pytest.mark.parametrize("options", [{"confidence": 0.0}, {"confidence": 1.0}, {"resamples": 39}])
def test_unusable_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="found"):
        bootstrap_mean([0.0, 1.0], **options)
    assert bootstrap_mean([0.0, 1.0], resamples=40).mean == 0.5


def test_pairs_must_be_of_the_same_customers() -> None:
    with pytest.raises(DataError, match="one for one"):
        paired_difference([0.0, 1.0], [0.0, 1.0, 0.5])
    a = pd.Series([0.0, 1.0, 0.5], index=[1, 2, 3])
    with pytest.raises(DataError, match="same customers"):
        paired_difference(a, a[::-1])
