"""Sources of candidates: the personal model, the customer's segment, what is popular.

The recommender tries them in the order of the bundle's chain. Each returns products it may return, best
first, with its own scores; what it has nothing to say about it leaves to the next one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from feature_repo import schema as s
from feature_repo.recent import DAY_US, KIND_CODES, History, to_micros
from serving.bundle import Bundle
from serving.encoders.spec import NeighboursSpec, Parts, RepeatsSpec, VectorSpec, encoder
from serving.encoders.weights import HistoryWeights
from serving.errors import BundleError
from serving.filtering import Mask
from serving.neighbours import Neighbours
from serving.stages import stage
from serving.subject import Bought, Subject

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]

#: The spread of a customer's scores over the catalog is taken from about so many products, evenly spaced.
_SAMPLE: Final = 1024
_LEAST: Final = 1e-12


def bought(bundle: Bundle, row: int | None, history: History) -> Bought:
    """Return what a customer bought according to the bundle and, after its data end, the history."""
    before, since = bundle.purchased.bought(row), 0 if row is None else to_micros(bundle.manifest.data.as_of)
    places = history.places(bundle.catalog.index)
    is_new = (history.kinds == KIND_CODES[s.PURCHASE]) & (history.at >= since) & (places >= 0)
    if not is_new.any():
        return before
    firsts = before.last if before.first is None else before.first
    known = {
        product: (days, at, first)
        for product, days, at, first in zip(
            before.products.tolist(),
            before.days.tolist(),
            before.last.tolist(),
            firsts.tolist(),
            strict=True,
        )
    }
    for product, at in zip(places[is_new].tolist(), history.at[is_new].tolist(), strict=True):
        days, last, first = known.get(product, (0, -DAY_US, at))
        known[product] = (days + (at // DAY_US > last // DAY_US), max(at, last), first)
    products = sorted(known)
    is_told = before.first is not None or not len(before.products)
    return Bought(
        np.array(products, dtype=np.int32),
        np.array([known[product][0] for product in products], dtype=np.int32),
        np.array([known[product][1] for product in products], dtype=np.int64),
        np.array([known[product][2] for product in products], dtype=np.int64) if is_told else None,
    )


@dataclass(frozen=True)
class Candidates:
    """Products of one source, best first: indices (m,) and the source's own scores (m,)."""

    products: Int32
    scores: Float32
    source: str


class Source(Protocol):
    """One place that products can come from."""

    def candidates(self, subject: Subject, allowed: Mask, n: int, *, sure: int | None = None) -> Candidates:
        """Return at most ``n`` allowed products, best first; none when it has nothing to say.

        ``sure``: it is enough where the first so many are as certain as ever; None: all.
        """
        ...


def _none(source: str) -> Candidates:
    return Candidates(np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32), source)


class Personal(Source, Protocol):
    """A source that scores any product for a customer."""

    def scores(self, subject: Subject, products: Int32) -> Float32 | None:
        """Return the scores of ``products`` (m,); None for somebody of whom nothing is known."""
        ...


