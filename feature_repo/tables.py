"""One directory of input tables, read once and the same way by everything that reads them.

``Tables.open`` puts DuckDB views over the files, so that twenty million rows are a query and not a
DataFrame. For each table present there are five:

* ``<name>``             canonical: every column of the schema, typed, defaults filled, usable rows only;
* ``typed_<name>``       every row of the file with ``row_number``, typed, NULL where empty or unreadable;
* ``unreadable_<name>``  true where a value is there but could not be read as its type;
* ``rejected_<name>``    the rows left out of the canonical view, as they stand in the file, with the reason;
* ``raw_<name>``         the file as it is, with ``row_number`` (1-based data row).

CSV files are converted once, on opening, to text columns in a temporary folder. Deliberately absent:
judgement of the content (``feature_repo.validate``) and any write but ``write_tables``/``write_query``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import ibis
import pandas as pd

from feature_repo.casts import dtype_of, literal, quoted
from feature_repo.declared import DECLARATIONS
from feature_repo.errors import ConfigError, DataError
from feature_repo.schema import AT, INTERACTIONS, TABLES, DType, Table
from feature_repo.views import Malformed, create_views, match_columns, read_file, typed_columns

__all__ = ["Tables", "connect", "write_parquet", "write_query", "write_tables"]

_FORMATS = ("parquet", "csv")


class Tables:
    """Typed views over a directory of ``<table>.parquet`` or ``<table>.csv`` files.

    Attributes
    ----------
    directory
        The directory that was opened.
    con
        The DuckDB connection (in memory, TimeZone UTC) that holds the views.
    ibis
        An Ibis connection over the same DuckDB connection.
    files
        Table name → file.
    problems
        Table name → what is wrong with it; empty unless opened with ``strict=False``.
    malformed
        Table name → CSV lines that are not rows.
    """

    def __init__(
        self, directory: Path, con: duckdb.DuckDBPyConnection, scratch: tempfile.TemporaryDirectory[str]
    ) -> None:
        self.directory = directory
        self.con = con
        self.ibis: Any = ibis.duckdb.from_connection(con)
        self.files: dict[str, Path] = {}
        self.problems: dict[str, str] = {}
        self.malformed: dict[str, Malformed] = {}
        self._attributes: dict[str, dict[str, DType]] = {}
        self._scratch = scratch

    @classmethod
    def open(
        cls, directory: str | Path, *, memory_limit: str = "1GB", threads: int = 2, strict: bool = True
    ) -> Tables:
        """Open the tables of ``directory``.

        Parameters
        ----------
        directory
            Folder holding at least ``interactions`` and ``products``.
        memory_limit
            What DuckDB may hold in memory; more is spilled to a temporary folder.
        threads
            Threads of DuckDB.
        strict
            Raise at the first table that breaks the contract; otherwise leave it out and say so in
            ``problems`` (as ``validate`` does).

        Raises
        ------
        DataError
            The directory, a required table or a required column is missing, or a file cannot be read.
        """
        path = Path(directory)
        if not path.is_dir():
            found = "a file" if path.exists() else "nothing"
            raise DataError(
                f"expected a directory of tables at {path}, found {found}; "
                "create it with `nextbest import` or give the folder that holds interactions.parquet"
            )
        scratch = tempfile.TemporaryDirectory(prefix="nextbest-tables-", ignore_cleanup_errors=True)
        tables = cls(path, connect(scratch.name, memory_limit=memory_limit, threads=threads), scratch)
        try:
            for spec in TABLES.values():
                tables._add(spec, strict=strict)
        except BaseException:
            tables.close()
            raise
        return tables

    def close(self) -> None:
        """Close the connection and remove the temporary files."""
        self.con.close()
        self._scratch.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def has(self, name: str) -> bool:
        """Return whether the table is there and readable."""
        return name in self._attributes

    def table(self, name: str) -> Any:
        """Return the canonical table as an Ibis expression; DataError if it is not there."""
        self._require(name)
        return self.ibis.table(name)

    def frame(self, name: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the canonical table as a DataFrame.

        Parameters
        ----------
        name
            Name of the table.
        columns
            Which columns, in which order; all by default.

        Returns
        -------
        DataFrame
            Times as ``datetime64[us, UTC]``, text as ``object``.

        Raises
        ------
        DataError
            The table or one of the columns is not there.
        """
        dtypes = self._dtypes(name)
        wanted = list(dtypes) if columns is None else list(columns)
        if missing := [column for column in wanted if column not in dtypes]:
            raise DataError(f"expected column(s) {', '.join(missing)} in {name}, found {', '.join(dtypes)}")
        names = ", ".join(quoted(column) for column in wanted)
        frame: pd.DataFrame = self.con.execute(f"SELECT {names} FROM {quoted(name)}").df()
        for column in wanted:
            if dtypes[column] == "timestamp":
                frame[column] = frame[column].astype("datetime64[us]").dt.tz_localize("UTC")
        return frame

    def attributes(self, name: str) -> dict[str, DType]:
        """Return the extra columns of an open table and their types, in file order."""
        self._require(name)
        return dict(self._attributes[name])

    def rows(self, name: str) -> int:
        """Return the number of usable rows of a table."""
        self._require(name)
        return int(self._one(f"SELECT count(*) FROM {quoted(name)}")[0])

    def hashes(self) -> dict[str, str]:
        """Return file name → sha256 of its bytes, for every table file and what is declared about them."""
        digests = {}
        declared = self.directory / DECLARATIONS
        for path in [*self.files.values(), *([declared] if declared.is_file() else [])]:
            with path.open("rb") as file:
                digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        return dict(sorted(digests.items()))

    def hash(self) -> str:
        """Return one sha256 over the names and contents of all table files."""
        lines = "".join(f"{digest}  {name}\n" for name, digest in self.hashes().items())
        return hashlib.sha256(lines.encode()).hexdigest()

    def span(self) -> tuple[datetime, datetime]:
        """Return the first and the last instant of the interactions (UTC); DataError if there are none."""
        self._require(INTERACTIONS)
        at = quoted(AT)
        first, last = self._one(f"SELECT min({at}), max({at}) FROM {INTERACTIONS}")
        if first is None:
            raise DataError(
                f"expected usable rows in {self.files[INTERACTIONS]}, found none; "
                f"`nextbest validate {self.directory}` lists what was rejected and why"
            )
        return first.replace(tzinfo=UTC), last.replace(tzinfo=UTC)

    def _one(self, sql: str) -> tuple[Any, ...]:
        row = self.con.execute(sql).fetchone()
        assert row is not None  # an aggregate always has one row
        return tuple(row)

    def _require(self, name: str) -> None:
        if not self.has(name):
            raise DataError(
                f"expected a table {name} in {self.directory}, found "
                f"{', '.join(self._attributes) or 'no tables'}; add {name}.parquet or {name}.csv"
            )

    def _dtypes(self, name: str) -> dict[str, DType]:
        self._require(name)
        return {column.name: column.dtype for column in TABLES[name].columns} | self._attributes[name]

    def _add(self, spec: Table, *, strict: bool) -> None:
        try:
            path = find_file(self.directory, spec.name)
            if path is not None:
                self.files[spec.name] = path
                scratch = Path(self._scratch.name)
                self.malformed[spec.name] = read_file(self.con, spec.name, path, scratch=scratch)
                infer = path.suffix == ".csv"
                self._attributes[spec.name] = create_views(self.con, spec, path=path, infer=infer)
            elif spec.required:
                raise DataError(
                    f"expected {spec.name}.parquet or {spec.name}.csv in {self.directory}, found neither; "
                    "every directory of tables needs it"
                )
        except DataError as error:
            if strict:
                raise
            self.problems[spec.name] = str(error)


