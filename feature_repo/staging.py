"""Events staged once: coded entities, instants in microseconds, and flags of what came before each row.

Every flag and running value of a row depends on the rows before it and on nothing else, so a later row changes
no earlier one. Rows are ordered by their content (instant, order, product, kind and all else that is read), so
the order of lines in a file changes nothing. Written in Ibis for every engine.
"""

from __future__ import annotations

from typing import Any

import ibis

from feature_repo import schema as s
from feature_repo.engine import Engine
from feature_repo.feature import in_days

_KEPT = (s.CUSTOMER_ID, s.PRODUCT_ID, s.KIND, s.QUANTITY, s.VALUE, s.DISCOUNT, s.CHANNEL, s.STORE_ID)


def stage_events(engine: Engine) -> Any:
    """Return the interactions of an engine, staged.

    Beside the columns of the table: ``customer`` and ``product`` (int32 codes in the order of the ids;
    ``customer`` is null for anonymous rows), ``at_us``, ``category`` (of the product as known then), ``line``
    (int64, order of the customer's rows), ``hour``, ``weekday`` (0 is Monday), the flags ``is_purchase``
    ``is_return`` ``is_browse`` ``is_cart``, ``is_order`` (first line of an order), ``is_repeat`` (the product
    was bought at an earlier instant), ``is_first_buy``, ``is_first_order``, ``is_first_of_category``,
    ``gap_days`` (since the order before; null but in first lines) and ``order_value``, ``order_lines`` (of the
    order so far).
    """
    rows = engine.stage(_coded(engine), "coded")
    known = rows.filter(rows.customer.notnull())
    staged = _followed(_ordered(known))
    anonymous = rows.filter(rows.customer.isnull())
    no = ibis.literal(False)
    unknown = {
        "line": ibis.null("int64"),
        "is_order": no,
        "is_repeat": no,
        "is_first_buy": no,
        "is_first_order": no,
        "is_first_of_category": no,
        "gap_days": ibis.null("float64"),
        "order_value": ibis.literal(0.0),
        "order_lines": ibis.literal(0.0),
    }
    anonymous = anonymous.mutate(**unknown).select(*staged.columns)
    return engine.stage(staged.union(anonymous).order_by(["customer", "line"]), "events")


def codes_of(rows: Any, column: str, code: str) -> Any:
    """Return the distinct values of a column with their place in order (int32)."""
    values = rows.filter(rows[column].notnull()).select(column).distinct()
    place = ibis.row_number().over(ibis.window(order_by=values[column]))
    return values.mutate(**{code: place.cast("int32")})


def _coded(engine: Engine) -> Any:
    """Events with codes for the entities, the category known then, and everything of one row alone."""
    rows = engine.table(s.INTERACTIONS)
    customers = engine.stage(codes_of(rows, s.CUSTOMER_ID, "customer"), "customer_codes")
    products = engine.stage(codes_of(rows, s.PRODUCT_ID, "product"), "product_codes")
    at_us = engine.micros(rows[s.AT])
    rows = rows.select(
        *_KEPT,
        at_us=at_us,
        order_key=rows[s.ORDER_ID].fill_null(at_us.cast("string")),
        hour=rows[s.AT].hour().cast("float64"),
        weekday=rows[s.AT].day_of_week.index().cast("float64"),
    )
    rows = rows.left_join(customers, s.CUSTOMER_ID).drop(f"{s.CUSTOMER_ID}_right")
    rows = rows.inner_join(products, s.PRODUCT_ID)
    periods = category_periods(engine)
    held = [rows[s.PRODUCT_ID] == periods[s.PRODUCT_ID]]
    held += [rows.at_us >= periods.from_us, rows.at_us < periods.until_us]
    rows = rows.left_join(periods, held).drop(f"{s.PRODUCT_ID}_right", "from_us", "until_us")
    is_purchase = rows[s.KIND] == s.PURCHASE
    return rows.mutate(
        **{
            s.VALUE: rows[s.VALUE].fill_null(0.0),
            s.QUANTITY: rows[s.QUANTITY].fill_null(1.0),
            s.DISCOUNT: rows[s.DISCOUNT].fill_null(0.0),
        },
        is_purchase=is_purchase,
        is_return=rows[s.KIND] == s.RETURN,
        is_browse=rows[s.KIND].isin([s.VIEW, s.CLICK, s.CART]),
        is_cart=rows[s.KIND] == s.CART,
    )


