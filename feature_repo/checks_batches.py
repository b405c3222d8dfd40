"""The checks that no batch of interactions was loaded twice.

Files arrive by day, channel or store, and a load that is repeated leaves whole groups of lines twice: the
same lines, the same lines under new order numbers, or one day's lines under another date. A single line
that is there twice is nothing (two coffees on one receipt); a group of which every line is, is. Content is
compared by 64-bit hashes. Deliberately absent: what came since an earlier run (``quality_batches``).
"""

from __future__ import annotations

from typing import Final

from feature_repo.casts import quoted
from feature_repo.checks_form import IS_PURCHASE, Check
from feature_repo.schema import (
    AT,
    CHANNEL,
    CUSTOMER_ID,
    INTERACTIONS,
    KIND,
    ORDER_ID,
    PRODUCT_ID,
    QUANTITY,
    ROW_NUMBER,
    STORE_ID,
    VALUE,
)

__all__ = ["REPEATS"]

_AT: Final = quoted(AT)
_TYPED: Final = f"typed_{INTERACTIONS}"
_CONTENT: Final = f"{CUSTOMER_ID}, {PRODUCT_ID}, {KIND}, {QUANTITY}, {quoted(VALUE)}"
_GROUP: Final = f"{_AT}::DATE AS day, coalesce({CHANNEL}, '') AS c, coalesce({STORE_ID}, '') AS s"

_LEAST: Final = 10  # different lines from which a group's repetition is no accident
_TWICE: Final = 0.9  # share of a group's lines that are there more than once
_MANY: Final = 0.5  # share of groups with repeated lines from which these are how the shop records
_DOUBLED: Final = 0.25  # share of repeated rows above which no sum can be trusted

# The first pass, which keeps no lines, leaves few groups to the exact one. Where repeated lines are usual (sales
# by date, without customers), only even numbers of all of many lines are no accident.
_LOADED_TWICE: Final = f"""
    WITH lines AS (SELECT {ROW_NUMBER}, {_GROUP}, hash({_CONTENT}, {_AT}) AS line FROM {_TYPED}
        WHERE {_AT} IS NOT NULL),
    groups AS (SELECT day, c, s, count(*) > 1.4 * approx_count_distinct(line) AND count(*) >= {2 * _LEAST} AS odd
        FROM lines GROUP BY ALL),
    share AS (SELECT avg(odd::INTEGER) AS odd_share FROM groups),
    times AS (SELECT day, c, s, line, count(*) AS n FROM lines
        SEMI JOIN (FROM groups WHERE odd) AS suspects USING (day, c, s) GROUP BY ALL),
    twice AS (SELECT day, c, s FROM times, share GROUP BY day, c, s
        HAVING (count(*) >= 2 * {_LEAST} AND bool_and(n % 2 = 0)) OR (count(*) >= {_LEAST}
            AND avg((n > 1)::INTEGER) >= {_TWICE} AND any_value(odd_share) <= {_MANY}))
    SELECT {ROW_NUMBER} FROM lines SEMI JOIN twice USING (day, c, s)
    QUALIFY row_number() OVER (PARTITION BY day, c, s, line ORDER BY {ROW_NUMBER}) > 1"""

_SAME_DAYS: Final = f"""
    WITH lines AS (SELECT {ROW_NUMBER}, {_GROUP}, hash({_CONTENT}, {_AT}::TIME) AS line FROM {_TYPED}
        WHERE {_AT} IS NOT NULL),
    groups AS (SELECT day, c, s, count(*) AS n, sum(line) AS content FROM lines GROUP BY ALL
        HAVING n >= {_LEAST} AND min(line) < max(line)),
    again AS (SELECT day, c, s FROM groups
        QUALIFY row_number() OVER (PARTITION BY c, s, n, content ORDER BY day) > 1)
    SELECT {ROW_NUMBER} FROM lines SEMI JOIN again USING (day, c, s)"""

# Where times are dates, a customer may well buy one coffee twice a day: one line proves nothing there.
_SAME_ORDERS: Final = f"""
    WITH orders AS (SELECT {ORDER_ID}, min({CUSTOMER_ID}) AS who, min({_AT}) AS moment, count(*) AS n,
        sum(hash({_CONTENT}, {_AT})) AS content FROM {_TYPED}
        WHERE {ORDER_ID} IS NOT NULL AND {CUSTOMER_ID} IS NOT NULL AND {_AT} IS NOT NULL AND {IS_PURCHASE}
        GROUP BY {ORDER_ID} HAVING n > 1 OR moment > date_trunc('day', moment)),
    again AS (SELECT {ORDER_ID} FROM orders
        QUALIFY row_number() OVER (PARTITION BY who, moment, n, content ORDER BY {ORDER_ID}) > 1)
    SELECT {ROW_NUMBER} FROM {_TYPED} SEMI JOIN again USING ({ORDER_ID}) WHERE {IS_PURCHASE}"""

REPEATS: Final = (
    Check(
        "days loaded once",
        INTERACTIONS,
        _LOADED_TWICE,
        "every line, or nearly every one, of these days (by channel and store) is there more than once, "
        f"whatever its {ORDER_ID}; a batch was loaded twice: remove the copies, they count again",
        fail_above=_DOUBLED,
        shown=(CUSTOMER_ID, PRODUCT_ID, AT, CHANNEL, STORE_ID, ORDER_ID),
    ),
    Check(
        "days differ",
        INTERACTIONS,
        _SAME_DAYS,
        "the lines of these days (by channel and store) are those of an earlier day, at the same times of day; "
        "a batch was loaded under a wrong date: remove or date it",
        fail_above=_DOUBLED,
        shown=(CUSTOMER_ID, PRODUCT_ID, AT, CHANNEL, STORE_ID),
    ),
    Check(
        "orders differ",
        INTERACTIONS,
        _SAME_ORDERS,
        f"the same customer bought the same at the same instant under another {ORDER_ID}; the rows are kept "
        "and counted again: remove them if the order was recorded twice",
        fail_above=_DOUBLED,
        shown=(ORDER_ID, CUSTOMER_ID, PRODUCT_ID, AT, QUANTITY),
    ),
)
