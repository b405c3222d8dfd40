"""Keeps what a worker serves current with ``live.json`` and ``experiments.toml``, without a restart.

Each worker looks at the two files, verifies, loads and replays new bundles beside the old ones, and swaps one reference
to all of it (``serving.served``). Each file is taken up by itself, so that a broken one of experiments cannot hold up a
rollback: what of a file cannot be taken up is told once, and what it said before goes on holding. A worker that starts
while ``experiments.toml`` is broken serves everybody what is live until the file is corrected.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

from serving.errors import BundleError, ConfigError, NextbestError
from serving.experiments_file import Experiments
from serving.features import FeatureReader
from serving.live import Live
from serving.recommender import Recommender
from serving.served import Served

log = logging.getLogger("nextbest")


class Follower:
    """Keeps one ``Served`` current, from a thread of its own.

    Parameters
    ----------
    live, slot
        ``live.json``, and the slot to follow.
    load
        Makes a verified, replayed recommender of a version; raises ``NextbestError`` when it cannot.
    poll_seconds
        How often the files are looked at.
    experiments
        ``experiments.toml``; None: there are none.
    attributes
        Makes the reader of these attributes of customers; raises ``NextbestError`` when it cannot.
    patience_seconds
        How long what was refused is left alone before it is tried again.
    taken
        Told what is served from now on.
    experiments_up
        Told at each look whether the experiments are served as the file has them.
    """

    def __init__(
        self,
        live: Path,
        slot: str,
        load: Callable[[str], Recommender],
        *,
        poll_seconds: float,
        experiments: Path | None = None,
        attributes: Callable[[Collection[str], Recommender], FeatureReader] = lambda names, live: (
            live.features
        ),
        patience_seconds: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
        taken: Callable[[Served], None] = lambda served: None,
        experiments_up: Callable[[bool], None] = lambda is_up: None,
    ) -> None:
        self._live_file = live
        self._slot = slot
        self._load = load
        self._poll_seconds = poll_seconds
        self._experiments_file = experiments
        self._attributes = attributes
        self._taken = taken
        self._experiments_up = experiments_up
        self._stop = threading.Event()
        self._live = _Trouble(patience_seconds, monotonic)
        self._experiments = _Trouble(patience_seconds, monotonic)
        self.current: Served | None = None
        self._thread = threading.Thread(target=self._follow, name="live", daemon=True)

    @property
    def problem(self) -> str:
        """Why what the files say is not served, empty when it is."""
        return " · ".join(part.problem for part in (self._live, self._experiments) if part.problem)

    def start(self) -> None:
        """Load what is live now and begin to follow."""
        self.look()
        self._thread.start()

    def stop(self) -> None:
        """Stop following."""
        self._stop.set()

    def look(self) -> None:
        """Look once; what cannot be taken up is told once, and what serves now goes on serving."""
        told = self._told_experiments()
        live = self._told_live()
        if live is not None:
            self._serve(live, told)
        self._experiments_up(not self._experiments.problem)

    def _serve(self, live: Recommender, told: Experiments | None) -> None:
        held = self.current
        before = Experiments() if held is None else held.experiments
        served = held
        if held is None or held.live is not live or (told is not None and told.digest != before.digest):
            served = None if told is None else self._made(live, told)
            if served is None and (held is None or held.live is not live):
                served = self._made(live, before)
        if served is not None and served is not held:
            self.current = served
            _spare_the_collector()
            self._taken(served)
            log.info("serving %s with experiments %s", live.bundle.tag, served.experiments.digest)
        if told is not None and self.current is not None and self.current.experiments.digest == told.digest:
            self._experiments.over()

    def _told_live(self) -> Recommender | None:
        """Return the recommender of what is live, or of what was live as long as that cannot be taken up."""
        held = None if self.current is None else self.current.live
        version: str | None = None
        try:
            live = Live.read(self._live_file)
            version = live.version(self._slot)
            if version is None:
                raise ConfigError(live.missing(self._slot))
            if self._live.is_refused(version):
                return held
            found = self._recommender(version)
            self._live.over()
            return found
        except Exception as error:  # the thread must outlive whatever a damaged bundle raises
            self._live.told(error, version)
            return held

    def _told_experiments(self) -> Experiments | None:
        """Return what the file says; None as long as that cannot be taken up."""
        if self._experiments_file is None:
            return Experiments()
        try:
            told = Experiments.read(self._experiments_file)
        except Exception as error:
            self._experiments.told(error)
            return None
        return None if self._experiments.is_refused(told.digest) else told

    def _made(self, live: Recommender, experiments: Experiments) -> Served | None:
        """Return what is to be served, with all bundles that are named; None, told, where one cannot be."""
        try:
            found = {live.bundle.version: live}
            for version in sorted(experiments.versions - found.keys()):
                found[version] = self._recommender(version)
            asked = experiments.attributes
            return Served(live, experiments, found, self._attributes(asked, live) if asked else None)
        except Exception as error:
            self._experiments.told(error, experiments.digest, about=self._experiments_file)
            return None

    def _recommender(self, version: str) -> Recommender:
        held = None if self.current is None else self.current.recommenders.get(version)
        return self._load(version) if held is None else held

    def _follow(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            self.look()


class _Trouble:
    """What keeps one file from being taken up: told once, and left alone for a while if it will not pass by itself."""

    def __init__(self, patience_seconds: float, monotonic: Callable[[], float]) -> None:
        self._patience_seconds = patience_seconds
        self._monotonic = monotonic
        self._refused: tuple[str, float] | None = None
        self.problem = ""

    def is_refused(self, what: str) -> bool:
        if self._refused is None or self._refused[0] != what:
            return False
        return self._monotonic() < self._refused[1]

    def told(self, error: Exception, what: str | None = None, *, about: Path | None = None) -> None:
        if what is not None and isinstance(error, BundleError | ConfigError):
            self._refused = (what, self._monotonic() + self._patience_seconds)
        problem = str(error) if isinstance(error, NextbestError) else f"{type(error).__name__}: {error}"
        problem = problem if about is None else f"{about}: {problem}"
        if problem != self.problem:
            log.error("not taken up: %s", problem)
        self.problem = problem

    def over(self) -> None:
        self._refused, self.problem = None, ""


def _spare_the_collector() -> None:
    """Let the garbage collector pass over bundles from now on: looking through them takes longer than many answers."""
    gc.unfreeze()  # what of the bundles before was in cycles
    gc.collect()
    gc.freeze()
