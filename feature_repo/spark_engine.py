"""The same expressions on Spark, for histories that outgrow one machine.

The tables are read and checked by DuckDB as always, which streams, and handed over as Parquet; staging and
snapshots, which sort and join, run on Spark. What it writes is brought into the form that DuckDB writes, so that
nobody behind can tell which engine made a view. Needs the extra ``spark`` and Java 17.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import ibis
import ibis.expr.datatypes as dt

from feature_repo import schema as s
from feature_repo.casts import literal, quoted
from feature_repo.engine import Snapshot
from feature_repo.errors import ConfigError
from feature_repo.recent import to_micros
from feature_repo.tables import Tables, write_parquet

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_READ: Final = (s.INTERACTIONS, s.PRODUCTS, s.CUSTOMERS, s.MEASURES)
#: Spark's master where no session runs yet: this machine, all cores.
MASTER: Final = "local[*]"


@ibis.udf.scalar.builtin(name="unix_micros", signature=((dt.timestamp,), dt.int64))  # type: ignore[untyped-decorator]
def _spark_micros(at: Any) -> Any:
    """Turn a timestamp into microseconds since 1970, exactly."""


@ibis.udf.scalar.builtin(name="timestamp_micros", signature=((dt.int64,), dt.timestamp))  # type: ignore[untyped-decorator]
def _spark_timestamp(micros: Any) -> Any:
    """Turn microseconds since 1970 into a timestamp, exactly."""


def spark_session(scratch: Path) -> tuple[SparkSession, bool]:
    """Return the running Spark session, or start one (on this machine unless SPARK_MASTER names another).

    The second value says whether it was started here.

    Raises
    ------
    ConfigError
        There is no pyspark, no Java, or the session does not start.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise ConfigError(
            "expected pyspark for the engine spark, found none; pip install -e '.[spark]' where the project lies"
        ) from error
    running = SparkSession.getActiveSession()
    if running is None and not (os.environ.get("JAVA_HOME") or shutil.which("java")):
        raise ConfigError("expected Java 17 for the engine spark, found none; install it or set JAVA_HOME")
    try:
        session = running or (
            SparkSession.builder.master(os.environ.get("SPARK_MASTER", MASTER))
            .appName("nextbest-features")
            .config("spark.ui.enabled", "false")
            .config("spark.ui.showConsoleProgress", "false")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.sql.warehouse.dir", str(scratch / "warehouse"))
            .config("spark.sql.shuffle.partitions", str(2 * (os.cpu_count() or 1)))
            .getOrCreate()
        )
    except Exception as error:
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(
            f"expected a Spark session to start, found: {told[0]}; check Java and SPARK_MASTER"
        ) from error
    if running is None:
        session.sparkContext.setLogLevel("ERROR")
    for name, value in {
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.ansi.enabled": "false",  # as in DuckDB, what cannot be computed is null
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.sql.adaptive.enabled": "true",
    }.items():
        session.conf.set(name, value)
    return session, running is None


class SparkEngine:
    """Spark, in the session that runs or in one on this machine; see ``Engine``."""

    def __init__(self, tables: Tables, scratch: Path) -> None:
        self.tables = tables
        self._scratch = scratch
        scratch.mkdir(parents=True, exist_ok=True)
        self._spark, self._started = spark_session(scratch)
        self._ibis = ibis.pyspark.connect(self._spark)
        self._tables = {name: self._handed_over(name) for name in _READ if tables.has(name)}

    def _handed_over(self, name: str) -> Any:
        columns = []
        for column, dtype in self.tables.table(name).schema().items():
            instant = dtype.is_timestamp()
            columns.append(
                f"{quoted(column)} AT TIME ZONE 'UTC' AS {quoted(column)}" if instant else quoted(column)
            )
        path = self._scratch / f"{name}.parquet"
        write_parquet(self.tables.con, f"SELECT {', '.join(columns)} FROM {quoted(name)}", path)
        return self.view(f"shop_{name}", path)

    def table(self, name: str) -> Any:
        """See ``Engine``."""
        return self._tables[name]

    def micros(self, at: Any) -> Any:
        """See ``Engine``."""
        return _spark_micros(at)

    def timestamp(self, micros: Any) -> Any:
        """See ``Engine``."""
        return _spark_timestamp(micros)

    def stage(self, rows: Any, name: str) -> Any:
        """See ``Engine``."""
        folder = self._scratch / f"staged_{name}"
        self._run(rows, folder)
        return self.view(folder.name, folder)

    def write(self, rows: Any, path: Path) -> None:
        """See ``Engine``; in the order of the first column and the instant, instants without zone."""
        folder = self._scratch / "written"
        self._run(rows, folder)
        part = literal(str(folder / "*.parquet"))
        query = (
            f"SELECT * REPLACE ({s.EVENT_TIMESTAMP} AT TIME ZONE 'UTC' AS {s.EVENT_TIMESTAMP}) "
            f"FROM read_parquet({part}) ORDER BY 1, {s.EVENT_TIMESTAMP}"
        )
        write_parquet(self.tables.con, query, path)
        shutil.rmtree(folder)

    def _run(self, rows: Any, folder: Path) -> None:
        query = self._ibis.compile(rows)
        self._spark.sql(query).write.mode("overwrite").option("compression", "zstd").parquet(str(folder))

    def view(self, name: str, path: Path) -> Any:
        """See ``Engine``."""
        self._spark.read.parquet(str(path)).createOrReplaceTempView(name)
        return self._ibis.table(name)

    def writer(self, snapshot: Snapshot) -> Callable[[datetime, Path], None]:
        """See ``Engine``; the instant is a number in the query, compiled anew for each."""

        def write(instant: datetime, path: Path) -> None:
            self.write(snapshot(ibis.literal(to_micros(instant), "int64")), path)

        return write

    def close(self) -> None:
        """See ``Engine``; a session that ran before goes on running."""
        if self._started:
            self._spark.stop()
        shutil.rmtree(self._scratch, ignore_errors=True)
