"""Pooling: a customer is the weighted sum of vectors of what is in the history.

No customer is fitted, so whoever has a history has a vector, and the last event counts at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serving.encoders.weights import HistoryWeights
from serving.subject import Subject

Float32 = NDArray[np.float32]


class Pooling:
    """Sums ``product_scale[i] · weight_i · vectors[i]`` over the products i of a history.

    Parameters
    ----------
    vectors
        (products, d) float32 product vectors.
    product_scale
        (products,) from a vector that ranks to the vector that describes: for the spectral model a power of
        the product's degree.
    history
        Weighs the events.
    """

    def __init__(self, vectors: Float32, *, product_scale: Float32, history: HistoryWeights) -> None:
        self._vectors = vectors
        self._scale = product_scale
        self._history = history

    def encode(self, subject: Subject) -> Float32 | None:
        """Return the (d,) vector, or None when nothing in history and context has a vector."""
        products, weights = self._history.of(subject.history, subject.at, subject.context)
        query = (weights * self._scale[products]).astype(np.float32) @ self._vectors[products]
        return np.asarray(query, dtype=np.float32) if query.any() else None
