"""The order of an answer: candidates in, soft rules applied, slots out.

Boosts move candidates and pins take their slots; the other slots go, one after another, to the best candidate left
whose category has room, by maximal marginal relevance where diversity is asked for. Then a quota of new products
takes the last ones, and exploration draws what its slots show. So that n products always come, caps give way first,
and only once no product of another category is left among all that pass the hard rules; diversity is left out next,
for what is looked at now, which comes last; a pin gives way where the answer ends before its slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


#: By the number that ``serving.rules.filling`` gives.
_SOURCES: Final = (None, PINNED, NEW)


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


@dataclass(frozen=True)
class Arrangement:
    """Arranges answers.

    Parameters
    ----------
    categories
        Of the products.
    nearness
        Of the products; None for a model without vectors, whose answers diversity leaves as they are.
    """

    categories: Categories
    nearness: Nearness | None

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
        soft = soft.standing(allowed, n)
        deep = max(DEPTH * n, LEAST) if soft.chooses else n + len(soft.pins)
        draws.draw(allowed, n, deep)
        n = min(n, len(draws.products))  # fewer are drawn only where that is all
        if soft.reorders:
            answer = self._filled(soft, draws, allowed, n, at)
        else:
            answer = Arranged(list(range(n)), [None] * n, [1.0] * n)
        if soft.exploring is not None and request_id is not None:
            self._explore(answer, soft, soft.exploring, draws, allowed, request_id)
        return answer

    def _filled(self, soft: Soft, draws: Draws, allowed: Mask, n: int, at: int) -> Arranged:
        """Return an answer as pins, boosts, caps, diversity and quotas of new products say."""
        filling = compiled()
        held, origins = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int8)
        held.fill(-1)
        origins.fill(filling.FREE)
        vectors, scale, trade_off = NO_VECTORS, NO_LENGTHS, 1.0
        if soft.trade_off < 1.0 and self.nearness is not None:
            vectors, scale, trade_off = self.nearness.vectors, self.nearness.scale, soft.trade_off
        is_new, quota, is_kept = NO_MASK, 0, NO_MASK
        if soft.fresh is not None:
            is_new, quota = soft.fresh.mask(at), soft.fresh.at_least
            is_kept = NO_MASK if soft.exploring is None else soft.exploring.mask(n)
        (slots, pins), codes = soft.pinned, self.categories.codes
        boosted, are_all, give_way = 0, False, False
        while missing := filling.fill(
            held, origins, draws.products, boosted, slots, pins, allowed, soft.factors, codes, soft.limits,
            give_way, vectors, scale, trade_off, is_new, quota, are_all, is_kept,
        ):  # fmt: skip
            _draw_pinned(soft, draws, held.tolist())
            boosted = boosted or len(draws.products)
            filled = held[origins != filling.FREE]
            if missing == filling.TOO_FEW_NEW:
                are_all = True
                self._draw_more(soft, draws, allowed & is_new, filled, DEPTH * quota)
            # what has no room now will have none later; where all has been drawn, caps give way
            elif not self._draw_more(soft, draws, allowed.copy(), filled, max(DEPTH * n, LEAST)):
                give_way = True
        places: list[int] = held.tolist()
        _draw_pinned(soft, draws, places)
        return Arranged(places, [_SOURCES[origin] for origin in origins.tolist()], [1.0] * n)

    def _draw_more(self, soft: Soft, draws: Draws, left: Mask, held: Int64, most: int) -> bool:
        """Draw more of what is ``left``, of categories that have room beside what is held; whether there were any."""
        left[draws.products] = False
        if len(soft.limits):
            Room(self.categories, soft.limits, draws.products.take(held)).clear(left)
        return bool(left.any()) and draws.draw(left, 1, most) > 0

    def _explore(
        self,
        answer: Arranged,
        soft: Soft,
        exploring: Exploring,
        draws: Draws,
        allowed: Mask,
        request_id: str,
    ) -> None:
        """Let chance decide what slots show that are not pinned.

        Anything allowed that no other slot shows and caps have room for; see ``serving.rules.exploration``.
        """
        places, sources, propensities = answer
        n = len(places)
        shown = draws.products.take(places)
        eligible = int(np.count_nonzero(allowed)) - (n - 1)
        for slot in exploring.slots:
            if slot >= n or sources[slot] == PINNED:
                continue
            size, usual = eligible, int(shown[slot])
            if len(soft.limits):
                own = self.categories
                size -= compiled().roomless(
                    shown, slot, own.codes, soft.limits, own.by_category, own.starts, allowed
                )
            drawn = chance(exploring.name, slot, request_id)
            chosen = usual
            if drawn.u < exploring.epsilon:
                chosen = nth(self._eligible(soft, allowed, shown, slot), drawn.number % size)
            propensities[slot] = propensity(exploring.epsilon, size, is_greedy=chosen == usual)
            if chosen != usual:
                places[slot], sources[slot], shown[slot] = draws.named([chosen])[0], EXPLORE, chosen

    def _eligible(self, soft: Soft, allowed: Mask, shown: Int32, slot: int) -> Mask:
        """Return what a slot could show (products,) beside what the others show."""
        others = np.delete(shown, slot)
        eligible = allowed.copy()
        if len(soft.limits):
            Room(self.categories, soft.limits, others).clear(eligible)
        eligible[others] = False
        eligible[shown[slot]] = True
        return eligible


def _draw_pinned(soft: Soft, draws: Draws, places: Sequence[int]) -> None:
    """Draw the pinned products that have places after all that is drawn."""
    drawn, n = len(draws.products), len(places)
    missing = [product for slot, product in soft.pins if slot < n and places[slot] >= drawn]
    if missing:
        draws.add(missing)
