"""How much slower than nothing: our service beside services that return a constant answer.

Services run on this machine, one worker each: ours on the live bundle of a home, or on a drawn shop with one online
store or several, and those of ``eval.benchmarks.constant``. Rounds alternate between them, so that what the machine
does meanwhile falls on all of them; ratios are taken within a round and the median of rounds is reported. Each run has
requests of its own, the same for all sides, so that what a service remembers of a customer helps as often as customers
come again. The same work is timed in process too (``eval.benchmarks.inside``). All stays on the loopback address.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from eval.benchmarks import constant, figures, load
from eval.benchmarks.figures import FLOOR, NATIVE, RAW, Round
from eval.benchmarks.sites import REDIS, SQLITE, DrawnShop, Site, drawn_site, live_site
from eval.benchmarks.traffic import Request
from serving.errors import NextbestError
from serving.process import Service, environment, running
from serving.settings import Settings

Progress = Callable[[str, int, int], None]

_SAMPLE: Final = 21


def benchmark(
    settings: Settings,
    *,
    requests: int = 400,
    rounds: int = 5,
    warm_up: int = 2000,
    seed: int = 0,
    drawn: DrawnShop | None = None,
    http: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure the service and return the figures as JSON values.

    Parameters
    ----------
    settings
        Whose live bundle and online store are served; nothing in the home is changed (see ``live_site``).
    requests
        A side, a concurrency and a round.
    rounds
        How often the sides take turns.
    warm_up
        Requests to each side before those that are timed.
    seed
        Of the draw of requests (``eval.benchmarks.traffic``), and of the drawn shop.
    drawn
        A shop to draw and to measure instead of the live bundle, with requests that filter and exclude.
    http
        Whether to start services; False times the work in process alone.
    progress
        Called with (what, done, all).

    Returns
    -------
    dict
        ``stores`` has the figures of each online store; those of the first stand at the top too. With both,
        ``sqlite_over_redis`` has the ratios of one to the other. ``client`` tells how busy the load client was
        (1: all the time) and how many requests a second it could make at that; ``asked_before`` is the share of timed
        requests of customers who had asked before.

    Raises
    ------
    ConfigError
        Nothing is live, or there is no Redis server for a drawn shop.
    NextbestError
        A service did not come up, or did not answer every request with 200.
    """
    said = progress or (lambda what, done, total: None)
    count = warm_up + (rounds * len(figures.CONCURRENCY) + 1) * requests
    with ExitStack() as stack:
        site = stack.enter_context(
            live_site(settings, requests=count, seed=seed)
            if drawn is None
            else drawn_site(settings, drawn, requests=count, seed=seed, progress=said)
        )
        stores: dict[str, dict[str, Any]] = {store: {} for store in site.stores}
        over_http: dict[str, Any] = {}
        if http:
            timed, found = _over_http(site, warm_up, requests, said)
            stores = {store: {**figures.summary(timed, store), **found[store]} for store in site.stores}
            over_http = {
                "client": figures.client(timed),
                "rounds": timed,
                "asked_before": _asked_before(site.requests, warm_up),
                "concurrency": list(figures.CONCURRENCY),
                "constant_source": inspect.getsource(constant),
            }
            if {SQLITE, REDIS} <= stores.keys():
                over_http["sqlite_over_redis"] = figures.medians(figures.over(timed, SQLITE, REDIS))
        for number, store in enumerate(site.stores, start=1):
            stores[store] |= _in_process(site, store, warm_up, requests)
            said("in process", number, len(stores))
    return {
        **next(iter(stores.values())),
        "stores": stores,
        **site.told,
        "requests": requests,
        "warm_up": warm_up,
        **over_http,
    }


