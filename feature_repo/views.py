"""The DuckDB views over one table file: raw, typed, unreadable, canonical, rejected.

This is where a file meets the schema; ``feature_repo.tables`` describes the five views and owns the
connection. One list of faults (a required value that cannot be read, a choice that is not known) decides
both which rows are usable and why the others are not. CSV files become text columns of a temporary
Parquet file first: they are parsed once, and row numbers come for free.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb

from feature_repo.casts import SQL_TYPES, cast, dtype_of, literal, path_literal, quoted, text, unreadable
from feature_repo.errors import DataError
from feature_repo.schema import CONSENT_PREFIX, EVENT_TIMESTAMP, REASON, ROW_NUMBER, DType, Table

__all__ = [
    "Malformed",
    "Source",
    "beside",
    "create_views",
    "match_columns",
    "read_file",
    "stored_columns",
    "typed_columns",
]

_EXAMPLES = 5
_LARGEST_LINE = 2**24


@dataclass(frozen=True)
class Source:
    """A column as it stands in a file: its name there and its DuckDB type."""

    name: str
    sql_type: str


@dataclass(frozen=True)
class Malformed:
    """Lines of a CSV file that have too few or too many fields, and so belong to no row."""

    count: int = 0
    examples: tuple[tuple[int, str], ...] = ()


def read_file(con: duckdb.DuckDBPyConnection, name: str, path: Path, *, scratch: Path) -> Malformed:
    """Create the view ``raw_<name>`` over a Parquet or CSV file; return the CSV lines that are not rows.

    Raises
    ------
    DataError
        The file cannot be read or has a column ``row_number``; a CSV file is not UTF-8, has no header of
        distinct names, or leaves a quote open.
    """
    malformed, stored = Malformed(), path
    try:
        if path.suffix.lower() != ".parquet":
            stored, malformed = _parse_csv(con, path, scratch / f"{name}.parquet")
        rows = f"read_parquet({path_literal(str(stored))}, file_row_number = true, binary_as_string = true)"
        names = [str(row[0]).strip().lower() for row in con.execute(f"DESCRIBE FROM {rows}").fetchall()]
        if ROW_NUMBER in names:
            raise DataError(
                f"expected no column {ROW_NUMBER} in {path}, since the reader adds it; rename yours"
            )
        select = f"SELECT file_row_number + 1 AS {ROW_NUMBER}, * EXCLUDE (file_row_number) FROM {rows}"
        _view(con, f"raw_{name}", select)
    except (duckdb.Error, OSError) as error:
        found = str(error).strip().split("\n", 1)[0].rstrip(".")
        raise DataError(f"expected a readable file at {path}, found {found}; write it again") from error
    return malformed


def stored_columns(con: duckdb.DuckDBPyConnection, relation: str) -> dict[str, str]:
    """Return name → DuckDB type of a relation's columns, less ``row_number``, which comes first."""
    return {str(row[0]): str(row[1]) for row in con.execute(f"DESCRIBE {relation}").fetchall()[1:]}


