"""The one ``Recommender(bundle, features)`` that every result passes through.

The service, audiences, the offline evaluation and the gate ask the same object the same way. A query goes
through hard rules (on sale, exclude, filters, purchased policy), then the bundle's chain of sources until
exactly n products are found, whenever n pass the hard rules. What the customer is looking at right now is
shown only when nothing else is left (a soft rule).
"""

from __future__ import annotations

import copy
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import repeat
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.recent import DAY_US, History, to_micros
from serving.bundle import Bundle
from serving.catalog import Filters
from serving.draws import Draws, Told
from serving.errors import BundleError, FeatureUnavailable
from serving.events.fold import session_key
from serving.features import CustomerState, FeatureReader, Reading
from serving.filtering import Mask
from serving.index import best
from serving.ranked import Ranked, Shelf
from serving.reasons import Nearness, Reason, ReasonCode, Reasons
from serving.rules import Asked, Rules
from serving.rules.apply import Arrangement, Soft
from serving.sources import Near, Popular, Segment, Source, Vectors, bought, personal
from serving.stages import stage
from serving.subject import Bought, Subject

Float32 = NDArray[np.float32]
PurchasedPolicy = Literal["exclude", "allow", "due"]
MAX_N: Final = 100
_NOTHING: Final = np.empty(0, dtype=np.int32)
_UNREAD: Final = CustomerState(unread=True)


@dataclass(frozen=True)
class Query:
    """One request: who, how many, when, and under which conditions.

    ``surface`` is where the answer is shown; ``request_id`` seeds what rules leave to chance, nothing without it.
    """

    at: datetime
    customer_id: str | None = None
    session_id: str | None = None
    n: int = 10
    context: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    filters: Filters = field(default_factory=Filters)
    purchased: PurchasedPolicy = "exclude"
    surface: str | None = None
    request_id: str | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """Under which keys the histories of who is asking are kept: the customer's, then the session's."""
        customer = () if self.customer_id is None else (self.customer_id,)
        return customer if self.session_id is None else (*customer, session_key(self.session_id))


class Recommendation(NamedTuple):
    """One product of an answer; ``score`` is its source's own, before any rule.

    ``propensity`` is how likely it was to stand there, given the slots before it; None where no rules were asked.
    """

    product_id: str
    name: str | None
    rank: int
    score: float
    source: str
    reason: Reason
    propensity: float | None = None


@dataclass(frozen=True)
class Recommendations:
    """The answer to one query; ``ignored`` lists ids of context and exclude that nobody knows.

    It is ``degraded`` where what the online store has of the customer could not be read.
    """

    items: tuple[Recommendation, ...]
    ignored: tuple[str, ...] = ()
    degraded: bool = False

    @property
    def product_ids(self) -> list[str]:
        """Ids in rank order."""
        return [item.product_id for item in self.items]


@dataclass(frozen=True)
class Begun:
    """The reads of some queries' states, under way: (instant, keys, reading)."""

    reads: tuple[tuple[datetime, list[str], Reading], ...]

    def drop(self) -> None:
        """Give up what is not finished."""
        for _, _, reading in self.reads:
            reading.drop()


