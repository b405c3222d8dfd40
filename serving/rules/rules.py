"""Rules bound to a bundle: what the recommender asks, resolved for one request.

Categories and attributes that a file names must be in the bundle, else it is refused whole: a rule that silently
concerns nothing is worse than none. Products come and go, so a product that the bundle does not have is passed
over.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.recent import DAY_US
from serving.bundle import Bundle
from serving.errors import ConfigError
from serving.filtering import Column, Mask
from serving.rules.apply import compiled
from serving.rules.choice import Categories
from serving.rules.config import (
    Age,
    Boost,
    Cap,
    Diversity,
    Eligibility,
    Explore,
    New,
    Pin,
    Rule,
    RulesFile,
)
from serving.rules.file import read
from serving.rules.fit import check_customer, check_products
from serving.rules.hard import Hard, selected
from serving.rules.holding import Holding
from serving.rules.rhythm import Rhythm
from serving.rules.soft import NO_NUMBERS, Exploring, Fresh, Soft
from serving.subject import Bought

R = TypeVar("R", bound=Rule)

#: Factors of several boosts together move a product no further.
_MOST: Final = 1e100


class Asked(NamedTuple):
    """What of a request rules look at: instant, surface, the customer's segment and features by name."""

    at: datetime
    surface: str | None
    segment: str
    row: Mapping[str, Any]


