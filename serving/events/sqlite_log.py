"""The event log in one SQLite file: WAL, full sync, group commit.

A commit costs a disk flush, so those who wait share one: of the threads of a process that append at the same time
one commits for all, and every process waits its turn for the file's one write lock. Log times are given under
that lock, so entries appear in their order. Readers never wait for a writer, nor writers for them.

The file is made when the log is first opened and never again: a file that vanishes, or is replaced, under a running
process (an unmounted disk, a moved directory) is an error until it is back, and nothing is acknowledged into a file
that nobody can find. It must be on a local disk. Trimmed room is used again; the file does not shrink.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, TypeVar

from serving.errors import EventLogUnavailable
from serving.events.records import Change, Event, Exposure
from serving.events.streams import CHANGES, EVENTS, EXPOSURES, KNOWN_DAYS, Entry, R, Stream, place

T = TypeVar("T")
_Work = Callable[[sqlite3.Connection, int], Any]

_BUSY_SECONDS: Final = 2.0
_ASK_SECONDS: Final = 0.001
_TRIM_ROWS: Final = 5_000
_KNOWN_US: Final = KNOWN_DAYS * 86_400_000_000

#: ``known`` outlives trimmed events; AUTOINCREMENT remembers the last log time when a stream is trimmed empty.
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS events (logged_at INTEGER PRIMARY KEY AUTOINCREMENT, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS changes (logged_at INTEGER PRIMARY KEY AUTOINCREMENT, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS exposures (logged_at INTEGER PRIMARY KEY AUTOINCREMENT, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS known (logged_at INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS writers (
    writer TEXT PRIMARY KEY, written INTEGER NOT NULL, lost INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
"""


