"""Encoders: how a customer becomes a query vector when the request arrives.

``FoldIn`` solves the customer's half-step of implicit ALS on the recent history, so that what happened a
second ago counts. The confidence of an event is defined here once and used by training as well.

Source: Hu, Koren & Volinsky, "Collaborative filtering for implicit feedback datasets" (ICDM 2008), eq. 4;
the solution for m events in d dimensions goes through an m × m system (matrix inversion lemma).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from feature_repo import schema as s
from feature_repo.recent import DAY_US, KIND_CODES, History, to_micros

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

_NOTHING: Final = np.empty(0, dtype=np.int32)
_KIND_WEIGHTS: Final = {s.VIEW: 0.1, s.CLICK: 0.2, s.CART: 0.5, s.PURCHASE: 1.0, s.RETURN: -1.0}


class Confidence(BaseModel):
    """How much one interaction says: by kind, by age, and by how common its two ends are.

    The confidence of customer u in product i is ``1 + alpha · w_ui · (d_u · d_i)^-degree_exponent · g``
    where ``w_ui`` sums ``kind_weights[kind] · 0.5^(age / half_life_days)`` over their events (never below
    zero), ``d`` are the weighted degrees and ``g`` keeps the mean at ``alpha``. A product that is being
    looked at as the request comes counts ``context_weight`` on top.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    alpha: float = Field(default=20.0, gt=0)
    half_life_days: float = Field(default=90.0, gt=0)
    degree_exponent: float = Field(default=0.0, ge=0, le=1)
    context_weight: float = Field(default=20.0, ge=0)
    kind_weights: dict[str, float] = Field(default_factory=lambda: dict(_KIND_WEIGHTS))

    @cached_property
    def by_code(self) -> Float64:
        """Weights in the order of the kind codes."""
        weights = np.zeros(len(KIND_CODES))
        for kind, code in KIND_CODES.items():
            weights[code] = self.kind_weights.get(kind, 0.0)
        return weights

    def weights(self, kinds: NDArray[np.int8], age_days: Float64) -> Float64:
        """Return the weight of each event: by kind, halved every ``half_life_days``."""
        decay = np.power(0.5, np.maximum(age_days, 0.0) / self.half_life_days)
        return np.asarray(self.by_code[kinds] * decay)


class FoldIn:
    """Solves a customer's vector from a history, given the product vectors.

    Parameters
    ----------
    vectors
        (products, d) float32 product vectors.
    regularization
        λ of the model.
    confidence
        Weights of events.
    product_scale
        (products,) factor of each product in the confidence (degree scaling); the customer's own factor
        comes from the total weight of the history.
    index
        Product id → row.
    as_of
        The model's own clock: ages are measured from the later of it and the last event, so that a
        model served long after its data ended still tells recent from old.
    """

    def __init__(
        self,
        vectors: Float32,
        *,
        regularization: float,
        confidence: Confidence,
        product_scale: Float32,
        index: Mapping[str, int],
        as_of: datetime,
    ) -> None:
        self._vectors = vectors
        self._confidence = confidence
        self._scale = product_scale
        self._index = index
        self._as_of = to_micros(as_of)
        wide = np.asarray(vectors, dtype=np.float64)
        gram = wide.T @ wide + regularization * np.eye(wide.shape[1])
        self._inverse = np.asarray(np.linalg.inv(gram), dtype=np.float64)

    def encode(self, history: History, at: datetime, context: NDArray[np.int32] = _NOTHING) -> Float32 | None:
        """Return the (d,) vector of a history and of products looked at now; None when both say nothing."""
        products, weights = self.confidences(history, at, context)
        if len(products) == 0:
            return None
        return self.solve(products, weights).astype(np.float32)

    def confidences(
        self, history: History, at: datetime, context: NDArray[np.int32] = _NOTHING
    ) -> tuple[NDArray[np.int32], Float64]:
        """Return distinct known products of history and context, and c − 1 of each (positive)."""
        history = history.before(at)
        codes = np.array([self._index.get(product, -1) for product in history.products], dtype=np.int32)
        known = codes >= 0
        if not known.any() and not len(context):
            return np.empty(0, dtype=np.int32), np.empty(0)
        latest = int(history.at[known].max(initial=self._as_of - 1)) + 1
        ages = (min(to_micros(at), latest) - history.at[known]) / DAY_US
        events = self._confidence.weights(history.kinds[known], ages)
        events = np.concatenate([events, np.full(len(context), self._confidence.context_weight)])
        products, place = np.unique(np.concatenate([codes[known], context]), return_inverse=True)
        weights = np.bincount(place, weights=events, minlength=len(products))
        positive = weights > 0
        products, weights = products[positive], weights[positive]
        scaled = self._confidence.alpha * weights * self._scale[products]
        if self._confidence.degree_exponent > 0 and len(weights):
            scaled = scaled * weights.sum() ** -self._confidence.degree_exponent
        return products.astype(np.int32), np.asarray(scaled, dtype=np.float64)

    def solve(self, products: NDArray[np.int32], extra: Float64) -> Float64:
        """Solve (YᵀY + λI + Σ (c−1) y yᵀ) x = Σ c y for the rows ``products`` with c − 1 = ``extra``."""
        rows = np.asarray(self._vectors[products], dtype=np.float64)
        right = rows.T @ (1.0 + extra)
        half = rows @ self._inverse
        base = self._inverse @ right
        small = half @ rows.T + np.diag(1.0 / extra)
        return np.asarray(base - half.T @ np.linalg.solve(small, rows @ base))
