"""The event log as its users see it, and how it is opened: SQLite embedded by default, Redis by one setting.

What is acknowledged is on disk. While the store is down, slow, full or read-only every call raises
``EventLogUnavailable`` and changes nothing that a repetition would double; once the store is back, calls work again by
themselves. HTTP and the folding of events into features are other people's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from serving.errors import ConfigError
from serving.events.records import Change, Event, Exposure
from serving.events.sqlite_log import SqliteLog
from serving.events.streams import Entry, R, Stream, now_micros


class EventLog(Protocol):
    """Three streams in total order; safe for many threads and many processes.

    A batch is written whole or not at all. Records that JSON cannot hold raise ``DataError`` before anything is
    written. Every method but ``close`` raises ``EventLogUnavailable`` while the store does not answer.
    """

    def append_events(self, events: Sequence[Event]) -> list[bool]:
        """Append what is new; return, in order, True for a new event and False for a known ``event_id``.

        Known is what was logged before, by anybody, or stands earlier in the same batch, for ``KNOWN_DAYS`` at the
        least. After an error repeat the whole batch: what had been written counts as known.
        """
        ...

    def append_changes(self, changes: Sequence[Change]) -> None:
        """Append live changes; repeated after an error they may stand twice, which changes nothing more."""
        ...

    def append_exposures(self, exposures: Sequence[Exposure], *, writer: str, after: int) -> None:
        """Append the exposures that follow the first ``after`` of ``writer``; those it has already are left out.

        A writer numbers its exposures from 1; the log keeps, in the same transaction, up to which it has them.
        """
        ...

    def settle_exposures(self, writer: str, *, taken: int) -> int:
        """Close the account of a writer that took ``taken`` exposures; return how many of them never came.

        Told again it returns 0, and whatever of the writer still arrives is left out: a loss counts once.
        """
        ...

    def exposures_lost(self) -> int:
        """Return how many exposures were lost by all writers whose accounts are closed."""
        ...

    def read(self, stream: Stream[R], *, after: str | None, limit: int) -> list[Entry[R]]:
        """Return the first ``limit`` entries after an offset, oldest first; None reads from the beginning."""
        ...

    def trim(self, stream: Stream[Any], *, before: int) -> int:
        """Remove the entries logged before an instant (microseconds); return how many.

        Offsets stay valid and are never given again. Trim what every reader has read.
        """
        ...

    def close(self) -> None:
        """Release the store; a later call would take it up again."""
        ...


def open_log(
    directory: Path,
    *,
    redis_url: str | None = None,
    redis_durable: bool = False,
    clock: Callable[[], int] = now_micros,
) -> EventLog:
    """Open the event log; a store that does not answer now is used as soon as it does.

    Parameters
    ----------
    directory
        Where the embedded log is: ``events.db``.
    redis_url
        Keep the log in this Redis (6.2 or newer) instead.
    redis_durable
        Whoever runs that Redis vouches for ``appendonly yes``, ``appendfsync always`` and ``noeviction``: they are
        not checked. For a Redis that forbids CONFIG.
    clock
        The time in microseconds since 1970 UTC.

    Raises
    ------
    ConfigError
        Redis answers and is not set up to keep what it acknowledges, or its client is not installed.
    """
    if redis_url is None:
        return SqliteLog(directory / "events.db", clock=clock)
    try:
        from serving.events.redis_log import RedisLog
    except ImportError as error:
        raise ConfigError(
            f"expected the Redis client, found {error}; install the extra `redis`, or unset NEXTBEST_REDIS_URL"
        ) from error
    return RedisLog(redis_url, durable=redis_durable, clock=clock)
