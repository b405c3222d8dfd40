"""How an answer came about: its candidates, what each rule did to each of them, and the order in the end.

Nothing is recorded while answers are made: the same answer is made again with one rule after another, in the order
in which rules are applied, so that tracing costs others nothing and cannot tell another story than the code that
answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.catalog import Filters
from serving.features import CustomerState
from serving.recommender import Case, Query, Recommendation, Recommender
from serving.rules.apply import DEPTH, LEAST
from serving.rules.config import Cap, Pin, Rule
from serving.rules.hard import passes, value
from serving.rules.rules import Rules


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
    dropped = _dropped(recommender, case, candidates)
    holding = _holding(recommender.rules, case)
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
                dropped_by=dropped.get(product, ()),
                moves=tuple(moves.get(product, ())),
                rank=None if item is None else item.rank,
                score=None if item is None else item.score,
                source=None if item is None else item.source,
                propensity=None if item is None else item.propensity,
            )
        )
    rules = () if recommender.rules is None or case.asked is None else recommender.rules.hard.rules
    asked = case.asked
    return Trace(
        customer_id=query.customer_id,
        surface=query.surface,
        at=query.at.isoformat(),
        bundle=recommender.bundle.tag,
        rules=recommender.digest,
        hard=tuple(r.name for r in rules if asked and r.holds(asked.at, asked.surface, asked.segment)),
        soft=tuple(rule.name for rule in holding),
        gave_way=tuple(_gave_way(recommender, case, holding, shown)),
        products=tuple(products),
    )


def _candidates(recommender: Recommender, case: Case) -> NDArray[np.int32]:
    """Return what the sources propose of all that is on sale (m,), best first, as deep as rules look."""
    draws = recommender.draws(case)
    n = case.query.n
    draws.draw(recommender.bundle.catalog.on_sale(case.query.at), n, max(DEPTH * n, LEAST))
    return draws.products


def _dropped(
    recommender: Recommender, case: Case, candidates: NDArray[np.int32]
) -> dict[int, tuple[str, ...]]:
    """Return what keeps each candidate out of the answer, whatever else is in it."""
    query, catalog, size = case.query, recommender.bundle.catalog, len(case.allowed)
    masks: list[tuple[str, NDArray[np.bool_]]] = []

    def without(name: str, products: NDArray[np.int32]) -> None:
        mask = np.ones(size, dtype=np.bool_)
        mask[products] = False
        masks.append((name, mask))

    without("exclude", catalog.indices(query.exclude)[0])
    without(f"purchased: {query.purchased}", case.held_back)
    masks.append(("filters", catalog.matching(query.filters or Filters())))
    asked = case.asked
    for rule in () if recommender.rules is None else recommender.rules.hard.rules:
        if asked is not None and rule.holds(asked.at, asked.surface, asked.segment):
            masks.append((rule.name, passes(rule, value(rule, asked.row, asked.at), catalog)))
    return {
        product: found
        for product in candidates.tolist()
        if (found := tuple(name for name, mask in masks if not mask[product]))
    }


def _holding(rules: Rules | None, case: Case) -> list[Rule]:
    """Return the soft rules that hold for a request, in the order in which they are applied."""
    if rules is None or case.asked is None:
        return []
    asked = case.asked
    return [rule for rule in rules.ordering if rule.holds(asked.at, asked.surface, asked.segment)]


def _moves(recommender: Recommender, case: Case, holding: Sequence[Rule]) -> dict[int, list[Move]]:
    """Return what each soft rule did to the ranks of products, each on top of those before it."""
    moves: dict[int, list[Move]] = {}
    if recommender.rules is None or case.asked is None:
        return moves
    before: dict[int, int] | None = None
    for number in range(len(holding) + 1):
        soft = recommender.rules.soft(case.asked, only=holding[:number])
        told, _ = recommender.arranged(case, soft)
        after = {product: rank for rank, (product, _, _) in enumerate(told, start=1)}
        if before is not None:
            for product in dict.fromkeys([*before, *after]):
                if before.get(product) != after.get(product):
                    name = holding[number - 1].name
                    moves.setdefault(product, []).append(Move(name, before.get(product), after.get(product)))
        before = after
    return moves


def _gave_way(
    recommender: Recommender, case: Case, holding: Sequence[Rule], shown: Sequence[int]
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
        if isinstance(rule, Pin):
            product = catalog.index.get(rule.product_id)
            if product is None:
                told.append(f"{rule.name}: {rule.product_id} is not in the bundle")
            elif rule.slot > case.query.n or rule.slot > len(shown):
                told.append(f"{rule.name}: the answer ends before slot {rule.slot}")
            elif shown[rule.slot - 1] != product:
                why = (
                    "does not pass the hard rules"
                    if not case.allowed[product]
                    else "another pin has the slot"
                )
                if case.rest is not None and case.rest[product]:
                    why = "is being looked at"
                told.append(f"{rule.name}: {rule.product_id} {why}")
    return told