class Vectors:
    """The personal model with vectors: the encoder's query, searched in the index."""

    def __init__(self, bundle: Bundle, spec: VectorSpec) -> None:
        if bundle.vectors is None or bundle.index is None:
            raise BundleError(f"expected vectors for the encoder {spec.type!r}, found none; publish anew")
        policy = bundle.manifest.policy
        self._name = f"model:{policy.model}"
        self._repeat_weight = policy.repeat_weight
        self._vectors = bundle.vectors
        self._index = bundle.index
        self._as_of = bundle.manifest.data.as_of
        placed = np.asarray(bundle.vectors.any(axis=1))
        self._placed = None if placed.all() else placed
        self._sample = np.array(bundle.vectors[:: max(len(bundle.vectors) // _SAMPLE, 1)])
        self._encoder = encoder(
            spec,
            Parts(
                bundle.vectors,
                bundle.matrices,
                bundle.weights,
                bundle.catalog.index,
                bundle.manifest.data.as_of,
            ),
        )

    def placed(self, allowed: Mask) -> Mask:
        """Return which of the allowed products have a place among the vectors; of others the model knows nothing."""
        return allowed if self._placed is None else allowed & self._placed

    def vector(self, subject: Subject) -> Float32 | None:
        """Return the (d,) query vector, or None for somebody of whom nothing is known."""
        held = self._held(subject)
        if "vector" not in held:
            held["vector"] = self._encoder.encode(subject)
        vector: Float32 | None = held["vector"]
        return vector

    def scores(self, subject: Subject, products: Int32) -> Float32 | None:
        """See ``Personal``."""
        query = self.vector(subject)
        return (
            None
            if query is None
            else np.asarray(self._vectors.take(products, axis=0) @ query, dtype=np.float32)
        )

    def standing(self, subject: Subject, products: Int32) -> NDArray[np.float64]:
        """Return how the subject's scores of products stand among all its scores (n, 2), whatever their scale.

        First in standard deviations from their mean; then the logarithm of the share of products with a higher one, as
        seen in an evenly spaced sample of the catalog. NaN where the model knows nothing.
        """
        query = self.vector(subject)
        if query is None:
            return np.full((len(products), 2), np.nan)
        held = self._held(subject)
        spread = held.get("spread")
        if spread is None:
            spread = held["spread"] = self._spread(query)
        mean, deviation, ordered = spread
        scores = self._vectors[products] @ query
        found = np.empty((len(products), 2))
        np.divide(scores - mean, deviation, out=found[:, 0])
        above = len(ordered) - np.searchsorted(ordered, scores, side="right")
        np.log((above + 0.5) / len(ordered), out=found[:, 1])
        if self._placed is not None:
            found[~self._placed[products]] = np.nan
        return found

    def _spread(self, query: Float32) -> tuple[float, float, Float32]:
        """Return mean, standard deviation and, ascending, the scores of the sample themselves."""
        ordered = np.sort(self._sample @ query)
        wide = ordered.astype(np.float64)
        mean = float(wide.sum()) / len(wide)
        wide -= mean
        return mean, max(math.sqrt(float(wide @ wide) / len(wide)), _LEAST), ordered

    def _held(self, subject: Subject) -> dict[str, Any]:
        """Return where what the encoder makes of a subject is kept."""
        # after the data end ages are measured from the last event: the vector depends on the state alone
        depends_on_state_alone = not len(subject.context) and subject.at > self._as_of
        return subject.memo if subject.memo is not None and depends_on_state_alone else subject.made

    def proposed(self, subject: Subject, allowed: Mask, n: int) -> Int32:
        """Return about the ``n`` best allowed products (m,), for whom something else puts in order."""
        query = self.vector(subject)
        if query is None:
            return np.empty(0, dtype=np.int32)
        found, _ = self._index.search(query[None, :], n, allowed=self.placed(allowed), sure=0)
        return np.asarray(found[0])

    def candidates(self, subject: Subject, allowed: Mask, n: int, *, sure: int | None = None) -> Candidates:
        """See ``Source``."""
        with stage("encode"):
            query = self.vector(subject)
        if query is None:
            return _none(self._name)
        with stage("search"):
            found, inner = self._index.search(query[None, :], n, allowed=self.placed(allowed), sure=sure)
        products, scores = found[0], inner[0]
        if subject.repeats and self._repeat_weight > 0 and len(subject.bought.products):
            own = subject.bought
            again = own.products[allowed[own.products]]
            weight = self._repeat_weight * float((self._sample @ query).std())
            lifted = _lifted(self._vectors[again] @ query, again, own, weight)
            products, scores = _merged(again, lifted, products, scores, n)
        return Candidates(products, scores, self._name)


class Near:
    """The personal model without vectors: products near those of the history."""

    def __init__(self, bundle: Bundle, spec: NeighboursSpec) -> None:
        policy = bundle.manifest.policy
        self._name = f"model:{policy.model}"
        self._repeat_weight = policy.repeat_weight
        try:
            self._neighbours = Neighbours.of(bundle.matrices)
        except KeyError as error:
            raise BundleError(
                f"expected the encoder's array {error.args[0]!r}, found none; publish anew"
            ) from error
        self._size = len(bundle.catalog)
        as_of = bundle.manifest.data.as_of
        self._history = HistoryWeights(spec.weights, index=bundle.catalog.index, as_of=as_of)

    def scores(self, subject: Subject, products: Int32) -> Float32 | None:
        """See ``Personal``."""
        found, near = self._near(subject)
        if not len(found):
            return None
        place = np.minimum(np.searchsorted(found, products), len(found) - 1)
        return np.where(found[place] == products, near[place], np.float32(0.0)).astype(np.float32)

    def candidates(self, subject: Subject, allowed: Mask, n: int, *, sure: int | None = None) -> Candidates:
        """See ``Source``."""
        found, near = self._near(subject)
        kept = allowed[found]
        products, scores = found[kept], near[kept]
        own = subject.bought
        if len(found) and subject.repeats and self._repeat_weight > 0 and len(own.products):
            again = own.products[allowed[own.products]]
            known = self.scores(subject, again)
            assert known is not None
            everything = np.zeros(self._size, dtype=np.float32)
            everything[found] = near
            weight = self._repeat_weight * float(everything.std())
            products, scores = _merged(again, _lifted(known, again, own, weight), products, scores, n)
        order = np.lexsort((products, -scores))[:n]
        return Candidates(products[order], scores[order], self._name)

    def _near(self, subject: Subject) -> tuple[Int32, Float32]:
        return self._neighbours.near(*self._history.of(subject.history, subject.at, subject.context))


def _lifted(scores: Float32, again: Int32, own: Bought, weight: float) -> Float32:
    """Lift the scores of products bought before (all in ``own``) by their purchase days."""
    days = own.days[np.searchsorted(own.products, again)]
    return np.asarray(scores + np.float32(weight) * days, dtype=np.float32)


def _merged(again: Int32, lifted: Float32, products: Int32, scores: Float32, n: int) -> tuple[Int32, Float32]:
    """Put lifted products among the others; exact, since nothing else moves."""
    others = ~np.isin(products, again)
    products = np.concatenate([again, products[others]])
    scores = np.concatenate([lifted, scores[others]]).astype(np.float32)
    order = np.lexsort((products, -scores))[:n]
    return products[order], scores[order]


class Repeats:
    """The customer's own purchases, those bought on the most days first, the latest first among equals."""

    def __init__(self, bundle: Bundle) -> None:
        self._name = f"model:{bundle.manifest.policy.model}"

    def candidates(self, subject: Subject, allowed: Mask, n: int, *, sure: int | None = None) -> Candidates:
        """See ``Source``."""
        own = subject.bought
        kept = np.flatnonzero(allowed[own.products])
        order = kept[np.lexsort((own.products[kept], -own.last[kept], -own.days[kept]))][:n]
        return Candidates(own.products[order], own.days[order].astype(np.float32), self._name)


class Segment:
    """The favourites of the customer's segment."""

    def __init__(self, bundle: Bundle) -> None:
        self._favourites = bundle.segments

    def candidates(self, subject: Subject, allowed: Mask, n: int, *, sure: int | None = None) -> Candidates:
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
        self._place = np.argsort(self._order)

    def scores(self, products: Int32) -> Float32:
        """Return the scores of products (m,)."""
        return np.asarray(self._scores[self._place[products]])

    def candidates(self, subject: Subject, allowed: Mask, n: int, *, sure: int | None = None) -> Candidates:
        """See ``Source``."""
        # what is allowed is mostly near the top
        kept = np.flatnonzero(allowed[self._order[: 4 * n]])[:n]
        if len(kept) < n:
            kept = np.sort(self._place[np.flatnonzero(allowed)])[:n]
        return Candidates(np.asarray(self._order[kept]), np.asarray(self._scores[kept]), "popular")


def personal(bundle: Bundle) -> Source | None:
    """Return the personal source that the bundle's policy asks for."""
    match bundle.manifest.policy.encoder:
        case None:
            return None
        case RepeatsSpec():
            return Repeats(bundle)
        case NeighboursSpec() as spec:
            return Near(bundle, spec)
        case spec:
            return Vectors(bundle, spec)
