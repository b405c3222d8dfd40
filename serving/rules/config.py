"""What a file of rules may say: the model of ``rules.toml``, and one sentence for whatever does not fit it.

Each table of the file is one kind of rule; hard ones (``price``, ``eligibility``, ``age``, ``due``) say what may be
shown at all, soft ones (``pin``, ``boost``, ``cap``, ``diversity``, ``new``, ``explore``) how an answer is ordered.
Here is only what can be judged without a catalog; whether a category or an attribute exists is judged where rules
are bound to a bundle; how a file is read is in ``serving.rules.file``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from serving.filtering import Scalar
from serving.validation import sentence, shown

MAX_SLOT: Final = 100


def _values(value: Any) -> tuple[Scalar, ...]:
    values = value if isinstance(value, list) else [value]
    misfit = next((one for one in values if not isinstance(one, str | bool | int | float)), None)
    if not values or misfit is not None:
        raise sentence(
            f"expected a string, a number, true or false, or a list of those, found {shown(value)}"
        )
    return tuple(values)


Name = Annotated[str, Field(min_length=1, max_length=200)]
Names = Annotated[list[Name], Field(min_length=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Values = Annotated[tuple[Scalar, ...], BeforeValidator(_values)]
Slot = Annotated[int, Field(ge=1, le=MAX_SLOT)]
#: What becomes of a product where the value that a rule asks for is not known.
Unknown = Literal["hide", "show"]
Banded = TypeVar("Banded", bound="Rule")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=False)


class Rule(_Strict):
    """What every rule has: its name, and whom it concerns when.

    ``surface`` and ``segment`` list where and for whom it holds, ``starts_at`` (included) and ``ends_at``
    (excluded) when; what is left out does not restrict it.
    """

    name: Name
    surface: Names | None = None
    segment: Names | None = None
    starts_at: AwareDatetime | None = None
    ends_at: AwareDatetime | None = None

    @model_validator(mode="after")
    def _window(self) -> Self:
        if self.starts_at is not None and self.ends_at is not None and self.starts_at >= self.ends_at:
            raise sentence(
                f"expected ends_at after starts_at {self.starts_at}, found {self.ends_at}", at="ends_at"
            )
        return self

    def holds(self, at: datetime, surface: str | None, segment: str) -> bool:
        """Whether the rule concerns a request of ``segment`` on ``surface`` at an instant."""
        return (
            (self.starts_at is None or self.starts_at <= at)
            and (self.ends_at is None or at < self.ends_at)
            and (self.surface is None or surface in self.surface)
            and (self.segment is None or segment in self.segment)
        )


class Selected(Rule):
    """A rule about some products: those that satisfy all of the given conditions, all products without any."""

    category: Names | None = None
    product_id: Names | None = None
    attributes: dict[Name, Values] = {}


class Price(Selected):
    """Hard: the selected products are shown only at prices within a band, both ends included."""

    min: Amount | None = None
    max: Amount | None = None
    without_price: Unknown = "hide"

    @model_validator(mode="after")
    def _band(self) -> Self:
        return _band(self, self.min, self.max)


class Eligibility(Selected):
    """Hard: the selected products are shown only to customers whose attribute says so.

    ``customer`` names the attribute. With ``product``, that attribute of the product must be ``at_most``,
    ``at_least`` or ``equal`` to it; else the customer's must lie in ``min`` … ``max``, or be ``one_of`` the given
    values.
    """

    customer: Name
    product: Name | None = None
    compare: Literal["at_most", "at_least", "equal"] | None = None
    min: Number | None = None
    max: Number | None = None
    one_of: Values | None = None
    unknown_customer: Unknown = "hide"
    unknown_product: Unknown = "hide"

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.product is None) != (self.compare is None):
            raise sentence("expected product and compare together, found one of them", at="compare")
        has_band = self.min is not None or self.max is not None
        conditions = (self.product is not None) + has_band + (self.one_of is not None)
        if conditions != 1:
            raise sentence(
                f"expected one condition on the customer (product with compare, min and/or max, or one_of), "
                f"found {conditions or 'none'}",
                at="customer",
            )
        return _band(self, self.min, self.max) if has_band else self


class Age(Selected):
    """Hard: the selected products are shown only to customers of an age (years), both ends included.

    ``years`` names the customers' attribute that holds the age, or ``born`` that of the day of birth (ISO 8601).
    """

    min: Amount | None = None
    max: Amount | None = None
    years: Name | None = None
    born: Name | None = None
    unknown_customer: Unknown = "hide"

    @model_validator(mode="after")
    def _one_attribute(self) -> Self:
        if (self.years is None) == (self.born is None):
            found = "neither" if self.years is None else "both"
            raise sentence(
                f"expected either years or born, the attribute that tells the age, found {found}", at="years"
            )
        return _band(self, self.min, self.max)

    @property
    def customer(self) -> str:
        """The customers' attribute."""
        return self.years or self.born or ""


