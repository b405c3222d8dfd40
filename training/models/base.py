"""What every model gives back, and what several of them need.

A model is one function ``fit(TrainingSet, Config, seed) → Embeddings``; variation is its Config, and the
rest (ids, masks, tables, serving) happens once, elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from serving.encoders.spec import EncoderSpec
from serving.encoders.weights import EventWeights
from serving.errors import DataError
from training.dataset import TrainingSet

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Embeddings:
    """What a model learnt: product vectors whose inner products rank, and how a customer becomes a query.

    ``products`` is (products, d) float32, None for item-item models, whose neighbours lie in ``matrices``.
    ``encoder`` says how a customer becomes a query; it finds its arrays by name in ``matrices`` (a row a product or
    a customer) and ``weights`` (small).
    """

    products: Float32 | None
    encoder: EncoderSpec
    matrices: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    weights: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def weight_matrix(data: TrainingSet, weights: EventWeights) -> sp.csr_matrix[np.float32]:
    """Return the summed weights (customers × products) of what each customer did, those above zero.

    Raises
    ------
    DataError
        No customer has a positive event.
    """
    known = data.customer_idx >= 0
    values = weights.weights(data.kinds[known], data.age_days[known])
    shape = (len(data.customers), len(data.catalog))
    summed = sp.coo_matrix((values, (data.customer_idx[known], data.product_idx[known])), shape=shape).tocsr()
    summed.data[summed.data < 0] = 0.0
    summed.eliminate_zeros()
    if summed.nnz == 0:
        raise DataError(
            "expected events with a positive weight before the cut, found none; train on more data or set kind_weights"
        )
    return summed.astype(np.float32)


def degrees(matrix: sp.csr_matrix[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sums of the rows (customers,) and of the columns (products,)."""
    return (
        np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel(),
        np.asarray(matrix.sum(axis=0, dtype=np.float64)).ravel(),
    )


def powers(degree: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """Return ``degree ** exponent``, 0 where the degree is 0."""
    return np.where(degree > 0, np.maximum(degree, 1e-12) ** exponent, 0.0)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))
