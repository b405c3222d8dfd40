"""The benchmarks measure what they say, on sizes small enough for a test."""

from __future__ import annotations

import pytest

from eval.benchmarks.features import build_sizes, materialise, pit_join


def silent(what: str, done: int, total: int) -> None:
    pass


@pytest.mark.slow
def test_features_benchmark_compares_equal_work() -> None:
    """The join refuses to report when the sides differ; the shape of the answer is the contract's."""
    join = pit_join(keys=2000, features=3, snapshots=1000, rounds=1, progress=silent)
    assert {"ours_s", "feast_duckdb_s", "asof_floor_s", "speedup"} <= join.keys()
    assert join["speedup"] == pytest.approx(join["feast_duckdb_s"] / join["ours_s"], rel=0.05)
    online = materialise(rows=200, features=3, rounds=1, progress=silent)
    assert {"sqlite_speedup", "redis_speedup"} <= online.keys()
    build = build_sizes([5000], progress=silent)
    assert build[0]["interactions"] == 5000
    assert build[0]["seconds"] > 0
    assert build[0]["peak_rss_mb"] > 50
