"""Counting of columns, days and weeks: a profile is made here, also in the bins of an earlier one.

Only counts are kept, never sums of floats, and bins are exact quantiles, so that shuffled rows give the same
profile; how many texts differ is estimated (HyperLogLog, which does not depend on order either). Each number
is one pass, so that memory holds one column. Deliberately absent: times and names as distributions, and ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Final

import duckdb
import numpy as np

from feature_repo.casts import literal, quoted
from feature_repo.checks_columns import ID_COLUMNS
from feature_repo.checks_form import IS_PURCHASE
from feature_repo.quality_profile import ColumnProfile, Profile, TableProfile
from feature_repo.schema import (
    AT,
    CAMPAIGN_ID,
    CHANNEL,
    CONTACTS,
    CUSTOMER_ID,
    DISCOUNT,
    INTERACTIONS,
    KIND,
    MEASURES,
    NAME,
    ORDER_ID,
    QUANTITY,
    ROW_NUMBER,
    TABLES,
    VALUE,
    DType,
)
from feature_repo.tables import Tables
from feature_repo.views import stored_columns

__all__ = ["Facet", "count_facets", "facets_of", "profile_of"]

_BINS: Final = 10
_KEPT: Final = 50  # texts counted by name; the others are one bin
_MANY: Final = 1000  # different texts above which a column names things rather than sorting them
_OWN: Final = 5  # rows a text must have on average, or it is no category

_KIND_OF: Final = {INTERACTIONS: KIND, CONTACTS: CHANNEL, MEASURES: NAME}
_MONEY: Final = (QUANTITY, VALUE, DISCOUNT)  # 0 in views; their spread is that of purchases


@dataclass(frozen=True)
class Facet:
    """A column, or the rows of it that fulfil a condition, under the name by which it is told."""

    label: str
    column: str
    dtype: DType
    where: str = "TRUE"


def profile_of(tables: Tables, *, made_at: str = "") -> Profile:
    """Return the profile of opened tables; tables that could not be read are left out.

    Parameters
    ----------
    tables
        Opened tables.
    made_at
        The present, ISO 8601 in UTC.
    """
    engine = f"duckdb {duckdb.__version__}"
    return Profile(made_at, engine, {name: _of_table(tables, name) for name in TABLES if tables.has(name)})


def facets_of(tables: Tables, name: str) -> list[Facet]:
    """Return what is counted of a table: its columns that the file has, measures one by one."""
    stored = {column.strip() for column in stored_columns(tables.con, f"raw_{name}")}
    lowered = {column.lower() for column in stored}
    dtypes = {column.name: column.dtype for column in TABLES[name].columns if column.name in lowered}
    dtypes |= tables.attributes(name)
    facets = []
    for column, dtype in dtypes.items():
        if name == MEASURES and column == VALUE:
            most = f"SELECT {NAME} FROM {MEASURES} GROUP BY ALL ORDER BY count(*) DESC, {NAME} LIMIT {_KEPT}"
            for (measure,) in tables.con.execute(most).fetchall():
                facets.append(
                    Facet(f"{VALUE}[{measure}]", VALUE, "float", f"{NAME} = {literal(str(measure))}")
                )
        elif name == INTERACTIONS and column in _MONEY:
            facets.append(Facet(column, column, dtype, IS_PURCHASE))
        else:
            facets.append(Facet(column, column, dtype))
    return facets


def count_facets(
    con: duckdb.DuckDBPyConnection,
    relation: str,
    facets: Sequence[Facet],
    *,
    like: Mapping[str, ColumnProfile] | None = None,
) -> dict[str, ColumnProfile]:
    """Count how values are spread.

    Parameters
    ----------
    con
        Connection that has the relation.
    relation
        What to count: a view or a query in brackets.
    facets
        Its columns.
    like
        Profiles whose bins are used where the label and the type are the same; own bins elsewhere.

    Returns
    -------
    dict
        Label → profile, in the order of the facets.
    """
    if not facets:
        return {}
    names = {str(told[0]): str(told[1]) for told in con.execute(f"DESCRIBE FROM {relation}").fetchall()}
    alone = {
        f.label: f"{f.where} AND {quoted(f.column)} IS NOT NULL" for f in facets if f.dtype != "timestamp"
    }
    conditions = list(dict.fromkeys([*(f.where for f in facets), *alone.values()]))
    asked = [f"{_units(names)} FILTER ({condition})" for condition in conditions]
    for f in facets:
        texts = f.dtype == "string" and f.column not in (*ID_COLUMNS, CAMPAIGN_ID)
        variety = f"approx_count_distinct({quoted(f.column)})" if texts else "0"
        asked.append(f"count(*) FILTER ({f.where}), count({quoted(f.column)}) FILTER ({f.where}), {variety}")
    row = con.execute(f"SELECT {', '.join(asked)} FROM {relation}").fetchone()
    assert row is not None  # an aggregate always has one row
    independent, row = dict(zip(conditions, row, strict=False)), row[len(conditions) :]
    earlier, found = like or {}, {}
    for i, f in enumerate(facets):
        rows, filled, different = map(int, row[3 * i : 3 * i + 3])
        units = [int(independent[condition]) for condition in (f.where, alone.get(f.label, f.where))]
        base = ColumnProfile(f.dtype, rows, filled, min(units[0], rows), min(units[1], filled))
        model = earlier.get(f.label)
        if model is not None and model.dtype != f.dtype:
            model = None
        if f.dtype == "float":
            found[f.label] = _numbers(con, relation, f, base, model)
        elif f.dtype == "bool" or _sorts(different, filled) or (model is not None and model.texts):
            found[f.label] = _texts(con, relation, f, base, model)
        else:
            found[f.label] = base
    return found


def _sorts(different: int, filled: int) -> bool:
    """Return whether texts are few enough, and each frequent enough, to sort rows by."""
    return 0 < different <= min(_MANY, max(_KEPT, filled / _OWN))


def _units(names: Mapping[str, str]) -> str:
    """Return SQL for the number of independent things: the customer's days, the customers, or nothing."""
    keys = [column for column in (CUSTOMER_ID, ORDER_ID) if column in names]
    if not names.get(AT, "").startswith("TIMESTAMP") or not keys:
        return "count(*)"
    return f"approx_count_distinct(hash(coalesce({', '.join(keys)}), {quoted(AT)}::DATE))"


