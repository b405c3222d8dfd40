"""The declarative list of slow features: one entry and one Ibis expression each.

Every entry says what the feature means, over which window, of which type, and what is served when it
is missing. ``build`` evaluates the expressions at each snapshot instant; ``definitions`` turns the same
list into Feast views; the manifest of a bundle carries the defaults. Behaviour of the last minutes is
not here: it lives in ``recent``, computed by one function offline and online.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import ibis

from feature_repo import schema as s
from feature_repo.names import (
    CATEGORY_NAMES,
    CATEGORY_SHARES,
    CUSTOMER_FEATURES,
    CUSTOMER_RECENT,
    NEVER_DAYS,
    PRODUCT_FEATURES,
    RECENT,
    SEGMENT,
    SERVICES,
    FeatureType,
)

WINDOWS: Final = (7, 30, 90, 365)
YEAR: Final = 365
TOP_CATEGORIES: Final = 5

Default = float | str | bool | list[str] | list[float] | list[int] | None
Expression = Callable[[Any], Any]
"""Takes the staged events (``aggregate``) or the aggregated rows (``derive``), returns an Ibis value."""


@dataclass(frozen=True)
class Feature:
    """One feature: definition in words, type, default, window in days, and its expression."""

    name: str
    definition: str
    expression: Expression
    default: Default = 0.0
    dtype: FeatureType = "float"
    window_days: int | None = None
    stage: Literal["aggregate", "derive"] = "aggregate"


def _within(events: Any, days: int) -> Any:
    return events.age_days <= days


def _count(events: Any, where: Any) -> Any:
    return where.cast("float64").sum()


def _sum(column: Any, where: Any) -> Any:
    return ibis.ifelse(where, column, 0.0).sum()


def _ratio(numerator: Any, denominator: Any) -> Any:
    return ibis.ifelse(denominator > 0, numerator / denominator, 0.0)


def _in_window(expression: Callable[[Any, Any], Any], days: int) -> Expression:
    return lambda events: expression(events, _within(events, days))


def _windowed(name: str, definition: str, expression: Callable[[Any, Any], Any]) -> tuple[Feature, ...]:
    """Make one feature a window from one expression of (events, events within the window)."""
    return tuple(
        Feature(
            f"{name}_{days}d",
            f"{definition} in the last {days} days",
            _in_window(expression, days),
            window_days=days,
        )
        for days in WINDOWS
    )


def _elapsed(events: Any, where: Any) -> Any:
    return ibis.ifelse(where, events.age_days, ibis.null("float64")).min()


CUSTOMER: Final[tuple[Feature, ...]] = (
    Feature(
        "recency_days",
        "days since the last purchase",
        lambda e: _elapsed(e, e.is_purchase).fill_null(NEVER_DAYS),
        default=NEVER_DAYS,
    ),
    Feature("activity_days", "days since any interaction", lambda e: e.age_days.min(), default=NEVER_DAYS),
    Feature("tenure_days", "days since the first interaction", lambda e: e.age_days.max()),
    *_windowed("orders", "orders", lambda e, w: _count(e, w & e.is_order)),
    *_windowed("spend", "money spent", lambda e, w: _sum(e.value, w & e.is_purchase)),
    *_windowed("lines", "purchase lines", lambda e, w: _count(e, w & e.is_purchase)),
    *_windowed("views", "views, clicks and carts", lambda e, w: _count(e, w & e.is_browse)),
    Feature(
        "returns_365d",
        "share of purchase lines of the last 365 days that came back",
        lambda e: _ratio(
            _count(e, _within(e, YEAR) & e.is_return), _count(e, _within(e, YEAR) & e.is_purchase)
        ),
        window_days=YEAR,
    ),
    Feature(
        "basket_size",
        "purchase lines an order over the last 365 days",
        lambda e: _ratio(
            _count(e, _within(e, YEAR) & e.is_purchase), _count(e, _within(e, YEAR) & e.is_order)
        ),
        window_days=YEAR,
    ),
    Feature(
        "price_level",
        "money a unit bought over the last 365 days",
        lambda e: _ratio(
            _sum(e.value, _within(e, YEAR) & e.is_purchase),
            _sum(e.quantity, _within(e, YEAR) & e.is_purchase),
        ),
        window_days=YEAR,
    ),
    Feature(
        "repeat_share",
        "share of purchase lines of the last 365 days that the customer had bought before",
        lambda e: _ratio(
            _count(e, _within(e, YEAR) & e.is_repeat), _count(e, _within(e, YEAR) & e.is_purchase)
        ),
        window_days=YEAR,
    ),
)

PRODUCT: Final[tuple[Feature, ...]] = (
    Feature(
        "recency_days",
        "days since the last purchase by anybody",
        lambda e: _elapsed(e, e.is_purchase).fill_null(NEVER_DAYS),
        default=NEVER_DAYS,
    ),
    Feature("age_days", "days since the first interaction", lambda e: e.age_days.max()),
    *_windowed("purchases", "purchase lines", lambda e, w: _count(e, w & e.is_purchase)),
    *_windowed("revenue", "money taken", lambda e, w: _sum(e.value, w & e.is_purchase)),
    *_windowed("views", "views, clicks and carts", lambda e, w: _count(e, w & e.is_browse)),
    Feature(
        "price_paid",
        "money a unit over the last 365 days",
        lambda e: _ratio(
            _sum(e.value, _within(e, YEAR) & e.is_purchase),
            _sum(e.quantity, _within(e, YEAR) & e.is_purchase),
        ),
        window_days=YEAR,
    ),
    Feature(
        "repeat_rate",
        "share of purchase lines of the last 365 days by customers who had bought it before",
        lambda e: _ratio(
            _count(e, _within(e, YEAR) & e.is_repeat), _count(e, _within(e, YEAR) & e.is_purchase)
        ),
        window_days=YEAR,
    ),
    Feature(
        "return_rate",
        "returns a purchase line over the last 365 days",
        lambda e: _ratio(
            _count(e, _within(e, YEAR) & e.is_return), _count(e, _within(e, YEAR) & e.is_purchase)
        ),
        window_days=YEAR,
    ),
    Feature(
        "new_customer_share",
        "share of purchase lines of the last 365 days in a customer's first order",
        lambda e: _ratio(
            _count(e, _within(e, YEAR) & e.is_first_order), _count(e, _within(e, YEAR) & e.is_purchase)
        ),
        window_days=YEAR,
    ),
    Feature(
        "trend",
        "purchases of the last 30 days over those expected from the last 90, both plus one",
        lambda p: (p.purchases_30d + 1.0) / (p.purchases_90d / 3.0 + 1.0),
        default=1.0,
        stage="derive",
    ),
    Feature(
        "price_rank",
        "rank of price_paid within the category, 0 cheapest to 1 dearest",
        # rounded, because sums of floats differ in their last digits from run to run and ties must stay ties
        lambda p: ibis.percent_rank().over(
            ibis.window(group_by=p[s.CATEGORY], order_by=p.price_paid.round(6))
        ),
        default=0.5,
        stage="derive",
    ),
)


def _segment(customers: Any) -> Any:
    recency = ibis.cases(
        (customers.recency_days <= 60, "recent"), (customers.recency_days <= 180, "lapsing"), else_="lapsed"
    )
    frequency = ibis.cases(
        (customers.orders_365d <= 1, "once"), (customers.orders_365d <= 4, "few"), else_="many"
    )
    by_value = ibis.literal("rfm:") + recency + "-" + frequency
    return ibis.ifelse(
        customers[CATEGORY_NAMES].length() > 0,
        ibis.literal("category:") + customers[CATEGORY_NAMES][0],
        by_value,
    )


#: Features of customers that need more than one aggregation; ``build`` joins the two lists first.
CUSTOMER_TASTE: Final[tuple[Feature, ...]] = (
    Feature(
        CATEGORY_NAMES,
        f"the {TOP_CATEGORIES} categories bought most in the last 365 days, most first",
        lambda c: c[CATEGORY_NAMES],
        default=[],
        dtype="strings",
        window_days=YEAR,
        stage="derive",
    ),
    Feature(
        CATEGORY_SHARES,
        "their shares of the purchase lines of the last 365 days",
        lambda c: c[CATEGORY_SHARES],
        default=[],
        dtype="floats",
        window_days=YEAR,
        stage="derive",
    ),
    Feature(
        SEGMENT,
        "favourite category where there is one, else recency × frequency class",
        _segment,
        default="",
        dtype="string",
        window_days=YEAR,
        stage="derive",
    ),
)

VIEWS: Final[dict[str, tuple[Feature, ...]]] = {
    CUSTOMER_FEATURES: (*CUSTOMER, *CUSTOMER_TASTE),
    PRODUCT_FEATURES: PRODUCT,
}


def defaults(view: str) -> dict[str, Default]:
    """Return what is served for each feature of ``view`` when the store has no row."""
    return {feature.name: feature.default for feature in VIEWS[view]}


def schema_hash() -> str:
    """Hash the services and the names, types and defaults of every view: builds that differ do not mix."""
    described: dict[str, object] = {
        view: [(f.name, f.dtype, f.default) for f in features] for view, features in VIEWS.items()
    }
    described[CUSTOMER_RECENT] = [(name, dtype, None) for name, dtype in RECENT]
    described["services"] = SERVICES
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