class SqliteLog:
    """See ``EventLog``.

    Parameters
    ----------
    path
        The file; it and its directory are made when they are not there.
    clock
        The time in microseconds since 1970 UTC, read once a transaction.
    """

    def __init__(self, path: Path, *, clock: Callable[[], int]) -> None:
        self._path = path
        self._clock = clock
        self._waiting: deque[tuple[_Work, Future[Any]]] = deque()
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._writer = _Connection(path, timeout=0.0)
        self._reader = _Connection(path, timeout=_BUSY_SECONDS)
        self._is_made = False
        with contextlib.suppress(EventLogUnavailable), self._answering():
            self._make()

    def append_events(self, events: Sequence[Event]) -> list[bool]:
        """See ``EventLog``."""
        rows = [(event.event_id, event.to_json().decode()) for event in events]

        def append(connection: sqlite3.Connection, now: int) -> list[bool]:
            at = _next(connection, EVENTS, now)
            fresh = []
            for event_id, record in rows:
                added = connection.execute(
                    "INSERT INTO known VALUES (?, ?) ON CONFLICT (event_id) DO NOTHING", (at, event_id)
                )
                fresh.append(added.rowcount == 1)
                if fresh[-1]:
                    connection.execute("INSERT INTO events VALUES (?, ?)", (at, record))
                    at += 1
            return fresh

        return self._write(append) if rows else []

    def append_changes(self, changes: Sequence[Change]) -> None:
        """See ``EventLog``."""
        records = [change.to_json().decode() for change in changes]
        if records:
            self._write(lambda connection, now: _append(connection, CHANGES, records, now))

    def append_exposures(self, exposures: Sequence[Exposure], *, writer: str, after: int) -> None:
        """See ``EventLog``."""
        records = [exposure.to_json().decode() for exposure in exposures]

        def append(connection: sqlite3.Connection, now: int) -> None:
            written = _written(connection, writer)
            _append(connection, EXPOSURES, records[max(0, written - after) :], now)
            _note(connection, writer, max(written, after + len(records)), lost=0)

        if records:
            self._write(append)

    def settle_exposures(self, writer: str, *, taken: int) -> int:
        """See ``EventLog``."""

        def settle(connection: sqlite3.Connection, now: int) -> int:
            written = _written(connection, writer)
            lost = max(0, taken - written)
            _note(connection, writer, max(written, taken), lost=lost)
            return lost

        return self._write(settle)

    def exposures_lost(self) -> int:
        """See ``EventLog``."""
        return int(self._read("SELECT coalesce(sum(lost), 0) FROM writers")[0][0])

    def read(self, stream: Stream[R], *, after: str | None, limit: int) -> list[Entry[R]]:
        """See ``EventLog``."""
        rows = self._read(
            f"SELECT logged_at, record FROM {stream.name} WHERE logged_at > ? ORDER BY logged_at LIMIT ?",
            place(after),
            limit,
        )
        return [stream.entry(logged_at, record) for logged_at, record in rows]

    def trim(self, stream: Stream[Any], *, before: int) -> int:
        """See ``EventLog``; in short transactions, so that nobody waits long."""
        removed = self._trim(stream.name, lambda now: before)
        if stream is EVENTS:
            self._trim("known", lambda now: min(before, now - _KNOWN_US))
        return removed

    def close(self) -> None:
        """See ``EventLog``."""
        for lock, connection in ((self._writing, self._writer), (self._reading, self._reader)):
            with lock:
                connection.drop()

    def _trim(self, table: str, before: Callable[[int], int]) -> int:
        oldest = f"SELECT logged_at FROM {table} WHERE logged_at < ? ORDER BY logged_at LIMIT {_TRIM_ROWS}"

        def trim(connection: sqlite3.Connection, now: int) -> int:
            query = f"DELETE FROM {table} WHERE logged_at IN ({oldest})"
            return connection.execute(query, (before(now),)).rowcount

        removed = [self._write(trim)]
        while removed[-1] == _TRIM_ROWS:
            removed.append(self._write(trim))
        return sum(removed)

    def _write(self, work: Callable[[sqlite3.Connection, int], T]) -> T:
        """Do ``work`` in a transaction that it shares with all who wait; return its result once that is durable."""
        future: Future[T] = Future()
        self._waiting.append((work, future))
        with self._writing:
            if not future.done():
                self._commit()
        return future.result()

    def _commit(self) -> None:
        group: list[tuple[_Work, Future[Any]]] = []
        try:
            with self._answering():
                connection = self._opened(self._writer)
                _begin(connection)
                group = self._take()
                now = self._clock()
                results = [work(connection, now) for work, _ in group]
                connection.execute("COMMIT")
                self._writer.check()
        except BaseException as error:
            self._writer.drop()
            for _, future in [*group, *self._take()]:
                future.set_exception(error)
        else:
            for (_, future), result in zip(group, results, strict=True):
                future.set_result(result)

    def _take(self) -> list[tuple[_Work, Future[Any]]]:
        return [self._waiting.popleft() for _ in range(len(self._waiting))]

    def _read(self, query: str, *values: int) -> list[Any]:
        with self._reading:
            try:
                with self._answering():
                    rows = self._opened(self._reader).execute(query, values).fetchall()
                    self._reader.check()
                    return rows
            except EventLogUnavailable:
                self._reader.drop()
                raise

    def _opened(self, connection: _Connection) -> sqlite3.Connection:
        if not self._is_made:
            self._make()
        return connection.open()

    def _make(self) -> None:
        """Make the file, one process at a time."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            with contextlib.closing(sqlite3.connect(self._path, timeout=_BUSY_SECONDS)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.executescript(_TABLES)
        finally:
            os.close(directory)
        self._is_made = True

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise EventLogUnavailable(
                f"expected the event log {self._path} to answer, found {error}; see that it is there, can be "
                "written and has room, and repeat the call"
            ) from error


class _Connection:
    """A connection opened when it is needed, dropped at the first trouble, and true to the file at its path."""

    def __init__(self, path: Path, *, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        self._held: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    def open(self) -> sqlite3.Connection:
        """Return the connection; it never makes the file."""
        if self._held is None:
            self._held = sqlite3.connect(
                f"{self._path.absolute().as_uri()}?mode=rw",
                uri=True,
                timeout=self._timeout,
                isolation_level=None,
                check_same_thread=False,
            )
            self._held.execute("PRAGMA synchronous=FULL")
            self._file = self._at_path()
        return self._held

    def check(self) -> None:
        """Check that what was read or committed is in the file that stands at the path."""
        if self._at_path() != self._file:
            raise OSError("another file in its place")

    def drop(self) -> None:
        """Close the connection, and with it an open transaction; the next ``open`` makes a new one."""
        held, self._held = self._held, None
        if held is not None:
            with contextlib.suppress(sqlite3.Error):
                held.close()

    def _at_path(self) -> tuple[int, int]:
        found = self._path.stat()
        return found.st_dev, found.st_ino


def _begin(connection: sqlite3.Connection) -> None:
    """Take the write lock, asking every millisecond.

    SQLite's own waiting asks ever less often, up to 100 ms apart, and so one of several busy processes starves.
    """
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > deadline:
                raise
        time.sleep(_ASK_SECONDS)


def _next(connection: sqlite3.Connection, stream: Stream[Any], now: int) -> int:
    """Return the next log time of a stream: now, or just after the last one."""
    last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (stream.name,)).fetchone()
    return max(now, last[0] + 1) if last else now


def _append(connection: sqlite3.Connection, stream: Stream[Any], records: Sequence[str], now: int) -> None:
    at = _next(connection, stream, now)
    connection.executemany(f"INSERT INTO {stream.name} VALUES (?, ?)", enumerate(records, start=at))


def _written(connection: sqlite3.Connection, writer: str) -> int:
    row = connection.execute("SELECT written FROM writers WHERE writer = ?", (writer,)).fetchone()
    return int(row[0]) if row else 0


def _note(connection: sqlite3.Connection, writer: str, written: int, *, lost: int) -> None:
    connection.execute(
        "INSERT INTO writers VALUES (?, ?, ?)"
        " ON CONFLICT (writer) DO UPDATE SET written = excluded.written, lost = lost + excluded.lost",
        (writer, written, lost),
    )
