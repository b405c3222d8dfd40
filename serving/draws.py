"""Candidates of one request, drawn as deep as rules need them; told with score and source where they are shown.

Apart from ``recommender`` because rules draw several times for one answer: the candidates, what a pin or a quota
names and no source proposed, and more where caps leave too few.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from serving.filtering import Mask
from serving.ranked import Ranked, Shelf
from serving.sources import Source
from serving.subject import Subject

Int32 = NDArray[np.int32]
Told = tuple[int, float, str]
Tell = Callable[[NDArray[np.intp]], list[Told]]


class Draws:
    """What was drawn for one subject, in the order of the sources.

    Parameters
    ----------
    chain
        Sources in the order in which they are asked.
    ranked
        The second stage; where there is one it takes the chain's place.
    subject, shelf
        Who asks, and what they may be shown whatever the request leaves out.
    scores
        Tells the subject's scores of any products.
    """

    def __init__(
        self,
        chain: Sequence[Source],
        ranked: Ranked | None,
        subject: Subject,
        *,
        shelf: Shelf | None,
        scores: Callable[[Int32], NDArray[np.floating]],
    ) -> None:
        self._scores = scores
        self._chain = chain
        self._ranked = ranked
        self._subject = subject
        self._shelf = shelf
        #: Products (m,) drawn so far; a place in it is what ``told`` takes.
        self.products: Int32 = np.empty(0, dtype=np.int32)
        # by place; of what is ranked, chances are told only where they are asked for: from, to, by whom
        self._own_scores: list[float] = []
        self._own_sources: list[str] = []
        self._later: list[tuple[int, int, Tell]] = []

    def draw(self, allowed: Mask, least: int, most: int) -> int:
        """Draw at least ``least`` allowed products where there are so many, at most ``most``; return how many."""
        start = len(self.products)
        if self._ranked is not None:
            found, tell = self._ranked.best(self._subject, allowed, least, most, self._shelf)
            self._add(found, [math.nan] * len(found), "")
            self._later.append((start, len(self.products), tell))
        else:
            self._from_chain(allowed, least, most)
        return len(self.products) - start

    def named(self, products: Sequence[int]) -> list[int]:
        """Return the places of the given products; those not drawn yet are, whatever sources say.

        A rule that names a product tells its source.
        """
        drawn: list[int] = self.products.tolist()
        missing = [product for product in products if product not in drawn]
        if missing:
            self.add(missing)
            drawn += missing
        return [drawn.index(product) for product in products]

    def add(self, products: Sequence[int]) -> None:
        """Add products, none of which is drawn yet; see ``named``."""
        added = np.array(products, dtype=np.int32)
        self._add(added, self._scores(added).tolist(), "")

    def told(self, places: Sequence[int]) -> list[Told]:
        """Return (product, score, source) of what was drawn at some places, in their order."""
        products: list[int] = self.products.tolist()
        scores, sources = self._own_scores, self._own_sources
        told = [(products[place], scores[place], sources[place]) for place in places]
        for start, end, tell in self._later:
            at = [turn for turn, place in enumerate(places) if start <= place < end]
            if at:
                asked = np.array([places[turn] - start for turn in at], dtype=np.intp)
                for turn, one in zip(at, tell(asked), strict=True):
                    told[turn] = one
        return told

    def _from_chain(self, allowed: Mask, least: int, most: int) -> None:
        start, left = len(self.products), allowed
        for source in self._chain:
            drawn = len(self.products) - start
            found = source.candidates(self._subject, left, most - drawn, sure=max(least - drawn, 1))
            self._add(found.products, found.scores.tolist(), found.source)
            if len(self.products) - start >= most:
                break
            left = left.copy()
            left[found.products] = False

    def _add(self, products: Int32, scores: list[float], source: str) -> None:
        if len(products):
            self.products = np.concatenate([self.products, products]) if len(self.products) else products
            self._own_scores += scores
            self._own_sources += [source] * len(products)
