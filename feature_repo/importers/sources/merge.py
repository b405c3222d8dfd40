"""The rows of all sources of one table, merged: one row a thing, each value from the source that prevails.

Most keys occur once and pass straight through. Those that occur again are merged in buckets of the key's
hash, so that the memory is bounded by a bucket and not by the table. Of a key's rows the first in order of
precedence is *written*; another is *merged* if it gives a value that was missing or contradicts one, else it is
a *duplicate*. Deliberately absent: averages and majorities. A value is somebody's, or it is not there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import duckdb

from feature_repo.casts import SQL_TYPES, literal, quoted
from feature_repo.errors import ConfigError
from feature_repo.importers.sources.source_map import SourceMap, key_of
from feature_repo.importers.sources.stage import SOURCE_SHIFT, Staged, row_id
from feature_repo.schema import AT, INTERACTIONS, NAME, TABLES, VALUE, DType

__all__ = ["Merged", "create_log", "merge_table", "written_query"]

_BUCKET_ROWS: Final = 400_000
_NUMBER: Final = "^[+-]?(0|[1-9][0-9]*)([.][0-9]+)?$"  # an attribute like 007 or 1e5 is a code, not a number


@dataclass
class Merged:
    """One table, merged.

    Attributes
    ----------
    table
        Name of the table.
    relation
        View of the rows: ``f0``, ``f1``, …
    fields
        Our columns and their types, in the order of ``f0``, ``f1``, …
    key
        Columns by which rows are the same; none if no rows are.
    outcomes
        (source number, ``written`` | ``merged`` | ``duplicate``) → rows.
    origins
        (field, source number) → rows whose value came from there.
    keyless
        Rows that were not compared because a column of the key is empty.
    """

    table: str
    relation: str
    fields: list[tuple[str, DType]]
    key: list[str]
    outcomes: Counter[tuple[int, str]] = field(default_factory=Counter)
    origins: Counter[tuple[str, int]] = field(default_factory=Counter)
    keyless: int = 0


def create_log(con: duckdb.DuckDBPyConnection) -> None:
    """Create the tables in which merging leaves its account: ``conflicts`` and ``duplicates``."""
    con.execute(
        "CREATE TABLE conflicts (tbl VARCHAR, key VARCHAR, field VARCHAR, kept VARCHAR, kept_id "
        "BIGINT, other VARCHAR, other_id BIGINT)"
    )
    con.execute("CREATE TABLE duplicates (tbl VARCHAR, id BIGINT, kept_id BIGINT)")


def merge_table(
    con: duckdb.DuckDBPyConnection, rules: SourceMap, table: str, parts: Sequence[Staged], *, scratch: Path
) -> Merged:
    """Merge the staged files of a table.

    Raises
    ------
    ConfigError
        Two sources declare different types for one attribute.
    """
    fields = _fields(rules, table, parts)
    staged = f"staged_{table}"
    names = [name for name, _ in fields]
    key = [name for name in key_of(TABLES[table], rules) if name in names]
    f = {name: f"f{i}" for i, name in enumerate(names)}
    unions = " UNION ALL ".join(_select(part, fields) for part in parts)
    whole = (
        " AND ".join(f"{f[name]} IS NOT NULL" for name in key) if table == INTERACTIONS and key else "TRUE"
    )
    hashed = (
        f"CASE WHEN {whole} THEN hash({', '.join(f[name] for name in key)}) END" if key else "NULL::UBIGINT"
    )
    con.execute(f"CREATE VIEW {staged} AS SELECT *, {hashed} AS h FROM ({unions})")
    several = f"several_{table}"
    con.execute(
        f"CREATE TABLE {several} AS SELECT h, count(*) AS n FROM {staged} WHERE h IS NOT NULL "
        "GROUP BY h HAVING count(*) > 1"
    )
    columns = ", ".join(f.values())
    singles = f"SELECT id, {columns} FROM {staged} ANTI JOIN {several} USING (h)"
    merged = Merged(table, f"merged_{table}", [], key)
    counts = ", ".join(f"count({column})" for column in f.values())
    for number, rows, *filled in con.execute(
        f"SELECT id >> {SOURCE_SHIFT}, count(*), {counts} FROM ({singles}) GROUP BY 1"
    ).fetchall():
        merged.outcomes[number, "written"] += rows
        for name, count in zip(names, filled, strict=True):
            merged.origins[name, number] += count
    if key:
        merged.keyless = _one(con, f"SELECT count(*) FROM {staged} WHERE h IS NULL")
    pieces = [f"SELECT {columns} FROM ({singles})"]
    together = _one(con, f"SELECT coalesce(sum(n), 0) FROM {several}")
    buckets = -(-together // _BUCKET_ROWS)
    for bucket in range(buckets):
        rows = f"SELECT * FROM {staged} SEMI JOIN {several} USING (h) WHERE h % {buckets} = {bucket}"
        target = scratch / f"merged_{table}_{bucket}.parquet"
        _merge_bucket(con, rules, merged, rows, names, target)
        pieces.append(f"SELECT {columns} FROM read_parquet({literal(str(target))})")
    con.execute(f"CREATE VIEW {merged.relation} AS {' UNION ALL '.join(pieces)}")
    merged.fields += _typed(con, merged.relation, fields)
    return merged


def _fields(rules: SourceMap, table: str, parts: Sequence[Staged]) -> list[tuple[str, DType | None]]:
    """Return the columns that some source gives: those of the contract in its order, then attributes."""
    spec = TABLES[table]
    declared: dict[str, tuple[DType | None, str]] = {}
    for part in parts:
        given = {name: dtype for name, (_, dtype) in part.columns.items()}
        if part.wide:
            given |= {NAME: "string", VALUE: "float"}
        for name, dtype in given.items():
            before, source = declared.get(name, (None, part.source))
            if before is not None and dtype is not None and before != dtype:
                raise ConfigError(
                    f"expected one type for {table}.{name} in {rules.path}, found {before} in source {source} "
                    f"and {dtype} "
                    f"in {part.source}; declare the same type in both"
                )
            declared[name] = (before or dtype, source if before else part.source)
    lower: dict[str, str] = {}
    for name in declared:
        if (other := lower.setdefault(name.lower(), name)) != name:
            raise ConfigError(
                f"expected columns of {table} to differ in more than the case of letters, found {other} "
                f"and {name} in {rules.path}; rename one"
            )
    order = [name for name in spec.names if name in declared] + [
        name for name in declared if name not in spec.names
    ]
    return [(name, declared[name][0]) for name in order]


def _select(part: Staged, fields: Sequence[tuple[str, DType | None]]) -> str:
    """Return SQL for the usable rows of a staged file under the table's columns."""
    columns = []
    for i, (name, dtype) in enumerate(fields):
        kind = SQL_TYPES[dtype or "string"]
        if part.wide and name in (NAME, VALUE):
            columns.append(f"cell.{name} AS f{i}")
        elif name in part.columns:
            columns.append(f"{part.columns[name][0]}::{kind} AS f{i}")
        else:
            columns.append(f"NULL::{kind} AS f{i}")
    listed = ", ".join(columns)
    if not part.wide:
        return (
            f"SELECT {row_id(part.source_number, part.file_number)} AS id, {listed} FROM {part.relation} "
            "WHERE fault IS NULL"
        )
    cells = f"SELECT *, unnest(cells) AS cell FROM {part.relation} WHERE fault IS NULL"
    number = row_id(part.source_number, part.file_number, "cell.cell")
    return (
        f"SELECT {number} AS id, {listed} FROM ({cells}) WHERE cell.value IS NOT NULL AND cell.fault IS NULL"
    )


