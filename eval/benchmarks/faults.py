"""What a service survives: its workers, its parent and its Redis killed under load, and a Redis that is away or hangs.

Each part runs on a home of its own with two workers, clients that tell and clients that ask; the supervisor that starts
the parent again, and whoever starts Redis again, is the benchmark. Afterwards the laws of ``eval.benchmarks.laws`` are
examined. Everything stays on the loopback address.
"""

from __future__ import annotations

import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from eval.benchmarks.clients import LATE, NOTHING, Seen, Traffic, traffic
from eval.benchmarks.laws import examine, wait_until_consumed
from eval.benchmarks.own_home import OwnHome
from eval.benchmarks.supervised import Supervised, supervised
from eval.redis_server import RedisServer, redis_server
from serving.errors import NextbestError
from serving.settings import Settings

Progress = Callable[[str, int, int], None]

#: Personal answers must be back so soon after Redis is.
BACK_SECONDS: Final = 5.0
#: What clients may see of a killed process; a worker that starts again refuses nobody. Where all are killed,
#: connections are taken before there is a worker to answer, and wait for one. Of Redis's troubles those who ask see
#: nothing.
_EXCUSED: Final = {
    "worker": frozenset({NOTHING}),
    "parent": frozenset({NOTHING, LATE}),
}
_DOWN_SECONDS: Final = 1.0
_PATIENCE_SECONDS: Final = 30.0
#: For so long answers are watched after Redis is back: a reader that rests comes back later.
_SETTLED_SECONDS: Final = 2.0
_QUIET_SECONDS: Final = (0.3, 1.2)


