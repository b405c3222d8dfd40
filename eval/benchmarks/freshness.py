"""How soon what a customer did counts: from an acknowledged purchase to an answer without the product.

Purchases are told one after the other by customers that the tables do not know, and after each acknowledgement the
customer asks until the product is gone from the answer, all while other requests come at a fixed rate, whether or not
the earlier ones are answered.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np

from eval.benchmarks.clients import RECOMMEND, TELL, Client, Seen
from eval.benchmarks.own_home import OwnHome
from eval.benchmarks.supervised import supervised
from eval.redis_server import redis_server
from serving.errors import NextbestError
from serving.settings import Settings

Progress = Callable[[str, int, int], None]

_LOOK_SECONDS: Final = 0.02
_PATIENCE_SECONDS: Final = 10.0
_CONNECTIONS: Final = 16


def freshness(
    settings: Settings,
    *,
    purchases: int = 200,
    rate: float = 100.0,
    stores: Sequence[str] = ("sqlite", "redis"),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure freshness on a copy of a home with two workers, and return milliseconds by store as JSON values.

    Parameters
    ----------
    settings
        Of the home whose live bundle and features are copied; it is not changed.
    purchases
        How many are told.
    rate
        Other requests a second.
    stores
        Where the event log and the online store are, one after the other.

    Raises
    ------
    ConfigError
        Nothing is live, or there is no Redis to run.
    NextbestError
        A purchase did not count within ten seconds, or an answer was not 200.
    """
    found: dict[str, Any] = {}
    for store in stores:
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nextbest-fresh-")))
            url = None
            if store == "redis":
                (directory / "redis").mkdir()
                url = stack.enter_context(redis_server(directory / "redis")).url
            home = OwnHome.copied(settings, directory / "home", redis_url=url)
            service = stack.enter_context(supervised(home, directory / "service.log"))
            measured = asyncio.run(_measure(home, service.url, purchases=purchases, rate=rate))
            found[store] = measured
            if progress is not None:
                progress("freshness", len(found), len(stores))
    return found


async def _measure(home: OwnHome, url: str, *, purchases: int, rate: float) -> dict[str, Any]:
    seen = Seen()
    beside = asyncio.create_task(_beside(home, url, seen, rate))
    client = Client(url, seen)
    began = perf_counter()
    seconds = [await _one(client, f"fresh-{number}") for number in range(purchases)]
    took = perf_counter() - began
    beside.cancel()
    sent = await beside
    client.close()
    others = {name: number for name, number in seen.to_json().items() if not name.endswith(" 200")}
    if others:
        raise NextbestError(f"expected every answer to be 200, found {others}; see that nothing else runs")
    return {
        **{f"p{percent}_ms": round(float(np.percentile(seconds, percent)) * 1000, 1) for percent in (50, 99)},
        "max_ms": round(max(seconds) * 1000, 1),
        "purchases": purchases,
        "requests_beside_per_s": round(sent / took, 1),
        "resolution_ms": _LOOK_SECONDS * 1000,
    }


async def _one(client: Client, customer: str) -> float:
    """Return the seconds from the acknowledgement of a purchase to the answer without the product."""
    bought = (await _shown(client, customer))[0]
    event = {"customer_id": customer, "product_id": bought, "kind": "purchase", "event_id": customer}
    await client.ask(TELL, {"events": [event]})
    acknowledged = perf_counter()
    while bought in await _shown(client, customer):
        if perf_counter() - acknowledged > _PATIENCE_SECONDS:
            raise NextbestError(
                f"expected a purchase to count within {_PATIENCE_SECONDS:.0f} s, found {bought} shown to {customer} "
                "still; see the service's log"
            )
        await asyncio.sleep(_LOOK_SECONDS)
    return perf_counter() - acknowledged


async def _shown(client: Client, customer: str) -> list[str]:
    answer = await client.ask(RECOMMEND, {"customer_id": customer, "n": 10})
    if answer is None or answer.status != 200:
        raise NextbestError(
            "expected an answer of 200, found "
            f"{'none' if answer is None else answer.status}; see the service's log"
        )
    return [item["product_id"] for item in json.loads(answer.body)["recommendations"]]


async def _beside(home: OwnHome, url: str, seen: Seen, rate: float) -> int:
    """Ask at a fixed rate until cancelled; return how many requests were sent."""
    clients = [Client(url, seen) for _ in range(_CONNECTIONS)]
    idle, asked = clients.copy(), set()
    began, sent = perf_counter(), 0

    async def ask(client: Client, number: int) -> None:
        customer = home.customers[number % len(home.customers)]
        await client.ask(RECOMMEND, {"customer_id": customer, "n": 10})
        idle.append(client)

    try:
        for number in count():
            await asyncio.sleep(max(0.0, began + number / rate - perf_counter()))
            if idle:
                task = asyncio.create_task(ask(idle.pop(), number))
                asked.add(task)
                task.add_done_callback(asked.discard)
                sent += 1
    except asyncio.CancelledError:
        pass
    await asyncio.gather(*asked)
    for client in clients:
        client.close()
    return sent
