"""The two stores of the event log as the tests use them: where each is, and how it is opened."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.redis_server import RedisServer
from serving.events import EVENTS, Entry, EventLog, Stream, now_micros, open_log


@dataclass(frozen=True)
class Store:
    """One empty place for a log."""

    directory: Path
    redis: RedisServer | None

    @property
    def url(self) -> str | None:
        return self.redis.url if self.redis else None

    def open(self, clock: Callable[[], int] = now_micros) -> EventLog:
        return open_log(self.directory, redis_url=self.url, clock=clock)

    def process(self, what: str, *more: object) -> subprocess.Popen[bytes]:
        """Start a process of ``tests.event_writer`` on the store."""
        command = [sys.executable, "-m", "tests.event_writer", what, str(self.directory), self.url or "-"]
        return subprocess.Popen(
            [*command, *map(str, more)], cwd=Path(__file__).parents[1], stdout=subprocess.PIPE
        )


def until(condition: Callable[[], object]) -> None:
    """Wait for what another thread or process must bring about."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def everything(log: EventLog, stream: Stream[Any] = EVENTS) -> list[Entry[Any]]:
    return log.read(stream, after=None, limit=1_000_000)


def ids(log: EventLog) -> list[str]:
    return [entry.record.event_id for entry in everything(log)]
