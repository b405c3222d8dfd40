"""``refresh``: events → tables → features → gate → bundle → live, in one run that may be killed at any moment.

After each step its record is put into place, so the next call goes on from there. What a step leaves is whole or not
there: tables by a rename, features by a description that is written last, bundles by a rename, what is live by one
small file. A run belongs to the instant at which it began: events logged later are left to the next run, and its
bundle is dated so, which is why a run that was killed ten times ends as one that was left alone.

What was killed is gone on with, as long as its tables, recipes and code are the same. What ended with an error is begun
anew, with what is new by then.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from feature_repo import schema as s
from feature_repo.build import FeatureSet
from feature_repo.features import schema_hash
from feature_repo.recent import to_micros
from feature_repo.tables import Tables, find_file
from feature_repo.validate import refuse_failed, validate
from serving import golden, live
from serving.bundle import NAME, load, sweep, verify
from serving.errors import BundleError, DataError
from serving.events.live import event_log
from serving.features import FrameReader
from serving.recommender import Recommender
from serving.settings import Settings
from training.export import export, export_exposures
from training.gap import refuse_gap
from training.recipe import Recipe, TrainConfig
from training.refresh_runs import (
    FAILED,
    KEPT_LIVE,
    PUBLISHED,
    SUPERSEDED,
    UNFINISHED,
    Checks,
    Data,
    Gate,
    Run,
    Runs,
    differences,
)
from training.train import current_features, judge, live_manifest, live_recipe, refit

Progress = Callable[[str, int, int], None]

EVENTS: Final = "events"
TABLES: Final = "tables"
FEATURES: Final = "features"
GATE: Final = "gate"
REFIT: Final = "refit"
PUBLISH: Final = "publish"
STEPS: Final = (EVENTS, TABLES, FEATURES, GATE, REFIT, PUBLISH)


def refresh(
    settings: Settings,
    directory: Path,
    config: TrainConfig,
    *,
    now: datetime,
    config_path: Path | None = None,
    progress: Progress | None = None,
) -> Run:
    """Bring what is live up to date with the event log and the tables; return the record of the run.

    To be called with the home held (``training.train.one_job``).

    Parameters
    ----------
    settings
        Where everything is.
    directory
        The tables; events are appended to them.
    config
        The recipes that compete with the live one.
    now
        The present: a new run takes the events logged until then.
    config_path
        The file that ``config`` was read from, to be remembered.

    Returns
    -------
    Run
        ``published``, or ``kept`` where nothing is new since the last run that published.

    Raises
    ------
    NextbestError
        The data, the configuration or the resulting bundle is not sound; what was live stays live.
    """
    if not directory.is_dir() or find_file(directory, s.PRODUCTS) is None:
        raise DataError(
            f"expected a directory of tables at {directory}, found no {s.PRODUCTS} there; name the folder that "
            "holds them (no events were written)"
        )
    runs = Runs(settings.refresh)
    sweep(settings.bundles)
    fresh = Run(
        run=f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03d}",
        calls=(now,),
        tables=str(directory.absolute()),
        config=None if config_path is None else str(config_path.absolute()),
        settings=config.model_dump(mode="json"),
        code={"version": version(NAME), "feature_schema": schema_hash()},
    )
    call = _Call(settings, config, runs, _gone_on_with(runs, fresh) or fresh, now, progress)
    try:
        return call.carried_on()
    except Exception as error:
        call.put(outcome=FAILED, said=str(error))
        raise
    finally:
        runs.sweep(settings)


def _gone_on_with(runs: Runs, fresh: Run) -> Run | None:
    """Return the run that was killed, if it is still the one to do; one that is not is marked."""
    held = runs.newest()
    if held is None or held.outcome != UNFINISHED:
        return None
    why = "" if held.asks_the_same(fresh) else "the recipes or the code changed"
    if held.tables != fresh.tables:
        why = "other tables were asked for"
    elif held.data is not None and not why:
        with Tables.open(Path(held.tables)) as tables:
            changed = differences(held.data.hashes, tables.hashes())
        why = f"{', '.join(changed)} changed" if changed else ""
    if why:
        runs.write(held.changed(outcome=SUPERSEDED, said=f"begun anew: {why} before it was finished"))
        return None
    return held.changed(calls=(*held.calls, *fresh.calls), config=fresh.config)


class _Call:
    """One call, which carries a run on from where it stands."""

    def __init__(
        self,
        settings: Settings,
        config: TrainConfig,
        runs: Runs,
        run: Run,
        now: datetime,
        progress: Progress | None,
    ) -> None:
        self._settings = settings
        self._config = config
        self._runs = runs
        self._now = now
        self._progress = progress
        self._directory = Path(run.tables)
        self.run = run
        self.put()

    def put(self, **told: Any) -> Run:
        """Change the record, on disk too."""
        self.run = self.run.changed(**told)
        self._runs.write(self.run)
        return self.run

    def carried_on(self) -> Run:
        """Do the steps that are not done."""
        self._step(EVENTS, self._exported)
        with Tables.open(self._directory) as tables:
            self._step(TABLES, partial(self._described, tables))
            if (last := self._last_of_the_same()) is not None:
                said = f"nothing is new since the run {last.run}: {self._live()[0]} stays live"
                return self.put(outcome=KEPT_LIVE, said=said)
            if self._went_live():
                return self._told_published()
            self._look_at_the_champion()
            if REFIT not in self.run.seconds:
                refuse_gap(tables, self._config, live_recipe(self._settings), live_manifest(self._settings))
                features = self._features(tables)
                self._step(GATE, partial(self._judged, tables))
                self._step(REFIT, partial(self._refitted, tables, features))
        self._step(PUBLISH, self._published)
        return self._told_published()

    def _step(self, name: str, work: Callable[[], dict[str, Any]]) -> None:
        if name in self.run.seconds:
            return
        if self._progress is not None:
            self._progress(f"refresh: {name}", 0, 1)
        began = time.perf_counter()
        told = work()
        self.put(seconds={**self.run.seconds, name: round(time.perf_counter() - began, 3)}, **told)
        if self._progress is not None:
            self._progress(f"refresh: {name}", 1, 1)

    def _exported(self) -> dict[str, Any]:
        log, until = event_log(self._settings), to_micros(self.run.begun)
        try:
            return {
                "events": {
                    "interactions": export(log, self._directory, until=until),
                    "exposures": export_exposures(log, self._directory, until=until),
                }
            }
        finally:
            log.close()

    def _described(self, tables: Tables) -> dict[str, Any]:
        data = Data(
            rows={name: tables.rows(name) for name in tables.files},
            hashes=tables.hashes(),
            hash=tables.hash(),
            last=tables.span()[1],
        )
        last = self._runs.newest(PUBLISHED)
        if (
            last is not None
            and last.checks is not None
            and last.data is not None
            and last.data.hash == data.hash
        ):
            return {"data": data, "checks": last.checks}
        found = validate(self._directory, now=self._now)
        checks = Checks.of(found)
        if found.failed:
            self.put(checks=checks)
        refuse_failed(found)
        return {"data": data, "checks": checks}

    def _last_of_the_same(self) -> Run | None:
        """Return the last run that published, if this one could only do the same again."""
        last = self._runs.newest(PUBLISHED)
        if last is None or last.data is None or self.run.data is None or not self.run.asks_the_same(last):
            return None
        is_same = last.data.hash == self.run.data.hash and GATE not in self.run.seconds
        return last if is_same and live_recipe(self._settings) is not None else None

    def _went_live(self) -> bool:
        """Whether a call put this run's bundle live and was killed before it could say so; it may be live no more."""
        return self.run.bundle is not None and self.run.bundle in self._live()

    def _look_at_the_champion(self) -> None:
        """Let the gate judge again where another recipe has gone live since it did."""
        gate, now = self.run.gate, live_recipe(self._settings)
        if gate is not None and gate.champion != _told(now):
            self.run = self.run.without(GATE, REFIT, gate=None, bundle=None, unranked=None)

    def _features(self, tables: Tables) -> FeatureSet:
        """Return the features of the tables; found current they are not built again."""
        found: list[FeatureSet] = []

        def build() -> dict[str, Any]:
            found.append(current_features(self._settings, tables, self._progress))
            return {"features": {"as_of": found[0].as_of.isoformat(), "rows": found[0].rows}}

        self._step(FEATURES, build)
        return found[0] if found else current_features(self._settings, tables, self._progress)

    def _judged(self, tables: Tables) -> dict[str, Any]:
        found = judge(self._settings, tables, self._config, now=self.run.begun, progress=self._progress)
        return {
            "gate": Gate(
                champion=_told(found.champion),
                winner=found.winner.model_dump(mode="json"),
                reason=found.verdict.reason,
                metrics=found.metrics(),
            )
        }

    def _refitted(self, tables: Tables, features: FeatureSet) -> dict[str, Any]:
        assert self.run.gate is not None
        made, unranked = self._made() or refit(
            self._settings,
            tables,
            Recipe.model_validate(self.run.gate.winner),
            self._config,
            as_of=features.as_of,
            now=self.run.begun,
            metrics=self.run.gate.metrics,
        )
        return {"bundle": f"{NAME}:{made}", "unranked": unranked}

    def _made(self) -> tuple[str, str | None] | None:
        """Return what ``refit`` would, of this run's bundle that a killed call stored and could not tell of."""
        assert self.run.gate is not None
        bundles = self._settings.bundles
        for root in sorted(bundles.glob(f"{self.run.begun:%Y%m%d%H%M}-*")):
            try:
                manifest = verify(root, root.name)
                metrics = json.loads((root / "bundle" / "metrics.json").read_bytes())
                if (manifest.created_at, metrics) != (self.run.begun, self.run.gate.metrics):
                    continue
                golden.replay(Recommender(load(bundles, root.name), FrameReader({})))
                return root.name, manifest.policy.unranked
            except (BundleError, OSError, ValueError):
                continue
        return None

    def _published(self) -> dict[str, Any]:
        assert self.run.version is not None
        before = next(iter(self._live()), None)
        live.publish(self._settings.live, self._settings.slot, self.run.version)
        return {"live_before": before}

    def _live(self) -> list[str]:
        """Return the tag that is live, then those that can be rolled back to; nothing where that cannot be read."""
        try:
            slot = live.Live.read(self._settings.live).slots.get(self._settings.slot)
        except BundleError:
            return []
        return [] if slot is None else [slot.live, *slot.history]

    def _told_published(self) -> Run:
        assert self.run.gate is not None
        lacking = "" if self.run.unranked is None else f"; it has no ranker: {self.run.unranked}"
        return self.put(
            outcome=PUBLISHED, said=f"published {self.run.bundle}: {self.run.gate.reason}{lacking}"
        )


def _told(recipe: Recipe | None) -> dict[str, Any] | None:
    return None if recipe is None else recipe.model_dump(mode="json")
