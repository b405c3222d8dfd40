"""Pooling of scores: AUC, logloss, gains and calibration of candidates over all origins.

Customers are one cluster of the bootstrap with all their origins, as in ``eval.pooled``, which pools lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eval.evaluate import EXISTING, NEW
from eval.resampling import clustered_means
from eval.results import Calibration, CalibrationBin, CandidateScore, Estimate, Gains, Group
from eval.rolling import AtOrigin
from eval.scorecard import (
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
from eval.slices import NEWCOMERS, STANDING, WITH_MEASURES, WITHOUT_MEASURES

#: Rows of a slice below which nothing is told: such means name persons, not kinds.
FEWEST: Final = 10
_LIFTS: Final = (1, 5, 10, 20)
_REACH: Final = 0.8


def candidate_scores(
    origins: Sequence[AtOrigin], recipes: Sequence[str], *, resamples: int, seed: int, confidence: float
) -> Iterator[CandidateScore]:
    """Iterate over the scores of each recipe's candidates: by group of customers, and at each origin."""
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
            if len(part) < FEWEST or part.index.nunique() < 2:
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


def gains_of(origins: Sequence[AtOrigin], recipe: str) -> Gains:
    """Return how many buyers a recipe reaches with how many contacts, origins by their buyers."""
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


def calibration_of(origins: Sequence[AtOrigin], recipe: str) -> Calibration | None:
    """Return predicted chances beside what happened; None for a recipe that gives none."""
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
