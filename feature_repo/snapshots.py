"""The Ibis expressions of a snapshot: events with their flags, customers, products, and recent history.

Written in Ibis, so that the same expressions run on DuckDB or on a larger engine. A snapshot at ``as_of`` is
made from interactions strictly before it and from nothing else: time enters through ``aged`` alone.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import ibis
import ibis.expr.datatypes as dt

from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.features import CUSTOMER, CUSTOMER_TASTE, PRODUCT, TOP_CATEGORIES, YEAR, Feature
from feature_repo.tables import Tables

_DAY_US: Final = 86_400_000_000


@ibis.udf.scalar.builtin(name="epoch_us", signature=((dt.timestamp,), dt.int64))  # type: ignore[untyped-decorator]
def _to_micros(at: Any) -> Any:
    """Turn a timestamp into microseconds since 1970, exactly."""


@ibis.udf.scalar.builtin(name="make_timestamp", signature=((dt.int64,), dt.timestamp))  # type: ignore[untyped-decorator]
def _from_micros(micros: Any) -> Any:
    """Turn microseconds since 1970 into a timestamp, exactly."""


def naive(instant: datetime) -> datetime:
    """Return an instant as DuckDB's views hold it: UTC without a zone."""
    return instant.astimezone(UTC).replace(tzinfo=None)


def stage_events(tables: Tables) -> Any:
    """Return interactions with the flags that depend only on what came before each row.

    Rows are ordered by their content (instant, order, product, kind, value), so the order of lines in
    a file changes nothing. Quantities and money are positive; ``is_repeat`` means the customer had
    bought the product in an earlier order.
    """
    rows = tables.table(s.INTERACTIONS)
    products = tables.table(s.PRODUCTS).select(s.PRODUCT_ID, s.CATEGORY).distinct(on=s.PRODUCT_ID)
    rows = rows.left_join(products, s.PRODUCT_ID).select(
        *(rows[name] for name in (s.CUSTOMER_ID, s.PRODUCT_ID, s.AT, s.KIND, s.QUANTITY, s.VALUE)),
        products[s.CATEGORY],
        order_key=rows[s.ORDER_ID].fill_null(rows[s.AT].cast("string")),
    )
    is_purchase = rows[s.KIND] == s.PURCHASE
    rows = rows.mutate(
        **{s.VALUE: rows[s.VALUE].fill_null(0.0), s.QUANTITY: rows[s.QUANTITY].fill_null(1.0)},
        is_purchase=is_purchase,
        is_return=rows[s.KIND] == s.RETURN,
        is_browse=rows[s.KIND].isin([s.VIEW, s.CLICK, s.CART]),
    )
    line = [rows[s.AT], rows.order_key, rows[s.PRODUCT_ID], rows[s.KIND], rows[s.VALUE], rows[s.QUANTITY]]
    known = rows[s.CUSTOMER_ID].notnull() & rows.is_purchase

    def first(*keys: Any) -> Any:
        return rows[s.AT].min().over(ibis.window(group_by=[rows[s.CUSTOMER_ID], rows.is_purchase, *keys]))

    in_order = ibis.row_number().over(
        ibis.window(group_by=[rows[s.CUSTOMER_ID], rows.is_purchase, rows.order_key], order_by=line)
    )
    staged = rows.mutate(
        is_order=known & (in_order == 0),
        is_repeat=known & (first(rows[s.PRODUCT_ID]) < rows[s.AT]),
        is_first_order=known & (first() == rows[s.AT]),
    )
    tables.con.execute("DROP TABLE IF EXISTS staged_events")
    return tables.ibis.create_table("staged_events", staged, temp=True)


def aged(events: Any, as_of: datetime) -> Any:
    """Rows strictly before ``as_of`` with ``age_days``; the only door through which time enters."""
    instant = ibis.literal(naive(as_of)).cast("timestamp")
    rows = events.filter(events[s.AT] < instant)
    return rows.mutate(age_days=(_to_micros(instant) - _to_micros(rows[s.AT])) / float(_DAY_US))


def _evaluate(features: tuple[Feature, ...], rows: Any, stage: str) -> dict[str, Any]:
    return {feature.name: feature.expression(rows) for feature in features if feature.stage == stage}


def _taste(purchases: Any) -> Any:
    """Top categories of each customer and their shares, most first, ties by name."""
    counts = purchases.group_by([s.CUSTOMER_ID, s.CATEGORY]).agg(lines=purchases.count())
    per_customer = ibis.window(group_by=counts[s.CUSTOMER_ID])
    ranked = counts.mutate(
        share=counts.lines / counts.lines.sum().over(per_customer),
        place=ibis.row_number().over(
            ibis.window(group_by=counts[s.CUSTOMER_ID], order_by=[counts.lines.desc(), counts[s.CATEGORY]])
        ),
    )
    top = ranked.filter(ranked.place < TOP_CATEGORIES)
    return top.group_by(s.CUSTOMER_ID).agg(
        **{
            v.CATEGORY_NAMES: top[s.CATEGORY].collect(order_by=top.place),
            v.CATEGORY_SHARES: top.share.collect(order_by=top.place),
        }
    )


