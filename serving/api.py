"""What the HTTP API takes and gives: strict models at the border, plain values behind it.

Unknown fields are refused, and so are values of another type (``true`` and ``"5"`` are no integers);
``serving.validation`` tells a misfit in one sentence. The OpenAPI document is generated from these
models. Deliberately absent: anything about ASGI, and any check that needs a catalog (unknown product ids
are reported, not refused).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from math import isfinite
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from feature_repo import schema as s
from serving.catalog import Filters
from serving.filtering import Scalar
from serving.reasons import ReasonCode
from serving.recommender import MAX_N, PurchasedPolicy, Query, Recommendations, described
from serving.validation import sentence, shown

MAX_CONTEXT: Final = 100
MAX_EXCLUDE: Final = 1000
#: Money of one event; a thousand million million of them still add up.
MOST_PAID: Final = 1e15
MAX_BATCH: Final = 1000
MAX_VALUES: Final = 100
MAX_TEXT: Final = 200


def _printable(value: str) -> str:
    if any(ord(sign) < 32 for sign in value):
        raise sentence(f"expected an id without control characters, found {shown(value)}")
    return value


Id = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=MAX_TEXT)]
#: A customer or session: control characters keep keys of sessions apart from those of customers.
Who = Annotated[
    str, StringConstraints(strict=True, min_length=1, max_length=MAX_TEXT), AfterValidator(_printable)
]
Number = Annotated[int, Field(strict=True, ge=1, le=MAX_N)]
Price = Annotated[float, Field(strict=True, allow_inf_nan=False)]


_STRING: Final = f"a string of 1 to {MAX_TEXT} characters"


def _each(value: Any, fits: Callable[[Any], bool], one: str, many: str) -> tuple[Any, ...]:
    """Return what is given, one or a list of many; a misfit in a list is told with its place."""
    given = value if isinstance(value, list) else [value]
    if (value is not given and not fits(value)) or not 0 < len(given) <= MAX_VALUES:
        raise sentence(f"expected {one}, or a list of 1 to {MAX_VALUES} {many}, found {shown(value)}")
    for place, part in enumerate(given):
        if not fits(part):
            raise sentence(f"expected {one}, found {shown(part)}", at=place)
    return tuple(given)


def _texts(value: Any) -> tuple[str, ...]:
    return _each(value, _short, _STRING, "strings")


def _values(value: Any) -> tuple[Scalar, ...]:
    return _each(value, _scalar, f"{_STRING}, a finite number or a boolean", "of them")


def _short(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT


def _scalar(value: Any) -> bool:
    return _short(value) or (isinstance(value, bool | int | float) and isfinite(value))


def _one_or_many(one: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_VALUES}]}


_TEXT: Final = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT}
_SCALAR: Final = {"anyOf": [_TEXT, {"type": "number"}, {"type": "boolean"}]}
Category = Annotated[tuple[str, ...], PlainValidator(_texts), WithJsonSchema(_one_or_many(_TEXT))]
AttributeValue = Annotated[tuple[Scalar, ...], PlainValidator(_values), WithJsonSchema(_one_or_many(_SCALAR))]


def _value(value: Any) -> Scalar:
    if not _scalar(value):
        raise sentence(f"expected {_STRING}, a finite number or a boolean, found {shown(value)}")
    return value  # type: ignore[no-any-return]


Value = Annotated[Scalar, PlainValidator(_value), WithJsonSchema(_SCALAR)]


def _value_or_null(value: Any) -> Scalar | None:
    if value is not None and not _scalar(value):
        raise sentence(
            f"expected {_STRING}, a finite number, a boolean, or null for not known, found {shown(value)}"
        )
    return value  # type: ignore[no-any-return]


ValueOrNull = Annotated[
    Scalar | None,
    PlainValidator(_value_or_null),
    WithJsonSchema({"anyOf": [*_SCALAR["anyOf"], {"type": "null"}]}),
]


def _paid(value: float) -> float:
    if value < 0:
        raise sentence(
            f"expected a value of 0 or more (what is sent back is an event of the kind return, with a positive value), "
            f"found {shown(value)}"
        )
    if value > MOST_PAID:
        raise sentence(
            f"expected a value of at most {MOST_PAID:.0e}, so that sums stay finite, found {shown(value)}"
        )
    return value


def _instant(value: Any) -> Any:
    if not isinstance(value, str):
        raise sentence(f"expected a time as ISO 8601 with a time zone, found {shown(value)}")
    return value


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Context(_Request):
    """What the customer is looking at now, and where the answer will be shown."""

    product_ids: Annotated[list[Id], Field(max_length=MAX_CONTEXT)] = Field(default_factory=list)
    surface: Id | None = None


class FilterSet(_Request):
    """What every product of the answer must satisfy."""

    category: Category | None = None
    price_min: Price | None = None
    price_max: Price | None = None
    attributes: Annotated[dict[Id, AttributeValue], Field(max_length=20)] = Field(default_factory=dict)

    @field_validator("price_max")
    @classmethod
    def _ordered(cls, value: float | None, info: ValidationInfo) -> float | None:
        least = info.data.get("price_min")
        if value is not None and least is not None and value < least:
            raise sentence(
                f"expected a price_max of at least price_min ({shown(least)}), found {shown(value)}"
            )
        return value

    def to_filters(self) -> Filters:
        """Return the filters as the recommender takes them."""
        return Filters(self.category or (), self.price_min, self.price_max, tuple(self.attributes.items()))


# made once: Pydantic copies other defaults anew for every request
_NO_CONTEXT: Final = Context()
_NO_FILTERS: Final = FilterSet()


class RecommendRequest(_Request):
    """Asks which products to show to one customer.

    ``variant`` is for testers: that of an experiment (``experiment/variant``, or the variant alone where only one is
    called so) instead of the one that the customer has.
    """

    customer_id: Who | None = None
    session_id: Who | None = None
    n: Number = 10
    context: Context = Field(default_factory=lambda: _NO_CONTEXT)
    exclude: Annotated[list[Id], Field(max_length=MAX_EXCLUDE)] = Field(default_factory=list)
    filters: FilterSet = Field(default_factory=lambda: _NO_FILTERS)
    purchased: PurchasedPolicy = "exclude"
    variant: Id | None = None

    @model_validator(mode="after")
    def _somebody(self) -> RecommendRequest:
        if self.customer_id is None and self.session_id is None:
            raise sentence("expected a customer_id or a session_id, found neither", at="customer_id")
        return self

    def to_query(self, at: datetime, request_id: str | None = None) -> Query:
        """Return the question as the recommender takes it."""
        return Query(
            at=at,
            customer_id=self.customer_id,
            session_id=self.session_id,
            n=self.n,
            context=tuple(self.context.product_ids),
            exclude=tuple(self.exclude),
            filters=self.filters.to_filters(),
            purchased=self.purchased,
            surface=self.context.surface,
            request_id=request_id,
        )


class BatchRequest(_Request):
    """Asks which products to show to each of many customers."""

    customer_ids: Annotated[list[Who], Field(min_length=1, max_length=MAX_BATCH)]
    n: Number = 10

    def to_queries(self, at: datetime, request_id: str) -> list[Query]:
        """Return one question a customer, all of one instant; each has a request id of its own."""
        return [
            Query(at=at, customer_id=customer, n=self.n, request_id=f"{request_id}.{number}")
            for number, customer in enumerate(self.customer_ids)
        ]


class SimilarRequest(_Request):
    """Asks which products are like the given ones."""

    product_ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_CONTEXT)]
    n: Number = 10
    filters: FilterSet = Field(default_factory=lambda: _NO_FILTERS)


class FeedbackEvent(_Request):
    """Something a customer, or a session without one, did with a product.

    ``at`` is ISO 8601 with a time zone, by default the time of receipt; ``value`` is money, never below zero: what is
    sent back is of the kind ``return``.
    """

    event_id: Id | None = None
    customer_id: Who | None = None
    session_id: Who | None = None
    product_id: Id
    kind: Literal["view", "click", "cart", "purchase", "return", "impression", "dismiss"]
    at: Annotated[AwareDatetime, BeforeValidator(_instant)] | None = None
    value: Annotated[
        Price, AfterValidator(_paid), WithJsonSchema({"type": "number", "minimum": 0, "maximum": MOST_PAID})
    ] = 0.0
    request_id: Id | None = None

    @model_validator(mode="after")
    def _somebody(self) -> FeedbackEvent:
        if self.customer_id is None and self.session_id is None:
            raise sentence("expected a customer_id or a session_id, found neither", at="customer_id")
        return self


class FeedbackRequest(_Request):
    """Tells what customers did; each event is taken or rejected by itself (see ``FeedbackEvent``)."""

    events: Annotated[
        list[Any],
        Field(min_length=1, max_length=MAX_BATCH),
        WithJsonSchema(
            {
                "type": "array",
                "items": FeedbackEvent.model_json_schema(),
                "minItems": 1,
                "maxItems": MAX_BATCH,
            }
        ),
    ]


class Rejected(BaseModel):
    """An event that was not taken: its place in the request, the path of the field it is about, and why."""

    index: int
    field: str
    why: str


class FeedbackResponse(BaseModel):
    """How many events are durable now, how many were known before, and which do not fit.

    ``unknown_products`` are those of events that were taken, and that the live bundle does not know: newer than it, or
    mistyped. None are told while no bundle is loaded.
    """

    accepted: int
    duplicates: int
    rejected: list[Rejected]
    unknown_products: list[str]


class ProductChange(_Request):
    """What is different about a product from now on."""

    product_id: Id
    price: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] | None = None
    available: Annotated[bool, Field(strict=True)] | None = None
    attributes: Annotated[dict[Id, Value], Field(max_length=20)] = {}

    @model_validator(mode="after")
    def _something(self) -> ProductChange:
        if not self.values():
            raise sentence("expected a price, available or attributes, found none", at="product_id")
        return self

    @field_validator("attributes")
    @classmethod
    def _apart(cls, value: dict[str, Scalar]) -> dict[str, Scalar]:
        """Refuse what has a field of its own, which says what fits."""
        for name in (s.PRICE, s.AVAILABLE):
            if name in value:
                raise sentence(f"expected {name} as a field of its own, found it in attributes", at=name)
        return value

    def values(self) -> dict[str, Any]:
        """Return what changes, by the name of the column."""
        told = {s.PRICE: self.price, s.AVAILABLE: self.available}
        return {name: value for name, value in told.items() if value is not None} | self.attributes


class ProductChanges(_Request):
    """Tells live changes of products."""

    products: Annotated[list[ProductChange], Field(min_length=1, max_length=MAX_BATCH)]


class CustomerChange(_Request):
    """What is different about a customer from now on; ``consent`` is by channel.

    An attribute that is null is not known any more.
    """

    customer_id: Who
    consent: Annotated[dict[Id, Annotated[bool, Field(strict=True)]], Field(max_length=20)] = {}
    attributes: Annotated[dict[Id, ValueOrNull], Field(max_length=100)] = {}

    @model_validator(mode="after")
    def _something(self) -> CustomerChange:
        if not self.values():
            raise sentence("expected consent or attributes, found none", at="customer_id")
        return self

    @field_validator("attributes")
    @classmethod
    def _apart(cls, value: dict[str, Scalar | None]) -> dict[str, Scalar | None]:
        """Refuse consent among attributes, where it could be anything."""
        for name in value:
            if name.lower().startswith(s.CONSENT_PREFIX):
                raise sentence(
                    f"expected consent by channel in consent, found {shown(name)} in attributes", at=name
                )
        return value

    def values(self) -> dict[str, Any]:
        """Return what changes, by the name of the column."""
        consents = {f"{s.CONSENT_PREFIX}{channel}": given for channel, given in self.consent.items()}
        return consents | self.attributes

    def columns(self) -> dict[str, tuple[str, Scalar | None]]:
        """Return the column that each field changes and what it becomes, by the field's path."""
        consents: dict[str, tuple[str, Scalar | None]] = {
            f"consent.{channel}": (f"{s.CONSENT_PREFIX}{channel}", given)
            for channel, given in self.consent.items()
        }
        return consents | {f"attributes.{name}": (name, value) for name, value in self.attributes.items()}


