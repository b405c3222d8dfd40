"""Pooling: from how each recipe did at each origin to means, intervals, slices and comparisons over all of them.

Lists are pooled here, scores of candidates in ``eval.pooled_scores``.

A customer judged at several origins is one cluster of the bootstrap. All recipes of a purchased policy are resampled
with the same customers, so that differences are paired; p-values are corrected over all pairs of recipes (Holm).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eval.evaluate import ALL, POLICIES
from eval.metrics import HR, MRR, NDCG, RECALL
from eval.pooled_scores import FEWEST, calibration_of, candidate_scores, gains_of
from eval.resampling import Means, clustered_means
from eval.results import (
    Beyond,
    Calibration,
    CandidateScore,
    Comparison,
    Estimate,
    Gains,
    ListScore,
    Multiple,
)
from eval.rolling import LIST_METRICS, TIERS, AtOrigin, policy_rows
from eval.scorecard import AUC
from eval.significance import holm
from eval.slices import NEWCOMERS, STANDING
from serving.recommender import PurchasedPolicy

COMPARED: Final = (NDCG, MRR, HR, RECALL, AUC)
RESAMPLES: Final = 4000


@dataclass(frozen=True)
class Pooled:
    """What pooling gives; the fields are those of ``Results``."""

    lists: list[ListScore]
    candidates: list[CandidateScore]
    comparisons: list[Comparison]
    success: list[Multiple]
    beyond: list[Beyond]
    gains: list[Gains]
    calibration: list[Calibration]


@dataclass(frozen=True)
class _Table:
    """The rows of one policy: recipes × metrics side by side; which origin, which customer, which labels."""

    values: NDArray[np.float64]
    origin: NDArray[np.int64]
    customer: NDArray[np.int64]
    labels: pd.DataFrame

    def means(self, kept: NDArray[np.bool_], *, resamples: int, seed: int) -> Means:
        return clustered_means(self.values[kept], self.customer[kept], resamples=resamples, seed=seed)


def pool(
    origins: Sequence[AtOrigin],
    *,
    expert: str,
    seed: int,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> Pooled:
    """Pool the origins.

    Parameters
    ----------
    origins
        In order of time, each with the same recipes.
    expert
        Name of the recipe whose success others are told as a multiple of.
    seed, resamples, confidence
        Of the bootstrap.

    A purchased policy under which fewer than two customers are judged is left out.
    """
    recipes = list(origins[0].judged)
    lists: list[ListScore] = []
    comparisons: list[Comparison] = []
    success: list[Multiple] = []
    for policy in POLICIES:
        table = _table(origins, recipes, policy)
        if table is None or len(np.unique(table.customer)) < 2:
            continue
        everybody = np.ones(len(table.values), dtype=np.bool_)
        means = table.means(everybody, resamples=resamples, seed=seed)
        lists += _scores(means, table, everybody, recipes, policy, ALL, ALL, None, confidence)
        comparisons += _comparisons(means, recipes, policy, confidence)
        success += _multiples(means, recipes, policy, expert, ALL, ALL, confidence)
        for dimension, value, at, kept in _parts(table, origins):
            if kept.sum() >= FEWEST and len(np.unique(table.customer[kept])) > 1:
                part = table.means(kept, resamples=resamples // 4, seed=seed)
                lists += _scores(part, table, kept, recipes, policy, dimension, value, at, confidence)
                if dimension in (STANDING, NEWCOMERS):
                    success += _multiples(part, recipes, policy, expert, dimension, value, confidence)
    return Pooled(
        lists=lists,
        candidates=list(
            candidate_scores(origins, recipes, resamples=resamples, seed=seed, confidence=confidence)
        ),
        comparisons=comparisons,
        success=success,
        beyond=[one for recipe in recipes for one in _beyond(origins, recipe)],
        gains=[gains_of(origins, recipe) for recipe in recipes],
        calibration=[one for recipe in recipes if (one := calibration_of(origins, recipe)) is not None],
    )


def _table(origins: Sequence[AtOrigin], recipes: Sequence[str], policy: PurchasedPolicy) -> _Table | None:
    blocks, labels, places, names = [], [], [], []
    for place, origin in enumerate(origins):
        frames = [policy_rows(origin.judged[recipe], policy) for recipe in recipes]
        if frames[0].empty:
            continue
        customers = frames[0].index
        # every recipe of an origin was asked about the same customers in the same order
        blocks.append(
            np.hstack([frame.loc[customers, list(LIST_METRICS)].to_numpy(float) for frame in frames])
        )
        labels.append(origin.labels.reindex(customers))
        places.append(np.full(len(customers), place))
        names.append(customers.to_numpy())
    if not blocks:
        return None
    customer, _ = pd.factorize(np.concatenate(names), sort=True)
    return _Table(
        np.vstack(blocks),
        np.concatenate(places),
        customer.astype(np.int64),
        pd.concat(labels, ignore_index=True),
    )


def _parts(
    table: _Table, origins: Sequence[AtOrigin]
) -> Iterator[tuple[str, str, datetime | None, NDArray[np.bool_]]]:
    """Iterate over (dimension, value, origin, rows): each origin alone, then each value of each dimension."""
    for place, origin in enumerate(origins):
        yield ALL, ALL, origin.at, table.origin == place
    for dimension in table.labels.columns:
        values = table.labels[dimension]
        for value in sorted(values.dropna().unique(), key=_natural):
            yield str(dimension), str(value), None, (values == value).to_numpy(dtype=np.bool_)


def _natural(value: object) -> tuple[int, str]:
    """Return what sorts values: a number they begin with, then the text."""
    leading = re.match(r"\d+", str(value))
    return (int(leading.group()) if leading else 0, str(value))


def _scores(
    means: Means,
    table: _Table,
    kept: NDArray[np.bool_],
    recipes: Sequence[str],
    policy: PurchasedPolicy,
    dimension: str,
    value: str,
    at: datetime | None,
    confidence: float,
) -> Iterator[ListScore]:
    for number, recipe in enumerate(recipes):
        found = {
            metric: means.interval(number * len(LIST_METRICS) + place, confidence=confidence)
            for place, metric in enumerate(LIST_METRICS)
        }
        yield ListScore(
            purchased=policy,
            recipe=recipe,
            dimension=dimension,
            value=value,
            at=at,
            customers=len(np.unique(table.customer[kept])),
            rows=int(kept.sum()),
            metrics={metric: Estimate.of(one) for metric, one in found.items() if one is not None},
        )


def _column(recipe: int, metric: str) -> int:
    return recipe * len(LIST_METRICS) + LIST_METRICS.index(metric)


def _comparisons(
    means: Means, recipes: Sequence[str], policy: PurchasedPolicy, confidence: float
) -> Iterator[Comparison]:
    for metric in COMPARED:
        found = []
        observed = means.observed[[_column(number, metric) for number in range(len(recipes))]]
        for a, b in combinations(np.argsort(-observed, kind="stable").tolist(), 2):
            interval = means.difference(_column(a, metric), _column(b, metric), confidence=confidence)
            if interval is not None and interval.p is not None:
                found.append((recipes[a], recipes[b], interval, interval.p))
        corrected = holm([p for *_, p in found])
        for (better, worse, interval, p), p_holm in zip(found, corrected.tolist(), strict=True):
            yield Comparison(
                purchased=policy,
                metric=metric,
                better=better,
                worse=worse,
                difference=Estimate.of(interval),
                p=round(p, 6),
                p_holm=round(p_holm, 6),
            )


def _multiples(
    means: Means,
    recipes: Sequence[str],
    policy: PurchasedPolicy,
    expert: str,
    dimension: str,
    value: str,
    confidence: float,
) -> Iterator[Multiple]:
    rule = _column(list(recipes).index(expert), HR)
    for number, recipe in enumerate(recipes):
        ratio = means.ratio(_column(number, HR), rule, confidence=confidence)
        yield Multiple(
            purchased=policy,
            recipe=recipe,
            dimension=dimension,
            value=value,
            multiple=None if ratio is None else Estimate.of(ratio),
        )


def _beyond(origins: Sequence[AtOrigin], recipe: str) -> Iterator[Beyond]:
    for policy in POLICIES:
        told = [
            origin.judged[recipe].facts["lists"][policy]
            for origin in origins
            if policy in origin.judged[recipe].facts["lists"]
        ]
        if not told:
            continue
        sources = sorted({source for one in told for source in one["sources"]})
        tiers = {
            what: np.sum([one["tiers"][what] for one in told], axis=0).tolist() for what in told[0]["tiers"]
        }
        yield Beyond(
            purchased=policy,
            recipe=recipe,
            coverage=round(float(np.mean([one["coverage"] for one in told])), 6),
            gini=round(float(np.mean([one["gini"] for one in told])), 6),
            sources={
                source: round(float(np.mean([one["sources"].get(source, 0.0) for one in told])), 6)
                for source in sources
            },
            tiers={
                tier: {what: int(counts[place]) for what, counts in tiers.items()}
                for place, tier in enumerate(TIERS)
            },
        )