def faults(
    settings: Settings,
    *,
    kills: int = 20,
    outage: float = 30.0,
    hang: float = 5.0,
    stores: Sequence[str] = ("sqlite", "redis"),
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Break a service on a copy of a home in every way, and return what was found as JSON values.

    ``broken`` lists the laws that did not hold; it is empty where all is well.

    Parameters
    ----------
    settings
        Of the home whose live bundle and features are copied; it is not changed.
    kills
        How often a worker, the parent and, where the log is in it, Redis are killed (SIGKILL).
    outage, hang
        For how many seconds Redis is away (killed, started again), and hangs (SIGSTOP, SIGCONT); 0 leaves it out.
    stores
        Where the event log is, one after the other.
    seed
        Of the waits between kills.

    Raises
    ------
    ConfigError
        Nothing is live, or there is no Redis to run.
    NextbestError
        The service did not come back.
    """
    found: dict[str, Any] = {}
    broken: list[str] = []
    for store in stores:
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nextbest-faults-")))
            redis = None
            if store == "redis":
                (directory / "redis").mkdir()
                redis = stack.enter_context(redis_server(directory / "redis"))
            home = OwnHome.copied(settings, directory / "home", redis_url=redis.url if redis else None)
            trial = Trial(home, redis, directory / "service.log", seed=seed, progress=progress)
            found[store] = trial.run(kills=kills, outage=outage, hang=hang)
            broken += [f"{store}: {law}" for law in trial.broken]
    return {**found, "broken": broken}


class Trial:
    """The faults on one home; ``broken`` lists the laws that did not hold.

    Parameters
    ----------
    home, redis
        What is served, and the Redis of its log and online store; None where they are in SQLite.
    log
        Where the service writes what it has to say.
    """

    def __init__(
        self, home: OwnHome, redis: RedisServer | None, log: Path, *, seed: int, progress: Progress | None
    ) -> None:
        self._home = home
        self._redis = redis
        self._log = log
        self._rng = random.Random(seed)
        self._progress = progress
        self._seen: list[Seen] = []
        self.broken: list[str] = []

    def run(self, *, kills: int, outage: float, hang: float) -> dict[str, Any]:
        """Do them all, one after the other, then examine the laws."""
        found: dict[str, Any] = {}
        with supervised(self._home, self._log) as service:
            found["worker"] = self._kills(service, "worker", kills, service.kill_worker)
            found["parent"] = self._kills(service, "parent", kills, lambda _: service.kill_parent())
            if self._redis is not None:
                redis = self._redis
                found["redis"] = self._away(
                    service, "redis", [_DOWN_SECONDS] * kills, redis.kill, redis.start
                )
                waits = [outage] if outage else []
                found["outage"] = self._away(service, "outage", waits, redis.kill, redis.start)
                waits = [hang] if hang else []
                found["hang"] = self._away(
                    service,
                    "hang",
                    waits,
                    lambda: redis.process.send_signal(signal.SIGSTOP),
                    lambda: redis.process.send_signal(signal.SIGCONT),
                )
            if not wait_until_consumed(self._home):
                self.broken.append("events were logged that the consumer does not fold")
        counts, broken = examine(self._home, self._seen)
        self.broken += broken
        return {**found, **counts}

    def _kills(
        self, service: Supervised, what: str, kills: int, kill: Callable[[int], float]
    ) -> dict[str, Any]:
        """Kill a process again and again; the seconds are those until every worker is ready again."""
        seconds = []
        with self._traffic(service, what) as clients:
            for number in range(kills):
                time.sleep(self._rng.uniform(*_QUIET_SECONDS))
                seconds.append(kill(number))
                self._told(what, number + 1, kills)
            time.sleep(_DOWN_SECONDS)
        return {"kills": kills, **_spread("ready", seconds), "answers": clients.seen.to_json()}

    def _away(
        self,
        service: Supervised,
        what: str,
        waits: Sequence[float],
        leave: Callable[[], None],
        come: Callable[[], None],
    ) -> dict[str, Any]:
        """Take Redis away for a while, again and again; the seconds are counted from its return.

        ``felt`` says how often somebody was answered without the online store meanwhile.
        """
        acknowledged, personal = [], []
        felt = 0
        with self._traffic(service, what) as clients:
            for number, wait in enumerate(waits):
                self._wait(what, "a personal answer", 0.0, clients.personal_since)
                time.sleep(self._rng.uniform(*_QUIET_SECONDS))
                left = time.monotonic()
                leave()
                time.sleep(wait)
                come()
                back = time.monotonic()
                felt += clients.impersonal_between(left, back) > 0
                acknowledged.append(self._wait(what, "an acknowledgement", back, clients.acknowledged_since))
                time.sleep(_SETTLED_SECONDS)
                personal.append(self._wait(what, "a personal answer", back, clients.personal_since))
                self._told(what, number + 1, len(waits))
        if any(seconds > BACK_SECONDS for seconds in personal):
            self.broken.append(f"{what}: personal answers were back {max(personal):.1f} s after Redis was")
        return {
            "times": len(waits),
            "felt": felt,
            **_spread("acknowledged", acknowledged),
            **_spread("personal", personal),
            "answers": clients.seen.to_json(),
        }

    def _wait(self, what: str, wanted: str, since: float, look: Callable[[float], float | None]) -> float:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (seconds := look(since)) is None:
            if time.monotonic() > deadline:
                raise NextbestError(
                    f"expected {wanted} after Redis is back ({what}), found none for {_PATIENCE_SECONDS:.0f} s; "
                    f"the service's log ends:\n{self._log.read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.02)
        return seconds

    @contextmanager
    def _traffic(self, service: Supervised, what: str) -> Iterator[Traffic]:
        with traffic(self._home, service.url, what, excused=_EXCUSED.get(what, frozenset())) as clients:
            self._seen.append(clients.seen)
            yield clients

    def _told(self, what: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(f"{'redis' if self._redis else 'sqlite'}: {what}", done, total)


def _spread(name: str, seconds: Sequence[float]) -> dict[str, float]:
    """Return the median and the largest of some seconds, by name; nothing of none."""
    if not seconds:
        return {}
    return {
        f"{name}_median_s": round(float(np.median(seconds)), 3),
        f"{name}_max_s": round(max(seconds), 3),
    }