class Due(_Strict):
    """Hard: after how long ``purchased: due`` shows a product bought before again.

    The ``days`` of its category where they are given; else the customer's own mean gap between purchases of it, once
    bought on so many days (``purchases``); else the days that are usual for it.
    """

    purchases: Annotated[int, Field(ge=2)] = 3
    days: dict[Name, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}


class Pin(Rule):
    """Soft: a product stands in a slot (from 1) wherever it passes the hard rules."""

    product_id: Name
    slot: Slot


class Boost(Selected):
    """Soft: the selected products stand ``factor`` times higher: a product at place r moves to place r / factor."""

    factor: Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)]


class Cap(Rule):
    """Soft: at most so many products of a category in an answer; of each category where none is named."""

    category: Names | None = None
    at_most: Annotated[int, Field(ge=1)]


class Diversity(Rule):
    """Soft: maximal marginal relevance with the weight ``lambda`` of relevance; 1 is the plain order."""

    trade_off: Annotated[float, Field(ge=0, le=1, alias="lambda")]


class New(Rule):
    """Soft: at least so many products of an answer were launched in the last ``days``."""

    at_least: Annotated[int, Field(ge=1, le=MAX_SLOT)]
    days: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Explore(Rule):
    """Soft: with the chance ``epsilon``, each of ``slots`` shows any product that passes the hard rules, all alike."""

    slots: Annotated[list[Slot], Field(min_length=1)]
    epsilon: Annotated[float, Field(gt=0, le=1)]


class RulesFile(_Strict):
    """The content of ``rules.toml``; rules of a kind stand in the order of the file."""

    price: list[Price] = []
    eligibility: list[Eligibility] = []
    age: list[Age] = []
    due: Due | None = None
    boost: list[Boost] = []
    cap: list[Cap] = []
    diversity: list[Diversity] = []
    pin: list[Pin] = []
    new: list[New] = []
    explore: list[Explore] = []

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = Counter(rule.name for _, rule in self.named())
        name, times = max(names.items(), key=lambda item: item[1], default=("", 1))
        if times > 1:
            raise sentence(f"expected every rule with a name of its own, found {shown(name)} {times} times")
        return self

    @cached_property
    def digest(self) -> str:
        """Stands for what the file says, whatever its comments and layout."""
        return hashlib.sha256(self.model_dump_json(by_alias=True).encode()).hexdigest()[:12]

    def named(self) -> Iterator[tuple[str, Rule]]:
        """Yield (kind, rule) in the order in which rules are applied."""
        for kind in type(self).model_fields:
            held = getattr(self, kind)
            for rule in held if isinstance(held, list) else ():
                yield kind, rule


def _band(rule: Banded, least: float | None, most: float | None) -> Banded:
    if least is None and most is None:
        raise sentence("expected min, max or both, found neither", at="min")
    if least is not None and most is not None and least > most:
        raise sentence(f"expected max of at least min {least}, found {most}", at="max")
    return rule
