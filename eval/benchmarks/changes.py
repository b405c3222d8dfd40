"""Whatever can be changed under a service is changed under load: is every answer of one state?

Bundles are published and rolled back, rules and experiments come, change and go, files are broken and corrected, and a
bundle with a byte flipped is made live, as a bad deploy would. Each set of rules and each experiment has a name of its
own, so that an answer tells what it was made under; what it has to be for its customer in each state is computed here
from the files alone. No request may fail, every answer (and all answers of a batch together) must be what one state
says that was in force since its request came, and the bundle that is not whole may answer nobody.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from eval.benchmarks.clients import RECOMMEND, Client, Seen
from eval.benchmarks.own_home import OwnHome
from serving import live
from serving.bundle import NAME, load, save
from serving.errors import NextbestError
from serving.experiments_file import FALLBACK, HOLDOUT, Experiments
from serving.process import Service, running
from serving.settings import Settings
from serving.told import LiveRules, Plan
from serving.variants import Scale, positions

Progress = Callable[[str, int, int], None]
#: What an answer says it was made by: bundle, rules, experiment, variant.
Made = tuple[str, str | None, str | None, str | None]

_BATCH: Final = "/v1/recommend/batch"
_BATCHED: Final = 40
_LANES: Final = 4
_PAUSE: Final = 0.004
#: So long after a change the state before may still answer: a worker loads and replays before it swaps.
GRACE_SECONDS: Final = 8.0
_BROKEN: Final = "[[broken"


@dataclass(frozen=True)
class InForce:
    """A state, by what its files say, and since when it is in force (monotonic seconds)."""

    version: str
    rules: LiveRules
    plan: Plan
    since: float = 0.0

    def made(self, customer: str) -> Made:
        """Return what an answer to a customer is made by."""
        experiments, tag, rules = self.plan.experiments, f"{NAME}:{self.version}", _told(self.rules)
        if experiments.holdout and positions(experiments.holdout_salt)(customer) < experiments.holdout:
            return tag, rules, HOLDOUT, FALLBACK
        for experiment in experiments.experiments:
            scale = Scale.of([variant.weight for variant in experiment.variants])
            variant = experiment.variants[scale.owner(positions(experiment.salt)(customer))]
            own = None if variant.rules is None else self.plan.rules[variant.rules]
            return (
                variant.bundle or tag,
                rules if own is None else _told(own),
                experiment.name,
                variant.name,
            )
        return tag, rules, None, None


def _told(rules: LiveRules) -> str | None:
    return None if rules.file is None else rules.digest


@dataclass
class Asked:
    """What clients saw: (request sent, answer there, [(customer, what it was made by)]), and requests that failed."""

    answers: list[tuple[float, float, list[tuple[str, Made]]]] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)


def changes(
    settings: Settings,
    *,
    seconds: float = 120.0,
    every: float = 2.0,
    workers: int = 2,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Change everything under load, and return what was found as JSON values; ``broken`` lists laws that did not hold.

    ``last_after_seconds`` is how long after its replacement a state answered for the last time.

    Parameters
    ----------
    settings
        Of a home with something live; a copy of it is served.
    seconds
        How long.
    every
        Seconds between two changes.
    workers
        Worker processes.
    progress
        Called with (what, done, all).
    """
    said = progress or (lambda what, done, total: None)
    with TemporaryDirectory(prefix="nextbest-changes-") as directory:
        home = OwnHome.copied(settings, Path(directory, "home"))
        changing = _Changing(home)
        changing.settings.rules.write_text(_rules("first", 5))
        changing.note()
        with running(changing.settings, workers=workers, extra=home.extra) as service:
            asked = _under_load(service, home.customers, changing, seconds, every, said)
            log = service.log.read_text(errors="replace")
            rss = _memory(service)
    found = examine(asked, changing.states, corrupt=changing.corrupt)
    if changing.count["deploy badly"] and changing.corrupt not in log.replace("\n", ""):
        found["broken"].append("the log does not say that the bundle that is not whole was refused")
    return {**found, "changes": changing.count, "workers": workers, "rss_mb": rss}


