"""Any file as rows of text: numbered, with the names of its columns, and its broken lines beside them.

Everything downstream sees the same thing, whatever the file was: a relation of ``row_number`` and text columns
``c0``, ``c1``, …, so that ids such as 007 and 1e5 are never numbers on the way. Row 1 is the first after the
header; empty lines are not counted. Text in other encodings is rewritten as UTF-8 piece by piece; bytes
that are no text are marked, not dropped. Deliberately absent: guessing of an encoding, which would be wrong
silently.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb

from feature_repo.casts import literal, path_literal, quoted, text
from feature_repo.errors import ConfigError, DataError
from feature_repo.importers.sources.encodings import Rewritten, rewrite
from feature_repo.importers.sources.source_map import FileShape, nearest
from feature_repo.schema import REASON, ROW_NUMBER

__all__ = ["RawFile", "open_file"]

_FORMATS: Final = {".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_NO_TABLES: Final = (".xlsx", ".xls", ".ods", ".zip", ".gz", ".json", ".xml", ".sav", ".dta")
_FAULTS: Final = {
    "MISSING COLUMNS": "too few fields for a row",
    "TOO MANY COLUMNS": "too many fields for a row",
    "UNQUOTED VALUE": "a quote that is not closed or stands inside a value",
}
_LARGEST_LINE: Final = 2**21  # the reader holds buffers of sixteen times this
_NO_SIGN: Final = "\x1f"  # unit separator: as delimiter of a file that has none


@dataclass(frozen=True)
class RawFile:
    """One file, read.

    Attributes
    ----------
    path
        The file.
    relation
        View of ``row_number`` and text columns ``c0``, ``c1``, …
    broken
        Table of ``row_number``, ``reason`` and ``line``: lines that are no rows.
    names
        The names of the columns, in order; repeated ones are numbered.
    rows
        Rows and broken lines together.
    empty_lines
        Lines passed over because there is nothing in them.
    undecodable
        Lines with bytes that are not of the encoding.
    encoding
        As declared; empty for Parquet.
    """

    path: Path
    relation: str
    broken: str
    names: tuple[str, ...]
    rows: int
    empty_lines: int = 0
    undecodable: int = 0
    encoding: str = ""

    def column(self, name: str, *, where: str) -> str:
        """Return the SQL column of a name; ConfigError that names the nearest if there is none."""
        if name not in self.names:
            raise ConfigError(
                f"expected a column {name!r} of {self.path} for {where}, found none; {nearest(name, self.names)}"
            )
        return f"c{self.names.index(name)}"


def open_file(
    con: duckdb.DuckDBPyConnection, name: str, path: Path, shape: FileShape, *, scratch: Path, where: str
) -> RawFile:
    """Read a file into relations ``raw_<name>`` and ``broken_<name>``.

    Parameters
    ----------
    con
        Connection, in UTC.
    name
        What the relations are called after.
    path
        CSV, Parquet or JSON lines.
    shape
        How it is written; ``encoding`` and ``delimiter`` filled in.
    scratch
        Folder for the rewritten file.
    where
        Where the map names the file, for messages.

    Raises
    ------
    ConfigError
        There is no such file or encoding, or most text is not of that encoding.
    DataError
        The file is empty or cannot be read.
    """
    if not path.is_file():
        near = (
            nearest(path.name, sorted(p.name for p in path.parent.iterdir())) if path.parent.is_dir() else ""
        )
        raise ConfigError(
            f"expected a file at {path} for {where}, found "
            f"{'a directory' if path.is_dir() else 'none'}; {near or 'give a path relative to the map'}"
        )
    if path.suffix.lower() in _NO_TABLES and shape.format is None:
        raise ConfigError(
            f"expected CSV, Parquet or JSON lines at {path} for {where}, found {path.suffix}; save it as CSV first"
        )
    kind = shape.format or _FORMATS.get(path.suffix.lower(), "csv")
    con.execute(f"CREATE TABLE broken_{name} ({ROW_NUMBER} BIGINT, {REASON} VARCHAR, line VARCHAR)")
    try:
        if kind == "parquet":
            return _parquet(con, name, path)
        return _text(con, name, path, shape, scratch=scratch, where=where, lines=kind == "jsonl")
    except (duckdb.Error, OSError, csv.Error) as error:
        found = str(error).strip().split("\n", 1)[0].rstrip(".")
        raise DataError(
            f"expected a readable {kind} file at {path}, found {found}; write it again"
        ) from error


def _parquet(con: duckdb.DuckDBPyConnection, name: str, path: Path) -> RawFile:
    rows = f"read_parquet({path_literal(str(path))}, file_row_number = true, binary_as_string = true)"
    stored = [(str(row[0]), str(row[1])) for row in con.execute(f"DESCRIBE FROM {rows}").fetchall()][:-1]
    # A file's own column of that name is hidden by the reader's; such a file says nothing else about its rows.
    columns = "".join(f", {text(quoted(column), kind)} AS c{i}" for i, (column, kind) in enumerate(stored))
    con.execute(f"CREATE VIEW raw_{name} AS SELECT file_row_number + 1 AS {ROW_NUMBER}{columns} FROM {rows}")
    return _counted(con, name, path, [column for column, _ in stored])


def _text(
    con: duckdb.DuckDBPyConnection,
    name: str,
    path: Path,
    shape: FileShape,
    *,
    scratch: Path,
    where: str,
    lines: bool,
) -> RawFile:
    plain = scratch / f"{name}.txt"
    quote = "" if lines else shape.quote
    rewritten = rewrite(path, plain, shape, quote=quote, where=where)
    if lines:
        delimiter, header, names = _NO_SIGN, False, ["line"]
    else:
        delimiter, header, names = _header(path, plain, shape)
    columns = ", ".join(f"c{i}: 'VARCHAR'" for i in range(len(names)))
    con.execute("DROP TABLE IF EXISTS reject_errors; DROP TABLE IF EXISTS reject_scans")
    reader = (
        f"read_csv({path_literal(str(plain))}, columns = {{{columns}}}, auto_detect = false, "
        f"header = {literal(header)}, delim = {literal(delimiter)}, quote = {literal(quote)}, "
        f"escape = {literal(quote)}, new_line = '\\n', max_line_size = {_LARGEST_LINE}, "
        "store_rejects = true, rejects_limit = 0)"
    )
    stored = scratch / f"{name}.parquet"
    con.execute(f"COPY (FROM {reader}) TO {literal(str(stored))} (FORMAT parquet, COMPRESSION zstd)")
    plain.unlink()
    _broken(con, name, path, header=header)
    _numbered(con, name, stored)
    if lines:
        names = _objects(con, name)
    return _counted(con, name, path, names, rewritten, shape.encoding or "")


def _numbered(con: duckdb.DuckDBPyConnection, name: str, stored: Path) -> None:
    """Create the view of the good rows with their numbers in the file, where broken lines take a number too."""
    rows = f"read_parquet({path_literal(str(stored))}, file_row_number = true)"
    good = f"SELECT file_row_number + 1 AS good, * EXCLUDE (file_row_number) FROM {rows}"
    # The n-th good row comes after all broken lines that have fewer than n good rows before them.
    con.execute(
        f"CREATE TABLE before_{name} AS SELECT {ROW_NUMBER} - rank AS before, max(rank) AS rank FROM "
        f"(SELECT {ROW_NUMBER}, row_number() OVER (ORDER BY {ROW_NUMBER}) AS rank FROM broken_{name}) GROUP BY 1"
    )
    found = con.execute(f"SELECT count(*) FROM before_{name}").fetchone()
    number, join = "good", ""
    if found and found[0]:
        number, join = "good + coalesce(rank, 0)", f" ASOF LEFT JOIN before_{name} ON good > before"
    con.execute(
        f"CREATE VIEW raw_{name} AS SELECT {number} AS {ROW_NUMBER}, COLUMNS('^c[0-9]+$') FROM ({good}){join}"
    )


def _counted(
    con: duckdb.DuckDBPyConnection,
    name: str,
    path: Path,
    names: Sequence[str],
    rewritten: Rewritten | None = None,
    encoding: str = "",
) -> RawFile:
    row = con.execute(
        f"SELECT (SELECT count(*) FROM raw_{name}) + (SELECT count(*) FROM broken_{name})"
    ).fetchone()
    seen = rewritten or Rewritten()
    return RawFile(
        path,
        f"raw_{name}",
        f"broken_{name}",
        tuple(_distinct(names)),
        int(row[0]) if row else 0,
        seen.empty_lines,
        seen.undecodable,
        encoding,
    )


def _distinct(names: Sequence[str]) -> Iterator[str]:
    """Number the names that occur several times, so that the map can say which is meant."""
    seen: dict[str, int] = {}
    for position, name in enumerate(names, start=1):
        plain = name.strip() or f"column {position}"
        seen[plain] = seen.get(plain, 0) + 1
        yield plain if list(names).count(name) == 1 else f"{plain} ({seen[plain]})"


def _header(path: Path, plain: Path, shape: FileShape) -> tuple[str, bool, list[str]]:
    """Return the delimiter, whether the first line is a header, and the names of the columns."""
    with plain.open(encoding="utf-8", newline="") as file:
        first = file.readline()
        if not first:
            raise DataError(
                f"expected a line of column names in {path}, found an empty file; write it again or "
                "leave its source out"
            )
        delimiter = shape.delimiter or max(",;\t|", key=first.count)
        file.seek(0)
        if len(delimiter) == 1:
            quoting = (
                {"quotechar": shape.quote} if shape.quote else {"quotechar": None, "quoting": csv.QUOTE_NONE}
            )
            fields = next(csv.reader(file, delimiter=delimiter, **quoting))
        else:
            fields = first.rstrip("\n").split(delimiter)
    if shape.header is True:
        return delimiter, True, fields
    if shape.header is False:
        return delimiter, False, [str(position) for position in range(1, len(fields) + 1)]
    return delimiter, False, list(shape.header)


def _objects(con: duckdb.DuckDBPyConnection, name: str) -> list[str]:
    """Replace the view of lines by one of their keys; lines that are no objects are broken."""
    con.execute(f"ALTER VIEW raw_{name} RENAME TO lines_{name}")
    con.execute(
        f"INSERT INTO broken_{name} SELECT {ROW_NUMBER}, 'no JSON object', c0 FROM lines_{name} "
        "WHERE TRY(json_type(c0)) IS DISTINCT FROM 'OBJECT'"
    )
    good = f"SELECT * FROM lines_{name} ANTI JOIN broken_{name} USING ({ROW_NUMBER})"
    keys = con.execute(
        f"SELECT DISTINCT unnest(TRY(json_keys(c0))) AS key FROM ({good}) ORDER BY key"
    ).fetchall()
    names = [str(key) for (key,) in keys]
    columns = "".join(
        f", TRY(json_extract_string(c0, {literal(_json_path(key))})) AS c{i}" for i, key in enumerate(names)
    )
    con.execute(f"CREATE VIEW raw_{name} AS SELECT {ROW_NUMBER}{columns} FROM ({good})")
    return names


def _json_path(key: str) -> str:
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    return f'$."{escaped}"'


def _broken(con: duckdb.DuckDBPyConnection, name: str, path: Path, *, header: bool) -> None:
    """Keep DuckDB's list of lines that are no rows; one that swallowed others is an error."""
    listed = con.execute(
        "SELECT line, min(error_type::VARCHAR), min(csv_line) FROM reject_errors GROUP BY line ORDER BY line"
    ).fetchall()
    for line, fault, content in listed:
        number = int(line) - header
        if fault == "UNQUOTED VALUE" and "\n" in str(content).strip("\n"):
            raise DataError(
                f"expected closed quotes in {path}, found one left open in row {number}, which swallows "
                "the rows after it; "
                'close it, or declare quote = "" if the file has no quotes'
            )
        reason = _FAULTS.get(fault, f"{str(fault).lower()} in the line")
        con.execute(
            f"INSERT INTO broken_{name} VALUES (?, ?, ?)", [number, reason, str(content).rstrip("\n")]
        )