def _numbers(
    con: duckdb.DuckDBPyConnection,
    relation: str,
    facet: Facet,
    base: ColumnProfile,
    model: ColumnProfile | None,
) -> ColumnProfile:
    if model is not None and model.edges:
        edges = model.edges
    elif base.filled:
        shares = ", ".join(str(i / _BINS) for i in range(_BINS))
        query = (
            f"SELECT quantile_disc({quoted(facet.column)}, [{shares}]) FROM {relation} WHERE {facet.where}"
        )
        ((cuts,),) = con.execute(query).fetchall()
        edges = tuple(sorted({float(np.nextafter(cuts[0], -np.inf)), *cuts}))
    else:
        return base
    column = quoted(facet.column)
    lows = (None, *edges)
    highs = (*edges, None)
    bins = ", ".join(
        f"count(*) FILTER ({facet.where} AND {column} IS NOT NULL"
        + (f" AND {column} > {_exactly(low)}" if low is not None else "")
        + (f" AND {column} <= {_exactly(high)}" if high is not None else "")
        + ")"
        for low, high in zip(lows, highs, strict=True)
    )
    row = con.execute(f"SELECT {bins} FROM {relation}").fetchone() or ()
    return replace(base, edges=edges, counts=tuple(row))


def _texts(
    con: duckdb.DuckDBPyConnection,
    relation: str,
    facet: Facet,
    base: ColumnProfile,
    model: ColumnProfile | None,
) -> ColumnProfile:
    column = f"{quoted(facet.column)}::VARCHAR"
    query = (
        f"SELECT {column} AS text, count(*) AS n FROM {relation} WHERE {facet.where} AND text IS NOT NULL "
    )
    if model is not None and model.texts:
        listed = ", ".join(literal(text) for text in model.texts)
        told = dict(con.execute(f"{query} AND text IN ({listed}) GROUP BY ALL").fetchall())
        texts = model.texts
    else:
        most = con.execute(f"{query} GROUP BY ALL ORDER BY n DESC, text LIMIT {_KEPT}").fetchall()
        told, texts = dict(most), tuple(str(text) for text, _ in most)
    counts = [int(told.get(text, 0)) for text in texts]
    return replace(base, texts=texts, counts=(*counts, base.filled - sum(counts)))


def _of_table(tables: Tables, name: str) -> TableProfile:
    con, typed = tables.con, f"typed_{name}"
    columns = count_facets(con, typed, facets_of(tables, name))
    line = f"hash(*COLUMNS(* EXCLUDE ({ROW_NUMBER})))"
    dated = AT in TABLES[name].names
    of_day = f"{quoted(AT)}::DATE" if dated else "NULL::DATE"
    lines = f"SELECT {of_day} AS day, {line} AS line FROM {typed}"
    found = con.execute(
        f"SELECT day, count(*), sum(line) FROM ({lines}) GROUP BY day ORDER BY day"
    ).fetchall()
    rows, content = sum(row[1] for row in found), sum(int(row[2]) for row in found)
    days = {row[0].isoformat(): (int(row[1]), _hex(int(row[2]))) for row in found if row[0] is not None}
    if not dated:
        return TableProfile(rows, _hex(content), columns)
    span = con.execute(f"SELECT min({quoted(AT)}), max({quoted(AT)}) FROM {typed}").fetchone()
    first, last = ("" if at is None else at.isoformat() for at in span or (None, None))
    return TableProfile(rows, _hex(content), columns, first, last, days, _weeks(tables, name))


def _weeks(tables: Tables, name: str) -> dict[str, dict[str, int]]:
    """Return kind → Monday → rows, for the most frequent kinds; usable rows only."""
    kind = _KIND_OF.get(name)
    if kind is None:
        return {}
    query = f"SELECT {kind}, {quoted(AT)}::DATE AS day, count(*) FROM {name} GROUP BY ALL ORDER BY 1, 2"
    weeks: dict[str, dict[str, int]] = {}
    for what, day, rows in tables.con.execute(query).fetchall():
        of_kind = weeks.setdefault(str(what), {})
        monday = _monday(day).isoformat()
        of_kind[monday] = of_kind.get(monday, 0) + int(rows)
    most = sorted(weeks, key=lambda what: (-sum(weeks[what].values()), what))[:_KEPT]
    return {what: weeks[what] for what in most}


def _monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


def _exactly(number: float) -> str:
    """Return SQL for a float to its last bit, which a decimal literal would round."""
    return f"'{number!r}'::DOUBLE"


def _hex(number: int) -> str:
    return f"{number % 2**64:016x}"
