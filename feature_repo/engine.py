"""Where the expressions of the features run: DuckDB on one machine, or Spark when data outgrows it.

The expressions are Ibis and the same for both. An engine gives the tables, keeps what was staged, and writes
Parquet; only time (instants are int64 microseconds inside) needs a function of each engine's own.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

import ibis
import ibis.expr.datatypes as dt

from feature_repo.casts import literal
from feature_repo.recent import to_micros
from feature_repo.tables import Tables

_INSTANT: Final = "as_of_us"

Snapshot = Callable[[Any], Any]
"""Takes an instant (Ibis int64, microseconds since 1970), returns the rows of a view at that instant."""


@ibis.udf.scalar.builtin(name="epoch_us", signature=((dt.timestamp,), dt.int64))  # type: ignore[untyped-decorator]
def _duckdb_micros(at: Any) -> Any:
    """Turn a timestamp into microseconds since 1970, exactly."""


@ibis.udf.scalar.builtin(name="make_timestamp", signature=((dt.int64,), dt.timestamp))  # type: ignore[untyped-decorator]
def _duckdb_timestamp(micros: Any) -> Any:
    """Turn microseconds since 1970 into a timestamp, exactly."""


@ibis.udf.scalar.builtin(name=_INSTANT, signature=((), dt.int64))  # type: ignore[untyped-decorator]
def _duckdb_instant() -> Any:
    """Return the instant of the snapshot being made, a macro over a variable of the session."""


class Engine(Protocol):
    """Evaluates Ibis expressions over the tables of one shop."""

    tables: Tables

    def table(self, name: str) -> Any:
        """Return the canonical table called ``name``."""
        ...

    def micros(self, at: Any) -> Any:
        """Turn a timestamp (UTC) into microseconds since 1970."""
        ...

    def timestamp(self, micros: Any) -> Any:
        """Turn microseconds since 1970 into a timestamp (UTC, without zone)."""
        ...

    def stage(self, rows: Any, name: str) -> Any:
        """Evaluate ``rows`` once, keep them in a scratch folder, and return them as a table."""
        ...

    def write(self, rows: Any, path: Path) -> None:
        """Write ``rows`` to one Parquet file."""
        ...

    def view(self, name: str, path: Path) -> Any:
        """Return a Parquet file as the table ``name``; a later call points the same table elsewhere."""
        ...

    def writer(self, snapshot: Snapshot) -> Callable[[datetime, Path], None]:
        """Return what writes ``snapshot`` at an instant to a file; made ready once, used for every instant."""
        ...

    def close(self) -> None:
        """Remove what was staged."""
        ...


class DuckDBEngine:
    """DuckDB, on the connection of the opened tables; staged rows lie in Parquet files in ``scratch``."""

    def __init__(self, tables: Tables, scratch: Path) -> None:
        self.tables = tables
        self._scratch = scratch
        tables.con.execute(f"CREATE OR REPLACE TEMP MACRO {_INSTANT}() AS getvariable('{_INSTANT}')")
        scratch.mkdir(parents=True, exist_ok=True)

    def table(self, name: str) -> Any:
        """See ``Engine``."""
        return self.tables.table(name)

    def micros(self, at: Any) -> Any:
        """See ``Engine``."""
        return _duckdb_micros(at)

    def timestamp(self, micros: Any) -> Any:
        """See ``Engine``."""
        return _duckdb_timestamp(micros)

    def stage(self, rows: Any, name: str) -> Any:
        """See ``Engine``."""
        path = self._scratch / f"{name}.parquet"
        self.write(rows, path)
        return self.view(f"staged_{name}", path)

    def write(self, rows: Any, path: Path) -> None:
        """See ``Engine``."""
        self._copy(self.tables.ibis.compile(rows), path)

    def view(self, name: str, path: Path) -> Any:
        """See ``Engine``."""
        self.tables.con.execute(f"CREATE OR REPLACE VIEW {name} AS FROM read_parquet({literal(str(path))})")
        return self.tables.ibis.table(name)

    def writer(self, snapshot: Snapshot) -> Callable[[datetime, Path], None]:
        """See ``Engine``; compiled once, the instant is a variable of the session."""
        query = self.tables.ibis.compile(snapshot(_duckdb_instant()))

        def write(instant: datetime, path: Path) -> None:
            self.tables.con.execute(f"SET VARIABLE {_INSTANT} = {to_micros(instant)}::BIGINT")
            self._copy(query, path)

        return write

    def _copy(self, query: str, path: Path) -> None:
        target = literal(str(path))
        self.tables.con.execute(f"COPY ({query}) TO {target} (FORMAT parquet, COMPRESSION zstd)")

    def close(self) -> None:
        """See ``Engine``."""
        shutil.rmtree(self._scratch, ignore_errors=True)
