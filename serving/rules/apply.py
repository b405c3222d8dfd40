"""The order of an answer: candidates in, soft rules applied, slots out.

Boosts move candidates and pins take their slots; the other slots go, one after another, to the best candidate left
whose category has room, by maximal marginal relevance where diversity is asked for. Then a quota of new products
takes the last ones, and exploration draws what its slots show. So that n products always come, caps give way first,
and only once no product of another category is left among all that pass the hard rules; diversity is left out next,
for what is looked at now, which comes last; a pin gives way where the answer ends before its slot.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.draws import Draws
from serving.filtering import Mask
from serving.reasons import Nearness
from serving.rules.choice import Categories, InOrder, Marginal, Places, Room
from serving.rules.exploration import chance, propensity

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Floats = NDArray[np.float64]

PINNED: Final = "pinned"
NEW: Final = "new"
EXPLORE: Final = "explore"
#: Candidates are drawn for so many answers, and at least so many.
DEPTH: Final = 5
LEAST: Final = 50


@dataclass(frozen=True)
class Exploring:
    """Which slots (from 0) explore, by which rule, with which chance."""

    name: str
    slots: tuple[int, ...]
    epsilon: float


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

    ``factors`` (products,) are those of all boosts together; ``pins`` map a slot (from 0) to a product; ``limits``
    are how many products of each category an answer takes, see ``Room``; ``trade_off`` is the λ of diversity, 1
    without.
    """

    factors: Floats | None = None
    pins: Mapping[int, int] = field(default_factory=dict)
    limits: Sequence[float] | None = None
    trade_off: float = 1.0
    fresh: Fresh | None = None
    exploring: Exploring | None = None

    @cached_property
    def is_empty(self) -> bool:
        """Whether they leave every order as it is."""
        return not (self.chooses or self.pins or self.exploring)

    @cached_property
    def chooses(self) -> bool:
        """Whether they choose among more candidates than are shown."""
        return self.orders or self.fresh is not None

    @cached_property
    def orders(self) -> bool:
        """Whether they put candidates in another order than the sources'."""
        return self.factors is not None or self.limits is not None or self.trade_off < 1.0


