"""The consumer's state in Redis, beside the log there, for workers on several machines.

The lease is a key with the holder's token that runs out; every write is a script that looks at the token first, so
that a consumer which slept through its lease changes nothing any more.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from serving.errors import EventLogUnavailable
from serving.events.fold import Lines
from serving.events.states import Position, Touched, decoded, encoded

LEASE_MS: Final = 3_000
CLAIM_MS: Final = 10_000
_LINES: Final = "{nextbest}:histories"
_TOUCHED: Final = "{nextbest}:histories:touched"
_CONSUMER: Final = "{nextbest}:consumer"
_LEASE: Final = "{nextbest}:consumer:lease"
_SESSIONS: Final = "{nextbest}:histories:sessions"
_CLAIMANT: Final = "{nextbest}:consumer:claimant"
_KEYS: Final = (_LEASE, _LINES, _TOUCHED, _CONSUMER, _SESSIONS, _CLAIMANT)

_HELD: Final = (
    "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end\n"
    f"redis.call('PEXPIRE', KEYS[1], {LEASE_MS})\n"
)
_TAKE: Final = """
local holder, claimant = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[6])
if claimant and claimant ~= ARGV[1] then
    if holder == ARGV[1] then redis.call('DEL', KEYS[1]) end
    return 0
end
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_COMMIT: Final = (
    _HELD
    + """
for place = 4, #ARGV, 2 do
    redis.call('HSET', KEYS[2], ARGV[place], ARGV[place + 1])
    redis.call('ZADD', KEYS[3], ARGV[3], ARGV[place])
    if string.byte(ARGV[place]) == 31 then redis.call('ZADD', KEYS[5], ARGV[3], ARGV[place]) end
end
if ARGV[2] == '' then redis.call('HDEL', KEYS[4], 'offset') else redis.call('HSET', KEYS[4], 'offset', ARGV[2]) end
redis.call('HSET', KEYS[4], 'stamp', ARGV[3])
return 1
"""
)
_PUSHED: Final = _HELD + "redis.call('HSET', KEYS[4], 'pushed', ARGV[2]) return 1"
_FORGET: Final = (
    _HELD
    + """
for place = 2, #ARGV do
    redis.call('HDEL', KEYS[2], ARGV[place])
    redis.call('ZREM', KEYS[3], ARGV[place])
    redis.call('ZREM', KEYS[5], ARGV[place])
end
return 1
"""
)
_CLEAR: Final = (
    _HELD
    + """
redis.call('DEL', KEYS[2], KEYS[3], KEYS[5])
redis.call('HDEL', KEYS[4], 'offset')
redis.call('HSET', KEYS[4], 'pushed', redis.call('HGET', KEYS[4], 'stamp') or 0)
return 1
"""
)
_CLAIM: Final = "redis.call('SET', KEYS[6], ARGV[1], 'NX', 'PX', ARGV[2]) return 1"
_RELEASE: Final = """
for _, key in ipairs({KEYS[1], KEYS[6]}) do
    if redis.call('GET', key) == ARGV[1] then redis.call('DEL', key) end
end
return 1
"""


class RedisStates:
    """See ``States``.

    Parameters
    ----------
    url
        ``redis://[:password@]host:port/db``, or ``rediss://``.
    """

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(
            url, protocol=2, socket_connect_timeout=0.5, socket_timeout=2.0, retry=Retry(NoBackoff(), 0)
        )
        self._token = uuid.uuid4().hex
        self._scripts = {
            text: self._client.register_script(text)
            for text in (_TAKE, _CLAIM, _COMMIT, _PUSHED, _FORGET, _CLEAR, _RELEASE)
        }

    def lease(self) -> bool:
        """See ``States``."""
        return bool(self._run(_TAKE, LEASE_MS))

    def claim(self, *, seconds: float) -> bool:
        """See ``States``."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._run(_CLAIM, CLAIM_MS)
            if self.lease():
                return True
            time.sleep(0.05)
        return False

    def position(self) -> Position:
        """See ``States``."""
        with self._answering():
            held: dict[bytes, bytes] = self._client.hgetall(_CONSUMER)  # type: ignore[assignment]
        offset = held.get(b"offset")
        return Position(
            None if offset is None else offset.decode(),
            int(held.get(b"stamp", 0)),
            int(held.get(b"pushed", 0)),
        )

    def lines(self, keys: Sequence[str]) -> dict[str, Lines]:
        """See ``States``."""
        if not keys:
            return {}
        with self._answering():
            found: list[Any] = self._client.hmget(_LINES, list(keys))  # type: ignore[assignment]
        return {key: decoded(raw) for key, raw in zip(keys, found, strict=True) if raw is not None}

    def commit(self, histories: Mapping[str, Lines], *, offset: str | None, stamp: int) -> None:
        """See ``States``."""
        rows = [part for key, lines in histories.items() for part in (key, encoded(lines))]
        self._held(_COMMIT, offset or "", stamp, *rows)

    def unpushed(self, *, limit: int) -> list[Touched]:
        """See ``States``."""
        pushed = self.position().pushed
        with self._answering():
            found: list[tuple[bytes, float]] = self._client.zrangebyscore(
                _TOUCHED, f"({pushed}", "+inf", start=0, num=limit, withscores=True
            )  # type: ignore[assignment]
        lines = self.lines([key.decode() for key, _ in found])
        return [
            Touched(key.decode(), lines[key.decode()], int(stamp))
            for key, stamp in found
            if key.decode() in lines
        ]

    def mark_pushed(self, stamp: int) -> None:
        """See ``States``."""
        self._held(_PUSHED, max(stamp, self.position().pushed))

    def sessions_before(self, stamp: int, *, limit: int) -> list[str]:
        """See ``States``."""
        with self._answering():
            found: list[bytes] = self._client.zrangebyscore(
                _SESSIONS, "-inf", f"({stamp}", start=0, num=limit
            )  # type: ignore[assignment]
        return [key.decode() for key in found]

    def forget(self, keys: Sequence[str]) -> None:
        """See ``States``."""
        self._held(_FORGET, *keys)

    def clear(self) -> None:
        """See ``States``."""
        self._held(_CLEAR)

    def close(self) -> None:
        """See ``States``."""
        with contextlib.suppress(EventLogUnavailable):
            self._run(_RELEASE)
        self._client.close()

    def _held(self, script: str, *arguments: str | bytes | int) -> None:
        if not self._run(script, *arguments):
            raise EventLogUnavailable(
                "expected the consumer's lease, found it lost; another consumer goes on"
            )

    def _run(self, script: str, *arguments: str | bytes | int) -> Any:
        with self._answering():
            return self._scripts[script](keys=list(_KEYS), args=[self._token, *arguments])

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            raise EventLogUnavailable(
                f"expected Redis to answer with the consumer's state, found {type(error).__name__}: {error}; check it"
            ) from error
