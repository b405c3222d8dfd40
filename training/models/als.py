"""Implicit alternating least squares, by the library ``implicit``, with time-decayed confidence.

Source: Hu, Koren & Volinsky, "Collaborative filtering for implicit feedback datasets" (ICDM 2008). The
confidence of an event (by kind and age) is the encoder's, so that training and fold-in agree.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from implicit.als import AlternatingLeastSquares
from threadpoolctl import threadpool_limits

from serving.encoders.spec import CUSTOMERS, PRODUCT_SCALE, FoldInSpec
from serving.encoders.weights import Confidence
from training.dataset import TrainingSet
from training.models.base import Embeddings, weight_matrix
from training.models.configs import ALSConfig


def confidence_matrix(
    data: TrainingSet, confidence: Confidence
) -> tuple[sp.csr_matrix[np.float32], np.ndarray[tuple[int], np.dtype[np.float32]]]:
    """Return the confidences (customers × products) and the scale of each product.

    Stored entries are ``c ≥ 1``; what is not stored counts as ``c = 1`` with preference 0.

    Raises
    ------
    DataError
        No customer has a positive event.
    """
    counts = weight_matrix(data, confidence).astype(np.float64)
    shape = counts.shape
    scale = np.ones(shape[1], dtype=np.float32)
    if confidence.degree_exponent > 0:
        exponent = confidence.degree_exponent
        by_customer = np.asarray(counts.sum(axis=1)).ravel()
        by_product = np.asarray(counts.sum(axis=0)).ravel()
        raw = np.maximum(by_product, 1e-12) ** -exponent
        rows = np.repeat(np.maximum(by_customer, 1e-12) ** -exponent, np.diff(counts.indptr))
        mean = float((counts.data * rows * raw[counts.indices]).mean() / counts.data.mean())
        scale = np.where(by_product > 0, raw / mean, 0.0).astype(np.float32)
        counts.data = counts.data * rows
    counts.data = 1.0 + confidence.alpha * counts.data * scale[counts.indices]
    return counts.astype(np.float32), scale


def fit(data: TrainingSet, config: ALSConfig, *, seed: int, threads: int = 0) -> Embeddings:
    """Fit ALS.

    Parameters
    ----------
    data
        What was known at its ``as_of``.
    config
        Settings.
    seed
        Seed of the initial vectors; with one thread the same seed gives the same vectors.
    threads
        Threads of ``implicit``; 0 takes every core. BLAS always runs on one inside.
    """
    matrix, scale = confidence_matrix(data, config.confidence)
    with threadpool_limits(limits=1, user_api="blas"):
        model = AlternatingLeastSquares(
            factors=config.factors,
            regularization=config.regularization,
            iterations=config.epochs,
            dtype=np.float32,
            use_gpu=False,
            num_threads=threads,
            random_state=seed,
        )
        model.fit(matrix, show_progress=False)
    products = np.asarray(model.item_factors, dtype=np.float32)
    customers = np.asarray(model.user_factors, dtype=np.float32)
    products[np.diff(matrix.tocsc().indptr) == 0] = 0.0  # never seen: no direction, not the random start
    customers[np.diff(matrix.indptr) == 0] = 0.0
    return Embeddings(
        products,
        FoldInSpec(regularization=config.regularization, confidence=config.confidence),
        matrices={CUSTOMERS: customers},
        weights={PRODUCT_SCALE: scale},
    )
