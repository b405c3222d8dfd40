"""Backtest and gate: recipes fitted on the same past, judged on the same later window.

The gate compares recipes, the champion's included, never an old fit with a new one. The winner is what is
refitted on all data and published.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.evaluate import POLICIES, Evaluation, Window, comparison, evaluate
from eval.metrics import NDCG
from eval.split import Split
from feature_repo import schema as s
from feature_repo.tables import Tables
from serving.errors import DataError
from serving.recommender import PurchasedPolicy, Recommender
from training.assemble import assemble
from training.dataset import TrainingSet
from training.models.registry import BASELINES
from training.recipe import Recipe

if TYPE_CHECKING:
    from feast import FeatureStore

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Backtest:
    """The judged recipes of one window: by purchased policy, and on products that nobody had bought before.

    ``unranked`` says of recipes that were judged without their ranker, by name, why.
    """

    at: datetime
    end: datetime
    evaluations: dict[PurchasedPolicy, list[Evaluation]]
    recipes: tuple[Recipe, ...]
    cold_products: list[Evaluation] = field(default_factory=list)
    unranked: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return every result and each model's comparison with the stronger baseline."""
        baselines = [recipe.name for recipe in self.recipes if recipe.model in BASELINES]
        return {
            "train_before": self.at.isoformat(),
            "judged_until": self.end.isoformat(),
            "unranked": self.unranked,
            "results": [
                e.to_json() for listed in (*self.evaluations.values(), self.cold_products) for e in listed
            ],
            "against_stronger_baseline": [
                {"purchased": policy, "metric": metric, **difference}
                for policy, listed in self.evaluations.items()
                for recipe in self.recipes
                if recipe.model not in BASELINES
                for metric, difference in comparison(listed, recipe.name, baselines).items()
            ],
        }


@dataclass(frozen=True)
class Verdict:
    """Which recipe won the gate, and why, in one sentence."""

    winner: Recipe
    reason: str


def backtest(
    recipes: Sequence[Recipe],
    tables: Tables,
    store: FeatureStore,
    split: Split,
    *,
    k: int,
    seed: int,
    threads: int,
    now: datetime,
    progress: Progress | None = None,
) -> Backtest:
    """Fit each recipe on what was known where the test window begins; judge it on that window."""
    at, end = split.validation_end, split.test_end
    interactions = tables.frame(s.INTERACTIONS, [s.CUSTOMER_ID, s.PRODUCT_ID, s.AT, s.KIND])
    window = Window.cut(interactions, at=at, end=end)
    data = TrainingSet.load(tables, store, at, also=window.purchases[s.CUSTOMER_ID].unique().tolist())
    has_cold = window.truth("exclude")[s.PRODUCT_ID].isin(
        np.array(data.catalog.ids)[window.cold_products(data.catalog)]
    )
    cold: list[Evaluation] = []
    unranked: dict[str, str] = {}
    evaluations: dict[PurchasedPolicy, list[Evaluation]] = {policy: [] for policy in POLICIES}
    for number, recipe in enumerate(recipes, start=1):
        bundle = assemble(recipe, data, seed=seed, threads=threads, tables_hash="", now=now)
        if (why := bundle.manifest.policy.unranked) is not None:
            unranked[recipe.name] = why
        recommender = Recommender(bundle, data.reader)
        for policy, listed in evaluations.items():
            if len(window.truth(policy)):
                listed.append(evaluate(recommender, window, name=recipe.name, k=k, policy=policy))
        if has_cold.any():
            cold.append(
                evaluate(recommender, window, name=recipe.name, k=k, policy="exclude", products="cold")
            )
        if progress is not None:
            progress(f"backtest {recipe.name}", number, len(recipes))
    kept = {policy: listed for policy, listed in evaluations.items() if listed}
    return Backtest(at, end, kept, tuple(recipes), cold, unranked)


def gate(result: Backtest, champion: Recipe | None) -> Verdict:
    """Choose the recipe to publish by NDCG under the default policy, paired over customers.

    A challenger replaces the champion's recipe only when the interval of the difference lies above zero;
    without a champion the best mean wins.

    Raises
    ------
    DataError
        There is a champion, and nobody to judge by: nothing replaces it.
    """
    policy: PurchasedPolicy = "exclude" if "exclude" in result.evaluations else "allow"
    judged = {evaluation.name: evaluation for evaluation in result.evaluations[policy]}
    recipes = {recipe.name: recipe for recipe in result.recipes}
    best = max(judged.values(), key=lambda evaluation: float(evaluation.rows()[NDCG].mean()))
    score = float(best.rows()[NDCG].mean())
    label = f"NDCG@{best.k} with purchased={policy!r}"
    if champion is not None and math.isnan(score):
        raise DataError(
            f"expected purchases to judge recipes by from {result.at:%Y-%m-%d} to {result.end:%Y-%m-%d}, found none "
            "that count; what is live stays live: train again once there are"
        )
    if champion is None or champion.name not in judged:
        return Verdict(
            recipes[best.name], f"{best.name} has the best {label}: {score:.4f}; nothing was live before"
        )
    held = judged[champion.name]
    if best.name == champion.name:
        return Verdict(champion, f"{champion.name} stays: it has the best {label}: {score:.4f}")
    difference = best.versus(held, NDCG)
    if difference is not None and difference.low > 0:
        return Verdict(
            recipes[best.name], f"{best.name} replaces {champion.name}: {label} differs by {difference:.4f}"
        )
    told = "cannot be compared" if difference is None else f"differs by {difference:.4f}"
    return Verdict(champion, f"{champion.name} stays: {best.name} is not surely better, {label} {told}")
