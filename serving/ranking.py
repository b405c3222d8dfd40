"""Ranking: the features of a customer with products, one function for training, evaluation and the service.

A feature's name tells where it comes from: ``retrieval.`` the model's own score, seen from the customer; ``own.`` the
record of purchases; ``pair.`` the recent history; ``segment.`` the favourites of the segment;
``product.`` a column of the bundle's product features. The columns of a row stand in this order of groups. Features of
the customer alone, ``fresh.`` of the recent history and ``customer.`` slow ones, put nothing in order: they are apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feature_repo import schema as s
from feature_repo.behaviour import FRESH, PAIR, Behaviour, RecentFeatures, Shelf
from feature_repo.names import NEVER_DAYS, RANKED_PRODUCTS
from feature_repo.recent import DAY_US, to_micros
from serving.bundle import Bundle
from serving.sources import Vectors
from serving.subject import Subject

Float32 = NDArray[np.float32]
Floats = NDArray[np.float64]
Int32 = NDArray[np.int32]

RETRIEVAL: Final = ("retrieval.z", "retrieval.above", "retrieval.lifted")
OWN: Final = ("own.days", "own.since_days")
PAIRS: Final = tuple(f"pair.{name}" for name in PAIR)
SEGMENT: Final = ("segment.place",)
FRESHEST: Final = tuple(f"fresh.{name}" for name in FRESH)
CUSTOMER: Final = "customer."
PRODUCT: Final = "product."
#: The features of a customer with a product, in the order of the columns; products' own follow.
FIXED: Final = (*RETRIEVAL, *OWN, *PAIRS, *SEGMENT)
PRODUCTS: Final = (f"{PRODUCT}popular_share", *(PRODUCT + name for name in RANKED_PRODUCTS))
FEATURES: Final = (*FIXED, *PRODUCTS)


class RankingFeatures:
    """Makes the rows that a ranker reads.

    Parameters
    ----------
    bundle
        Its catalog, favourites of segments and purchases.
    model
        The bundle's personal model.
    names
        Features of a customer with a product, some of ``FIXED`` in their order, then those called ``product.``.
    products
        (products, columns) float32: those called ``product.``, in the order of ``names``.
    customer
        Features of the customer alone, some of ``FRESHEST`` in their order, then those called ``customer.``.
    """

    def __init__(
        self,
        bundle: Bundle,
        model: Vectors,
        names: Sequence[str],
        products: Float32,
        customer: Sequence[str],
    ) -> None:
        self._model = model
        self._products = products
        self._repeat_weight = bundle.manifest.policy.repeat_weight
        self._segments = bundle.segments
        self._by_segment: dict[str, tuple[Int32, Float32]] = {}
        categories = bundle.catalog.frame[s.CATEGORY]
        codes = pd.factorize(categories.astype("string"))[0].astype(np.int32)
        prices = bundle.catalog.frame[s.PRICE].to_numpy(dtype=np.float64, na_value=np.nan)
        self._shelf = Shelf(bundle.catalog.index, codes, prices)
        self._retrieval = _chosen(RETRIEVAL, names)
        self._own = _chosen(OWN, names)
        self._pairs = _chosen(PAIRS, names)
        self._segment = _chosen(SEGMENT, names)
        self._fresh = _chosen(FRESHEST, customer)
        self._customer = [name.removeprefix(CUSTOMER) for name in customer if name.startswith(CUSTOMER)]
        self._width = len(names)

    def of(self, subject: Subject, products: Int32) -> tuple[Float32, Floats]:
        """Return the features of the subject with the products (n, features), and of the subject alone (columns,)."""
        recent = self._recent(subject)
        alone = np.concatenate([recent.customer[self._fresh], self._slow(subject)])
        return self._rows(subject, products, recent), alone

    def _rows(self, subject: Subject, products: Int32, recent: RecentFeatures) -> Float32:
        rows = np.empty((len(products), self._width), dtype=np.float32)
        start = 0
        owned = _owned(subject, products)
        if self._retrieval:
            standing = np.empty((len(products), 3))
            standing[:, :2] = self._model.standing(subject, products)
            np.multiply(owned[:, 0], self._repeat_weight, out=standing[:, 2])
            standing[:, 2] += standing[:, 0]
            start = _put(rows, start, standing, self._retrieval)
        if self._own:
            start = _put(rows, start, owned, self._own)
        if self._pairs:
            start = _put(rows, start, recent.pairs(products), self._pairs)
        if self._segment:
            rows[:, start] = self._places(subject.segment, products)
            start += 1
        rows[:, start:] = self._products[products]
        return rows

    def _recent(self, subject: Subject) -> RecentFeatures:
        memo = subject.memo
        behaviour: Behaviour | None = None if memo is None else memo.get("behaviour")
        if behaviour is None or behaviour.history is not subject.history:
            behaviour = Behaviour.of(subject.history, self._shelf)
            if memo is not None:
                memo["behaviour"] = behaviour
        return behaviour.at(subject.at)

    def _slow(self, subject: Subject) -> Floats:
        """Return the customer's own numbers (columns,), NaN where there is none."""
        memo = subject.memo
        if memo is None:
            return numbers(subject.features, self._customer)
        if "slow" not in memo:
            memo["slow"] = numbers(subject.features, self._customer)
        held: Floats = memo["slow"]
        return held

    def _places(self, segment: str, products: Int32) -> Float32:
        """Return 1 / place among the favourites of the segment, 0 for others."""
        held = self._by_segment.get(segment)
        if held is None:
            favourites = self._segments.get(segment, np.empty(0, dtype=np.int32))
            order = np.argsort(favourites)
            place = np.append(1.0 / (1.0 + order), 0.0).astype(np.float32)
            held = self._by_segment[segment] = (favourites[order], place)
        keys, place = held
        if not len(keys):
            return np.zeros(len(products), dtype=np.float32)
        at = np.searchsorted(keys, products)
        at[at == len(keys)] = 0
        at[keys[at] != products] = len(keys)
        return np.asarray(place[at])


def numbers(row: Mapping[str, Any], names: Sequence[str]) -> Floats:
    """Return the numbers called ``names`` in a feature row; NaN for what is missing or no number."""
    return np.array([_number(row.get(name)) for name in names], dtype=np.float64)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float | np.number | np.bool_) else np.nan


def _owned(subject: Subject, products: Int32) -> Floats:
    """Return on how many days the customer bought each product, and how many days ago last (n, 2)."""
    own = subject.bought
    found = np.empty((len(products), 2))
    found[:, 0], found[:, 1] = 0.0, NEVER_DAYS
    if not len(own.products):
        return found
    place = np.searchsorted(own.products, products)
    place[place == len(own.products)] = 0
    hit = np.flatnonzero(own.products[place] == products)
    rows = place[hit]
    found[hit, 0] = own.days[rows]
    found[hit, 1] = np.minimum((to_micros(subject.at) - own.last[rows]) / DAY_US, NEVER_DAYS)
    return found


def _chosen(group: tuple[str, ...], names: Sequence[str]) -> list[int]:
    return [place for place, name in enumerate(group) if name in names]


def _put(rows: Float32, start: int, block: Floats, chosen: list[int]) -> int:
    """Write the chosen columns of a block into the rows from ``start`` on; return where the next begin."""
    stop = start + len(chosen)
    rows[:, start:stop] = block if len(chosen) == block.shape[1] else block[:, chosen]
    return stop
