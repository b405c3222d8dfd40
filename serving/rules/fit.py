"""Whether rules fit a bundle and what is known of customers: names that there are, values that can be compared.

Products come and go, and values with them, so what no product has now is no misfit (``serving.rules.effects`` tells of
that); a text compared as a number never comes true.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from feature_repo import schema as s
from serving.catalog import Catalog
from serving.errors import ConfigError
from serving.filtering import Numbers
from serving.rules.config import Age, Cap, Eligibility, RulesFile, Selected
from serving.validation import shown

_TOLD: Final = 12
_NUMBER: Final = "a number"
_TEXT: Final = "a text"
_TIME: Final = "a time as ISO 8601"


def check_products(file: RulesFile, catalog: Catalog) -> None:
    """Raise ``ConfigError`` where a file names what the products do not have, or compares what they have wrongly."""
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


def check_customer(rule: Eligibility | Age, attributes: Mapping[str, str], catalog: Catalog) -> None:
    """Raise ``ConfigError`` where a rule asks for what customers do not have, or what it cannot compare."""
    _known(rule.customer, attributes, "an attribute of the customers", rule.name)
    kind, wanted = attributes[rule.customer], _NUMBER
    if isinstance(rule, Age):
        if rule.born is not None:
            if kind == _TIME:
                return
            wanted = _TEXT
    elif rule.one_of is not None:
        misfits = [value for value in rule.one_of if not _suits(kind, value)]
        if misfits:
            raise ConfigError(
                f"expected {kind} for the customers' {rule.customer} in {shown(rule.name)}, found {shown(misfits[0])}"
            )
        return
    elif rule.compare == "equal" and rule.product is not None:
        wanted = catalog.column(rule.product).kind
    if kind != wanted:
        use = (
            f" to compare with the products' {rule.product}"
            if isinstance(rule, Eligibility) and rule.product
            else ""
        )
        use = " with the day of birth, such as 2000-03-01" if isinstance(rule, Age) and rule.born else use
        raise ConfigError(
            f"expected an attribute of the customers that is {wanted}{use} in {shown(rule.name)}, found "
            f"{shown(rule.customer)}, which is {kind}"
        )


def _suits(kind: str, value: object) -> bool:
    if kind == _TEXT:
        return True  # a number is taken as its text
    return isinstance(value, bool) if kind != _NUMBER else not isinstance(value, bool | str)


def _known(name: str, known: Collection[str], what: str, rule: str) -> None:
    if name not in known:
        there = sorted(known)
        more = f" and {len(there) - _TOLD} more" if len(there) > _TOLD else ""
        told = ", ".join(there[:_TOLD]) or "none"
        raise ConfigError(f"expected {what} in {shown(rule)} (there are: {told}{more}), found {shown(name)}")