def connect(scratch: str | Path, *, memory_limit: str = "1GB", threads: int = 2) -> duckdb.DuckDBPyConnection:
    """Return an in-memory DuckDB connection in UTC that spills to ``scratch``."""
    con = duckdb.connect()
    try:
        con.execute("SET TimeZone = 'UTC'")
        con.execute(f"SET memory_limit = {literal(memory_limit)}")
        con.execute(f"SET threads = {int(threads)}")
        con.execute(f"SET temp_directory = {literal(str(scratch))}")
        # a notebook's kernel may lack what the bar is drawn with, and then refuses to be asked
        with contextlib.suppress(duckdb.InvalidInputException):
            con.execute("SET enable_progress_bar = false")
    except duckdb.Error as error:
        con.close()
        found = f"{memory_limit!r} and {threads}"
        raise ConfigError(
            f"expected a memory limit such as 1GB and 1 or more threads, found {found}"
        ) from error
    return con


def find_file(directory: Path, name: str) -> Path | None:
    """Return the file of a table, None if there is none; DataError if there are two."""
    found = [path for suffix in _FORMATS if (path := directory / f"{name}.{suffix}").is_file()]
    if len(found) > 1:
        raise DataError(f"expected one file for {name}, found {found[0]} and {found[1]}; remove one of them")
    return found[0] if found else None


