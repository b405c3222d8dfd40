"""Exposures on their way to the log: taken without waiting, written once, losses counted exactly."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from serving.errors import ConfigError, EventLogUnavailable
from serving.events import EXPOSURES, EventLog, Exposure, ExposureBuffer, open_log, settle
from tests.event_stores import Store, everything, until
from tests.event_writer import an_exposure
from tests.test_event_log_crash import killed


class Trouble:
    """A log that raises ``error`` while it is set, before or after it did what it was asked."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.error: Exception | None = None
        self.is_late = False

    def append_exposures(self, exposures: Sequence[Exposure], *, writer: str, after: int) -> None:
        if self.error is None or self.is_late:
            self._log.append_exposures(exposures, writer=writer, after=after)
        if self.error is not None:
            raise self.error

    def settle_exposures(self, writer: str, *, taken: int) -> int:
        if self.error is not None:
            raise self.error
        return self._log.settle_exposures(writer, taken=taken)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


DOWN = EventLogUnavailable("expected the event log to answer, found it down; start it")


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return open_log(tmp_path / "events")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "exposures"


def written(log: EventLog) -> list[str]:
    return [entry.record.request_id for entry in everything(log, EXPOSURES)]


def names(start: int, end: int) -> list[str]:
    return [f"r{i}" for i in range(start, end)]


def test_what_is_taken_is_written_in_order(log: EventLog, directory: Path) -> None:
    buffer = ExposureBuffer(log, directory)
    assert all(buffer.add(an_exposure(name)) for name in names(0, 1200))
    buffer.flush()
    buffer.flush()
    assert written(log) == names(0, 1200)
    buffer.add(an_exposure("r1200"))
    buffer.close()
    buffer.close()
    assert written(log) == names(0, 1201)
    assert (buffer.taken, buffer.written, buffer.dropped) == (1201, 1201, 0)
    assert list(directory.iterdir()) == [], "nothing to settle"
    assert not buffer.add(an_exposure("late")) and buffer.dropped == 1


def test_it_is_written_in_the_background(log: EventLog, directory: Path) -> None:
    buffer = ExposureBuffer(log, directory, flush_seconds=0.01)
    buffer.start()
    buffer.add(an_exposure("r0"))
    until(lambda: written(log))
    buffer.close()
    assert written(log) == ["r0"]


