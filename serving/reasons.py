"""Why a product is shown: what its source says, a purchase of it, or the nearest product that the customer has seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.bundle import Bundle
from serving.subject import Subject

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
ReasonCode = Literal[
    "similar_to",
    "bought_before",
    "viewed_before",
    "segment_favourite",
    "same_category",
    "popular",
    "for_you",
    "featured",
    "new",
    "discover",
]


class Reason(NamedTuple):
    """Why a product is shown: a code, and the product or segment it refers to."""

    code: ReasonCode
    product_id: str | None = None
    segment: str | None = None


#: So many pairs of products tell how near products are in general.
_PAIRS: Final = 4096
#: Share of pairs that lie below what counts as the top.
_TOP: Final = 0.999
#: Reasons of products that a rule put where they stand.
_RULES: Final[dict[str, ReasonCode]] = {"pinned": "featured", "new": "new", "explore": "discover"}
_FOR_YOU: Final = Reason("for_you")


class Nearness:
    """Cosines between products, from vectors (products, d); those of a product without a place are 0."""

    def __init__(self, vectors: Float32) -> None:
        self.vectors = vectors
        lengths = np.sqrt(np.einsum("pd,pd->p", self.vectors, self.vectors))
        #: Which products (products,) have a place.
        self.placed: NDArray[np.bool_] = lengths > 0
        #: Whether all have.
        self.is_whole = bool(self.placed.all())
        self.scale: Float32 = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=self.placed)
        #: From this cosine on two products are called similar: halfway from an average pair to the nearest ones.
        self.similar: float = self._halfway()

    def _halfway(self) -> float:
        placed = np.flatnonzero(self.placed)
        if len(placed) < 2:
            return 1.0
        left, right = np.random.default_rng(0).integers(len(placed), size=(2, _PAIRS))
        right = np.where(left == right, (right + 1) % len(placed), right)
        pairs = np.einsum("pd,pd->p", self.units(placed[left]), self.units(placed[right]))
        return (float(pairs.mean()) + float(np.quantile(pairs, _TOP))) / 2

    def units(self, products: NDArray[np.integer]) -> Float32:
        """Return the vectors (m, d) of products, each of length 1, or 0 where it has no place."""
        return np.asarray(self.vectors.take(products, axis=0) * self.scale.take(products)[:, None])

    def between(self, left: Int32, right: Int32) -> Float32:
        """Return the cosines (left, right)."""
        inner = self.vectors.take(left, axis=0) @ self.vectors.take(right, axis=0).T
        inner *= self.scale.take(left)[:, None]
        inner *= self.scale.take(right)
        return np.asarray(inner)

    def mean(self, given: Int32) -> Float32:
        """Return the mean cosine (products,) with the given products."""
        middle = (self.vectors[given] * self.scale[given][:, None]).mean(axis=0)
        return np.asarray((self.vectors @ middle) * self.scale, dtype=np.float32)


class Reasons:
    """Tells why products are shown.

    Parameters
    ----------
    bundle
        What was published.
    nearness
        Of its products; None for a model without vectors.
    """

    def __init__(self, bundle: Bundle, nearness: Nearness | None) -> None:
        self._catalog = bundle.catalog
        self._nearness = nearness

    def of(self, shown: Sequence[tuple[int, str]], subject: Subject) -> list[Reason]:
        """Return the reason of each shown (product, source)."""
        bought = set(subject.bought.products.tolist())
        reasons = [self._plain(product, source, subject, bought) for product, source in shown]
        left = [place for place, reason in enumerate(reasons) if reason is None]
        if left:
            nearest = self._nearest([shown[place][0] for place in left], subject)
            for place, reason in zip(left, nearest, strict=True):
                reasons[place] = reason
        return [reason or _FOR_YOU for reason in reasons]

    def _plain(self, product: int, source: str, subject: Subject, bought: set[int]) -> Reason | None:
        """Return the reason that the source or a purchase gives, None where there is none."""
        if source == "segment":
            return Reason("segment_favourite", segment=subject.segment)
        if source == "popular":
            return Reason("popular")
        if source in _RULES:
            return Reason(_RULES[source])
        if product in bought:
            return Reason("bought_before", product_id=self._catalog.ids[product])
        return None

    def _nearest(self, products: Sequence[int], subject: Subject) -> list[Reason]:
        events = subject.history.places(self._catalog.index)
        seen = np.concatenate([subject.context, events[events >= 0]])
        near = self._nearness
        if near is None or not len(seen):
            return [_FOR_YOU] * len(products)
        cosines = near.between(seen, np.array(products, dtype=np.int32))
        places = cosines.argmax(axis=0)
        nearest_of, highest = seen[places].tolist(), cosines[places, np.arange(len(products))].tolist()
        reasons = []
        for product, nearest, cosine in zip(products, nearest_of, highest, strict=True):
            if nearest == product and cosine > 0:
                reasons.append(Reason("viewed_before", self._catalog.ids[nearest]))
            elif cosine >= near.similar:
                reasons.append(Reason("similar_to", self._catalog.ids[nearest]))
            else:
                reasons.append(_FOR_YOU)
        return reasons
