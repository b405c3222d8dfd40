"""The event log in one SQLite file.

Log times are given under the file's write lock, so that entries appear in their order. What stands here is which
rows a record becomes; how they reach the disk is in ``sqlite_file``. Trimmed room is used again; the file does not
shrink.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from serving.events.records import Change, Event, Exposure
from serving.events.sqlite_file import SqliteFile
from serving.events.streams import CHANGES, EVENTS, EXPOSURES, KNOWN_DAYS, Entry, R, Stream, place

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
        self._file = SqliteFile(path, tables=_TABLES, clock=clock)

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

        return self._file.write(append) if rows else []

    def append_changes(self, changes: Sequence[Change]) -> None:
        """See ``EventLog``."""
        records = [change.to_json().decode() for change in changes]
        if records:
            self._file.write(lambda connection, now: _append(connection, CHANGES, records, now))

    def append_exposures(self, exposures: Sequence[Exposure], *, writer: str, after: int) -> None:
        """See ``EventLog``."""
        records = [exposure.to_json().decode() for exposure in exposures]

        def append(connection: sqlite3.Connection, now: int) -> None:
            written = _written(connection, writer)
            _append(connection, EXPOSURES, records[max(0, written - after) :], now)
            _note(connection, writer, max(written, after + len(records)), lost=0)

        if records:
            self._file.write(append)

    def settle_exposures(self, writer: str, *, taken: int) -> int:
        """See ``EventLog``."""

        def settle(connection: sqlite3.Connection, now: int) -> int:
            written = _written(connection, writer)
            lost = max(0, taken - written)
            _note(connection, writer, max(written, taken), lost=lost)
            return lost

        return self._file.write(settle)

    def exposures_lost(self) -> int:
        """See ``EventLog``."""
        return int(self._file.read("SELECT coalesce(sum(lost), 0) FROM writers")[0][0])

    def read(self, stream: Stream[R], *, after: str | None, limit: int) -> list[Entry[R]]:
        """See ``EventLog``."""
        rows = self._file.read(
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
        self._file.close()

    def _trim(self, table: str, before: Callable[[int], int]) -> int:
        oldest = f"SELECT logged_at FROM {table} WHERE logged_at < ? ORDER BY logged_at LIMIT {_TRIM_ROWS}"

        def trim(connection: sqlite3.Connection, now: int) -> int:
            query = f"DELETE FROM {table} WHERE logged_at IN ({oldest})"
            return connection.execute(query, (before(now),)).rowcount

        removed = [self._file.write(trim)]
        while removed[-1] == _TRIM_ROWS:
            removed.append(self._file.write(trim))
        return sum(removed)


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
