"""What rules and an experiment cost: the service with them beside the same service without, in alternating rounds.

Both serve the same bundle from the same online store, each in a home of its own, and are asked the same. The rules are
those of a shop that uses every kind once (``RULES``), the experiment one of two variants that differ in nothing but the
name. What each kind of rule costs by itself is timed in process (``eval.benchmarks.inside_rules``).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np

from eval.benchmarks import figures, load
from eval.benchmarks.figures import Round
from eval.benchmarks.sites import DrawnShop, Site, drawn_site
from serving.errors import ConfigError, NextbestError
from serving.process import Service, environment, running
from serving.settings import Settings

Progress = Callable[[str, int, int], None]

WITH: Final = "with"
WITHOUT: Final = "without"
CONCURRENCY: Final = (1, 8)

#: By kind, for a shop as ``eval.benchmarks.shop`` draws it.
RULES: Final[Mapping[str, str]] = {
    "eligibility": """
[[eligibility]]
name = "for members"
customer = "club_member"
one_of = [true]
category = ["category 000", "category 001"]
""",
    "boost": """
[[boost]]
name = "eco first"
factor = 1.5
attributes = {eco = true}
""",
    "cap": """
[[cap]]
name = "three of a kind"
at_most = 3
""",
    "diversity": """
[[diversity]]
name = "some of each"
lambda = 0.7
""",
    "pin": """
[[pin]]
name = "of the week"
product_id = "p0000007"
slot = 3
""",
    "new": """
[[new]]
name = "fresh"
at_least = 1
days = 30
""",
    "explore": """
[[explore]]
name = "tenth"
slots = [10]
epsilon = 0.1
""",
}
EXPERIMENTS: Final = """
[[experiments]]
name = "same"
[[experiments.variants]]
name = "control"
weight = 1
[[experiments.variants]]
name = "treatment"
weight = 1
"""


def ruled(
    settings: Settings,
    drawn: DrawnShop,
    *,
    requests: int = 400,
    rounds: int = 5,
    warm_up: int = 2000,
    seed: int = 0,
    http: bool = True,
    kinds: Sequence[str] = tuple(RULES),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure, and return the figures as JSON values; parameters as of ``eval.benchmarks.serving.benchmark``.

    ``kinds`` are those of ``RULES`` that the service has over HTTP.

    Returns
    -------
    dict
        ``ratios`` are medians over rounds of figures with rules over those without, ``spread`` the least and the
        greatest; ``kinds_ms`` what each kind of rule adds to the median answer in process.

    Raises
    ------
    ConfigError
        There is no such kind of rule.
    NextbestError
        A service did not come up or did not answer every request with 200.
    """
    if unknown := [kind for kind in kinds if kind not in RULES]:
        raise ConfigError(
            f"expected kinds of {', '.join(RULES)}, found {', '.join(unknown)}; correct --kinds"
        )
    text = "".join(RULES[kind] for kind in RULES if kind in kinds)
    said = progress or (lambda what, done, total: None)
    count = warm_up + (rounds * len(CONCURRENCY) + 1) * requests
    with ExitStack() as stack:
        site = stack.enter_context(drawn_site(settings, drawn, requests=count, seed=seed, progress=said))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nextbest-benchmark-")))
        homes = _homes(site, directory, text)
        found: dict[str, Any] = {}
        if http:
            timed = _over_http(homes, site, directory, stack, warm_up=warm_up, requests=requests, said=said)
            ratios = figures.over(timed, WITH, WITHOUT, CONCURRENCY)
            found = {
                "ratios": figures.medians(ratios),
                "spread": {name: [min(values), max(values)] for name, values in ratios.items()},
                "medians": {
                    side: figures.medians(
                        {name: [one[side][name] for one in timed] for name in timed[0][side]}
                    )
                    for side in (WITH, WITHOUT)
                },
            }
        inside = _kinds(homes[WITHOUT], site, warm_up, requests)
    return {
        **found,
        **inside,
        **site.told,
        "requests": requests,
        "rounds": rounds,
        "rules": text,
    }


def _homes(site: Site, directory: Path, text: str) -> dict[str, Settings]:
    """Return a home with rules and an experiment and one without, on the online store of the site."""
    plain = next(iter(site.stores.values()))
    own = plain.model_copy(update={"home": directory / WITH})
    own.home.mkdir()
    own.store.directory.symlink_to(plain.store.directory, target_is_directory=True)
    own.live.write_bytes(plain.live.read_bytes())
    own.rules.write_text(text)
    own.experiments.write_text(EXPERIMENTS)
    return {WITH: own, WITHOUT: plain}


def _over_http(
    homes: Mapping[str, Settings],
    site: Site,
    directory: Path,
    stack: ExitStack,
    *,
    warm_up: int,
    requests: int,
    said: Progress,
) -> list[Round]:
    bodies = [json.dumps(request).encode() for request in site.requests]
    parts = [bodies[start : start + requests] for start in range(warm_up, len(bodies) - requests, requests)]
    bentoml = _bentoml(site, directory)
    services = {
        side: stack.enter_context(
            running(own.model_copy(update={"api_keys": ()}), extra=_places(own, bentoml))
        )
        for side, own in homes.items()
    }
    for service in services.values():
        _measured(service, bodies[:warm_up], 1)
    timed: list[Round] = []
    rounds = len(parts) // len(CONCURRENCY)
    for number in range(rounds):
        asked = parts[number * len(CONCURRENCY) :][: len(CONCURRENCY)]
        order = [WITH, WITHOUT] if number % 2 else [WITHOUT, WITH]
        timed.append({side: _all(services[side], asked) for side in order})
        said("rounds", number + 1, rounds)
    return timed


def _all(service: Service, asked: Sequence[Sequence[bytes]]) -> dict[str, float]:
    pairs = zip(CONCURRENCY, asked, strict=True)
    return figures.of({concurrency: _measured(service, bodies, concurrency) for concurrency, bodies in pairs})


def _measured(service: Service, bodies: Sequence[bytes], concurrency: int) -> load.Load:
    measured = load.run(f"{service.url}/v1/recommend", bodies, concurrency=concurrency)
    if measured.statuses != (200,):
        raise NextbestError(
            f"expected every answer to be 200, found {measured.statuses}:\n{service.last_lines()}"
        )
    return measured


def _bentoml(site: Site, directory: Path) -> Path:
    home = directory / "bentoml"
    home.mkdir(exist_ok=True)
    if not (home / "models").exists():
        (home / "models").symlink_to(site.bundles.parent, target_is_directory=True)
    return home


def _places(settings: Settings, bentoml: Path) -> dict[str, str]:
    """Return the variables of a process that must not come from the environment of this one."""
    return {"BENTOML_HOME": str(bentoml), "NEXTBEST_REDIS_URL": settings.redis_url or ""}


def _kinds(own: Settings, site: Site, warm_up: int, requests: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "eval.benchmarks.inside_rules", site.version],
        input=json.dumps([site.requests[:warm_up], site.requests[-requests:]]).encode(),
        env={**environment(own), **_places(own, site.bundles.parent.parent)},
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise NextbestError(f"expected in-process timings, found:\n{done.stderr.decode()[-2000:]}")
    medians: dict[str, float] = json.loads(done.stdout)
    plain = medians.pop(WITHOUT)
    return {
        "in_process_ms": {WITHOUT: plain, WITH: medians.pop(WITH)},
        "kinds_ms": {kind: round(float(np.subtract(one, plain)), 4) for kind, one in medians.items()},
    }
