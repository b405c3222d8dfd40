"""The simulated world's customers as clients of a shop: they ask, look at the list, click, buy, and tell it.

The shop is a running service (``HttpShop``), or whatever is served in this process (``ServedShop``). Who comes in which
order, and with what eyes, depends on the seed alone: each visit has a stream of chance of its own, so that it does not
matter how many connections there are. What the shop answers is the shop's. A customer keeps to one connection, as one
person would. Bounded in visits and in time; what is told again after a broken connection has the same ``event_id``.
"""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

import numpy as np

from eval.world_time import IntArray
from eval.world_visitors import Visitors
from serving.answers import exposure
from serving.errors import NextbestError
from serving.events import EventLog
from serving.intake import event_of
from serving.query import Query
from serving.served import Served

Progress = Callable[[str, int, int], None]
_SECONDS: Final = 10.0
_TRIES: Final = 5
_PAUSE_SECONDS: Final = 1.0
_PROGRESS_EVERY: Final = 25


class Listed(NamedTuple):
    """A list as the shop answered it."""

    request_id: str
    experiment: str | None
    variant: str | None
    product_ids: list[str]


class Told(NamedTuple):
    """What became of events that were told."""

    accepted: int
    duplicates: int
    rejected: int


class Shop(Protocol):
    """Who answers and is told; used by one thread."""

    def ask(self, customer_id: str, *, n: int, surface: str | None) -> Listed:
        """Return a list for a customer."""

    def tell(self, events: Sequence[dict[str, Any]]) -> Told:
        """Tell what a customer did, in the form of ``/v1/feedback``."""


class HttpShop:
    """A running service, over one connection that is kept and made again when it breaks.

    Parameters
    ----------
    url
        Of the service.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(
            parts.hostname or "", parts.port or 80, timeout=_SECONDS
        )

    def ask(self, customer_id: str, *, n: int, surface: str | None) -> Listed:
        """See ``Shop``; NextbestError when the service does not answer."""
        context = {} if surface is None else {"context": {"surface": surface}}
        told = self._post("/v1/recommend", {"customer_id": customer_id, "n": n, **context})
        listed = [item["product_id"] for item in told["recommendations"]]
        return Listed(told["request_id"], told["experiment"], told["variant"], listed)

    def tell(self, events: Sequence[dict[str, Any]]) -> Told:
        """See ``Shop``; NextbestError when the service does not take them."""
        told = self._post("/v1/feedback", {"events": list(events)})
        return Told(told["accepted"], told["duplicates"], len(told["rejected"]))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        sent = json.dumps(body).encode()
        found = ""
        for _ in range(_TRIES):
            try:
                self._connection.request("POST", path, sent, {"Content-Type": "application/json"})
                answer = self._connection.getresponse()
                status, told = answer.status, answer.read()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()  # and the next request makes it anew
                found = f"{type(error).__name__}: {error}"
            else:
                if status == 200:
                    return dict(json.loads(told))
                found = f"{status} {told[:200].decode(errors='replace')}"
                if status not in (429, 503):
                    break
            time.sleep(_PAUSE_SECONDS)
        raise NextbestError(
            f"expected {path} of {self._connection.host}:{self._connection.port} to answer, found {found}; see that "
            "the service runs, and its log"
        )


class ServedShop:
    """What is served in this process: answers are recorded as shown, and what is told is logged.

    Parameters
    ----------
    served
        Who sees what.
    log
        Takes exposures and events, for ``nextbest events export``.
    clock
        Gives the instant of a request.
    name
        Begins the request ids; a log's own for each shop.
    """

    def __init__(
        self, served: Served, log: EventLog, *, clock: Callable[[], datetime], name: str = "visit"
    ) -> None:
        self._served = served
        self._log = log
        self._clock = clock
        self._name = name
        self._count = 0

    def ask(self, customer_id: str, *, n: int, surface: str | None) -> Listed:
        """See ``Shop``."""
        request_id = f"{self._name}-{self._count}"
        query = Query(at=self._clock(), customer_id=customer_id, n=n, surface=surface, request_id=request_id)
        ((choice, answered),) = self._served.recommend([query], surface)
        record = exposure(query, choice, answered, request_id, surface)
        self._log.append_exposures([record], writer=self._name, after=self._count)
        self._count += 1
        return Listed(request_id, choice.experiment, choice.variant, answered.product_ids)

    def tell(self, events: Sequence[dict[str, Any]]) -> Told:
        """See ``Shop``."""
        now = self._clock()
        fresh = self._log.append_events([event_of(one, now=now, name="") for one in events])
        return Told(sum(fresh), len(fresh) - sum(fresh), 0)


@dataclass
class Played:
    """What visitors did, and what became of it; ``to_json`` tells it by variant too."""

    visits: int = 0
    customers: set[str] = field(default_factory=set)
    clicks: int = 0
    purchases: int = 0
    value: float = 0.0
    told: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    seconds: float = 0.0
    by_variant: dict[str, Counter[str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the counts by name."""
        told = {name: value for name, value in vars(self).items() if name not in ("customers", "by_variant")}
        return {
            **told,
            "customers": len(self.customers),
            "value": round(self.value, 2),
            "seconds": round(self.seconds, 2),
            "by_variant": {name: dict(counts) for name, counts in sorted(self.by_variant.items())},
        }


