"""How much an event says, by kind and age, and what a history says of each product.

Defined once: training weighs its interactions and the service a customer's recent history with the same
settings, so that what was fitted is what is served.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from feature_repo import schema as s
from feature_repo.recent import DAY_US, KIND_CODES, History, to_micros

Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]

NOTHING: Final = np.empty(0, dtype=np.int32)
_KIND_WEIGHTS: Final = {s.VIEW: 0.1, s.CLICK: 0.2, s.CART: 0.5, s.PURCHASE: 1.0, s.RETURN: -1.0}


class EventWeights(BaseModel):
    """How much one event says: its kind's weight, halved every ``half_life_days``.

    A product that is being looked at as the request comes counts ``context_weight``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    half_life_days: float = Field(default=90.0, gt=0)
    context_weight: float = Field(default=20.0, ge=0)
    kind_weights: dict[str, float] = Field(default_factory=lambda: dict(_KIND_WEIGHTS))

    @field_validator("kind_weights")
    @classmethod
    def _kinds(cls, weights: dict[str, float]) -> dict[str, float]:
        if unknown := [kind for kind in weights if kind not in KIND_CODES]:
            raise ValueError(
                f"kinds of interactions are {', '.join(KIND_CODES)}, found {unknown[0]!r}; correct it"
            )
        return weights

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


class Confidence(EventWeights):
    """The confidence of implicit ALS, by events and by how common the two ends are.

    The confidence of customer u in product i is ``1 + alpha · w_ui · (d_u · d_i)^-degree_exponent · g``
    where ``w_ui`` sums the weights of their events (never below zero), ``d`` are the weighted degrees and
    ``g`` keeps the mean at ``alpha``.
    """

    alpha: float = Field(default=20.0, gt=0)
    degree_exponent: float = Field(default=0.0, ge=0, le=1)


class HistoryWeights:
    """Sums the weights of a history by product.

    Parameters
    ----------
    weights
        What one event says.
    index
        Product id → row.
    as_of
        The model's own clock: ages are measured from the later of it and the last event, so that a
        model served long after its data ended still tells recent from old.
    """

    def __init__(self, weights: EventWeights, *, index: Mapping[str, int], as_of: datetime) -> None:
        self._weights = weights
        self._index = index
        self._as_of = to_micros(as_of)

    def of(self, history: History, at: datetime, context: Int32 = NOTHING) -> tuple[Int32, Float64]:
        """Return the distinct known products of history and context (ascending) and their weights, all positive."""
        history = history.before(at)
        rows, times, kinds = history.places(self._index), history.at, history.kinds
        known = rows >= 0
        if not known.all():
            rows, times, kinds = rows[known], times[known], kinds[known]
        if not len(rows) and not len(context):
            return NOTHING, np.empty(0)
        latest = int(times.max(initial=self._as_of - 1)) + 1
        events = self._weights.weights(kinds, (min(to_micros(at), latest) - times) / DAY_US)
        if len(context):
            rows = np.concatenate([rows, context])
            events = np.concatenate([events, np.full(len(context), self._weights.context_weight)])
        # sums product by product, in the order of the events
        order = rows.argsort(kind="stable")
        rows, events = rows[order], events[order]
        is_first = np.ones(len(rows), dtype=np.bool_)
        np.not_equal(rows[1:], rows[:-1], out=is_first[1:])
        starts = np.flatnonzero(is_first)
        products, weights = rows[starts], np.add.reduceat(events, starts)
        positive = weights > 0
        return products[positive], weights[positive]
