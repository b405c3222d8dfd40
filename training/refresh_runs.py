"""The records of refreshes: one JSON file a run, replaced in one step after each of its steps.

A record is both what a person reads (data, recipe, metrics, verdict, durations) and what the next call goes on from.
The newest ``KEPT`` are kept. A record that goes takes its bundle along, unless that is live, can be rolled back to, in
any slot, or is named by a variant; bundles that no record names (made by ``nextbest train``, or by another home) are
not removed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from feature_repo.validate import Validation
from serving.bundle import NAME, remove
from serving.errors import BundleError, ConfigError
from serving.experiments_file import Experiments
from serving.live import Live
from serving.settings import Settings

#: How many runs are remembered, with their bundles.
KEPT: Final = 20

UNFINISHED: Final = "unfinished"
PUBLISHED: Final = "published"
KEPT_LIVE: Final = "kept"
FAILED: Final = "failed"
SUPERSEDED: Final = "superseded"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(_Strict):
    """The tables of a run: rows and SHA-256 by table and file, one over all of them, and the last interaction."""

    rows: dict[str, int]
    hashes: dict[str, str]
    hash: str
    last: datetime


class Checks(_Strict):
    """What validation of the tables found: how many checks passed, warned and failed, and the latter two in words."""

    counts: dict[str, int]
    told: tuple[str, ...] = ()

    @classmethod
    def of(cls, validation: Validation) -> Checks:
        """Keep what is not as it should be."""
        told = [
            f"{one.status} {one.table}: {one.check}, {one.count:,} of {one.total:,} rows; {one.message}"
            for one in validation.findings
            if one.status != "PASS"
        ]
        return cls(counts=validation.counts, told=tuple(told))


class Gate(_Strict):
    """What the gate said: of whom, against which live recipe, why; ``metrics`` go into the bundle as they are."""

    champion: dict[str, Any] | None
    winner: dict[str, Any]
    reason: str
    metrics: dict[str, Any]


class Run(_Strict):
    """One run.

    ``calls`` are the instants at which somebody began to work on it, the first of which is its own: what was logged
    later belongs to the next run. ``seconds`` holds the finished steps in order, each with the time that the call which
    finished it took. ``unranked`` says why the bundle lacks the ranker of its recipe, ``said`` how it ended, in one
    sentence.
    """

    schema_version: Literal[1] = 1
    run: str
    calls: tuple[datetime, ...]
    tables: str
    config: str | None
    settings: dict[str, Any]
    code: dict[str, str]
    seconds: dict[str, float] = Field(default_factory=dict)
    events: dict[str, int] | None = None
    data: Data | None = None
    checks: Checks | None = None
    features: dict[str, Any] | None = None
    gate: Gate | None = None
    bundle: str | None = None
    unranked: str | None = None
    live_before: str | None = None
    outcome: Literal["unfinished", "published", "kept", "failed", "superseded"] = UNFINISHED
    said: str = ""

    @property
    def begun(self) -> datetime:
        """When it began."""
        return self.calls[0]

    @property
    def version(self) -> str | None:
        """The version of its bundle."""
        return None if self.bundle is None else self.bundle.removeprefix(f"{NAME}:")

    def changed(self, **told: Any) -> Run:
        """Return the run with some of its fields replaced."""
        return self.model_copy(update=told)

    def without(self, *steps: str, **told: Any) -> Run:
        """Return the run with ``steps`` to be done again."""
        seconds = {step: taken for step, taken in self.seconds.items() if step not in steps}
        return self.changed(seconds=seconds, **told)

    def asks_the_same(self, other: Run) -> bool:
        """Whether both are runs of the same recipes and code."""
        return (self.settings, self.code) == (other.settings, other.code)


class Runs:
    """The records in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def all(self) -> list[Run]:
        """Return the readable ones, newest first; one of another version of the project is not among them."""
        found = []
        for path in sorted(self._directory.glob("[0-9]*.json"), reverse=True):
            try:
                found.append(Run.model_validate_json(path.read_bytes()))
            except ValidationError:
                continue
        return found

    def newest(self, *outcomes: str) -> Run | None:
        """Return the newest run, of those that ended so if any outcome is given."""
        return next((run for run in self.all() if not outcomes or run.outcome in outcomes), None)

    def remembered(self) -> Run | None:
        """Return the run whose tables and configuration the next one takes: the newest that came to read them."""
        return next((run for run in self.all() if run.data is not None or run.outcome == UNFINISHED), None)

    def write(self, run: Run) -> None:
        """Put a record into place, whole and on disk."""
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._path(run)
        staged = path.with_suffix(".staged")
        with staged.open("w") as file:
            file.write(run.model_dump_json(indent=1))
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)

    def sweep(self, settings: Settings) -> None:
        """Remove the records beyond ``KEPT`` with their bundles, and all but the newest that only found nothing new."""
        runs = self.all()
        idle = [run for run in runs if run.outcome == KEPT_LIVE]
        for run in idle[1:]:
            self._path(run).unlink(missing_ok=True)
        left = [run for run in runs if run not in idle]
        try:
            held = _held(Live.read(settings.live), Experiments.read(settings.experiments))
        except (BundleError, ConfigError):
            return
        held |= {run.bundle for run in left[:KEPT] if run.bundle}
        for run in left[KEPT:]:
            if run.version is not None and run.bundle not in held:
                remove(settings.bundles, run.version)
            self._path(run).unlink(missing_ok=True)

    def _path(self, run: Run) -> Path:
        return self._directory / f"{run.run}.json"


def _held(live: Live, experiments: Experiments) -> set[str]:
    """Return the tags that are live, can be rolled back to, or are named by variants."""
    tags = {tag for slot in live.slots.values() for tag in (slot.live, *slot.history)}
    return tags | {f"{NAME}:{version}" for version in experiments.versions}


def differences(held: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Return the names of files that were added, removed or changed."""
    return sorted(name for name in held.keys() | found.keys() if held.get(name) != found.get(name))
