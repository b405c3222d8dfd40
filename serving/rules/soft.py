"""The soft rules of one request, resolved: what ``serving.rules.apply`` puts candidates in order by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serving.filtering import Mask
from serving.rules.config import MAX_SLOT

Int64 = NDArray[np.int64]
Int32 = NDArray[np.int32]
Floats = NDArray[np.float64]

#: Of rules that are absent.
NO_NUMBERS: Final = np.empty(0, dtype=np.float64)
NO_VECTORS: Final = np.empty((0, 0), dtype=np.float32)
NO_LENGTHS: Final = np.empty(0, dtype=np.float32)
NO_MASK: Final = np.empty(0, dtype=np.bool_)


@dataclass(frozen=True)
class Exploring:
    """Which slots (from 0) explore, by which rule, with which chance."""

    name: str
    slots: tuple[int, ...]
    epsilon: float

    def mask(self, n: int) -> Mask:
        """Return which of the first n slots (n,) explore, read-only."""
        return self._slots[:n]

    @cached_property
    def _slots(self) -> Mask:
        mask = np.zeros(MAX_SLOT, dtype=np.bool_)
        mask[list(self.slots)] = True
        mask.flags.writeable = False
        return mask


class Fresh:
    """A quota of new products.

    Parameters
    ----------
    at_least
        How many of an answer are new.
    time
        For how long (µs) after its launch a product is new.
    launched
        (products,) when each was launched (µs).
    """

    def __init__(self, at_least: int, time: int, launched: Int64) -> None:
        self.at_least = at_least
        self._time = time
        self._launched = launched
        self._turns = np.unique(np.concatenate([launched, launched + time]))
        self._held: tuple[int, int, Mask] | None = None

    def mask(self, at: int) -> Mask:
        """Return which products (products,) are new at an instant (µs), shared and read-only."""
        held = self._held
        if held is None or not held[0] <= at < held[1]:
            place = int(np.searchsorted(self._turns, at, side="right"))
            since = self._turns[place - 1] if place else at
            until = self._turns[place] if place < len(self._turns) else at + 1
            mask = np.asarray((self._launched > at - self._time) & (self._launched <= at))
            mask.flags.writeable = False
            held = self._held = int(since), int(until), mask
        return held[2]


@dataclass(frozen=True, eq=False)
class Soft:
    """The soft rules of one request, resolved.

    ``factors`` (products,) are those of all boosts together; ``pins`` are (slot from 0, product), of which the first
    that can stand has its slot (``standing``); ``limits`` are how many products of each category an answer takes, by
    its code, the last for products without one; without boosts, pins or caps these are empty. ``trade_off`` is the λ
    of diversity, 1 without.
    """

    factors: Floats = field(default_factory=lambda: NO_NUMBERS)
    pins: Sequence[tuple[int, int]] = ()
    limits: Floats = field(default_factory=lambda: NO_NUMBERS)
    trade_off: float = 1.0
    fresh: Fresh | None = None
    exploring: Exploring | None = None

    @cached_property
    def is_empty(self) -> bool:
        """Whether they leave every order as it is."""
        return not (self.reorders or self.exploring)

    @cached_property
    def reorders(self) -> bool:
        """Whether they put anything but the first candidates, in their order, into slots."""
        return self.chooses or bool(self.pins)

    @cached_property
    def chooses(self) -> bool:
        """Whether they choose among more candidates than are shown."""
        moves = len(self.factors) > 0 or len(self.limits) > 0 or self.trade_off < 1.0
        return moves or self.fresh is not None

    def standing(self, allowed: Mask, n: int) -> Soft:
        """Return the same with those pins alone that stand in an answer of ``n`` slots of ``allowed`` (products,).

        Pins come in their order: each has its slot if its product may be shown, stands nowhere yet, and the slot is
        free. Where no two pins are about one slot or one product, they are left as they are.
        """
        if not self._has_rivals:
            return self
        slots, products = self.pinned
        there = allowed.take(products) & (slots < min(n, int(np.count_nonzero(allowed))))
        stands: dict[int, int] = {}
        placed: set[int] = set()
        for slot, product in zip(slots[there].tolist(), products[there].tolist(), strict=True):
            if slot not in stands and product not in placed:
                stands[slot] = product
                placed.add(product)
        return replace(self, pins=tuple(stands.items()))

    @cached_property
    def _has_rivals(self) -> bool:
        slots, products = ({pin[part] for pin in self.pins} for part in (0, 1))
        return min(len(slots), len(products)) < len(self.pins)

    @cached_property
    def pinned(self) -> tuple[Int64, Int32]:
        """The slots and the products of pins, as arrays."""
        return (
            np.array([slot for slot, _ in self.pins], dtype=np.int64),
            np.array([product for _, product in self.pins], dtype=np.int32),
        )
