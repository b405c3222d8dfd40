"""What the recommender is asked and what it answers: plain values, whoever asks and over whatever border."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

import orjson

from serving.catalog import Filters
from serving.errors import DataError
from serving.events.fold import session_key
from serving.reasons import Reason

PurchasedPolicy = Literal["exclude", "allow", "due"]
MAX_N: Final = 100


@dataclass(frozen=True)
class Query:
    """One request: who, how many, when, and under which conditions.

    ``surface`` is where the answer is shown; ``request_id`` seeds what rules leave to chance, nothing without it.
    """

    at: datetime
    customer_id: str | None = None
    session_id: str | None = None
    n: int = 10
    context: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    filters: Filters = field(default_factory=Filters)
    purchased: PurchasedPolicy = "exclude"
    surface: str | None = None
    request_id: str | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """Under which keys the histories of who is asking are kept: the customer's, then the session's."""
        customer = () if self.customer_id is None else (self.customer_id,)
        return customer if self.session_id is None else (*customer, session_key(self.session_id))


def conditions(query: Query) -> str | None:
    """Return what a query asks beside who, where and how many, as JSON; None where it asks nothing.

    It is what an answer can be made again by; see ``under``.
    """
    told: dict[str, Any] = {name: value for name in ("context", "exclude") if (value := getattr(query, name))}
    if query.filters:
        told["filters"] = {
            name: value for name, value in vars(query.filters).items() if value not in ((), None)
        }
    if query.purchased != "exclude":
        told["purchased"] = query.purchased
    return orjson.dumps(told).decode() if told else None


def under(query: Query, told: str) -> Query:
    """Return a query that asks what ``conditions`` told of another one besides.

    Raises
    ------
    DataError
        It is nothing that ``conditions`` tells.
    """
    try:
        asked: dict[str, Any] = orjson.loads(told)
        filters: dict[str, Any] = asked.pop("filters", {})
        attributes = tuple((name, tuple(values)) for name, values in filters.pop("attributes", ()))
        category = tuple(filters.pop("category", ()))
        besides: dict[str, Any] = {name: tuple(asked.pop(name, ())) for name in ("context", "exclude")}
        besides["filters"] = Filters(category, attributes=attributes, **filters)
        return replace(query, **besides, **asked)
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"expected the conditions of a request, found {told!r} ({error}); export again"
        ) from error


class Recommendation(NamedTuple):
    """One product of an answer; ``score`` is its source's own, before any rule.

    ``propensity`` is how likely it was to stand there, given the slots before it; None where no rules were asked.
    ``team`` is the variant whose pick it is, in an answer made of two (``serving.interleaving``).
    """

    product_id: str
    name: str | None
    rank: int
    score: float
    source: str
    reason: Reason
    propensity: float | None = None
    team: str | None = None


@dataclass(frozen=True)
class Recommendations:
    """The answer to one query; ``ignored`` lists ids of context and exclude that nobody knows.

    It is ``degraded`` where what the online store has of the customer could not be read.
    """

    items: tuple[Recommendation, ...]
    ignored: tuple[str, ...] = ()
    degraded: bool = False

    @property
    def product_ids(self) -> list[str]:
        """Ids in rank order."""
        return [item.product_id for item in self.items]


def described(item: Recommendation) -> dict[str, Any]:
    """Return one recommendation as the JSON object of the API."""
    reason: dict[str, Any] = {"code": item.reason.code}
    if item.reason.product_id is not None:
        reason["product_id"] = item.reason.product_id
    if item.reason.segment is not None:
        reason["segment"] = item.reason.segment
    return {
        "product_id": item.product_id,
        "name": item.name,
        "rank": item.rank,
        "score": item.score,
        "source": item.source,
        "reason": reason,
    }
