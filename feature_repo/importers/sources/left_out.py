"""What an import left out, so that every row can be found again: files, and their summary for the account.

``rejected.parquet`` has one row for each rejected row, rejected value and duplicate: source, file, row number
in that file, reason, and the original fields as JSON text (sources differ in their columns). ``conflicts.parquet``
has every value that was overruled, beside the one that was kept. Deliberately absent: a limit on either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import duckdb

from feature_repo.casts import literal, path_literal
from feature_repo.importers.report import REJECTED
from feature_repo.importers.sources.account import Conflict, Reason
from feature_repo.importers.sources.encodings import original
from feature_repo.importers.sources.source_map import SourceMap
from feature_repo.importers.sources.stage import CELL_BITS, FILE_SHIFT, ROW_BITS, SOURCE_SHIFT, Staged
from feature_repo.schema import REASON, ROW_NUMBER
from feature_repo.tables import write_parquet

__all__ = [
    "CONFLICTS",
    "DUPLICATE",
    "ROW",
    "VALUE_ONLY",
    "conflicts_of",
    "reasons_of",
    "write_conflicts",
    "write_left_out",
]

CONFLICTS: Final = "conflicts.parquet"
ROW: Final = "rejected"
VALUE_ONLY: Final = "value rejected"
DUPLICATE: Final = "duplicate"

_ROW_OF: Final = f"(({{0}} >> {CELL_BITS}) & {(1 << ROW_BITS) - 1})"
_SHOWN: Final = 3
_LONGEST: Final = 200


def write_left_out(
    con: duckdb.DuckDBPyConnection, rules: SourceMap, parts: Sequence[Staged], *, directory: Path
) -> Path:
    """Write ``rejected.parquet`` and return its path."""
    files = _files(rules, parts)
    con.execute("CREATE TABLE places (place BIGINT, source VARCHAR, file VARCHAR)")
    for part in parts:
        con.execute("INSERT INTO places VALUES (?, ?, ?)", [_place(part), part.source, files[_place(part)]])
    queries = " UNION ALL ".join(_of_part(rules, part, files[_place(part)]) for part in parts)
    target = directory / REJECTED
    return write_parquet(
        con, f"SELECT * EXCLUDE (place) FROM ({queries}) ORDER BY place, {ROW_NUMBER}, outcome, field", target
    )


def write_conflicts(con: duckdb.DuckDBPyConnection, *, directory: Path) -> Path:
    """Write ``conflicts.parquet`` and return its path."""
    query = (
        f'SELECT tbl AS "table", key, field, kept, k.source AS kept_source, k.file AS kept_file, '
        f"{_ROW_OF.format('kept_id')} AS kept_row, other, o.source AS other_source, o.file AS other_file, "
        f"{_ROW_OF.format('other_id')} AS other_row FROM conflicts "
        f"JOIN places AS k ON k.place = kept_id >> {FILE_SHIFT} JOIN places AS o ON o.place = other_id >> {FILE_SHIFT} "
        f"ORDER BY tbl, field, kept_id, other_id"
    )
    return write_parquet(con, query, directory / CONFLICTS)


def reasons_of(con: duckdb.DuckDBPyConnection, path: Path, outcome: str) -> list[Reason]:
    """Return why rows or values were left out, by source and field, most frequent first."""
    value = f"left(value, {_LONGEST})"  # least, greatest and first: a list of all would need memory
    shown = f"list_sort(list_distinct([min({value}), max({value}), arg_min({value}, {ROW_NUMBER})]))"
    rows = con.execute(
        f"SELECT field, {REASON}, count(*), {shown}, source, arg_min(file, {ROW_NUMBER}), min({ROW_NUMBER}) "
        f"FROM {_stored(path)} WHERE outcome = {literal(outcome)} GROUP BY source, field, {REASON} "
        f"ORDER BY 3 DESC, source, field, {REASON}"
    ).fetchall()
    return [
        Reason(field, reason, count, tuple(v for v in values or () if v is not None), source, file, row)
        for field, reason, count, values, source, file, row in rows
    ]


def conflicts_of(
    con: duckdb.DuckDBPyConnection, path: Path
) -> dict[tuple[str, str], tuple[dict[str, int], tuple[Conflict, ...]]]:
    """Return (table, field) → (``a over b`` → count, examples)."""
    found: dict[tuple[str, str], tuple[dict[str, int], tuple[Conflict, ...]]] = {}
    counted = (
        "SELECT \"table\", field, kept_source || ' over ' || other_source, count(*) FROM "
        f"{_stored(path)} GROUP BY ALL ORDER BY 1, 2, 4 DESC, 3"
    )
    for table, field, who, count in con.execute(counted).fetchall():
        found.setdefault((table, field), ({}, ()))[0][who] = count
    first = (
        f'SELECT * FROM {_stored(path)} QUALIFY row_number() OVER (PARTITION BY "table", field '
        f"ORDER BY key, other_source, other_row) <= {_SHOWN}"
    )
    for table, key, field, *values in con.execute(f"SELECT * FROM ({first}) ORDER BY ALL").fetchall():
        won, examples = found[table, field]
        found[table, field] = (won, (*examples, Conflict(key, *values)))
    return found


def _of_part(rules: SourceMap, part: Staged, file: str) -> str:
    """Return SQL for everything left out of one file."""
    place, table = _place(part), rules.sources[part.source].table
    usual = (
        f"SELECT {ROW_NUMBER}, {{0}} AS outcome, {{1}}.field AS field, {{1}}.value AS value, "
        f"{{1}}.reason AS {REASON} FROM {{2}}"
    )
    found = [
        usual.format(literal(ROW), "fault", f"{part.relation} WHERE fault IS NOT NULL"),
        usual.format(
            literal(VALUE_ONLY),
            "b",
            f"(SELECT {ROW_NUMBER}, unnest(bad) AS b FROM {part.relation} WHERE fault IS NULL)",
        ),
        f"SELECT {_ROW_OF.format('id')}, {literal(DUPLICATE)}, NULL, NULL, 'says the same as "
        f"row ' || {_ROW_OF.format('kept_id')} "
        "|| ' of ' || k.file || ' (source ' || k.source || ')' FROM duplicates JOIN places AS "
        f"k ON k.place = kept_id >> {FILE_SHIFT} "
        f"WHERE id >> {FILE_SHIFT} = {place}",
    ]
    if part.wide:
        cells = f"(SELECT {ROW_NUMBER}, unnest(cells) AS cell FROM {part.relation} WHERE fault IS NULL)"
        found.append(usual.format(literal(ROW), "cell.fault", f"{cells} WHERE cell.fault IS NOT NULL"))
    fields = ", ".join(f"{literal(name)}, {original(f'c{i}')}" for i, name in enumerate(part.raw.names))
    rows = (
        f"SELECT {ROW_NUMBER}, outcome, field, {original('value')} AS value, {REASON}, "
        f"json_object({fields})::VARCHAR AS row "
        f"FROM ({' UNION ALL '.join(found)}) JOIN {part.raw.relation} USING ({ROW_NUMBER})"
    )
    broken = (
        f"SELECT {ROW_NUMBER}, {literal(ROW)}, NULL, NULL, {REASON}, json_object('line', {original('line')})::VARCHAR "
        f"FROM {part.raw.broken}"
    )
    return (
        f"SELECT {place}::BIGINT AS place, {literal(part.source)} AS source, {literal(file)} AS file, {ROW_NUMBER}, "
        f'{literal(table)} AS "table", outcome, field, value, {REASON}, row FROM ({rows} UNION ALL {broken})'
    )


def _files(rules: SourceMap, parts: Sequence[Staged]) -> Mapping[int, str]:
    return {_place(part): file_name(rules, part.raw.path) for part in parts}


def file_name(rules: SourceMap, path: Path) -> str:
    """Return a path as a person wrote it in the map: relative to it where it can be."""
    folder = rules.path.parent
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _place(part: Staged) -> int:
    return (part.source_number << (SOURCE_SHIFT - FILE_SHIFT)) | part.file_number


def _stored(path: Path) -> str:
    return f"read_parquet({path_literal(str(path))})"
