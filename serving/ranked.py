"""The second stage: candidates of all sources, put in order by the chance that the customer buys them.

What was bought before comes in where it may be shown; then the personal model's, the favourites of the segment and what
is popular. A product keeps the source that found it first. Of whom the personal model knows nothing, the candidates
stay as the sources give them: the trees learnt an order from those it knows. Chances are told all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feature_repo.recent import to_micros
from serving.bundle import Bundle
from serving.errors import BundleError
from serving.filtering import Mask
from serving.ranking import RankingFeatures
from serving.sources import Popular, Segment, Vectors
from serving.stages import stage
from serving.subject import Subject

Int32 = NDArray[np.int32]
Floats = NDArray[np.float64]

#: Of the candidates, how many are popular ones and favourites of the segment each, and at most bought before.
_OTHERS: Final = 0.1
_AGAIN: Final = 0.3
#: A filter keeps to the shelf's candidates where so many of them should pass it, however many are asked for.
_CHOICE: Final = 20
#: For so long the order of a state is given again: of what trees read only ages change meanwhile, by less than this.
_REMEMBERED_US: Final = 10 * 60 * 1_000_000


@dataclass(frozen=True)
class Shelf:
    """What a customer may be shown at all: what is ``on_sale`` but what the purchased policy holds back (indices)."""

    on_sale: Mask
    held_back: Int32

    def allowed(self) -> Mask:
        """Return it as a mask, the caller's to change."""
        mask = self.on_sale.copy()
        mask[self.held_back] = False
        return mask

    def is_same(self, other: Shelf) -> bool:
        """Whether it is the same for the same state: a policy holds back what was bought, or nothing."""
        return self.on_sale is other.on_sale and len(self.held_back) == len(other.held_back)


@dataclass(frozen=True)
class _Order:
    """Candidates, best first: products, margins, where they were found (places that ``source`` names)."""

    products: Int32
    margins: Floats
    found_at: NDArray[np.intp]
    alone: Floats
    source: Callable[[int], str]

    def then(self, other: _Order) -> _Order:
        """Return it with another order of the same subject's after it."""
        size = len(self.products)
        return _Order(
            np.concatenate([self.products, other.products]),
            np.concatenate([self.margins, other.margins]),
            np.concatenate([self.found_at, size + other.found_at]),
            self.alone,
            lambda place: self.source(place) if place < size else other.source(place - size),
        )


