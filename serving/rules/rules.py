"""Rules bound to a bundle: what the recommender asks, resolved for one request.

Categories and attributes that a file names must be in the bundle, else it is refused whole: a rule that silently
concerns nothing is worse than none. Products come and go, so a product that the bundle does not have is passed
over.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.recent import DAY_US
from serving.bundle import Bundle
from serving.catalog import Catalog
from serving.errors import ConfigError
from serving.filtering import Mask, Numbers
from serving.rules.apply import compiled
from serving.rules.choice import Categories
from serving.rules.config import Age, Boost, Cap, Eligibility, New, Rule, RulesFile, Selected, read
from serving.rules.hard import Hard, selected
from serving.rules.rhythm import Rhythm
from serving.rules.soft import NO_NUMBERS, Exploring, Fresh, Soft
from serving.subject import Bought
from serving.validation import shown

_TOLD: Final = 12


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
        _check(file, bundle.catalog)
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
        self._edition: object = None
        self._held: dict[tuple[int, ...], Soft] = {}
        self._unrestricted = _unrestricted(self.ordering)
        if self.ordering:
            compiled()  # before the first answer

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
        other.ordering, other._unrestricted, other._held = (), (), {}
        return other

    def check_customers(self, attributes: Collection[str]) -> None:
        """Raise ``ConfigError`` where a rule asks for an attribute of customers that is not among ``attributes``."""
        for rule in self.hard.rules:
            if isinstance(rule, Eligibility | Age):
                _known(rule.customer, attributes, "an attribute of the customers", rule.name)

    def passing(self, on_sale: Mask, asked: Asked) -> Mask:
        """Return which products (products,) are on sale and pass the hard rules; see ``Hard.passing``."""
        return self.hard.passing(on_sale, asked.row, asked.at, asked.surface, asked.segment)

    def due_days(self, bought: Bought) -> NDArray[np.float64]:
        """Return after how many days (m,) products bought before are due; NaN: never."""
        if self._rhythm is None:
            return self._catalog.repurchase_days[bought.products]
        return self._rhythm.days(bought)

    def soft(self, asked: Asked, *, only: Collection[Rule] | None = None) -> Soft:
        """Return the soft rules of a request; ``only`` some of them, for who wants to see what each does."""
        holding = self._unrestricted
        if only is not None or holding is None:
            holding = tuple(
                place
                for place, rule in enumerate(self.ordering)
                if rule.holds(asked.at, asked.surface, asked.segment) and (only is None or rule in only)
            )
        edition = self._catalog.edition
        if edition is not self._edition:
            self._held, self._edition = {}, edition
        kept, soft = self._held, self._held.get(holding)
        if soft is None:
            soft = kept[holding] = self._resolved([self.ordering[place] for place in holding])
        return soft

    def _resolved(self, rules: Sequence[Rule]) -> Soft:
        """Return what rules that hold together come to; of several about the same thing the first wins."""
        kinds = ("pin", "boost", "cap", "diversity", "new", "explore")
        file = self.file.model_copy(
            update={kind: [rule for rule in getattr(self.file, kind) if rule in rules] for kind in kinds}
        )
        explore, new = next(iter(file.explore), None), next(iter(file.new), None)
        return Soft(
            factors=self._factors(file.boost) if file.boost else NO_NUMBERS,
            pins=tuple(self._pins(file).items()),
            limits=self._limits(file.cap) if file.cap else NO_NUMBERS,
            trade_off=file.diversity[0].trade_off if file.diversity else 1.0,
            fresh=None if new is None else self._fresh(new),
            exploring=None
            if explore is None
            else Exploring(
                explore.name, tuple(sorted({slot - 1 for slot in explore.slots})), explore.epsilon
            ),
        )

    def _fresh(self, rule: New) -> Fresh:
        return Fresh(rule.at_least, int(rule.days * DAY_US), self._catalog.launched)

    def _pins(self, file: RulesFile) -> dict[int, int]:
        pins: dict[int, int] = {}
        for rule in file.pin:
            product = self._catalog.index.get(rule.product_id)
            if product is not None and rule.slot - 1 not in pins and product not in pins.values():
                pins[rule.slot - 1] = product
        return pins

    def _factors(self, boosts: Sequence[Boost]) -> NDArray[np.float64]:
        factors = np.ones(len(self._catalog))
        for rule in boosts:
            about = selected(rule, self._catalog)
            factors[slice(None) if about is None else about] *= rule.factor
        return factors

    def _limits(self, caps: Sequence[Cap]) -> NDArray[np.float64]:
        limits = np.full(len(self._codes) + 1, np.inf)
        for rule in caps:
            for category in self._codes if rule.category is None else rule.category:
                code = self._codes[category]
                limits[code] = min(limits[code], rule.at_most)
        return limits


def load_rules(path: Path, bundle: Bundle, *, customer_attributes: Collection[str] | None = None) -> Rules:
    """Read a file of rules and bind it to a bundle.

    Parameters
    ----------
    path
        Of the file.
    bundle
        What will be recommended from.
    customer_attributes
        Names of the attributes that are known of customers (``FeatureReader.attributes``); None: they are not
        checked, and a customer of whom an attribute is not known is treated as the rule says.

    Raises
    ------
    ConfigError
        The file does not fit its model, or names a category or an attribute that there is not.
    """
    file = read(path)
    try:
        rules = Rules(file, bundle)
        if customer_attributes is not None:
            rules.check_customers(customer_attributes)
    except ConfigError as error:
        raise ConfigError(f"{error}; correct {path}") from None
    return rules


def _unrestricted(rules: Sequence[Rule]) -> tuple[int, ...] | None:
    """Return the places of rules that hold for every request; None where some do not."""
    restrictions = ("surface", "segment", "starts_at", "ends_at")
    if any(getattr(rule, name) is not None for rule in rules for name in restrictions):
        return None
    return tuple(range(len(rules)))


def _check(file: RulesFile, catalog: Catalog) -> None:
    categories = {str(category) for category in catalog.frame[s.CATEGORY].dropna().unique()}
    for _, rule in file.named():
        if isinstance(rule, Selected | Cap):
            for category in rule.category or ():
                _known(category, categories, "a category of the bundle", rule.name)
        if isinstance(rule, Selected):
            for name, values in rule.attributes.items():
                _known(name, catalog.attributes, "an attribute of the products", rule.name)
                column = catalog.column(name)
                if misfits := [value for value in values if not column.suits(value)]:
                    raise ConfigError(
                        f"expected {column.kind} for {name} in {shown(rule.name)}, found {shown(misfits[0])}"
                    )
        if isinstance(rule, Eligibility) and rule.product is not None:
            _known(rule.product, [*catalog.attributes, s.PRICE], "an attribute of the products", rule.name)
            if rule.compare != "equal" and not isinstance(catalog.column(rule.product), Numbers):
                raise ConfigError(
                    f"expected a product attribute of numbers to compare in {shown(rule.name)}, found texts in "
                    f"{shown(rule.product)}"
                )
    for category in file.due.days if file.due is not None else ():
        _known(category, categories, "a category of the bundle", "due")


def _known(name: str, known: Collection[str], what: str, rule: str) -> None:
    if name not in known:
        there = sorted(known)
        more = f" and {len(there) - _TOLD} more" if len(there) > _TOLD else ""
        told = ", ".join(there[:_TOLD]) or "none"
        raise ConfigError(f"expected {what} in {shown(rule)} (there are: {told}{more}), found {shown(name)}")