class Rules:
    """The rules of a file over the catalog of a bundle.

    Parameters
    ----------
    file
        What the file says.
    bundle
        What it is about.

    Raises
    ------
    ConfigError
        The file names a category or an attribute that the bundle does not have.
    """

    def __init__(self, file: RulesFile, bundle: Bundle) -> None:
        check_products(file, bundle.catalog)
        self.file = file
        self._catalog = bundle.catalog
        self.hard = Hard(file, bundle.catalog)
        self._rhythm = None if file.due is None else Rhythm(file.due, bundle.catalog)
        codes, found = pd.factorize(bundle.catalog.frame[s.CATEGORY])
        self.categories = Categories(codes.astype(np.int32), len(found))
        self._codes = {str(category): code for code, category in enumerate(found)}
        self._names = {code: category for category, code in self._codes.items()}
        #: The soft rules, in the order in which they are applied.
        self.ordering: tuple[Rule, ...] = (
            *file.boost, *file.cap, *file.diversity, *file.pin, *file.new, *file.explore
        )  # fmt: skip
        self._holding = Holding(self.ordering, tuple[Rule, ...])
        self._edition: object = None
        self._columns: tuple[Column, ...] = ()
        self._soft = Holding(self.ordering, self.resolved)
        if self.ordering:
            compiled()  # before the first answer, as what holds for all who are nobody in particular
            as_of = bundle.manifest.data.as_of
            self.soft(Asked(as_of, None, "", {}))

    def category_of(self, product: int) -> str | None:
        """Return the category of a product; None without one."""
        return self._names.get(int(self.categories.codes[product]))

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """The customer's features that rules ask for, as they are called in a customer's row."""
        asked = {rule.customer for rule in self.hard.rules if isinstance(rule, Eligibility | Age)}
        return tuple(v.row_key(v.CUSTOMER_ATTRIBUTES, name) for name in sorted(asked))

    @property
    def digest(self) -> str:
        """See ``RulesFile``."""
        return self.file.digest

    def hard_alone(self) -> Rules:
        """Return the same rules of the same file without those that order."""
        other = copy.copy(self)
        other.ordering = ()
        other._holding, other._soft = Holding((), tuple[Rule, ...]), Holding((), self.resolved)
        return other

    def check_customers(self, attributes: Mapping[str, str]) -> None:
        """Raise ``ConfigError`` where a rule asks of customers what they do not have (``FeatureReader.attributes``)."""
        for rule in self.hard.rules:
            if isinstance(rule, Eligibility | Age):
                check_customer(rule, attributes, self._catalog)

    def passing(self, on_sale: Mask, asked: Asked) -> Mask:
        """Return which products (products,) are on sale and pass the hard rules; see ``Hard.passing``."""
        return self.hard.passing(on_sale, asked.row, asked.at, asked.surface, asked.segment)

    def due_days(self, bought: Bought) -> NDArray[np.float64]:
        """Return after how many days (m,) products bought before are due; NaN: never."""
        if self._rhythm is None:
            return self._catalog.repurchase_days[bought.products]
        return self._rhythm.days(bought)

    def holding(self, asked: Asked) -> tuple[Rule, ...]:
        """Return the soft rules that hold for a request, in the order in which they are applied."""
        return self._holding.of(asked.at, asked.surface, asked.segment)

    def soft(self, asked: Asked) -> Soft:
        """Return what the soft rules of a request come to."""
        edition = self._catalog.edition
        if edition is not self._edition:
            columns = tuple(self._catalog.column(name) for name in self._chosen_by)
            if any(new is not old for new, old in zip(columns, self._columns, strict=False)):
                self._soft = self._soft.anew()
            self._edition, self._columns = edition, columns
        return self._soft.of(asked.at, asked.surface, asked.segment)

    @cached_property
    def _chosen_by(self) -> tuple[str, ...]:
        """The attributes that choose the products of boosts: what else changes in the catalog changes no order."""
        return tuple(sorted({name for rule in self.file.boost for name in rule.attributes}))

    def resolved(self, rules: Sequence[Rule]) -> Soft:
        """Return what soft rules that hold together come to; of several of a kind of which one counts, the first."""
        boosts, caps = _of(Boost, rules), _of(Cap, rules)
        diverse, new, explore = _first(Diversity, rules), _first(New, rules), _first(Explore, rules)
        return Soft(
            factors=self._factors(boosts) if boosts else NO_NUMBERS,
            pins=self._pins(_of(Pin, rules)),
            limits=self._limits(caps) if caps else NO_NUMBERS,
            trade_off=1.0 if diverse is None else diverse.trade_off,
            fresh=None if new is None else self._fresh(new),
            exploring=None
            if explore is None
            else Exploring(
                explore.name, tuple(sorted({slot - 1 for slot in explore.slots})), explore.epsilon
            ),
        )

    def steps(self, rules: Sequence[Rule]) -> Iterator[Soft]:
        """Yield what the first of ``rules``, in the order of ``ordering``, come to: none, one, two and so on."""
        soft, others = Soft(), list[Rule]()
        yield soft
        for rule in rules:
            if isinstance(rule, Boost):
                soft = replace(soft, factors=self._factors([rule], soft.factors))
            elif isinstance(rule, Pin):
                soft = replace(soft, pins=(*soft.pins, *self._pins([rule])))
            else:
                others.append(rule)
                soft = replace(self.resolved(others), factors=soft.factors, pins=soft.pins)
            yield soft

    def _fresh(self, rule: New) -> Fresh:
        return Fresh(rule.at_least, int(rule.days * DAY_US), self._catalog.launched)

    def _pins(self, pins: Sequence[Pin]) -> tuple[tuple[int, int], ...]:
        index = self._catalog.index
        return tuple((pin.slot - 1, index[pin.product_id]) for pin in pins if pin.product_id in index)

    def _factors(
        self, boosts: Sequence[Boost], before: NDArray[np.float64] = NO_NUMBERS
    ) -> NDArray[np.float64]:
        factors = before.copy() if len(before) else np.ones(len(self._catalog))
        for rule in boosts:
            about = selected(rule, self._catalog)
            factors[about] = np.clip(factors[about] * rule.factor, 1.0 / _MOST, _MOST)
        return factors

    def _limits(self, caps: Sequence[Cap]) -> NDArray[np.float64]:
        limits = np.full(len(self._codes) + 1, np.inf)
        for rule in caps:
            about = slice(-1) if rule.category is None else [self._codes[name] for name in rule.category]
            limits[about] = np.minimum(limits[about], rule.at_most)
        return limits


def load_rules(path: Path, bundle: Bundle, *, customer_attributes: Mapping[str, str] | None = None) -> Rules:
    """Read a file of rules and bind it to a bundle.

    Parameters
    ----------
    path
        Of the file.
    bundle
        What will be recommended from.
    customer_attributes
        The attributes that are known of customers, and what each holds (``FeatureReader.attributes``); None: they are
        not checked, and a customer of whom an attribute is not known is treated as the rule says.

    Raises
    ------
    ConfigError
        The file does not fit its model, names a category or an attribute that there is not, or compares what no
        two such values can be compared by.
    """
    file = read(path)
    try:
        rules = Rules(file, bundle)
        if customer_attributes is not None:
            rules.check_customers(customer_attributes)
    except ConfigError as error:
        raise ConfigError(f"{error}; correct {path}") from None
    return rules


def _of(kind: type[R], rules: Sequence[Rule]) -> list[R]:
    return [rule for rule in rules if isinstance(rule, kind)]


def _first(kind: type[R], rules: Sequence[Rule]) -> R | None:
    return next(iter(_of(kind, rules)), None)