class Slot(NamedTuple):
    """What stands in a slot: a place in the draws, the rule's source if it has one, and how likely it was."""

    place: int
    source: str | None = None
    propensity: float = 1.0


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
    ) -> list[Slot]:
        """Return the slots of an answer: ``n``, or as many as products are allowed where there are fewer.

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
        answer = _Answer(n, draws, allowed, Room(self._categories, soft.limits))
        if soft.pins:
            answer.pin(
                {slot: product for slot, product in soft.pins.items() if slot < n and allowed[product]}
            )
        answer.fill(soft, self._nearness if soft.trade_off < 1.0 else None)
        slots = () if soft.exploring is None else soft.exploring.slots
        explored = [slot for slot in slots if slot < n and not answer.is_pinned(slot)]
        if soft.fresh is not None:
            answer.admit(soft.fresh, at, explored)
        if soft.exploring is not None and request_id is not None:
            for slot in explored:
                answer.explore(slot, soft.exploring, request_id)
        return answer.slots


class _Answer:
    """An answer in the making."""

    def __init__(self, n: int, draws: Draws, allowed: Mask, room: Room) -> None:
        self._draws = draws
        self._allowed = allowed
        self._room = room
        self._held: dict[int, Slot] = {}
        self._n = n

    @property
    def slots(self) -> list[Slot]:
        """The slots in order, once all are filled."""
        return [self._held[slot] for slot in range(self._n)]

    def is_pinned(self, slot: int) -> bool:
        """Whether a rule pins what stands in a slot."""
        return self._held[slot].source == PINNED

    def _product(self, place: int) -> int:
        return int(self._draws.products[place])

    def _code(self, place: int) -> int:
        return -1 if self._room.is_open else self._room.code(self._product(place))

    def _put(self, slot: int, held: Slot) -> None:
        if not self._room.is_open:
            before = self._held.get(slot)
            if before is not None:
                self._room.take(self._code(before.place), -1)
            self._room.take(self._code(held.place))
        self._held[slot] = held

    def _places(self, products: Sequence[int]) -> list[int]:
        """Return the places of products, which are added to the draws where they are not yet there."""
        drawn = self._draws.products.tolist()
        missing = [product for product in products if product not in drawn]
        if missing:
            self._draws.named(np.array(missing, dtype=np.int32))
            drawn += missing
        return [drawn.index(product) for product in products]

    def pin(self, pins: Mapping[int, int]) -> None:
        """Put products into their slots."""
        if pins:
            for slot, place in zip(pins, self._places(list(pins.values())), strict=True):
                self._put(slot, Slot(place, PINNED))

    def fill(self, soft: Soft, nearness: Nearness | None) -> None:
        """Give the free slots to candidates."""
        products = self._draws.products
        if not soft.orders and not self._held:
            self._held = {place: Slot(place) for place in range(self._n)}
            return
        free = [slot for slot in range(self._n) if slot not in self._held]
        order = np.arange(len(products))
        if soft.factors is not None:
            order = ((order + 1.0) / soft.factors.take(products)).argsort(kind="stable")
        if soft.limits is None and nearness is None:
            pinned = {held.place for held in self._held.values()}
            places = [place for place in order.tolist() if place not in pinned]
            self._held.update((slot, Slot(place)) for slot, place in zip(free, places, strict=False))
            return
        choice, codes = self._choice(soft, order, nearness)
        held, room, has_more = self._held, self._room, True
        for slot in free:
            place = choice.next()
            if place is None and has_more:
                has_more = self._deepen()  # what has no room now will have none later
                if has_more:
                    drawn = np.arange(len(order), len(self._draws.products))
                    order = np.concatenate([order, drawn])
                    choice, codes = self._choice(soft, order, nearness)
                    place = choice.next()
            if place is None:
                place = choice.next_of_all()
            assert place is not None, "at least as many candidates are drawn as there are slots"
            held[slot] = Slot(place)
            room.take(codes[place])
            if slot != free[-1]:
                choice.took(place)

    def _choice(
        self, soft: Soft, order: Places, nearness: Nearness | None
    ) -> tuple[InOrder | Marginal, list[int]]:
        products = self._draws.products
        codes = self._room.codes(products)
        choice: InOrder | Marginal
        if nearness is None:
            choice = InOrder(order, codes, self._room)
        else:
            choice = Marginal(
                order, codes, self._room, products=products, trade_off=soft.trade_off, nearness=nearness
            )
        for held in self._held.values():
            choice.took(held.place)
        return choice, codes

    def _deepen(self) -> bool:
        """Draw more, of categories that have room; return whether there were any."""
        left = self._allowed.copy()
        left[self._draws.products] = False
        self._room.clear(left)
        return bool(left.any()) and len(self._draws.draw(left, 1, max(DEPTH * self._n, LEAST))) > 0

    def admit(self, fresh: Fresh, at: int, kept: Collection[int]) -> None:
        """Give the last slots, not pinned nor ``kept``, to new products until ``quota`` are there, as caps allow."""
        shown = {held.place for held in self._held.values()}
        mask = fresh.mask(at)
        new = set(np.flatnonzero(mask.take(self._draws.products)).tolist())
        missing = fresh.at_least - len(new & shown)
        if missing <= 0:
            return
        places = sorted(new - shown)
        if len(places) < missing:
            places += self._newcomers(mask, missing)
        given: list[tuple[int, int]] = []
        for slot in reversed(range(self._n)):
            held = self._held[slot]
            if len(given) == missing or not places:
                break
            if held.source == PINNED or slot in kept or held.place in new:
                continue
            place = self._fitting(places, held.place)
            if place is not None:
                places.remove(place)
                self._put(slot, Slot(place, NEW))
                given.append((slot, place))
        for slot, place in zip(sorted(slot for slot, _ in given), sorted(p for _, p in given), strict=True):
            self._held[slot] = Slot(place, NEW)

    def _newcomers(self, new: Mask, missing: int) -> list[int]:
        """Draw new products that are not among the candidates."""
        left = self._allowed & new
        left[self._draws.products] = False
        self._room.clear(left)
        return self._draws.draw(left, 1, DEPTH * missing).tolist() if left.any() else []

    def _fitting(self, places: Sequence[int], leaving: int) -> int | None:
        """Return the first place whose category has room once another one has left."""
        code = self._code(leaving)
        self._room.take(code, -1)
        found = next((place for place in places if self._room.has(self._code(place))), None)
        self._room.take(code)
        return found

    def explore(self, slot: int, exploring: Exploring, request_id: str) -> None:
        """Let chance decide what a slot shows: anything allowed that no other slot shows and caps have room for."""
        held = self._held[slot]
        greedy = self._product(held.place)
        code = self._room.code(greedy)
        self._room.take(code, -1)
        size = self._eligible(code)
        drawn = chance(exploring.name, slot, request_id)
        chosen = greedy
        if drawn.u < exploring.epsilon:
            eligible = self._allowed.copy()
            self._room.clear(eligible)
            eligible[[self._product(other.place) for other in self._held.values()]] = False
            eligible[greedy] = True
            chosen = int(np.flatnonzero(eligible)[drawn.number % size])
        self._room.take(code)
        likely = propensity(exploring.epsilon, size, is_greedy=chosen == greedy)
        if chosen == greedy:
            self._held[slot] = Slot(held.place, held.source, likely)
        else:
            self._put(slot, Slot(self._places([chosen])[0], EXPLORE, likely))

    def _eligible(self, own: int) -> int:
        """Return how many products a slot could show whose own one, of the category ``own``, is counted out.

        All that are allowed but those of the other slots and those of categories without room; its own one always.
        """
        size = int(np.count_nonzero(self._allowed)) - (self._n - 1)
        for code in self._room.full():
            size -= self._room.left(self._allowed, code) - self._room.used(code) - (code == own)
        return size
