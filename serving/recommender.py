"""The one ``Recommender(bundle, features)`` that every result passes through.

The service, audiences, the offline evaluation and the gate ask the same object the same way. A query goes
through hard rules (``serving.case``), then the bundle's chain of sources until exactly n products are found, whenever n
pass the hard rules (``serving.ordering``). What the customer is looking at right now is shown only when nothing else is
left (a soft rule).
"""

from __future__ import annotations

import copy
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import repeat
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feature_repo import schema as s
from serving.bundle import Bundle
from serving.case import Case, Cases, Prepared
from serving.catalog import Filters
from serving.draws import Draws, Told
from serving.errors import BundleError, FeatureDamaged, FeatureUnavailable
from serving.features import CustomerState, FeatureReader, Reading
from serving.filtering import Mask
from serving.index import best
from serving.ordering import Ordering, draw
from serving.query import MAX_N, PurchasedPolicy, Query, Recommendation, Recommendations, described
from serving.ranked import Ranked
from serving.reasons import Nearness, Reason, ReasonCode, Reasons
from serving.rules import Asked, Rules
from serving.rules.soft import Soft
from serving.sources import Near, Popular, Segment, Source, Vectors, personal
from serving.stages import stage
from serving.subject import Subject

__all__ = [
    "MAX_N",
    "Case",
    "PurchasedPolicy",
    "Query",
    "Recommendation",
    "Recommendations",
    "Recommender",
    "described",
]

Float32 = NDArray[np.float32]
_UNREAD: Final = CustomerState(unread=True)


@dataclass(frozen=True)
class Begun:
    """The reads of some queries' states, under way: (instant, keys, reading)."""

    reads: tuple[tuple[datetime, list[str], Reading], ...]

    def drop(self) -> None:
        """Give up what is not finished."""
        for _, _, reading in self.reads:
            reading.drop()


@dataclass(frozen=True)
class Search:
    """What a query comes down to where vectors alone answer it: the best of ``vector`` (d,) but ``held_back``."""

    vector: Float32
    held_back: NDArray[np.int32]
    source: str


