"""Sources of candidates: the personal model, the customer's segment, what is popular.

The recommender tries them in the order of the bundle's chain. Each returns products it may return, best
first, with its own scores; what it has nothing to say about it leaves to the next one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feature_repo.recent import History, recent_features
from serving.bundle import Bundle
from serving.catalog import Mask
from serving.encoder import FoldIn
from serving.errors import BundleError

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]


@dataclass(frozen=True)
class Subject:
    """Who is asking, as the sources see it.

    ``row`` is the customer's row in the bundle (None when unknown to training); ``history`` holds the
    recent events with the request's context appended.
    """

    row: int | None
    segment: str
    history: History
    at: datetime


@dataclass(frozen=True)
class Candidates:
    """Products of one source, best first: indices (m,) and the source's own scores (m,)."""

    products: Int32
    scores: Float32
    source: str


class Source(Protocol):
    """One place that products can come from."""

    def candidates(self, subject: Subject, allowed: Mask, n: int) -> Candidates:
        """Return at most ``n`` allowed products, best first; none when it has nothing to say."""
        ...


def _none(source: str) -> Candidates:
    return Candidates(np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32), source)


class Vectors:
    """The personal model with vectors: folds the history in, else looks the customer up."""

    def __init__(self, bundle: Bundle) -> None:
        if bundle.vectors is None or bundle.index is None or bundle.product_scale is None:
            raise BundleError(
                f"expected vectors for the encoder {bundle.manifest.policy.encoder!r}, found none; publish anew"
            )
        policy = bundle.manifest.policy
        self._name = f"model:{policy.model}"
        self._index = bundle.index
        self._lookup = bundle.customer_vectors
        self._fold_in = FoldIn(
            bundle.vectors,
            regularization=policy.regularization,
            confidence=policy.confidence,
            product_scale=bundle.product_scale,
            index=bundle.catalog.index,
            as_of=bundle.manifest.data.as_of,
        )

    def vector(self, subject: Subject) -> Float32 | None:
        """Return the (d,) query vector, or None for somebody of whom nothing is known."""
        folded = self._fold_in.encode(subject.history, subject.at)
        if folded is not None:
            return folded
        if subject.row is not None and self._lookup is not None and self._lookup[subject.row].any():
            return np.asarray(self._lookup[subject.row], dtype=np.float32)
        return None

    def candidates(self, subject: Subject, allowed: Mask, n: int) -> Candidates:
        """See ``Source``."""
        query = self.vector(subject)
        if query is None:
            return _none(self._name)
        products, scores = self._index.search(query[None, :], n, allowed=allowed)
        return Candidates(products[0], scores[0], self._name)


class Repeats:
    """The customer's own purchases, those bought often and lately first."""

    def __init__(self, bundle: Bundle) -> None:
        self._name = f"model:{bundle.manifest.policy.model}"
        self._catalog = bundle.catalog
        self._confidence = bundle.manifest.policy.confidence

    def candidates(self, subject: Subject, allowed: Mask, n: int) -> Candidates:
        """See ``Source``."""
        own = recent_features(subject.history, subject.at, self._catalog.index)
        kept = (own.bought > 0) & allowed[own.product_idx]
        decay = np.power(0.5, own.days_since_bought[kept] / self._confidence.half_life_days)
        scores = ((own.bought[kept] - own.returned[kept]) * decay).astype(np.float32)
        order = np.lexsort((own.product_idx[kept], -scores))[:n]
        return Candidates(own.product_idx[kept][order], scores[order], self._name)


class Segment:
    """The favourites of the customer's segment."""

    def __init__(self, bundle: Bundle) -> None:
        self._favourites = bundle.segments

    def candidates(self, subject: Subject, allowed: Mask, n: int) -> Candidates:
        """See ``Source``."""
        favourites = self._favourites.get(subject.segment)
        if favourites is None:
            return _none("segment")
        kept = np.flatnonzero(allowed[favourites])[:n]
        scores = 1.0 / (1.0 + kept.astype(np.float32))
        return Candidates(favourites[kept], scores, "segment")


class Popular:
    """Everything, most bought lately first: the end of every chain, so that n are always found."""

    def __init__(self, bundle: Bundle) -> None:
        self._order = bundle.popular
        self._scores = bundle.popular_scores

    def candidates(self, subject: Subject, allowed: Mask, n: int) -> Candidates:
        """See ``Source``."""
        kept = np.flatnonzero(allowed[self._order])[:n]
        return Candidates(np.asarray(self._order[kept]), np.asarray(self._scores[kept]), "popular")


def personal(bundle: Bundle) -> Vectors | Repeats | None:
    """Return the personal source that the bundle's policy asks for."""
    match bundle.manifest.policy.encoder:
        case "fold_in":
            return Vectors(bundle)
        case "repeats":
            return Repeats(bundle)
        case _:
            return None
