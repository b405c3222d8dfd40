"""What each kind of rule adds to an answer without HTTP.

Run as a module in the environment of a worker, as ``eval.benchmarks.inside`` is; prints the median milliseconds of an
answer without rules, with each kind, and with all. Every request is answered by all of them, each first in turn, so
that what is remembered of a customer helps all alike.
"""

from __future__ import annotations

import json
import sys
import tempfile
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter

import faiss
import numpy as np
from prometheus_client import CollectorRegistry

from eval.benchmarks.ruled import RULES, WITH, WITHOUT
from serving.api import RecommendRequest
from serving.loading import Loader
from serving.metrics import Metrics
from serving.recommender import Recommender
from serving.rules import load_rules
from serving.settings import Settings


def main(version: str) -> None:
    """Time the requests on standard input on the bundle ``version``."""
    faiss.omp_set_num_threads(1)
    clock = partial(datetime.now, UTC)
    load = Loader(Settings.load(), Metrics(CollectorRegistry()), clock=clock)
    sides = {WITHOUT: load(version)}
    for kind, text in {**RULES, WITH: "".join(RULES.values())}.items():
        sides[kind] = _under(load, sides[WITHOUT], text)
    at = clock()
    warm, asked = (
        [RecommendRequest.model_validate(one).to_query(at, f"r{place}") for place, one in enumerate(part)]
        for part in json.load(sys.stdin)
    )
    for recommender in sides.values():
        for query in warm:
            recommender.recommend([query])
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn, query in enumerate(asked):
        for side in np.roll(list(sides), turn).tolist():
            began = perf_counter()
            sides[side].recommend([query])
            seconds[side].append(perf_counter() - began)
    sys.stdout.write(json.dumps({side: float(np.median(found)) * 1000.0 for side, found in seconds.items()}))


def _under(load: Loader, plain: Recommender, text: str) -> Recommender:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "rules.toml")
        path.write_text(text)
        rules = load_rules(path, plain.bundle)
    # a reader of its own for each, so that all remember as much of customers
    return load.under(plain, rules).with_rules(rules, load.reader(plain.bundle, rules.reads))


if __name__ == "__main__":
    main(sys.argv[1])
