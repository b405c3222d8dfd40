"""``nextbest experiment NAME --counterfactual BUNDLE``: what a bundle would have earned where chance decided."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from eval.experiment.counterfactual import AskedCounterfactual, value_slots
from eval.experiment.counterfactual_results import CounterfactualReading
from feature_repo import store as feature_store
from feature_repo.tables import Tables
from serving.experiments_file import LIVE, Experiments
from serving.rules.file import read as read_rules
from serving.settings import Settings
from training.cli.experiment_data import exposures_of, interactions_of, known_until
from training.cli.progress import Progress
from training.counterfactual import ALSO, check_ripe, logged_slots
from training.dataset import states_at
from training.logged_bundles import Recommenders, target_of
from training.train import current_features, one_job


def rules_of(settings: Settings) -> list[Path]:
    """Return the files of rules of the home: that of everybody first, then those that variants name."""
    named: set[str] = getattr(Experiments.read(settings.experiments), "rules", set())
    own = [settings.experiments.parent / name for name in sorted(named)]
    if own and not settings.rules.exists():
        return own
    return [settings.rules, *own]


def value(
    settings: Settings,
    directory: Path,
    name: str,
    asked: AskedCounterfactual,
    *,
    rules: Sequence[Path],
    window_days: int,
    immature: bool,
    as_of: str | None,
    progress: Progress,
) -> CounterfactualReading:
    """Value a bundle by the answers of an experiment, or of none where ``name`` is ``live``.

    The features of the tables are built where they are not those of exactly these tables, since customers are seen as
    they were known at each answer.

    Raises
    ------
    ConfigError
        The bundle or the rules are not there.
    DataError
        The log cannot tell; see ``eval.experiment.counterfactual``.
    """
    made_at = datetime.now(UTC)
    exposures = exposures_of(directory, name, also=ALSO, live=name == LIVE)
    if name != LIVE:
        exposures = exposures[exposures["experiment"] == name]
    target_of(settings.bundles, asked.bundle)
    files = [read_rules(path) for path in rules]
    with one_job(settings), Tables.open(directory) as tables:
        interactions = interactions_of(tables)
        now = known_until(exposures, interactions, as_of)
        check_ripe(exposures, asked, now=now.to_pydatetime(), window_days=window_days, immature=immature)
        current_features(settings, tables, progress)
        store = feature_store.open_store(settings.store)
        logged = logged_slots(
            exposures,
            interactions,
            asked,
            Recommenders(settings.bundles, files),
            lambda keys: states_at(store, keys),
            now=now.to_pydatetime(),
            window_days=window_days,
            immature=immature,
            progress=progress,
        )
    return value_slots(
        logged.slots,
        asked,
        logged.left_out,
        usual_weight=logged.usual_weight,
        name=name,
        now=now,
        window_days=window_days,
        immature=immature,
        made_at=made_at,
    )
