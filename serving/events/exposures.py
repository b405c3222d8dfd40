"""Exposures on their way to the log: taken in microseconds, written in the background, losses counted exactly.

An answer must not wait for a disk, so what was shown is kept in memory for up to a quarter of a second; a process
that is killed loses it. How much is known: each writer counts what it takes in a small file mapped into memory,
which survives the process, and the log keeps, with the exposures themselves, up to which number it has them. The
writer holds a lock on its file as long as it lives; whoever finds a file without an owner settles it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import sys
import threading
import uuid
from collections import deque
from itertools import islice
from pathlib import Path
from typing import Final

from serving.errors import ConfigError, DataError, EventLogUnavailable
from serving.events.log import EventLog
from serving.events.records import Exposure

logger = logging.getLogger("nextbest")

_SUFFIX: Final = ".taken"
_BYTES: Final = 8
_BATCH: Final = 500


class ExposureBuffer:
    """Takes exposures from any thread and writes them to the log from one of its own.

    ``taken``, ``written`` and ``dropped`` count since the start; ``problem`` says why the log does not take them now,
    empty when it does.

    Parameters
    ----------
    log
        Where they go; while it cannot take them they wait.
    directory
        Where the writers of this machine keep their counts; made when it is not there.
    capacity
        How many wait at the most; while so many wait, what comes is dropped and counted.
    flush_seconds
        How often they are written.

    Raises
    ------
    ConfigError
        The file of the count cannot be made.
    """

    def __init__(
        self, log: EventLog, directory: Path, *, capacity: int = 10_000, flush_seconds: float = 0.25
    ) -> None:
        self._log = log
        self._capacity = capacity
        self._flush_seconds = flush_seconds
        self._waiting: deque[Exposure] = deque()
        self._taking = threading.Lock()
        self._flushing = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="exposures", daemon=True)
        self._is_closed = False
        self._count = _Count(directory)
        self.taken = 0
        self.written = 0
        self.dropped = 0
        self.problem = ""

    def start(self) -> None:
        """Begin to write in the background."""
        self._thread.start()

    def add(self, exposure: Exposure) -> bool:
        """Take an exposure; False when it was dropped: the buffer is full or closed, or JSON cannot hold it."""
        is_sound = _is_sound(exposure)  # one the log must refuse would hold up all behind it
        with self._taking:
            if not is_sound or self._is_closed or len(self._waiting) >= self._capacity:
                self.dropped += 1
                return False
            self.taken += 1
            self._count.set(self.taken)  # before it can be written: a loss may not go uncounted
            self._waiting.append(exposure)
            return True

    def flush(self) -> None:
        """Write what waits, as far as the log takes it."""
        with self._flushing:
            try:
                while batch := self._oldest():
                    self._log.append_exposures(batch, writer=self._count.writer, after=self.written)
                    self.written += len(batch)
                    for _ in batch:
                        self._waiting.popleft()
                problem = ""
            except EventLogUnavailable as error:
                problem = str(error)
            except Exception as error:  # whatever a store can raise must not end the writing
                problem = f"{type(error).__name__}: {error}"
            if problem and not self.problem:  # a store that comes and goes has many words for it
                logger.error("exposures wait: %s", problem)
            if self.problem and not problem:
                logger.warning("exposures are written again")
            self.problem = problem

    def close(self) -> None:
        """Write what waits and end; what the log does not take now is lost, and counted when it is settled."""
        with self._taking:
            if self._is_closed:
                return
            self._is_closed = True
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self.flush()
        self._count.close(keep=self.written < self.taken)

    def _oldest(self) -> list[Exposure]:
        with self._taking:
            return list(islice(self._waiting, _BATCH))

    def _follow(self) -> None:
        while not self._stop.wait(self._flush_seconds):
            self.flush()


def settle(directory: Path, log: EventLog) -> int:
    """Settle the accounts of the writers that ended without closing theirs; return how many exposures were lost.

    Any number of processes may do this at any time: a loss counts once, and its sum is ``log.exposures_lost()``.

    Raises
    ------
    EventLogUnavailable
        The log does not answer; what is not settled is left for the next time.
    """
    lost = 0
    for path in sorted(directory.glob(f"*{_SUFFIX}")):
        with (
            contextlib.suppress(FileNotFoundError, BlockingIOError),
            path.open("rb") as file,
        ):  # settled, or alive
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = int.from_bytes(file.read(_BYTES), sys.byteorder)
            found = log.settle_exposures(path.stem, taken=taken)
            path.unlink(missing_ok=True)
            lost += found
            if found:
                logger.warning("%d of %d exposures were lost with writer %s", found, taken, path.stem)
    return lost


class _Count:
    """How many exposures a writer took, in a file that outlives it and is locked while it lives."""

    def __init__(self, directory: Path) -> None:
        self.writer = uuid.uuid4().hex
        self._path = directory / f"{self.writer}{_SUFFIX}"
        unlocked = self._path.with_suffix(".new")
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = unlocked.open("xb+")
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._file.write(bytes(_BYTES))  # room that is there: a hole could not be filled on a full disk
            self._file.flush()
            self._bytes = mmap.mmap(self._file.fileno(), _BYTES)
            unlocked.rename(self._path)
        except OSError as error:
            raise ConfigError(
                f"expected to keep a count in {directory}, found {error}; see that it can be written and has room"
            ) from error
        self._number = memoryview(self._bytes).cast("Q")

    def set(self, count: int) -> None:
        """Write the count: one store of 8 bytes, never half done."""
        self._number[0] = count

    def close(self, *, keep: bool) -> None:
        """Give the file up, for others to settle if it is kept."""
        self._number.release()
        self._bytes.close()
        if not keep:
            self._path.unlink(missing_ok=True)
        self._file.close()


def _is_sound(exposure: Exposure) -> bool:
    try:
        exposure.to_json()
    except DataError:
        return False
    return True
