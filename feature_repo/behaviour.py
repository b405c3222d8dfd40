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

    def keys(self, product_idx: Int32) -> Int32:
        """Return keys (2n,): the products, then what stands for the category of each; ``no_category`` for none."""
        return np.concatenate([product_idx, self.category[product_idx] + np.int32(self.no_category + 1)])

    @property
    def no_category(self) -> int:
        """The key that stands for no category: of keys of products and categories no one else's."""
        return len(self.category)


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
#: The first columns are those of a product; those of its category are some of the same, of all its products together.
_OF_PRODUCT: Final = tuple(PAIR)[:8]
_OF_CATEGORY: Final = [_OF_PRODUCT.index(name) for name in ("bought", "viewed", "share", "days_since_bought")]
_SINCE_BOUGHT, _SINCE_SEEN, _GAP, _LATENESS, _SHARE = (
    _OF_PRODUCT.index(name)
    for name in ("days_since_bought", "days_since_seen", "gap_days", "lateness", "share")
)
_DEFAULTS: Final = np.array([PAIR[name][1] for name in _OF_PRODUCT])
#: What an event of each kind counts as, by the kind's code: bought, viewed or returned.
_COUNTS_AS: Final = np.array([{s.PURCHASE: 0, s.RETURN: 2}.get(kind, 1) for kind in s.KINDS])


@dataclass(frozen=True)
class RecentFeatures:
    """Fresh features of one customer at one instant, and of the customer with any product of the shelf.

    ``customer`` holds the values of ``FRESH``; ``pairs`` gives those with products. ``_keys`` (int32, ascending) are
    the known products of the history and after them their categories (``Shelf.keys``); ``_table`` has a row for each
    and one more, of defaults.
    """

    customer: Floats
    _keys: Int32
    _table: Floats
    _mean_value: float
    _shelf: Shelf

    @property
    def product_idx(self) -> Int32:
        """The known products of the history, ascending."""
        return self._keys[self._keys < self._shelf.no_category]

    def pairs(self, product_idx: Int32) -> Floats:
        """Return the features of ``PAIR`` for the products (n,): float64 (n, features), defaults where unknown."""
        count = len(product_idx)
        rows = _places(self._shelf.keys(product_idx), self._keys)
        found = np.empty((count, len(PAIR)))
        found[:, :8] = self._table[rows[:count]]
        found[:, 8:12] = self._table[:, _OF_CATEGORY][rows[count:]]
        if self._mean_value > 0:
            ratio = self._shelf.price[product_idx] / self._mean_value
            ratio[~np.isfinite(ratio)] = 0.0
            found[:, 12] = ratio
        else:
            found[:, 12] = 0.0
        return found


@dataclass(frozen=True)
class Behaviour:
    """What a history comes down to, whenever it is asked about; every event of it counts.

    ``keys`` (m,) are the known products of the history and after them their categories. ``table`` (m + 1, columns) is
    that of ``RecentFeatures`` but for the columns that time moves, which follow from when (µs, (m,)) one of a key was
    ``last_bought`` and ``last_seen``.
    """

    history: History
    shelf: Shelf
    purchases_at: NDArray[np.int64]
    distinct: int
    keys: Int32
    table: Floats
    last_bought: NDArray[np.int64]
    last_seen: NDArray[np.int64]
    mean_value: float

    @classmethod
    def of(cls, history: History, shelf: Shelf) -> Behaviour:
        """Gather the events of ``history``; those with products not on the shelf count for the customer only."""
        is_purchase = history.kinds == KIND_CODES[s.PURCHASE]
        purchases_at = history.at[is_purchase]
        codes = history.places(shelf.index)
        on_shelf = codes >= 0
        at, kinds = history.at, history.kinds
        if not on_shelf.all():
            codes, at, kinds = codes[on_shelf], at[on_shelf], kinds[on_shelf]
        # every event once by its product and once by its category
        keys, at, kinds = shelf.keys(codes), np.concatenate([at, at]), np.concatenate([kinds, kinds])
        has_key = keys != shelf.no_category
        if not has_key.all():
            keys, at, kinds = keys[has_key], at[has_key], kinds[has_key]
        keys, place = np.unique(keys, return_inverse=True)
        size = len(keys)
        table = np.empty((size + 1, len(_DEFAULTS)))
        table[-1] = _DEFAULTS
        counts = np.bincount(3 * place + _COUNTS_AS[kinds], minlength=3 * size).reshape(size, 3)
        table[:-1, :3] = counts
        bought = np.flatnonzero(kinds == KIND_CODES[s.PURCHASE])
        whose, when = place[bought], at[bought]
        last_bought, last_seen = np.full(size, _NEVER_US), np.full(size, _NEVER_US)
        first_bought = np.zeros(size, dtype=np.int64)
        # events are in order of time: of several of a key the last assignment stands
        last_seen[place] = at
        last_bought[whose] = when
        first_bought[whose[::-1]] = when[::-1]
        table[:-1, _GAP] = 0.0
        np.divide(
            (last_bought - first_bought) / DAY_US,
            counts[:, 0] - 1,
            out=table[:-1, _GAP],
            where=counts[:, 0] > 1,
        )
        table[:-1, _LATENESS] = 0.0
        table[:-1, _SHARE] = counts[:, 0] / max(len(purchases_at), 1)
        return cls(
            history=history,
            shelf=shelf,
            purchases_at=purchases_at,
            distinct=len(set(history.products)),
            keys=keys,
            table=table,
            last_bought=last_bought,
            last_seen=last_seen,
            mean_value=float(history.values[is_purchase].mean()) if len(purchases_at) else 0.0,
        )

    def at(self, at: datetime) -> RecentFeatures:
        """Return the features at an instant after the last event."""
        now = to_micros(at)
        table = self.table.copy()
        since, gap = table[:-1, _SINCE_BOUGHT], table[:-1, _GAP]
        since[:] = _elapsed(now, self.last_bought)
        table[:-1, _SINCE_SEEN] = _elapsed(now, self.last_seen)
        np.divide(since, gap, out=table[:-1, _LATENESS], where=gap > 0)
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
            _keys=self.keys,
            _table=table,
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


def _places(asked: Int32, known: Int32) -> NDArray[np.intp]:
    """Return the row of each asked key, the one after the last for keys that are not known."""
    if not len(known):
        return np.zeros(len(asked), dtype=np.intp)
    place = np.searchsorted(known, asked)
    place[place == len(known)] = 0
    place[known[place] != asked] = len(known)
    return place
