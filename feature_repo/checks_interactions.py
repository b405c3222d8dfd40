"""The checks of single lines and orders of the interactions, and of what customers send back.

They need no other table. Far-out quantities and values are found on the logarithmic scale, where purchases
are nearly symmetric. Deliberately absent: what other tables say about a line (``checks_sales``).
"""

from __future__ import annotations

from typing import Final

from feature_repo.casts import quoted
from feature_repo.checks_form import IS_PURCHASE, IS_RETURN, MOST, NEARLY_ALL, SOME, Check, rows_where
from feature_repo.schema import (
    AT,
    CUSTOMER_ID,
    DISCOUNT,
    INTERACTIONS,
    ORDER_ID,
    PRODUCT_ID,
    PURCHASE,
    QUANTITY,
    RETURN,
    ROW_NUMBER,
    VALUE,
)

__all__ = ["LINE_CHECKS"]

_AT: Final = quoted(AT)
_VALUE: Final = quoted(VALUE)
_TYPED: Final = f"typed_{INTERACTIONS}"

_REPEATED_LINES: Final = f"""
    WITH lines AS (
        SELECT {ROW_NUMBER}, hash(*COLUMNS(* EXCLUDE ({ROW_NUMBER}))) AS line FROM raw_{INTERACTIONS}),
    repeated AS (SELECT line, min({ROW_NUMBER}) AS first FROM lines GROUP BY line HAVING count(*) > 1)
    SELECT {ROW_NUMBER} FROM lines JOIN repeated USING (line) WHERE {ROW_NUMBER} > first"""

_RETURNS_WITHOUT_PURCHASE: Final = f"""
    WITH bought AS (SELECT {CUSTOMER_ID}, {PRODUCT_ID}, min({_AT}) AS first FROM {_TYPED}
        WHERE {IS_PURCHASE} AND {CUSTOMER_ID} IS NOT NULL GROUP BY ALL)
    SELECT {ROW_NUMBER} FROM {_TYPED} LEFT JOIN bought USING ({CUSTOMER_ID}, {PRODUCT_ID})
    WHERE {IS_RETURN} AND {CUSTOMER_ID} IS NOT NULL AND (first IS NULL OR first > {_AT})"""

# Returns that follow no purchase at all have their own finding.
_RETURNS_BEYOND: Final = f"""
    WITH pairs AS (SELECT DISTINCT {CUSTOMER_ID}, {PRODUCT_ID} FROM {_TYPED}
        WHERE {IS_RETURN} AND {CUSTOMER_ID} IS NOT NULL),
    moves AS (SELECT {ROW_NUMBER}, {IS_RETURN} AS back,
        sum(CASE WHEN {IS_PURCHASE} THEN coalesce({QUANTITY}, 1) ELSE 0 END) OVER story AS bought,
        sum(CASE WHEN {IS_RETURN} THEN coalesce({QUANTITY}, 1) ELSE 0 END) OVER story AS returned
        FROM {_TYPED} SEMI JOIN pairs USING ({CUSTOMER_ID}, {PRODUCT_ID})
        WHERE {IS_PURCHASE} OR {IS_RETURN}
        WINDOW story AS (PARTITION BY {CUSTOMER_ID}, {PRODUCT_ID}
            ORDER BY {_AT}, coalesce({IS_RETURN}, FALSE), {ROW_NUMBER}))
    SELECT {ROW_NUMBER} FROM moves WHERE back AND bought > 0 AND returned > bought"""

# Schemes that write a share (0.2) have few values above 1; those that write money have many.
_DISCOUNT_UNITS: Final = f"""
    WITH shares AS (SELECT avg(({DISCOUNT} <= 1)::INTEGER) AS share FROM {_TYPED} WHERE {DISCOUNT} > 0)
    SELECT {ROW_NUMBER} FROM {_TYPED}, shares WHERE {DISCOUNT} > 1 AND share >= {1 - SOME}"""


def _far_out(column: str) -> str:
    """Return the rows of purchases far above nearly all others.

    The outer fence of Tukey (Exploratory Data Analysis, 1977, ch. 2), three interquartile ranges above the
    upper quartile, on logarithms. The range is taken as at least ln 4, so that nothing below 64 times the
    upper quartile is far out where nearly all values are the same. A shop that also sells by the pallet has
    a long tail: where there are enough purchases to know it, ten times their highest thousandth is asked too.
    """
    name = quoted(column)
    return f"""
    WITH spread AS (SELECT quantile_disc({name}, [0.25, 0.75, 0.999]) AS q, count(*) AS n FROM {_TYPED}
        WHERE {IS_PURCHASE} AND {name} > 0),
    fence AS (SELECT greatest(exp(ln(q[2]) + 3 * greatest(ln(q[2]) - ln(q[1]), ln(4))),
        CASE WHEN n >= 1000 THEN 10 * q[3] ELSE 0 END) AS far FROM spread)
    SELECT {ROW_NUMBER} FROM {_TYPED}, fence WHERE {IS_PURCHASE} AND {name} > far"""


