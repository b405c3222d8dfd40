"""Hard rules: which products a customer may be shown at all, as masks over the catalog.

What a rule makes of the catalog depends on few values of the customer (a limit, an age in years), so masks are kept
by these values: in most requests the hard rules cost one look-up. They are made anew where the catalog changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_repo import names as v
from feature_repo import schema as s
from serving.catalog import Catalog, Filters
from serving.filtering import Mask, Numbers, Scalar
from serving.rules.config import Age, Eligibility, Price, RulesFile, Selected
from serving.rules.holding import Holding

#: So many masks are kept, one byte a product each.
_KEPT: Final = 64
HardRule = Price | Eligibility | Age
Rows = NDArray[np.int32] | slice


def selected(rule: Selected, catalog: Catalog) -> Rows:
    """Return what a rule is about, as rows of the catalog."""
    named = None if rule.product_id is None else np.unique(catalog.indices(rule.product_id)[0])
    if not (rule.category or rule.attributes):
        return slice(None) if named is None else named
    mask = catalog.matching(Filters(tuple(rule.category or ()), attributes=tuple(rule.attributes.items())))
    return np.flatnonzero(mask).astype(np.int32) if named is None else named[mask[named]]


class Question(NamedTuple):
    """What a rule wants to know of a customer: an attribute as it is, as a number of years, or as a day of birth."""

    customer: str
    how: Literal["", "years", "born"]

    @classmethod
    def of(cls, rule: HardRule) -> Question | None:
        """Return what a rule asks; None: nothing."""
        if isinstance(rule, Price):
            return None
        how: Literal["", "years", "born"] = ""
        if isinstance(rule, Age):
            how = "years" if rule.born is None else "born"
        return cls(rule.customer, how)

    def answer(self, row: Mapping[str, Any], at: datetime) -> Scalar | None:
        """Return what a customer's row says at an instant; None where that is not known."""
        known = row.get(v.row_key(v.CUSTOMER_ATTRIBUTES, self.customer))
        if self.how:
            return _number(_years(known, at) if self.how == "born" else known)
        if isinstance(known, np.generic):
            known = known.item()
        if isinstance(known, float) and math.isnan(known):
            return None
        return known if isinstance(known, str | bool | int | float) and known != "" else None


class _Together:
    """Hard rules that hold together: what they ask of a customer, each thing once, and the masks made of that."""

    def __init__(self, rules: tuple[HardRule, ...]) -> None:
        self.rules = rules
        asking = [question for rule in rules if (question := Question.of(rule)) is not None]
        self.questions = tuple(dict.fromkeys(asking))
        self.edition: object = None
        self.masks: dict[tuple[Scalar | None, ...], tuple[Mask, Mask]] = {}


class Hard:
    """The hard rules of a file over a catalog.

    Parameters
    ----------
    file
        The rules.
    catalog
        Of the bundle; it has the categories and attributes that they name.
    """

    def __init__(self, file: RulesFile, catalog: Catalog) -> None:
        self.rules: tuple[HardRule, ...] = (*file.price, *file.eligibility, *file.age)
        self._catalog = catalog
        self._holding = Holding(self.rules, _Together)

    def holding(self, at: datetime, surface: str | None, segment: str) -> tuple[HardRule, ...]:
        """Return the rules that hold for a request."""
        return self._holding.of(at, surface, segment).rules

    def passing(
        self, on_sale: Mask, row: Mapping[str, Any], at: datetime, surface: str | None, segment: str
    ) -> Mask:
        """Return which products (products,) are on sale and pass, shared and read-only.

        Parameters
        ----------
        on_sale
            (products,) mask of the catalog at the instant; the very same where no rule concerns the request.
        row
            The customer's features by name; empty for nobody.
        at, surface, segment
            Of the request.
        """
        together = self._holding.of(at, surface, segment)
        if not together.rules:
            return on_sale
        edition = self._catalog.edition
        if edition is not together.edition or len(together.masks) >= _KEPT:
            together.masks = {}
            together.edition = edition
        masks = together.masks
        told = tuple([question.answer(row, at) for question in together.questions])
        held = masks.get(told)
        if held is None or held[0] is not on_sale:
            known = dict(zip(together.questions, told, strict=True))
            mask = on_sale.copy()
            for rule in together.rules:
                question = Question.of(rule)
                _clear(mask, rule, None if question is None else known[question], self._catalog)
            mask.flags.writeable = False
            held = masks[told] = on_sale, mask
        return held[1]