def test_threads_add_at_once_while_it_is_written(log: EventLog, directory: Path) -> None:
    buffer = ExposureBuffer(log, directory, flush_seconds=0.001)
    buffer.start()

    def add(thread: int) -> None:
        for number in range(500):
            buffer.add(an_exposure(f"{thread}-{number}"))

    threads = [threading.Thread(target=add, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    buffer.close()
    assert sorted(written(log)) == sorted(
        f"{thread}-{number}" for thread in range(4) for number in range(500)
    )
    assert buffer.taken == buffer.written == 2000


def test_while_the_log_is_down_it_keeps_the_oldest_up_to_its_bound(
    log: EventLog, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trouble = Trouble(log)
    trouble.error = DOWN
    buffer = ExposureBuffer(trouble, directory, capacity=3)
    assert [buffer.add(an_exposure(name)) for name in names(0, 5)] == [True, True, True, False, False]
    for _ in range(3):
        buffer.flush()
    assert buffer.problem == str(DOWN)
    assert len(caplog.records) == 1, "told once, not at every try"
    trouble.error = None
    buffer.flush()
    assert buffer.problem == ""
    assert buffer.add(an_exposure("r5"))
    buffer.close()
    assert written(log) == ["r0", "r1", "r2", "r5"]
    assert (buffer.taken, buffer.written, buffer.dropped) == (4, 4, 2)


def test_an_answer_that_got_lost_doubles_nothing(log: EventLog, directory: Path) -> None:
    trouble = Trouble(log)
    trouble.error, trouble.is_late = DOWN, True
    buffer = ExposureBuffer(trouble, directory)
    buffer.add(an_exposure("r0"))
    buffer.flush()
    buffer.add(an_exposure("r1"))
    buffer.flush()
    assert buffer.written == 0
    trouble.error = None
    buffer.close()
    assert written(log) == ["r0", "r1"]


def test_the_writing_outlives_whatever_the_log_raises(log: EventLog, directory: Path) -> None:
    trouble = Trouble(log)
    trouble.error = RuntimeError("something no one foresaw")
    buffer = ExposureBuffer(trouble, directory, flush_seconds=0.001)
    buffer.start()
    buffer.add(an_exposure("r0"))
    until(lambda: buffer.problem)
    assert buffer.problem == "RuntimeError: something no one foresaw"
    trouble.error = None
    until(lambda: buffer.written)
    buffer.close()
    assert written(log) == ["r0"]


def test_what_json_cannot_hold_is_dropped_and_holds_up_nobody(log: EventLog, directory: Path) -> None:
    buffer = ExposureBuffer(log, directory)
    assert [buffer.add(an_exposure(name)) for name in ("r0", "\ud800", "r1")] == [True, False, True]
    buffer.close()
    assert written(log) == ["r0", "r1"]
    assert (buffer.taken, buffer.dropped) == (2, 1)


def test_a_directory_that_cannot_be_is_told(log: EventLog, directory: Path) -> None:
    directory.write_text("in the way")
    with pytest.raises(ConfigError, match="expected to keep a count in"):
        ExposureBuffer(log, directory)


# losses -----------------------------------------------------------------------------------------------------------


def test_the_living_are_not_settled(log: EventLog, directory: Path) -> None:
    assert settle(directory, log) == 0, "no directory yet"
    buffer = ExposureBuffer(log, directory)
    buffer.add(an_exposure("r0"))
    assert settle(directory, log) == 0
    assert len(list(directory.iterdir())) == 1
    buffer.close()
    assert written(log) == ["r0"]


def test_what_the_log_did_not_take_at_the_end_is_lost_and_counted(log: EventLog, directory: Path) -> None:
    trouble = Trouble(log)
    buffer = ExposureBuffer(trouble, directory)
    buffer.add(an_exposure("r0"))
    buffer.flush()
    trouble.error = DOWN
    buffer.add(an_exposure("r1"))
    buffer.add(an_exposure("r2"))
    buffer.close()
    with pytest.raises(EventLogUnavailable):
        settle(directory, trouble)
    trouble.error = None
    assert settle(directory, trouble) == 2
    assert settle(directory, trouble) == 0
    assert log.exposures_lost() == 2
    assert written(log) == ["r0"]


@pytest.mark.parametrize("seconds", [0.02, 60])
def test_the_loss_of_a_killed_writer_is_what_it_took_less_what_is_there(
    event_store: Store, caplog: pytest.LogCaptureFixture, seconds: float
) -> None:
    """Written every 20 ms, or not at all: then everything is lost."""
    log = event_store.open()
    directory = event_store.directory / "exposures"
    before = 0
    for name in ("first", "second"):
        process = event_store.process("exposures", name, seconds)
        assert process.stdout is not None
        while seconds < 1 and not any(request_id.startswith(name) for request_id in written(log)):
            process.stdout.readline()
        told = int(killed(process, after=100)[-1])
        (file,) = directory.iterdir()
        taken = int.from_bytes(file.read_bytes(), sys.byteorder)
        assert told <= taken <= told + 1, "the last may have been taken and not told"
        there = [request_id for request_id in written(log) if request_id.startswith(name)]
        assert there == [f"{name}-{i}" for i in range(len(there))]
        assert (len(there) == 0) == (seconds == 60)
        with caplog.at_level(logging.WARNING, "nextbest"):
            lost = settle_by_many(directory, log)
        assert lost == taken - len(there)
        assert log.exposures_lost() == before + lost
        before += lost
        assert list(directory.iterdir()) == []
    assert ("exposures were lost" in caplog.text) == (before > 0)


def settle_by_many(directory: Path, log: EventLog) -> int:
    """Settle from several threads at once; return the sum of what they found."""
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(settle(directory, log))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    return sum(found)
