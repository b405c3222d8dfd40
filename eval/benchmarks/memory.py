"""What several bundles at once take of memory: workers that serve variants beside workers that serve one bundle.

The bundles are of one drawn shop: the same catalog and customers, vectors of their own, as recipes that compete have.
Memory is read from ``/proc/PID/smaps_rollup``: the resident set of each worker (RSS), and its proportional share (PSS),
in which a page that two processes map counts half for each, so that the sum over workers is what they really take.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from eval.benchmarks import load
from eval.benchmarks.shop import Shop, Size, draw_shop
from eval.benchmarks.traffic import draw, particular
from serving import live
from serving.bundle import NAME
from serving.errors import NextbestError
from serving.process import Service, running
from serving.settings import Settings

Progress = Callable[[str, int, int], None]


def memory(
    settings: Settings,
    size: Size,
    *,
    now: datetime,
    variants: int = 4,
    workers: int = 2,
    requests: int = 2000,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure, and return the figures as JSON values.

    Parameters
    ----------
    settings
        Of the services, but for where things are.
    size, now
        Of the drawn shop, and the instant it stands at.
    variants
        How many bundles are served at once, the live one included.
    workers
        Worker processes.
    requests
        Asked before memory is read, so that what is made at first use is there.
    seed
        Of everything drawn.
    progress
        Called with (what, done, all).

    Returns
    -------
    dict
        ``one`` and ``all`` have ``rss_mb`` of each worker and ``pss_mb`` of all workers together; ``bound_mb`` is one
        and a half times the memory with one bundle and the vectors of the others, ``ratio`` how much of it is used.

    Raises
    ------
    NextbestError
        A service did not come up or did not answer every request with 200.
    """
    from eval.benchmarks.shop_home import bring_online, publish  # Feast takes seconds to import

    said = progress or (lambda what, done, total: None)
    with TemporaryDirectory(prefix="nextbest-memory-") as directory:
        own = settings.model_copy(
            update={
                "home": Path(directory, "home"),
                "redis_url": None,
                "redis_durable": False,
                "api_keys": (),
            }
        )
        bentoml = Path(directory, "bentoml")
        shop = draw_shop(size, seed=seed, at=now)
        versions = []
        for number in range(variants):
            versions.append(publish(_other(shop, number), bentoml / "models" / NAME, seed=seed))
            said("bundles", number + 1, variants)
        bring_online(shop, [own.store], seed=seed, progress=said)
        live.publish(own.live, own.slot, versions[0])
        asked = particular(draw(shop.customers, count=requests, seed=seed), shop.catalog, seed=seed)
        bodies = [json.dumps(one).encode() for one in asked]
        found = {}
        for name, text in (("one", ""), ("all", _experiment(versions))):
            own.experiments.write_text(text)
            with ExitStack() as stack:
                extra = {"BENTOML_HOME": str(bentoml), "NEXTBEST_REDIS_URL": ""}
                service = stack.enter_context(running(own, workers=workers, extra=extra, seconds=180.0))
                found[name] = _asked(service, bodies)
    vectors = size.products * size.dimensions * 4 / 1e6 * (variants - 1)
    bound = {unit: 1.5 * found["one"][unit] + vectors for unit in ("pss_mb", "rss_sum_mb")}
    return {
        **found,
        "vectors_mb": vectors,
        "bound_mb": bound,
        "ratio": {unit: found["all"][unit] / bound[unit] for unit in bound},
        "over_one": {unit: found["all"][unit] / found["one"][unit] for unit in bound},
        "variants": variants,
        "workers": workers,
        "products": size.products,
        "dimensions": size.dimensions,
        "customers": size.customers,
    }


def _other(shop: Shop, number: int) -> Shop:
    """Return the shop as another recipe sees it: vectors of its own, that say the same in other directions."""
    if not number:
        return shop
    dimensions = shop.vectors.shape[1]
    turned = np.linalg.qr(np.random.default_rng(number).normal(size=(dimensions, dimensions)))[0]
    return replace(shop, vectors=np.ascontiguousarray(shop.vectors @ turned, dtype=np.float32))


def _experiment(versions: Sequence[str]) -> str:
    tables = "".join(
        f'[[experiments.variants]]\nname = "v{number}"\nweight = 1\nbundle = "{NAME}:{version}"\n'
        for number, version in enumerate(versions)
    )
    return f'[[experiments]]\nname = "all"\n{tables}'


def _asked(service: Service, bodies: Sequence[bytes]) -> dict[str, Any]:
    """Ask a service, and return what its workers take afterwards."""
    measured = load.run(f"{service.url}/v1/recommend", bodies, concurrency=8)
    if measured.statuses != (200,):
        raise NextbestError(
            f"expected every answer to be 200, found {measured.statuses}:\n{service.last_lines()}"
        )
    taken = [rollup(pid) for pid in service.workers]
    return {
        "rss_mb": [one["Rss"] for one in taken],
        "rss_sum_mb": sum(one["Rss"] for one in taken),
        "pss_mb": sum(one["Pss"] for one in taken),
        "private_mb": sum(one["Private_Clean"] + one["Private_Dirty"] for one in taken),
    }


def rollup(pid: int) -> dict[str, float]:
    """Return what ``/proc/PID/smaps_rollup`` says of a process, in MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(told.split()[0]) * 1024 / 1e6 for name, told in (line.split(":", 1) for line in lines)}