def _merge_bucket(
    con: duckdb.DuckDBPyConnection,
    rules: SourceMap,
    merged: Merged,
    rows: str,
    names: list[str],
    target: Path,
) -> None:
    f = {name: f"f{i}" for i, name in enumerate(names)}
    keys = [f[name] for name in merged.key]
    others = [name for name in names if name not in merged.key]
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE bucket AS SELECT *, min(rank) OVER (PARTITION BY {', '.join(keys)}) AS first "
        f"FROM (SELECT *, {_rank(rules, merged.table)} AS rank FROM ({rows}))"
    )
    chosen = "".join(
        f", arg_min({f[name]}, {_rank(rules, merged.table, name)}) FILTER ({f[name]} IS NOT NULL) AS {f[name]}"
        f", arg_min(id, {_rank(rules, merged.table, name)}) FILTER ({f[name]} IS NOT NULL) AS by_{f[name]}"
        for name in others
    )
    same = "".join(f", any_value({column}) AS {column}" for column in keys)
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE chosen AS SELECT first, arg_min(id, rank) AS id{same}{chosen} "
        "FROM bucket GROUP BY first"
    )
    differs = {name: f"b.{f[name]} IS NOT NULL AND b.{f[name]} <> c.{f[name]}" for name in others}
    gives = " OR ".join([f"c.by_{f[name]} = b.id OR ({differs[name]})" for name in others] or ["FALSE"])
    outcome = (
        f"CASE WHEN b.rank = b.first THEN 'written' WHEN coalesce({gives}, FALSE) THEN 'merged' "
        "ELSE 'duplicate' END"
    )
    both = "bucket AS b JOIN chosen AS c USING (first)"
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE decided AS SELECT b.id AS id, c.id AS kept_id, {outcome} AS outcome FROM {both}"
    )
    for number, what, count in con.execute(
        f"SELECT id >> {SOURCE_SHIFT}, outcome, count(*) FROM decided GROUP BY ALL"
    ).fetchall():
        merged.outcomes[number, what] += count
    con.execute(
        f"INSERT INTO duplicates SELECT {literal(merged.table)}, id, kept_id FROM decided WHERE outcome = 'duplicate'"
    )
    key = ", ".join(f"{literal(name)}, c.{f[name]}" for name in merged.key)
    for name in others:
        column = f[name]
        con.execute(
            f"INSERT INTO conflicts SELECT {literal(merged.table)}, json_object({key})::VARCHAR, {literal(name)}, "
            f"c.{column}::VARCHAR, c.by_{column}, b.{column}::VARCHAR, b.id FROM {both} WHERE {differs[name]}"
        )
    for name in names:
        column = f[name]
        by = "id" if name in merged.key else f"by_{column}"
        counted = f"SELECT {by} >> {SOURCE_SHIFT}, count(*) FROM chosen WHERE {column} IS NOT NULL GROUP BY 1"
        for number, count in con.execute(counted).fetchall():
            merged.origins[name, number] += count
    con.execute(
        f"COPY (SELECT {', '.join(f.values())} FROM chosen) TO {literal(str(target))} (FORMAT "
        "parquet, COMPRESSION zstd)"
    )


