"""How much slower than nothing: our service beside services that return a constant answer.

Services run on this machine, one worker each: ours on the live bundle, and those of
``eval.benchmarks.constant``. Rounds alternate between them, so that what the machine does meanwhile falls on
all of them; ratios are taken within a round and the median of rounds is reported. The same work is timed in
process too (``eval.benchmarks.inside``). Everything stays on the loopback address.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from eval.benchmarks import constant, load
from feature_repo import schema as s
from serving.bundle import load as load_bundle
from serving.errors import ConfigError, NextbestError
from serving.live import Live
from serving.process import Service, environment, running
from serving.settings import Settings

Progress = Callable[[str, int, int], None]

OURS: Final = "ours"
NATIVE: Final = "native"
RAW: Final = "raw_asgi"
FLOOR: Final = "floor"
CONCURRENCY: Final = 8
UNKNOWN_SHARE: Final = 0.1
_WARM_UP: Final = 100


def benchmark(
    settings: Settings,
    *,
    requests: int = 400,
    rounds: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure the service of ``settings.home`` and return the figures as JSON values.

    Parameters
    ----------
    settings
        Whose live bundle and online store are served; nothing in the home is changed.
    requests
        A side, a concurrency and a round.
    rounds
        How often the sides take turns.
    seed
        Of the draw of customers: Zipf-like (weight 1/rank over a random order), a tenth unknown.

    Raises
    ------
    ConfigError
        Nothing is live.
    NextbestError
        A service did not come up, or did not answer every request with 200.
    """
    version = Live.read(settings.live).version(settings.slot)
    if version is None:
        raise ConfigError("expected a live bundle to measure, found none; run `nextbest train TABLES`")
    bundle = load_bundle(settings.bundles, version)
    customers = draw(bundle.customers[s.CUSTOMER_ID].tolist(), count=requests, seed=seed)
    bodies = [json.dumps({"customer_id": customer, "n": 10}).encode() for customer in customers]
    timed: list[dict[str, Any]] = []
    with ExitStack() as stack:
        services = _start(settings, bodies[0], stack)
        for side, service in services.items():
            _measure(service, (bodies * (_WARM_UP // len(bodies) + 1))[:_WARM_UP], concurrency=1)
            if progress is not None:
                progress("start", list(services).index(side) + 1, len(services))
        for number in range(rounds):
            # each side is first, second and last in turn
            order = np.roll(list(services), number).tolist()
            timed.append({side: _both(services[side], bodies) for side in order})
            if progress is not None:
                progress("rounds", number + 1, rounds)
        rss = _rss_mb(services[OURS].process.pid)
    inside = _in_process(settings, version, customers)
    return {
        **_summary(timed),
        **inside,
        "rounds": timed,
        "rss_mb": rss,
        "requests": requests,
        "bundle": bundle.tag,
        "products": len(bundle.catalog),
        "customers": len(bundle.customers),
        "constant_source": inspect.getsource(constant),
    }


def draw(customers: Sequence[str], *, count: int, seed: int) -> list[str]:
    """Draw customers as they come to a shop: few often, most rarely, and some never seen before."""
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, len(customers) + 1)
    known = rng.choice(
        rng.permutation(np.array(customers, dtype=object)), size=count, p=weights / weights.sum()
    )
    unknown = rng.random(count) < UNKNOWN_SHARE
    return [f"unknown-{i}" if unknown[i] else str(known[i]) for i in range(count)]


def _start(settings: Settings, body: bytes, stack: ExitStack) -> Mapping[str, Service]:
    """Start the services, in BentoML homes of their own beside whatever else is served here."""
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nextbest-benchmark-")))
    begin = partial(_begin, settings, stack, directory)
    (directory / OURS).mkdir()
    (directory / OURS / "models").symlink_to(settings.bundles.parent, target_is_directory=True)
    ours = begin(OURS, "serving.service:Nextbest", "/readyz")
    answer = directory / "answer.json"
    answer.write_bytes(_ask(ours, body))
    native = begin(NATIVE, "eval.benchmarks.constant:Native", "/livez", answer)
    raw = begin(RAW, "eval.benchmarks.constant:Raw", "/livez", answer)
    floor = begin(FLOOR, "eval.benchmarks.constant:Floor", "/livez", answer)
    return {OURS: ours, NATIVE: native, RAW: raw, FLOOR: floor}


def _in_process(settings: Settings, version: str, customers: Sequence[str]) -> dict[str, Any]:
    """Time the work without HTTP, in a process with the environment of a worker."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "eval.benchmarks.inside", version],
        input=json.dumps(customers).encode(),
        env=environment(settings),
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise NextbestError(f"expected in-process timings, found:\n{done.stderr.decode()[-2000:]}")
    timings: dict[str, Any] = json.loads(done.stdout)
    return timings


def _begin(
    settings: Settings,
    stack: ExitStack,
    directory: Path,
    side: str,
    service: str,
    wait: str,
    answer: Path | None = None,
) -> Service:
    extra = {"BENTOML_HOME": str(directory / side), constant.ANSWER: str(answer or "")}
    return stack.enter_context(
        running(settings.model_copy(update={"api_keys": ()}), service=service, extra=extra, wait=wait)
    )


def _ask(service: Service, body: bytes) -> bytes:
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{service.url}/v1/recommend", data=body, headers=headers)
    with urllib.request.urlopen(asked, timeout=10) as response:
        return bytes(response.read())


def _measure(service: Service, bodies: Sequence[bytes], *, concurrency: int) -> load.Load:
    measured = load.run(f"{service.url}/v1/recommend", bodies, concurrency=concurrency)
    if measured.statuses != (200,):
        found = ", ".join(map(str, measured.statuses))
        raise NextbestError(f"expected every answer to be 200, found {found}:\n{service.last_lines()}")
    return measured


def _both(service: Service, bodies: Sequence[bytes]) -> dict[str, float]:
    one, many = _measure(service, bodies, concurrency=1), _measure(service, bodies, concurrency=CONCURRENCY)
    return {
        "p50_ms_c1": one.percentile_ms(50),
        "p99_ms_c1": one.percentile_ms(99),
        "p50_ms_c8": many.percentile_ms(50),
        "p99_ms_c8": many.percentile_ms(99),
        "throughput_c8": many.throughput,
    }


def _summary(timed: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    def over(side: str, figure: str) -> list[float]:
        return [one[OURS][figure] / one[side][figure] for one in timed]

    ratios = {
        "p50_c1": over(NATIVE, "p50_ms_c1"),
        "throughput_c8": over(NATIVE, "throughput_c8"),
        "p50_c1_raw_asgi": over(RAW, "p50_ms_c1"),
        "p50_c1_floor": over(FLOOR, "p50_ms_c1"),
    }
    return {
        "ratios": {name: float(np.median(found)) for name, found in ratios.items()},
        "spread": {name: [min(found), max(found)] for name, found in ratios.items()},
        "medians": {
            side: {
                figure: float(np.median([one[side][figure] for one in timed])) for figure in timed[0][side]
            }
            for side in (OURS, NATIVE, RAW, FLOOR)
        },
    }


def _rss_mb(parent: int) -> float | None:
    """Return the resident memory of a process and its children; None where there is no ``/proc``."""
    pages = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            told = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:
            continue  # it ended meanwhile
        if parent in (int(told["Pid"]), int(told["PPid"])) and "VmRSS" in told:
            pages += int(told["VmRSS"].split()[0])
    return pages / 1024.0 if pages else None
