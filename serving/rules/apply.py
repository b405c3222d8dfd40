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
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.draws import Draws
from serving.filtering import Mask
from serving.reasons import Nearness
from serving.rules.choice import InOrder, Marginal, Places, Room
from serving.rules.exploration import chance, propensity

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Floats = NDArray[np.float64]

PINNED: Final = "pinned"
NEW: Final = "new"
EXPLORE: Final = "explore"
#: Candidates are drawn for so many answers, and at least so many.
DEPTH: Final = 5
LEAST: Final = 100


@dataclass(frozen=True)
class Exploring:
    """Which slots (from 0) explore, by which rule, with which chance."""

    name: str
    slots: tuple[int, ...]
    epsilon: float


@dataclass(frozen=True, eq=False)
class Launches:
    """When products (products,) were launched, and after when (µs) until when one counts as new."""

    launched: Int64
    since: int
    until: int

    def of(self, products: Int32) -> Mask:
        """Return which of some products (m,) are new."""
        launched = self.launched[products]
        return np.asarray((launched > self.since) & (launched <= self.until))

    @property
    def mask(self) -> Mask:
        """Which of all products (products,) are new."""
        return np.asarray((self.launched > self.since) & (self.launched <= self.until))


@dataclass(frozen=True, eq=False)
class Soft:
    """The soft rules of one request, resolved.

    ``factors`` (products,) are those of all boosts together; ``pins`` map a slot (from 0) to a product; ``limits``
    are how many products of each category an answer takes, see ``Room``; ``trade_off`` is the λ of diversity, 1
    without; ``quota`` is how many of the ``newcomers`` an answer has at least.
    """

    factors: Floats | None = None
    pins: Mapping[int, int] = field(default_factory=dict)
    limits: Sequence[float] | None = None
    trade_off: float = 1.0
    quota: int = 0
    launches: Launches | None = None
    exploring: Exploring | None = None

    @property
    def is_empty(self) -> bool:
        """Whether they leave every order as it is."""
        return not (self.chooses or self.pins or self.exploring)

    @property
    def chooses(self) -> bool:
        """Whether they choose among more candidates than are shown."""
        orders = self.factors is not None or self.limits is not None or self.trade_off < 1.0
        return orders or self.launches is not None


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
        (products,) code of each product's category, −1 without one.
    nearness
        Of the products; None for a model without vectors, whose answers diversity leaves as they are.
    """

    def __init__(self, categories: Int64, nearness: Nearness | None) -> None:
        self._categories = categories
        self._nearness = nearness

    def of(self, soft: Soft, draws: Draws, allowed: Mask, n: int, request_id: str | None) -> list[Slot]:
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
        request_id
            Seeds exploration; None: nothing is explored.
        """
        deep = max(DEPTH * n, LEAST) if soft.chooses else n + len(soft.pins)
        draws.draw(allowed, n, deep)
        n = min(n, len(draws.products))  # fewer are drawn only where that is all
        answer = _Answer(n, draws, allowed, Room(self._categories, soft.limits))
        answer.pin({slot: product for slot, product in soft.pins.items() if slot < n and allowed[product]})
        answer.fill(soft, self._nearness if soft.trade_off < 1.0 else None)
        slots = () if soft.exploring is None else soft.exploring.slots
        explored = [slot for slot in slots if slot < n and answer.slots[slot].source != PINNED]
        if soft.launches is not None:
            answer.admit(soft.launches, soft.quota, explored)
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

    def _product(self, place: int) -> int:
        return int(self._draws.products[place])

    def _put(self, slot: int, held: Slot) -> None:
        before = self._held.get(slot)
        if before is not None:
            self._room.take(self._room.code(self._product(before.place)), -1)
        self._held[slot] = held
        self._room.take(self._room.code(self._product(held.place)))

    def _places(self, products: Sequence[int]) -> list[int]:
        """Return the places of products, which are added to the draws where they are not yet there."""
        drawn = self._draws.products.tolist()
        missing = [product for product in products if product not in drawn]
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
        free = [slot for slot in range(self._n) if slot not in self._held]
        products = self._draws.products
        order = np.arange(len(products))
        if soft.factors is not None:
            order = np.argsort((order + 1.0) / soft.factors[products], kind="stable")
        if soft.limits is None and nearness is None:
            pinned = {held.place for held in self._held.values()}
            places = [place for place in order.tolist() if place not in pinned]
            self._held.update((slot, Slot(place)) for slot, place in zip(free, places, strict=False))
            return
        choice = self._choice(soft, order, nearness)
        for slot in free:
            place = choice.next()
            if place is None and self._deepen():
                drawn = np.arange(len(order), len(self._draws.products))
                order = np.concatenate([order, drawn])
                choice = self._choice(soft, order, nearness)
                place = choice.next()
            if place is None:
                place = choice.next_of_all()
            assert place is not None, "at least as many candidates are drawn as there are slots"
            self._put(slot, Slot(place))
            if slot != free[-1]:
                choice.took(place)

    def _choice(self, soft: Soft, order: Places, nearness: Nearness | None) -> InOrder | Marginal:
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
        return choice

    def _deepen(self) -> bool:
        """Draw more, of categories that have room; return whether there were any."""
        left = self._allowed.copy()
        left[self._draws.products] = False
        self._room.clear(left)
        return bool(left.any()) and len(self._draws.draw(left, 1, max(DEPTH * self._n, LEAST))) > 0

    def admit(self, launches: Launches, quota: int, kept: Collection[int]) -> None:
        """Give the last slots, not pinned nor ``kept``, to new products until ``quota`` are there, as caps allow."""
        shown = {held.place for held in self._held.values()}
        new = set(np.flatnonzero(launches.of(self._draws.products)).tolist())
        missing = quota - len(new & shown)
        if missing <= 0:
            return
        places = sorted(new - shown)
        if len(places) < missing:
            places += self._newcomers(launches, missing)
        given: list[tuple[int, int]] = []
        for slot in reversed(range(self._n)):
            held = self._held[slot]
            if len(given) == missing or not places:
                break
            if held.source == PINNED or slot in kept or held.place in new:
                continue
            place = self._fitting(places, self._product(held.place))
            if place is not None:
                places.remove(place)
                self._put(slot, Slot(place, NEW))
                given.append((slot, place))
        for slot, place in zip(sorted(slot for slot, _ in given), sorted(p for _, p in given), strict=True):
            self._held[slot] = Slot(place, NEW)

    def _newcomers(self, launches: Launches, missing: int) -> list[int]:
        """Draw new products that are not among the candidates."""
        left = self._allowed & launches.mask
        left[self._draws.products] = False
        self._room.clear(left)
        return self._draws.draw(left, 1, DEPTH * missing).tolist() if left.any() else []

    def _fitting(self, places: Sequence[int], leaving: int) -> int | None:
        """Return the first place whose category has room once a product has left."""
        code = self._room.code(leaving)
        self._room.take(code, -1)
        found = next((p for p in places if self._room.has(self._room.code(self._product(p)))), None)
        self._room.take(code)
        return found

    def explore(self, slot: int, exploring: Exploring, request_id: str) -> None:
        """Let chance decide what a slot shows: anything allowed that no other slot shows and caps have room for."""
        held = self._held[slot]
        greedy = self._product(held.place)
        self._room.take(self._room.code(greedy), -1)
        eligible = self._allowed.copy()
        self._room.clear(eligible)
        self._room.take(self._room.code(greedy))
        eligible[[self._product(other.place) for other in self._held.values()]] = False
        eligible[greedy] = True
        size = int(np.count_nonzero(eligible))
        drawn = chance(exploring.name, slot, request_id)
        chosen = greedy
        if drawn.u < exploring.epsilon:
            chosen = int(np.flatnonzero(eligible)[drawn.number % size])
        likely = propensity(exploring.epsilon, size, is_greedy=chosen == greedy)
        if chosen == greedy:
            self._held[slot] = held._replace(propensity=likely)
        else:
            self._put(slot, Slot(self._places([chosen])[0], EXPLORE, likely))