def _rank(rules: SourceMap, table: str, name: str | None = None) -> str:
    """Return SQL for the place of a row in the order of precedence; the least prevails."""
    numbers = {source: number for number, source in enumerate(rules.sources)}
    cases = "".join(
        f" WHEN {numbers[source]} THEN {place}" for place, source in enumerate(rules.order(table, name))
    )
    return f"(((CASE id >> {SOURCE_SHIFT}{cases} END)::BIGINT << {SOURCE_SHIFT}) + (id & {(1 << SOURCE_SHIFT) - 1}))"


def _typed(
    con: duckdb.DuckDBPyConnection, relation: str, fields: Sequence[tuple[str, DType | None]]
) -> list[tuple[str, DType]]:
    """Return the fields with the type of each undeclared attribute found out from its values."""
    open_ones = [i for i, (_, dtype) in enumerate(fields) if dtype is None]
    found: dict[int, DType] = {}
    if open_ones:
        tests = ", ".join(
            f"CASE WHEN count(f{i}) = 0 THEN 'string' WHEN bool_and(lower(f{i}) IN ('true', 'false')) THEN 'bool' "
            f"WHEN bool_and(regexp_matches(f{i}, {literal(_NUMBER)})) THEN 'float' ELSE 'string' END"
            for i in open_ones
        )
        row = con.execute(f"SELECT {tests} FROM {relation}").fetchone()
        found = dict(zip(open_ones, row or (), strict=True))
    return [(name, dtype or found[i]) for i, (name, dtype) in enumerate(fields)]


def written_query(merged: Merged) -> str:
    """Return SQL for a merged table under our names, typed and in a stable order."""
    columns = ", ".join(
        f"f{i}::{SQL_TYPES[dtype]} AS {quoted(name)}" for i, (name, dtype) in enumerate(merged.fields)
    )
    names = [name for name, _ in merged.fields]
    order = [name for name in TABLES[merged.table].names if name in names]
    if merged.table == INTERACTIONS:
        order = [AT, *[name for name in order if name != AT]]
    return f"SELECT {columns} FROM {merged.relation} ORDER BY {', '.join(quoted(name) for name in order)}"


def _one(con: duckdb.DuckDBPyConnection, query: str) -> int:
    row = con.execute(query).fetchone()
    return int(row[0]) if row else 0
