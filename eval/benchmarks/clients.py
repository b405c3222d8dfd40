"""Traffic that a fault meets: clients that tell events until they are acknowledged, and clients that ask.

Paced and bounded: each lane is one keep-alive connection with one request at a time. A client that gets anything but
200 for an event tells the same event again, under the same ``event_id``, after a second, as ``Retry-After`` says, or at
once where nothing came back. What was answered, and what was not, is kept in ``Seen``, for ``eval.benchmarks.laws``.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from eval.benchmarks.load import Answer, Connection, connect, request
from eval.benchmarks.own_home import OwnHome
from serving.errors import NextbestError

TELL: Final = "/v1/feedback"
RECOMMEND: Final = "/v1/recommend"
SIMILAR: Final = "/v1/similar"
_ANSWER_SECONDS: Final = 10.0
_RETRY_SECONDS: Final = 1.0
_AGAIN_SECONDS: Final = 0.1
_DRAIN_SECONDS: Final = 30.0
#: What has no answer: the connection broke or was refused, or nothing came in ten seconds.
NOTHING: Final = "no answer"
LATE: Final = "late"
#: The service runs and has no bundle yet.
NOT_READY: Final = "503 not_ready"
#: The first customer that is told of and that the tables do not know.
_NEW: Final = 1


@dataclass
class Seen:
    """What the clients saw; times are of the monotonic clock.

    ``personal`` are answers to a customer whom the tables do not know and who has told something: they hold the
    model's products only where the online store is read. ``excused`` are the outcomes that what happened to the
    service explains, such as ``NOTHING`` where one was killed.
    """

    excused: frozenset[str] = frozenset()
    told: set[str] = field(default_factory=set)
    acknowledged: dict[str, float] = field(default_factory=dict)
    shown: list[str] = field(default_factory=list)
    personal: list[tuple[float, bool]] = field(default_factory=list)
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    without_retry: int = 0
    wrong: list[str] = field(default_factory=list)

    def count(self, path: str, *outcomes: str) -> int:
        """Return how many requests to ``path`` ended so."""
        return sum(self.answers[path, outcome] for outcome in outcomes)

    def to_json(self) -> dict[str, int]:
        """Return the counts by path and outcome, such as ``/v1/recommend 200``."""
        return {f"{path} {outcome}": count for (path, outcome), count in sorted(self.answers.items())}


class Client:
    """One connection that is made again when it breaks."""

    def __init__(self, url: str, seen: Seen) -> None:
        self._url = url
        self._seen = seen
        self._held: Connection | None = None

    async def ask(self, path: str, body: Any) -> Answer | None:
        """Post ``body``; None when nothing came back."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                if self._held is None or not self._held.is_open:
                    self._held = await connect(self._url)
                answer = await self._held.ask(request(self._url + path, json.dumps(body).encode()))
        except TimeoutError:
            self._broke(path, LATE)
            return None
        except (OSError, NextbestError):
            self._broke(path, NOTHING)
            return None
        outcome = str(answer.status)
        if answer.status != 200:
            outcome += f" {json.loads(answer.body)['error']['code']}"
            self._seen.without_retry += answer.status in (429, 503) and not answer.retry_after
        self._seen.answers[path, outcome] += 1
        return answer

    def close(self) -> None:
        """Close the connection."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def _broke(self, path: str, outcome: str) -> None:
        self._seen.answers[path, outcome] += 1
        self.close()


class Traffic:
    """See the module; ``tells`` and ``asks`` are requests a second, each over ``lanes`` connections."""

    def __init__(
        self,
        home: OwnHome,
        url: str,
        name: str,
        *,
        tells: float,
        asks: float,
        lanes: int,
        excused: frozenset[str],
    ) -> None:
        self._home = home
        self._url = url
        self._name = name
        self._lanes = lanes
        self._tell_seconds = lanes / tells
        self._ask_seconds = lanes / asks
        self._stops = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="traffic", daemon=True)
        self.seen = Seen(excused=excused)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing more, and wait until what was told is acknowledged, for half a minute at most."""
        self._stops = True
        self._thread.join()

    def acknowledged_since(self, instant: float) -> float | None:
        """Return the seconds until the first acknowledgement after an instant."""
        return next((at - instant for at in self.seen.acknowledged.copy().values() if at > instant), None)

    def personal_since(self, instant: float) -> float | None:
        """Return the seconds from an instant until answers were personal, and stayed so until now; None: not yet."""
        after = [(at - instant, is_personal) for at, is_personal in self.seen.personal[:] if at > instant]
        without = max((at for at, is_personal in after if not is_personal), default=0.0)
        return next((at for at, is_personal in after if is_personal and at > without), None)

    def impersonal_between(self, start: float, end: float) -> int:
        """Return how many answers were not personal in a time: those without the online store."""
        return sum(start < at < end and not is_personal for at, is_personal in self.seen.personal[:])

    async def _run(self) -> None:
        lanes = range(self._lanes)
        await asyncio.gather(*(self._tell(lane) for lane in lanes), *(self._ask(lane) for lane in lanes))

    async def _tell(self, lane: int) -> None:
        client, number = Client(self._url, self.seen), lane
        while not self._stops:
            await self._tell_one(client, self._event(number))
            number += self._lanes
            await asyncio.sleep(self._tell_seconds)
        client.close()

    async def _tell_one(self, client: Client, event: dict[str, Any]) -> None:
        ends = None
        self.seen.told.add(event["event_id"])
        while True:
            answer = await client.ask(TELL, {"events": [event]})
            if answer is not None and answer.status == 200:
                self._acknowledged(event["event_id"], json.loads(answer.body))
                return
            now = time.monotonic()
            if self._stops:
                ends = now + _DRAIN_SECONDS if ends is None else ends
                if now > ends:
                    return
            await asyncio.sleep(_AGAIN_SECONDS if answer is None else _RETRY_SECONDS)

    def _acknowledged(self, event_id: str, told: dict[str, Any]) -> None:
        if told["accepted"] + told["duplicates"] != 1:
            self.seen.wrong.append(f"{event_id}: {told}")
        self.seen.acknowledged[event_id] = time.monotonic()

    def _event(self, number: int) -> dict[str, Any]:
        """Return an event of a customer of the tables, of one they do not know, or of a session."""
        who: dict[str, str] = [
            {"customer_id": self._home.customers[number % len(self._home.customers)]},
            {"customer_id": f"{self._name}-{number % 40}"},
            {"session_id": f"{self._name}-{number % 40}"},
        ][number % 3]
        product = self._home.products[number * 7 % len(self._home.products)]
        kind = "impression" if number % 20 == 0 else "purchase" if number % 3 == 1 else "view"
        return {"event_id": f"{self._name}-{number}", **who, "product_id": product, "kind": kind}

    async def _ask(self, lane: int) -> None:
        client, number = Client(self._url, self.seen), lane
        while not self._stops:
            if number % 5 == 0:
                product = self._home.products[number % len(self._home.products)]
                await client.ask(SIMILAR, {"product_ids": [product], "n": 10})
            else:
                is_new = number % 5 < 3
                known = self._home.customers[number % len(self._home.customers)]
                customer = f"{self._name}-{_NEW}" if is_new else known
                self._told(await client.ask(RECOMMEND, {"customer_id": customer, "n": 10}), is_new=is_new)
            number += self._lanes
            await asyncio.sleep(self._ask_seconds)
        client.close()

    def _told(self, answer: Answer | None, *, is_new: bool) -> None:
        if answer is None or answer.status != 200:
            return
        told = json.loads(answer.body)
        self.seen.shown.append(told["request_id"])
        if is_new:
            is_personal = any(item["source"].startswith("model:") for item in told["recommendations"])
            self.seen.personal.append((time.monotonic(), is_personal))


@contextmanager
def traffic(
    home: OwnHome,
    url: str,
    name: str,
    *,
    tells: float = 40.0,
    asks: float = 40.0,
    lanes: int = 4,
    excused: frozenset[str] = frozenset(),
) -> Iterator[Traffic]:
    """Let clients come until the block ends; see ``Traffic``.

    Parameters
    ----------
    home
        Whose customers and products they name.
    url
        Of the service.
    name
        Begins the ids of events and of customers that the tables do not know; a service's own for each block.
    tells, asks
        Requests a second.
    lanes
        Connections that tell, and as many that ask.
    excused
        See ``Seen``.
    """
    clients = Traffic(home, url, name, tells=tells, asks=asks, lanes=lanes, excused=excused)
    clients.start()
    try:
        yield clients
    finally:
        clients.stop()
