"""The work of an answer without HTTP, timed whole and in stages.

Run as a module in the environment of a worker (one thread a library): takes a bundle version as argument
and a JSON list of requests of ``/v1/recommend`` on standard input, prints JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from time import perf_counter

import faiss
import numpy as np
from prometheus_client import CollectorRegistry

from feature_repo import schema as s
from serving.api import RecommendRequest
from serving.loading import Loader
from serving.metrics import Metrics
from serving.recommender import Query, Recommender
from serving.settings import Settings
from serving.sources import Vectors, bought, personal
from serving.subject import Subject


def main(version: str) -> None:
    """Time the requests of standard input on the bundle ``version``."""
    faiss.omp_set_num_threads(1)
    clock = partial(datetime.now, UTC)
    recommender = Loader(Settings.load(), Metrics(CollectorRegistry()), clock=clock)(version)
    at = clock()
    queries = [RecommendRequest.model_validate(asked).to_query(at) for asked in json.load(sys.stdin)]
    whole = _timed(lambda query: recommender.recommend([query]), queries)
    timings = {"in_process_ms": _percentiles(whole), "stages_ms": stages(recommender, queries)}
    sys.stdout.write(json.dumps(timings))


def stages(recommender: Recommender, queries: Sequence[Query]) -> dict[str, float]:
    """Return the median milliseconds of each part of an answer; ``rest`` is the whole less the parts."""
    bundle = recommender.bundle
    rows = {customer: row for row, customer in enumerate(bundle.customers[s.CUSTOMER_ID].tolist())}
    source = personal(bundle)
    vectors = source if isinstance(source, Vectors) else None
    parts: dict[str, list[float]] = {"feature_read": [], "encode": [], "search": [], "total": []}
    for query in queries:
        customer = query.customer_id or ""
        start = perf_counter()
        state = recommender.features.read([customer], query.at)[0]
        parts["feature_read"].append(perf_counter() - start)
        if vectors is not None and bundle.index is not None:
            row = rows.get(customer)
            own = bought(bundle, row, state.history)
            nothing = np.empty(0, dtype=np.int32)
            subject = Subject(row, state.segment, state.history, nothing, own, query.at, features=state.row)
            allowed = bundle.catalog.on_sale(query.at)
            start = perf_counter()
            vector = vectors.vector(subject)
            parts["encode"].append(perf_counter() - start)
            if vector is not None:
                start = perf_counter()
                bundle.index.search(vector[None, :], query.n, allowed=allowed)
                parts["search"].append(perf_counter() - start)
        start = perf_counter()
        recommender.answer(query, state)
        parts["total"].append(parts["feature_read"][-1] + perf_counter() - start)
    medians = {name: float(np.median(found)) * 1000.0 if found else 0.0 for name, found in parts.items()}
    total = medians.pop("total")
    return {**medians, "rest": max(total - sum(medians.values()), 0.0)}


def _timed(work: Callable[[Query], object], queries: Sequence[Query]) -> list[float]:
    seconds = []
    for query in queries:
        start = perf_counter()
        work(query)
        seconds.append(perf_counter() - start)
    return seconds


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{percent}": float(np.percentile(seconds, percent)) * 1000.0 for percent in (50, 99)}


if __name__ == "__main__":
    main(sys.argv[1])