class Recommender:
    """Answers queries from a bundle and a feature reader.

    Parameters
    ----------
    bundle
        What was published.
    features
        Where customer states come from; unavailable features degrade the answer, never refuse it.
    rules
        What merchandisers want; None: nothing but the request's own conditions. The reader should read
        ``rules.reads``.
    """

    def __init__(self, bundle: Bundle, features: FeatureReader, rules: Rules | None = None) -> None:
        self.bundle = bundle
        self.features = features
        self.rules = rules
        self.degraded: Counter[str] = Counter()
        self._nobody = CustomerState(memo={}, is_blank=True)
        self._counting = threading.Lock()
        self._personal = personal(bundle)
        self._popular = Popular(bundle)
        named: dict[str, Source | None] = {
            "personal": self._personal,
            "segment": Segment(bundle),
            "popular": self._popular,
        }
        chain = [source for name in bundle.manifest.policy.chain if (source := named[name]) is not None]
        self._ranked = self._second_stage()
        self._nearness = None if bundle.vectors is None else Nearness(bundle.vectors)
        self._reasons = Reasons(bundle, self._nearness)
        self._cases = Cases(bundle, rules, is_ranked=self._ranked is not None)
        self._ordering = self._ordered(chain)

    def with_rules(self, rules: Rules | None, features: FeatureReader | None = None) -> Recommender:
        """Return the same recommender under other rules, of the same bundle; nothing is loaded or copied.

        ``features`` reads what the rules ask for; None: the same reader does.
        """
        other = copy.copy(self)
        other.rules = rules
        other.features = self.features if features is None else features
        other._cases = self._cases.under(rules, is_ranked=self._ranked is not None)
        return other

    @property
    def digest(self) -> str | None:
        """The hash of the rules; None without rules."""
        return None if self.rules is None else self.rules.digest

    @property
    def model(self) -> Source | None:
        """The personal model; None for a bundle without one."""
        return self._personal

    def fallback(self) -> Recommender:
        """Return a recommender of the same bundle, sharing all it holds, that asks segment and popular alone.

        Hard rules hold for it too; soft ones, which would bring in other products, do not.
        """
        found = copy.copy(self)
        found.rules = None if self.rules is None else self.rules.hard_alone()
        found._personal = found._ranked = None
        found._cases = self._cases.under(found.rules, is_ranked=False)
        found._ordering = found._ordered([Segment(self.bundle), self._popular])
        return found

    def _ordered(self, chain: Sequence[Source]) -> Ordering:
        return Ordering(
            chain,
            ranked=self._ranked,
            personal=self._personal,
            popular=self._popular,
            nearness=self._nearness,
        )

    def _second_stage(self) -> Ranked | None:
        if self.bundle.manifest.policy.ranker is None:
            return None
        if not isinstance(self._personal, Vectors):
            raise BundleError("expected vectors beside a ranker, found none; publish anew")
        return Ranked(self.bundle, self._personal)

    def recommend(self, queries: Sequence[Query], begun: Begun | None = None) -> list[Recommendations]:
        """Answer each query, in order; states are read once for all queries of one instant.

        Parameters
        ----------
        queries
            The questions.
        begun
            What ``begin`` returned for the same queries, None to begin here.

        Raises
        ------
        DataError
            A filter names an attribute the catalog does not have.
        """
        begun = begun or self.begin(queries)
        try:
            prepared = [self._cases.prepare(query) for query in queries]
            states = self._finish(queries, begun)
        finally:
            begun.drop()
        return [
            self._answer(query, state, ready)
            for query, state, ready in zip(queries, states, prepared, strict=True)
        ]

    def answer(self, query: Query, state: CustomerState) -> Recommendations:
        """Answer one query for a customer whose state is known; raises as ``recommend``."""
        return self._answer(query, state, self._cases.prepare(query))

    def _answer(self, query: Query, state: CustomerState, ready: Prepared) -> Recommendations:
        case = self._cases.of(query, state, ready)
        return Recommendations(tuple(self._fill(case)), ready.ignored, state.unread)

    def case(self, query: Query, state: CustomerState) -> Case:
        """Return what a query comes to for a customer whose state is known; raises as ``recommend``."""
        return self._cases.of(query, state, self._cases.prepare(query))

    def states(self, queries: Sequence[Query]) -> list[CustomerState]:
        """Return what is known of each query's customer, and of the session, whose events come beside the customer's.

        Empty states, counted and marked as unread, where features are unavailable.
        """
        return self._finish(queries, self.begin(queries))

    def begin(self, queries: Sequence[Query]) -> Begun:
        """Begin to read the states of queries, so that something else can be done meanwhile."""
        reads = []
        with stage("features"):
            for at in {query.at for query in queries}:
                keys = list(dict.fromkeys(key for query in queries if query.at == at for key in query.keys))
                if keys:
                    reads.append((at, keys, self.features.begin(keys, at)))
        return Begun(tuple(reads))

    def _finish(self, queries: Sequence[Query], begun: Begun) -> list[CustomerState]:
        known: dict[tuple[datetime, str], CustomerState] = {}
        with stage("features"):
            for at, keys, reading in begun.reads:
                try:
                    states = reading.finish()
                except FeatureUnavailable as error:
                    with self._counting:
                        self.degraded["features"] += 1
                        self.degraded["damaged"] += isinstance(error, FeatureDamaged)
                    continue
                known.update(zip([(at, key) for key in keys], states, strict=True))
        found = []
        for query in queries:
            states = [known.get((query.at, key), _UNREAD) for key in query.keys] or [self._nobody]
            first = states[0]
            for other in states[1:]:
                history = first.history.beside(other.history)
                first = CustomerState(first.row, history, unread=first.unread or other.unread)
            found.append(first)
        return found

    def search(self, query: Query, state: CustomerState) -> Search | None:
        """Return the search over ``searchable`` products that answers a query, so that many are made at once.

        None wherever there is more to the answer: there are rules, the query has context, exclude or filters, the
        model has no vectors or is not asked first, it knows nothing of the customer, products bought before are
        lifted, or what is found is ranked.
        """
        plain = not (query.context or query.exclude or query.filters or self._ranked or self.rules)
        if (
            not plain
            or not isinstance(self._personal, Vectors)
            or self._ordering.chain[0] is not self._personal
        ):
            return None
        subject = self.subject(query, state)
        held_back = self._cases.held_back(query, subject)
        policy = self.bundle.manifest.policy
        again = subject.repeats and len(held_back) < len(subject.bought.products)
        vector = None if again and policy.repeat_weight > 0 else self._personal.vector(subject)
        return None if vector is None else Search(vector, held_back, f"model:{policy.model}")

    def searchable(self, at: datetime) -> Mask:
        """Return the products (products,) that a ``search`` is over: on sale, with a place among the vectors."""
        on_sale = self.bundle.catalog.on_sale(at)
        return self._personal.placed(on_sale) if isinstance(self._personal, Vectors) else on_sale

    def score(self, customer_ids: Sequence[str], product_ids: Sequence[str], at: datetime) -> Float32:
        """Return the personal scores (customers, products); NaN for an unknown product or customer.

        With a ranker they are chances of a purchase within its horizon, of customers without a history too.
        """
        scores = np.full((len(customer_ids), len(product_ids)), np.nan, dtype=np.float32)
        if not isinstance(self._personal, Vectors | Near):
            return scores
        known = np.array([self.bundle.catalog.index.get(product, -1) for product in product_ids])
        columns = np.flatnonzero(known >= 0)
        states = self.states([Query(at=at, customer_id=customer) for customer in customer_ids])
        for row, (customer, state) in enumerate(zip(customer_ids, states, strict=True)):
            subject = self.subject(Query(at=at, customer_id=customer), state)
            products = known[columns].astype(np.int32)
            if self._ranked is not None:
                scores[row, columns] = self._ranked.chances(subject, products)
                continue
            own = self._personal.scores(subject, products)
            if own is not None:
                scores[row, columns] = own
        return scores

    def similar(
        self, product_ids: Sequence[str], *, n: int, at: datetime, filters: Filters | None = None
    ) -> Recommendations:
        """Return the products nearest to the given ones (cosine); then the popular of their categories, then of all."""
        catalog = self.bundle.catalog
        given, ignored = catalog.indices(product_ids)
        allowed = self._cases.offered(at, filters or Filters())
        if self.rules is not None:  # the hard ones, for nobody in particular
            allowed &= self.rules.passing(catalog.on_sale(at), Asked(at, None, "", {}))
        allowed[given] = False
        items: list[Recommendation] = []
        near = self._nearness
        if near is not None and near.placed[given].any():
            cosines = np.where(allowed & near.placed, near.mean(given), -np.inf).astype(np.float32)
            order = best(cosines, min(n, len(cosines))).astype(np.int32)
            order = order[np.isfinite(cosines[order])]
            name = f"model:{self.bundle.manifest.policy.model}"
            nearest = given[near.between(given, order).argmax(axis=0)]
            for product, to in zip(order.tolist(), nearest.tolist(), strict=True):
                reason = Reason("similar_to", product_id=catalog.ids[to])
                items.append(self._item(product, len(items) + 1, float(cosines[product]), name, reason))
            allowed[order] = False
        popular, nobody = [self._popular], self.subject(Query(at=at), CustomerState())
        category = catalog.frame[s.CATEGORY]
        akin = allowed & category.isin(category.iloc[given].dropna()).to_numpy()
        stages: tuple[tuple[Mask, ReasonCode], ...] = ((akin, "same_category"), (allowed & ~akin, "popular"))
        for mask, code in stages:
            for product, score, source in draw(popular, nobody, mask, n - len(items)):
                items.append(self._item(product, len(items) + 1, score, source, Reason(code)))
        return Recommendations(tuple(items), tuple(ignored))

    def subject(self, query: Query, state: CustomerState) -> Subject:
        """Return who asks, as sources see it, with nothing looked at now."""
        return self._cases.subject(query, state)

    def draws(self, case: Case) -> Draws:
        """Return draws for a case, nothing drawn yet."""
        return self._ordering.draws(case)

    def arranged(self, case: Case, soft: Soft) -> tuple[list[Told], list[float]]:
        """Draw and put in order by soft rules; return what stands in the slots, and with which propensity each."""
        assert self.rules is not None
        return self._ordering.arranged(case, soft, self.rules.categories)

    def _fill(self, case: Case) -> list[Recommendation]:
        categories = None if self.rules is None else self.rules.categories
        drawn, propensities = self._ordering.of(case, categories)
        with stage("reasons"):
            reasons = self._reasons.of([(product, source) for product, _, source in drawn], case.subject)
            return [
                self._item(product, rank, score, source, reason, propensity)
                for rank, ((product, score, source), reason, propensity) in enumerate(
                    zip(drawn, reasons, propensities or repeat(None), strict=False), start=1
                )
            ]

    def _item(
        self,
        product: int,
        rank: int,
        score: float,
        source: str,
        reason: Reason,
        propensity: float | None = None,
    ) -> Recommendation:
        catalog = self.bundle.catalog
        return Recommendation(
            catalog.ids[product], catalog.names[product], rank, float(score), source, reason, propensity
        )
