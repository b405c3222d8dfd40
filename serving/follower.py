"""Keeps what a worker serves current with ``live.json``, ``rules.toml`` and ``experiments.toml``, without a restart.

Each worker looks at the files, verifies, loads and replays new bundles beside the old ones, binds rules to them, and
swaps one reference to all of it (``serving.served``). Each file is taken up by itself, so that a broken one of
experiments cannot hold up a rollback: what of a file cannot be taken up is told once, and what it said before goes on
holding. A worker that starts while ``experiments.toml`` is broken serves everybody what is live until the file is
corrected. Rules say what may be shown at all, so nothing is ever served without them: a worker that starts while
``rules.toml`` is broken is not ready, and a bundle that they do not fit is not taken up.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Final

from serving.dropped_rules import dropped_rules
from serving.errors import BundleError, ConfigError
from serving.making import Attributes, Bind, Load, Maker, bound, told
from serving.served import Served
from serving.told import Files, Plan, State

log = logging.getLogger("nextbest")

#: The parts of a state, in the order in which one is taken up rather than another.
_PARTS: Final = range(3)
_PLAN: Final = 2


class Follower:
    """Keeps one ``Served`` current, from a thread of its own.

    Parameters
    ----------
    live, slot
        ``live.json``, and the slot to follow.
    load, bind, attributes
        Make recommenders; see ``serving.making.Maker``.
    poll_seconds
        How often the files are looked at.
    rules, experiments
        ``rules.toml`` and ``experiments.toml``; None: there are none.
    patience_seconds
        How long what was refused is left alone before it is tried again.
    taken
        Told what is served from now on.
    rules_up, experiments_up
        Told at each look whether the rules, or the experiments, are served as their files have them.
    """

    def __init__(
        self,
        live: Path,
        slot: str,
        load: Load,
        *,
        poll_seconds: float,
        rules: Path | None = None,
        experiments: Path | None = None,
        bind: Bind = bound,
        attributes: Attributes = lambda names, live: live.features,
        patience_seconds: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
        taken: Callable[[Served], None] = lambda served: None,
        rules_up: Callable[[bool], None] = lambda is_up: None,
        experiments_up: Callable[[bool], None] = lambda is_up: None,
    ) -> None:
        self._files = Files(live, slot, rules=rules, experiments=experiments)
        self._maker = Maker(load, bind, attributes)
        self._poll_seconds = poll_seconds
        self._taken = taken
        self._up = {1: rules_up, 2: experiments_up}
        self._stop = threading.Event()
        self._troubles = [_Trouble() for _ in _PARTS]
        self._about = (live, rules, experiments)
        self._patience_seconds = patience_seconds
        self._monotonic = monotonic
        self._refused: tuple[tuple[object, ...], float] | None = None
        self._state: State | None = None
        self._collected = 0
        self.current: Served | None = None
        self._thread = threading.Thread(target=self._follow, name="live", daemon=True)

    @property
    def problem(self) -> str:
        """Why what the files say is not served, empty when it is."""
        return " · ".join(part.problem for part in self._troubles if part.problem)

    def start(self) -> None:
        """Load what is live now and begin to follow."""
        self.look()
        self._thread.start()

    def stop(self) -> None:
        """Stop following."""
        self._stop.set()

    def look(self) -> None:
        """Look once; what cannot be taken up is told once, and what serves now goes on serving."""
        said = [
            self._said(part, read)
            for part, read in enumerate((self._files.version, self._files.rules, self._files.plan))
        ]
        if not self._is_refused(tuple(said)):
            self._take(said)
        for part, up in self._up.items():
            up(not self._troubles[part].problem)

    def _said(self, part: int, read: Callable[[], object]) -> object:
        """Return what a file says; None, told, where that cannot be read."""
        try:
            return read()
        except Exception as error:  # the thread must outlive whatever a damaged file raises
            self._troubles[part].told(told(error))
            return None

    def _is_refused(self, said: tuple[object, ...]) -> bool:
        return self._refused is not None and self._refused[0] == said and self._monotonic() < self._refused[1]

    def _take(self, said: list[object]) -> None:
        """Serve as much as can be of what the files say: the version first, then the rules, then the experiments."""
        errors: dict[State, Exception] = {}
        found: State | None = None
        for state in self._states(said):
            try:
                served = self.current if state == self._state else self._maker.made(state)
            except Exception as error:  # the thread must outlive whatever a damaged bundle raises
                errors[state] = error
                continue
            found = state
            if served is not None and served is not self.current:
                self._serve(served, state)
            break
        blamed = [self._blame(part, said[part], found, errors) for part in _PARTS]
        causes = [error for error in blamed if error is not None]
        is_settled = bool(causes) and all(isinstance(error, BundleError | ConfigError) for error in causes)
        self._refused = (tuple(said), self._monotonic() + self._patience_seconds) if is_settled else None
        self._maker.forget(*[state for state in (self._state, *list(errors)[:1]) if state is not None])

    def _states(self, said: list[object]) -> Iterator[State]:
        """Yield what could be served, the most of what the files say first."""
        held = self._state or (None, None, Plan())
        for parts in product(
            *([new, old] if new != old else [old] for new, old in zip(said, held, strict=True))
        ):
            if None not in parts:
                yield State(*parts)  # type: ignore[arg-type]

    def _blame(
        self, part: int, said: object, found: State | None, errors: dict[State, Exception]
    ) -> Exception | None:
        """Tell what keeps a part from being taken up, and return it; None where nothing but its file does."""
        trouble = self._troubles[part]
        if said is None:
            return None
        if found is not None and found[part] == said:
            trouble.over()
            return None
        if found is None:  # nothing is served, neither without what is live nor without rules
            last = next(reversed(errors), None)
            at = None if last is None else 0 if self._maker.has_failed(last.version) else 1
            error = errors[last] if last is not None and part == at else None
            if error is None:
                trouble.over()
        else:
            asked = State(*[said if place == part else found[place] for place in _PARTS])  # type: ignore[arg-type]
            error = errors.get(asked)
        if error is not None:
            trouble.told(f"{self._about[part]}: {told(error)}" if part == _PLAN else told(error))
        return error

    def _serve(self, served: Served, state: State) -> None:
        loaded = self._maker.loaded
        self.current, self._state = served, state
        if loaded != self._collected:
            _spare_the_collector()
            self._collected = loaded
        self._taken(served)
        log.info(
            "serving %s with rules %s and experiments %s",
            served.live.bundle.tag,
            state.rules.digest,
            state.plan.digest,
        )
        for sentence in dropped_rules(state.rules, state.plan):
            log.warning("%s", sentence)

    def _follow(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            self.look()


class _Trouble:
    """What keeps one file from being taken up: told once."""

    problem = ""

    def told(self, problem: str) -> None:
        if problem != self.problem:
            log.error("not taken up: %s", problem)
        self.problem = problem

    def over(self) -> None:
        self.problem = ""


def _spare_the_collector() -> None:
    """Let the garbage collector pass over bundles from now on: looking through them takes longer than many answers."""
    gc.unfreeze()  # what of the bundles before was in cycles
    gc.collect()
    gc.freeze()