class Ranked:
    """Draws candidates and ranks them.

    Parameters
    ----------
    bundle
        With a ranker.
    model
        Its personal model.
    """

    def __init__(self, bundle: Bundle, model: Vectors) -> None:
        spec = bundle.manifest.policy.ranker
        if spec is None or bundle.ranker is None:
            raise BundleError("expected a ranker and what it reads, found one of both; publish anew")
        widths = (bundle.ranker.order.width, bundle.ranker.chance.width)
        told = (len(spec.features), 1 + len(spec.customer))
        if widths != told:
            raise BundleError(f"expected trees over {told} features, found them over {widths}; publish anew")
        self._model = model
        self._candidates = spec.candidates
        self._ranker = bundle.ranker
        self._features = RankingFeatures(bundle, model, spec.features, bundle.ranker.products, spec.customer)
        self._pool = Pool(bundle, model, spec.candidates)

    def drawn(
        self, subject: Subject, allowed: Mask, n: int, shelf: Shelf | None = None
    ) -> list[tuple[int, float, str]]:
        """Return the ``n`` best allowed products, all where there are fewer: (product, chance, source).

        Parameters
        ----------
        subject
            Who asks.
        allowed
            (products,) mask of what may be returned.
        n
            How many.
        shelf
            What may be returned whatever this request filters and excludes: its candidates are ranked, and those that
            are not allowed left out. Where that would leave few, and without it, candidates are ranked that are
            allowed. What candidates leave to ``n`` comes from further ones, ranked by themselves: fewer asked for are
            the first of more.
        """
        order, places = self._chosen(subject, allowed, n, n, shelf)
        return self._told(order, places)

    def best(
        self, subject: Subject, allowed: Mask, least: int, most: int, shelf: Shelf | None = None
    ) -> tuple[Int32, Callable[[NDArray[np.intp]], list[tuple[int, float, str]]]]:
        """Return between ``least`` and ``most`` of the best allowed products (m,), as many as were ranked.

        The second value tells of some of them, by their places in the first, what ``drawn`` tells. Parameters as there.
        """
        order, places = self._chosen(subject, allowed, least, most, shelf)
        return order.products[places], lambda some: self._told(order, places[some])

    def _told(self, order: _Order, places: NDArray[np.intp]) -> list[tuple[int, float, str]]:
        with stage("rank"):
            chances = self._ranker.chances(order.margins[places], order.alone)
            drawn = (order.products[places].tolist(), chances.tolist(), order.found_at[places].tolist())
            return [
                (product, chance, order.source(place)) for product, chance, place in zip(*drawn, strict=True)
            ]

    def _chosen(
        self, subject: Subject, allowed: Mask, least: int, most: int, shelf: Shelf | None
    ) -> tuple[_Order, NDArray[np.intp]]:
        """Return an order of candidates and the places in it of ``least`` to ``most`` allowed ones, best first."""
        orders: list[_Order] = []
        places: list[NDArray[np.intp]] = []
        found, left = 0, allowed
        if shelf is not None and self._leaves_enough(allowed, shelf):
            orders.append(self._of_shelf(subject, shelf))
            places.append(np.flatnonzero(allowed[orders[0].products]))
        while True:
            if orders:
                found += len(places[-1])
                if found >= least:
                    break
                left = left.copy()
                left[orders[-1].products] = False
            order = self._ordered(subject, left)
            if orders and not len(order.products):
                break
            orders.append(order)
            places.append(np.arange(len(order.products)))
        order, first = orders[0], places[0]
        for other, more in zip(orders[1:], places[1:], strict=True):
            first = np.concatenate([first, len(order.products) + more])
            order = order.then(other)
        return order, first[:most]

    def _leaves_enough(self, allowed: Mask, shelf: Shelf) -> bool:
        """Whether enough of the shelf's candidates should be allowed, if as many are as of the shelf."""
        passing, on_sale = int(np.count_nonzero(allowed)), int(np.count_nonzero(shelf.on_sale))
        return passing * self._candidates >= _CHOICE * on_sale

    def _of_shelf(self, subject: Subject, shelf: Shelf) -> _Order:
        """Return the order of the shelf's candidates, for a known state the one of the last minutes."""
        memo, now = subject.memo, to_micros(subject.at)
        if memo is None or len(subject.context):
            return self._ordered(subject, shelf.allowed())
        held: tuple[Shelf, int, _Order] | None = memo.get("order")
        if held is not None and held[0].is_same(shelf) and 0 <= now - held[1] < _REMEMBERED_US:
            return held[2]
        order = self._ordered(subject, shelf.allowed())
        memo["order"] = shelf, now, order
        return order

    def _ordered(self, subject: Subject, allowed: Mask) -> _Order:
        with stage("search"):
            products, source = self._pool.of(subject, allowed)
        with stage("rank"):
            rows, alone = self._features.of(subject, products)
            margins = self._ranker.order.margins(rows)
            is_known = self._model.vector(subject) is not None
            best = np.argsort(-margins, kind="stable") if is_known else np.arange(len(products))
            return _Order(products[best], margins[best], best, alone, source)

    def chances(self, subject: Subject, products: Int32) -> Floats:
        """Return the chance (n,) that the subject buys each product within the horizon."""
        rows, alone = self._features.of(subject, products)
        return self._ranker.chances(self._ranker.order.margins(rows), alone)


class Pool:
    """The candidates of a bundle's sources.

    Parameters
    ----------
    bundle, model
        What was published and its personal model.
    size
        How many candidates.
    """

    def __init__(self, bundle: Bundle, model: Vectors, size: int) -> None:
        self._size = size
        self._model = model
        self._segment = Segment(bundle)
        self._popular = Popular(bundle)
        self._own = f"model:{bundle.manifest.policy.model}"

    def of(self, subject: Subject, allowed: Mask) -> tuple[Int32, SourceOf]:
        """Return ``size`` allowed products, all where there are fewer, and whose each is."""
        size = self._size
        left = allowed.copy()
        again = self._again(subject, allowed, int(size * _AGAIN))
        left[again] = False
        others = int(size * _OTHERS)
        plain = replace(subject, repeats=False) if subject.repeats else subject
        own = self._model.proposed(plain, left, size - len(again) - 2 * others)
        left[own] = False
        favourites = self._segment.candidates(subject, left, others if len(own) else size // 2).products
        left[favourites] = False
        rest = size - len(again) - len(own) - len(favourites)
        popular = self._popular.candidates(subject, left, rest).products
        ends = np.cumsum([len(again) + len(own), len(favourites)]).tolist()
        products = np.concatenate([again, own, favourites, popular])
        return products, SourceOf(self._own, ends[0], ends[1])

    def _again(self, subject: Subject, allowed: Mask, n: int) -> Int32:
        """Return what was bought before and may be shown, the most often and latest bought."""
        own = subject.bought
        if not subject.repeats or not len(own.products):
            return own.products[:0]
        kept = np.flatnonzero(allowed[own.products])
        if len(kept) > n:
            kept = kept[np.lexsort((own.products[kept], -own.last[kept], -own.days[kept]))][:n]
        return own.products[kept]


class SourceOf:
    """Tells whose a candidate is, by its place: the model's first, then the segment's, then popular ones."""

    def __init__(self, model: str, first: int, second: int) -> None:
        self._model, self._first, self._second = model, first, second

    def __call__(self, place: int) -> str:
        """Return the source of the candidate at a place."""
        if place < self._first:
            return self._model
        return "segment" if place < self._second else "popular"