def write_tables(frames: Mapping[str, pd.DataFrame], directory: str | Path) -> dict[str, Path]:
    """Write canonical Parquet files, each in one step: a reader sees the old file or the new one.

    Parameters
    ----------
    frames
        Table name → rows. Optional columns may be missing and stay so; extra columns are kept in open
        tables.
    directory
        Where to; made if missing.

    Returns
    -------
    dict
        Table name → file.

    Raises
    ------
    DataError
        Unknown table, missing required column, an extra column in a closed table, or a CSV file of the
        same table lies there already.
    """
    with tempfile.TemporaryDirectory(prefix="nextbest-tables-") as scratch:
        con = connect(scratch)
        try:
            written = {}
            for name, frame in frames.items():
                nothing = [
                    column for column in frame if frame[column].dtype == object and frame[column].isna().all()
                ]
                con.register("frame", frame.astype(dict.fromkeys(nothing, "string")))
                written[name] = write_query(con, "SELECT * FROM frame", name, directory)
                con.unregister("frame")
            return written
        finally:
            con.close()


def write_query(con: duckdb.DuckDBPyConnection, query: str, name: str, directory: str | Path) -> Path:
    """Write the rows of an SQL query as the canonical Parquet file of a table; see ``write_tables``.

    The rows go from DuckDB to the file without passing through Python.
    """
    spec = TABLES.get(name)
    if spec is None:
        raise DataError(f"expected one of the tables {', '.join(TABLES)}, found {name}")
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    if (other := folder / f"{name}.csv").exists():
        raise DataError(f"expected no other file for {name} in {folder}, found {other}; remove it first")
    stored = {str(row[0]): str(row[1]) for row in con.execute(f"DESCRIBE {query}").fetchall()}
    sources = match_columns(spec, stored, path=folder / f"{name}.parquet")
    if extra := [column for column in stored if column not in sources]:
        raise DataError(
            f"expected columns of {name} ({', '.join(spec.names)}), found also {', '.join(extra)}"
        )
    attributes = {
        column: dtype_of(source.sql_type) for column, source in sources.items() if column not in spec.names
    }
    columns = []
    for column, (expression, dtype) in typed_columns(spec, sources, attributes).items():
        if column in sources:
            instant = f"({expression}) AT TIME ZONE 'UTC'" if dtype == "timestamp" else expression
            columns.append(f"{instant} AS {quoted(column)}")
    return write_parquet(con, f"SELECT {', '.join(columns)} FROM ({query})", folder / f"{name}.parquet")


def write_parquet(con: duckdb.DuckDBPyConnection, query: str, target: Path) -> Path:
    """Write the rows of an SQL query to ``target``: to a file beside it first, then renamed."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        con.execute(f"COPY ({query}) TO {literal(str(partial))} (FORMAT parquet, COMPRESSION zstd)")
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target
