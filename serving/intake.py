"""What clients tell: feedback, and live changes of products and customers; from a parsed request to the log.

One method an operation of ``serving.openapi.ENDPOINTS``, of the same name. An answer is given once the log has it on
disk. Each event is looked at by itself: what does not fit is told with its place and keeps nothing else out.
Appending waits for a disk, so it runs in threads, as many as the log can commit together.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import orjson

from feature_repo.recent import to_micros
from serving.api import CustomerChanges, FeedbackEvent, FeedbackRequest, ProductChanges
from serving.errors import EventLogUnavailable
from serving.events import Change, Event, EventLog
from serving.features import Kind, is_of
from serving.metrics import Metrics
from serving.served import Served
from serving.validation import InvalidRequest, parse, shown

logger = logging.getLogger("nextbest")

T = TypeVar("T")
_THREADS: Final = 16
_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: Clocks of clients run ahead; further than this an event is no event yet.
_AHEAD: Final = timedelta(minutes=5)


class Intake:
    """Takes what clients tell.

    Parameters
    ----------
    log
        Where it goes; durable before it is acknowledged.
    metrics
        Counts what was taken.
    clock
        Gives the instant of a request.
    """

    def __init__(self, log: EventLog, metrics: Metrics, clock: Callable[[], datetime]) -> None:
        self._log = log
        self._metrics = metrics
        self._clock = clock
        self._problem = ""
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="intake")

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def feedback(self, asked: FeedbackRequest, served: Served | None, request_id: str) -> bytes:
        """Answer ``/v1/feedback``."""
        now = self._clock()
        events, rejected = [], []
        for index, one in enumerate(asked.events):
            try:
                events.append(event_of(one, now=now, name=f"{request_id}.{index}"))
            except InvalidRequest as error:
                field = f"events[{index}]" if error.field is None else f"events[{index}].{error.field}"
                rejected.append({"index": index, "field": field, "why": error.message})
        fresh = await self._logged(lambda: self._log.append_events(events)) if events else []
        accepted = sum(fresh)
        duplicates = len(fresh) - accepted
        self._metrics.told(accepted=accepted, duplicates=duplicates, rejected=len(rejected))
        known = None if served is None else served.live.bundle.catalog.index
        unknown = [] if known is None else [one.product_id for one in events if one.product_id not in known]
        return orjson.dumps(
            {
                "accepted": accepted,
                "duplicates": duplicates,
                "rejected": rejected,
                "unknown_products": list(dict.fromkeys(unknown)),
            }
        )

    async def products(self, asked: ProductChanges, served: Served | None, request_id: str) -> bytes:
        """Answer ``/v1/products``."""
        at = to_micros(self._clock())
        catalog = None if served is None else served.live.bundle.catalog
        changes, ignored = [], []
        for index, one in enumerate(asked.products):
            values = one.values()
            for name, value in one.attributes.items():
                why = None if catalog is None else catalog.misfit(name, value)
                if catalog is not None and why is not None:
                    ignored.append({"field": f"products[{index}].attributes.{name}", "why": why})
                    if name in catalog.attributes:
                        del values[name]
            changes.append(Change("product", one.product_id, values, at))
        unknown = [change.id for change in changes if catalog is None or change.id not in catalog.index]
        return await self._changed(changes, unknown, ignored)

    async def customers(self, asked: CustomerChanges, served: Served | None, request_id: str) -> bytes:
        """Answer ``/v1/customers``."""
        at = to_micros(self._clock())
        known = None if served is None else served.live.features.attributes
        changes, ignored = [], []
        for index, one in enumerate(asked.customers):
            values = one.values()
            for field, (name, value) in one.columns().items():
                why = None if known is None else _misfit(known, name, value)
                if known is not None and why is not None:
                    ignored.append({"field": f"customers[{index}].{field}", "why": why})
                    if name in known:
                        del values[name]
            changes.append(Change("customer", one.customer_id, values, at))
        return await self._changed(changes, [], ignored)

    async def _changed(
        self, changes: Sequence[Change], unknown: Sequence[str], ignored: Sequence[dict[str, str]]
    ) -> bytes:
        """Log what is left of changes: a value of another type would take the place of one that fits."""
        changes = [change for change in changes if change.values]
        if changes:
            await self._logged(lambda: self._log.append_changes(changes))
        unknown = list(dict.fromkeys(unknown))
        return orjson.dumps({"accepted": len(changes), "unknown": unknown, "ignored": ignored})

    async def _logged(self, append: Callable[[], T]) -> T:
        """Append in a thread; tell once, not at every request, that the log fails, or works again."""
        try:
            done = await asyncio.get_running_loop().run_in_executor(self._pool, append)
        except EventLogUnavailable as error:
            if not self._problem:
                logger.error("the event log does not take what is told: %s", error)
            self._problem = str(error)
            self._metrics.log_is_up(False)
            raise
        if self._problem:
            logger.warning("the event log takes again what is told")
            self._problem = ""
        self._metrics.log_is_up(True)
        return done


def event_of(given: Any, *, now: datetime, name: str) -> Event:
    """Return one event of a request.

    Without an ``event_id`` an event that tells its own time is known by its content, so that a repetition counts
    once; any other gets ``name``.

    Raises
    ------
    InvalidRequest
        It does not fit.
    """
    if not isinstance(given, dict):
        raise InvalidRequest(f"expected an object, found {shown(given)}")
    one = parse(FeedbackEvent, given)
    at = now if one.at is None else one.at
    if at > now + _AHEAD:
        raise InvalidRequest(
            f"expected a time up to now ({now.isoformat(timespec='seconds')}), found {shown(given['at'])}",
            "at",
        )
    if at < _EARLIEST:
        raise InvalidRequest(f"expected a time since 1970, found {shown(given['at'])}", "at")
    return Event(
        event_id=one.event_id or (name if one.at is None else _content(one)),
        kind=one.kind,
        at=to_micros(at.astimezone(UTC)),
        product_id=one.product_id,
        customer_id=one.customer_id,
        session_id=one.session_id,
        value=one.value,
        request_id=one.request_id,
    )


def _misfit(known: Mapping[str, Kind], name: str, value: Any) -> str | None:
    """Return why a change of a customer's column has no effect, in one sentence; None where it has one."""
    if name not in known:
        there = ", ".join(sorted(known)) or "none"
        return f"expected a column of the customers' table (there are: {there}), found none called {name}"
    if value is None or is_of(known[name], value):
        return None
    return f"expected {known[name]}, or null for not known, found {shown(value)}"


def _content(event: FeedbackEvent) -> str:
    return "content:" + hashlib.blake2b(orjson.dumps(event.model_dump()), digest_size=16).hexdigest()
