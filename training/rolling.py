"""Rolling evaluation: every recipe fitted at every origin on what came before it, judged on what came next.

Features are built once: their snapshots are point in time, so that each origin reads what was known there. Fits repeat,
and what came of each (data, recipe, origin) is kept on disk under a hash of the three: a run that was interrupted, or
one with a further recipe, does only what is missing. The judging is ``eval``'s; nothing is published.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import pandas as pd

from eval.drift import drift, previous, profiles, snapshot
from eval.evaluate import Window
from eval.examples import examples
from eval.pooled import RESAMPLES, pool
from eval.published import beside_published
from eval.results import (
    Data,
    Drift,
    Example,
    ListScore,
    OriginInfo,
    RecipeInfo,
    Results,
    Run,
    Setting,
    SkippedOrigin,
    Unranked,
)
from eval.rolling import AtOrigin
from eval.scorecard import TOP_SCORE
from eval.slices import Facts, labels, told_labels
from eval.split import Origin, rolling_origins
from eval.verdict import verdict
from feature_repo import names as v
from feature_repo import schema as s
from feature_repo import store as feature_store
from feature_repo.build import FeatureSet
from feature_repo.quality_profile import ColumnProfile
from feature_repo.tables import Tables
from serving.errors import DataError
from serving.recommender import PurchasedPolicy
from serving.settings import Settings
from training.judging import Judge, Kept
from training.models.base import cores
from training.models.registry import BASELINES
from training.recipe import Recipe, TrainConfig
from training.train import current_features

Progress = Callable[[str, int, int], None]

KEPT: Final = "kept"
#: With fewer customers who bought after an origin than this there is no telling how sure a mean is.
FEWEST_BUYERS: Final = 2
_CONFIDENCE: Final = 0.95
_TOLD: Final = 3

log = logging.getLogger("nextbest")


@dataclass(frozen=True)
class Plan:
    """The last ``count`` origins, ``every_days`` apart, each judged by ``horizon_days``; ``k`` products are shown.

    With ``is_exact`` a history that has room for fewer is refused, else there are as many as it has room for.
    """

    count: int = 10
    every_days: int = 7
    horizon_days: int = 7
    k: int = 10
    is_exact: bool = False

    def origins(self, at: pd.Series) -> list[Origin]:
        """Return the origins; see ``rolling_origins``, whose errors are raised too.

        Raises
        ------
        DataError
            The history has room for fewer than were asked for.
        """
        every, horizon = timedelta(days=self.every_days), timedelta(days=self.horizon_days)
        found = rolling_origins(at, count=self.count, every=every, horizon=horizon)
        if self.is_exact and len(found) < self.count:
            raise DataError(
                f"expected a history with room for {self.count} origins, one each {self.every_days} days, found room "
                f"for {len(found)} between {at.min():%Y-%m-%d} and {at.max():%Y-%m-%d}; give --origins {len(found)} or "
                "fewer, a smaller --every, or a longer history"
            )
        return found


def with_baselines(recipes: Sequence[Recipe]) -> list[Recipe]:
    """Return the recipes and, after them, the baselines that are not among them.

    Popularity of all time and of the last four weeks, the customer's own repeats, and the expert rule: the best sellers
    of the customer's favourite category, then of all.
    """
    wanted: dict[str, dict[str, Any]] = {
        "popularity": {"model": "popularity", "popularity_days": None},
        "popularity-28d": {"model": "popularity", "popularity_days": 28},
        "repeats": {"model": "repeats"},
        "expert": {"model": "expert"},
    }
    found = list(recipes)
    for name, told in wanted.items():
        recipe = Recipe.model_validate({"name": name, **told})
        alike = ("model",) if recipe.model != "popularity" else ("model", "popularity_days")
        if any(all(getattr(one, key) == getattr(recipe, key) for key in alike) for one in found):
            continue
        taken = name in {one.name for one in found}
        found.append(recipe.model_copy(update={"name": f"{name} (baseline)" if taken else name}))
    return found


def roll(
    settings: Settings,
    directory: Path,
    config: TrainConfig,
    plan: Plan,
    *,
    command: str,
    now: datetime,
    progress: Progress | None = None,
) -> Results:
    """Judge the recipes of ``config`` and the baselines over rolling origins.

    Parameters
    ----------
    settings
        The home: features are built there, results kept under ``reports/kept``.
    directory
        The tables.
    config
        Recipes, seed and threads; its own ``horizon_days`` and ``k`` are those of the gate and not used.
    plan
        The origins.
    command
        What repeats the run, for the record.
    now
        When it is made.
    progress
        Called with (what, done, all).

    Raises
    ------
    DataError
        The history is too short, or fewer than two known customers bought anything in each window.
    """
    begun = perf_counter()
    recipes = with_baselines(config.recipes)
    with Tables.open(directory) as tables:
        interactions = tables.frame(s.INTERACTIONS, [s.CUSTOMER_ID, s.PRODUCT_ID, s.AT, s.KIND])
        facts = Facts.of(tables)
        found = plan.origins(interactions[s.AT])
        if len(found) < plan.count:
            log.warning("%d of %d origins: the history has no more", len(found), plan.count)
        origins, skipped = with_buyers(found, facts)
        for one in skipped:
            log.warning("the origin %s is left out: %s", f"{one.at:%Y-%m-%d}", _few(one))
        features = current_features(settings, tables, progress)
        judge = Judge(
            tables=tables,
            store=feature_store.open_store(settings.store),
            kept=Kept(settings.reports / KEPT, tables_hash=tables.hash()),
            facts=facts,
            interactions=interactions,
            k=plan.k,
            seed=config.seed,
            threads=config.threads,
            now=now,
        )
        infos, runs = _over(judge, origins, recipes, progress)
        judge.kept.prune()
        expert = next(recipe.name for recipe in recipes if recipe.model == "expert")
        pooled = pool(runs, expert=expert, seed=config.seed, confidence=_CONFIDENCE)
        described = [_described(recipe, runs) for recipe in recipes]
        setting = _setting(plan, config)
        told = verdict(described, setting, pooled.lists, pooled.comparisons, pooled.candidates)
        moved, own = _beside_previous(settings, judge, features, runs, recipes, pooled.lists)
        span = tables.span()
        results = Results(
            run=Run(
                made_at=now,
                command=command,
                code_version=version("nextbest"),
                cores=cores(),
                seconds=round(perf_counter() - begun, 1),
            ),
            data=Data(
                directory=str(tables.directory.absolute()),
                tables_hash=tables.hash(),
                files=tables.hashes(),
                rows={name: tables.rows(name) for name in s.TABLES if tables.has(name)},
                first=span[0],
                last=span[1],
            ),
            setting=setting,
            recipes=described,
            origins=infos,
            skipped=skipped,
            verdict=told,
            beside_published=beside_published(told.winner, pooled, infos, k=plan.k),
            examples=_examples(judge, origins[-1], runs[-1], leader=told.winner),
            drift=moved,
            profiles=own,
            **vars(pooled),
        )
    if progress is not None:
        progress("pool the origins", 1, 1)
    return results


def _beside_previous(
    settings: Settings,
    judge: Judge,
    features: FeatureSet,
    runs: Sequence[AtOrigin],
    recipes: Sequence[Recipe],
    lists: Sequence[ListScore],
) -> tuple[Drift | None, dict[str, ColumnProfile]]:
    """Return the drift since the previous results of the same tables, and the profiles for the next."""
    tables, last = judge.tables, runs[-1]
    frames = {
        "feature": snapshot(features.path(v.CUSTOMER_FEATURES), last.at),
        "score": _scores(last, recipes),
    }
    own = profiles(tables.con, frames)
    directory = str(tables.directory.absolute())
    earlier = previous(settings.reports, directory=directory, k=judge.k, before=judge.now)
    if earlier is None:
        return None, own
    like = profiles(tables.con, frames, like=earlier[1].profiles)
    return drift(earlier, lists, tables_hash=tables.hash(), now=like), own


def _setting(plan: Plan, config: TrainConfig) -> Setting:
    return Setting(
        k=plan.k,
        seed=config.seed,
        every_days=plan.every_days,
        horizon_days=plan.horizon_days,
        asked_origins=plan.count,
        resamples=RESAMPLES,
        confidence=_CONFIDENCE,
    )


def _examples(judge: Judge, origin: Origin, run: AtOrigin, *, leader: str) -> list[Example]:
    window = Window.cut(judge.interactions, at=origin.at, end=origin.end)
    first: PurchasedPolicy = "exclude" if len(window.truth("exclude")) else "allow"
    return examples(
        run,
        purchases=judge.facts.purchases,
        bought=window.truth(first),
        names=_names(judge.tables),
        leader=leader,
        purchased=first,
    )


def _over(
    judge: Judge, origins: Sequence[Origin], recipes: Sequence[Recipe], progress: Progress | None
) -> tuple[list[OriginInfo], list[AtOrigin]]:
    """Judge at every origin, in order of time."""
    finished = 0

    def done() -> None:
        nonlocal finished
        finished += 1
        if progress is not None:
            progress("fit and judge", finished, len(origins) * len(recipes))

    infos, runs, sorted_by = [], [], []
    for origin in origins:
        info, judged = judge.at(origin, recipes, done)
        customers: set[str] = set()
        for one in judged.values():
            customers |= {*one.lists[s.CUSTOMER_ID], *one.rows.index}
        infos.append(info)
        runs.append((origin.at, judged))
        sorted_by.append(labels(judge.facts, sorted(customers), origin.at))
    return infos, [
        AtOrigin(at, judged, own) for (at, judged), own in zip(runs, told_labels(sorted_by), strict=True)
    ]


def with_buyers(origins: Sequence[Origin], facts: Facts) -> tuple[list[Origin], list[SkippedOrigin]]:
    """Return the origins in whose windows enough known customers bought, and the others.

    Raises
    ------
    DataError
        There are only others.
    """
    at = facts.purchases[s.AT]
    kept, skipped = [], []
    for origin in origins:
        bought = facts.purchases[(at >= origin.at) & (at < origin.end)]
        customers = bought[s.CUSTOMER_ID].nunique()
        if customers >= FEWEST_BUYERS:
            kept.append(origin)
        else:
            skipped.append(
                SkippedOrigin(at=origin.at, end=origin.end, customers=customers, purchases=len(bought))
            )
    if not kept:
        found = "; ".join(f"{one.at:%Y-%m-%d}: {_few(one)}" for one in skipped[-_TOLD:])
        raise DataError(
            f"expected at least {FEWEST_BUYERS} known customers who bought in the days after an origin, found fewer at "
            f"each of {len(skipped)} (the last ones, {found}); there is nothing to judge by: give a longer --horizon, "
            "more --origins that reach back before the gap, or the purchases that are missing"
        )
    return kept, skipped


def _few(one: SkippedOrigin) -> str:
    customers = f"{one.customers or 'no'} known customer{'' if one.customers == 1 else 's'}"
    return f"{customers} bought in the {(one.end - one.at).days} days after it"


def _described(recipe: Recipe, runs: Sequence[AtOrigin]) -> RecipeInfo:
    facts = [run.judged[recipe.name].facts for run in runs]
    return RecipeInfo(
        name=recipe.name,
        model=recipe.model,
        baseline=recipe.model in BASELINES,
        chance_days=next((one["chance_days"] for one in reversed(facts) if one["unranked"] is None), None),
        recipe=recipe.model_dump(mode="json"),
        unranked=[
            Unranked(at=run.at, why=why)
            for run, one in zip(runs, facts, strict=True)
            if (why := one["unranked"]) is not None
        ],
        fit_seconds=round(float(np.mean([one["fit_seconds"] for one in facts])), 3),
        judge_seconds=round(float(np.mean([one["judge_seconds"] for one in facts])), 3),
    )


def _scores(run: AtOrigin, recipes: Sequence[Recipe]) -> pd.DataFrame:
    """Return the best score of each candidate customer at an origin, a column a recipe that is no baseline."""
    return pd.DataFrame(
        {r.name: run.judged[r.name].rows[TOP_SCORE].to_numpy() for r in recipes if r.model not in BASELINES}
    )


def _names(tables: Tables) -> dict[str, str]:
    products = (
        tables.frame(s.PRODUCTS, [s.PRODUCT_ID, s.NAME]).dropna().drop_duplicates(s.PRODUCT_ID, keep="last")
    )
    return dict(zip(products[s.PRODUCT_ID], products[s.NAME], strict=True))
