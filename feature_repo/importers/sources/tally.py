"""Counting for the account of an import: what became of each source's rows and of each table's fields.

Everything is counted from what was written, not from what was meant to be: rows from the table files, rows left
out from ``rejected.parquet``, conflicts from ``conflicts.parquet``. So the account cannot agree with itself and
disagree with the files. Deliberately absent: decisions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb

from feature_repo.casts import path_literal, quoted
from feature_repo.importers.report import Step
from feature_repo.importers.sources.account import FieldAccount, Reason, SourceAccount
from feature_repo.importers.sources.left_out import (
    DUPLICATE,
    ROW,
    VALUE_ONLY,
    conflicts_of,
    file_name,
    reasons_of,
)
from feature_repo.importers.sources.merge import Merged
from feature_repo.importers.sources.source_map import SourceMap
from feature_repo.importers.sources.stage import SOURCE_SHIFT, Staged, WalkAccount, used_columns
from feature_repo.schema import (
    CUSTOMER_ID,
    CUSTOMERS,
    INTERACTIONS,
    PRODUCT_ID,
    PRODUCTS,
    VALID_FROM,
    VALUE,
    DType,
)

__all__ = ["field_accounts", "filled_columns", "source_accounts", "table_steps", "walk_steps"]


def filled_columns(con: duckdb.DuckDBPyConnection, path: Path) -> tuple[int, dict[str, int]]:
    """Return the rows of a written table, and column → rows with a value."""
    names = [str(row[0]) for row in con.execute(f"DESCRIBE FROM {_stored(path)}").fetchall()]
    counts = ", ".join(f"count({quoted(name)})" for name in names)
    rows, *filled = con.execute(f"SELECT count(*), {counts} FROM {_stored(path)}").fetchone() or (0,)
    return rows, dict(zip(names, filled, strict=True))


def source_accounts(
    con: duckdb.DuckDBPyConnection,
    rules: SourceMap,
    parts: Sequence[Staged],
    merged: Mapping[str, Merged],
    left_out: Path,
) -> tuple[SourceAccount, ...]:
    """Return the account of every source; DataError if one does not add up."""
    rejected, values = reasons_of(con, left_out, ROW), reasons_of(con, left_out, VALUE_ONLY)
    names = list(rules.sources)
    pairs = con.execute(
        f"SELECT id >> {SOURCE_SHIFT}, kept_id >> {SOURCE_SHIFT}, count(*) FROM duplicates GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    accounts = []
    for number, name in enumerate(names):
        own = [part for part in parts if part.source == name]
        table = rules.sources[name].table
        outcomes = {what: merged[table].outcomes[number, what] for what in ("written", "merged", DUPLICATE)}
        reasons = tuple(reason for reason in rejected if reason.source == name)
        bad = tuple(reason for reason in values if reason.source == name)
        records, empty = _records(con, own)
        accounts.append(
            SourceAccount(
                name=name,
                table=table,
                files=tuple(file_name(rules, part.raw.path) for part in own),
                rows_read=sum(part.raw.rows for part in own),
                records=records,
                written=outcomes["written"],
                merged=outcomes["merged"],
                duplicates=outcomes[DUPLICATE],
                rejected=sum(reason.count for reason in reasons),
                empty_cells=empty,
                values_rejected=sum(reason.count for reason in bad),
                reasons=reasons,
                values=bad,
                same_as={names[kept]: count for n, kept, count in pairs if n == number},
                unused_columns=_unused(rules, name, own),
                notes=tuple(step for step in _notes(con, own) if step.count),
            )
        )
    return tuple(accounts)


def field_accounts(
    con: duckdb.DuckDBPyConnection,
    rules: SourceMap,
    sources: Sequence[SourceAccount],
    merged: Mapping[str, Merged],
    written: Mapping[str, tuple[int, Mapping[str, int]]],
    conflicts: Path,
) -> tuple[FieldAccount, ...]:
    """Return the account of every column of every written table."""
    disagreed = conflicts_of(con, conflicts)
    names = list(rules.sources)
    accounts = []
    for table, (rows, filled) in written.items():
        types: dict[str, DType] = dict(merged[table].fields) if table in merged else {PRODUCT_ID: "string"}
        bad = [r for s in sources if s.table == table for r in (*s.reasons, *s.values)]
        for name, count in filled.items():
            origins = merged[table].origins if table in merged else {}
            won, examples = disagreed.get((table, name), ({}, ()))
            accounts.append(
                FieldAccount(
                    table=table,
                    field=name,
                    dtype=types[name],
                    rows=rows,
                    filled=count,
                    origins={names[n]: c for (field, n), c in sorted(origins.items()) if field == name and c},
                    rejected=tuple(reason for reason in bad if _of_field(reason, name, filled)),
                    conflicts=sum(won.values()),
                    won=won,
                    examples=examples,
                )
            )
    return tuple(accounts)


def walk_steps(walks: Sequence[WalkAccount]) -> list[Step]:
    """Return what is to be known of each crosswalk."""
    steps = []
    for walk in walks:
        steps.append(Step(f"crosswalk {walk.name}", walk.ids, f"ids of {walk.file} lead to one of ours"))
        if walk.several:
            steps.append(
                Step(
                    f"crosswalk {walk.name}: several",
                    walk.several,
                    "ids lead to several of ours; their rows are rejected",
                )
            )
        if walk.incomplete:
            steps.append(
                Step(
                    f"crosswalk {walk.name}: incomplete",
                    walk.incomplete,
                    f"rows of {walk.file} lack one of the two ids; not used",
                )
            )
    return steps


def table_steps(
    con: duckdb.DuckDBPyConnection,
    folder: Path,
    *,
    keyless: int,
    written: Sequence[str],
    derived: Sequence[str],
    earlier: Sequence[str],
) -> list[Step]:
    """Return how the written tables fit each other."""
    log = _stored(folder / f"{INTERACTIONS}.parquet")
    steps = []
    names = [str(row[0]) for row in con.execute(f"DESCRIBE FROM {log}").fetchall()]
    if CUSTOMER_ID in names:
        anonymous = _one(con, f"SELECT count(*) FROM {log} WHERE {CUSTOMER_ID} IS NULL")
    else:
        anonymous = _one(con, f"SELECT count(*) FROM {log}")
    steps.append(
        Step("anonymous row", anonymous, f"kept with an empty {CUSTOMER_ID}: counts for products only")
    )
    if keyless:
        done = "a column of the declared key is empty; kept, and not compared with others"
        steps.append(Step("row without a whole key", keyless, done))
    if derived:
        count = _one(con, f"SELECT count(DISTINCT {PRODUCT_ID}) FROM {log}")
        steps.append(
            Step("product derived", count, f"no source of {PRODUCTS}: one row an id of {INTERACTIONS}")
        )
    for table, column in ((PRODUCTS, PRODUCT_ID), (CUSTOMERS, CUSTOMER_ID)):
        if table in written and table not in derived and column in names:
            missing = (
                f"SELECT DISTINCT {column} FROM {log} WHERE {column} IS NOT NULL "
                f"AND {column} NOT IN (SELECT {column} FROM {_stored(folder / f'{table}.parquet')})"
            )
            count = _one(con, f"SELECT count(*) FROM ({missing})")
            example = con.execute(f"SELECT min({column}) FROM ({missing})").fetchone() if count else None
            steps.append(
                Step(
                    f"unknown {column}",
                    count,
                    f"ids of {INTERACTIONS} without a row in {table}; their rows stay",
                    None if example is None else {column: example[0]},
                )
            )
    for table, column in ((PRODUCTS, PRODUCT_ID), (CUSTOMERS, CUSTOMER_ID)):
        if table not in written or table in derived:
            continue
        stored = _stored(folder / f"{table}.parquet")
        if VALID_FROM in [row[0] for row in con.execute(f"DESCRIBE FROM {stored}").fetchall()]:
            dated = f"SELECT {column} FROM {stored} WHERE {VALID_FROM} IS NOT NULL"
            undated = f"{stored} WHERE {VALID_FROM} IS NULL AND {column} IN ({dated})"
            done = f"a source of {table} without {VALID_FROM} beside one with it: kept as rows of their own"
            steps.append(
                Step("undated row beside dated ones", _one(con, f"SELECT count(*) FROM {undated}"), done)
            )
    steps += [
        Step("earlier table", 1, f"{table} is of an earlier import and stays; remove it if it is not meant")
        for table in earlier
    ]
    return steps


def _of_field(reason: Reason, name: str, filled: Mapping[str, int]) -> bool:
    """Whether a reason belongs to a column; those of a measure's cell belong to ``value``."""
    return reason.field == name or (name == VALUE and reason.field is not None and reason.field not in filled)


