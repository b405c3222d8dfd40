"""Pooling: from how each recipe did at each origin to means, intervals, slices and comparisons over all of them.

A customer judged at several origins is one cluster of the bootstrap. All recipes of a purchased policy are resampled
with the same customers, so that differences are paired; p-values are corrected over all pairs of recipes (Holm).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eval.evaluate import ALL, EXISTING, NEW, POLICIES
from eval.metrics import HR, MRR, NDCG, RECALL
from eval.resampling import Means, clustered_means
from eval.results import (
    Beyond,
    Calibration,
    CalibrationBin,
    CandidateScore,
    Comparison,
    Estimate,
    Gains,
    Group,
    ListScore,
    Multiple,
)
from eval.rolling import LIST_METRICS, TIERS, Judged, policy_rows
from eval.scorecard import (
    AUC,
    AUC_ALL,
    AUC_CLASS,
    AUC_NEWCOMERS,
    BASE_RATE,
    BIN_ENDS,
    CONTACTS,
    LOGLOSS,
    WEIGHT,
    entropy,
    expected_calibration_error,
)
from eval.significance import holm
from eval.slices import NEWCOMERS, STANDING, WITH_MEASURES, WITHOUT_MEASURES
from serving.recommender import PurchasedPolicy

COMPARED: Final = (NDCG, MRR, HR, RECALL, AUC)
RESAMPLES: Final = 4000
_LIFTS: Final = (1, 5, 10, 20)
_REACH: Final = 0.8
_FEWEST: Final = 10  # rows of a slice below which nothing is told: such means name persons, not kinds


@dataclass(frozen=True)
class AtOrigin:
    """All recipes at one origin, by name, and the labels of the customers (index: customer_id)."""

    at: datetime
    judged: Mapping[str, Judged]
    labels: pd.DataFrame


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
            if kept.sum() >= _FEWEST and len(np.unique(table.customer[kept])) > 1:
                part = table.means(kept, resamples=resamples // 4, seed=seed)
                lists += _scores(part, table, kept, recipes, policy, dimension, value, at, confidence)
                if dimension in (STANDING, NEWCOMERS):
                    success += _multiples(part, recipes, policy, expert, dimension, value, confidence)
    return Pooled(
        lists=lists,
        candidates=list(_candidates(origins, recipes, resamples=resamples, seed=seed, confidence=confidence)),
        comparisons=comparisons,
        success=success,
        beyond=[one for recipe in recipes for one in _beyond(origins, recipe)],
        gains=[_gains(origins, recipe) for recipe in recipes],
        calibration=[one for recipe in recipes if (one := _calibration(origins, recipe)) is not None],
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


def _candidates(
    origins: Sequence[AtOrigin], recipes: Sequence[str], *, resamples: int, seed: int, confidence: float
) -> Iterator[CandidateScore]:
    for recipe in recipes:
        frames = [
            origin.judged[recipe].rows.assign(
                origin=place,
                **{
                    name: _labels(origin, name, origin.judged[recipe].rows.index)
                    for name in (STANDING, NEWCOMERS)
                },
            )
            for place, origin in enumerate(origins)
        ]
        rows = pd.concat(frames)
        kind, newcomer = rows[STANDING], rows[NEWCOMERS]
        parts: list[tuple[Group, str, datetime | None, NDArray[np.bool_]]] = [
            ("all", AUC_ALL, None, np.ones(len(rows), dtype=np.bool_)),
            ("new", AUC_CLASS, None, (kind == NEW).to_numpy()),
            ("new with measures", AUC_NEWCOMERS, None, (newcomer == WITH_MEASURES).to_numpy()),
            ("new without measures", AUC_NEWCOMERS, None, (newcomer == WITHOUT_MEASURES).to_numpy()),
            ("existing", AUC_CLASS, None, (kind == EXISTING).to_numpy()),
            *(
                ("all", AUC_ALL, origin.at, (rows["origin"] == i).to_numpy())
                for i, origin in enumerate(origins)
            ),
        ]
        for value, area, at, kept in parts:
            part = rows[kept]
            if len(part) < _FEWEST or part.index.nunique() < 2:
                continue
            draws = resamples if at is None else resamples // 4
            plain = clustered_means(part[[area]], part.index, resamples=draws, seed=seed)
            weighted = clustered_means(
                part[[LOGLOSS, BASE_RATE]], part.index, weights=part[WEIGHT], resamples=draws, seed=seed
            )
            auc, loss = plain.interval(0, confidence=confidence), weighted.interval(0, confidence=confidence)
            rate = float(weighted.observed[1])
            has_bought = rate > 0
            yield CandidateScore(
                recipe=recipe,
                value=value,
                at=at,
                rows=len(part),
                auc=None if auc is None else Estimate.of(auc),
                logloss=None if loss is None else Estimate.of(loss),
                logloss_constant=round(entropy(rate), 6) if has_bought else None,
                base_rate=round(rate, 8) if has_bought else None,
            )


def _labels(origin: AtOrigin, dimension: str, customers: pd.Index[str]) -> NDArray[np.object_]:
    """Return the label of each customer in a dimension; None where the dimension is not told."""
    if dimension not in origin.labels:
        return np.full(len(customers), None, dtype=object)
    return origin.labels[dimension].reindex(customers).to_numpy(dtype=object)


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


def _gains(origins: Sequence[AtOrigin], recipe: str) -> Gains:
    facts = [origin.judged[recipe].facts for origin in origins]
    buyers = np.array([one["buyers"] for one in facts])
    told = buyers > 0
    if not told.any():
        return Gains(recipe=recipe, buyers=0.0, reached=[], contacts_for_80=1.0, lift={})
    curves = np.array([one["gains"] for one in facts], dtype=np.float64)
    reached = np.average(curves[told], axis=0, weights=buyers[told])
    return Gains(
        recipe=recipe,
        buyers=round(float(buyers.sum()), 1),
        reached=[round(float(share), 5) for share in reached],
        contacts_for_80=round(float(np.interp(_REACH, reached, CONTACTS)), 4),
        lift={f"{share} %": round(float(reached[share] / (share / 100)), 3) for share in _LIFTS},
    )


def _calibration(origins: Sequence[AtOrigin], recipe: str) -> Calibration | None:
    facts = [origin.judged[recipe].facts["calibration"] for origin in origins]
    told = [np.array(one) for one in facts if one is not None]
    if not told:
        return None
    bins = np.sum(told, axis=0)
    return Calibration(
        recipe=recipe,
        bins=[
            CalibrationBin(
                low=low,
                high=high,
                pairs=round(float(pairs), 1),
                predicted=round(float(chance / pairs), 8) if pairs else None,
                bought=round(float(bought / pairs), 8) if pairs else None,
            )
            for low, high, (pairs, chance, bought) in zip(BIN_ENDS[:-1], BIN_ENDS[1:], bins, strict=True)
        ],
        ece=round(expected_calibration_error(bins), 8),
    )