def _over_http(
    site: Site, warm_up: int, requests: int, said: Progress
) -> tuple[list[Round], dict[str, dict[str, Any]]]:
    """Return the figures of all sides, round by round, and what else was found of each store's service."""
    bodies = [json.dumps(request).encode() for request in site.requests]
    parts = [bodies[start : start + requests] for start in range(warm_up, len(bodies) - requests, requests)]
    a_round = len(figures.CONCURRENCY)
    rounds = len(parts) // a_round
    timed: list[Round] = []
    with ExitStack() as stack:
        services = _start(site, bodies, stack)
        for number, service in enumerate(services.values(), start=1):
            _measure(service, bodies[:warm_up], concurrency=1)
            said("start", number, len(services))
        for number in range(rounds):
            # each side is first, second and last in turn
            order = np.roll(list(services), number).tolist()
            asked = parts[number * a_round :][:a_round]
            timed.append({side: _all(services[side], asked) for side in order})
            said("rounds", number + 1, rounds)
        found = {
            store: {
                "rss_mb": _rss_mb(services[store].process.pid),
                "degraded_reads": _degraded(services[store]),
            }
            for store in site.stores
        }
    return timed, found


def _start(site: Site, bodies: Sequence[bytes], stack: ExitStack) -> dict[str, Service]:
    """Start the services, in BentoML homes of their own beside whatever else is served here."""
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nextbest-benchmark-")))
    begin = partial(_begin, stack, directory)
    services = {}
    for store, settings in site.stores.items():
        (directory / store).mkdir()
        (directory / store / "models").symlink_to(site.bundles.parent, target_is_directory=True)
        services[store] = begin(settings, store, "serving.service:Nextbest", "/readyz")
    foremost = next(iter(site.stores))
    answer = directory / "answer.json"
    answers = [_ask(services[foremost], body) for body in bodies[:_SAMPLE]]
    answer.write_bytes(sorted(answers, key=len)[len(answers) // 2])
    for side, name in ((NATIVE, "Native"), (RAW, "Raw"), (FLOOR, "Floor")):
        service = f"eval.benchmarks.constant:{name}"
        services[side] = begin(site.stores[foremost], side, service, "/livez", answer)
    return services


def _begin(
    stack: ExitStack,
    directory: Path,
    settings: Settings,
    side: str,
    service: str,
    wait: str,
    answer: Path | None = None,
) -> Service:
    extra = {**_places(settings, directory / side), constant.ANSWER: str(answer or "")}
    return stack.enter_context(
        running(settings.model_copy(update={"api_keys": ()}), service=service, extra=extra, wait=wait)
    )


def _places(settings: Settings, bentoml_home: Path) -> dict[str, str]:
    """Return the variables of a process that must not come from the environment of this one."""
    return {"BENTOML_HOME": str(bentoml_home), "NEXTBEST_REDIS_URL": settings.redis_url or ""}


def _in_process(site: Site, store: str, warm_up: int, requests: int) -> dict[str, Any]:
    """Time the work without HTTP, in a process with the environment of a worker."""
    settings = site.stores[store]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "eval.benchmarks.inside", site.version],
        input=json.dumps([site.requests[:warm_up], site.requests[-requests:]]).encode(),
        env={**environment(settings), **_places(settings, site.bundles.parent.parent)},
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise NextbestError(f"expected in-process timings, found:\n{done.stderr.decode()[-2000:]}")
    timings: dict[str, Any] = json.loads(done.stdout)
    return timings


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


def _all(service: Service, asked: Sequence[Sequence[bytes]]) -> dict[str, float]:
    """Return the figures of a service, which is asked other things at each concurrency."""
    by_concurrency = zip(figures.CONCURRENCY, asked, strict=True)
    return figures.of({c: _measure(service, bodies, concurrency=c) for c, bodies in by_concurrency})


def _asked_before(requests: Sequence[Request], warm_up: int) -> float:
    """Return the share of the requests after ``warm_up`` whose customer asked before."""
    customers = [request["customer_id"] for request in requests]
    first = {customer: place for place, customer in reversed([*enumerate(customers)])}
    return float(
        np.mean([first[customer] < place for place, customer in enumerate(customers) if place >= warm_up])
    )


def _degraded(service: Service) -> int:
    """Return how many answers went without the features of the customer: they are no measure of the others."""
    with urllib.request.urlopen(f"{service.url}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    counts = [line.rpartition(" ")[2] for line in lines if line.startswith("nextbest_degraded_reads_total")]
    return int(sum(map(float, counts)))


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
