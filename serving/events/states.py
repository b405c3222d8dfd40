"""What the consumer knows: touched histories and how far the log was folded, committed as one.

Histories lie here only once an event has touched them; all others are what the online store was given from the tables.
``touched`` is the log time of the commit that last changed a history: strictly increasing, it is also the timestamp
with which the whole row is pushed, and ``pushed`` says up to which one that was done. One consumer works at a time,
by lease: a lock on a file where all workers share a machine, a key that runs out where they share a Redis
(``serving.events.redis_states``).
"""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol

import orjson

from serving.errors import EventLogUnavailable
from serving.events.fold import Lines, session_key

_BUSY_SECONDS: Final = 2.0
_KEYS: Final = 500
_CLAIM_SECONDS: Final = 0.05
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS histories (key TEXT PRIMARY KEY, lines TEXT NOT NULL, touched INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS touched ON histories (touched);
CREATE TABLE IF NOT EXISTS consumer (
    one INTEGER PRIMARY KEY CHECK (one = 1), "offset" TEXT, stamp INTEGER NOT NULL, pushed INTEGER NOT NULL
);
INSERT OR IGNORE INTO consumer VALUES (1, NULL, 0, 0);
"""


@dataclass(frozen=True)
class Position:
    """How far the consumer is: the log's offset, the last commit's stamp, and the stamp up to which rows are pushed."""

    offset: str | None
    stamp: int
    pushed: int


@dataclass(frozen=True)
class Touched:
    """A history and the stamp of the commit that last changed it."""

    key: str
    lines: Lines
    stamp: int


class States(Protocol):
    """The consumer's store. Every method but ``close`` raises ``EventLogUnavailable`` while it does not answer."""

    def lease(self) -> bool:
        """Take the lease, or keep it; False while another consumer holds it."""
        ...

    def claim(self, *, seconds: float) -> bool:
        """Ask whoever holds the lease to give it up, and wait for it; False when it does not come in time."""
        ...

    def position(self) -> Position:
        """Return how far the log was folded and pushed."""
        ...

    def lines(self, keys: Sequence[str]) -> dict[str, Lines]:
        """Return the histories of those keys that were touched before."""
        ...

    def commit(self, histories: Mapping[str, Lines], *, offset: str | None, stamp: int) -> None:
        """Replace histories and move the offset, both or neither; EventLogUnavailable when the lease was lost."""
        ...

    def unpushed(self, *, limit: int) -> list[Touched]:
        """Return touched histories that were not pushed yet, in the order of their stamps."""
        ...

    def mark_pushed(self, stamp: int) -> None:
        """Note that every history touched up to ``stamp`` is pushed."""
        ...

    def sessions_before(self, stamp: int, *, limit: int) -> list[str]:
        """Return the keys of sessions that were last touched before ``stamp``."""
        ...

    def forget(self, keys: Sequence[str]) -> None:
        """Remove histories."""
        ...

    def clear(self) -> None:
        """Forget every history and the offset, so that the log is folded from its beginning; stamps go on."""
        ...

    def close(self) -> None:
        """Give up the lease and the store."""
        ...


def encoded(lines: Lines) -> bytes:
    """Return a history as JSON."""
    return orjson.dumps(lines)


def decoded(raw: bytes | str) -> Lines:
    """Read what ``encoded`` wrote."""
    return tuple((at, product, kind, float(value)) for at, product, kind, value in orjson.loads(raw))


class SqliteStates:
    """See ``States``; in one SQLite file beside the embedded log, with a lock file as the lease.

    The lock ends with the process that holds it, however that ends.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._lock: IO[bytes] | None = None
        self._claim: IO[bytes] | None = None

    def lease(self) -> bool:
        """See ``States``."""
        if self._claim is None:
            with self._answering():
                claim = _locked(self._path.with_suffix(".claim"))
            if claim is None:  # somebody else waits for the lease
                self._release()
                return False
            claim.close()
        if self._lock is None:
            with self._answering():
                self._lock = _locked(self._path.with_suffix(".lock"))
        return self._lock is not None

    def claim(self, *, seconds: float) -> bool:
        """See ``States``."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._claim is None:
                with self._answering():
                    self._claim = _locked(self._path.with_suffix(".claim"))
            if self._claim is not None and self.lease():
                return True
            time.sleep(_CLAIM_SECONDS)
        return False

    def position(self) -> Position:
        """See ``States``."""
        with self._answering() as connection:
            row = connection.execute('SELECT "offset", stamp, pushed FROM consumer').fetchone()
            return Position(*row)

    def lines(self, keys: Sequence[str]) -> dict[str, Lines]:
        """See ``States``."""
        found: dict[str, Lines] = {}
        with self._answering() as connection:
            for start in range(0, len(keys), _KEYS):
                some = keys[start : start + _KEYS]
                query = f"SELECT key, lines FROM histories WHERE key IN ({', '.join('?' * len(some))})"
                found |= {key: decoded(raw) for key, raw in connection.execute(query, some)}
        return found

    def commit(self, histories: Mapping[str, Lines], *, offset: str | None, stamp: int) -> None:
        """See ``States``."""
        rows = [(key, encoded(lines).decode(), stamp) for key, lines in histories.items()]
        with self._answering() as connection, _transaction(connection):
            connection.executemany("INSERT OR REPLACE INTO histories VALUES (?, ?, ?)", rows)
            connection.execute('UPDATE consumer SET "offset" = ?, stamp = ?', (offset, stamp))

    def unpushed(self, *, limit: int) -> list[Touched]:
        """See ``States``."""
        query = (
            "SELECT key, lines, touched FROM histories WHERE touched > (SELECT pushed FROM consumer) "
            "ORDER BY touched, key LIMIT ?"
        )
        with self._answering() as connection:
            return [
                Touched(key, decoded(raw), stamp) for key, raw, stamp in connection.execute(query, (limit,))
            ]

    def mark_pushed(self, stamp: int) -> None:
        """See ``States``."""
        self._execute("UPDATE consumer SET pushed = max(pushed, ?)", [(stamp,)])

    def sessions_before(self, stamp: int, *, limit: int) -> list[str]:
        """See ``States``."""
        first = session_key("")
        query = (
            "SELECT key FROM histories WHERE key >= ? AND key < ? AND touched < ? ORDER BY touched LIMIT ?"
        )
        with self._answering() as connection:
            rows = connection.execute(query, (first, first + "\U0010ffff", stamp, limit))
            return [key for (key,) in rows]

    def forget(self, keys: Sequence[str]) -> None:
        """See ``States``."""
        self._execute("DELETE FROM histories WHERE key = ?", [(key,) for key in keys])

    def clear(self) -> None:
        """See ``States``."""
        with self._answering() as connection, _transaction(connection):
            connection.execute("DELETE FROM histories")
            connection.execute('UPDATE consumer SET "offset" = NULL, pushed = stamp')

    def close(self) -> None:
        """See ``States``."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._release()
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _execute(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        with self._answering() as connection, _transaction(connection):
            connection.executemany(statement, rows)

    @contextlib.contextmanager
    def _answering(self) -> Iterator[sqlite3.Connection]:
        try:
            if self._connection is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._connection = sqlite3.connect(
                    self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
                )
                self._connection.execute("PRAGMA journal_mode=WAL")
                self._connection.execute("PRAGMA synchronous=FULL")
                self._connection.executescript(_TABLES)
            yield self._connection
        except (sqlite3.Error, OSError) as error:
            if self._connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.close()
                self._connection = None
            raise EventLogUnavailable(
                f"expected the consumer's state {self._path} to answer, found {error}; see that it is there, can be "
                "written and has room"
            ) from error


def _locked(path: Path) -> IO[bytes] | None:
    """Return the file, locked; None when another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
