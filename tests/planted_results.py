"""Results built by hand: recipes with given metrics at given origins, so that pages and verdicts need no fit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from eval.metrics import HR
from eval.pooled import Pooled, pool
from eval.published import beside_published
from eval.results import (
    Data,
    Drift,
    Estimate,
    Example,
    MetricDelta,
    OriginInfo,
    RecipeInfo,
    Results,
    Run,
    Setting,
    Shift,
    Shown,
)
from eval.rolling import LIST_METRICS, POLICY, SHOWN, AtOrigin, Judged
from eval.scorecard import AUC_ALL, AUC_CLASS, AUC_NEWCOMERS, BASE_RATE, CONTACTS, LOGLOSS, TOP_SCORE, WEIGHT
from eval.slices import NEWCOMERS, STANDING, WITH_MEASURES, WITHOUT_MEASURES
from eval.verdict import verdict
from feature_repo import schema as s

START = datetime(2024, 5, 6, tzinfo=UTC)
SETTING = Setting(k=10, seed=0, every_days=7, horizon_days=7, asked_origins=2, resamples=400, confidence=0.95)


def judged(
    ndcg: np.ndarray, customers: list[str], *, hr: np.ndarray | None = None, policy: str = "exclude"
) -> Judged:
    """A recipe whose every list metric is ``ndcg``, but for the hit rate."""
    frame = pd.DataFrame(dict.fromkeys(LIST_METRICS, ndcg))
    frame[HR] = ndcg if hr is None else hr
    frame[s.CUSTOMER_ID], frame[POLICY], frame[SHOWN] = customers, policy, [[] for _ in customers]
    rows = pd.DataFrame(
        {
            WEIGHT: 1.0,
            AUC_ALL: ndcg,
            AUC_CLASS: ndcg,
            AUC_NEWCOMERS: ndcg,
            LOGLOSS: np.nan,
            BASE_RATE: 0.25,
            TOP_SCORE: 0.0,
        },
        index=pd.Index(customers, name=s.CUSTOMER_ID),
    )
    tiers = {what: [1, 2, 3] for what in ("products", "bought", "shown", "hits")}
    told = {"coverage": 0.5, "gini": 0.25, "unseen": 0.0, "sources": {"popular": 1.0}, "tiers": tiers}
    facts = {"gains": list(CONTACTS), "buyers": 3.0, "calibration": None, "lists": {policy: told}}
    return Judged(frame, rows, facts)


def origins(by_recipe: dict[str, list[np.ndarray]], customers: list[list[str]]) -> list[AtOrigin]:
    """Origins a week apart; ``by_recipe`` has the NDCG of each customer at each."""
    found = []
    for place, names in enumerate(customers):
        labels = pd.DataFrame(
            {
                STANDING: ["new" if name.startswith("n") else "existing" for name in names],
                NEWCOMERS: [_measured(name) for name in names],
            },
            index=pd.Index(names, name=s.CUSTOMER_ID),
        )
        recipes = {recipe: judged(values[place], names) for recipe, values in by_recipe.items()}
        found.append(AtOrigin(START + timedelta(weeks=place), recipes, labels))
    return found


def _measured(name: str) -> str | None:
    """Of new customers of odd number there are measures."""
    if not name.startswith("n"):
        return None
    return WITH_MEASURES if int(name[1:]) % 2 else WITHOUT_MEASURES


def pooled(by_recipe: dict[str, list[np.ndarray]], customers: list[list[str]]) -> Pooled:
    return pool(origins(by_recipe, customers), expert="expert", seed=0, resamples=400)


def infos(names: list[str], *, models: int) -> list[RecipeInfo]:
    return [
        RecipeInfo(
            name=name,
            model="als" if number < models else "popularity",
            baseline=number >= models,
            chance_days=None,
            recipe={"name": name, "model": "als" if number < models else "popularity"},
            fit_seconds=0,
            judge_seconds=0,
        )
        for number, name in enumerate(names)
    ]


def results(
    directory: Path,
    *,
    means: dict[str, float] | None = None,
    models: int = 2,
    probabilities: bool = True,
    origins_of: int = 4,
    name: str = "Blue <b>mug</b> & saucer",
) -> Results:
    """Results of a made-up shop: recipes by their mean NDCG, the first ``models`` of them no baselines."""
    means = means or {"als": 0.31, "als-ranked": 0.36, "expert": 0.2, "popularity": 0.1}
    rng = np.random.default_rng(0)
    customers = [f"{'n' if i % 5 == 0 else 'e'}{i:03d}" for i in range(80)]
    by_recipe = {
        recipe: [np.clip(mean + rng.normal(0, 0.1, len(customers)), 0, 1) for _ in range(origins_of)]
        for recipe, mean in means.items()
    }
    runs = origins(by_recipe, [customers] * origins_of)
    if probabilities:
        bins = np.column_stack(
            [np.geomspace(1e5, 50, 10), np.geomspace(20, 30, 10), np.geomspace(22, 26, 10)]
        )
        for run in runs:
            run.judged["als-ranked"].rows[LOGLOSS] = 0.4
            run.judged["als-ranked"].facts["calibration"] = bins.tolist()  # type: ignore[index]
    found = pool(runs, expert="expert", seed=0, resamples=400)
    described = infos(list(means), models=models)
    if probabilities:
        described[1] = described[1].model_copy(update={"chance_days": 7})
    at = [run.at for run in runs]
    infos_of = [
        OriginInfo(
            at=instant,
            end=instant + timedelta(days=7),
            buyers=80,
            judged=80,
            new=16,
            purchases=300,
            unseen=0.01,
            known_customers=500,
            products_on_sale=60,
            candidates="500 of 500 known customers × 60 of 60 products on sale: all of them",
        )
        for instant in at
    ]
    told = verdict(described, SETTING, found.lists, found.comparisons, found.candidates)
    shown = {
        recipe: [Shown(product_id="p1", name=name, hit=True), Shown(product_id="p2", name="Tea", hit=False)]
        for recipe in means
    }
    estimate = Estimate(mean=0.3, low=0.2, high=0.4)
    return Results(
        verdict=told,
        beside_published=beside_published(told.winner, found, infos_of, k=SETTING.k),
        run=Run(
            made_at=START + timedelta(days=60),
            command="nextbest evaluate 'my shop' --origins 4",
            code_version="0.1.0",
            cores=2,
            seconds=12.5,
        ),
        data=Data(
            directory=str(directory),
            tables_hash="ab" * 32,
            files={"interactions.parquet": "cd" * 32},
            rows={s.INTERACTIONS: 1000, s.PRODUCTS: 60},
            first=START - timedelta(days=300),
            last=START + timedelta(days=40),
        ),
        setting=SETTING,
        recipes=described,
        origins=infos_of,
        examples=[
            Example(
                customer_id="e001",
                why="als finds something",
                at=at[-1],
                history=[name, "Tea"],
                bought=[name],
                shown=shown,
            )
        ],
        drift=Drift(
            previous="evaluate-before",
            made_at=START,
            same_tables=False,
            metrics=[
                MetricDelta(purchased="exclude", recipe="als", metric="ndcg", then=estimate, now=estimate)
            ],
            shifts=[Shift(column="feature: spend_90d", psi=0.31, noise=0.02, verdict="changed much")],
        ),
        profiles={},
        **vars(found),
    )
