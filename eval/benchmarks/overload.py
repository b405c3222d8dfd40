"""What a service does with more than it can take: refuses the surplus at once, and goes on with the rest.

First the capacity, by clients that wait for their answers; then requests that come at a multiple of it whether or not
the earlier ones are answered (an open loop), as a crowd comes. Client and service share the machine, so that what the
client spends is missing from the service: the goodput that is reported is rather too small.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter, deque
from collections.abc import Sequence
from time import perf_counter
from typing import Any, Final

import numpy as np

from eval.benchmarks import load
from eval.benchmarks.clients import RECOMMEND
from eval.benchmarks.own_home import OwnHome
from serving.errors import NextbestError

#: Connections of the crowd: more than all workers take at a time, fewer than files may be open.
CONNECTIONS: Final = 300
_CLOSED: Final = 8
_TICK_SECONDS: Final = 0.005


def overload(
    home: OwnHome, url: str, *, factors: Sequence[float] = (2.0, 4.0), seconds: float = 4.0
) -> dict[str, Any]:
    """Return the capacity (answers a second), and goodput and outcomes at multiples of it, as JSON values.

    Parameters
    ----------
    home, url
        What is served, and where.
    factors
        How many times its capacity is asked of it.
    seconds
        How long each measurement takes, about.

    Raises
    ------
    NextbestError
        An answer was neither 200 nor 429 with Retry-After, or what came afterwards was not answered.
    """
    bodies = [json.dumps({"customer_id": customer, "n": 10}).encode() for customer in home.customers] or [
        b"{}"
    ]
    trial = load.run(url + RECOMMEND, _some(bodies, 200), concurrency=_CLOSED)
    measured = load.run(url + RECOMMEND, _some(bodies, trial.throughput * seconds), concurrency=_CLOSED)
    capacity = measured.throughput
    found = [asyncio.run(_crowd(url, bodies, capacity * factor, seconds)) for factor in factors]
    after = load.run(url + RECOMMEND, _some(bodies, 100), concurrency=_CLOSED)
    statuses = {*measured.statuses, *after.statuses, *(status for one in found for status in one["answers"])}
    if not statuses <= {200, 429} or {*measured.statuses, *after.statuses} != {200}:
        raise NextbestError(
            f"expected 200, and 429 under overload alone, found {sorted(statuses)}; see the service's log"
        )
    if any(one.pop("without_retry") for one in found):
        raise NextbestError("expected Retry-After with every 429, found some without; see serving.app")
    return {
        "capacity": round(capacity, 1),
        "overload": [
            {"factor": factor, "goodput_ratio": round(one["goodput"] / capacity, 3), **one}
            for factor, one in zip(factors, found, strict=True)
        ],
        "after_ratio": round(after.throughput / capacity, 3),
    }


def _some(bodies: Sequence[bytes], count: float) -> list[bytes]:
    count = max(1, math.ceil(count))
    return (list(bodies) * (count // len(bodies) + 1))[:count]


async def _crowd(url: str, bodies: Sequence[bytes], rate: float, seconds: float) -> dict[str, Any]:
    """Send ``rate`` requests a second; those for which no connection is free are not sent, and counted."""
    idle = deque([await load.connect(url) for _ in range(CONNECTIONS)])
    answers: Counter[int] = Counter()
    at_200: list[float] = []
    unsent = without_retry = 0

    async def ask(connection: load.Connection, body: bytes) -> None:
        nonlocal without_retry
        began = perf_counter()
        answer = await connection.ask(load.request(url + RECOMMEND, body))
        answers[answer.status] += 1
        without_retry += answer.status == 429 and not answer.retry_after
        if answer.status == 200:
            at_200.append(perf_counter() - began)
        idle.append(connection)

    asked: set[asyncio.Task[None]] = set()
    started, sent = perf_counter(), 0
    while (elapsed := perf_counter() - started) < seconds:
        while sent < elapsed * rate:
            if idle:
                task = asyncio.create_task(ask(idle.popleft(), bodies[sent % len(bodies)]))
                asked.add(task)
                task.add_done_callback(asked.discard)
            else:
                unsent += 1
            sent += 1
        await asyncio.sleep(_TICK_SECONDS)
    await asyncio.gather(*asked)
    took = perf_counter() - started
    for connection in idle:
        connection.close()
    return {
        "rate": round(rate, 1),
        "goodput": round(answers[200] / took, 1),
        "p99_ms": round(float(np.percentile(at_200 or [0.0], 99)) * 1000.0, 1),
        "answers": dict(sorted(answers.items())),
        "unsent": unsent,
        "without_retry": without_retry,
    }
