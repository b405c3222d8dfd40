"""What is live: one small file, replaced atomically, that publish and rollback alone write.

``live.json`` maps a slot to ``name:version`` and remembers what was live before. Each worker polls it,
verifies, loads and replays the new bundle beside the old one, and swaps one reference; a request takes
the reference once, so it is answered by exactly one bundle.
"""

from __future__ import annotations

import fcntl
import gc
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from serving.bundle import NAME
from serving.errors import BundleError, ConfigError, NextbestError
from serving.recommender import Recommender

log = logging.getLogger("nextbest")


class Slot(BaseModel):
    """One slot: the live tag and the earlier ones, latest last."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    live: str
    history: tuple[str, ...] = ()


class Live(BaseModel):
    """The content of ``live.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slots: dict[str, Slot] = {}

    @classmethod
    def read(cls, path: Path) -> Live:
        """Read ``path``; an absent file means that nothing is live.

        Raises
        ------
        BundleError
            The file cannot be read.
        """
        try:
            return cls.model_validate_json(path.read_text())
        except FileNotFoundError:
            return cls()
        except (ValidationError, ValueError, OSError) as error:
            raise BundleError(
                f"expected slots in {path}, found it unreadable; publish a bundle again (`nextbest models` lists "
                "them), which puts the damaged file aside"
            ) from error

    def missing(self, slot: str) -> str | None:
        """Return why nothing is live in ``slot``, in one sentence; None where something is."""
        if slot in self.slots:
            return None
        if not self.slots:
            return "expected something live, found nothing published yet; run `nextbest train TABLES`"
        there = ", ".join(repr(name) for name in self.slots)
        return (
            f"expected something live in the slot {slot!r}, found slots {there} only; correct NEXTBEST_SLOT, or run "
            f"`nextbest publish TAG` with it"
        )

    def version(self, slot: str) -> str | None:
        """Return the version live in ``slot``, None when it is empty."""
        held = self.slots.get(slot)
        return held.live.partition(":")[2] if held else None


def publish(path: Path, slot: str, version: str) -> None:
    """Make ``version`` live in ``slot``; what was live before can be rolled back to."""
    with _locked(path):
        try:
            now = Live.read(path)
        except BundleError:
            path.replace(path.with_suffix(".damaged"))
            now = Live()
        held = now.slots.get(slot)
        tag = f"{NAME}:{version}"
        if held and held.live == tag:
            return
        history = (*held.history, held.live) if held else ()
        _replace(path, Live(slots={**now.slots, slot: Slot(live=tag, history=history[-20:])}))


def rollback(path: Path, slot: str) -> tuple[str, str]:
    """Make the version before the live one live again; return (from, to) tags.

    Raises
    ------
    ConfigError
        Nothing was live before.
    """
    with _locked(path):
        now = Live.read(path)
        held = now.slots.get(slot)
        if held is None or not held.history:
            raise ConfigError(
                f"expected an earlier bundle in slot {slot!r} to roll back to, found none; publish one"
            )
        to = held.history[-1]
        _replace(path, Live(slots={**now.slots, slot: Slot(live=to, history=held.history[:-1])}))
        return held.live, to


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _replace(path: Path, live: Live) -> None:
    handle, name = tempfile.mkstemp(prefix=".live-", dir=path.parent)
    with os.fdopen(handle, "w") as file:
        file.write(json.dumps(live.model_dump(), indent=1))
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(path)


class Follower:
    """Keeps one ``Recommender`` current with ``live.json``, from a thread of its own.

    Parameters
    ----------
    path, slot
        The file and the slot to follow.
    load
        Makes a verified, replayed recommender of a version; raises ``NextbestError`` when it cannot.
    poll_seconds
        How often the file is looked at.
    patience_seconds
        How long a bundle that was refused is left alone before it is tried again.
    taken
        Told each recommender that serves from now on.
    """

    def __init__(
        self,
        path: Path,
        slot: str,
        load: Callable[[str], Recommender],
        *,
        poll_seconds: float,
        patience_seconds: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
        taken: Callable[[Recommender], None] = lambda recommender: None,
    ) -> None:
        self._path = path
        self._slot = slot
        self._load = load
        self._poll_seconds = poll_seconds
        self._patience_seconds = patience_seconds
        self._monotonic = monotonic
        self._taken = taken
        self._stop = threading.Event()
        self._refused: tuple[str, float] | None = None
        self.current: Recommender | None = None
        self.problem = ""
        self._thread = threading.Thread(target=self._follow, name="live", daemon=True)

    def start(self) -> None:
        """Load what is live now and begin to follow."""
        self.look()
        self._thread.start()

    def stop(self) -> None:
        """Stop following."""
        self._stop.set()

    def look(self) -> None:
        """Look once; what cannot be taken up is told once, and what serves now goes on serving."""
        version: str | None = None
        try:
            live = Live.read(self._path)
            version = live.version(self._slot)
            if version is None:
                raise ConfigError(live.missing(self._slot))
            if self._is_refused(version):
                return
            if self.current is None or self.current.bundle.version != version:
                self.current = self._load(version)
                _spare_the_collector()
                self._taken(self.current)
                log.info("serving %s", self.current.bundle.tag)
            self._refused, self.problem = None, ""
        except Exception as error:  # the thread must outlive whatever a damaged bundle raises
            if isinstance(error, BundleError) and version is not None:
                self._refused = (version, self._monotonic() + self._patience_seconds)
            problem = str(error) if isinstance(error, NextbestError) else f"{type(error).__name__}: {error}"
            if problem != self.problem:
                log.error("not taken up: %s", problem)
            self.problem = problem

    def _is_refused(self, version: str) -> bool:
        if self._refused is None or self._refused[0] != version:
            return False
        return self._monotonic() < self._refused[1]

    def _follow(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            self.look()


def _spare_the_collector() -> None:
    """Let the garbage collector pass over a bundle from now on: looking through it takes longer than many answers."""
    gc.unfreeze()  # what of the bundle before was in cycles
    gc.collect()
    gc.freeze()
