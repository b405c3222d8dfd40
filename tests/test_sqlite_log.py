"""The event log in SQLite: shared commits, and every way in which a file can fail and come back."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from serving.errors import EventLogUnavailable
from serving.events import CHANGES, EVENTS, KNOWN_DAYS, Change, open_log, sqlite_file, sqlite_log
from tests.event_stores import everything, ids, until
from tests.event_writer import an_event

DAY = 86_400_000_000
NOBODY = 65534


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "events"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the file's write lock, as another process would."""
    with closing(sqlite3.connect(directory / "events.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_what_is_committed_is_flushed(directory: Path) -> None:
    file = sqlite_file.SqliteFile(directory / "events.db", tables="", clock=lambda: 1)
    connection = file.write(lambda connection, now: connection)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,), "FULL: a flush for each commit"


def test_those_who_wait_share_one_commit(directory: Path) -> None:
    transactions = []

    def clock() -> int:  # read once a transaction
        transactions.append(1)
        return 1

    log = sqlite_log.SqliteLog(directory / "events.db", clock=clock)
    answers: dict[int, list[bool]] = {}

    def append(i: int) -> None:
        answers[i] = log.append_events([an_event(f"e{i}"), an_event("common")])

    threads = [threading.Thread(target=append, args=(i,), daemon=True) for i in range(8)]
    with locked(directory):
        for thread in threads:
            thread.start()
        until(lambda: len(log._file._waiting) == 8)
    until(lambda: len(answers) == 8)
    assert len(transactions) == 1
    assert all(answers[i][0] for i in range(8)), "each got its own answer"
    assert sum(answers[i][1] for i in range(8)) == 1
    assert len(everything(log)) == 9


def test_a_lock_held_too_long_is_told_to_all_who_wait(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "_BUSY_SECONDS", 0.3)
    log = open_log(directory)
    errors = []

    def append(name: str) -> None:
        try:
            log.append_events([an_event(name)])
        except EventLogUnavailable as error:
            errors.append(str(error))

    threads = [threading.Thread(target=append, args=(name,), daemon=True) for name in "abc"]
    with locked(directory):
        for thread in threads:
            thread.start()
        until(lambda: len(errors) == 3)
    assert all("database is locked" in error for error in errors)
    assert ids(log) == []
    assert log.append_events([an_event(name) for name in "abc"]) == [True] * 3


def test_an_error_nobody_foresaw_reaches_every_caller(directory: Path) -> None:
    """A bug may not leave others waiting for ever; the log goes on."""
    ticks = iter([ZeroDivisionError("clock"), None])

    def clock() -> int:
        if (trouble := next(ticks)) is not None:
            raise trouble
        return 5

    log = open_log(directory, clock=clock)
    with pytest.raises(ZeroDivisionError):
        log.append_events([an_event("a")])
    assert log.append_events([an_event("a")]) == [True]


def test_readers_and_the_writer_do_not_wait_for_each_other(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "_BUSY_SECONDS", 0.0)
    log = open_log(directory)
    log.append_events([an_event("a")])
    with locked(directory):
        assert ids(log) == ["a"]
    with closing(sqlite3.connect(directory / "events.db", isolation_level=None)) as other:
        other.execute("BEGIN")
        assert other.execute("SELECT count(*) FROM events").fetchone() == (1,)
        assert log.append_events([an_event("b")]) == [True]
        assert other.execute("SELECT count(*) FROM events").fetchone() == (1,)
    assert ids(log) == ["a", "b"]


def test_ids_are_forgotten_with_their_events_and_not_sooner(directory: Path) -> None:
    now = [1_800_000_000_000_000]
    log = open_log(directory, clock=lambda: now[0])
    log.append_events([an_event("a")])
    log.trim(EVENTS, before=now[0] + 1)
    now[0] += (KNOWN_DAYS + 1) * DAY
    log.append_events([an_event("b")])
    now[0] += (KNOWN_DAYS + 1) * DAY
    log.trim(EVENTS, before=now[0] - (KNOWN_DAYS + 2) * DAY)
    assert log.append_events([an_event("a")]) == [True], "long gone"
    assert log.append_events([an_event("b")]) == [False], "still in the log"


def test_a_long_trim_goes_in_parts(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_log, "_TRIM_ROWS", 4)
    log = open_log(directory)
    for count in (3, 4, 8, 9):
        log.append_changes([Change("product", "p", {}, i) for i in range(count)])
        last = everything(log, CHANGES)[-1].logged_at
        assert log.trim(CHANGES, before=last) == count - 1
        assert log.trim(CHANGES, before=last + 1) == 1


def test_a_directory_that_goes_away_is_told_until_it_is_back(directory: Path) -> None:
    log = open_log(directory)
    log.append_events([an_event("a")])
    away = directory.with_name("away")
    directory.rename(away)
    for _ in range(2):
        with pytest.raises(EventLogUnavailable, match=r"expected the event log .*events\.db to answer"):
            log.append_events([an_event("b")])
        with pytest.raises(EventLogUnavailable):
            ids(log)
    directory.mkdir()
    with pytest.raises(EventLogUnavailable):
        log.append_events([an_event("b")])
    assert list(directory.iterdir()) == [], "an empty mount point does not become a new log"
    directory.rmdir()
    away.rename(directory)
    # the first try had been written before the file was found gone; it was not acknowledged, and is not doubled
    log.append_events([an_event("b")])
    assert log.append_events([an_event("c")]) == [True]
    assert ids(log) == ["a", "b", "c"]


def test_nothing_is_acknowledged_into_a_file_that_was_replaced(directory: Path) -> None:
    log = open_log(directory)
    log.append_events([an_event("a")])
    assert ids(log) == ["a"]
    directory.rename(directory.with_name("away"))
    other = open_log(directory)
    other.append_events([an_event("x")])
    with pytest.raises(EventLogUnavailable, match="another file in its place"):
        log.append_events([an_event("b")])
    with pytest.raises(EventLogUnavailable, match="another file in its place"):
        ids(log)
    assert log.append_events([an_event("b")]) == [True]
    assert ids(log) == ids(other) == ["x", "b"]


def test_a_file_that_is_no_database_is_told(directory: Path) -> None:
    log = open_log(directory)
    log.append_events([an_event("a")])
    log.close()
    file = directory / "events.db"
    shutil.copy(file, directory / "kept")
    file.write_bytes(b"nonsense" * 1000)
    with pytest.raises(EventLogUnavailable, match="not a database"):
        log.append_events([an_event("b")])
    shutil.copy(directory / "kept", file)
    assert log.append_events([an_event("b")]) == [True]


def test_a_full_disk_is_told_and_nothing_is_half_written(directory: Path) -> None:
    """The limit on the size of a file stands in for the full disk: writing beyond it fails."""
    log = open_log(directory)
    log.append_events([an_event("a")])
    wal = (directory / "events.db-wal").stat().st_size
    batch = [an_event(f"{i}-{'x' * 500}") for i in range(200)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (wal + 20_000, hard))
    try:
        for _ in range(2):
            with pytest.raises(EventLogUnavailable):
                log.append_events(batch)
            assert ids(log) == ["a"], "readers go on"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert log.append_events(batch) == [True] * 200
    assert len(everything(log)) == 201


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Take away the right to write; root, whom modes do not stop, becomes nobody for the while."""
    paths = [directory, *directory.iterdir()]
    modes = [path.stat().st_mode for path in paths]
    for path, mode in zip(paths, modes, strict=True):
        path.chmod(mode & 0o555 | 0o444)
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
        for path, mode in zip(paths, modes, strict=True):
            path.chmod(mode)


def test_a_file_that_cannot_be_written_is_told_until_it_can() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own are closed to nobody
        directory = Path(name)
        directory.chmod(0o755)
        before = open_log(directory)
        before.append_events([an_event("a")])
        before.close()
        with read_only(directory):
            log = open_log(directory)
            with pytest.raises(EventLogUnavailable, match="expected the event log"):
                log.append_events([an_event("b")])
        assert log.append_events([an_event("b")]) == [True]
        assert ids(log) == ["a", "b"]


def test_a_log_that_cannot_be_made_yet_is_made_later(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("in the way")
    log = open_log(tmp_path / "home" / "events")
    for _ in range(2):
        with pytest.raises(EventLogUnavailable):
            log.append_events([an_event("a")])
        with pytest.raises(EventLogUnavailable):
            log.exposures_lost()
    (tmp_path / "home").unlink()
    assert log.append_events([an_event("a")]) == [True]
