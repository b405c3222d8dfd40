"""BPR: popularity, which drawing negatives by it takes away, is given back."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import spearmanr

from training.benchmarks.listed import training_set
from training.models import bpr
from training.models.configs import BPRConfig

PRODUCTS, CUSTOMERS = 40, 3000


def tasteless(customers: int = CUSTOMERS) -> sp.csr_matrix[np.float32]:
    """Everybody buys by chance, product i with probability from .02 to .4: the best ranking is by popularity."""
    generator = np.random.default_rng(5)
    chance = np.geomspace(0.02, 0.4, PRODUCTS)
    return sp.csr_matrix(generator.random((customers, PRODUCTS)) < chance, dtype=np.float32)


def counts(bought: sp.csr_matrix[np.float32]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.asarray(bought.sum(axis=0), dtype=np.float64).ravel()


def mean_rank_correlation(correction: float) -> float:
    """Return how well the mean score of a product follows its popularity (Spearman)."""
    bought = tasteless()
    config = BPRConfig(factors=2, epochs=60, logq_correction=correction)
    fit = bpr.fit(training_set(bought), config, seed=0, threads=1)
    assert fit.products is not None
    scores = fit.matrices["customers"] @ fit.products.T
    return float(spearmanr(scores.mean(axis=0), counts(bought)).statistic)


def test_without_tastes_the_best_ranking_is_by_popularity_and_is_found() -> None:
    assert mean_rank_correlation(1.0) > 0.95  # .974; two factors learn some chance besides


def test_without_the_correction_popularity_is_lost() -> None:
    assert mean_rank_correlation(0.0) < 0.6  # .417; what is left is that own products are no negatives


@pytest.mark.parametrize("correction", [0.0, 0.5, 1.0])
def test_the_correction_moves_the_bias_and_nothing_else(correction: float) -> None:
    bought = tasteless(200)
    plain = bpr.fit(
        training_set(bought), BPRConfig(factors=2, epochs=2, logq_correction=0.0), seed=0, threads=1
    )
    moved = bpr.fit(
        training_set(bought), BPRConfig(factors=2, epochs=2, logq_correction=correction), seed=0, threads=1
    )
    assert plain.products is not None and moved.products is not None
    np.testing.assert_array_equal(moved.products[:, :-1], plain.products[:, :-1])
    expected = plain.products[:, -1] + correction * np.log(counts(bought))
    np.testing.assert_allclose(moved.products[:, -1], expected, rtol=1e-5)
    assert (moved.matrices["customers"][:, -1] == 1.0).all()
