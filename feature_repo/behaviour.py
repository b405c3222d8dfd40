"""Fresh behaviour: one function of (history, instant, catalog), used offline and online alike.

``recent_features`` is the one place for numbers such as "bought three times, last a week ago", of customers and of
(customer, product) pairs. What of them does not depend on the instant is ``Behaviour``, gathered once for a history
that is asked about again and again. Retrieval reads the history through the encoder and does not ask for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feature_repo import schema as s
from feature_repo.names import NEVER_DAYS
from feature_repo.recent import DAY_US, KIND_CODES, History, to_micros

Floats = NDArray[np.float64]
Int32 = NDArray[np.int32]

_NEVER_US: Final = -(2**62)  # so long ago that every difference still fits


@dataclass(frozen=True)
class Shelf:
    """What of the catalog fresh features need.

    ``index`` maps a product id to its product index; by product index there are ``category`` (int32 code, −1 for
    none) and ``price`` (float64, NaN when unknown).
    """

    index: Mapping[str, int]
    category: Int32
    price: Floats


#: Customer features, in the order of the columns: name → definition.
FRESH: Final[dict[str, str]] = {
    "days_since_event": "days since the last event",
    "days_since_purchase": "days since the last purchase",
    "events_1d": "events in the last day",
    "events_7d": "events in the last 7 days",
    "purchases_7d": "purchase lines in the last 7 days",
    "distinct_products": "distinct products of the history",
}
#: Customer × product features, in the order of the columns: name → (definition, default).
PAIR: Final[dict[str, tuple[str, float]]] = {
    "bought": ("times the customer bought the product", 0.0),
    "viewed": ("times the customer viewed, clicked or carted it", 0.0),
    "returned": ("times the customer returned it", 0.0),
    "days_since_bought": ("days since the customer last bought it", NEVER_DAYS),
    "days_since_seen": ("days since the customer last did anything with it", NEVER_DAYS),
    "gap_days": ("mean days between two purchases of it, 0 below two", 0.0),
    "lateness": ("days since it was bought over the mean gap, 0 without a gap", 0.0),
    "share": ("share of the customer's purchases that are of it", 0.0),
    "category_bought": ("times the customer bought of its category", 0.0),
    "category_viewed": ("times the customer viewed, clicked or carted of its category", 0.0),
    "category_share": ("share of the customer's purchases that are of its category", 0.0),
    "days_since_category_bought": ("days since the customer last bought of its category", NEVER_DAYS),
    "price_ratio": ("its price over the mean money of the customer's purchase lines, 0 when unknown", 0.0),
}
_OF_PRODUCT: Final = tuple(PAIR)[:8]
_OF_CATEGORY: Final = tuple(PAIR)[8:12]
_PRODUCT_DEFAULTS: Final = np.array([PAIR[name][1] for name in _OF_PRODUCT])
_CATEGORY_DEFAULTS: Final = np.array([PAIR[name][1] for name in _OF_CATEGORY])


@dataclass(frozen=True)
class RecentFeatures:
    """Fresh features of one customer at one instant, and of the customer with any product of the shelf.

    ``customer`` holds the values of ``FRESH``; ``pairs`` gives those with products. ``product_idx`` (int32, ascending)
    are the known products of the history, ``category`` (int32, ascending) their categories. The two tables have a row
    for each of them and one more, of defaults.
    """

    customer: Floats
    product_idx: Int32
    category: Int32
    _by_product: Floats
    _by_category: Floats
    _mean_value: float
    _shelf: Shelf

    def pairs(self, product_idx: Int32) -> Floats:
        """Return the features of ``PAIR`` for the products (n,): float64 (n, features), defaults where unknown."""
        found = np.empty((len(product_idx), len(PAIR)))
        found[:, :8] = self._by_product[_places(product_idx, self.product_idx)]
        found[:, 8:12] = self._by_category[_places(self._shelf.category[product_idx], self.category)]
        if self._mean_value > 0:
            ratio = self._shelf.price[product_idx] / self._mean_value
            ratio[~np.isfinite(ratio)] = 0.0
            found[:, 12] = ratio
        else:
            found[:, 12] = 0.0
        return found


@dataclass(frozen=True)
class _Counts:
    """Distinct keys ≥ 0, and by key times bought, viewed, returned; when (µs) bought, seen, first bought."""

    keys: Int32
    bought: Floats
    viewed: Floats
    returned: Floats
    last_bought: NDArray[np.int64]
    last_seen: NDArray[np.int64]
    first_bought: NDArray[np.int64]

    @classmethod
    def of(cls, keys: Int32, history: History) -> _Counts:
        """Count the events of a history by its keys (events,); those below 0 count for nothing."""
        known = keys >= 0
        at, kinds = history.at[known], history.kinds[known]
        distinct, place = np.unique(keys[known], return_inverse=True)
        size = len(distinct)
        bought, returned = kinds == KIND_CODES[s.PURCHASE], kinds == KIND_CODES[s.RETURN]

        def count(flag: NDArray[np.bool_]) -> Floats:
            return np.bincount(place, weights=flag, minlength=size).astype(np.float64)

        last_bought = np.full(size, _NEVER_US)
        last_seen = last_bought.copy()
        first_bought = np.full(size, np.iinfo(np.int64).max)
        # events are in order of time: of several places the last assignment stands
        last_seen[place] = at
        last_bought[place[bought]] = at[bought]
        first_bought[place[bought][::-1]] = at[bought][::-1]
        viewed = ~bought & ~returned
        return cls(
            distinct.astype(np.int32),
            count(bought),
            count(viewed),
            count(returned),
            last_bought,
            last_seen,
            first_bought,
        )


@dataclass(frozen=True)
class Behaviour:
    """What a history comes down to, whenever it is asked about; every event of it counts.

    ``of_products`` and ``of_categories`` are the tables of ``RecentFeatures`` but for the columns that time moves.
    """

    history: History
    shelf: Shelf
    purchases_at: NDArray[np.int64]
    distinct: int
    products: _Counts
    categories: _Counts
    of_products: Floats
    of_categories: Floats
    mean_value: float

    @classmethod
    def of(cls, history: History, shelf: Shelf) -> Behaviour:
        """Gather the events of ``history``; those with products not on the shelf count for the customer only."""
        codes = history.places(shelf.index)
        categories = np.where(codes >= 0, shelf.category[codes], -1) if len(codes) else codes
        is_purchase = history.kinds == KIND_CODES[s.PURCHASE]
        purchases = max(float(np.count_nonzero(is_purchase)), 1.0)
        mine, kin = _Counts.of(codes, history), _Counts.of(categories.astype(np.int32), history)
        again = mine.bought > 1
        gap = np.zeros(len(mine.keys))
        gap[again] = (mine.last_bought - mine.first_bought)[again] / DAY_US / (mine.bought[again] - 1)
        none = np.zeros(len(gap))
        of_product = (
            *(mine.bought, mine.viewed, mine.returned, none, none),
            *(gap, none, mine.bought / purchases),
        )
        of_category = (kin.bought, kin.viewed, kin.bought / purchases, np.zeros(len(kin.keys)))
        return cls(
            history=history,
            shelf=shelf,
            purchases_at=history.at[is_purchase],
            distinct=len(set(history.products)),
            products=mine,
            categories=kin,
            of_products=_table(of_product, _PRODUCT_DEFAULTS),
            of_categories=_table(of_category, _CATEGORY_DEFAULTS),
            mean_value=float(history.values[is_purchase].mean()) if is_purchase.any() else 0.0,
        )

    def at(self, at: datetime) -> RecentFeatures:
        """Return the features at an instant after the last event."""
        now = to_micros(at)
        products, categories = self.of_products.copy(), self.of_categories.copy()
        since, gap = products[:-1, 3], products[:-1, 5]
        since[:] = _elapsed(now, self.products.last_bought)
        products[:-1, 4] = _elapsed(now, self.products.last_seen)
        np.divide(since, gap, out=products[:-1, 6], where=gap > 0)
        categories[:-1, 3] = _elapsed(now, self.categories.last_bought)
        return RecentFeatures(
            customer=np.array(
                [
                    _since(now, self.history.at),
                    _since(now, self.purchases_at),
                    _within(now, self.history.at, 1),
                    _within(now, self.history.at, 7),
                    _within(now, self.purchases_at, 7),
                    self.distinct,
                ],
                dtype=np.float64,
            ),
            product_idx=self.products.keys,
            category=self.categories.keys,
            _by_product=products,
            _by_category=categories,
            _mean_value=self.mean_value,
            _shelf=self.shelf,
        )


def recent_features(history: History, at: datetime, shelf: Shelf) -> RecentFeatures:
    """Compute fresh behaviour features at an instant.

    Parameters
    ----------
    history
        The customer's events; those at or after ``at`` are ignored.
    at
        The instant, timezone-aware UTC.
    shelf
        The products; those of the history that are not on it count for the customer only.
    """
    return Behaviour.of(history.before(at), shelf).at(at)


def _elapsed(now: int, at: NDArray[np.int64]) -> Floats:
    """Return days since each instant (µs), ``NEVER_DAYS`` at most and where there is none."""
    return np.minimum((now - at) / DAY_US, NEVER_DAYS)


def _since(now: int, at: NDArray[np.int64]) -> float:
    """Return days since the last of instants in order, ``NEVER_DAYS`` at most."""
    return min((now - int(at[-1])) / DAY_US, NEVER_DAYS) if len(at) else NEVER_DAYS


def _within(now: int, at: NDArray[np.int64], days: int) -> int:
    """Return how many of instants in order lie in the last days."""
    return len(at) - int(at.searchsorted(now - days * DAY_US))


def _table(columns: tuple[Floats, ...], defaults: Floats) -> Floats:
    table = np.empty((len(columns[0]) + 1, len(columns)))
    for number, column in enumerate(columns):
        table[:-1, number] = column
    table[-1] = defaults
    return table


def _places(asked: Int32, known: Int32) -> NDArray[np.intp]:
    """Return the row of each asked key, the one after the last for keys that are not known."""
    if not len(known):
        return np.zeros(len(asked), dtype=np.intp)
    place = np.searchsorted(known, asked)
    place[place == len(known)] = 0
    place[known[place] != asked] = len(known)
    return place