class _Changing:
    """Makes one change after another, and notes what is in force."""

    def __init__(self, home: OwnHome) -> None:
        self.settings = home.settings
        version = live.Live.read(self.settings.live).version(self.settings.slot)
        assert version is not None, "a copied home has something live"
        self.versions = [version, _again(self.settings, version, minutes=1)]
        self.corrupt = _again(self.settings, version, minutes=2)
        _flip(self.settings.bundles / self.corrupt / "bundle")
        self.states: list[InForce] = []
        self.count: Counter[str] = Counter()
        self._number = 0
        self._own = self.settings.home / "own.toml"
        self._steps: Iterator[Callable[[], None]] = itertools.cycle(
            (
                self._publish,
                self._rule,
                self._experiment,
                self._deploy_badly,
                self._break_rules,
                self._roll_back,
                self._rule,
                self._experiment_with_rules,
                self._change_own_rules,
                self._break_own_rules,
                self._publish_back,
                self._experiment,
                self._break_experiments,
                self._drop_rules,
                self._drop_experiments,
            )
        )
        self._effective = (version, LiveRules(), Plan())

    def note(self) -> None:
        """Note what the files say now, as far as it can be taken up."""
        version, rules, plan = self._effective
        said = live.Live.read(self.settings.live).version(self.settings.slot)
        if said is not None and said != self.corrupt:
            version = said
        try:
            path = self.settings.rules
            rules = LiveRules.parse(path.read_bytes(), path) if path.exists() else LiveRules()
        except NextbestError:
            pass
        try:
            experiments = Experiments.read(self.settings.experiments)
            own = dict.fromkeys(experiments.rules, self._own)
            plan = Plan.of(
                experiments, {n: LiveRules.parse(path.read_bytes(), path) for n, path in own.items()}
            )
        except NextbestError:
            pass
        self._effective = version, rules, plan
        self.states.append(InForce(version, rules, plan, time.monotonic()))

    def step(self) -> None:
        """Make the next change."""
        self._number += 1
        change = next(self._steps)
        self.count[change.__name__.strip("_").replace("_", " ")] += 1
        change()
        self.note()

    def _publish(self) -> None:
        live.publish(self.settings.live, self.settings.slot, self.versions[1])

    def _publish_back(self) -> None:
        live.publish(self.settings.live, self.settings.slot, self.versions[0])

    def _deploy_badly(self) -> None:
        live.publish(self.settings.live, self.settings.slot, self.corrupt)

    def _roll_back(self) -> None:
        live.rollback(self.settings.live, self.settings.slot)

    def _rule(self) -> None:
        _write(self.settings.rules, _rules(f"rule {self._number}", 2 + self._number % 3))

    def _break_rules(self) -> None:
        _write(self.settings.rules, _BROKEN)

    def _drop_rules(self) -> None:
        self.settings.rules.unlink()

    def _experiment(self) -> None:
        _write(self.settings.experiments, self._half(""))

    def _experiment_with_rules(self) -> None:
        self._change_own_rules()
        _write(self.settings.experiments, self._half('rules = "own.toml"'))

    def _change_own_rules(self) -> None:
        _write(self._own, _rules(f"own {self._number}", 1))

    def _break_own_rules(self) -> None:
        _write(self._own, _BROKEN)

    def _break_experiments(self) -> None:
        _write(self.settings.experiments, _BROKEN)

    def _drop_experiments(self) -> None:
        self.settings.experiments.unlink()

    def _half(self, last: str) -> str:
        bundle = f"{NAME}:{self.versions[self._number % 2]}"
        return (
            f'holdout = 0.1\n[[experiments]]\nname = "e{self._number}"\n'
            '[[experiments.variants]]\nname = "control"\nweight = 1\n'
            f'[[experiments.variants]]\nname = "other"\nweight = 1\nbundle = "{bundle}"\n{last}\n'
        )


def _rules(name: str, most: int) -> str:
    return (
        f'[[cap]]\nname = "{name}"\nat_most = {most}\n'
        f'[[explore]]\nname = "{name}, last"\nslots = [10]\nepsilon = 0.2\n'
    )


def _write(path: Path, text: str) -> None:
    staged = path.with_suffix(".new")
    staged.write_text(text)
    staged.replace(path)


def _again(settings: Settings, version: str, *, minutes: int) -> str:
    """Publish a bundle once more under another version; return that."""
    bundle = load(settings.bundles, version)
    manifest = bundle.manifest
    later = manifest.model_copy(update={"created_at": manifest.created_at + timedelta(minutes=minutes)})
    texts = {"metrics.json": "{}", "MODEL_CARD.md": "# The same again\n"}
    return save(replace(bundle, manifest=later), settings.bundles, texts=texts)


