"""Build the offline features: weekly snapshots of slow aggregates and the recent history of customers.

Written in Ibis, so that the same expressions run on DuckDB or on a larger engine. A snapshot at
``as_of`` is made from interactions strictly before it and from nothing else, so a later interaction
changes no earlier row. Snapshots stand on a fixed grid (Mondays, 00:00 UTC) and at the final ``as_of``.
Customer and product attributes enter only from the instant from which they are known (``valid_from``);
a table without it is known from the final ``as_of`` on, and so never reaches a past training row.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import ibis
import ibis.expr.datatypes as dt

from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.casts import quoted
from feature_repo.errors import DataError
from feature_repo.features import (
    CUSTOMER,
    CUSTOMER_TASTE,
    PRODUCT,
    TOP_CATEGORIES,
    YEAR,
    Feature,
    schema_hash,
)
from feature_repo.tables import Tables

FEATURES_FILE: Final = "features.json"
CADENCE: Final = timedelta(days=7)
_DAY_US: Final = 86_400_000_000
_RECENT_GROUP_ROWS: Final = 50_000
_ENTITY: Final = {v.CUSTOMER_FEATURES: s.CUSTOMER_ID, v.PRODUCT_FEATURES: s.PRODUCT_ID}

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total) after each step of long work."""


@ibis.udf.scalar.builtin(name="epoch_us", signature=((dt.timestamp,), dt.int64))  # type: ignore[untyped-decorator]
def _to_micros(at: Any) -> Any:
    """Turn a timestamp into microseconds since 1970, exactly."""


@ibis.udf.scalar.builtin(name="make_timestamp", signature=((dt.int64,), dt.timestamp))  # type: ignore[untyped-decorator]
def _from_micros(micros: Any) -> Any:
    """Turn microseconds since 1970 into a timestamp, exactly."""


@dataclass(frozen=True)
class FeatureSet:
    """What was built: the cut-off, the schema, and where the rows are."""

    directory: Path
    as_of: datetime
    schema_hash: str
    tables_hash: str
    rows: dict[str, int]
    attributes: dict[str, dict[str, str]]
    snapshots: int

    @classmethod
    def read(cls, directory: Path) -> FeatureSet:
        """Read the description of features built earlier into ``directory``.

        Raises
        ------
        DataError
            Nothing was built there.
        """
        path = directory / FEATURES_FILE
        if not path.is_file():
            raise DataError(
                f"expected built features in {directory}, found none; run `nextbest features TABLES`"
            )
        try:
            told = json.loads(path.read_text())
            return cls(**{**told, "directory": directory, "as_of": datetime.fromisoformat(told["as_of"])})
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"expected the description of built features in {path}, found it unreadable; "
                "run `nextbest features TABLES`"
            ) from error

    def path(self, view: str) -> Path:
        """Return the Parquet file of ``view``."""
        return self.directory / f"{view}.parquet"