@dataclass(frozen=True)
class _Prepared:
    """What of an answer depends on the query alone; ``allowed`` is the answer's to change."""

    context: NDArray[np.int32]
    allowed: Mask
    ignored: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """What a query comes to for a customer: who asks, what may be shown, and which soft rules order it.

    ``allowed`` (products,) passes the hard rules and is not looked at now; ``rest`` passes and is looked at, None where
    nothing is. ``held_back`` (indices) is what the purchased policy keeps out.
    """

    query: Query
    subject: Subject
    allowed: Mask
    rest: Mask | None
    held_back: NDArray[np.int32]
    shelf: Shelf | None
    asked: Asked | None
    soft: Soft | None
    ignored: tuple[str, ...]


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
        self._rows = {str(c): row for row, c in enumerate(bundle.customers[s.CUSTOMER_ID].tolist())}
        self._segments: list[str] = bundle.customers[v.SEGMENT].astype(str).tolist()
        self._personal = personal(bundle)
        self._popular = Popular(bundle)
        named: dict[str, Source | None] = {
            "personal": self._personal,
            "segment": Segment(bundle),
            "popular": self._popular,
        }
        self._chain = [source for name in bundle.manifest.policy.chain if (source := named[name]) is not None]
        self._ranked = self._second_stage()
        self._nearness = None if bundle.vectors is None else Nearness(bundle.vectors)
        self._reasons = Reasons(bundle, self._nearness)

    def with_rules(self, rules: Rules | None) -> Recommender:
        """Return the same recommender under other rules, of the same bundle; nothing is loaded or copied."""
        other = copy.copy(self)
        other.rules = rules
        return other

    @property
    def model(self) -> Source | None:
        """The personal model; None for a bundle without one."""
        return self._personal

    def fallback(self) -> Recommender:
        """Return a recommender of the same bundle, sharing all it holds, that asks segment and popular alone."""
        found = copy.copy(self)
        found._personal = found._ranked = None
        found._chain = [Segment(self.bundle), self._popular]
        return found

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
            prepared = [self._prepare(query) for query in queries]
            states = self._finish(queries, begun)
        finally:
            begun.drop()
        return [
            self._answer(query, state, ready)
            for query, state, ready in zip(queries, states, prepared, strict=True)
        ]

    def answer(self, query: Query, state: CustomerState) -> Recommendations:
        """Answer one query for a customer whose state is known; raises as ``recommend``."""
        return self._answer(query, state, self._prepare(query))

    def _prepare(self, query: Query) -> _Prepared:
        """Return what of an answer depends on the query alone."""
        catalog = self.bundle.catalog
        with stage("filters"):
            context, ignored = catalog.indices(query.context)
            exclude, unknown = catalog.indices(query.exclude)
            allowed = self._offered(query.at, query.filters)
            allowed[exclude] = False
        return _Prepared(context, allowed, tuple(dict.fromkeys([*ignored, *unknown])))

    def _answer(self, query: Query, state: CustomerState, ready: _Prepared) -> Recommendations:
        case = self._case(query, state, ready)
        return Recommendations(tuple(self._fill(case)), ready.ignored, state.unread)

    def case(self, query: Query, state: CustomerState) -> Case:
        """Return what a query comes to for a customer whose state is known; raises as ``recommend``."""
        return self._case(query, state, self._prepare(query))

    def _case(self, query: Query, state: CustomerState, ready: _Prepared) -> Case:
        with stage("filters"):
            subject, allowed = self.subject(query, state, ready.context), ready.allowed
            held_back = self._held_back(query, subject)
            allowed[held_back] = False
            offered = on_sale = self.bundle.catalog.on_sale(query.at)
            asked, soft = None, None
            if self.rules is not None:
                asked = Asked(query.at, query.surface, subject.segment, state.row)
                offered, soft = self.rules.passing(on_sale, asked), self.rules.soft(asked)
                if offered is not on_sale:
                    np.logical_and(allowed, offered, out=allowed)
            shelf, rest = None, None
            if self._ranked is not None and query.purchased != "due":
                shelf = Shelf(offered, held_back)
            if len(subject.context):
                rest = np.zeros_like(allowed)
                rest[subject.context] = allowed[subject.context]
                allowed[subject.context] = False
        return Case(query, subject, allowed, rest, held_back, shelf, asked, soft, ready.ignored)

    def _offered(self, at: datetime, filters: Filters) -> Mask:
        """Return the products on sale that pass the filters, the caller's to change."""
        on_sale = self.bundle.catalog.on_sale(at)
        return on_sale & self.bundle.catalog.matching(filters) if filters else on_sale.copy()

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
                except FeatureUnavailable:
                    with self._counting:
                        self.degraded["features"] += 1
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
        if not plain or not isinstance(self._personal, Vectors) or self._chain[0] is not self._personal:
            return None
        subject = self.subject(query, state)
        held_back = self._held_back(query, subject)
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
        allowed = self._offered(at, filters or Filters())
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
            for product, score, source in self._drawn(popular, nobody, mask, n - len(items)):
                items.append(self._item(product, len(items) + 1, score, source, Reason(code)))
        return Recommendations(tuple(items), tuple(ignored))

    def subject(self, query: Query, state: CustomerState, context: NDArray[np.int32] = _NOTHING) -> Subject:
        """Return who asks, as sources see it; ``context`` are the products looked at now."""
        row = None if query.customer_id is None else self._rows.get(query.customer_id)
        segment = state.segment or ("" if row is None else self._segments[row])
        # what is made of a blank state holds for those alone of whom the bundle knows nothing either
        memo = None if state.is_blank and row is not None else state.memo
        own = self._bought(row, state.history, memo)
        repeats = query.purchased != "exclude"
        return Subject(
            row,
            segment,
            state.history,
            np.unique(context) if len(context) else context,
            own,
            query.at,
            repeats=repeats,
            features=state.row,
            memo=memo,
        )

    def _bought(self, row: int | None, history: History, memo: dict[str, Any] | None) -> Bought:
        if memo is None:
            return bought(self.bundle, row, history)
        if "bought" not in memo:
            memo["bought"] = bought(self.bundle, row, history)
        held: Bought = memo["bought"]
        return held

    def _held_back(self, query: Query, subject: Subject) -> NDArray[np.int32]:
        """Products the purchased policy keeps out: bought ones, or those bought and not yet due again."""
        own = subject.bought
        match query.purchased:
            case "exclude":
                return own.products
            case "due":
                elapsed = (to_micros(query.at) - own.last) / DAY_US
                if self.rules is None:
                    days = self.bundle.catalog.repurchase_days[own.products]
                else:
                    days = self.rules.due_days(own)
                # NaN, a product that nobody buys at a rhythm, is never due
                return own.products[~(elapsed >= days)]
            case "allow":
                return own.products[:0]

    def _fill(self, case: Case) -> list[Recommendation]:
        n, propensities = case.query.n, list[float]()
        if case.soft is not None and not case.soft.is_empty:
            drawn, propensities = self.arranged(case, case.soft)
        elif self._ranked is None:
            drawn = self._drawn(self._chain, case.subject, case.allowed, n)
        else:
            drawn = self._ranked.drawn(case.subject, case.allowed, n, case.shelf)
        if case.rest is not None and len(drawn) < n:
            drawn += self._drawn(self._chain, case.subject, case.rest, n - len(drawn))
        if case.soft is not None:
            propensities += [1.0] * (len(drawn) - len(propensities))  # nothing was left to chance
        with stage("reasons"):
            reasons = self._reasons.of([(product, source) for product, _, source in drawn], case.subject)
            return [
                self._item(product, rank, score, source, reason, propensity)
                for rank, ((product, score, source), reason, propensity) in enumerate(
                    zip(drawn, reasons, propensities or repeat(None), strict=False), start=1
                )
            ]

    def draws(self, case: Case) -> Draws:
        """Return draws for a case, nothing drawn yet."""
        scores = partial(self._scores_of, case.subject)
        return Draws(self._chain, self._ranked, case.subject, shelf=case.shelf, scores=scores)

    def arranged(self, case: Case, soft: Soft) -> tuple[list[Told], list[float]]:
        """Draw and put in order by soft rules; return what stands in the slots, and with which propensity each."""
        assert self.rules is not None
        draws = self.draws(case)
        arrangement = Arrangement(self.rules.categories, self._nearness)
        slots = arrangement.of(soft, draws, case.allowed, case.query.n, case.query.request_id)
        told = draws.told([slot.place for slot in slots])
        drawn = [
            (product, score, slot.source or source)
            for slot, (product, score, source) in zip(slots, told, strict=True)
        ]
        return drawn, [slot.propensity for slot in slots]

    def _scores_of(self, subject: Subject, products: NDArray[np.int32]) -> NDArray[np.floating]:
        """Return the scores (m,) of products that a rule names: the model's, else how popular they are."""
        if self._ranked is not None:
            return self._ranked.chances(subject, products)
        popular = self._popular.scores(products)
        if not isinstance(self._personal, Vectors | Near):
            return popular
        own = self._personal.scores(subject, products)
        return popular if own is None else np.where(self._has_place(products), own, popular)

    def _has_place(self, products: NDArray[np.int32]) -> Mask:
        return np.ones(len(products), np.bool_) if self._nearness is None else self._nearness.placed[products]

    def _drawn(
        self, chain: Sequence[Source], subject: Subject, allowed: Mask, n: int
    ) -> list[tuple[int, float, str]]:
        """Draw from the chain until ``n`` distinct allowed products are found."""
        drawn: list[tuple[int, float, str]] = []
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


def described(item: Recommendation) -> dict[str, Any]:
    """Return one recommendation as the JSON object of the API."""
    reason: dict[str, Any] = {"code": item.reason.code}
    if item.reason.product_id is not None:
        reason["product_id"] = item.reason.product_id
    if item.reason.segment is not None:
        reason["segment"] = item.reason.segment
    return {
        "product_id": item.product_id,
        "name": item.name,
        "rank": item.rank,
        "score": item.score,
        "source": item.source,
        "reason": reason,
    }
