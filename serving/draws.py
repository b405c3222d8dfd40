"""Candidates of one request, drawn as deep as rules need them; told with score and source where they are shown.

Apart from ``recommender`` because rules draw several times for one answer: the candidates, what a pin or a quota
names and no source proposed, and more where caps leave too few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from serving.filtering import Mask
from serving.ranked import Ranked, Shelf
from serving.sources import Candidates, Source
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
        self._parts: list[tuple[int, Tell]] = []
        #: Products (m,) drawn so far; a place in it is what ``told`` takes.
        self.products: Int32 = np.empty(0, dtype=np.int32)

    def draw(self, allowed: Mask, least: int, most: int) -> NDArray[np.intp]:
        """Draw at least ``least`` allowed products where there are so many, at most ``most``; return their places."""
        start = len(self.products)
        if self._ranked is not None:
            found, tell = self._ranked.best(self._subject, allowed, least, most, self._shelf)
            self._add(found, tell)
        else:
            self._from_chain(allowed, most)
        return np.arange(start, len(self.products))

    def named(self, products: Int32) -> None:
        """Add the given products, whatever sources say; a rule that names them tells their source."""
        if len(products):
            self._add(products, lambda places: self._told(products[places]))

    def told(self, places: Sequence[int]) -> list[Told]:
        """Return (product, score, source) of what was drawn at some places, in their order."""
        if len(self._parts) == 1:
            return self._parts[0][1](np.array(places, dtype=np.intp))
        told: dict[int, Told] = {}
        end = len(self.products)
        for start, tell in reversed(self._parts):
            part = [place for place in places if start <= place < end]
            end = start
            if part:
                told.update(zip(part, tell(np.array(part, dtype=np.intp) - start), strict=True))
        return [told[place] for place in places]

    def _from_chain(self, allowed: Mask, most: int) -> None:
        left, end = allowed, len(self.products) + most
        for source in self._chain:
            found = source.candidates(self._subject, left, end - len(self.products))
            self._add(found.products, _teller(found))
            if len(self.products) >= end:
                break
            left = left.copy()
            left[found.products] = False

    def _told(self, products: Int32) -> list[Told]:
        return [
            (product, score, "")
            for product, score in zip(products.tolist(), self._scores(products).tolist(), strict=True)
        ]

    def _add(self, products: Int32, tell: Tell) -> None:
        if len(products):
            start = len(self.products)
            self._parts.append((start, tell))
            self.products = np.concatenate([self.products, products]) if start else products


def _teller(found: Candidates) -> Tell:
    def tell(places: NDArray[np.intp]) -> list[Told]:
        pairs = zip(found.products[places].tolist(), found.scores[places].tolist(), strict=True)
        return [(product, score, found.source) for product, score in pairs]

    return tell
