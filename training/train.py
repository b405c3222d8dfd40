"""The training run: backtest, gate, refit on everything, publish or keep."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eval.split import Split
from feature_repo import schema as s
from feature_repo import store as feature_store
from feature_repo.build import EngineOf, FeatureSet, build
from feature_repo.engine import DuckDBEngine
from feature_repo.features import schema_hash
from feature_repo.sqlite_file import is_damage
from feature_repo.tables import Tables
from serving import live
from serving.bundle import sweep, verify
from serving.errors import DataError, FeatureUnavailable, HomeBusy, NextbestError
from serving.events.live import bring_online
from serving.manifest import Manifest
from serving.settings import Settings
from training.assemble import assemble
from training.backtest import Backtest, Verdict, backtest, gate
from training.dataset import TrainingSet
from training.gap import refuse_gap
from training.publish import store
from training.recipe import Recipe, TrainConfig

if TYPE_CHECKING:
    from feast import FeatureStore

Progress = Callable[[str, int, int], None]

#: In the folder of features: which of them were brought online to their last row.
_ONLINE: Final = "online.json"


@dataclass(frozen=True)
class TrainReport:
    """What a training run did; ``unranked`` says why the bundle lacks the ranker of its recipe."""

    backtest: Backtest
    verdict: Verdict
    version: str
    unranked: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the run as JSON values."""
        return {
            "published": f"nextbest:{self.version}",
            "winner": self.verdict.winner.name,
            "reason": self.verdict.reason,
            "unranked": self.unranked,
            "backtest": self.backtest.to_json(),
        }


def build_features(
    settings: Settings,
    tables: Tables,
    *,
    as_of: datetime | None = None,
    engine: EngineOf = DuckDBEngine,
    progress: Progress | None = None,
) -> tuple[FeatureSet, dict[str, int]]:
    """Build the offline features, register them with Feast and bring the newest rows online."""
    features = build(tables, settings.features, as_of=as_of, engine=engine, progress=progress)
    store = feature_store.apply(settings.store, features)
    try:
        return features, _bring_online(settings, store, features)
    except FeatureUnavailable as error:
        if not is_damage(error):
            raise
    # a file that is damaged within: all that it held is in the features and in the event log
    store = feature_store.applied_anew(settings.store, features)
    return features, _bring_online(settings, store, features)


def current_features(settings: Settings, tables: Tables, progress: Progress | None = None) -> FeatureSet:
    """Return the features of exactly these tables, all of them, by this code; build them if need be.

    Features found whole are registered again, since a home may have been moved since, and brought online
    again where the online store has lost them, or a job that brought them did not come to its end.
    """
    try:
        features = FeatureSet.read(settings.features)
    except DataError:
        return build_features(settings, tables, progress=progress)[0]
    current = (
        features.tables_hash == tables.hash()
        and features.schema_hash == schema_hash()
        and features.as_of > tables.span()[1]
    )
    if not current:
        return build_features(settings, tables, progress=progress)[0]
    store, is_online = feature_store.applied(settings.store, features)
    if not is_online or _told_online(settings) != _description(features):
        _bring_online(settings, store, features)
    return features


def _bring_online(settings: Settings, store: FeatureStore, features: FeatureSet) -> dict[str, int]:
    """Bring features online and note that all of them are: a killed job leaves no note."""
    note = settings.features / _ONLINE
    note.unlink(missing_ok=True)
    written = bring_online(settings, store, features)
    staged = note.with_suffix(".staged")
    staged.write_text(_description(features))
    staged.replace(note)
    return written


def _description(features: FeatureSet) -> str:
    return json.dumps([features.tables_hash, features.schema_hash, features.as_of.isoformat()])


def _told_online(settings: Settings) -> str:
    try:
        return (settings.features / _ONLINE).read_text()
    except OSError:
        return ""


