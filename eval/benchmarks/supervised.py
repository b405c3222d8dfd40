"""A service under a supervisor: started again whenever it ends, as a container runtime or systemd would.

The supervisor is a thread of the benchmark; workers are the service's own business. ``kill_worker`` and
``kill_parent`` end a process as a crash would, and say how long the service needed to be whole again by itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from eval.benchmarks.own_home import OwnHome
from serving.errors import NextbestError
from serving.process import Service, free_port, spawn, stop

READY_SECONDS: Final = 60.0
_AGAIN_SECONDS: Final = 0.2
_LOOK_SECONDS: Final = 0.05
#: What BentoML writes when a worker has begun.
_BEGUN: Final = "Service Nextbest initialized"


class Supervised:
    """The service of a home, kept running; see ``supervised``."""

    def __init__(self, home: OwnHome, log: Path, *, workers: int) -> None:
        self._home = home
        self._log = log
        self._workers = workers
        self._port = free_port()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="supervisor", daemon=True)
        self._service = self._start()
        self.starts = 1

    @property
    def url(self) -> str:
        """Where it answers, again and again."""
        return self._service.url

    def kill_worker(self, number: int) -> float:
        """Kill a worker (the ``number``-th, counted around); return the seconds until all are ready again."""
        pids = self._service.workers
        return self._killed(pids[number % len(pids)], begin=1)

    def kill_parent(self) -> float:
        """Kill the parent of the workers; return the seconds until all are ready again."""
        return self._killed(self._service.process.pid, begin=self._workers)

    def wait(self, *, begun: int) -> None:
        """Wait until so many workers have begun since the first start and all that there are are ready.

        Raises
        ------
        NextbestError
            They are not, within ``READY_SECONDS``.
        """
        deadline = time.monotonic() + READY_SECONDS
        while not (self._begun() >= begun and self._is_ready()):
            if time.monotonic() > deadline:
                raise NextbestError(
                    f"expected {self._workers} ready workers within {READY_SECONDS:.0f} s, found fewer; the log ends:\n"
                    f"{self._service.last_lines()}"
                )
            time.sleep(_LOOK_SECONDS)

    def close(self) -> None:
        """End the supervisor, then the service."""
        self._ends.set()
        self._thread.join()
        stop(self._service.process)

    def start(self) -> None:
        """Wait for the first start and begin to supervise."""
        self.wait(begun=self._workers)
        self._thread.start()

    def _killed(self, pid: int, *, begin: int) -> float:
        begun, since = self._begun(), time.monotonic()
        os.kill(pid, signal.SIGKILL)
        self.wait(begun=begun + begin)
        return time.monotonic() - since

    def _begun(self) -> int:
        return self._log.read_text(errors="replace").count(_BEGUN)

    def _is_ready(self) -> bool:
        return len(self._service.workers) == self._workers == self._service.serving

    def _keep(self) -> None:
        while not self._ends.wait(_AGAIN_SECONDS):
            if self._service.process.poll() is not None:
                self._service = self._start()
                self.starts += 1

    def _start(self) -> Service:
        return spawn(
            self._home.settings,
            port=self._port,
            log=self._log,
            workers=self._workers,
            extra=self._home.extra,
        )


@contextlib.contextmanager
def supervised(home: OwnHome, log: Path, *, workers: int = 2) -> Iterator[Supervised]:
    """Keep the service of ``home`` running until the block ends.

    Parameters
    ----------
    home
        Whose bundle is served.
    log
        What the service writes goes to this file.
    workers
        Worker processes.

    Raises
    ------
    NextbestError
        It did not become ready.
    """
    service = Supervised(home, log, workers=workers)
    try:
        service.start()
        yield service
    finally:
        service.close()
