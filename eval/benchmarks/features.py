"""What the feature store costs: the point-in-time join, materialising, and the build by size.

Each pair of sides takes turns in one run on the same rows; medians and all rounds are told. The join is held
against Feast's own DuckDB store and against a bare ASOF join as the floor; materialising against Feast's own
on the same store; the build is shown for growing histories, to see that it stays linear.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Any, Final

import duckdb
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.repo_config import RepoConfig
from feast.types import Float64, String

from eval.redis_server import redis_server
from feature_repo import schema as s
from feature_repo.bulk import write_rows
from feature_repo.store import OFFLINE_STORE
from serving.errors import ConfigError

Progress = Callable[[str, int, int], None]

AS_OF: Final = datetime(2026, 1, 5, tzinfo=UTC)
_VIEW: Final = "measured"


def pit_join(*, keys: int, features: int, snapshots: int, rounds: int, progress: Progress) -> dict[str, Any]:
    """Time the point-in-time join of ``keys`` rows × ``features`` over ``snapshots`` rows."""
    generator = np.random.default_rng(0)
    weeks = 50
    customers = max(snapshots // weeks, 1)
    times: dict[str, list[float]] = {"ours": [], "feast_duckdb": [], "asof_floor": []}
    peaks: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="nextbest-benchmark-") as name:
        directory = Path(name)
        rows = _numbers(generator, customers * weeks, features)
        rows.insert(0, s.EVENT_TIMESTAMP, np.tile(_weeks(weeks), customers))
        rows.insert(0, s.CUSTOMER_ID, np.repeat([f"c{n:07d}" for n in range(customers)], weeks))
        rows.to_parquet(directory / "rows.parquet", index=False)
        asked = pd.DataFrame({s.CUSTOMER_ID: [f"c{n:07d}" for n in generator.integers(0, customers, keys)]})
        seconds = generator.integers(0, weeks * 7 * 86_400, keys)
        start = pd.Timestamp(AS_OF) - pd.Timedelta(weeks=weeks - 2)
        asked[s.EVENT_TIMESTAMP] = start + pd.to_timedelta(seconds, unit="s")
        asked[s.ROW_ID] = np.arange(keys)
        names = [f"{_VIEW}:x{n}" for n in range(features)]
        stores = {
            "ours": _store(directory, "ours", OFFLINE_STORE),
            "feast_duckdb": _store(directory, "feast", "duckdb"),
        }

        def joined(side: str) -> pd.DataFrame:
            if side not in stores:
                return _floor(directory / "rows.parquet", asked, features)
            frame: pd.DataFrame = stores[side].get_historical_features(asked, names).to_df()
            return frame

        for number in range(1, rounds + 1):
            found: dict[str, pd.DataFrame] = {}
            for side in times:
                peak, seconds_taken, found[side] = _measured(partial(joined, side))
                times[side].append(seconds_taken)
                peaks[side] = max(peaks.get(side, 0.0), peak)
            _check_same(found)
            progress("point-in-time join", number, rounds)
    medians = {side: median(taken) for side, taken in times.items()}
    return {
        **{f"{side}_s": round(value, 3) for side, value in medians.items()},
        "speedup": round(medians["feast_duckdb"] / medians["ours"], 2),
        "extra_memory_mb": {side: round(peak) for side, peak in peaks.items()},
        "rounds_s": {side: [round(value, 3) for value in taken] for side, taken in times.items()},
        "keys": keys,
        "features": features,
        "snapshots": customers * weeks,
    }


def materialise(*, rows: int, features: int, rounds: int, progress: Progress) -> dict[str, Any]:
    """Time bringing ``rows`` rows × ``features`` online, beside Feast's own, on SQLite and on Redis."""
    generator = np.random.default_rng(1)
    result: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory(prefix="nextbest-benchmark-") as name,
        redis_server(Path(name), appendonly="no") as server,
    ):
        frame = _numbers(generator, rows, features)
        frame.insert(0, s.EVENT_TIMESTAMP, pd.Timestamp(AS_OF).tz_localize(None))
        frame.insert(0, s.CUSTOMER_ID, [f"c{n:07d}" for n in range(rows)])
        frame.to_parquet(Path(name) / "rows.parquet", index=False)
        for kind in ("sqlite", "redis"):
            times: dict[str, list[float]] = {"ours": [], "feast": []}
            for number in range(1, rounds + 1):
                for side in times:
                    label = f"{kind}{side}{number}"
                    online = (
                        {"type": "sqlite", "path": str(Path(name) / f"{label}.online")}
                        if kind == "sqlite"
                        else {"type": "redis", "connection_string": f"127.0.0.1:{server.port}"}
                    )
                    store = _store(Path(name), label, OFFLINE_STORE, online)
                    began = time.perf_counter()
                    if side == "ours":
                        read = pd.read_parquet(Path(name) / "rows.parquet")
                        write_rows(store, store.get_feature_view(_VIEW), read, [AS_OF] * len(read))
                    else:
                        with contextlib.redirect_stdout(io.StringIO()):
                            store.materialize(AS_OF - timedelta(seconds=1), AS_OF)
                    times[side].append(time.perf_counter() - began)
                progress(f"materialise to {kind}", number, rounds)
            ours, feast = median(times["ours"]), median(times["feast"])
            result |= {
                f"{kind}_s": round(ours, 3),
                f"{kind}_feast_s": round(feast, 3),
                f"{kind}_speedup": round(feast / ours, 2),
                f"{kind}_rounds_s": {side: [round(t, 3) for t in taken] for side, taken in times.items()},
            }
    return {**result, "rows": rows, "features": features}