def value(rule: HardRule, row: Mapping[str, Any], at: datetime) -> Scalar | None:
    """Return what a rule wants to know of a customer; None where it is not known, or nothing is asked."""
    question = Question.of(rule)
    return None if question is None else question.answer(row, at)


def passes(rule: HardRule, known: Scalar | None, catalog: Catalog) -> Mask:
    """Return which products (products,) pass one rule for a customer of whom ``known`` is what it asks."""
    mask = np.ones(len(catalog), dtype=np.bool_)
    _clear(mask, rule, known, catalog)
    return mask


def _clear(mask: Mask, rule: HardRule, known: Scalar | None, catalog: Catalog) -> None:
    """Take out of ``mask`` (products,) what does not pass a rule."""
    about = selected(rule, catalog)
    fits: Mask | bool
    match rule:
        case Price():
            fits = _priced(rule, numbers(catalog, s.PRICE)[about])
        case Age():
            fits = _within(rule, known) if known is not None else _shows(rule.unknown_customer)
        case Eligibility():
            fits = _eligible(rule, known, catalog, about)
    if fits is not True:
        mask[about] &= fits


def _priced(rule: Price, price: NDArray[np.float64]) -> Mask:
    fits = np.isnan(price) if _shows(rule.without_price) else np.zeros(len(price), dtype=np.bool_)
    least = -math.inf if rule.min is None else rule.min
    most = math.inf if rule.max is None else rule.max
    return fits | ((price >= least) & (price <= most))


def _eligible(rule: Eligibility, known: Scalar | None, catalog: Catalog, about: Rows) -> Mask | bool:
    fits: Mask | bool | None
    if rule.product is None:
        if rule.one_of is not None:
            fits = _is_one_of(known, rule.one_of)
        else:
            fits = None if _number(known) is None else _within(rule, known)
        return _shows(rule.unknown_customer) if fits is None else fits
    if rule.compare == "equal":
        missing = np.asarray(catalog.frame[rule.product].isna().to_numpy(dtype=np.bool_))[about]
        fits = None if known is None else catalog.column(rule.product).having([known])[about]
    else:
        values, limit = numbers(catalog, rule.product)[about], _number(known)
        missing = np.isnan(values)
        within = np.less_equal if rule.compare == "at_most" else np.greater_equal
        fits = None if limit is None else within(values, limit)
    if fits is None:  # whatever the product: of the customer it is not known
        return _shows(rule.unknown_customer)
    return (fits | missing) if _shows(rule.unknown_product) else (fits & ~missing)


def numbers(catalog: Catalog, name: str) -> NDArray[np.float64]:
    """Return a column of numbers (products,), NaN where there is none."""
    column = catalog.column(name)
    assert isinstance(column, Numbers)
    return column.values.astype(np.float64, copy=False)


def _shows(unknown: str) -> bool:
    return unknown == "show"


def _within(rule: Age | Eligibility, known: Scalar | None) -> bool:
    number = _number(known)
    if number is None:
        return False
    return (rule.min is None or number >= rule.min) and (rule.max is None or number <= rule.max)


def _is_one_of(known: Scalar | None, values: tuple[Scalar, ...]) -> bool | None:
    if known is None:
        return None
    if isinstance(known, str):
        return any(known == str(one) for one in values)
    return any(known == one for one in values if not isinstance(one, str))


def _number(known: Any) -> float | None:
    """Return a value as a number, None where it is none."""
    if isinstance(known, np.generic):
        known = known.item()
    if isinstance(known, bool) or not isinstance(known, int | float) or not math.isfinite(known):
        return None
    return float(known)


def _years(known: Any, at: datetime) -> int | None:
    """Return the completed years since a day of birth, None where it cannot be read or lies in the future."""
    try:
        if isinstance(known, int | float):  # seconds since 1970, as the online store holds times
            known = datetime.fromtimestamp(known, UTC)
        born = date.fromisoformat(known[:10]) if isinstance(known, str) else known
        day = at.date()
        years = day.year - born.year - ((day.month, day.day) < (born.month, born.day))
    except (ValueError, AttributeError, TypeError, OverflowError, OSError):
        return None
    return int(years) if years >= 0 else None
