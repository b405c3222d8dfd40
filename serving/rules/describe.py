"""Rules in words: what each does, whom it concerns, and what it comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from feature_repo import schema as s
from serving.bundle import Bundle
from serving.filtering import Scalar
from serving.rules.config import (
    Age,
    Boost,
    Cap,
    Diversity,
    Due,
    Eligibility,
    Explore,
    New,
    Pin,
    Price,
    Rule,
    Selected,
    Unknown,
)
from serving.rules.effects import Effects
from serving.rules.rules import Rules


@dataclass(frozen=True)
class Described:
    """One rule in words, and what it comes to (``serving.rules.effects.Effect``)."""

    kind: str
    name: str
    does: str
    whom: str
    products: int
    shown: tuple[int, int] | None = None
    warnings: tuple[str, ...] = ()


def described(
    rules: Rules, bundle: Bundle, *, at: datetime, customers: Sequence[Mapping[str, Any]] = ()
) -> list[Described]:
    """Return every rule in words, in the order in which they are applied.

    Parameters
    ----------
    rules
        Bound to the bundle.
    bundle
        What is recommended from.
    at
        The instant at which products are on sale and rules have ended.
    customers
        Rows of some customers, on whom hard rules are tried.
    """
    effects = Effects(rules, bundle, at, customers)
    told = []
    for kind, rule in rules.file.named():
        effect = effects.of(rule)
        told.append(
            Described(kind, rule.name, does(rule), whom(rule), effect.products, effect.shown, effect.warnings)
        )
    due = rules.file.due
    if due is not None:
        products = int(bundle.catalog.frame[s.CATEGORY].isin(list(due.days)).sum())
        told.append(Described("due", "due", _due(due), "purchased: due", products))
    return told


def does(rule: Rule) -> str:
    """Return what a rule does, in one sentence."""
    match rule:
        case Price():
            told = f"shows {_what(rule)} only at prices {_band(rule.min, rule.max)}"
            return f"{told}; without a price: {rule.without_price}"
        case Eligibility():
            return f"shows {_what(rule)} only where {_condition(rule)}; {_unknown(rule.unknown_customer)}"
        case Age():
            told = f"shows {_what(rule)} only at an age {_band(rule.min, rule.max)} by {rule.customer}"
            return f"{told}; {_unknown(rule.unknown_customer)}"
        case Boost():
            return f"moves {_what(rule)} from place r to r / {rule.factor:g}"
        case Cap():
            each = "each category" if rule.category is None else _either(rule.category)
            return f"at most {rule.at_most} of {each}"
        case Diversity():
            return f"unlike products side by side (λ {rule.trade_off:g})"
        case Pin():
            return f"{rule.product_id} in slot {rule.slot}"
        case New():
            return f"at least {rule.at_least} launched in the last {rule.days:g} days"
        case Explore():
            slots = ", ".join(map(str, rule.slots))
            return f"any product in slot {slots} with chance {rule.epsilon:g}"
    raise TypeError(f"expected a kind of rule, found {type(rule).__name__}; describe it here")


def whom(rule: Rule) -> str:
    """Return whom and when a rule concerns."""
    told = []
    if rule.surface is not None:
        told.append(f"on {_either(rule.surface)}")
    if rule.segment is not None:
        told.append(f"segment {_either(rule.segment)}")
    if rule.starts_at is not None:
        told.append(f"from {rule.starts_at:%Y-%m-%d %H:%M%z}")
    if rule.ends_at is not None:
        told.append(f"until {rule.ends_at:%Y-%m-%d %H:%M%z}")
    return ", ".join(told) or "everybody, everywhere, always"


def _what(rule: Selected) -> str:
    told = []
    if rule.category is not None:
        told.append(_either(rule.category))
    told += [f"{name} {_either(values)}" for name, values in rule.attributes.items()]
    if rule.product_id is not None:
        told.append(_either(rule.product_id))
    return " and ".join(told) or "every product"


def _condition(rule: Eligibility) -> str:
    if rule.product is not None and rule.compare is not None:
        word = {"at_most": "≤", "at_least": "≥", "equal": "="}[rule.compare]
        return f"its {rule.product} {word} the customer's {rule.customer} (unknown: {rule.unknown_product})"
    if rule.one_of is not None:
        return f"the customer's {rule.customer} is {_either(rule.one_of)}"
    return f"the customer's {rule.customer} is {_band(rule.min, rule.max)}"


def _unknown(unknown: Unknown) -> str:
    return f"customer not known: {unknown}"


def _due(due: Due) -> str:
    days = ", ".join(f"{category} after {days:g} days" for category, days in due.days.items())
    own = f"own mean gap once bought on {due.purchases} days, else what is usual"
    return f"{days}; {own}" if days else own


def _either(values: Sequence[Scalar]) -> str:
    return " or ".join(map(str, values))


def _band(least: float | None, most: float | None) -> str:
    if least is None:
        return f"up to {most:g}"
    return f"from {least:g}" if most is None else f"from {least:g} to {most:g}"
