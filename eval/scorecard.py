"""How good the scores of candidates are: AUC, logloss, calibration and gains, per customer where that is possible.

Per customer first, as everywhere: the AUC of all pairs too is written as a mean over customers. Calibration and logloss
are asked of scores that claim to be chances of a purchase, of no others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eval.candidates import Candidates, Scored
from eval.placement import auc, clustered_auc
from feature_repo import schema as s
from serving.recommender import PurchasedPolicy

Floats = NDArray[np.float64]

AUC: Final = "auc"
AUC_ALL: Final = "auc_all"
AUC_CLASS: Final = "auc_class"
AUC_NEWCOMERS: Final = "auc_newcomers"
LOGLOSS: Final = "logloss"
BASE_RATE: Final = "base_rate"
TOP_SCORE: Final = "top_score"
WEIGHT: Final = s.WEIGHT
#: Ends of the ten bins of calibration: chances are small, so that of bins of equal width all but one were empty.
BIN_ENDS: Final = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
#: Ends of ten bins of equal width, the customary ones.
EQUAL_ENDS: Final = tuple(round(step / 10, 1) for step in range(11))
#: Where on the curve of gains the points lie: shares of the customers contacted.
CONTACTS: Final = tuple(round(step / 100, 2) for step in range(101))
_LEAST: Final = 1e-7  # a chance of exactly nothing would be infinitely wrong once


@dataclass(frozen=True)
class Scorecard:
    """How the scores of one recipe at one origin did.

    ``within`` has, by purchased policy, one AUC a buyer (index: customer_id): a product that was bought above one
    that was not, among the customer's own candidates. ``rows`` has one row a known customer: ``auc_all`` and
    ``auc_class``, whose plain means are the AUC of all pairs and of those within new and within existing customers;
    ``auc_newcomers``, the same within new customers with measures and within those without; ``logloss`` and
    ``base_rate``, whose means go by ``weight``; and ``top_score``. ``gains`` is the share of buyers reached at each of
    ``CONTACTS``, ``buyers`` how many there are. ``calibration`` is (bins, 3), see ``calibration_bins``.
    """

    within: Mapping[PurchasedPolicy, pd.Series[float]]
    rows: pd.DataFrame
    gains: Floats
    buyers: float
    calibration: Floats | None


def scorecard(
    asked: Candidates,
    scored: Scored,
    *,
    existing: NDArray[np.bool_],
    measured: NDArray[np.bool_] | None = None,
    horizon_days: int,
) -> Scorecard:
    """Judge scores by purchases within ``horizon_days``.

    ``existing`` (rows,) tells who bought before the origin, ``measured`` (rows,) of whom measures were known there;
    None where the shop measures nothing.
    """
    known = asked.known
    weights = asked.row_weight[known, None] * asked.column_weight
    across, bought = scored.across[known], asked.bought[known]
    rows = pd.DataFrame(index=pd.Index(np.array(asked.customers, dtype=object)[known], name=s.CUSTOMER_ID))
    rows[WEIGHT] = asked.row_weight[known]
    rows[AUC_ALL] = clustered_auc(across, bought, weights)
    old = existing[known]
    rows[AUC_CLASS] = _areas(across, bought, weights, (old, ~old))
    told = None if measured is None else measured[known]
    kinds = () if told is None else (~old & told, ~old & ~told)
    rows[AUC_NEWCOMERS] = _areas(across, bought, weights, kinds)
    rows[LOGLOSS] = np.nan
    rows[BASE_RATE] = np.average(bought, axis=1, weights=asked.column_weight)
    rows[TOP_SCORE] = across.max(axis=1, initial=-np.inf) if across.shape[1] else np.nan
    calibration = None
    if scored.chance_days == horizon_days:
        rows[LOGLOSS] = logloss(across, bought, asked.column_weight)
        calibration = calibration_bins(across, bought, weights)
    gains, buyers = gains_curve(across, bought, asked.row_weight[known])
    return Scorecard(_within(asked, scored), rows, gains, buyers, calibration)


def _areas(
    scores: Floats, bought: NDArray[np.bool_], weights: Floats, kinds: Sequence[NDArray[np.bool_]]
) -> Floats:
    """Return one value a row (rows,) whose plain mean within each of ``kinds`` (rows,) is the AUC of its pairs."""
    found = np.full(len(scores), np.nan)
    for one in kinds:
        if one.any():
            found[one] = clustered_auc(scores[one], bought[one], weights[one])
    return found


def _within(asked: Candidates, scored: Scored) -> dict[PurchasedPolicy, pd.Series[float]]:
    policies: dict[PurchasedPolicy, NDArray[np.bool_]] = {
        "exclude": ~asked.owned,
        "allow": np.ones_like(asked.owned),
    }
    buyers = np.flatnonzero(asked.buys)
    names = pd.Index(np.array(asked.customers, dtype=object)[buyers], name=s.CUSTOMER_ID)
    found: dict[PurchasedPolicy, pd.Series[float]] = {}
    for policy, candidates in policies.items():
        values = np.full(len(buyers), np.nan)
        for place, row in enumerate(buyers.tolist()):
            own = candidates[row]
            values[place] = auc(scored.order[row, own], asked.bought[row, own], asked.column_weight[own])
        found[policy] = pd.Series(values, index=names)
    return found


def logloss(chances: Floats, bought: NDArray[np.bool_], weights: Floats) -> Floats:
    r"""Return the mean of :math:`-\log p` of what happened for each row (rows,), columns by ``weights`` (columns,).

    Natural logarithm; Good, JRSS B 14 (1952). Chances nearer than 1e-7 to none or certainty count as that far.
    """
    return np.asarray(np.average(log_losses(chances, bought), axis=1, weights=weights))


def log_losses(chances: Floats, bought: NDArray[np.bool_]) -> Floats:
    """Return minus the log of the chance of what happened, of each pair (any shape); see ``logloss``."""
    p = np.clip(chances, _LEAST, 1 - _LEAST)
    return np.asarray(-np.where(bought, np.log(p), np.log1p(-p)))


def entropy(rate: float) -> float:
    """Return the logloss of always saying ``rate``, where it is right."""
    if not 0 < rate < 1:
        return 0.0
    return float(-rate * np.log(rate) - (1 - rate) * np.log1p(-rate))


def calibration_bins(
    chances: Floats, bought: NDArray[np.bool_], weights: Floats, *, ends: Sequence[float] = BIN_ENDS
) -> Floats:
    """Return (bins, 3): the weight of the pairs in each bin, the sums of their chances and of their purchases.

    Bins are half-open between ``ends``, the last one closed.
    """
    which = np.clip(np.searchsorted(ends, chances.ravel(), side="right") - 1, 0, len(ends) - 2)
    size, weight = len(ends) - 1, weights.ravel()
    columns = (weight, weight * chances.ravel(), weight * bought.ravel())
    return np.column_stack([np.bincount(which, weights=column, minlength=size) for column in columns])


def expected_calibration_error(bins: Floats) -> float:
    """Return the mean distance of the predicted chance from what happened, bins by their weight.

    Naeini, Cooper & Hauskrecht (AAAI 2015), with the bins of ``calibration_bins``.
    """
    return float(np.abs(bins[:, 1] - bins[:, 2]).sum() / bins[:, 0].sum())


def gains_curve(scores: Floats, bought: NDArray[np.bool_], weights: Floats) -> tuple[Floats, float]:
    """Return the share of buyers reached at each share of ``CONTACTS``, and how many buyers there are.

    Each product is offered to the customers with the highest scores for it; buyers of all products count alike.
    Customers of equal score come in any order, so a product of which all scores are equal reaches them evenly.
    """
    total = weights.sum()
    reached = np.zeros(len(CONTACTS))
    grid, buyers = np.array(CONTACTS), 0.0
    for column in np.flatnonzero(bought.any(axis=0)).tolist():
        values = scores[:, column]
        order = np.argsort(-values, kind="stable")
        ordered = values[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        group = np.add.reduceat(weights[order], starts)
        last = np.cumsum(group) / total
        taken = np.add.reduceat(bought[order, column] * weights[order], starts)
        some = taken > 0
        low, high = (last - group / total)[some], last[some]
        reached += np.clip((grid[:, None] - low) / (high - low), 0.0, 1.0) @ taken[some]
        buyers += float(taken.sum())
    return (reached / buyers if buyers else np.full(len(grid), np.nan)), buyers