class CustomerChanges(_Request):
    """Tells live changes of customers."""

    customers: Annotated[list[CustomerChange], Field(min_length=1, max_length=MAX_BATCH)]


class Ignored(BaseModel):
    """What of a change is used by nothing now: the path in the request, and why."""

    field: str
    why: str


class ChangesResponse(BaseModel):
    """How many changes are durable now.

    ``unknown`` are products that the live bundle does not know (yet); ``ignored`` are attributes and consent channels
    that the shop's tables do not have, which are kept until they do, and values that are not of the attribute's type,
    which are not: a change of nothing else is not counted.
    """

    accepted: int
    unknown: list[str]
    ignored: list[Ignored]


class ReasonItem(BaseModel):
    """Why a product is shown."""

    code: ReasonCode
    product_id: str | None = None
    segment: str | None = None


class RecommendationItem(BaseModel):
    """One product of an answer; ``score`` is its source's own, before any rule."""

    product_id: str
    name: str | None
    rank: int
    score: float
    source: str
    reason: ReasonItem


class Unmatched(BaseModel):
    """A value in the filters that no product of the catalog has; nothing was shown for it."""

    field: str
    value: str | float | bool


class RecommendResponse(BaseModel):
    """The answer to one question; ``ignored`` lists given product ids that nobody knows.

    ``unmatched`` is there only where a category or attribute value in the filters is one that no product has.
    ``degraded`` is there, and true, only where what the online store has of the customer could not be read: what they
    did since the bundle was made is not known to this answer. Customers of the holdout, who see segment and popular
    only, have the experiment ``holdout`` and the variant ``fallback``. ``rules`` is the hash of the rules that the
    answer was made under, as ``nextbest rules check`` tells it; null without rules. An answer that mixes the lists of
    two variants has the variant ``interleaved``, and the bundle and the rules of the first.
    """

    request_id: str
    customer_id: str | None
    bundle: str
    rules: str | None
    experiment: str | None
    variant: str | None
    ignored: list[str]
    recommendations: list[RecommendationItem]
    degraded: bool = False
    unmatched: list[Unmatched] = []


