"""Fresh behaviour: one function of (history, instant, catalog), used offline and online alike.

A ``History`` is the row of the view ``customer_recent``: the last events of one customer, oldest first;
training, evaluation and the service read the same one. ``recent_features`` is the one place for numbers such
as "bought three times, last a week ago", for models of (customer, product) pairs; the models of today read
the history through the encoder and do not ask for it yet. Only events strictly before the asked instant count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
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
        """Return the history of somebody never seen."""
        return cls.of([])

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
        """Build from a row of ``customer_recent``; a missing row is an empty history."""
        products = row.get(v.RECENT_PRODUCTS)
        if products is None or len(products) == 0:
            return cls.empty()
        return cls.of(zip(products, row[v.RECENT_KINDS], row[v.RECENT_AT], row[v.RECENT_VALUES], strict=True))

    def to_rows(self) -> list[list[Any]]:
        """Return [product_id, kind, microseconds, value] an event, for JSON."""
        kinds = [s.KINDS[code] for code in self.kinds]
        return [
            list(row)
            for row in zip(self.products, kinds, self.at.tolist(), self.values.tolist(), strict=True)
        ]

    def before(self, at: datetime) -> History:
        """Return the events strictly before ``at``."""
        if len(self) == 0 or int(self.at[-1]) < to_micros(at):
            return self
        end = int(np.searchsorted(self.at, to_micros(at), side="left"))
        return History(self.products[:end], self.kinds[:end], self.at[:end], self.values[:end])


@dataclass(frozen=True)
class RecentFeatures:
    """Fresh features of one customer, and of the customer with each product of the history.

    ``customer`` maps a name to a number. The arrays have one entry a distinct known product of the
    history: ``product_idx`` (int32, ascending), ``bought``, ``viewed``, ``returned`` (counts),
    ``days_since_bought`` and ``days_since_seen`` (days, ``NEVER_DAYS`` when it never happened).
    """

    customer: dict[str, float]
    product_idx: NDArray[np.int32]
    bought: NDArray[np.float64]
    viewed: NDArray[np.float64]
    returned: NDArray[np.float64]
    days_since_bought: NDArray[np.float64]
    days_since_seen: NDArray[np.float64]


def recent_features(history: History, at: datetime, index: Mapping[str, int]) -> RecentFeatures:
    """Compute fresh behaviour features at an instant.

    Parameters
    ----------
    history
        The customer's events; those at or after ``at`` are ignored.
    at
        The instant, timezone-aware UTC.
    index
        Product id → product index of the catalog; products outside it count for the customer only.
    """
    history = history.before(at)
    ages = (to_micros(at) - history.at) / DAY_US
    is_purchase = history.kinds == KIND_CODES[s.PURCHASE]
    is_return = history.kinds == KIND_CODES[s.RETURN]
    customer = {
        "days_since_event": float(ages.min(initial=NEVER_DAYS)),
        "days_since_purchase": float(ages[is_purchase].min(initial=NEVER_DAYS)),
        "events_1d": float((ages <= 1).sum()),
        "events_7d": float((ages <= 7).sum()),
        "purchases_7d": float((is_purchase & (ages <= 7)).sum()),
        "distinct_products": float(len(set(history.products))),
    }
    codes = np.array([index.get(product, -1) for product in history.products], dtype=np.int32)
    known = codes >= 0
    product_idx, place = np.unique(codes[known], return_inverse=True)
    size = len(product_idx)

    def count(flag: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.bincount(place, weights=flag[known], minlength=size).astype(np.float64)

    def elapsed(flag: NDArray[np.bool_]) -> NDArray[np.float64]:
        days = np.full(size, NEVER_DAYS)
        np.minimum.at(days, place[flag[known]], ages[known][flag[known]])
        return days

    everything = np.ones(len(history), dtype=np.bool_)
    return RecentFeatures(
        customer=customer,
        product_idx=product_idx.astype(np.int32),
        bought=count(is_purchase),
        viewed=count(~is_purchase & ~is_return),
        returned=count(is_return),
        days_since_bought=elapsed(is_purchase),
        days_since_seen=elapsed(everything),
    )
