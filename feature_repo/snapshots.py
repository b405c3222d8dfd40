"""The Ibis expressions of a snapshot: customers, products, and the recent history, from staged events.

A snapshot at an instant (Ibis int64, microseconds since 1970) is made from interactions strictly before it and
from nothing else: time enters through ``aged`` alone. Each function returns one row an entity, stamped with the
instant, with the features of its list.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import Any, Final

import ibis

from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.customer_features import CUSTOMER, MIXES, Mix
from feature_repo.engine import Engine
from feature_repo.feature import TOP, Default, Feature, count, in_days
from feature_repo.product_features import PRODUCT, STOCK_DAYS
from feature_repo.recent import DAY_US
from feature_repo.staging import product_versions

_YEAR_US: Final = 365 * DAY_US
_EMPTY: Final = {"strings": "array<string>", "floats": "array<float64>"}


def aged(events: Any, instant: Any) -> Any:
    """Rows strictly before ``instant`` with ``age_days``; the only door through which time enters."""
    rows = events.filter(events.at_us < instant)
    return rows.mutate(age_days=in_days(instant - rows.at_us))


def evaluated(features: Iterable[Feature], rows: Any, stage: str) -> dict[str, Any]:
    """Return the expressions of one stage over ``rows``, by name."""
    return {feature.name: feature.expression(rows) for feature in features if feature.stage == stage}


def customer_snapshot(engine: Engine, events: Any, instant: Any) -> Any:
    """One row a customer with an interaction before ``instant``: the features of ``CUSTOMER``."""
    rows = aged(events.filter(events.customer.notnull()), instant)
    key = "customer"
    totals = rows.group_by([key, s.CUSTOMER_ID]).agg(
        **evaluated(CUSTOMER, rows, "aggregate"), last_line=rows.line.max(where=rows.is_purchase)
    )
    lines = totals.select(key, "last_line")
    bought = rows.inner_join(lines, [rows[key] == lines[key], rows.line == lines.last_line])
    bought = bought.select(key, **evaluated(CUSTOMER, bought, "last"))
    year = rows.filter(rows.is_purchase & (rows.age_days <= max(mix.days for mix in MIXES)))
    joined = reduce(
        lambda left, right: _joined(left, right, key), [bought, *(_taste(year, mix) for mix in MIXES)], totals
    )
    joined = filled(joined, CUSTOMER)
    return stamped(
        engine, joined.mutate(**evaluated(CUSTOMER, joined, "derive")), instant, s.CUSTOMER_ID, CUSTOMER
    )


def _joined(left: Any, right: Any, key: str) -> Any:
    return left.left_join(right, key).drop(f"{key}_right")


def filled(rows: Any, features: Iterable[Feature]) -> Any:
    """Put the declared default wherever a column of that feature is there and has no value."""
    return rows.mutate(
        **{
            f.name: rows[f.name].fill_null(_literal(f.default, f.dtype))
            for f in features
            if f.name in rows.columns
        }
    )


def _literal(value: Default, dtype: str) -> Any:
    return ibis.literal(value, type=_EMPTY[dtype]) if dtype in _EMPTY else ibis.literal(value)


def _taste(purchases: Any, mix: Mix) -> Any:
    """The three features of a mix, one row a customer who has any of it."""
    rows = purchases.filter((purchases.age_days <= mix.days) & purchases[mix.column].notnull())
    rows = rows.select("customer", label=rows[mix.column])
    counts = rows.group_by(["customer", "label"]).agg(lines=rows.count().cast("float64"))
    everything = counts.mutate(
        share=counts.lines / counts.lines.sum().over(ibis.window(group_by=counts.customer)),
        breadth=counts.count().over(ibis.window(group_by=counts.customer)).cast("float64"),
    )
    return _top(everything, "customer", {mix.names: "label", mix.shares: "share"}, {mix.breadth: "breadth"})


def _top(rows: Any, key: str, lists: dict[str, str], constants: dict[str, str]) -> Any:
    """Lists of the ``TOP`` rows of each key by ``lines``, ties by ``label``; ``constants`` of a key once.

    Five conditional maxima make a list: every engine has them, and they are faster than sorted lists.
    """
    order = ibis.window(group_by=rows[key], order_by=[rows.lines.desc(), rows.label])
    ranked = rows.mutate(place=ibis.row_number().over(order))
    ranked = ranked.filter(ranked.place < TOP)
    places = {
        f"{name}_{place}": ranked[column].max(where=ranked.place == place)
        for name, column in lists.items()
        for place in range(TOP)
    }
    told = ranked.group_by(key).agg(
        **places, **{name: ranked[column].max() for name, column in constants.items()}
    )
    collected = {
        name: ibis.array([told[f"{name}_{place}"] for place in range(TOP)]).filter(
            lambda entry: entry.notnull()
        )
        for name in lists
    }
    return told.select(key, *constants, **collected)


def product_snapshot(engine: Engine, events: Any, instant: Any, segments: Any) -> Any:
    """One row a product known before ``instant``: the features of ``PRODUCT``.

    Known is what has an interaction before it, a launch or a dated description up to it. ``segments`` is the
    customer snapshot of the same instant (``customer_id``, ``segment``).
    """
    rows = aged(events, instant)
    key = s.PRODUCT_ID
    totals = rows.group_by(key).agg(**evaluated(PRODUCT, rows, "aggregate"))
    known = _known_products(engine, rows, instant)
    parts = [totals, _by_segment(rows, segments), _stock(engine, instant)]
    joined = filled(reduce(lambda left, right: _joined(left, right, key), parts, known), PRODUCT)
    joined = joined.mutate(
        launched_days=ibis.coalesce(in_days(instant - joined.launched_us), joined.age_days)
    )
    return stamped(engine, joined.mutate(**evaluated(PRODUCT, joined, "derive")), instant, key, PRODUCT)


def _known_products(engine: Engine, rows: Any, instant: Any) -> Any:
    """Product, category and launch, as known at ``instant``."""
    versions = product_versions(engine)
    told = versions.filter(versions.from_us.isnull() | (versions.from_us <= instant))
    told = told.mutate(
        launched_us=ibis.ifelse(told.launched_us <= instant, told.launched_us, ibis.null("int64"))
    )
    newest = ibis.window(group_by=told[s.PRODUCT_ID], order_by=told.from_us.fill_null(-(2**62)).desc())
    told = told.mutate(place=ibis.row_number().over(newest))
    told = told.filter(told.place == 0).drop("place")
    seen = rows.select(s.PRODUCT_ID).distinct()
    said = told.filter(told.from_us.notnull() | told.launched_us.notnull()).select(s.PRODUCT_ID)
    known = seen.union(said, distinct=True)
    return _joined(known, told.select(s.PRODUCT_ID, s.CATEGORY, "launched_us"), s.PRODUCT_ID)


def _by_segment(rows: Any, segments: Any) -> Any:
    """Lines of the last 90 days by the segment of who bought them."""
    quarter, month = 90, 30
    bought = rows.filter(rows.is_purchase & (rows.age_days <= quarter))
    bought = bought.inner_join(segments.select(s.CUSTOMER_ID, v.SEGMENT), s.CUSTOMER_ID)
    bought = bought.select(s.PRODUCT_ID, label=bought[v.SEGMENT], fresh=bought.age_days <= month)
    counts = bought.group_by([s.PRODUCT_ID, "label"]).agg(
        lines=bought.count().cast("float64"), fresh=count(bought.fresh)
    )
    shared = counts.mutate(
        share=counts.lines / counts.lines.sum().over(ibis.window(group_by=counts[s.PRODUCT_ID])),
        trend=(counts.fresh + 1.0) / (counts.lines * month / quarter + 1.0),
    )
    lists = {v.SEGMENT_NAMES: "label", v.SEGMENT_SHARES: "share", v.SEGMENT_TRENDS: "trend"}
    return _top(shared, s.PRODUCT_ID, lists, {})


def _stock(engine: Engine, instant: Any) -> Any:
    """Availability in the past of products whose descriptions are dated."""
    rows = product_versions(engine)
    rows = rows.filter(rows.from_us <= instant)
    by_time = ibis.window(group_by=rows[s.PRODUCT_ID], order_by=rows.from_us)
    rows = rows.mutate(
        until_us=rows.from_us.lead().over(by_time).fill_null(instant),
        before=rows[s.AVAILABLE].lag().over(by_time),
        place=ibis.row_number().over(by_time),
    )
    # what is told of a product first holds for what came before
    rows = rows.mutate(begins_us=ibis.ifelse(rows.place == 0, -(2**62), rows.from_us))

    def on_stock(days: int) -> Any:
        start = instant - days * DAY_US
        held = ibis.greatest(rows.until_us - ibis.greatest(rows.begins_us, start), 0)
        return ibis.ifelse(rows[s.AVAILABLE], in_days(held) / days, 0.0).sum()

    went = rows.before & ~rows[s.AVAILABLE]
    came = ~rows.before & rows[s.AVAILABLE]
    return rows.group_by(s.PRODUCT_ID).agg(
        **{f"available_share_{days}d": on_stock(days) for days in STOCK_DAYS},
        stockouts_365d=count(went & (rows.from_us >= instant - _YEAR_US)),
        restocked_days=in_days(instant - rows.from_us).min(where=came),
    )


def stamped(engine: Engine, rows: Any, instant: Any, entity: str, features: Iterable[Feature]) -> Any:
    """Return entity, features and ``event_timestamp`` = ``instant``, in order of the entity."""
    stamp = engine.timestamp(instant)
    return rows.select(entity, *(f.name for f in features), **{s.EVENT_TIMESTAMP: stamp}).order_by(entity)


def customer_recent(engine: Engine, events: Any, instant: Any) -> Any:
    """The last ``HISTORY_LENGTH`` events of a customer, one row an instant, stamped 1 µs after it.

    The point-in-time join takes rows at or before the asked instant; the microsecond makes it "strictly
    before", so that nobody sees the event that is being predicted.
    """
    rows = aged(events.filter(events.customer.notnull()), instant)
    window = ibis.window(
        group_by=rows.customer, order_by=rows.line, preceding=v.HISTORY_LENGTH - 1, following=0
    )
    following = rows.at_us.lead().over(ibis.window(group_by=rows.customer, order_by=rows.line))
    folded = rows.select(
        s.CUSTOMER_ID,
        is_last=following.isnull() | (following > rows.at_us),
        **{
            v.RECENT_PRODUCTS: rows[s.PRODUCT_ID].collect().over(window),
            v.RECENT_KINDS: rows[s.KIND].collect().over(window),
            v.RECENT_AT: rows.at_us.collect().over(window),
            v.RECENT_VALUES: rows[s.VALUE].collect().over(window),
            s.EVENT_TIMESTAMP: engine.timestamp(rows.at_us + 1),
        },
    )
    return folded.filter(folded.is_last).drop("is_last").order_by([s.CUSTOMER_ID, s.EVENT_TIMESTAMP])
