"""Recent history: the last events of a customer, the same offline and online.

A ``History`` is the row of the view ``customer_recent``: the last events of one customer, oldest first;
training, evaluation and the service read the same one. What numbers come of it is in ``behaviour``. Only events
strictly before the asked instant count.
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
