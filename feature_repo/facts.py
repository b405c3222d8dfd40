"""Snapshots of dated facts (measures, dates as elapsed time) and rows of attributes with their beginning.

What is told of an entity is known from its ``valid_from`` on. A table without it holds today's truth: it is
known from the final instant on, but for the columns the shop declares constant. Written in Ibis for every engine.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Final

import ibis

from feature_repo import schema as s
from feature_repo.declared import DECLARATIONS, Declarations
from feature_repo.engine import Engine
from feature_repo.errors import ConfigError
from feature_repo.fact_features import date_features, measure_features
from feature_repo.feature import Feature
from feature_repo.schema import DType
from feature_repo.snapshots import aged, evaluated, filled, stamped
from feature_repo.tables import Tables

#: Dates of the contract that become features of a customer; they lie in the past once they are told.
_DATES: Final[dict[str, tuple[str, ...]]] = {s.CUSTOMERS: (s.SIGNED_UP_AT,), s.PRODUCTS: ()}
_COLUMNS: Final[dict[str, dict[str, DType]]] = {
    s.CUSTOMERS: {},
    s.PRODUCTS: {s.CATEGORY: "string", s.PRICE: "float", s.MARGIN: "float", s.AVAILABLE: "bool"},
}


def stage_measures(engine: Engine) -> Any:
    """Return the measurements, staged: customer, ``name``, ``value``, ``at_us`` and ``line``, their order in time."""
    rows = engine.table(s.MEASURES)
    rows = rows.select(s.CUSTOMER_ID, s.NAME, s.VALUE, at_us=engine.micros(rows[s.AT]))
    order = ibis.window(group_by=[rows[s.CUSTOMER_ID], rows[s.NAME]], order_by=[rows.at_us, rows[s.VALUE]])
    return engine.stage(rows.mutate(line=ibis.row_number().over(order).cast("int64")), "measures")


def measure_names(engine: Engine) -> list[str]:
    """Return the names of all measures, in order."""
    if not engine.tables.has(s.MEASURES):
        return []
    names = engine.tables.con.execute(f"SELECT DISTINCT {s.NAME} FROM {s.MEASURES} ORDER BY 1").fetchall()
    return [str(name) for (name,) in names]


def date_columns(engine: Engine, table: str) -> list[str]:
    """Return the columns of ``table`` that hold dates worth a feature."""
    if not engine.tables.has(table):
        return []
    own = [name for name, dtype in engine.tables.attributes(table).items() if dtype == "timestamp"]
    return [*_DATES[table], *own]


def fact_features(engine: Engine, table: str) -> tuple[Feature, ...]:
    """Return the features of the dated facts of customers or products; none when there are no such facts."""
    measured = measure_features(measure_names(engine)) if table == s.CUSTOMERS else ()
    return (*measured, *date_features(date_columns(engine, table)))


def fact_snapshot(
    engine: Engine,
    measures: Any | None,
    instant: Any,
    *,
    table: str,
    entity: str,
    declared: Declarations,
    final_us: int,
) -> Any:
    """One row an entity with a measurement before ``instant`` or a date known at it.

    Parameters
    ----------
    measures
        What ``stage_measures`` returned; None where the shop has none, and for products.
    final_us
        The last instant of the build: from here on undated tables are known.
    """
    features = fact_features(engine, table)
    parts = []
    if measures is not None:
        rows = aged(measures, instant)
        parts.append(rows.group_by(entity).agg(**evaluated(features, rows, "aggregate")))
    if dates := date_columns(engine, table):
        parts.append(_dates_known(engine, dates, instant, table=table, declared=declared, final_us=final_us))
    known = parts[0].select(entity)
    for part in parts[1:]:
        known = known.union(part.select(entity), distinct=True)
    joined = known
    for part in parts:
        joined = joined.left_join(part, entity).drop(f"{entity}_right")
    joined = joined.mutate(instant_us=instant)
    joined = filled(joined.mutate(**evaluated(features, joined, "derive")), features)
    return stamped(engine, joined, instant, entity, features)


def _dates_known(
    engine: Engine, dates: Sequence[str], instant: Any, *, table: str, declared: Declarations, final_us: int
) -> Any:
    """Return each entity's dates (``<column>_us``) as known at ``instant``; entities without any are left out."""
    entity = s.PRODUCT_ID if table == s.PRODUCTS else s.CUSTOMER_ID
    rows = engine.table(table)
    rows = rows.select(
        entity,
        __undated=rows[s.VALID_FROM].isnull(),
        __from_us=engine.micros(rows[s.VALID_FROM]).fill_null(final_us),
        **{f"{name}_us": engine.micros(rows[name]) for name in dates},
    )
    is_known = rows["__from_us"] <= instant
    # of the rows known the newest, dated ones before others; where none is, an undated one, for what never changes
    distance = ibis.ifelse(is_known, -rows["__from_us"], rows["__from_us"])
    newest = ibis.window(
        group_by=rows[entity],
        order_by=[
            is_known.desc(),
            (is_known != rows["__undated"]).desc(),
            distance,
            *(rows[f"{name}_us"] for name in dates),
        ],
    )
    rows = rows.mutate(__is_known=is_known, __place=ibis.row_number().over(newest))
    rows = rows.filter(rows["__place"] == 0)
    values = {}
    for name in dates:
        told = rows[f"{name}_us"]
        holds = rows["__is_known"]
        if name in _DATES[table]:
            holds = holds | (rows["__undated"] & (told <= instant))
        elif name in declared.constant.of(table):
            holds = holds | rows["__undated"]
        values[f"{name}_us"] = ibis.ifelse(holds, told, ibis.null("int64"))
    rows = rows.select(entity, **values)
    return rows.filter(ibis.or_(*(rows[f"{name}_us"].notnull() for name in dates)))


