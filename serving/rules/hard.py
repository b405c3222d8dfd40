"""Hard rules: which products a customer may be shown at all, as masks over the catalog.

What a rule makes of the catalog depends on few values of the customer (a limit, an age in years), so masks are kept
by these values: in most requests the hard rules cost one look-up. They are made anew where the catalog changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feature_repo import names as v
from feature_repo import schema as s
from serving.catalog import Catalog, Filters
from serving.filtering import Mask, Numbers, Scalar
from serving.rules.config import Age, Eligibility, Price, RulesFile, Selected

#: So many masks are kept, one byte a product each.
_KEPT: Final = 64
HardRule = Price | Eligibility | Age


def selected(rule: Selected, catalog: Catalog) -> Mask | None:
    """Return the mask (products,) of what a rule is about; None for all products."""
    mask: Mask | None = None
    if rule.category or rule.attributes:
        mask = catalog.matching(
            Filters(tuple(rule.category or ()), attributes=tuple(rule.attributes.items()))
        )
    if rule.product_id is not None:
        named = np.zeros(len(catalog), dtype=np.bool_)
        named[catalog.indices(rule.product_id)[0]] = True
        mask = named if mask is None else mask & named
    return mask


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
        self._edition: object = None
        self._masks: dict[Any, tuple[Mask, Mask]] = {}

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
        key = [
            (place, value(rule, row, at))
            for place, rule in enumerate(self.rules)
            if rule.holds(at, surface, segment)
        ]
        if not key:
            return on_sale
        edition = self._catalog.edition
        if edition is not self._edition or len(self._masks) >= _KEPT:
            self._masks = {}
            self._edition = edition
        masks, told = self._masks, tuple(key)
        held = masks.get(told)
        if held is None or held[0] is not on_sale:
            mask = on_sale.copy()
            for place, known in key:
                mask &= passes(self.rules[place], known, self._catalog)
            mask.flags.writeable = False
            held = masks[told] = on_sale, mask
        return held[1]


def value(rule: HardRule, row: Mapping[str, Any], at: datetime) -> Scalar | None:
    """Return what a rule wants to know of a customer; None where it is not known, or nothing is asked."""
    if isinstance(rule, Price):
        return None
    known = row.get(v.row_key(v.CUSTOMER_ATTRIBUTES, rule.customer))
    if isinstance(rule, Age):
        years = _years(known, at) if rule.born is not None else known
        return _number(years)
    if isinstance(known, np.generic):
        known = known.item()
    if isinstance(known, float) and math.isnan(known):
        return None
    return known if isinstance(known, str | bool | int | float) and known != "" else None


def passes(rule: HardRule, known: Scalar | None, catalog: Catalog) -> Mask:
    """Return which products (products,) pass one rule for a customer of whom ``known`` is what it asks."""
    about = selected(rule, catalog)
    match rule:
        case Price():
            fits = _priced(rule, catalog)
        case Age():
            fits = np.full(
                len(catalog), _within(rule, known) if known is not None else _shows(rule.unknown_customer)
            )
        case Eligibility():
            fits = _eligible(rule, known, catalog)
    return fits if about is None else fits | ~about


def _priced(rule: Price, catalog: Catalog) -> Mask:
    price = numbers(catalog, s.PRICE)
    fits = np.isnan(price) if _shows(rule.without_price) else np.zeros(len(price), dtype=np.bool_)
    least = -math.inf if rule.min is None else rule.min
    most = math.inf if rule.max is None else rule.max
    return fits | ((price >= least) & (price <= most))


def _eligible(rule: Eligibility, known: Scalar | None, catalog: Catalog) -> Mask:
    size = len(catalog)
    if rule.product is None:
        if rule.one_of is not None:
            fits = _is_one_of(known, rule.one_of)
        else:
            fits = None if _number(known) is None else _within(rule, known)
        return np.full(size, _shows(rule.unknown_customer) if fits is None else fits)
    column = catalog.column(rule.product)
    if rule.compare == "equal":
        missing = np.asarray(catalog.frame[rule.product].isna().to_numpy(dtype=np.bool_))
        fitting = None if known is None else column.having([known])
    else:
        values, limit = numbers(catalog, rule.product), _number(known)
        missing = np.isnan(values)
        within = np.less_equal if rule.compare == "at_most" else np.greater_equal
        fitting = None if limit is None else within(values, limit)
    if fitting is None:  # whatever the product: of the customer it is not known
        return np.full(size, _shows(rule.unknown_customer))
    return (fitting | missing) if _shows(rule.unknown_product) else (fitting & ~missing)


def numbers(catalog: Catalog, name: str) -> NDArray[np.float64]:
    """Return a column of numbers (products,), NaN where there is none."""
    column = catalog.column(name)
    assert isinstance(column, Numbers)
    return column.values.astype(np.float64)


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
        born = date.fromisoformat(known[:10]) if isinstance(known, str) else known
        day = at.date()
        years = day.year - born.year - ((day.month, day.day) < (born.month, born.day))
    except (ValueError, AttributeError, TypeError):
        return None
    return int(years) if years >= 0 else None