def create_views(
    con: duckdb.DuckDBPyConnection, spec: Table, *, path: Path, infer: bool = False
) -> dict[str, DType]:
    """Create the other four views of a table over ``raw_<name>``; return its attributes.

    Parameters
    ----------
    con
        Connection that has the raw view.
    spec
        The table.
    path
        The file, for messages.
    infer
        Whether attributes are text whose type is to be found out, as in a CSV file.

    Raises
    ------
    DataError
        A required column is missing.
    """
    raw = f"raw_{spec.name}"
    stored = stored_columns(con, raw)
    sources = match_columns(spec, stored, path=path)
    if spec.open and EVENT_TIMESTAMP in (name.lower() for name in sources):
        raise DataError(
            f"expected no column {EVENT_TIMESTAMP} in {path}, since the feature store adds it; rename yours"
        )
    extra = {name: source for name, source in sources.items() if name not in spec.names}
    attributes = _attribute_types(con, raw, extra, infer=infer)
    typed = typed_columns(spec, sources, attributes)
    expressions = {name: expression for name, (expression, _) in typed.items()}

    columns = ", ".join(f"{expression} AS {quoted(name)}" for name, expression in expressions.items())
    _view(con, f"typed_{spec.name}", f"SELECT {ROW_NUMBER}, {columns} FROM {raw}")
    flags = ", ".join(
        f"{_unreadable(sources.get(name), dtype)} AS {quoted(name)}" for name, (_, dtype) in typed.items()
    )
    _view(con, f"unreadable_{spec.name}", f"SELECT {ROW_NUMBER}, {flags} FROM {raw}")
    faults = _faults(spec, expressions)
    reason = f"CASE {' '.join(f'WHEN {fault} THEN {literal(why)}' for why, fault in faults)} END"
    listed = f"SELECT {ROW_NUMBER}, {reason} AS {REASON}, {beside(stored, relation=raw)} FROM {raw}"
    _view(con, f"rejected_{spec.name}", f"SELECT * FROM ({listed}) WHERE {REASON} IS NOT NULL")
    usable = " AND ".join(f"NOT ({fault})" for _, fault in _faults(spec, {n: quoted(n) for n in expressions}))
    filled = ", ".join(_filled(spec, name) for name in expressions)
    _view(con, spec.name, f"SELECT {filled} FROM typed_{spec.name} WHERE {usable}")
    return attributes


def match_columns(spec: Table, stored: Mapping[str, str], *, path: Path) -> dict[str, Source]:
    """Match the columns of a file with those of the schema, whatever the case of their letters.

    Returns
    -------
    dict
        Column name → where it is; for open tables also the extra columns, under their own names.

    Raises
    ------
    DataError
        A required column is missing.
    """
    found: dict[str, Source] = {}
    for name, sql_type in stored.items():
        plain = name.strip()
        known = plain.lower() in spec.names
        if known or spec.open:
            found.setdefault(plain.lower() if known else plain, Source(name, sql_type))
    missing = [column.name for column in spec.columns if column.required and column.name not in found]
    if missing:
        raise DataError(
            f"expected column(s) {', '.join(missing)} in {path}, found {', '.join(stored) or 'no columns'}; "
            f"rename or add them"
        )
    return found


def typed_columns(
    spec: Table, sources: Mapping[str, Source], attributes: Mapping[str, DType]
) -> dict[str, tuple[str, DType]]:
    """Return name → (SQL that reads it from the file, type) of all columns: schema order, then attributes."""
    dtypes: dict[str, DType] = {column.name: column.dtype for column in spec.columns} | dict(attributes)
    choices = {column.name for column in spec.columns if column.choices}
    typed: dict[str, tuple[str, DType]] = {}
    for name, dtype in dtypes.items():
        source = sources.get(name)
        if source is None:
            expression = f"NULL::{SQL_TYPES[dtype]}"
        else:
            expression = cast(quoted(source.name), source.sql_type, dtype)
        typed[name] = (f"lower({expression})" if name in choices else expression, dtype)
    return typed


def beside(stored: Iterable[str], *, relation: str) -> str:
    """Return SQL for a file's own columns beside ``reason``: one of that name becomes ``source_reason``."""
    return ", ".join(
        f"{relation}.{quoted(name)}" + (f" AS {quoted(f'source_{name}')}" if name.lower() == REASON else "")
        for name in stored
    )


def _view(con: duckdb.DuckDBPyConnection, name: str, select: str) -> None:
    con.execute(f"CREATE VIEW {quoted(name)} AS {select}")


