"""The order of an answer: candidates in, soft rules applied, slots out.

Boosts move candidates and pins take their slots; the other slots go, one after another, to the best candidate left
whose category has room, by maximal marginal relevance where diversity is asked for. Then a quota of new products
takes the last ones, and exploration draws what its slots show. So that n products always come, caps give way first,
and only once no product of another category is left among all that pass the hard rules; diversity is left out next,
for what is looked at now, which comes last; a pin gives way where the answer ends before its slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.draws import Draws
from serving.filtering import Mask
from serving.reasons import Nearness
from serving.rules.choice import Categories, Room
from serving.rules.exploration import chance, nth, propensity
from serving.rules.soft import NO_LENGTHS, NO_MASK, NO_VECTORS, Exploring, Soft

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

PINNED: Final = "pinned"
NEW: Final = "new"
EXPLORE: Final = "explore"
#: Candidates are drawn for so many answers, and at least so many.
DEPTH: Final = 5
LEAST: Final = 50


@cache
def compiled() -> ModuleType:
    """Return ``serving.rules.filling``, which is compiled when it is first asked for."""
    from serving.rules import filling

    return filling


class Arranged(NamedTuple):
    """An answer, slot by slot: places in the draws, the rule's source where it has one, and how likely each was."""

    places: list[int]
    sources: list[str | None]
    propensities: list[float]


class Arrangement:
    """Arranges answers.

    Parameters
    ----------
    categories
        Of the products.
    nearness
        Of the products; None for a model without vectors, whose answers diversity leaves as they are.
    """

    def __init__(self, categories: Categories, nearness: Nearness | None) -> None:
        self._categories = categories
        self._nearness = nearness

    def of(
        self, soft: Soft, draws: Draws, allowed: Mask, n: int, *, at: int, request_id: str | None
    ) -> Arranged:
        """Return an answer of ``n`` slots, or as many as products are allowed where there are fewer.

        Parameters
        ----------
        soft
            The rules.
        draws
            Nothing drawn yet.
        allowed
            (products,) mask of what may be shown.
        n
            How many slots.
        at
            The instant (µs), to which products are new.
        request_id
            Seeds exploration; None: nothing is explored.
        """
        deep = max(DEPTH * n, LEAST) if soft.chooses else n + len(soft.pins)
        draws.draw(allowed, n, deep)
        n = min(n, len(draws.products))  # fewer are drawn only where that is all
        answer = _Answer(n, draws, allowed, soft, self._categories)
        if soft.reorders:
            answer.fill(self._nearness, at)
        if soft.exploring is not None and request_id is not None:
            answer.explore(soft.exploring, request_id)
        return Arranged(answer.places, answer.sources, answer.propensities)


class _Answer:
    """An answer in the making, at first the candidates as they come."""

    def __init__(self, n: int, draws: Draws, allowed: Mask, soft: Soft, categories: Categories) -> None:
        self._draws = draws
        self._allowed = allowed
        self._soft = soft
        self._categories = categories
        self._n = n
        self.places = list(range(n))
        self.sources: list[str | None] = [None] * n
        self.propensities = [1.0] * n

    def fill(self, nearness: Nearness | None, at: int) -> None:
        """Fill the slots as pins, boosts, caps, diversity and quotas of new products say."""
        soft, draws, n, filling = self._soft, self._draws, self._n, compiled()
        held, origins = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int8)
        held.fill(-1)
        origins.fill(filling.FREE)
        vectors, scale, trade_off = NO_VECTORS, NO_LENGTHS, 1.0
        if nearness is not None and soft.trade_off < 1.0:
            vectors, scale, trade_off = nearness.vectors, nearness.scale, soft.trade_off
        is_new, quota, is_kept = NO_MASK, 0, NO_MASK
        if soft.fresh is not None:
            is_new, quota = soft.fresh.mask(at), soft.fresh.at_least
            is_kept = NO_MASK if soft.exploring is None else soft.exploring.mask(n)
        fill, codes, (slots, pins) = filling.fill, self._categories.codes, soft.pinned
        boosted, are_all, give_way = 0, False, False
        while missing := fill(
            held, origins, draws.products, boosted, slots, pins, self._allowed, soft.factors, codes, soft.limits,
            give_way, vectors, scale, trade_off, is_new, quota, are_all, is_kept,
        ):  # fmt: skip
            self._draw_pinned(held.tolist())
            boosted = boosted or len(draws.products)
            filled = held[origins != filling.FREE]
            if missing == filling.TOO_FEW_NEW:
                are_all = True
                self._draw_more(filled, DEPTH * quota, only=is_new)
            # what has no room now will have none later; where all has been drawn, caps give way
            elif not self._draw_more(filled, max(DEPTH * n, LEAST)):
                give_way = True
        self.places = held.tolist()
        sources = {filling.CHOSEN: None, filling.PINNED: PINNED, filling.NEW: NEW}
        self.sources = [sources[origin] for origin in origins.tolist()]
        self._draw_pinned(self.places)

    def _draw_pinned(self, places: Sequence[int]) -> None:
        """Draw the pinned products that have places after all that is drawn."""
        drawn = len(self._draws.products)
        missing = [product for slot, product in self._soft.pins if slot < self._n and places[slot] >= drawn]
        if missing:
            self._draws.add(missing)

    def _draw_more(self, held: Int64, most: int, *, only: Mask | None = None) -> bool:
        """Draw more, of categories that have room beside what is held; return whether there were any."""
        left = self._allowed.copy() if only is None else self._allowed & only
        left[self._draws.products] = False
        if len(self._soft.limits):
            Room(self._categories, self._soft.limits, self._draws.products.take(held)).clear(left)
        return bool(left.any()) and self._draws.draw(left, 1, most) > 0

    def explore(self, exploring: Exploring, request_id: str) -> None:
        """Let chance decide what slots show that are not pinned.

        Anything allowed that no other slot shows and caps have room for; see ``serving.rules.exploration``.
        """
        there, draws, limits = int(np.count_nonzero(self._allowed)), self._draws, self._soft.limits
        shown = draws.products.take(self.places)
        for slot in exploring.slots:
            if slot >= self._n or self.sources[slot] == PINNED:
                continue
            size, usual = there - (self._n - 1), int(shown[slot])
            if len(limits):
                held = self._categories
                size -= compiled().roomless(
                    shown, slot, held.codes, limits, held.by_category, held.starts, self._allowed
                )
            drawn = chance(exploring.name, slot, request_id)
            chosen = usual
            if drawn.u < exploring.epsilon:
                chosen = nth(self._eligible(shown, slot), drawn.number % size)
            self.propensities[slot] = propensity(exploring.epsilon, size, is_greedy=chosen == usual)
            if chosen != usual:
                self.places[slot], self.sources[slot] = draws.named([chosen])[0], EXPLORE
                shown[slot] = chosen

    def _eligible(self, shown: Int32, slot: int) -> Mask:
        """Return what a slot could show (products,) beside what the others show."""
        others = np.delete(shown, slot)
        eligible = self._allowed.copy()
        if len(self._soft.limits):
            Room(self._categories, self._soft.limits, others).clear(eligible)
        eligible[others] = False
        eligible[shown[slot]] = True
        return eligible
