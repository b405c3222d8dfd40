"""What the simulated world costs to make and write, and how its sales compare with a real shop's.

Each measurement runs in a process of its own, so that the peak of memory is the world's alone. Deliberately
absent: models; the statistics were fitted before any was judged on the world.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from eval.world import TABLES_WRITTEN, WorldConfig, simulate
from eval.world_fit import compare, table, world_statistics
from serving.errors import NextbestError

ONLINE_RETAIL_SIZE: Final = {"customers": 5800, "products": 3700, "months": 12}
"""A world of this size has about as many buyers, products sold and days as Online Retail."""
SCALE: Final = {"customers": 100_000, "products": 20_000, "months": 6, "views_per_visit": 13.0}
"""About five million interactions; visits are shorter than fitted, as in a shop of consumers."""


def benchmark_world(config: WorldConfig, *, online_retail: str | Path | None = None) -> dict[str, Any]:
    """Make and write one world in a process of its own and measure it.

    Parameters
    ----------
    config
        The world.
    online_retail
        Directory of tables to compare with, as ``nextbest import online-retail`` writes them.

    Returns
    -------
    dict
        Ready for JSON: ``size`` (customers, products, months and rows of each table), ``seconds``
        (``simulate``, ``write``), ``peak_rss_mb``, ``statistics``, ``online_retail`` (the other shop's
        statistics, or None), ``comparison`` (a line a statistic) and ``table`` (Markdown), both None without
        ``online_retail``.

    Raises
    ------
    NextbestError
        The process that makes the world failed.
    DataError
        The tables to compare with cannot be read.
    """
    theirs = None if online_retail is None else world_statistics(online_retail)
    with tempfile.TemporaryDirectory(prefix="nextbest-world-") as scratch:
        told = _in_own_process(config, Path(scratch))
        tables = Path(scratch) / "tables"
        ours = world_statistics(tables)
        rows = {
            name: pq.read_metadata(path).num_rows
            for name in TABLES_WRITTEN
            if (path := tables / f"{name}.parquet").exists()
        }
    size = {"customers": config.customers, "products": config.products, "months": config.months, "rows": rows}
    lines = None if theirs is None else compare(ours, theirs)
    return {
        "size": size,
        "seed": config.seed,
        **told,
        "statistics": ours,
        "online_retail": theirs,
        "comparison": None if lines is None else [asdict(line) for line in lines],
        "table": None if lines is None else table(lines, names=("world", Path(str(online_retail)).name)),
    }


def _in_own_process(config: WorldConfig, directory: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "eval.benchmarks.world", str(directory)]
    ran = subprocess.run(command, input=config.model_dump_json(), capture_output=True, text=True, check=False)
    if ran.returncode:
        why = (ran.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise NextbestError(f"expected a simulated world, found that its process failed: {why}")
    told: dict[str, Any] = json.loads(ran.stdout)
    return told


def main() -> None:
    """Make the world whose configuration is on standard input; tell seconds and memory on standard output."""
    directory = Path(sys.argv[1])
    config = WorldConfig.model_validate_json(sys.stdin.read())
    began = time.perf_counter()
    world = simulate(config)
    made = time.perf_counter()
    world.write(directory / "tables", truth_dir=directory / "truth")
    seconds = {"simulate": round(made - began, 2), "write": round(time.perf_counter() - made, 2)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(json.dumps({"seconds": seconds, "peak_rss_mb": round(peak)}))


if __name__ == "__main__":
    main()
