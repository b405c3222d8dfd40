"""From a case to products in order: drawn from the sources one after another, and arranged by soft rules."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from feature_repo.recent import to_micros
from serving.case import Case
from serving.draws import Draws, Told
from serving.filtering import Mask
from serving.ranked import Ranked
from serving.reasons import Nearness
from serving.rules.apply import Arrangement
from serving.rules.choice import Categories
from serving.rules.soft import Soft
from serving.sources import Near, Popular, Source, Vectors
from serving.subject import Subject


class Ordering:
    """Draws and arranges.

    Parameters
    ----------
    chain
        Sources in the order in which they are asked.
    ranked
        The second stage; None without.
    personal, popular
        Whose scores products have that a rule names.
    nearness
        Of the products; None for a model without vectors.
    """

    def __init__(
        self,
        chain: Sequence[Source],
        *,
        ranked: Ranked | None,
        personal: Source | None,
        popular: Popular,
        nearness: Nearness | None,
    ) -> None:
        self.chain = chain
        self._ranked = ranked
        self._scores = personal.scores if isinstance(personal, Vectors | Near) else None
        self._popular = popular
        self._nearness = nearness

    def of(self, case: Case, categories: Categories | None) -> tuple[list[Told], list[float] | None]:
        """Return what stands in the slots of an answer, and with which propensity each; None where no rules ask.

        Parameters
        ----------
        case
            What the query comes to.
        categories
            Of the products; None without rules.
        """
        n, propensities = case.query.n, list[float]()
        if case.soft is not None and categories is not None and not case.soft.is_empty:
            drawn, propensities = self.arranged(case, case.soft, categories)
        elif self._ranked is None:
            drawn = draw(self.chain, case.subject, case.allowed, n)
        else:
            drawn = self._ranked.drawn(case.subject, case.allowed, n, case.shelf)
        if case.rest is not None and len(drawn) < n:
            drawn += draw(self.chain, case.subject, case.rest, n - len(drawn))
        if case.soft is None:
            return drawn, None
        return drawn, propensities + [1.0] * (len(drawn) - len(propensities))  # nothing was left to chance

    def draws(self, case: Case) -> Draws:
        """Return draws for a case, nothing drawn yet."""
        scores = partial(self._scores_of, case.subject)
        return Draws(self.chain, self._ranked, case.subject, shelf=case.shelf, scores=scores)

    def arranged(self, case: Case, soft: Soft, categories: Categories) -> tuple[list[Told], list[float]]:
        """Draw and put in order by soft rules; return what stands in the slots, and with which propensity each."""
        draws, query = self.draws(case), case.query
        places, sources, propensities = Arrangement(categories, self._nearness).of(
            soft, draws, case.allowed, query.n, at=to_micros(query.at), request_id=query.request_id
        )
        drawn = [
            (product, score, given or source)
            for given, (product, score, source) in zip(sources, draws.told(places), strict=True)
        ]
        return drawn, propensities

    def _scores_of(self, subject: Subject, products: NDArray[np.int32]) -> NDArray[np.floating]:
        """Return the scores (m,) of products that a rule names: the model's, else how popular they are."""
        if self._ranked is not None:
            return self._ranked.chances(subject, products)
        own = None if self._scores is None else self._scores(subject, products)
        if own is None:
            return self._popular.scores(products)
        if self._nearness is None or self._nearness.is_whole:
            return own
        placed = self._nearness.placed.take(products)
        return np.where(placed, own, self._popular.scores(products))


def draw(chain: Sequence[Source], subject: Subject, allowed: Mask, n: int) -> list[Told]:
    """Draw from sources, one after another, until ``n`` distinct allowed products are found."""
    drawn: list[Told] = []
    left = allowed
    for source in chain:
        if len(drawn) >= n:
            break
        found = source.candidates(subject, left, n - len(drawn))
        pairs = zip(found.products.tolist(), found.scores.tolist(), strict=True)
        drawn += [(product, score, found.source) for product, score in pairs]
        left = left.copy()
        left[found.products] = False
    return drawn
