"""Features of a product from what everybody did with it: one entry and one expression each.

Popularity and trend by window and by customer segment, who buys it, price, returns, age and stock history.
Anonymous purchases count; a customer's segment is the one known at the same instant.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any, Final

import ibis

from feature_repo import amounts as a
from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.feature import TOP, YEAR, Expression, Feature, elapsed, over, ratio, windowed, within
from feature_repo.names import NEVER_DAYS

_MONTH: Final = 30
_QUARTER: Final = 90
_LONG: Final = 3.0  # a quarter in months
#: Days over which the share of time on stock is taken.
STOCK_DAYS: Final = (30, 90)


def _buyers_within(days: int) -> Expression:
    return lambda e: a.buyers(e, within(e, days))


AGGREGATES: Final[tuple[Feature, ...]] = (
    Feature(
        "recency_days",
        "days since the last purchase by anybody",
        lambda e: elapsed(e, e.is_purchase, NEVER_DAYS),
        default=NEVER_DAYS,
    ),
    Feature("age_days", "days since the first interaction", lambda e: e.age_days.max()),
    *windowed("purchases", "purchase lines", a.lines),
    *windowed("revenue", "money taken", a.spend),
    *windowed("views", "views, clicks and carts", a.looks),
    *windowed("first_buys", "known customers buying it for the first time, one line each,", a.first_buys),
    over("price_paid", "money a unit in the purchases", a.spend, a.units),
    over("price_paid_30d", "money a unit in the purchases", a.spend, a.units, days=_MONTH),
    over("discount_share", "discounts over list prices in the purchases", a.discounts, a.list_prices),
    over(
        "repeat_rate",
        "share whose customer had bought it at an earlier instant (no anonymous one) of the purchase lines",
        a.only(a.lines, lambda e: e.is_repeat),
        a.lines,
    ),
    over("return_rate", "returns a purchase line", a.returns, a.lines),
    *(
        over(
            name,
            "share in a customer's first order (no anonymous one) of the purchase lines",
            a.only(a.lines, lambda e: e.is_first_order),
            a.lines,
            days=days,
        )
        for name, days in (("new_customer_share", YEAR), ("new_customer_share_30d", _MONTH))
    ),
    *(
        Feature(
            f"buyers_{days}d",
            f"known customers who bought it in the last {days} days",
            _buyers_within(days),
            window_days=days,
        )
        for days in (_MONTH, YEAR)
    ),
)

SEGMENTS: Final[tuple[Feature, ...]] = (
    Feature(
        v.SEGMENT_NAMES,
        f"the {TOP} segments whose customers bought most lines in the last {_QUARTER} days, most first, ties by name",
        itemgetter(v.SEGMENT_NAMES),
        default=[],
        dtype="strings",
        window_days=_QUARTER,
        stage="derive",
    ),
    Feature(
        v.SEGMENT_SHARES,
        f"their shares of the lines bought by known customers in the last {_QUARTER} days",
        itemgetter(v.SEGMENT_SHARES),
        default=[],
        dtype="floats",
        window_days=_QUARTER,
        stage="derive",
    ),
    Feature(
        v.SEGMENT_TRENDS,
        "in each of them: lines of the last 30 days over a third of those of the last 90, both plus one",
        itemgetter(v.SEGMENT_TRENDS),
        default=[],
        dtype="floats",
        window_days=_QUARTER,
        stage="derive",
    ),
)

STOCK: Final[tuple[Feature, ...]] = (
    *(
        Feature(
            f"available_share_{days}d",
            f"share of the last {days} days in which it was available; what its first dated row tells holds before it"
            " too; 1 without dated rows",
            itemgetter(f"available_share_{days}d"),
            default=1.0,
            window_days=days,
            stage="derive",
        )
        for days in STOCK_DAYS
    ),
    Feature(
        "stockouts_365d",
        "changes to unavailable from one dated row to the next in the last 365 days",
        itemgetter("stockouts_365d"),
        window_days=YEAR,
        stage="derive",
    ),
    Feature(
        "restocked_days",
        "days since the last change to available from one dated row to the next",
        itemgetter("restocked_days"),
        default=NEVER_DAYS,
        stage="derive",
    ),
    Feature(
        "launched_days",
        "days since the launch the newest row tells; where it tells none or one ahead, since the first interaction",
        itemgetter("launched_days"),
        stage="derive",
    ),
)


def _price_rank(p: Any) -> Any:
    is_sold = p.price_paid > 0
    shelf = ibis.window(group_by=[p[s.CATEGORY], is_sold])
    # rounded, because sums of floats differ in their last digits from run to run and ties must stay ties
    by_price = ibis.window(group_by=[p[s.CATEGORY], is_sold], order_by=p.price_paid.round(6))
    ranked = is_sold & (p.count().over(shelf) > 1)
    return ibis.ifelse(ranked, ibis.percent_rank().over(by_price), 0.5)


DERIVED: Final[tuple[Feature, ...]] = (
    Feature(
        "trend",
        "purchases of the last 30 days over a third of those of the last 90, both plus one",
        lambda p: (p.purchases_30d + 1.0) / (p.purchases_90d / _LONG + 1.0),
        default=1.0,
        stage="derive",
    ),
    Feature(
        "conversion_90d",
        "purchase lines over purchase lines, views, clicks and carts and one, of the last 90 days",
        lambda p: p.purchases_90d / (p.purchases_90d + p.views_90d + 1.0),
        window_days=_QUARTER,
        stage="derive",
    ),
    Feature(
        "price_change",
        "price paid in the last 30 days over that of the last 365, less one; 0 where either is 0",
        lambda p: ibis.ifelse(p.price_paid_30d > 0, ratio(p.price_paid_30d, p.price_paid, 1.0) - 1.0, 0.0),
        window_days=YEAR,
        stage="derive",
    ),
    Feature(
        "price_rank",
        "share of the other products sold in its category (newest told; none is a group of its own) that cost less, "
        "by price_paid to 6 digits; 0.5 for a product not sold or alone",
        _price_rank,
        default=0.5,
        stage="derive",
    ),
)

PRODUCT: Final[tuple[Feature, ...]] = (*AGGREGATES, *SEGMENTS, *STOCK, *DERIVED)
