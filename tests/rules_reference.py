"""Rules from their definitions, row by row and without NumPy's help: what the fast ones are compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from feature_repo import schema as s
from serving.bundle import Bundle
from serving.recommender import Query
from serving.rules.config import Age, Eligibility, Price, RulesFile, Selected


def concerns(rule: Selected, row: Mapping[str, Any]) -> bool:
    """Whether a rule is about the product of a catalog row."""
    return (
        (rule.category is None or row[s.CATEGORY] in rule.category)
        and (rule.product_id is None or row[s.PRODUCT_ID] in rule.product_id)
        and all(row[name] in values for name, values in rule.attributes.items())
    )


def is_eligible(file: RulesFile, row: Mapping[str, Any], customer: Mapping[str, Any], query: Query) -> bool:
    """Whether a product passes the hard rules of a file."""
    for rule in (*file.price, *file.eligibility, *file.age):
        if rule.surface is not None and query.surface not in rule.surface:
            continue
        if (rule.starts_at is not None and query.at < rule.starts_at) or (
            rule.ends_at is not None and query.at >= rule.ends_at
        ):
            continue
        if concerns(rule, row) and not _fits(rule, row, customer, query):
            return False
    return True


def _fits(
    rule: Price | Eligibility | Age, row: Mapping[str, Any], customer: Mapping[str, Any], query: Query
) -> bool:
    if isinstance(rule, Price):
        price = row[s.PRICE]
        return rule.without_price == "show" if math.isnan(price) else _in(rule, price)
    known = customer.get(f"customer_attributes.{rule.customer}")
    if isinstance(rule, Age):
        if known is None:
            return rule.unknown_customer == "show"
        if rule.born is not None:
            year, month, day = map(int, known.split("-"))
            known = query.at.year - year - ((query.at.month, query.at.day) < (month, day))
        return _in(rule, known)
    if known is None:
        return rule.unknown_customer == "show"
    if rule.one_of is not None:
        return known in rule.one_of
    if rule.product is None:
        return _in(rule, known)
    theirs = row[rule.product]
    if theirs is None or theirs != theirs:
        return rule.unknown_product == "show"
    return bool(
        {"at_most": theirs <= known, "at_least": theirs >= known, "equal": theirs == known}[
            rule.compare or ""
        ]
    )


def _in(rule: Any, number: float) -> bool:
    return (rule.min is None or number >= rule.min) and (rule.max is None or number <= rule.max)


def arranged(bundle: Bundle, file: RulesFile, pool: Sequence[int], n: int) -> list[tuple[int, bool]]:
    """Return (product, whether it is pinned) of each slot: boosts, pins, caps, diversity, each by its definition.

    ``pool`` is everything that is allowed, in plain order, and no rule is restricted to surfaces or times.
    """
    rows = bundle.catalog.frame.to_dict("records")
    n = min(n, len(pool))
    factor = {p: math.prod(rule.factor for rule in file.boost if concerns(rule, rows[p])) for p in pool}
    keys = {p: (place + 1.0) / factor[p] for place, p in enumerate(pool)}
    order = sorted(pool, key=lambda p: keys[p])
    limits: dict[str, float] = {}
    for cap in file.cap:
        for category in {row[s.CATEGORY] for row in rows} - {None}:
            if cap.category is None or category in cap.category:
                limits[category] = min(limits.get(category, math.inf), cap.at_most)
    slots: dict[
        int, int
    ] = {}  # the first pin of a slot has it whose product is there and stands nowhere else
    for pin in file.pin:
        product = bundle.catalog.index.get(pin.product_id, -1)
        if product in pool and pin.slot <= n and pin.slot - 1 not in slots and product not in slots.values():
            slots[pin.slot - 1] = product
    pinned = set(slots.values())
    trade_off = file.diversity[0].trade_off if file.diversity else 1.0
    shown = list(slots.values())
    for slot in range(n):
        if slot in slots:
            continue
        left = [p for p in order if p not in shown]
        counts = {c: sum(rows[p][s.CATEGORY] == c for p in shown) for c in limits}
        roomy = [
            p for p in left if counts.get(rows[p][s.CATEGORY], -1) < limits.get(rows[p][s.CATEGORY], math.inf)
        ]
        slots[slot] = max(roomy or left, key=lambda p: _relevance(bundle, order, shown, p, trade_off))
        shown.append(slots[slot])
    return [(slots[slot], slots[slot] in pinned) for slot in range(n)]


def _relevance(bundle: Bundle, order: list[int], shown: list[int], product: int, trade_off: float) -> float:
    relevance = trade_off * (1.0 - order.index(product) / len(order))
    if trade_off == 1.0 or not shown or bundle.vectors is None:
        return relevance
    nearest = max(_cosine(bundle.vectors[product], bundle.vectors[one]) for one in shown)
    return relevance - (1.0 - trade_off) * nearest


def _cosine(one: Any, other: Any) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