def _faults(spec: Table, expressions: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return (reason, SQL that is true for a row to be rejected), in order of importance."""
    faults = []
    for column in spec.columns:
        value = f"({expressions[column.name]})"
        if column.required and not column.may_be_empty:
            faults.append((f"{column.name} is empty or cannot be read", f"{value} IS NULL"))
        if column.choices:
            known = ", ".join(literal(choice) for choice in column.choices)
            faults.append(
                (
                    f"{column.name} is none of {', '.join(column.choices)}",
                    f"coalesce({value} NOT IN ({known}), FALSE)",
                )
            )
    return faults


def _filled(spec: Table, name: str) -> str:
    default = {column.name: column.default for column in spec.columns}.get(name)
    column = quoted(name)
    return column if default is None else f"coalesce({column}, {literal(default)}) AS {column}"


def _unreadable(source: Source | None, dtype: DType) -> str:
    return "FALSE" if source is None else unreadable(quoted(source.name), source.sql_type, dtype)


def _attribute_types(
    con: duckdb.DuckDBPyConnection, raw: str, extra: Mapping[str, Source], *, infer: bool
) -> dict[str, DType]:
    types = {name: dtype_of(source.sql_type) for name, source in extra.items()}
    if infer and extra:
        reads = ", ".join(_inferred(quoted(source.name)) for source in extra.values())
        row = con.execute(f"SELECT {reads} FROM {raw}").fetchone()
        types = dict(zip(extra, row or (), strict=True))
    return {name: "bool" if name.lower().startswith(CONSENT_PREFIX) else kind for name, kind in types.items()}


def _inferred(column: str) -> str:
    """Return SQL for the narrowest type that reads every value; codes with leading zeros stay text."""
    value = text(column)
    number = f"try_cast({value} AS DOUBLE) IS NOT NULL AND NOT regexp_matches({value}, '^[+-]?0[0-9]')"
    return (
        f"CASE WHEN count({value}) = 0 THEN 'string' "
        f"WHEN bool_and(lower({value}) IN ('true', 'false')) THEN 'bool' "
        f"WHEN bool_and({number}) FILTER ({value} IS NOT NULL) THEN 'float' "
        f"WHEN bool_and({cast(column, 'VARCHAR', 'timestamp')} IS NOT NULL) FILTER ({value} IS NOT NULL) "
        f"THEN 'timestamp' ELSE 'string' END"
    )


def _parse_csv(con: duckdb.DuckDBPyConnection, path: Path, target: Path) -> tuple[Path, Malformed]:
    """Convert a CSV file to text columns in ``target``, which keeps the order of its rows."""
    try:
        with path.open("rb") as file:
            first = file.readline().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"expected UTF-8 text in {path}, found other bytes on line 1") from error
    delimiter = max(",;\t|", key=first.count)
    header = [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
    if not header or len({name.lower() for name in header}) < len(header) or "" in header:
        raise DataError(
            f"expected a first line of distinct column names in {path}, found {first.strip()[:80]!r}"
        )
    columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in header)
    con.execute("DROP TABLE IF EXISTS reject_errors; DROP TABLE IF EXISTS reject_scans")
    reader = (
        f"read_csv({path_literal(str(path))}, columns = {{{columns}}}, auto_detect = false, header = true, "
        f"delim = {literal(delimiter)}, quote = '\"', escape = '\"', "
        f"max_line_size = {_LARGEST_LINE}, store_rejects = true, rejects_limit = 0)"
    )
    con.execute(f"COPY (FROM {reader}) TO {literal(str(target))} (FORMAT parquet, COMPRESSION zstd)")
    return target, _malformed(con, path)


def _malformed(con: duckdb.DuckDBPyConnection, path: Path) -> Malformed:
    """Read DuckDB's list of rejected lines; faults that swallow who knows how many rows are errors."""
    lines = (
        "SELECT line, min(error_type::VARCHAR), min(csv_line) FROM reject_errors GROUP BY line ORDER BY line"
    )
    faults = [(int(line), str(fault), str(text)) for line, fault, text in con.execute(lines).fetchall()]
    for line, fault, _ in faults:
        if fault == "UNQUOTED VALUE":
            raise DataError(f"expected closed quotes in {path}, found one left open on line {line}; close it")
        if fault == "INVALID ENCODING":
            raise DataError(
                f"expected UTF-8 text in {path}, found other bytes on line {line}; save it as UTF-8"
            )
    examples = tuple((line, content.strip()[:200]) for line, _, content in faults[:_EXAMPLES])
    return Malformed(len(faults), examples)