def attribute_columns(engine: Engine, table: str, declared: Declarations) -> dict[str, DType]:
    """Return the attribute columns of ``table`` and their types: its own, price and the like, and name flags."""
    if not engine.tables.has(table):
        return {}
    own = {name: dtype for name, dtype in engine.tables.attributes(table).items() if dtype != "timestamp"}
    flags: dict[str, DType] = dict.fromkeys(declared.flags(), "bool") if table == s.PRODUCTS else {}
    return {**_COLUMNS[table], **own, **flags}


def attribute_rows(engine: Engine, *, table: str, entity: str, declared: Declarations, final_us: int) -> Any:
    """Return the attributes of every entity, one row from each instant at which they were told anew.

    An undated row is known from the final instant on, unless a dated one tells of the same entity; what it says
    of columns declared constant is there from 1970 on, in a row of its own.
    """
    columns = attribute_columns(engine, table, declared)
    rows = engine.table(table)
    flags = {
        name: rows[s.NAME].re_search(pattern).fill_null(False)
        for name, pattern in (declared.flags() if table == s.PRODUCTS else {}).items()
    }
    rows = rows.mutate(**flags)
    rows = rows.select(entity, *columns, __from_us=engine.micros(rows[s.VALID_FROM]))
    same = ibis.window(group_by=[rows[entity], rows["__from_us"]], order_by=[rows[name] for name in columns])
    first_dated = rows["__from_us"].min().over(ibis.window(group_by=rows[entity]))
    rows = rows.mutate(__copy=ibis.row_number().over(same), __first_us=first_dated)
    rows = rows.filter(rows["__copy"] == 0)
    told = rows.filter(
        (rows["__from_us"] <= final_us) | (rows["__first_us"].isnull() | (rows["__first_us"] > final_us))
    )
    told = told.filter(told["__from_us"].isnull() | (told["__from_us"] <= final_us))
    told = told.mutate(__from_us=told["__from_us"].fill_null(final_us)).drop("__copy", "__first_us")
    constant = set(declared.constant.of(table))
    if s.NAME in constant:
        constant |= set(flags)
    if constant & set(columns):
        begun = rows.filter(rows["__from_us"].isnull()).drop("__copy", "__first_us")
        begun = begun.mutate(
            __from_us=ibis.literal(0, "int64"),
            **{name: ibis.null(begun[name].type()) for name in columns if name not in constant},
        )
        told = told.union(begun.select(*told.columns))
    told = told.mutate(**{s.EVENT_TIMESTAMP: engine.timestamp(told["__from_us"])})
    return told.select(entity, *columns, s.EVENT_TIMESTAMP).order_by([entity, s.EVENT_TIMESTAMP])


def check_constants(tables: Tables, declared: Declarations) -> None:
    """Refuse constants that are no columns, and flags that are.

    Raises
    ------
    ConfigError
        A column declared constant is not there, or a flag has the name of one that is.
    """
    taken = tables.attributes(s.PRODUCTS) if tables.has(s.PRODUCTS) else {}
    for flag in declared.flags():
        if flag in taken:
            raise ConfigError(
                f"expected name flags other than the columns of {s.PRODUCTS}, found {flag} in both "
                f"{tables.directory / DECLARATIONS} and the table; call the flag otherwise"
            )
    for table, extra in ((s.PRODUCTS, (s.NAME, *_COLUMNS[s.PRODUCTS])), (s.CUSTOMERS, ())):
        known = [*extra, *(tables.attributes(table) if tables.has(table) else ())]
        for name in declared.constant.of(table):
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else "; correct [constant]"
                raise ConfigError(
                    f"expected constant columns of {table} among {', '.join(known) or 'none'} in "
                    f"{tables.directory / DECLARATIONS}, found {name!r}{hint}"
                )
