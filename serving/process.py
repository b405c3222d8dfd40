"""The service as a process: its environment, its start, and its certain end.

BentoML's supervisor starts workers in sessions of their own, and killing the supervisor would leave them
answering on the port; so each worker watches its parent and exits with it. ``start_service``, ``running`` and
``spawn`` are what the demo, the benchmarks and the tests run the service with.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Final

from serving.errors import ConfigError, NextbestError
from serving.settings import Settings

SERVICE: Final = "serving.service:Nextbest"
_THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_WATCH_SECONDS: Final = 0.25
_STOP_SECONDS: Final = 10.0
_LOG_LINES: Final = 15
_READY: Final = "/readyz"
#: How the line of ``/metrics`` begins that counts the workers that serve a bundle.
_SERVING: Final = "nextbest_bundle_info{"


def exit_with_parent(seconds: float = _WATCH_SECONDS) -> None:
    """End this process soon after its parent has ended, from a thread of its own."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(seconds)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def command(*, host: str, port: int, service: str = SERVICE) -> list[str]:
    """Return the command that serves ``service`` (see ``serving.supervisor``)."""
    return [sys.executable, "-m", "serving.supervisor", "serve", service, "--host", host, "--port", str(port)]


def environment(settings: Settings, *, workers: int = 1, service: str = SERVICE) -> dict[str, str]:
    """Return this process's environment with the settings, one thread a library, and the workers.

    BentoML takes the number of workers from its configuration alone, which is given as JSON here.
    """
    given = {
        f"NEXTBEST_{name.upper()}": ",".join(value) if isinstance(value, tuple) else str(value)
        for name, value in settings.model_dump().items()
        if value is not None
    }
    name = service.rpartition(":")[2]
    return {
        **os.environ,
        **given,
        **dict.fromkeys(_THREADS, "1"),
        "BENTOML_HOME": str(settings.bentoml_home),
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_CONFIG_OVERRIDES": json.dumps({"services": {name: {"workers": workers}}}),
    }


def check_port(host: str, port: int) -> None:
    """Check that ``port`` can be listened on.

    Raises
    ------
    ConfigError
        Something listens there, or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"expected a free port at {host}:{port}, found {error.strerror}; choose another with --port"
            ) from error


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Service:
    """A service that runs as a child of this process."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def workers(self) -> list[int]:
        """The ids of its worker processes, those that start included; empty where there is no ``/proc``."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        try:
            return [int(pid) for pid in children.read_text().split()]
        except OSError:  # ended, or another system
            return []

    @property
    def serving(self) -> int:
        """How many workers serve a bundle, as the metrics say that all workers share; 0 while nobody answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/metrics", timeout=2) as response:
                lines = response.read().decode().splitlines()
        except (OSError, HTTPException):
            return 0
        return sum(int(float(line.rpartition(" ")[2])) for line in lines if line.startswith(_SERVING))

    def last_lines(self) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:])


@contextmanager
def start_service(settings: Settings, *, port: int | None = None, workers: int = 1) -> Iterator[str]:
    """Serve until the block ends; yield the base URL of a service that is ready. See ``running``."""
    with running(settings, port=port, workers=workers) as service:
        yield service.url


@contextmanager
def running(
    settings: Settings,
    *,
    port: int | None = None,
    workers: int = 1,
    service: str = SERVICE,
    extra: Mapping[str, str] | None = None,
    wait: str = _READY,
    seconds: float = 60.0,
) -> Iterator[Service]:
    """Serve on the loopback address until the block ends.

    Parameters
    ----------
    settings
        Given to the service through its environment.
    port, workers
        Where to listen (any free port by default), and with how many worker processes.
    service, extra
        Another service to serve, and further environment variables.
    wait, seconds
        The path that must answer 200 before the block begins, and within how long. Of several workers any may
        answer, so ``/readyz`` waits until each of them serves a bundle.

    Raises
    ------
    ConfigError
        The port is taken.
    NextbestError
        It did not come up; the message ends with the last lines of its log.
    """
    port = port or free_port()
    check_port("127.0.0.1", port)
    with tempfile.TemporaryDirectory(prefix="nextbest-serve-") as directory:
        log = Path(directory) / "service.log"
        started = spawn(settings, port=port, log=log, workers=workers, service=service, extra=extra)
        try:
            _await(started, wait, seconds, workers=workers)
            yield started
        finally:
            stop(started.process)


def spawn(
    settings: Settings,
    *,
    port: int,
    log: Path,
    workers: int = 1,
    service: str = SERVICE,
    extra: Mapping[str, str] | None = None,
) -> Service:
    """Start a service on the loopback address and wait for nothing; ``log`` is gone on with. See ``running``."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command(host="127.0.0.1", port=port, service=service),
            env={**environment(settings, workers=workers, service=service), **(extra or {})},
            cwd=Path(__file__).resolve().parent.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Service(f"http://127.0.0.1:{port}", process, log)


def stop(process: subprocess.Popen[bytes], seconds: float = _STOP_SECONDS) -> None:
    """Stop a service: ask its supervisor, then kill its process group; workers exit with it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _await(service: Service, path: str, seconds: float, *, workers: int) -> None:
    deadline = time.monotonic() + seconds
    all_serve = path == _READY and workers > 1
    while True:
        ended = service.process.poll()
        is_up = ended is None and _answers(service.url + path)
        if is_up and (not all_serve or service.serving == workers):
            return
        if ended is not None or time.monotonic() > deadline:
            waited = f"nothing after {seconds:.0f} s"
            if is_up:
                waited = f"{service.serving} of {workers} workers that serve a bundle after {seconds:.0f} s"
            found = waited if ended is None else f"exit code {ended}"
            raise NextbestError(
                f"expected the service to answer {path}, found {found}; its log ends:\n{service.last_lines()}"
            )
        time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False