def product_versions(engine: Engine) -> Any:
    """Return the rows of ``products`` with ``from_us`` (null: undated), one a product and instant."""
    rows = engine.table(s.PRODUCTS)
    versions = rows.select(
        s.PRODUCT_ID,
        s.CATEGORY,
        s.AVAILABLE,
        from_us=engine.micros(rows[s.VALID_FROM]),
        launched_us=engine.micros(rows[s.LAUNCHED_AT]),
    )
    same = ibis.window(
        group_by=[versions[s.PRODUCT_ID], versions.from_us],
        order_by=[versions[s.CATEGORY], versions[s.AVAILABLE], versions.launched_us],
    )
    versions = versions.mutate(copy=ibis.row_number().over(same))
    return versions.filter(versions.copy == 0).drop("copy")


def category_periods(engine: Engine) -> Any:
    """Return product, category, ``from_us`` ≤ t < ``until_us``: when a product was in which category.

    An undated row holds from the beginning of time; what came before the first dated row has no category.
    """
    rows = product_versions(engine)
    earliest, latest = -(2**62), 2**62
    rows = rows.mutate(from_us=rows.from_us.fill_null(earliest))
    by_time = ibis.window(group_by=rows[s.PRODUCT_ID], order_by=rows.from_us)
    rows = rows.mutate(before=rows[s.CATEGORY].lag().over(by_time), place=ibis.row_number().over(by_time))
    moved = rows.before.fill_null("") != rows[s.CATEGORY].fill_null("")
    rows = rows.filter((rows.place == 0) | moved)
    by_time = ibis.window(group_by=rows[s.PRODUCT_ID], order_by=rows.from_us)
    return rows.select(
        s.PRODUCT_ID,
        s.CATEGORY,
        "from_us",
        until_us=rows.from_us.lead().over(by_time).fill_null(latest),
    )


def _ordered(rows: Any) -> Any:
    """Number the rows of a customer, and say what is first in its order, product, category and life."""
    told = (s.PRODUCT_ID, s.KIND, s.VALUE, s.QUANTITY, s.DISCOUNT, s.CHANNEL, s.STORE_ID)
    content = [rows.at_us, rows.order_key, *(rows[name] for name in told)]
    rows = rows.mutate(
        line=ibis.row_number().over(ibis.window(group_by=rows.customer, order_by=content)).cast("int64")
    )

    def place(*keys: Any) -> Any:
        window = ibis.window(group_by=[rows.customer, rows.is_purchase, *keys], order_by=rows.line)
        return ibis.row_number().over(window)

    bought_first = rows.at_us.min().over(
        ibis.window(group_by=[rows.customer, rows.is_purchase, rows.product])
    )
    bought_so_far = ibis.window(
        group_by=[rows.customer, rows.is_purchase], order_by=rows.line, preceding=None, following=0
    )
    so_far = ibis.window(
        group_by=[rows.customer, rows.is_purchase, rows.order_key],
        order_by=rows.line,
        preceding=None,
        following=0,
    )
    return rows.mutate(
        is_order=rows.is_purchase & (place(rows.order_key) == 0),
        is_repeat=rows.is_purchase & (bought_first < rows.at_us),
        is_first_buy=rows.is_purchase & (place(rows.product) == 0),
        is_first_order=rows.is_purchase & (rows.order_key == rows.order_key.first().over(bought_so_far)),
        is_first_of_category=rows.is_purchase & rows[s.CATEGORY].notnull() & (place(rows[s.CATEGORY]) == 0),
        order_value=rows[s.VALUE].sum().over(so_far),
        order_lines=rows.count().over(so_far).cast("float64"),
    )


def _followed(rows: Any) -> Any:
    """Add the days since the order before to the first line of each order."""
    orders = ibis.window(group_by=[rows.customer, rows.is_order], order_by=rows.line)
    gap = in_days(rows.at_us - rows.at_us.lag().over(orders))
    return rows.mutate(gap_days=ibis.ifelse(rows.is_order, gap, ibis.null("float64")))