def _flip(inside: Path) -> None:
    """Flip one bit in the middle of the largest file."""
    path = max(inside.iterdir(), key=lambda one: one.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _under_load(
    service: Service,
    customers: Sequence[str],
    changing: _Changing,
    seconds: float,
    every: float,
    said: Progress,
) -> Asked:
    asked, stop = Asked(), threading.Event()
    thread = threading.Thread(
        target=lambda: asyncio.run(_ask(service.url, customers, asked, stop)), daemon=True
    )
    thread.start()
    began = time.monotonic()
    try:
        steps = max(int(seconds / every), 1)
        for number in range(1, steps + 1):
            time.sleep(max(began + number * every - time.monotonic(), 0.0))
            changing.step()
            said("changes", number, steps)
        time.sleep(every)
    finally:
        stop.set()
        thread.join()
    return asked


async def _ask(url: str, customers: Sequence[str], asked: Asked, stop: threading.Event) -> None:
    await asyncio.gather(*(_lane(url, customers, asked, stop, lane) for lane in range(_LANES)))


async def _lane(url: str, customers: Sequence[str], asked: Asked, stop: threading.Event, lane: int) -> None:
    seen = Seen()
    client, turn = Client(url, seen), lane
    while not stop.is_set():
        turn += _LANES
        one = customers[turn * 7 % len(customers)]
        is_batch = turn % 40 < _LANES
        sent = time.monotonic()
        if is_batch:
            answer = await client.ask(_BATCH, {"customer_ids": list(customers[:_BATCHED]), "n": 5})
        else:
            answer = await client.ask(RECOMMEND, {"customer_id": one, "n": 10})
        if answer is not None and answer.status == 200:
            told = json.loads(answer.body)
            made = [
                (a["customer_id"], (a["bundle"], a["rules"], a["experiment"], a["variant"]))
                for a in (told if is_batch else [told])
            ]
            asked.answers.append((sent, time.monotonic(), made))
        await asyncio.sleep(_PAUSE)
    client.close()
    for (path, outcome), count in seen.answers.items():
        if outcome != "200":
            asked.failed[f"{path} {outcome}"] += count


def examine(
    asked: Asked, states: Sequence[InForce], *, corrupt: str, grace: float = GRACE_SECONDS
) -> dict[str, Any]:
    """Return which answers which states explain, as JSON values, and which laws that breaks.

    Parameters
    ----------
    asked
        What clients saw.
    states
        What was in force, in order.
    corrupt
        The version that may answer nobody.
    grace
        So many seconds after it was replaced a state may still answer.
    """
    ends = [state.since for state in states[1:]] + [np.inf]
    known: dict[tuple[int, str], Made] = {}

    def made(place: int, customer: str) -> Made:
        if (place, customer) not in known:
            known[place, customer] = states[place].made(customer)
        return known[place, customer]

    unexplained: list[str] = []
    used: set[int] = set()
    late = 0.0
    for sent, came, answers in asked.answers:
        explains = [
            place
            for place, (state, end) in enumerate(zip(states, ends, strict=True))
            if state.since <= came
            and sent <= end + grace
            and all(made(place, who) == it for who, it in answers)
        ]
        used.update(explains)
        if explains:
            late = max(late, sent - ends[explains[-1]])
        else:
            unexplained.append(
                f"{', '.join(sorted({str(it) for _, it in answers}))} at {sent - states[0].since:.1f} s"
            )
    seconds = np.array([came - sent for sent, came, _ in asked.answers])
    by_corrupt = sum(it[0] == f"{NAME}:{corrupt}" for _, _, answers in asked.answers for _, it in answers)
    broken = []
    if asked.failed:
        broken.append(f"requests failed: {dict(asked.failed)}")
    if unexplained:
        broken.append(
            f"{len(unexplained)} answers are of no state that was in force, such as {unexplained[0]}"
        )
    if by_corrupt:
        broken.append(f"{by_corrupt} answers are of the bundle that is not whole")
    return {
        "requests": len(asked.answers) + sum(asked.failed.values()),
        "failed": dict(asked.failed),
        "answers": sum(len(answers) for _, _, answers in asked.answers),
        "unexplained": len(unexplained),
        "states": len(states),
        "states_seen": len(used),
        "last_after_seconds": late,
        "of_the_corrupt_bundle": by_corrupt,
        **{f"p{p}_ms": float(np.percentile(seconds, p)) * 1000.0 for p in (50, 99, 100)},
        "broken": broken,
    }


def _memory(service: Service) -> list[float]:
    """Return the resident memory of each worker (MB)."""
    sizes = []
    for pid in service.workers:
        told = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        sizes.append(int(told["VmRSS"].split()[0]) / 1024.0)
    return sizes