def build_sizes(interactions: Sequence[int], *, progress: Progress) -> list[dict[str, Any]]:
    """Time the feature build, weekly for a year, at each number of interactions, in a process of its own."""
    result = []
    for number, size in enumerate(interactions, start=1):
        with tempfile.TemporaryDirectory(prefix="nextbest-benchmark-") as name:
            directory = Path(name)
            _write_history(directory / "tables", size)
            script = (
                "import re, sys, time; from pathlib import Path; "
                "from feature_repo.tables import Tables; from feature_repo.build import build; "
                "began = time.perf_counter(); "
                "tables = Tables.open(Path(sys.argv[1]), memory_limit='4GB'); "
                "build(tables, Path(sys.argv[2])); tables.close(); "
                # not getrusage: its maximum is inherited from the process that started this one
                "peak = re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]; "
                "print(time.perf_counter() - began, int(peak) / 1024)"
            )
            done = subprocess.run(
                [
                    sys.executable,
                    "-W",
                    "ignore",
                    "-c",
                    script,
                    str(directory / "tables"),
                    str(directory / "out"),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                told = (done.stderr.strip().splitlines() or ["nothing"])[-1]
                raise ConfigError(f"expected the build of {size:,} interactions to end well, found: {told}")
            seconds, peak = map(float, done.stdout.split()[-2:])
            result.append({"interactions": size, "seconds": round(seconds, 1), "peak_rss_mb": round(peak)})
        progress("build", number, len(interactions))
    return result


def _numbers(generator: np.random.Generator, rows: int, features: int) -> pd.DataFrame:
    return pd.DataFrame({f"x{n}": generator.normal(size=rows) for n in range(features)})


def _weeks(count: int) -> pd.DatetimeIndex:
    return pd.date_range(end=pd.Timestamp(AS_OF).tz_localize(None), periods=count, freq="7D", unit="us")


def _store(directory: Path, name: str, offline: str, online: dict[str, str] | None = None) -> FeatureStore:
    rows = directory / "rows.parquet"
    columns = [column for column in pd.read_parquet(rows).columns if column.startswith("x")]
    store = FeatureStore(
        config=RepoConfig(
            project=name,
            provider="local",
            registry={"path": str(directory / f"{name}.db"), "cache_ttl_seconds": 0},
            online_store=online or {"type": "sqlite", "path": str(directory / f"{name}.online")},
            offline_store={"type": offline},
            entity_key_serialization_version=3,
        )
    )
    customer = Entity(name="customer", join_keys=[s.CUSTOMER_ID], value_type=ValueType.STRING)
    view = FeatureView(
        name=_VIEW,
        entities=[customer],
        schema=[Field(name=s.CUSTOMER_ID, dtype=String), *(Field(name=c, dtype=Float64) for c in columns)],
        source=FileSource(name="rows", path=str(rows), timestamp_field=s.EVENT_TIMESTAMP),
        ttl=None,
    )
    store.apply([customer, view])
    return store


def _floor(rows: Path, asked: pd.DataFrame, features: int) -> pd.DataFrame:
    """The bare ASOF join of DuckDB, ordered by row."""
    wanted = ", ".join(f"f.x{n}" for n in range(features))
    with duckdb.connect() as con:
        con.execute("SET threads = 2; SET TimeZone = 'UTC'; SET asof_loop_join_threshold = 0")
        con.register("keys", pa.Table.from_pandas(asked, preserve_index=False))
        found: pd.DataFrame = con.execute(
            f"SELECT k.{s.ROW_ID}, {wanted} FROM keys k ASOF LEFT JOIN read_parquet('{rows}') f "
            f"ON k.{s.CUSTOMER_ID} = f.{s.CUSTOMER_ID} "
            f"AND CAST(k.{s.EVENT_TIMESTAMP} AS TIMESTAMP) >= f.{s.EVENT_TIMESTAMP} ORDER BY k.{s.ROW_ID}"
        ).df()
    return found


def _measured(run: Callable[[], pd.DataFrame]) -> tuple[float, float, pd.DataFrame]:
    """Return (memory taken beyond what there was, in MB; seconds; result) of a call."""
    process = psutil.Process()
    before = process.memory_info().rss
    peak = [before]
    ended = Event()

    def watch() -> None:
        while not ended.wait(0.02):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    began = time.perf_counter()
    found = run()
    seconds = time.perf_counter() - began
    ended.set()
    watcher.join()
    return (peak[0] - before) / 2**20, seconds, found


def _check_same(found: dict[str, pd.DataFrame]) -> None:
    ordered = {side: rows.sort_values(s.ROW_ID).reset_index(drop=True) for side, rows in found.items()}
    for side, rows in ordered.items():
        for name in [column for column in rows.columns if column.startswith("x")]:
            if not np.array_equal(rows[name].to_numpy(), ordered["ours"][name].to_numpy(), equal_nan=True):
                raise ConfigError(f"expected the same rows of every side, found {side} to differ in {name}")


def _write_history(directory: Path, size: int) -> None:
    """Write a year of ``size`` interactions of size / 20 customers with 20,000 products, without pandas."""
    directory.mkdir(parents=True)
    customers, products = max(size // 20, 1), 20_000
    micros = int(AS_OF.timestamp() * 1e6)
    with duckdb.connect() as con:
        con.execute("SET threads = 2; SELECT setseed(0.5)")
        con.execute(
            f"COPY (SELECT 'c' || lpad(CAST(CAST(floor(random() * {customers}) AS BIGINT) AS VARCHAR), 8, '0') "
            f"AS {s.CUSTOMER_ID}, 'p' || CAST(CAST(floor(pow(random(), 3) * {products}) AS BIGINT) AS VARCHAR) "
            f'AS {s.PRODUCT_ID}, make_timestamptz({micros} - CAST(random() * 31536000000000 AS BIGINT)) AS "at", '
            f"CASE WHEN random() < 0.7 THEN 'view' ELSE 'purchase' END AS {s.KIND}, 1.0 AS {s.QUANTITY}, "
            f"round(random() * 100, 2) AS {s.VALUE} FROM range({size})) "
            f"TO '{directory / 'interactions.parquet'}' (FORMAT parquet)"
        )
        con.execute(
            f"COPY (SELECT 'p' || range AS {s.PRODUCT_ID}, 'category ' || (range % 40) AS {s.CATEGORY} "
            f"FROM range({products})) TO '{directory / 'products.parquet'}' (FORMAT parquet)"
        )
