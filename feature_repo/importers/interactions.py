"""Any log of customer, product and time, as the tables of the contract.

A column map says which column of the log is which of the contract's; columns that already have the right
name need no entry. Rows are rejected by the same rules by which the tables are read, so nothing that is
written here is left out later. ``products`` is derived from the log: one row an id, with the last known value
of each product column. Deliberately absent: dropping of repeated lines, which in a log may well be true.
"""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import duckdb

from feature_repo.casts import dtype_of, literal, quoted, text
from feature_repo.errors import ConfigError, DataError
from feature_repo.importers.report import ImportReport, Step, write_rejected
from feature_repo.schema import (
    AT,
    CUSTOMER_ID,
    INTERACTIONS,
    KIND,
    PRICE,
    PRODUCT_ID,
    PRODUCTS,
    REASON,
    ROW_NUMBER,
    TABLES,
)
from feature_repo.tables import connect, write_query
from feature_repo.views import create_views, read_file, stored_columns

__all__ = ["import_interactions"]

_LOG = TABLES[INTERACTIONS]
_OF_PRODUCT = tuple(column for column in TABLES[PRODUCTS].columns if column.name != PRODUCT_ID)
_BOTH = replace(_LOG, columns=_LOG.columns + _OF_PRODUCT)
_EPOCH = "^([0-9]{9,10}([.][0-9]+)?|[0-9]{12,13}|[0-9]{15,16})$"


def import_interactions(
    source: str | Path, directory: str | Path, *, column_map: Mapping[str, str] | None = None
) -> ImportReport:
    """Write ``interactions`` and ``products`` from a log.

    Parameters
    ----------
    source
        Parquet or CSV file (UTF-8). Times are ISO 8601, or seconds, milliseconds or microseconds since
        1970, told apart by their number of digits.
    directory
        Where the tables go.
    column_map
        Our column → the log's column; ours are those of ``interactions`` and ``products``.

    Returns
    -------
    ImportReport
        Also written beside the tables.

    Raises
    ------
    ConfigError
        The map names a column that does not exist, or leaves a required one without a source.
    DataError
        The file is missing or cannot be read, or has no usable row.
    """
    path, folder = Path(source), Path(directory)
    if not path.is_file():
        raise DataError(f"expected a log at {path}, found no file; give the path of a Parquet or CSV file")
    with tempfile.TemporaryDirectory(prefix="nextbest-import-") as scratch:
        con = connect(scratch)
        try:
            malformed = read_file(con, "source", path, scratch=Path(scratch))
            columns = _columns(stored_columns(con, "raw_source"), column_map or {}, path)
            _create_raw(con, columns)
            create_views(con, _BOTH, path=path)
            read = _count(con, "raw_source")
            written = _write(con, columns, path, folder)
            dropped = write_rejected(
                con, f"rejected_{INTERACTIONS}", source="raw_source", malformed=malformed, directory=folder
            )
            steps = (*dropped, *_kept_steps(con, columns))
        finally:
            con.close()
    report = ImportReport("interactions", str(path), read + malformed.count, written, steps)
    report.save(folder)
    return report


def _columns(stored: Mapping[str, str], column_map: Mapping[str, str], path: Path) -> dict[str, str]:
    """Return our column → the log's column."""
    for ours, theirs in column_map.items():
        if ours not in _BOTH.names:
            raise ConfigError(
                f"expected a column of the contract in --map {ours}={theirs}, {_near(ours, _BOTH.names)}"
            )
        if theirs not in stored:
            raise ConfigError(
                f"expected a column of {path} in --map {ours}={theirs}, {_near(theirs, stored)}"
            )
    same = {name.lower(): name for name in stored if name.lower() in _BOTH.names}
    columns = same | dict(column_map)
    missing = [column.name for column in _LOG.columns if column.required and column.name not in columns]
    if missing:
        raise ConfigError(
            f"expected a source for {', '.join(missing)}, found columns {', '.join(stored)} in {path}; "
            f"name it with --map {missing[0]}=COLUMN"
        )
    return columns