def _records(con: duckdb.DuckDBPyConnection, own: Sequence[Staged]) -> tuple[int, int]:
    """Return the records of a source, and those that are empty cells of a wide row."""
    records = empty = 0
    for part in own:
        records += part.raw.rows
        if part.wide:
            usable = f"{part.relation} WHERE fault IS NULL"
            records += (len(part.wide) - 1) * _one(con, f"SELECT count(*) FROM {usable}")
            cells = f"SELECT unnest(cells) AS cell FROM {usable}"
            empty += _one(
                con, f"SELECT count(*) FROM ({cells}) WHERE cell.value IS NULL AND cell.fault IS NULL"
            )
    return records, empty


def _unused(rules: SourceMap, name: str, own: Sequence[Staged]) -> tuple[str, ...]:
    source = rules.sources[name]
    used = used_columns(source) | set(source.attributes)
    names = dict.fromkeys(column for part in own for column in part.raw.names if column not in used)
    if source.attributes == ["*"]:  # all go in, but those whose name another column was given
        return tuple(
            column for column in names if column in source.columns or column.lower() in source.columns
        )
    return tuple(names)


def _notes(con: duckdb.DuckDBPyConnection, own: Sequence[Staged]) -> list[Step]:
    """Return what was decided about the rows of a source that stay."""
    gap = sum(_one(con, f"SELECT count(*) FROM {part.relation} WHERE gap AND fault IS NULL") for part in own)
    twice = sum(
        _one(con, f"SELECT count(*) FROM {part.relation} WHERE twice AND fault IS NULL") for part in own
    )
    zones = ", ".join(dict.fromkeys(zone for part in own for zone in part.zones))
    return [
        Step(
            "empty line",
            sum(part.raw.empty_lines for part in own),
            "nothing in them; passed over and not numbered",
        ),
        Step(
            "file without rows", sum(part.raw.rows == 0 for part in own), "only a header; nothing to import"
        ),
        Step("time in a gap", gap, f"clocks in {zones} never show it; read with the offset that held before"),
        Step(
            "time that comes twice",
            twice,
            f"clocks in {zones} show it twice; taken as the earlier of the two",
        ),
    ]


def _one(con: duckdb.DuckDBPyConnection, query: str) -> int:
    row = con.execute(query).fetchone()
    return int(row[0]) if row else 0


def _stored(path: Path) -> str:
    return f"read_parquet({path_literal(str(path))})"
