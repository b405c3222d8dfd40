"""The event log in Redis Streams, for workers on several machines.

A batch is one script: what is known is left out, the rest appended, and Redis runs no other command meanwhile. The
names of all keys share the hash tag ``{nextbest}``, so they lie together in a cluster. Redis keeps what it
acknowledges only with ``appendonly yes``, ``appendfsync always`` (``no-appendfsync-on-rewrite no``) and
``maxmemory-policy noeviction``: every connection is checked as it is made, after a restart too. An event id is
known for ``KNOWN_DAYS`` by a key that expires, some 150 bytes of memory each.

Nothing is tried twice behind the caller's back: a second try of a call that had come through would say "known"
of events that are new.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from serving.errors import ConfigError, EventLogUnavailable
from serving.events import redis_scripts as scripts
from serving.events.records import Change, Event, Exposure
from serving.events.streams import CHANGES, EVENTS, EXPOSURES, KNOWN_DAYS, Entry, R, Stream, place

#: What Redis must be set to.
DURABLE: Final = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
}
_CONNECT_SECONDS: Final = 0.5
_ANSWER_SECONDS: Final = 2.0
_KNOWN_SECONDS: Final = KNOWN_DAYS * 86_400
_TAG: Final = "{nextbest}"
_WRITTEN: Final = f"{_TAG}:exposures:written"
_LOST: Final = f"{_TAG}:exposures:lost"


class _Unfit(redis.RedisError):
    """Redis would not keep what it acknowledges; a ``RedisError``, so that the client drops the connection."""


class RedisLog:
    """See ``EventLog``.

    Parameters
    ----------
    url
        ``redis://[:password@]host:port/db``, or ``rediss://``.
    durable
        Somebody vouches for the settings: they are not checked.
    clock
        The time in microseconds since 1970 UTC.

    Raises
    ------
    ConfigError
        Redis answers and its settings do not keep what it acknowledges.
    """

    def __init__(self, url: str, *, durable: bool, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._client = redis.Redis.from_url(
            url,
            protocol=2,
            socket_connect_timeout=_CONNECT_SECONDS,
            socket_timeout=_ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 0),
            redis_connect_func=None if durable else _connected,
        )
        address = self._client.connection_pool.connection_kwargs
        self._where = f"{address.get('host')}:{address.get('port')}"
        self._append_events = self._client.register_script(scripts.APPEND_EVENTS)
        self._append = self._client.register_script(scripts.APPEND)
        self._append_exposures = self._client.register_script(scripts.APPEND_EXPOSURES)
        self._settle_exposures = self._client.register_script(scripts.SETTLE_EXPOSURES)
        try:
            self._client.ping()
        except _Unfit as error:
            raise ConfigError(str(error)) from error
        except redis.AuthenticationError as error:
            raise ConfigError(
                f"expected Redis at {self._where} to let us in, found {error}; correct NEXTBEST_REDIS_URL"
            ) from error
        except redis.RedisError:
            pass  # not there yet: the first connection is checked

    def append_events(self, events: Sequence[Event]) -> list[bool]:
        """See ``EventLog``."""
        records = [event.to_json() for event in events]
        keys = [_key(EVENTS), *(f"{_TAG}:known:{event.event_id}" for event in events)]
        if not records:
            return []
        with self._answering():
            fresh = self._append_events(keys, [self._clock(), _KNOWN_SECONDS, *records])
        return [bool(new) for new in cast(list[int], fresh)]

    def append_changes(self, changes: Sequence[Change]) -> None:
        """See ``EventLog``."""
        records = [change.to_json() for change in changes]
        if records:
            with self._answering():
                self._append([_key(CHANGES)], [self._clock(), *records])

    def append_exposures(self, exposures: Sequence[Exposure], *, writer: str, after: int) -> None:
        """See ``EventLog``."""
        records = [exposure.to_json() for exposure in exposures]
        if records:
            with self._answering():
                self._append_exposures([_key(EXPOSURES), _WRITTEN], [self._clock(), writer, after, *records])

    def settle_exposures(self, writer: str, *, taken: int) -> int:
        """See ``EventLog``."""
        with self._answering():
            return cast(int, self._settle_exposures([_WRITTEN, _LOST], [writer, taken]))

    def exposures_lost(self) -> int:
        """See ``EventLog``."""
        with self._answering():
            return int(cast(bytes | None, self._client.get(_LOST)) or 0)

    def read(self, stream: Stream[R], *, after: str | None, limit: int) -> list[Entry[R]]:
        """See ``EventLog``."""
        first = f"{place(after) + 1}"
        with self._answering():
            rows = self._client.xrange(_key(stream), min=first, count=limit)
        return [
            stream.entry(int(offset.partition(b"-")[0]), fields[b"record"])
            for offset, fields in cast(list[tuple[bytes, dict[bytes, bytes]]], rows)
        ]

    def trim(self, stream: Stream[Any], *, before: int) -> int:
        """See ``EventLog``; ids of events stay known until their keys expire."""
        with self._answering():
            return cast(int, self._client.xtrim(_key(stream), minid=str(before), approximate=False))

    def close(self) -> None:
        """See ``EventLog``."""
        self._client.close()

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except _Unfit as error:
            raise EventLogUnavailable(str(error)) from error
        except (redis.RedisError, OSError) as error:
            raise EventLogUnavailable(
                f"expected the event log in Redis at {self._where} to answer, found {type(error).__name__}: {error}; "
                "see that Redis runs and has room, and repeat the call"
            ) from error


def _key(stream: Stream[Any]) -> str:
    return f"{_TAG}:{stream.name}"


def _connected(connection: Any) -> None:
    """Greet Redis as the client would, then check that it keeps what it acknowledges."""
    connection.on_connect()
    for name, needed in DURABLE.items():
        connection.send_command("CONFIG", "GET", name)
        try:
            answer = cast(list[bytes], connection.read_response())
        except redis.ResponseError as error:
            raise _Unfit(
                f"expected to read Redis's setting {name}, found {error}; allow CONFIG GET, or, where you know that "
                f"{_settings()} hold, vouch for them with NEXTBEST_REDIS_DURABLE=true"
            ) from error
        found = answer[1].decode() if answer else "nothing"
        if found != needed:
            raise _Unfit(
                f"expected a Redis that keeps every event it acknowledges ({_settings()}), found {name} {found}; set "
                f"`{name} {needed}` in redis.conf, or by CONFIG SET and CONFIG REWRITE"
            )


def _settings() -> str:
    return ", ".join(f"{name} {value}" for name, value in DURABLE.items())
