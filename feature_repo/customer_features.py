"""Features of a customer from what the customer did: one entry and one expression each.

Windows and their changes, rhythm and lateness, habits, the last purchase and the last month's, and tastes as
(name, share) lists. Dates enter as elapsed time only. Hours and weekdays are those of UTC.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

import ibis

from feature_repo import amounts as a
from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.feature import (
    TOP,
    YEAR,
    Default,
    Expression,
    Feature,
    count,
    elapsed,
    over,
    ratio,
    windowed,
    within,
)
from feature_repo.names import NEVER_DAYS, FeatureType

_MONTH: Final = 30
_DAYPARTS: Final = (("night", 0), ("morning", 6), ("afternoon", 12), ("evening", 18))
_WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def _between_hours(start: int) -> Expression:
    return lambda e: (e.hour >= start) & (e.hour < start + 6)


def _on_weekday(day: int) -> Expression:
    return lambda e: e.weekday == day


def _gaps(e: Any) -> Any:
    return within(e, YEAR) & e.gap_days.notnull()


AGGREGATES: Final[tuple[Feature, ...]] = (
    Feature(
        "recency_days",
        "days since the last purchase",
        lambda e: elapsed(e, e.is_purchase, NEVER_DAYS),
        default=NEVER_DAYS,
    ),
    Feature("activity_days", "days since any interaction", lambda e: e.age_days.min(), default=NEVER_DAYS),
    Feature("tenure_days", "days since the first interaction", lambda e: e.age_days.max()),
    *windowed("orders", "orders begun", a.orders),
    *windowed("spend", "money spent", a.spend),
    *windowed("lines", "purchase lines", a.lines),
    *windowed("views", "views, clicks and carts", a.looks),
    *windowed("carts", "events of putting something into a cart", a.carts),
    over("returns_365d", "returns a purchase line", a.returns, a.lines),
    over("returned_value_365d", "money returned over money spent", a.returned, a.spend),
    over("basket_size", "purchase lines over orders begun", a.lines, a.orders),
    over("basket_value", "money spent over orders begun", a.spend, a.orders),
    over("price_level", "money a unit bought", a.spend, a.units),
    over("price_level_30d", "money a unit bought", a.spend, a.units, days=_MONTH),
    over("discount_share", "discounts over list prices in the purchases", a.discounts, a.list_prices),
    over(
        "discount_share_30d",
        "discounts over list prices in the purchases",
        a.discounts,
        a.list_prices,
        days=_MONTH,
    ),
    over(
        "discounted_lines",
        "share with a discount of the purchase lines",
        a.only(a.lines, lambda e: e.discount > 0),
        a.lines,
    ),
    over(
        "repeat_share",
        "share whose product the customer had bought at an earlier instant, of the purchase lines",
        a.only(a.lines, lambda e: e.is_repeat),
        a.lines,
    ),
    Feature(
        "categories_ever",
        "categories (as told at the purchase) ever bought from",
        lambda e: count(e.is_first_of_category),
    ),
    Feature(
        "new_categories_90d",
        "categories bought from for the first time in the last 90 days",
        lambda e: count(within(e, 90) & e.is_first_of_category),
        window_days=90,
    ),
    Feature(
        "gap_count",
        "times between consecutive orders of which the later began in the last 365 days",
        lambda e: count(_gaps(e)),
        window_days=YEAR,
    ),
    Feature(
        "gap_mean_days",
        "mean days between the beginnings of those orders",
        lambda e: e.gap_days.mean(where=_gaps(e)).fill_null(0.0),
        window_days=YEAR,
    ),
    Feature(
        "gap_deviation_days",
        "population standard deviation of those gaps, 0 below two",
        lambda e: e.gap_days.var(where=_gaps(e), how="pop").fill_null(0.0).sqrt(),
        window_days=YEAR,
    ),
    *(
        over(
            f"orders_{part}_share",
            f"share begun from {start}:00 to {start + 6}:00 UTC of the orders",
            a.only(a.orders, _between_hours(start)),
            a.orders,
        )
        for part, start in _DAYPARTS
    ),
    *(
        over(
            f"orders_{day}_share",
            f"share begun on a {day.capitalize()} (UTC) of the orders",
            a.only(a.orders, _on_weekday(number)),
            a.orders,
        )
        for number, day in enumerate(_WEEKDAYS)
    ),
)

LAST: Final[tuple[Feature, ...]] = (
    Feature(
        "last_order_value",
        "money of the order of the line bought last, as far as it is known; 0 where there is none",
        lambda line: line.order_value,
        stage="last",
    ),
    Feature("last_order_lines", "purchase lines of that order", lambda line: line.order_lines, stage="last"),
    Feature(
        "last_price",
        "money a unit of the line bought last; 0 where there is none",
        lambda line: ratio(line.value, line.quantity),
        stage="last",
    ),
    Feature(
        "last_discount_share",
        "discount over list price of the line bought last; 0 where there is none",
        lambda line: ratio(line.discount, line.value + line.discount),
        stage="last",
    ),
    Feature(
        "last_hour",
        "hour (UTC) of the last purchase; 0 also where there is none",
        lambda line: line.hour,
        stage="last",
    ),
    *(
        Feature(
            f"last_{what}",
            f"{what} of the line bought last; empty when it has none",
            itemgetter(column),
            default="",
            dtype="string",
            stage="last",
        )
        for column, what in (
            (s.PRODUCT_ID, "product"),
            (s.CATEGORY, "category"),
            (s.CHANNEL, "channel"),
            (s.STORE_ID, "store"),
        )
    ),
)


def _lateness(c: Any) -> Any:
    return ibis.ifelse(c.gap_count > 0, ratio(c.recency_days, c.gap_mean_days), 0.0)


RHYTHM: Final[tuple[Feature, ...]] = (
    Feature(
        "lateness",
        "days since the last purchase over the mean gap, above 1 the customer is late; 0 without a gap above 0",
        _lateness,
        window_days=YEAR,
        stage="derive",
    ),
    Feature(
        "lateness_deviations",
        "days beyond the mean gap, negative before, over the gaps' deviation (at least a day); 0 below two gaps",
        lambda c: ibis.ifelse(
            c.gap_count > 1,
            (c.recency_days - c.gap_mean_days) / ibis.greatest(c.gap_deviation_days, 1.0),
            0.0,
        ),
        window_days=YEAR,
        stage="derive",
    ),
)


@dataclass(frozen=True)
class Mix:
    """A taste: the top names of one column of the purchase lines of some days, their shares, how many in all.

    ``column`` is a column of the staged events; ``what`` begins the names of the three features.
    """

    what: str
    column: str
    noun: str
    days: int

    @property
    def names(self) -> str:
        """The feature that lists the names, most first."""
        return f"{self.what}_names"

    @property
    def shares(self) -> str:
        """The feature that lists their shares."""
        return f"{self.what}_shares"

    @property
    def breadth(self) -> str:
        """The feature that counts all names, not only the top ones."""
        return f"{self.what}_breadth"

    def features(self) -> Iterator[Feature]:
        """The three features."""
        of = f"of the purchase lines of the last {self.days} days"
        listed: tuple[tuple[str, str, Default, FeatureType], ...] = (
            (self.names, f"the {TOP} {self.noun} most {of}, most first, ties by name", [], "strings"),
            (self.shares, f"their shares {of} that have one", [], "floats"),
            (self.breadth, f"distinct {self.noun} among those {of}", 0.0, "float"),
        )
        for name, definition, default, dtype in listed:
            yield Feature(name, definition, itemgetter(name), default, dtype, self.days, "derive")


MIXES: Final[tuple[Mix, ...]] = (
    Mix("category", s.CATEGORY, "categories", YEAR),
    Mix("month_category", s.CATEGORY, "categories", _MONTH),
    Mix("channel", s.CHANNEL, "channels", YEAR),
    Mix("store", s.STORE_ID, "stores", YEAR),
)


def _segment(customers: Any) -> Any:
    recency = ibis.cases(
        (customers.recency_days <= 60, "recent"), (customers.recency_days <= 180, "lapsing"), else_="lapsed"
    )
    frequency = ibis.cases(
        (customers.orders_365d <= 1, "once"), (customers.orders_365d <= 4, "few"), else_="many"
    )
    by_value = ibis.ifelse(
        customers.recency_days < NEVER_DAYS, ibis.literal("rfm:") + recency + "-" + frequency, "rfm:never"
    )
    favourites = customers[v.CATEGORY_NAMES]
    return ibis.ifelse(favourites.length() > 0, ibis.literal(v.CATEGORY_SEGMENT) + favourites[0], by_value)


CUSTOMER: Final[tuple[Feature, ...]] = (
    *AGGREGATES,
    *LAST,
    *RHYTHM,
    *(feature for mix in MIXES for feature in mix.features()),
    Feature(
        v.SEGMENT,
        "category:X, the one bought most in 365 days; without one rfm: recent ≤ 60, lapsing ≤ 180, lapsed days since "
        "the last purchase – once ≤ 1, few ≤ 4, many orders in 365 days; rfm:never who never bought",
        _segment,
        default="",
        dtype="string",
        window_days=YEAR,
        stage="derive",
    ),
)
