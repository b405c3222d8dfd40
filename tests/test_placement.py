"""AUC: equal to scikit-learn and to counting pairs; its per-customer values are the jackknife's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from eval.placement import auc, clustered_auc, placements


def case(seed: int, *, rows: int = 40, columns: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with many ties, what was bought, and weights."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 12, (rows, columns)).astype(float)
    bought = rng.random((rows, columns)) < 0.05 + 0.02 * scores
    return scores, bought, rng.integers(1, 5, rows)[:, None] * rng.uniform(0.5, 2, columns)


def by_pairs(scores: np.ndarray, bought: np.ndarray, weights: np.ndarray) -> float:
    won = total = 0.0
    for s, w in zip(scores[bought], weights[bought], strict=True):
        for t, v in zip(scores[~bought], weights[~bought], strict=True):
            won += w * v * ((s > t) + 0.5 * (s == t))
            total += w * v
    return won / total


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_sklearn_and_to_counting_pairs(seed: int) -> None:
    scores, bought, weights = (table.ravel()[:300] for table in case(seed))
    assert auc(scores, bought) == pytest.approx(roc_auc_score(bought, scores), abs=1e-12)
    expected = roc_auc_score(bought, scores, sample_weight=weights)
    assert auc(scores, bought, weights) == pytest.approx(expected, abs=1e-12)
    assert auc(scores, bought, weights) == pytest.approx(by_pairs(scores, bought, weights), abs=1e-12)


def test_placements_by_hand() -> None:
    found = placements(
        [3.0, 1.0, 1.0, 2.0], np.array([True, False, True, False]), np.array([1.0, 3.0, 1.0, 1.0])
    )
    # negatives: weight 3 at score 1, weight 1 at score 2; positives at 3 and at 1
    assert found.tolist() == pytest.approx([1.0, 0.75, 1.5 / 4, 0.5])


def test_a_customer_without_a_purchase_or_with_all_of_them_has_no_auc() -> None:
    assert np.isnan(auc([1.0, 2.0], np.array([False, False])))
    assert np.isnan(auc([1.0, 2.0], np.array([True, True])))
    assert np.isnan(clustered_auc(np.ones((2, 2)), np.zeros((2, 2), dtype=bool), np.ones((2, 2)))).all()


def test_the_mean_over_customers_is_the_auc_of_all_pairs() -> None:
    scores, bought, weights = case(7)
    values = clustered_auc(scores, bought, weights)
    assert values.mean() == pytest.approx(auc(scores.ravel(), bought.ravel(), weights.ravel()), abs=1e-12)


def test_a_customers_value_is_that_of_the_jackknife() -> None:
    """Leaving a customer out moves the AUC by their influence, up to terms of order 1/n²."""
    scores, bought, weights = case(8, rows=200)
    whole = auc(scores.ravel(), bought.ravel(), weights.ravel())
    values = clustered_auc(scores, bought, weights)
    n = len(scores)
    left_out = np.array(
        [
            auc(*(np.delete(table, row, axis=0).ravel() for table in (scores, bought, weights)))
            for row in range(n)
        ]
    )
    pseudo = n * whole - (n - 1) * left_out
    # influences have a spread of about .3; those terms are below .3 · p_c/p · few ≈ .02
    assert np.abs(pseudo - values).max() < 0.02
    assert np.corrcoef(pseudo, values)[0, 1] > 0.999
