"""Spectral model: a low-pass filter of the degree-normalised matrix, encoded from the history.

With ``N = D_c^-a W D_p^-b`` (``W`` customers × products, ``D`` weighted degrees) and ``N ≈ U S Vᵀ``, products are
scored for a history w by ``w D_p^-b V f(S) Vᵀ D_p^b``. So product vectors are ``D_p^b V √f`` and a customer is the sum
of what the history holds, each scaled by ``D_p^-2b``: no customer is fitted.

Sources: Shen et al., "How powerful is graph convolution for recommendation?" (CIKM 2021), §4, the ideal low-pass
filter with a = b = ½; Peng et al., "How powerful is graph filtering for recommendation" (KDD 2024), generalised
exponents. The filter here is Tikhonov's, ``f(σ) = σ² / (σ² + damping · σ_d²)`` with the smallest kept σ_d, the ideal
one at ``damping`` 0. The truncated decomposition is scikit-learn's randomised one (Halko, Martinsson & Tropp 2011).
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

from serving.encoders.spec import PRODUCT_SCALE, PoolingSpec
from training.dataset import TrainingSet
from training.models.base import Embeddings, Float32, degrees, powers, weight_matrix
from training.models.configs import SpectralConfig


def fit(data: TrainingSet, config: SpectralConfig, *, seed: int, threads: int = 0) -> Embeddings:
    """Fit the spectral model.

    Parameters
    ----------
    data
        What was known at its ``as_of``.
    config
        Settings.
    seed
        Seed of the randomised decomposition.
    threads
        Threads of BLAS; 0 takes every core.
    """
    matrix = weight_matrix(data, config.weights)
    with threadpool_limits(limits=threads or None, user_api="blas"):
        values, right = decomposed(normalised(matrix, config), config, seed=seed)
        return embeddings(matrix, values, right, config)


def normalised(matrix: sp.csr_matrix[np.float32], config: SpectralConfig) -> sp.csr_matrix[np.float32]:
    """Return ``D_c^-a W D_p^-b``."""
    by_customer, by_product = degrees(matrix)
    left = sp.diags(powers(by_customer, -config.customer_exponent))
    return (left @ matrix @ sp.diags(powers(by_product, -config.product_exponent))).tocsr().astype(np.float32)


def decomposed(
    matrix: sp.csr_matrix[np.float32], config: SpectralConfig, *, seed: int
) -> tuple[Float32, Float32]:
    """Return the largest singular values (d,) and right singular vectors (d, products) of ``matrix``.

    At most ``factors``; directions without weight, made of rounding errors, are left out.
    """
    factors = min(config.factors, *matrix.shape)
    _, values, right = randomized_svd(
        matrix,
        factors,
        n_oversamples=max(10, factors // 8),
        n_iter=config.iterations,
        random_state=seed,
    )
    kept = values > 1e-6 * values[0]
    return values[kept].astype(np.float32), right[kept].astype(np.float32)


def embeddings(
    matrix: sp.csr_matrix[np.float32], values: Float32, right: Float32, config: SpectralConfig
) -> Embeddings:
    """Return the filtered vectors of a decomposition."""
    by_product = degrees(matrix)[1]
    response = values**2 / (values**2 + config.damping * values[-1] ** 2)
    products = right.T * np.sqrt(response) * powers(by_product, config.product_exponent)[:, None]
    products[by_product == 0] = 0.0
    return Embeddings(
        np.ascontiguousarray(products, dtype=np.float32),
        PoolingSpec(weights=config.weights),
        weights={PRODUCT_SCALE: powers(by_product, -2 * config.product_exponent).astype(np.float32)},
    )