class Problem(BaseModel):
    """What went wrong, in one sentence; ``field`` is the path of the field it is about."""

    code: str
    message: str
    field: str | None


class ErrorBody(BaseModel):
    """The body of every answer that is not 2xx."""

    error: Problem


def answer(
    answered: Recommendations,
    *,
    request_id: str,
    customer_id: str | None,
    bundle: str,
    rules: str | None = None,
    experiment: str | None = None,
    variant: str | None = None,
    unmatched: Sequence[tuple[str, Scalar]] = (),
) -> dict[str, Any]:
    """Return the JSON object of one answer (see ``RecommendResponse``)."""
    told: dict[str, Any] = {
        "request_id": request_id,
        "customer_id": customer_id,
        "bundle": bundle,
        "rules": rules,
        "experiment": experiment,
        "variant": variant,
        "ignored": list(answered.ignored),
        "recommendations": [described(item) for item in answered.items],
    }
    if answered.degraded:
        told["degraded"] = True
    if unmatched:
        told["unmatched"] = [
            {
                "field": "filters.category" if name == s.CATEGORY else f"filters.attributes.{name}",
                "value": value,
            }
            for name, value in unmatched
        ]
    return told


def problem(code: str, message: str, field: str | None = None) -> dict[str, Any]:
    """Return the JSON object of a refusal (see ``ErrorBody``)."""
    return {"error": {"code": code, "message": message, "field": field}}
