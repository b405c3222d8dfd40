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

from feature_repo import schema as s
from feature_repo.recent import DAY_US, KIND_CODES, History, to_micros
from serving.bundle import Bundle
from serving.catalog import Mask
from serving.encoder import FoldIn
from serving.errors import BundleError

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Bought:
    """What a customer ever bought: product indices (m,), on how many days, and when last (µs)."""

    products: Int32
    days: Int32
    last: Int64


@dataclass(frozen=True)
class Subject:
    """Who is asking, as the sources see it.

    ``row`` is the customer's row in the bundle (None when unknown to training); ``history`` holds the
    recent events, ``context`` the products looked at now (indices); ``bought`` joins the bundle's record of purchases
    with those made since. ``repeats`` tells whether products bought before may be shown.
    """

    row: int | None
    segment: str
    history: History
    context: Int32
    bought: Bought
    at: datetime
    repeats: bool = False


def bought(bundle: Bundle, row: int | None, history: History) -> Bought:
    """Return what a customer bought according to the bundle and, after its data end, the history."""
    known: dict[int, tuple[int, int]] = {}
    since = 0
    if row is not None:
        known = {product: (days, at) for product, days, at in bundle.purchased.of(row)}
        since = to_micros(bundle.manifest.data.as_of)
    is_new = (history.kinds == KIND_CODES[s.PURCHASE]) & (history.at >= since)
    for place in np.flatnonzero(is_new).tolist():
        product = bundle.catalog.index.get(history.products[place])
        if product is not None:
            days, last = known.get(product, (0, -DAY_US))
            at = int(history.at[place])
            known[product] = (days + (at // DAY_US > last // DAY_US), max(at, last))
    return Bought(
        np.fromiter(known, dtype=np.int32, count=len(known)),
        np.array([days for days, _ in known.values()], dtype=np.int32),
        np.array([last for _, last in known.values()], dtype=np.int64),
    )


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
        self._repeat_weight = policy.repeat_weight
        self._vectors = bundle.vectors
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
        folded = self._fold_in.encode(subject.history, subject.at, subject.context)
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
        found, inner = self._index.search(query[None, :], n, allowed=allowed)
        products, scores = found[0], inner[0]
        if subject.repeats and self._repeat_weight > 0 and len(subject.bought.products):
            products, scores = self._lifted(query, subject.bought, allowed, products, scores, n)
        return Candidates(products, scores, self._name)

    def _lifted(
        self, query: Float32, own: Bought, allowed: Mask, products: Int32, scores: Float32, n: int
    ) -> tuple[Int32, Float32]:
        """Lift what the customer bought before by its purchase days; exact, since nothing else moves."""
        kept = allowed[own.products]
        again = own.products[kept]
        lifted = self._vectors[again] @ query + np.float32(self._repeat_weight) * own.days[kept]
        others = ~np.isin(products, again)
        products = np.concatenate([again, products[others]])
        scores = np.concatenate([lifted, scores[others]]).astype(np.float32)
        order = np.lexsort((products, -scores))[:n]
        return products[order], scores[order]


class Repeats:
    """The customer's own purchases, those bought on the most days first, the latest first among equals."""

    def __init__(self, bundle: Bundle) -> None:
        self._name = f"model:{bundle.manifest.policy.model}"

    def candidates(self, subject: Subject, allowed: Mask, n: int) -> Candidates:
        """See ``Source``."""
        own = subject.bought
        kept = np.flatnonzero(allowed[own.products])
        order = kept[np.lexsort((own.products[kept], -own.last[kept], -own.days[kept]))][:n]
        return Candidates(own.products[order], own.days[order].astype(np.float32), self._name)


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