def _orders(having: str) -> str:
    return f"""
    WITH odd AS (SELECT {ORDER_ID} FROM {_TYPED} WHERE {ORDER_ID} IS NOT NULL AND {IS_PURCHASE}
        GROUP BY {ORDER_ID} HAVING {having})
    SELECT {ROW_NUMBER} FROM {_TYPED} SEMI JOIN odd USING ({ORDER_ID}) WHERE {IS_PURCHASE}"""


LINE_CHECKS: Final = (
    Check(
        "rows usable",
        INTERACTIONS,
        f"SELECT {ROW_NUMBER} FROM rejected_{INTERACTIONS}",
        "these rows are left out of everything that follows, for the reasons above",
        fail_above=MOST,
    ),
    Check(
        "customers known",
        INTERACTIONS,
        rows_where(INTERACTIONS, f"{CUSTOMER_ID} IS NULL"),
        f"{CUSTOMER_ID} is empty: anonymous rows count for products, not for customers",
        fail_above=NEARLY_ALL,
        shown=(PRODUCT_ID, AT),
    ),
    Check(
        "lines differ",
        INTERACTIONS,
        _REPEATED_LINES,
        "exact copies of an earlier line are kept and counted again; drop them in the source if they "
        "are not two of the same on one receipt",
        fail_above=MOST,
        shown=(CUSTOMER_ID, PRODUCT_ID, AT),
    ),
    Check(
        "returns",
        INTERACTIONS,
        rows_where(INTERACTIONS, IS_RETURN),
        "returns are taken off purchases, never learned from as purchases",
        "PASS",
        shown=(CUSTOMER_ID, PRODUCT_ID, AT),
    ),
    Check(
        "returns follow a purchase",
        INTERACTIONS,
        _RETURNS_WITHOUT_PURCHASE,
        "the customer bought no such product before (history may begin later); the rows are kept",
        shown=(CUSTOMER_ID, PRODUCT_ID, AT),
    ),
    Check(
        "returns within what was bought",
        INTERACTIONS,
        _RETURNS_BEYOND,
        f"expected no more sent back than was bought before, found a higher {QUANTITY}; the rows are kept: "
        "look for purchases that are missing or returns booked twice",
        shown=(CUSTOMER_ID, PRODUCT_ID, AT, QUANTITY),
    ),
    Check(
        f"{QUANTITY} above zero",
        INTERACTIONS,
        rows_where(INTERACTIONS, f"{QUANTITY} <= 0 AND ({IS_PURCHASE} OR {IS_RETURN})"),
        f"expected kind {RETURN} with positive {QUANTITY} for a return; as it is, the row lowers sums",
        fail_above=SOME,
        shown=(CUSTOMER_ID, PRODUCT_ID, QUANTITY),
    ),
    Check(
        f"{VALUE} not negative",
        INTERACTIONS,
        rows_where(INTERACTIONS, f"{_VALUE} < 0"),
        f"expected kind {RETURN} with positive {VALUE} for a return; as it is, the row lowers sums",
        fail_above=SOME,
        shown=(CUSTOMER_ID, PRODUCT_ID, VALUE),
    ),
    Check(
        f"{DISCOUNT} not negative",
        INTERACTIONS,
        rows_where(INTERACTIONS, f"{DISCOUNT} < 0"),
        f"expected 0 or more, since {VALUE} is what was paid after it; write surcharges into {VALUE}",
        fail_above=SOME,
        shown=(CUSTOMER_ID, PRODUCT_ID, VALUE, DISCOUNT),
    ),
    Check(
        f"{DISCOUNT} in one unit",
        INTERACTIONS,
        _DISCOUNT_UNITS,
        f"nearly every {DISCOUNT} is a share of the list price (at most 1), but these are more; "
        "write all as shares, or all as money",
        shown=(CUSTOMER_ID, PRODUCT_ID, VALUE, DISCOUNT),
    ),
    *(
        Check(
            f"{column} within reason",
            INTERACTIONS,
            _far_out(column),
            f"expected purchases like the others, found {column} far above nearly all (a fence of Tukey, on "
            "logarithms, beyond the long tail); the rows are kept and may rule sums: correct slips",
            shown=(CUSTOMER_ID, PRODUCT_ID, AT, QUANTITY, VALUE),
        )
        for column in (QUANTITY, VALUE)
    ),
    Check(
        "an order has one customer",
        INTERACTIONS,
        _orders(f"min({CUSTOMER_ID}) <> max({CUSTOMER_ID})"),
        f"expected one {CUSTOMER_ID} to an {ORDER_ID}, found several; if numbers start again in each store or "
        f"year, put store or year into the {ORDER_ID}",
        shown=(ORDER_ID, CUSTOMER_ID, AT),
    ),
    Check(
        "an order is one visit",
        INTERACTIONS,
        _orders(f"max({_AT}) - min({_AT}) > INTERVAL 1 DAY"),
        f"expected the lines of an {ORDER_ID} of kind {PURCHASE} within a day, found more; what is bought "
        f"together is learned from {ORDER_ID}: give each visit its own",
        shown=(ORDER_ID, CUSTOMER_ID, AT),
    ),
)
