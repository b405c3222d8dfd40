"""What tests of the running service share: requests, what it says of itself, and files put in its home."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving.events import EXPOSURES, Exposure, open_log
from serving.experiments_file import Experiments
from serving.process import Service
from serving.settings import Settings
from serving.told import LiveRules

#: A file is to be taken up within a second; the machine of a test may have much else to do.
WITHIN = 1.0 + 4.0
JSON = {"content-type": "application/json"}


def call(
    url: str, body: Any = None, *, method: str | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    asked = urllib.request.Request(
        url, data=data, headers=JSON if headers is None else headers, method=method
    )
    try:
        with urllib.request.urlopen(asked, timeout=20) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def ask(service: Service, body: Any, path: str = "/v1/recommend") -> Any:
    status, _, told = call(service.url + path, body)
    assert status == 200, told
    return json.loads(told)


def until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


def ready(service: Service) -> str:
    status, _, body = call(f"{service.url}/readyz")
    assert status == 200
    return body.decode()


def logged(service: Service) -> str:
    """Return the log of the service without its folds."""
    return " ".join(service.log.read_text().split())


def metric(service: Service, line: str) -> float:
    told = call(f"{service.url}/metrics")[2].decode().splitlines()
    return sum(float(one.rpartition(" ")[2]) for one in told if one.startswith(line))


def put_experiments(service: Service, home: Settings, text: str) -> None:
    """Write the file in one step and wait until it is taken up."""
    write(home.experiments, text)
    digest = Experiments.parse(text.encode(), home.experiments).digest
    until(lambda: f"experiments {digest}" in ready(service), WITHIN)


def put_rules(service: Service, home: Settings, text: str) -> str:
    """Write the file in one step, wait until it is taken up, and return its hash."""
    write(home.rules, text)
    digest = LiveRules.parse(text.encode(), home.rules).digest
    until(lambda: f"\nrules {digest}" in ready(service), WITHIN)
    return digest


def write(path: Path, text: str) -> None:
    """Write a file in one step."""
    staged = path.with_suffix(".new")
    staged.write_text(text)
    staged.replace(path)


def exposures(home: Settings, wanted: set[str]) -> dict[str, Exposure]:
    log = open_log(home.events)

    def found() -> dict[str, Exposure]:
        entries = log.read(EXPOSURES, after=None, limit=100_000)
        return {one.record.request_id: one.record for one in entries if one.record.request_id in wanted}

    until(lambda: found().keys() == wanted)
    held = found()
    log.close()
    return held
