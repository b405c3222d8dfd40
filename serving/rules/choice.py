"""Which candidate takes the next slot: the next in order or the most marginally relevant, while caps leave room.

Maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998) chooses, one after another, the candidate with the
highest λ · relevance − (1 − λ) · (highest similarity with what is chosen). Similarity is the cosine of the
products' vectors. Scores of different sources have different scales, so relevance is the place: 1 for the first of
m candidates, then 1/m less each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serving.filtering import Mask
from serving.reasons import Nearness

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Places = NDArray[np.intp]

_TAKEN: Final = -np.inf
#: Of so many candidates the values against each other are computed at once: cheaper than one row after another.
_AT_ONCE: Final = 64


class Categories:
    """The categories of a catalog's products, as caps see them.

    Parameters
    ----------
    codes
        (products,) of each product's category, −1 without one.
    count
        How many categories there are.
    """

    def __init__(self, codes: Int64, count: int) -> None:
        self._codes = codes
        order = np.argsort(codes, kind="stable").astype(np.int32)
        ends = np.searchsorted(codes[order], np.arange(-1, count), side="right")
        self._rows = np.split(order, ends[:-1])

    def of(self, products: Int32) -> list[int]:
        """Return the code of each product's category."""
        return self._codes.take(products).tolist()  # type: ignore[no-any-return]

    def code(self, product: int) -> int:
        """Return the code of a product's category."""
        return int(self._codes[product])

    def rows(self, code: int) -> Int32:
        """Return the products of a category."""
        return self._rows[code + 1]


class Room:
    """How much room caps leave in the categories of an answer.

    Parameters
    ----------
    categories
        Of the products.
    limits
        How many products of each code an answer takes, the last for code −1; None: any number.
    """

    def __init__(self, categories: Categories, limits: Sequence[float] | None) -> None:
        self._categories = categories
        self._limits = limits
        #: Whether nothing is capped.
        self.is_open = limits is None
        self._used: dict[int, int] = {}

    def code(self, product: int) -> int:
        """Return the code of a product's category; −1 where nothing is capped."""
        return -1 if self._limits is None else self._categories.code(product)

    def codes(self, products: Int32) -> list[int]:
        """Return the code of each product's category."""
        return [-1] * len(products) if self._limits is None else self._categories.of(products)

    def has(self, code: int) -> bool:
        """Whether one more product of a category fits."""
        return self._limits is None or self._used.get(code, 0) < self._limits[code]

    def take(self, code: int, products: int = 1) -> None:
        """Count a product in, or out with −1."""
        if self._limits is not None:
            self._used[code] = self._used.get(code, 0) + products

    def used(self, code: int) -> int:
        """Return how many products of a category are counted."""
        return self._used.get(code, 0)

    def full(self) -> list[int]:
        """Return the categories without room."""
        return [code for code in self._used if not self.has(code)]

    def left(self, allowed: Mask, code: int) -> int:
        """Return how many of the allowed products (products,) are of a category."""
        return int(np.count_nonzero(allowed[self._categories.rows(code)]))

    def clear(self, mask: Mask) -> None:
        """Take the products of categories without room out of ``mask`` (products,)."""
        for code in self.full():
            mask[self._categories.rows(code)] = False


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
        units = nearness.units(products[order])  # in order, so that of equals the first one is chosen
        size, dimensions = units.shape
        # relevance beside the vectors, so that one product of matrices weighs it against what is chosen
        self._table = np.empty((size, dimensions + 1), dtype=np.float32)
        self._table[:, :-1] = units
        self._table[:, -1] = trade_off * (1.0 - np.arange(size) / size)
        self._weights = self._table * np.float32(trade_off - 1.0)
        self._weights[:, -1] = 1.0
        self._against = self._weights @ self._table.T if size <= _AT_ONCE else None
        self._values = self._table[:, -1].copy()
        self._chosen: list[NDArray[np.float32]] = []
        self._passed: list[int] = []
        self._order: list[int] = order.tolist()
        self._turns: dict[int, int] | None = None
        self._turn = -1
        self._codes = codes
        self._room = room

    def next(self) -> int | None:
        """See ``InOrder``."""
        values = self._values
        while True:
            self._turn = turn = int(values.argmax())
            if values[turn] == _TAKEN:
                return None
            place = self._order[turn]
            if self._room.has(self._codes[place]):
                return place
            values[turn] = _TAKEN  # no room comes back: products are only counted in
            self._passed.append(turn)

    def next_of_all(self) -> int | None:
        """See ``InOrder``."""
        if not self._passed:
            return None
        passed = np.array(sorted(self._passed))
        values = np.min(self._chosen, axis=0) if self._chosen else self._table[:, -1]
        self._turn = int(passed[values[passed].argmax()])
        return self._order[self._turn]

    def took(self, place: int) -> None:
        """See ``InOrder``."""
        turn = self._turn
        if turn < 0 or self._order[turn] != place:  # not what ``next`` has returned last
            if self._turns is None:
                self._turns = {one: number for number, one in enumerate(self._order)}
            turn = self._turns[place]
        against = self._table @ self._weights[turn] if self._against is None else self._against[turn]
        if self._chosen:
            np.minimum(self._values, against, out=self._values)
        else:
            self._values = against.copy()
        self._chosen.append(against)
        self._values[turn] = _TAKEN
        if self._passed:
            self._passed = [one for one in self._passed if one != turn]