def _near(name: str, known: Iterable[str]) -> str:
    names = list(known)
    lower = {candidate.lower(): candidate for candidate in names}
    near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.4)
    return f"did you mean {lower[near[0]]}?" if near else f"found {', '.join(names)}"


def _create_raw(con: duckdb.DuckDBPyConnection, columns: Mapping[str, str]) -> None:
    """Create ``raw_interactions``: our names over the log's values, epoch times written as ISO 8601."""
    types = stored_columns(con, "raw_source")
    values = {ours: quoted(theirs) for ours, theirs in columns.items()}
    kind = types[columns[AT]]
    if dtype_of(kind) != "timestamp":
        at = text(values[AT], kind)
        number = f"try_cast({at} AS DOUBLE)"
        scale = f"CASE WHEN {number} < 1e11 THEN 1e6 WHEN {number} < 1e14 THEN 1e3 ELSE 1 END"
        moment = f"make_timestamp(CAST(round({number} * {scale}) AS BIGINT))::VARCHAR"
        values[AT] = f"CASE WHEN regexp_matches({at}, {literal(_EPOCH)}) THEN {moment} ELSE {at} END"
    select = ", ".join(f"{value} AS {quoted(ours)}" for ours, value in values.items())
    con.execute(f"CREATE VIEW raw_{INTERACTIONS} AS SELECT {ROW_NUMBER}, {select} FROM raw_source")


def _write(
    con: duckdb.DuckDBPyConnection, columns: Mapping[str, str], path: Path, folder: Path
) -> dict[str, int]:
    written = {INTERACTIONS: _count(con, INTERACTIONS)}
    if not written[INTERACTIONS]:
        found = con.execute(f"SELECT any_value({REASON}) FROM rejected_{INTERACTIONS}").fetchone()
        reason = (found and found[0]) or "the file has no rows"
        raise DataError(f"expected usable rows in {path}, found none: {reason}; correct the file or --map")
    logged = ", ".join(quoted(name) for name in _LOG.names if name in columns)
    write_query(con, f"SELECT {logged} FROM {INTERACTIONS}", INTERACTIONS, folder)
    known = {PRICE: f" FILTER ({PRICE} > 0)"}  # a gift says nothing about the price
    last = "".join(
        f", arg_max({quoted(name)}, {quoted(AT)}){known.get(name, '')} AS {quoted(name)}"
        for name in (column.name for column in _OF_PRODUCT)
        if name in columns
    )
    products = f"SELECT {PRODUCT_ID}{last} FROM {INTERACTIONS} GROUP BY {PRODUCT_ID} ORDER BY {PRODUCT_ID}"
    write_query(con, products, PRODUCTS, folder)
    return written | {PRODUCTS: _count(con, f"({products})")}


def _kept_steps(con: duckdb.DuckDBPyConnection, columns: Mapping[str, str]) -> list[Step]:
    named = ", ".join(f"{ours}={theirs}" for ours, theirs in columns.items())
    steps = [Step("column", len(columns), f"read as {named}")]
    anonymous = _count(con, f"{INTERACTIONS} WHERE {CUSTOMER_ID} IS NULL")
    steps.append(
        Step("anonymous line", anonymous, f"kept with an empty {CUSTOMER_ID}: counts for products only")
    )
    if KIND not in columns:
        steps.append(
            Step("line without kind", _count(con, INTERACTIONS), f"no column {KIND}: taken as purchases")
        )
    source = quoted(columns[AT])
    kind = stored_columns(con, "raw_source")[columns[AT]]
    if dtype_of(kind) != "timestamp":
        epoch = _count(con, f"raw_source WHERE regexp_matches({text(source, kind)}, {literal(_EPOCH)})")
        steps.append(Step("epoch time", epoch, "a number, taken as time since 1970-01-01 UTC"))
    return steps


def _count(con: duckdb.DuckDBPyConnection, relation: str) -> int:
    row = con.execute(f"SELECT count(*) FROM {relation}").fetchone()
    return int(row[0]) if row else 0
