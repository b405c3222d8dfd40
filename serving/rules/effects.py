"""What rules come to as bundle and customers are: how much each is about, what it hides, what of it has no effect.

A rule may fit its bundle and still hide the whole shop, or nothing at all, by a name misspelt or a band that nobody is
in. That is no misfit, since products, values and customers come and go, so it is told and not refused. Hard rules are
tried on some customers of the store.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np

from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.recent import DAY_US, to_micros
from serving.bundle import Bundle
from serving.catalog import Catalog
from serving.filtering import Mask, Scalar
from serving.rules.config import (
    MAX_SLOT,
    Boost,
    Cap,
    Diversity,
    Explore,
    New,
    Pin,
    Rule,
    Selected,
)
from serving.rules.hard import HardRule, Question, passes, selected
from serving.rules.rules import Asked, Rules
from serving.validation import shown

_TOLD: Final = 5
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Effect:
    """What one rule comes to.

    ``products`` is how many it is about: of the bundle, for quotas and exploration those on sale that may be brought.
    ``shown`` is how many of those on sale a hard rule lets pass for the customer with the least and with the most; None
    for soft ones, and where no customer could be asked. ``warnings`` say what of it has no effect.
    """

    products: int
    shown: tuple[int, int] | None
    warnings: tuple[str, ...]


class Effects:
    """Finds what rules come to.

    Parameters
    ----------
    rules
        Bound to the bundle.
    bundle
        What is recommended from.
    at
        The instant.
    customers
        Rows of some customers (``CustomerState.row``), on whom hard rules are tried.
    """

    def __init__(self, rules: Rules, bundle: Bundle, at: datetime, customers: Sequence[Row]) -> None:
        self._rules = rules
        self._bundle = bundle
        self._at = at
        self._customers = customers
        self._on_sale = bundle.catalog.on_sale(at)
        self._segments = _segments(bundle)
        self._shadowed = _shadowed(rules)

    def of(self, rule: Rule) -> Effect:
        """Return what one rule comes to."""
        warnings = [*self._whom(rule), *self._shadowed.get(rule.name, ())]
        warnings += _without_effect(rule, self._bundle)
        products, on_sale = self._about(rule)
        band = None
        if isinstance(rule, Selected):
            warnings += _unknown_values(rule, self._bundle.catalog)
        if products and not on_sale and not isinstance(rule, New | Explore):
            is_one = "it is not" if isinstance(rule, Pin) else f"none of the {products:,} products is"
            warnings.append(f"{is_one} on sale now")
        if not products:
            warnings += _about_nothing(rule)
        if isinstance(rule, HardRule):
            band, told = self._tried(rule, on_sale)
            warnings += told
        return Effect(products, band, tuple(warnings))

    def together(self) -> list[str]:
        """Return what all hard rules together leave nothing of, by surface."""
        hard, told = self._rules.hard.rules, list[str]()
        if not hard or not self._on_sale.any():
            return told
        surfaces = sorted({name for rule in hard for name in rule.surface or ()})
        for surface in (None, *surfaces):
            where = "" if surface is None else f" on {surface}"
            if not self._passing(surface, {}):
                told.append(
                    f"a visitor of whom nothing is known is shown nothing{where}: hard rules hide it all"
                )
            if self._customers and not any(self._passing(surface, row) for row in self._customers):
                told.append(
                    f"each of {len(self._customers):,} customers looked at is shown nothing{where}: "
                    "hard rules hide it all"
                )
        return told

    def _passing(self, surface: str | None, row: Row) -> bool:
        asked = Asked(self._at, surface, str(row.get(v.SEGMENT) or ""), row)
        return bool(self._rules.passing(self._on_sale, asked).any())

    def _about(self, rule: Rule) -> tuple[int, int]:
        """Return how many products a rule is about, and how many of them are on sale."""
        catalog = self._bundle.catalog
        about: Mask = np.zeros(len(catalog), dtype=np.bool_)
        match rule:
            case Pin():
                about[catalog.indices([rule.product_id])[0]] = True
            case Cap():
                category = catalog.frame[s.CATEGORY]
                named = category.notna() if rule.category is None else category.isin(rule.category)
                about |= named.to_numpy(dtype=np.bool_)
            case New():
                at = to_micros(self._at)
                about |= (catalog.launched > at - int(rule.days * DAY_US)) & self._on_sale
            case Selected():
                about[selected(rule, catalog)] = True
            case Explore():
                about |= self._on_sale
            case _:
                about[:] = True
        return int(np.count_nonzero(about)), int(np.count_nonzero(about & self._on_sale))

    def _tried(self, rule: HardRule, on_sale: int) -> tuple[tuple[int, int] | None, list[str]]:
        """Return how many products on sale pass a rule, at least and at most, and what is to be told of that."""
        question, told = Question.of(rule), list[str]()
        answers: set[Scalar | None] = {None}
        if question is not None:
            answers = {question.answer(row, self._at) for row in self._customers}
            if not answers:
                return None, told
        if question is not None and answers == {None}:
            what = "a day of birth in" if question.how == "born" else "anything in"
            told.append(
                f"of none of {len(self._customers):,} customers looked at {what} {question.customer} can be read"
            )
        catalog = self._bundle.catalog
        about: Mask = np.zeros(len(catalog), dtype=np.bool_)
        about[selected(rule, catalog)] = True
        about &= self._on_sale
        passing = [int(np.count_nonzero(passes(rule, known, catalog) & about)) for known in answers]
        if on_sale and not max(passing):
            whom = "" if question is None else f", from each of {len(self._customers):,} customers looked at"
            told.append(f"it hides all {on_sale:,} products on sale that it is about{whom}")
        return (min(passing), max(passing)), told

    def _whom(self, rule: Rule) -> list[str]:
        told = []
        for segment in rule.segment or ():
            if segment not in self._segments:
                near = difflib.get_close_matches(segment, self._segments, n=1)
                meant = f" (the nearest is {shown(near[0])})" if near else ""
                told.append(f"no segment is called {shown(segment)}{meant}")
        if rule.ends_at is not None and rule.ends_at <= self._at:
            told.append(f"it has ended ({rule.ends_at:%Y-%m-%d %H:%M%z})")
        return told


def _segments(bundle: Bundle) -> set[str]:
    """Return the segments that customers can be in."""
    categories = bundle.catalog.frame[s.CATEGORY].dropna().unique()
    there = {*bundle.segments, *bundle.customers[v.SEGMENT].astype(str)}
    return {*v.RFM_SEGMENTS, *(f"{v.CATEGORY_SEGMENT}{category}" for category in categories), *there} - {""}


def _without_effect(rule: Rule, bundle: Bundle) -> list[str]:
    """Return why a rule changes no answer, whatever else there is."""
    match rule:
        case Boost() if rule.factor == 1.0:
            return ["a factor of 1 moves nothing"]
        case Boost() if rule.category is None and rule.product_id is None and not rule.attributes:
            return ["every product moves alike, so that none does"]
        case Cap() if rule.at_most >= MAX_SLOT:
            return [f"no answer has more than {MAX_SLOT} products"]
        case Diversity() if rule.trade_off == 1.0:
            return ["a lambda of 1 is the plain order"]
        case Diversity() if bundle.vectors is None:
            return ["the model has no vectors to tell unlike products by"]
        case Explore() if len(set(rule.slots)) < len(rule.slots):
            twice = next(slot for slot in rule.slots if rule.slots.count(slot) > 1)
            return [f"slot {twice} is named more than once, and counts once"]
    return []


def _unknown_values(rule: Selected, catalog: Catalog) -> list[str]:
    """Return which of the products and values that a rule names there are not."""
    told = []
    gone = [product for product in rule.product_id or () if product not in catalog.index]
    if gone:
        told.append(f"the bundle has no product {_some(gone)}")
    for name, values in rule.attributes.items():
        if missing := [value for value in values if not catalog.column(name).has(value)]:
            told.append(f"no product has {name} {_some(missing)}")
    return told


def _some(values: Sequence[Scalar]) -> str:
    more = f" and {len(values) - _TOLD:,} more" if len(values) > _TOLD else ""
    return ", ".join(map(shown, values[:_TOLD])) + more


def _about_nothing(rule: Rule) -> list[str]:
    match rule:
        case Pin():
            return [f"the bundle has no product {shown(rule.product_id)}"]
        case New():
            return [f"no product on sale was launched in the last {rule.days:g} days"]
        case Explore():
            return ["no product is on sale now"]
    protects = ", and hides nothing" if isinstance(rule, HardRule) else ""
    return [f"it is about no product of the bundle{protects}"]


def _shadowed(rules: Rules) -> dict[str, list[str]]:
    """Return, by the name of a rule, which rule before it always takes its place."""
    told: dict[str, list[str]] = defaultdict(list)

    def compare(kind: Iterable[Any], words: Callable[[Any, Any], str], key: Callable[[Any], object]) -> None:
        before: dict[object, list[Any]] = defaultdict(list)
        for rule in kind:
            first = next((one for one in before[key(rule)] if _covers(one, rule)), None)
            if first is None:
                before[key(rule)].append(rule)
            else:
                told[rule.name].append(words(first, rule))

    def one_counts(first: Rule, rule: Rule) -> str:
        return f"it has no effect: wherever it holds, {shown(first.name)} comes first, and one of this kind counts"

    def slot_taken(first: Pin, rule: Pin) -> str:
        if first.product_id == rule.product_id:
            return f"it has no effect: {shown(first.name)} says the same"
        return f"it stands only where the product of {shown(first.name)}, which has slot {rule.slot}, may not be shown"

    def placed(first: Pin, rule: Pin) -> str:
        return f"it stands only where {shown(first.name)} cannot put its product in slot {first.slot}"

    for kind in (rules.file.diversity, rules.file.new, rules.file.explore):
        compare(kind, one_counts, lambda rule: None)
    compare(rules.file.pin, slot_taken, lambda pin: pin.slot)
    lone = [pin for pin in rules.file.pin if pin.name not in told]
    compare(lone, placed, lambda pin: pin.product_id)
    return told


def _covers(first: Rule, rule: Rule) -> bool:
    """Whether ``first`` holds wherever ``rule`` does."""
    return (
        (first.surface is None or (rule.surface is not None and set(rule.surface) <= set(first.surface)))
        and (first.segment is None or (rule.segment is not None and set(rule.segment) <= set(first.segment)))
        and (first.starts_at is None or (rule.starts_at is not None and first.starts_at <= rule.starts_at))
        and (first.ends_at is None or (rule.ends_at is not None and rule.ends_at <= first.ends_at))
    )
