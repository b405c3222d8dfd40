"""The checks of interactions beside the tables that describe products and customers.

Whether what was bought was known, on sale, available and priced, and whether who bought was there yet.
Tables without ``valid_from`` hold today's truth only and are not asked about the past. Deliberately absent:
prices paid against list prices, which discounts, taxes and bundles make differ for good reasons; a price of
another order of magnitude is not among them.
"""

from __future__ import annotations

from typing import Final

from feature_repo.casts import quoted
from feature_repo.checks_form import IS_PURCHASE, MOST, Check, before
from feature_repo.schema import (
    AT,
    AVAILABLE,
    CAMPAIGN_ID,
    CAMPAIGNS,
    CUSTOMER_ID,
    CUSTOMERS,
    INTERACTIONS,
    LAUNCHED_AT,
    PRICE,
    PRODUCT_ID,
    PRODUCTS,
    QUANTITY,
    ROW_NUMBER,
    SIGNED_UP_AT,
    VALID_FROM,
    VALUE,
    WITHDRAWN_AT,
)

__all__ = ["SALE_CHECKS", "missing_in"]

_AT: Final = quoted(AT)
_VALUE: Final = quoted(VALUE)
_TYPED: Final = f"typed_{INTERACTIONS}"
_TIMES: Final = 30  # a unit price this many times the product's usual one, or a fraction of it, is a slip
_ENOUGH: Final = 5  # purchases from which a product has a usual price

_OFF_SALE: Final = f"""
    WITH sale AS (SELECT {PRODUCT_ID}, min({LAUNCHED_AT}) AS opens,
        CASE WHEN count({WITHDRAWN_AT}) = count(*) THEN max({WITHDRAWN_AT}) END AS closes
        FROM {PRODUCTS} GROUP BY {PRODUCT_ID})
    SELECT {ROW_NUMBER} FROM {_TYPED} JOIN sale USING ({PRODUCT_ID})
    WHERE {IS_PURCHASE} AND ({before(AT, "opens")} OR {_AT} >= closes)"""

_UNAVAILABLE: Final = f"""
    WITH versions AS (SELECT {PRODUCT_ID}, {VALID_FROM}, {AVAILABLE} FROM typed_{PRODUCTS}
        WHERE {VALID_FROM} IS NOT NULL),
    gone AS (SELECT DISTINCT {PRODUCT_ID} FROM versions WHERE NOT {AVAILABLE}),
    bought AS (SELECT {ROW_NUMBER}, {PRODUCT_ID}, {_AT} AS moment FROM {_TYPED}
        SEMI JOIN gone USING ({PRODUCT_ID}) WHERE {IS_PURCHASE} AND {_AT} IS NOT NULL)
    SELECT {ROW_NUMBER} FROM bought ASOF JOIN versions
        ON bought.{PRODUCT_ID} = versions.{PRODUCT_ID} AND moment >= {VALID_FROM}
    WHERE NOT {AVAILABLE} AND NOT {before("moment", f"{VALID_FROM} + INTERVAL 1 DAY")}"""

_BEFORE_SIGNING_UP: Final = f"""
    WITH joined AS (SELECT {CUSTOMER_ID}, min({SIGNED_UP_AT}) AS since FROM typed_{CUSTOMERS}
        WHERE {CUSTOMER_ID} IS NOT NULL GROUP BY ALL HAVING since IS NOT NULL)
    SELECT {ROW_NUMBER} FROM {_TYPED} JOIN joined USING ({CUSTOMER_ID})
    WHERE {IS_PURCHASE} AND {before(AT, "since")}"""

_FREE: Final = f"""
    WITH free AS (SELECT {PRODUCT_ID} FROM typed_{PRODUCTS} GROUP BY ALL HAVING max({PRICE}) = 0)
    SELECT {ROW_NUMBER} FROM {_TYPED} SEMI JOIN free USING ({PRODUCT_ID})
    WHERE {IS_PURCHASE} AND {_VALUE} > 0"""

_UNIT: Final = f"{_VALUE} / coalesce({QUANTITY}, 1)"
_PAID: Final = f"{IS_PURCHASE} AND {_VALUE} > 0 AND coalesce({QUANTITY}, 1) > 0 AND {PRODUCT_ID} IS NOT NULL"
_OTHER_PRICE: Final = f"""
    WITH usual AS (SELECT {PRODUCT_ID}, median({_UNIT}) AS middle FROM {_TYPED} WHERE {_PAID}
        GROUP BY {PRODUCT_ID} HAVING count(*) >= {_ENOUGH})
    SELECT {ROW_NUMBER} FROM {_TYPED} JOIN usual USING ({PRODUCT_ID})
    WHERE {_PAID} AND ({_UNIT} > {_TIMES} * middle OR {_UNIT} * {_TIMES} < middle)"""


def missing_in(table: str, key: str, message: str, *, fail_above: float | None = None) -> Check:
    """Return the check that ``key`` of a table is found in the table that describes it."""
    home = {PRODUCT_ID: PRODUCTS, CUSTOMER_ID: CUSTOMERS, CAMPAIGN_ID: CAMPAIGNS}[key]
    known = f"SELECT {quoted(key)} FROM {home}"
    return Check(
        f"{key} in {home}",
        table,
        f"SELECT {ROW_NUMBER} FROM typed_{table} ANTI JOIN ({known}) USING ({quoted(key)}) "
        f"WHERE {quoted(key)} IS NOT NULL",
        message,
        fail_above=fail_above,
        needs=(home,),
        shown=(key,),
    )


SALE_CHECKS: Final = (
    missing_in(
        INTERACTIONS,
        PRODUCT_ID,
        "such products have no name, price or category: they are learnt from and never recommended",
        fail_above=MOST,
    ),
    missing_in(INTERACTIONS, CUSTOMER_ID, "such customers have no attributes and no consent"),
    Check(
        "bought while on sale",
        INTERACTIONS,
        _OFF_SALE,
        f"bought before {LAUNCHED_AT} or from {WITHDRAWN_AT} on; the rows are kept, but the product was "
        "no candidate then: correct the dates",
        fail_above=MOST,
        needs=(PRODUCTS,),
        shown=(PRODUCT_ID, AT),
    ),
    Check(
        "bought while available",
        INTERACTIONS,
        _UNAVAILABLE,
        f"bought while the version of the product in force said {AVAILABLE} = false for a day or longer; the "
        f"rows are kept, but the product was no candidate then: correct {AVAILABLE} or {VALID_FROM}",
        needs=(PRODUCTS,),
        shown=(PRODUCT_ID, AT),
    ),
    Check(
        "bought after signing up",
        INTERACTIONS,
        _BEFORE_SIGNING_UP,
        f"expected purchases from the day of {SIGNED_UP_AT} on, found earlier ones; the rows are kept: "
        f"correct {SIGNED_UP_AT} unless it means joining a scheme that one may buy without",
        needs=(CUSTOMERS,),
        shown=(CUSTOMER_ID, AT),
    ),
    Check(
        "what is paid for has a price",
        INTERACTIONS,
        _FREE,
        f"money was paid for products whose {PRICE} is 0; leave {PRICE} empty where it is not known",
        needs=(PRODUCTS,),
        shown=(PRODUCT_ID, QUANTITY, VALUE),
    ),
    Check(
        "unit prices of one size",
        INTERACTIONS,
        _OTHER_PRICE,
        f"{VALUE} / {QUANTITY} is more than {_TIMES} times the product's usual one, or less than a "
        f"{_TIMES}th; look for another unit (cents, a case of many) or currency",
        shown=(PRODUCT_ID, AT, QUANTITY, VALUE),
    ),
)
