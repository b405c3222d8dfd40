"""Folding in: the customer's half-step of implicit ALS, solved on the recent history.

Source: Hu, Koren & Volinsky, "Collaborative filtering for implicit feedback datasets" (ICDM 2008), eq. 4;
the solution for m events in d dimensions goes through an m × m system (matrix inversion lemma).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serving.encoders.lookup import Lookup
from serving.encoders.weights import Confidence, HistoryWeights
from serving.subject import Subject

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]


class FoldIn:
    """Solves a customer's vector from a history, given the product vectors.

    Parameters
    ----------
    vectors
        (products, d) float32 product vectors.
    regularization
        λ of the model.
    confidence
        From the weight of a product to its confidence.
    product_scale
        (products,) factor of each product in the confidence (degree scaling); the customer's own factor
        comes from the total weight of the history.
    history
        Weighs the events, with ``confidence``.
    customers
        (customers, d) fitted vectors, for whom the history says nothing; rows of zeros know nothing either.
    """

    def __init__(
        self,
        vectors: Float32,
        *,
        regularization: float,
        confidence: Confidence,
        product_scale: Float32,
        history: HistoryWeights,
        customers: Float32 | None = None,
    ) -> None:
        self._vectors = vectors
        self._confidence = confidence
        self._scale = product_scale
        self._history = history
        self._fallback = None if customers is None else Lookup(customers)
        # what training never saw has no vector, and with degrees no confidence: it tells nothing apart
        self._speaks = np.asarray(vectors.any(axis=1) & (product_scale > 0))
        wide = np.asarray(vectors, dtype=np.float64)
        gram = wide.T @ wide + regularization * np.eye(wide.shape[1])
        self._inverse = np.asarray(np.linalg.inv(gram), dtype=np.float64)

    def encode(self, subject: Subject) -> Float32 | None:
        """Return the (d,) vector of what the customer did and looks at now, else the fitted one, else None."""
        products, weights = self._history.of(subject.history, subject.at, subject.context)
        speaks = self._speaks[products]
        if not speaks.all():
            products, weights = products[speaks], weights[speaks]
        if len(products) == 0:
            return None if self._fallback is None else self._fallback.encode(subject)
        return self.solve(products, self.confidences(products, weights)).astype(np.float32)

    def confidences(self, products: Int32, weights: Float64) -> Float64:
        """Return c − 1 of each product, positive."""
        scaled = self._confidence.alpha * weights * self._scale[products]
        if self._confidence.degree_exponent > 0:
            scaled = scaled * weights.sum() ** -self._confidence.degree_exponent
        return np.asarray(scaled, dtype=np.float64)

    def solve(self, products: Int32, extra: Float64) -> Float64:
        """Solve (YᵀY + λI + Σ (c−1) y yᵀ) x = Σ c y for the rows ``products`` with c − 1 = ``extra``."""
        # not ``take``: it copies all of a block of a wider matrix first
        rows = np.asarray(self._vectors[products], dtype=np.float64)
        half = rows @ self._inverse
        gram = half @ rows.T  # what the d × d system says of the m products alone
        confidence = 1.0 + extra
        told = gram @ confidence
        gram.flat[:: len(gram) + 1] += 1.0 / extra
        return np.asarray((confidence - np.linalg.solve(gram, told)) @ half)
