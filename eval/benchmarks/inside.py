"""The work of an answer without HTTP, timed whole and in stages.

Run as a module in the environment of a worker (one thread a library): takes a bundle version as argument
and two JSON lists of requests of ``/v1/recommend`` on standard input, those to warm up and those to time; prints JSON.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from time import perf_counter

import faiss
import numpy as np
from prometheus_client import CollectorRegistry

from serving.api import RecommendRequest
from serving.loading import Loader
from serving.metrics import Metrics
from serving.recommender import Query, Recommender
from serving.settings import Settings
from serving.stages import watched


def main(version: str) -> None:
    """Time the requests on standard input on the bundle ``version``."""
    faiss.omp_set_num_threads(1)
    clock = partial(datetime.now, UTC)
    recommender = Loader(Settings.load(), Metrics(CollectorRegistry()), clock=clock)(version)
    at = clock()
    warm, asked = (
        [RecommendRequest.model_validate(one).to_query(at) for one in part] for part in json.load(sys.stdin)
    )
    timed(recommender, warm)
    seconds, parts = timed(recommender, asked)
    timings = {"in_process_ms": _percentiles(seconds), "stages_ms": parts}
    sys.stdout.write(json.dumps(timings))


def timed(recommender: Recommender, queries: Sequence[Query]) -> tuple[list[float], dict[str, float]]:
    """Return the seconds of each answer, and the mean milliseconds of each stage; ``rest`` is what is in none."""
    seconds: list[float] = []
    parts: Counter[str] = Counter()
    for query in queries:
        start = perf_counter()
        with watched() as stages:
            recommender.recommend([query])
        seconds.append(perf_counter() - start)
        parts.update(stages)
    means = {name: spent * 1000.0 / len(queries) for name, spent in parts.items()}
    return seconds, {**means, "rest": float(np.mean(seconds)) * 1000.0 - sum(means.values())}


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{percent}": float(np.percentile(seconds, percent)) * 1000.0 for percent in (50, 99)}


if __name__ == "__main__":
    main(sys.argv[1])