def play(
    visitors: Visitors,
    shops: Sequence[Shop],
    *,
    visits: int,
    seconds: float,
    seed: int,
    clock: Callable[[], datetime],
    n: int = 10,
    surface: str | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Played:
    """Let visitors come, one after the other on each of the ``shops``, all of these at once.

    Parameters
    ----------
    visitors
        Who is there, and how often they come.
    shops
        One a connection; a customer keeps to one of them.
    visits
        How many visits at the most.
    seconds
        After so long nobody comes any more.
    seed
        Of who comes, and what they look at.
    clock
        Gives the time at which something was done.
    n, surface
        What is asked for.
    progress
        Told now and then how many came.

    Raises
    ------
    NextbestError
        The shop does not answer, or does not take what it is told.
    """
    order = coming(visitors, visits, seed=seed)
    lanes = [np.flatnonzero(order % len(shops) == lane) for lane in range(len(shops))]
    played, lock = Played(), Lock()
    began = time.monotonic()

    def lane(shop: Shop, numbers: IntArray) -> None:
        for number in numbers.tolist():
            if time.monotonic() - began > seconds:
                return
            visit = _Visit(visitors, int(order[number]), np.random.default_rng([seed, 1, number]))
            listed = shop.ask(visit.customer_id, n=n, surface=surface)
            events = visit.events(listed, clock())
            told = shop.tell(events) if events else Told(0, 0, 0)
            with lock:
                _count(played, visit.customer_id, listed, events, told)
                if played.visits % _PROGRESS_EVERY == 0 or played.visits == len(order):
                    progress("visits", played.visits, len(order))

    with ThreadPoolExecutor(len(shops), thread_name_prefix="visitors") as pool:
        for done in [pool.submit(lane, *one) for one in zip(shops, lanes, strict=True)]:
            done.result()
    played.seconds = time.monotonic() - began
    return played


def coming(visitors: Visitors, visits: int, *, seed: int) -> IntArray:
    """Return who comes, in order of time: the first ``visits`` of a draw by their true activity, shape (visits,)."""
    rng = np.random.default_rng([seed, 0])
    who = np.repeat(np.arange(len(visitors.ids)), rng.poisson(visitors.expected))
    order: IntArray = who[rng.permutation(len(who))][:visits]
    return order


class _Visit:
    """One visit of one customer, with its own stream of chance."""

    def __init__(self, visitors: Visitors, visitor: int, rng: np.random.Generator) -> None:
        self._visitors = visitors
        self._rng = rng
        self._visit = visitors.visits(np.array([visitor]), rng=rng)
        self.customer_id = visitors.ids[visitor]

    def events(self, listed: Listed, at: datetime) -> list[dict[str, Any]]:
        """Return what the customer does with a list, as feedback: clicks, then what is bought."""
        if not listed.product_ids:
            return []
        columns = np.array([[self._visitors.index.get(one, -1) for one in listed.product_ids]])
        clicked, bought = self._visitors.outcomes(self._visit, columns, rng=self._rng)
        prices = self._visitors.prices(np.maximum(columns[0], 0), self._visit.coupon)
        done = [("click", place, 0.0) for place in np.flatnonzero(clicked[0]).tolist()]
        done += [
            ("purchase", place, round(float(prices[place]), 2))
            for place in np.flatnonzero(bought[0]).tolist()
        ]
        return [
            {
                "event_id": f"{listed.request_id}/{place}/{kind}",
                "customer_id": self.customer_id,
                "product_id": listed.product_ids[place],
                "kind": kind,
                "at": at.isoformat(),
                "value": value,
                "request_id": listed.request_id,
            }
            for kind, place, value in done
        ]


def _count(
    played: Played, customer_id: str, listed: Listed, events: Sequence[dict[str, Any]], told: Told
) -> None:
    clicks = sum(event["kind"] == "click" for event in events)
    value = float(sum(event["value"] for event in events))
    played.visits += 1
    played.customers.add(customer_id)
    played.clicks += clicks
    played.purchases += len(events) - clicks
    played.value += value
    played.told += len(events)
    played.accepted += told.accepted
    played.duplicates += told.duplicates
    played.rejected += told.rejected
    name = "live" if listed.experiment is None else f"{listed.experiment}/{listed.variant}"
    counts = played.by_variant.setdefault(name, Counter())
    counts.update(visits=1, clicks=clicks, purchases=len(events) - clicks)