def snapshot_instants(active: Iterable[datetime], as_of: datetime) -> list[datetime]:
    """Mondays 00:00 UTC before ``as_of`` with an interaction in the year before them, then ``as_of`` itself.

    ``active`` holds the first instants of the weeks (Mondays) in which anything happened, in any order. A
    Monday with nothing in its last year would repeat the one before: no window of a feature is longer.
    """
    grid: set[datetime] = set()
    for week in active:
        grid.update(week + CADENCE * number for number in range(1, YEAR // CADENCE.days + 2))
    return [*sorted(monday for monday in grid if monday < as_of), as_of]


def _active_weeks(tables: Tables) -> list[datetime]:
    weeks = tables.con.execute(
        f"SELECT DISTINCT date_trunc('week', {quoted(s.AT)}) FROM {s.INTERACTIONS} ORDER BY 1"
    ).fetchall()
    return [datetime.combine(week, datetime.min.time(), UTC) for (week,) in weeks]


def _naive(instant: datetime) -> datetime:
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


def _aged(events: Any, as_of: datetime) -> Any:
    """Rows strictly before ``as_of`` with ``age_days``; the only door through which time enters."""
    instant = ibis.literal(_naive(as_of)).cast("timestamp")
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
    rows = _aged(events.filter(events[s.CUSTOMER_ID].notnull()), as_of)
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
    rows = _aged(events, as_of)
    totals = rows.group_by([s.PRODUCT_ID, s.CATEGORY]).agg(**_evaluate(PRODUCT, rows, "aggregate"))
    derived = totals.mutate(**_evaluate(PRODUCT, totals, "derive"))
    return _stamped(derived, as_of, s.PRODUCT_ID, PRODUCT)


def _stamped(rows: Any, as_of: datetime, entity: str, features: tuple[Feature, ...]) -> Any:
    stamp = ibis.literal(_naive(as_of)).cast("timestamp")
    return rows.select(entity, *(f.name for f in features), **{s.EVENT_TIMESTAMP: stamp}).order_by(entity)


def customer_recent(events: Any, as_of: datetime) -> Any:
    """The last ``HISTORY_LENGTH`` events of a customer, one row an instant, stamped 1 µs after it.

    The point-in-time join takes rows at or before the asked instant; the microsecond makes it "strictly
    before", so that nobody sees the event that is being predicted.
    """
    rows = _aged(events.filter(events[s.CUSTOMER_ID].notnull()), as_of)
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


def _write_recent(tables: Tables, events: Any, as_of: datetime, staging: Path) -> None:
    """Write ``customer_recent`` customer group by customer group: lists are long, memory is not."""
    groups = int(events.count().execute()) // _RECENT_GROUP_ROWS + 1
    for group in range(groups):
        mine = events.filter(events[s.CUSTOMER_ID].hash().abs() % groups == group)
        _write(tables, customer_recent(mine, as_of), staging / f"{v.CUSTOMER_RECENT}-{group:05d}.part")
    _merge(tables, v.CUSTOMER_RECENT, staging)


def _attributes(tables: Tables, name: str, entity: str, as_of: datetime) -> Any | None:
    """Attributes with the instant from which they are known; None when the table has none."""
    if not tables.has(name) or not tables.attributes(name):
        return None
    rows = tables.table(name)
    known_from = rows[s.VALID_FROM].fill_null(ibis.literal(_naive(as_of)).cast("timestamp"))
    rows = rows.select(entity, *tables.attributes(name), **{s.EVENT_TIMESTAMP: known_from})
    return rows.filter(rows[s.EVENT_TIMESTAMP] <= ibis.literal(_naive(as_of)).cast("timestamp")).distinct(
        on=[entity, s.EVENT_TIMESTAMP]
    )


def build(
    tables: Tables, directory: Path, *, as_of: datetime | None = None, progress: Progress | None = None
) -> FeatureSet:
    """Build every offline view into ``directory`` (one Parquet file a view) and describe them.

    Parameters
    ----------
    tables
        The input tables.
    directory
        Where the files go; earlier ones are replaced when all new ones are whole.
    as_of
        Knowledge cut-off; default just after the last interaction.

    Raises
    ------
    DataError
        No interaction lies before ``as_of``.
    """
    first, last = tables.span()
    as_of = as_of or last + timedelta(microseconds=1)
    if first >= as_of:
        raise DataError(
            f"expected interactions before {as_of}, found the first at {first}; choose a later --as-of"
        )
    said = progress or (lambda what, done, total: None)
    staging = directory.with_name(directory.name + ".building")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    events = stage_events(tables)
    instants = snapshot_instants(_active_weeks(tables), as_of)
    snapshots = {v.CUSTOMER_FEATURES: customer_snapshot, v.PRODUCT_FEATURES: product_snapshot}
    for number, instant in enumerate(instants, start=1):
        for view, snapshot in snapshots.items():
            _write(tables, snapshot(events, instant), staging / f"{view}-{number:05d}.part")
        said("snapshots", number, len(instants))
    for view in snapshots:
        _merge(tables, view, staging)
    _write_recent(tables, events, as_of, staging)
    said("recent history", 1, 1)
    attributes: dict[str, dict[str, str]] = {}
    for view, name, entity in _attribute_views():
        rows = _attributes(tables, name, entity, as_of)
        if rows is not None:
            _write(tables, rows, staging / f"{view}.parquet")
            attributes[view] = dict(tables.attributes(name))
    feature_set = FeatureSet(
        directory=directory,
        as_of=as_of,
        schema_hash=schema_hash(),
        tables_hash=tables.hash(),
        rows={path.stem: _rows(tables, path) for path in sorted(staging.glob("*.parquet"))},
        attributes=attributes,
        snapshots=len(instants),
    )
    _publish(feature_set, staging)
    return feature_set


def _attribute_views() -> Iterator[tuple[str, str, str]]:
    yield v.CUSTOMER_ATTRIBUTES, s.CUSTOMERS, s.CUSTOMER_ID
    yield v.PRODUCT_ATTRIBUTES, s.PRODUCTS, s.PRODUCT_ID


def _write(tables: Tables, rows: Any, path: Path) -> None:
    tables.ibis.to_parquet(rows, str(path), compression="zstd")


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _merge(tables: Tables, view: str, staging: Path) -> None:
    """Make one file of the snapshots of ``view``, oldest first."""
    parts = sorted(staging.glob(f"{view}-*.part"))
    listed = ", ".join(_quoted(part) for part in parts)
    target = _quoted(staging / f"{view}.parquet")
    tables.con.execute(
        f"COPY (SELECT * FROM read_parquet([{listed}])) TO {target} (FORMAT parquet, COMPRESSION zstd)"
    )
    for part in parts:
        part.unlink()


def _rows(tables: Tables, path: Path) -> int:
    found = tables.con.execute(f"SELECT count(*) FROM read_parquet({_quoted(path)})").fetchone()
    return int(found[0]) if found else 0


def _publish(feature_set: FeatureSet, staging: Path) -> None:
    """Move whole files into place; the description goes last, so it never describes half a build."""
    told = {key: value for key, value in asdict(feature_set).items() if key != "directory"}
    told["as_of"] = feature_set.as_of.isoformat()
    (staging / FEATURES_FILE).write_text(json.dumps(told, indent=1, ensure_ascii=False))
    feature_set.directory.mkdir(parents=True, exist_ok=True)
    (feature_set.directory / FEATURES_FILE).unlink(missing_ok=True)
    for path in [*sorted(staging.glob("*.parquet")), staging / FEATURES_FILE]:
        path.replace(feature_set.directory / path.name)
    staging.rmdir()
