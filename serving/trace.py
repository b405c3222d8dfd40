"""How an answer came about: its candidates, what each rule did to each of them, and the order in the end.

Nothing is recorded while answers are made: the same answer is made again with one rule after another, in the order
in which rules are applied, so that tracing costs others nothing and cannot tell another story than the code that
answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.catalog import Filters
from serving.features import CustomerState
from serving.recommender import Case, Query, Recommendation, Recommender
from serving.rules.apply import DEPTH, LEAST
from serving.rules.config import Cap, Pin, Rule
from serving.rules.hard import HardRule, passes, value
from serving.rules.soft import Soft
from serving.validation import shown as shown_as


@dataclass(frozen=True)
class Move:
    """What one rule did to a product: from which rank to which (None: not in the answer)."""

    rule: str
    before: int | None
    after: int | None


@dataclass(frozen=True)
class Traced:
    """One product: its place among the candidates before any rule (None: a rule brought it), and what became of it."""

    product_id: str
    name: str | None
    candidate: int | None
    dropped_by: tuple[str, ...]
    moves: tuple[Move, ...]
    rank: int | None = None
    score: float | None = None
    source: str | None = None
    propensity: float | None = None


@dataclass(frozen=True)
class Trace:
    """The trace of one request; ``products`` has those of the answer first, in order, then the other candidates.

    ``rules`` is the hash of the rules, ``hard`` and ``soft`` name those that hold for the request, ``gave_way`` says
    which of them did not get their will.
    """

    customer_id: str | None
    surface: str | None
    at: str
    bundle: str
    rules: str | None
    hard: tuple[str, ...]
    soft: tuple[str, ...]
    gave_way: tuple[str, ...]
    products: tuple[Traced, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def trace(recommender: Recommender, query: Query, state: CustomerState) -> Trace:
    """Answer a query and tell how that came about.

    Raises
    ------
    DataError
        A filter names an attribute that the catalog does not have.
    """
    items = recommender.answer(query, state).items
    case, catalog = recommender.case(query, state), recommender.bundle.catalog
    candidates = _candidates(recommender, case)
    place_of = {product: place for place, product in enumerate(candidates.tolist(), start=1)}
    shown = [catalog.index[item.product_id] for item in items]
    holding = () if recommender.rules is None or case.asked is None else recommender.rules.holding(case.asked)
    pinned = [catalog.index[rule.product_id] for rule in _pins(holding) if rule.product_id in catalog.index]
    kept_out = _kept_out(recommender, case, [*candidates.tolist(), *pinned])
    moves = _moves(recommender, case, holding)
    item_of: dict[int, Recommendation] = dict(zip(shown, items, strict=True))
    products = []
    for product in dict.fromkeys([*shown, *candidates.tolist()]):
        item = item_of.get(product)
        products.append(
            Traced(
                product_id=catalog.ids[product],
                name=catalog.names[product],
                candidate=place_of.get(product),
                dropped_by=tuple(bar.name for bar in kept_out.get(product, ())),
                moves=tuple(moves.get(product, ())),
                rank=None if item is None else item.rank,
                score=None if item is None else item.score,
                source=None if item is None else item.source,
                propensity=None if item is None else item.propensity,
            )
        )
    return Trace(
        customer_id=query.customer_id,
        surface=query.surface,
        at=query.at.isoformat(),
        bundle=recommender.bundle.tag,
        rules=recommender.digest,
        hard=tuple(rule.name for rule in _hard(recommender, case)),
        soft=tuple(rule.name for rule in holding),
        gave_way=tuple(_gave_way(recommender, case, holding, shown, kept_out)),
        products=tuple(products),
    )


def _candidates(recommender: Recommender, case: Case) -> NDArray[np.int32]:
    """Return what the sources propose of all that is on sale (m,), best first, as deep as rules look."""
    draws = recommender.draws(case)
    n = case.query.n
    draws.draw(recommender.bundle.catalog.on_sale(case.query.at), n, max(DEPTH * n, LEAST))
    return draws.products


class _Bar(NamedTuple):
    """What keeps a product out of the answer: its name, and what to say of the product."""

    name: str
    words: str


def _hard(recommender: Recommender, case: Case) -> tuple[HardRule, ...]:
    asked = case.asked
    if recommender.rules is None or asked is None:
        return ()
    return recommender.rules.hard.holding(asked.at, asked.surface, asked.segment)


def _kept_out(recommender: Recommender, case: Case, products: Sequence[int]) -> dict[int, tuple[_Bar, ...]]:
    """Return what keeps each of some products out of the answer, whatever else is in it."""
    query, catalog = case.query, recommender.bundle.catalog
    about = np.array(list(dict.fromkeys(products)), dtype=np.int32)
    bars: dict[int, list[_Bar]] = {}

    def barred(bar: _Bar, is_out: NDArray[np.bool_]) -> None:
        for product in about[is_out].tolist():
            bars.setdefault(product, []).append(bar)

    barred(_Bar("off sale", "is not on sale"), ~catalog.on_sale(query.at)[about])
    excluded = _Bar("exclude", "is excluded by the request")
    barred(excluded, np.isin(about, catalog.indices(query.exclude)[0]))
    not_due = " and is not due yet" if query.purchased == "due" else ""
    policy = f"purchased: {query.purchased}"
    barred(_Bar(policy, f"was bought before{not_due} ({policy})"), np.isin(about, case.held_back))
    filtered = _Bar("filters", "is filtered out by the request")
    barred(filtered, ~catalog.matching(query.filters or Filters())[about])
    for rule in _hard(recommender, case):
        known = value(rule, case.asked.row, query.at) if case.asked is not None else None
        bar = _Bar(rule.name, f"does not pass the rule {shown_as(rule.name)}")
        barred(bar, ~passes(rule, known, catalog)[about])
    return {product: tuple(found) for product, found in bars.items()}


def _moves(recommender: Recommender, case: Case, holding: Sequence[Rule]) -> dict[int, list[Move]]:
    """Return what each soft rule did to the ranks of products, each on top of those before it."""
    moves: dict[int, list[Move]] = {}
    if recommender.rules is None or case.asked is None:
        return moves
    draws, n = recommender.draws(case), case.query.n
    draws.draw(case.allowed, n, max(DEPTH * n, LEAST))
    before: dict[int, int] | None = None
    last: Soft | None = None
    for number, step in enumerate(recommender.rules.steps(holding)):
        soft = step.standing(case.allowed, n)
        if before is not None and last is not None and _is_alike(last, soft, draws.products):
            continue
        told, _ = recommender.arranged(case, soft)
        after = {product: rank for rank, (product, _, _) in enumerate(told, start=1)}
        if before is not None:
            for product in dict.fromkeys([*before, *after]):
                if before.get(product) != after.get(product):
                    name = holding[number - 1].name
                    moves.setdefault(product, []).append(Move(name, before.get(product), after.get(product)))
        before, last = after, soft
    return moves


def _is_alike(before: Soft, after: Soft, drawn: NDArray[np.int32]) -> bool:
    """Whether two steps, one rule apart, come to the same; boosts, which are first, move nothing but what is drawn."""
    boosts = len(before.factors) == len(after.factors) and (
        not len(after.factors) or np.array_equal(before.factors[drawn], after.factors[drawn])
    )
    others = (before.trade_off, before.exploring) == (after.trade_off, after.exploring)
    is_new = before.fresh is not None or after.fresh is None
    pins = tuple(before.pins) == tuple(after.pins)
    return boosts and others and is_new and pins and np.array_equal(before.limits, after.limits)


def _pins(holding: Sequence[Rule]) -> list[Pin]:
    return [rule for rule in holding if isinstance(rule, Pin)]


def _gave_way(
    recommender: Recommender,
    case: Case,
    holding: Sequence[Rule],
    shown: Sequence[int],
    kept_out: Mapping[int, Sequence[_Bar]],
) -> list[str]:
    """Return one sentence for each cap that is passed and each pin that does not stand."""
    rules, catalog = recommender.rules, recommender.bundle.catalog
    if rules is None:
        return []
    counts = Counter(rules.category_of(product) for product in shown)
    told = []
    for rule in holding:
        if isinstance(rule, Cap):
            for category, count in counts.items():
                concerns = category is not None and (rule.category is None or category in rule.category)
                if concerns and count > rule.at_most:
                    told.append(f"{rule.name}: {count} of {category}, at most {rule.at_most}")
    slots: dict[int, Pin] = {}
    pinned: dict[int, Pin] = {}
    for pin in _pins(holding):
        product = catalog.index.get(pin.product_id)
        if product is None:
            why = "is not in the bundle"
        elif pin.slot > len(shown):
            told.append(f"{pin.name}: the answer ends before slot {pin.slot}")
            continue
        elif product in kept_out:
            why = " and ".join(bar.words for bar in kept_out[product])
        elif case.rest is not None and case.rest[product]:
            why = "is being looked at"
        elif pin.slot in slots:
            why = f"gives way to {shown_as(slots[pin.slot].name)}, which has slot {pin.slot}"
        elif product in pinned:
            first = pinned[product]
            why = f"stands in slot {first.slot} already, by {shown_as(first.name)}"
        else:
            slots[pin.slot] = pinned[product] = pin
            continue
        told.append(f"{pin.name}: {pin.product_id} {why}")
    return told
