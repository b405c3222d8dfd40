"""Fresh behaviour: one function of (history, instant, catalog), used offline and online alike.

A ``History`` is the row of the view ``customer_recent``: the last events of one customer, oldest first;
training, evaluation and the service read the same one. ``recent_features`` is the one place for numbers such
as "bought three times, last a week ago", of (customer, product) pairs; retrieval reads the history through the
encoder and does not ask for them. Only events strictly before the asked instant count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import repeat
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.names import NEVER_DAYS

DAY_US: Final = 86_400_000_000
KIND_CODES: Final[dict[str, int]] = {kind: code for code, kind in enumerate(s.KINDS)}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def to_micros(at: datetime) -> int:
    """Return microseconds since 1970 of an aware instant, exactly."""
    delta = at - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


@dataclass(frozen=True)
class History:
    """Events of one customer, oldest first; the four arrays have one entry an event.

    ``products`` are ids, ``kinds`` codes of ``KIND_CODES`` (int8), ``at`` microseconds since 1970 UTC
    (int64), ``values`` money (float64).
    """

    products: tuple[str, ...]
    kinds: NDArray[np.int8]
    at: NDArray[np.int64]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.products)

    @classmethod
    def empty(cls) -> History:
        """Return the history of somebody never seen; there is one, since nothing changes a history."""
        return _EMPTY

    @classmethod
    def of(cls, events: Iterable[tuple[str, str, int, float]]) -> History:
        """Build from (product_id, kind, microseconds, value) in order."""
        rows = list(events)
        return cls(
            tuple(row[0] for row in rows),
            np.array([KIND_CODES[row[1]] for row in rows], dtype=np.int8),
            np.array([row[2] for row in rows], dtype=np.int64),
            np.array([row[3] for row in rows], dtype=np.float64),
        )

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> History:
        """Build from a row of ``customer_recent``; a missing row is an empty history.

        Raises
        ------
        ValueError, KeyError
            The columns do not have one entry an event, or a kind is unknown.
        """
        products = row.get(v.RECENT_PRODUCTS)
        if products is None or len(products) == 0:
            return cls.empty()
        kinds = np.array([KIND_CODES[kind] for kind in row[v.RECENT_KINDS]], dtype=np.int8)
        at = np.array(row[v.RECENT_AT], dtype=np.int64)
        values = np.array(row[v.RECENT_VALUES], dtype=np.float64)
        if not len(products) == len(kinds) == len(at) == len(values):
            raise ValueError(
                f"expected one product, kind, time and value an event, found {len(products)}, {len(kinds)}, "
                f"{len(at)} and {len(values)}"
            )
        return cls(tuple(products), kinds, at, values)

    def to_rows(self) -> list[list[Any]]:
        """Return [product_id, kind, microseconds, value] an event, for JSON."""
        kinds = [s.KINDS[code] for code in self.kinds]
        return [
            list(row)
            for row in zip(self.products, kinds, self.at.tolist(), self.values.tolist(), strict=True)
        ]

    def where(self, kept: NDArray[np.bool_]) -> History:
        """Return the events whose entry in ``kept`` (events,) is true."""
        products = tuple(p for p, keep in zip(self.products, kept.tolist(), strict=True) if keep)
        return History(products, self.kinds[kept], self.at[kept], self.values[kept])

    def beside(self, other: History) -> History:
        """Return the events of both, by time; of one instant those of ``self`` stand first."""
        if not len(other):
            return self
        order = np.argsort(np.concatenate([self.at, other.at]), kind="stable")
        products = (*self.products, *other.products)
        return History(
            tuple(products[place] for place in order.tolist()),
            np.concatenate([self.kinds, other.kinds])[order],
            np.concatenate([self.at, other.at])[order],
            np.concatenate([self.values, other.values])[order],
        )

    def places(self, index: Mapping[str, int]) -> NDArray[np.int32]:
        """Return the product index (events,) of each event, −1 where ``index`` has none; remembered for one of them."""
        held = self.__dict__.get("_places")
        if held is None or held[0] is not index:
            found = np.fromiter(map(index.get, self.products, repeat(-1)), np.int32, len(self.products))
            held = self.__dict__["_places"] = (index, found)
        return held[1]

    def before(self, at: datetime) -> History:
        """Return the events strictly before ``at``."""
        if len(self) == 0 or int(self.at[-1]) < to_micros(at):
            return self
        end = int(np.searchsorted(self.at, to_micros(at), side="left"))
        return History(self.products[:end], self.kinds[:end], self.at[:end], self.values[:end])


_EMPTY: Final = History.of([])


@dataclass(frozen=True)
class Shelf:
    """What of the catalog fresh features need.

    ``index`` maps a product id to its product index; by product index there are ``category`` (int32 code, −1 for
    none) and ``price`` (float64, NaN when unknown).
    """

    index: Mapping[str, int]
    category: NDArray[np.int32]
    price: NDArray[np.float64]


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


@dataclass(frozen=True)
class RecentFeatures:
    """Fresh features of one customer at one instant, and of the customer with any product of the shelf.

    ``customer`` maps a name to a number; ``pairs`` gives those with products. ``product_idx`` (int32, ascending)
    are the known products of the history, ``category`` (int32, ascending) their categories.
    """

    customer: dict[str, float]
    product_idx: NDArray[np.int32]
    category: NDArray[np.int32]
    _by_product: NDArray[np.float64]
    _by_category: NDArray[np.float64]
    _mean_value: float
    _shelf: Shelf

    def pairs(self, product_idx: NDArray[np.int32]) -> NDArray[np.float64]:
        """Return the features of ``PAIR`` for the products (n,): float64 (n, features), defaults where unknown."""
        of_product = _looked_up(product_idx, self.product_idx, self._by_product, _OF_PRODUCT)
        categories = self._shelf.category[product_idx]
        of_category = _looked_up(categories, self.category, self._by_category, _OF_CATEGORY)
        price = self._shelf.price[product_idx]
        known = np.isfinite(price) & (self._mean_value > 0)
        ratio = np.divide(price, self._mean_value, out=np.zeros(len(price)), where=known)
        return np.column_stack([of_product, of_category, ratio])


def _looked_up(
    asked: NDArray[np.int32], known: NDArray[np.int32], rows: NDArray[np.float64], names: tuple[str, ...]
) -> NDArray[np.float64]:
    """Return the row of each asked key, the defaults for keys that are not known."""
    found = np.tile([PAIR[name][1] for name in names], (len(asked), 1))
    place = np.searchsorted(known, asked)
    place[place == len(known)] = 0
    hit = known[place] == asked if len(known) else np.zeros(len(asked), dtype=np.bool_)
    found[hit] = rows[place[hit]]
    return found


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
    history = history.before(at)
    ages = (to_micros(at) - history.at) / DAY_US
    is_purchase = history.kinds == KIND_CODES[s.PURCHASE]
    is_return = history.kinds == KIND_CODES[s.RETURN]
    purchases = float(is_purchase.sum())
    customer = {
        "days_since_event": float(ages.min(initial=NEVER_DAYS)),
        "days_since_purchase": float(ages[is_purchase].min(initial=NEVER_DAYS)),
        "events_1d": float((ages <= 1).sum()),
        "events_7d": float((ages <= 7).sum()),
        "purchases_7d": float((is_purchase & (ages <= 7)).sum()),
        "distinct_products": float(len(set(history.products))),
    }
    codes = history.places(shelf.index)
    categories = np.where(codes >= 0, shelf.category[codes], -1) if len(codes) else codes
    flags = _Flags(ages, is_purchase, ~is_purchase & ~is_return, is_return)
    product_idx, by_product = _counted(codes, flags)
    bought, viewed, returned, since_bought, since_seen, first_bought = by_product.T
    gap = np.divide(first_bought - since_bought, bought - 1, out=np.zeros(len(bought)), where=bought > 1)
    lateness = np.divide(since_bought, gap, out=np.zeros(len(gap)), where=gap > 0)
    share = bought / max(purchases, 1.0)
    category, by_category = _counted(categories.astype(np.int32), flags)
    return RecentFeatures(
        customer=customer,
        product_idx=product_idx,
        category=category,
        _by_product=np.column_stack(
            [bought, viewed, returned, since_bought, since_seen, gap, lateness, share]
        ),
        _by_category=np.column_stack(
            [by_category[:, 0], by_category[:, 1], by_category[:, 0] / max(purchases, 1.0), by_category[:, 3]]
        ),
        _mean_value=float(history.values[is_purchase].mean()) if purchases else 0.0,
        _shelf=shelf,
    )


@dataclass(frozen=True)
class _Flags:
    """Ages in days and kinds of the events of a history, (events,) each."""

    ages: NDArray[np.float64]
    bought: NDArray[np.bool_]
    viewed: NDArray[np.bool_]
    returned: NDArray[np.bool_]


def _counted(keys: NDArray[np.int32], flags: _Flags) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return the distinct keys ≥ 0 (ascending) and a row a key.

    The columns: times bought, viewed, returned; days since it was bought, seen, first bought.
    """
    known = keys >= 0
    distinct, place = np.unique(keys[known], return_inverse=True)
    ages, size = flags.ages[known], len(distinct)

    def count(flag: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.bincount(place, weights=flag[known], minlength=size).astype(np.float64)

    def elapsed(flag: NDArray[np.bool_]) -> NDArray[np.float64]:
        days = np.full(size, NEVER_DAYS)
        np.minimum.at(days, place[flag], ages[flag])
        return days

    first = np.zeros(size)
    bought = flags.bought[known]
    np.maximum.at(first, place[bought], ages[bought])
    columns = [count(flags.bought), count(flags.viewed), count(flags.returned)]
    columns += [elapsed(bought), elapsed(np.ones(len(ages), dtype=np.bool_)), first]
    return distinct.astype(np.int32), np.column_stack(columns)
