"""Which candidate takes the next slot: the next in order or the most marginally relevant, while caps leave room.

Maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998) chooses, one after another, the candidate with the
highest λ · relevance − (1 − λ) · (highest similarity with what is chosen). Similarity is the cosine of the
products' vectors. Scores of different sources have different scales, so relevance is the place: 1 for the first of
m candidates, then 1/m less each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from serving.filtering import Mask
from serving.reasons import Nearness

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Places = NDArray[np.intp]


class Room:
    """How much room caps leave in the categories of an answer.

    Parameters
    ----------
    categories
        (products,) codes, −1 without a category.
    limits
        How many products of each code an answer takes, the last for code −1; None: any number.
    """

    def __init__(self, categories: Int64, limits: Sequence[float] | None) -> None:
        self._categories = categories
        self._limits = limits
        self._used: dict[int, int] = {}

    def code(self, product: int) -> int:
        """Return the code of a product's category; −1 where nothing is capped."""
        return -1 if self._limits is None else int(self._categories[product])

    def codes(self, products: Int32) -> list[int]:
        """Return the code of each product's category."""
        return [-1] * len(products) if self._limits is None else self._categories[products].tolist()

    def has(self, code: int) -> bool:
        """Whether one more product of a category fits."""
        return self._limits is None or self._used.get(code, 0) < self._limits[code]

    def take(self, code: int, products: int = 1) -> None:
        """Count a product in, or out with −1."""
        self._used[code] = self._used.get(code, 0) + products

    def full(self) -> list[int]:
        """Return the categories without room."""
        return [code for code in self._used if not self.has(code)]

    def clear(self, mask: Mask) -> None:
        """Take the products of categories without room out of ``mask`` (products,)."""
        for code in self.full():
            mask &= self._categories != code


class InOrder:
    """Chooses the next one in order.

    Parameters
    ----------
    order
        Places of the candidates, best first.
    codes
        Of their categories, by place.
    room
        What caps leave.
    """

    def __init__(self, order: Places, codes: Sequence[int], room: Room) -> None:
        self._left: Iterator[int] = iter(order.tolist())
        self._codes = codes
        self._room = room
        self._held: list[int] = []
        self._taken: set[int] = set()

    def next(self) -> int | None:
        """Return the best place whose category has room; None where there is none."""
        for place in self._left:
            if place in self._taken:
                continue
            if self._room.has(self._codes[place]):
                return place
            self._held.append(place)
        return None

    def next_of_all(self) -> int | None:
        """Return the best place left, whatever its category; asked only after ``next`` had none."""
        return next((place for place in self._held if place not in self._taken), None)

    def took(self, place: int) -> None:
        """Take a place out of the choice."""
        self._taken.add(place)


class Marginal:
    """Chooses by maximal marginal relevance; parameters and methods as of ``InOrder``.

    Parameters
    ----------
    products
        (m,) the candidates by place.
    trade_off
        λ.
    nearness
        Of the products.
    """

    def __init__(
        self,
        order: Places,
        codes: Sequence[int],
        room: Room,
        *,
        products: Int32,
        trade_off: float,
        nearness: Nearness,
    ) -> None:
        size = len(order)
        self._order = order
        self._turn = np.empty(size, dtype=np.intp)
        self._turn[order] = np.arange(size)
        # all of these in order, so that of equals the first one is chosen
        self._units = nearness.units(products[order])
        self._relevance = (trade_off * (1.0 - np.arange(size) / size)).astype(np.float32)
        self._weight = np.float32(1.0 - trade_off)
        self._nearest: NDArray[np.float32] | None = None
        self._values = self._relevance
        self._codes = codes
        self._room = room

    def next(self) -> int | None:
        """See ``InOrder``."""
        values = self._values
        while values[turn := int(values.argmax())] > -np.inf:
            place = int(self._order[turn])
            code = self._codes[place]
            if self._room.has(code):
                return place
            values = np.where(np.array(self._codes)[self._order] == code, -np.inf, values)
        return None

    def next_of_all(self) -> int | None:
        """See ``InOrder``."""
        turn = int(self._values.argmax())
        return int(self._order[turn]) if self._values[turn] > -np.inf else None

    def took(self, place: int) -> None:
        """See ``InOrder``."""
        turn = self._turn[place]
        near = self._units @ self._units[turn]
        self._nearest = near if self._nearest is None else np.maximum(self._nearest, near, out=self._nearest)
        self._relevance[turn] = -np.inf
        self._values = self._relevance - self._weight * self._nearest