@contextmanager
def one_job(settings: Settings, name: str = "job") -> Iterator[None]:
    """Hold the home for one job that writes features or bundles, or for another job of which there is one at a time.

    Raises
    ------
    HomeBusy
        Another job holds it.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    with (settings.home / f"{name}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise HomeBusy(
                f"expected {settings.home} free for this job, found another job writing to it; "
                "wait for it or set NEXTBEST_HOME to another directory"
            ) from error
        yield


def last_split(tables: Tables, horizon_days: int) -> Split:
    """Return the split whose test window is the last ``horizon_days`` of the interactions."""
    at = tables.frame(s.INTERACTIONS, [s.AT])[s.AT]
    days = (at.max() - at.min()).days
    if days <= 2 * horizon_days:
        raise DataError(
            f"expected interactions over more than {2 * horizon_days} days, to train on a past and judge on the "
            f"{horizon_days} days after it, found {days} days; give a longer history, or a smaller horizon_days in "
            "the configuration"
        )
    return Split.last(at, horizon=timedelta(days=horizon_days))


def train(
    settings: Settings,
    directory: Path,
    config: TrainConfig,
    *,
    now: datetime,
    progress: Progress | None = None,
) -> TrainReport:
    """Run the gate over the recipes of ``config`` and publish the winner refitted on all data.

    Raises
    ------
    NextbestError
        The data, the configuration or the resulting bundle is not sound; what was live stays live.
    """
    sweep(settings.bundles)
    with Tables.open(directory) as tables:
        refuse_gap(tables, config, live_recipe(settings), live_manifest(settings))
        features = current_features(settings, tables, progress)
        judged = judge(settings, tables, config, now=now, progress=progress)
        version, unranked = refit(
            settings,
            tables,
            judged.winner,
            config,
            as_of=features.as_of,
            now=now,
            metrics=judged.metrics(),
        )
    live.publish(settings.live, settings.slot, version)
    if progress is not None:
        progress("publish", 1, 1)
    report = TrainReport(judged.backtest, judged.verdict, version, unranked)
    settings.reports.mkdir(parents=True, exist_ok=True)
    (settings.reports / f"train-{version}.json").write_text(json.dumps(report.to_json(), indent=1))
    return report


@dataclass(frozen=True)
class Judged:
    """What the gate found: the backtest, the live recipe if any, the verdict, and whom to refit under its own name."""

    backtest: Backtest
    champion: Recipe | None
    verdict: Verdict
    winner: Recipe

    def metrics(self) -> dict[str, Any]:
        """Return what a bundle of the winner tells of its quality: ``recipe`` is its own name among the results."""
        return {
            "fitted_before": self.backtest.at.isoformat(),
            "recipe": self.verdict.winner.name,
            "recipes": {recipe.name: recipe.model_dump(mode="json") for recipe in self.backtest.recipes},
            **self.backtest.to_json(),
        }


def judge(
    settings: Settings,
    tables: Tables,
    config: TrainConfig,
    *,
    now: datetime,
    progress: Progress | None = None,
) -> Judged:
    """Run the gate over the recipes of ``config`` and the live one, with the features that are built."""
    champion = live_recipe(settings)
    recipes, held = entrants(config.recipes, champion)
    result = backtest(
        recipes,
        tables,
        feature_store.open_store(settings.store),
        last_split(tables, config.horizon_days),
        k=config.k,
        seed=config.seed,
        threads=config.threads,
        now=now,
        progress=progress,
    )
    verdict = gate(result, held)
    winner = champion if champion is not None and verdict.winner == held else verdict.winner
    return Judged(result, champion, verdict, winner)


def refit(
    settings: Settings,
    tables: Tables,
    winner: Recipe,
    config: TrainConfig,
    *,
    as_of: datetime,
    now: datetime,
    metrics: Mapping[str, Any],
) -> tuple[str, str | None]:
    """Fit ``winner`` on all that is known at ``as_of`` and store its bundle, which is not live.

    Returns
    -------
    version
        Of the bundle.
    unranked
        Why it lacks the ranker of its recipe, None where nothing is lacking.

    Raises
    ------
    DataError
        It lacks a ranker that it was judged with, or that what is live under its name has.
    BundleError
        It is not sound.
    """
    data = TrainingSet.load(tables, feature_store.open_store(settings.store), as_of)
    bundle = assemble(
        winner,
        data,
        seed=config.seed,
        threads=config.threads,
        tables_hash=tables.hash(),
        now=now,
        metrics={"of": "the same recipe fitted on an earlier window", "file": "metrics.json"},
    )
    unranked = bundle.manifest.policy.unranked
    if unranked is not None:
        _must_do_without(winner, unranked, live_manifest(settings), metrics)
    return store(bundle, data, settings, metrics=metrics), unranked


def _must_do_without(winner: Recipe, why: str, held: Manifest | None, metrics: Mapping[str, Any]) -> None:
    """Refuse a fit without a ranker where that was not what was judged, or what is live under its name has one."""
    is_live = held is not None and held.policy.model == winner.name and held.policy.ranker is not None
    if not is_live and metrics["recipe"] in metrics.get("unranked", {}):
        return
    found = "what is live under this name has one" if is_live else "the gate judged it with one"
    raise DataError(
        f"expected a ranker for {winner.name}, since {found}, found too little to learn it from ({why}); nothing is "
        "published and what is live stays live: run it again once there are more purchases, or give recipes without "
        "[recipes.ranker]"
    )


def entrants(recipes: Sequence[Recipe], champion: Recipe | None) -> tuple[list[Recipe], Recipe | None]:
    """Return who competes, and the champion among them.

    The live recipe always competes as it is: under its own name, or as ``NAME@live`` where the
    configuration uses that name for other settings.
    """
    if champion is None or champion in recipes:
        return list(recipes), champion
    taken = {recipe.name for recipe in recipes}
    held = (
        champion.model_copy(update={"name": f"{champion.name}@live"}) if champion.name in taken else champion
    )
    return [*recipes, held], held


def live_recipe(settings: Settings) -> Recipe | None:
    """Return the recipe of the live bundle; None when nothing sound is live."""
    manifest = live_manifest(settings)
    try:
        return None if manifest is None else Recipe.model_validate(manifest.recipe)
    except ValueError:
        return None


def live_manifest(settings: Settings) -> Manifest | None:
    """Return the manifest of the live bundle; None when nothing sound is live."""
    try:
        version = live.Live.read(settings.live).version(settings.slot)
        return None if version is None else verify(settings.bundles / version, version)
    except NextbestError:
        return None