def customer_snapshot(events: Any, as_of: datetime) -> Any:
    """One row a customer known before ``as_of``: the features of ``CUSTOMER`` and ``CUSTOMER_TASTE``."""
    rows = aged(events.filter(events[s.CUSTOMER_ID].notnull()), as_of)
    totals = rows.group_by(s.CUSTOMER_ID).agg(**_evaluate(CUSTOMER, rows, "aggregate"))
    taste = _taste(rows.filter(rows.is_purchase & (rows.age_days <= YEAR) & rows[s.CATEGORY].notnull()))
    joined = totals.left_join(taste, s.CUSTOMER_ID).drop(f"{s.CUSTOMER_ID}_right")
    empty = {v.CATEGORY_NAMES: "array<string>", v.CATEGORY_SHARES: "array<float64>"}
    joined = joined.mutate(
        **{name: joined[name].fill_null(ibis.literal([], type=dtype)) for name, dtype in empty.items()}
    )
    joined = joined.mutate(**_evaluate(CUSTOMER_TASTE, joined, "derive"))
    return _stamped(joined, as_of, s.CUSTOMER_ID, (*CUSTOMER, *CUSTOMER_TASTE))


def product_snapshot(events: Any, as_of: datetime) -> Any:
    """One row a product with an interaction before ``as_of``: the features of ``PRODUCT``."""
    rows = aged(events, as_of)
    totals = rows.group_by([s.PRODUCT_ID, s.CATEGORY]).agg(**_evaluate(PRODUCT, rows, "aggregate"))
    derived = totals.mutate(**_evaluate(PRODUCT, totals, "derive"))
    return _stamped(derived, as_of, s.PRODUCT_ID, PRODUCT)


def _stamped(rows: Any, as_of: datetime, entity: str, features: tuple[Feature, ...]) -> Any:
    stamp = ibis.literal(naive(as_of)).cast("timestamp")
    return rows.select(entity, *(f.name for f in features), **{s.EVENT_TIMESTAMP: stamp}).order_by(entity)


def customer_recent(events: Any, as_of: datetime) -> Any:
    """The last ``HISTORY_LENGTH`` events of a customer, one row an instant, stamped 1 µs after it.

    The point-in-time join takes rows at or before the asked instant; the microsecond makes it "strictly
    before", so that nobody sees the event that is being predicted.
    """
    rows = aged(events.filter(events[s.CUSTOMER_ID].notnull()), as_of)
    order = [rows[s.AT], rows.order_key, rows[s.PRODUCT_ID], rows[s.KIND], rows[s.VALUE], rows[s.QUANTITY]]
    window = ibis.window(
        group_by=rows[s.CUSTOMER_ID], order_by=order, preceding=v.HISTORY_LENGTH - 1, following=0
    )
    from_last = ibis.row_number().over(
        ibis.window(group_by=[rows[s.CUSTOMER_ID], rows[s.AT]], order_by=[column.desc() for column in order])
    )
    folded = rows.select(
        s.CUSTOMER_ID,
        from_last=from_last,
        **{
            v.RECENT_PRODUCTS: rows[s.PRODUCT_ID].collect().over(window),
            v.RECENT_KINDS: rows[s.KIND].collect().over(window),
            v.RECENT_AT: _to_micros(rows[s.AT]).collect().over(window),
            v.RECENT_VALUES: rows[s.VALUE].collect().over(window),
            s.EVENT_TIMESTAMP: _from_micros(_to_micros(rows[s.AT]) + 1),
        },
    )
    return folded.filter(folded.from_last == 0).drop("from_last")


def attribute_rows(tables: Tables, name: str, entity: str, as_of: datetime) -> Any | None:
    """Attributes with the instant from which they are known; None when the table has none.

    A table without ``valid_from`` is known from ``as_of`` on.
    """
    if not tables.has(name) or not tables.attributes(name):
        return None
    rows = tables.table(name)
    known_from = rows[s.VALID_FROM].fill_null(ibis.literal(naive(as_of)).cast("timestamp"))
    rows = rows.select(entity, *tables.attributes(name), **{s.EVENT_TIMESTAMP: known_from})
    return rows.filter(rows[s.EVENT_TIMESTAMP] <= ibis.literal(naive(as_of)).cast("timestamp")).distinct(
        on=[entity, s.EVENT_TIMESTAMP]
    )
