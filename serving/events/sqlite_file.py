"""One SQLite file that many threads and processes write, every commit flushed to disk and shared by all who wait.

A flush is what a commit costs: of the threads of a process that write at the same time one commits for all, and
processes take turns at the file's one write lock. Readers never wait for a writer, nor a writer for them (WAL).

The file is made when it is first used and never again: a file that vanishes, or is replaced, under a running process
(an unmounted disk, a moved directory) is an error until it is back, and nothing is acknowledged into a file that
nobody can find. It must be on a local disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, TypeVar

from serving.errors import EventLogUnavailable

T = TypeVar("T")
_Work = Callable[[sqlite3.Connection, int], Any]

_BUSY_SECONDS: Final = 2.0
_ASK_SECONDS: Final = 0.001


class SqliteFile:
    """The file, one connection of this process that writes it and one that reads.

    Parameters
    ----------
    path
        The file; it and its directory are made when they are not there.
    tables
        The statements that make its tables; they must do no harm when the tables are there.
    clock
        The time in microseconds since 1970 UTC, read once a transaction.
    """

    def __init__(self, path: Path, *, tables: str, clock: Callable[[], int]) -> None:
        self._path = path
        self._tables = tables
        self._clock = clock
        self._waiting: deque[tuple[_Work, Future[Any]]] = deque()
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._writer = _Connection(path, timeout=0.0)
        self._reader = _Connection(path, timeout=_BUSY_SECONDS)
        self._is_made = False
        with contextlib.suppress(EventLogUnavailable), self._answering():
            self._make()

    def write(self, work: Callable[[sqlite3.Connection, int], T]) -> T:
        """Do ``work(connection, now)`` in a transaction shared with all who wait; return its result once durable.

        Raises
        ------
        EventLogUnavailable
            The file did not take it, or not surely.
        """
        future: Future[T] = Future()
        self._waiting.append((work, future))
        with self._writing:
            if not future.done():
                self._commit()
        return future.result()

    def read(self, query: str, *values: int) -> list[Any]:
        """Return the rows of a query; EventLogUnavailable when the file cannot be read."""
        with self._reading:
            try:
                with self._answering():
                    rows = self._opened(self._reader).execute(query, values).fetchall()
                    self._reader.check()
                    return rows
            except EventLogUnavailable:
                self._reader.drop()
                raise

    def close(self) -> None:
        """Close both connections."""
        for lock, connection in ((self._writing, self._writer), (self._reading, self._reader)):
            with lock:
                connection.drop()

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
            for _, future in group or self._take():
                future.set_exception(error)
        else:
            for (_, future), result in zip(group, results, strict=True):
                future.set_result(result)

    def _take(self) -> list[tuple[_Work, Future[Any]]]:
        return [self._waiting.popleft() for _ in range(len(self._waiting))]

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
                connection.executescript(self._tables)
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
