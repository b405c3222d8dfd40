"""How good scores of candidates are for new and existing customers, for new products and the others.

A mean over all pairs hides the few that are hard: customers who never bought, products that nobody bought. Each part
is judged by itself, by the same pairs for every recipe. Deliberately absent: intervals within one shop; whoever needs
to know how sure a figure is draws several shops.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eval.candidates import Candidates
from eval.evaluate import Window
from eval.placement import auc
from eval.scorecard import (
    BIN_ENDS,
    EQUAL_ENDS,
    calibration_bins,
    entropy,
    expected_calibration_error,
    log_losses,
)
from feature_repo import schema as s

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

ALL: Final = "all"
NEW_CUSTOMERS: Final = "new customers"
EXISTING_CUSTOMERS: Final = "existing customers"
NEW_PRODUCTS: Final = "new products"
OTHER_PRODUCTS: Final = "other products"


def parts(asked: Candidates, window: Window) -> dict[str, Bools]:
    """Return which candidates (rows, columns) belong to each part; all of known customers.

    A customer is new who had not bought before the window, a product that nobody had bought before it.
    """
    existing = np.isin(asked.customers, window.bought_before[s.CUSTOMER_ID].unique())
    ids = pd.Index(np.array(asked.catalog.ids, dtype=object)[asked.columns])
    is_sold = np.asarray(ids.isin(window.sold_before))
    known = np.broadcast_to(asked.known[:, None], asked.bought.shape)
    return {
        ALL: known,
        NEW_CUSTOMERS: known & ~existing[:, None],
        EXISTING_CUSTOMERS: known & existing[:, None],
        NEW_PRODUCTS: known & ~is_sold,
        OTHER_PRODUCTS: known & is_sold,
    }


@dataclass(frozen=True)
class Pairs:
    """What there is in a part: pairs, how many are bought, their share, and the logloss of always saying it.

    Pairs and purchases are numbers of the whole shop, where the candidates are a weighted sample of it. Of a part
    without pairs there is no share.
    """

    pairs: float
    purchases: float
    base_rate: float | None
    logloss_base_rate: float | None

    @classmethod
    def of(cls, asked: Candidates, part: Bools) -> Pairs:
        """Count them."""
        weights = _weights(asked)[part]
        total = float(weights.sum())
        bought = float((weights * asked.bought[part]).sum())
        rate = bought / total if total else None
        return cls(total, bought, rate, None if rate is None else entropy(rate))

    def to_json(self) -> dict[str, float]:
        """Return what is told, as rounded JSON values."""
        return {name: _rounded(value) for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class PartScore:
    """How good scores are in a part; NaN where nothing can be told.

    ``auc``: how often a pair that is bought has a higher score than one that is not. Of chances besides:
    ``logloss``; the calibration error over ten bins of equal width (``ece``) and over ten that grow with the chance
    (``ece_fine``), see ``EQUAL_ENDS`` and ``BIN_ENDS``; and ``expected``, how many purchases the chances
    add up to for each that happened.
    """

    auc: float
    logloss: float = float("nan")
    ece: float = float("nan")
    ece_fine: float = float("nan")
    expected: float = float("nan")

    def to_json(self) -> dict[str, float]:
        """Return what is told, as rounded JSON values."""
        return {name: _rounded(value) for name, value in asdict(self).items() if np.isfinite(value)}


def part_scores(
    scores: Floats, asked: Candidates, which: Mapping[str, Bools], *, are_chances: bool
) -> dict[str, PartScore]:
    """Judge the scores (rows, columns) of candidates in each part.

    Parameters
    ----------
    scores
        Higher is better, comparable over customers; see ``Scored.across``.
    asked
        The candidates.
    which
        See ``parts``.
    are_chances
        Whether the scores are chances of a purchase in the window.
    """
    return {
        name: _of(scores[part], asked.bought[part], _weights(asked)[part], are_chances=are_chances)
        for name, part in which.items()
    }


def _of(scores: Floats, bought: Bools, weights: Floats, *, are_chances: bool) -> PartScore:
    area = auc(scores, bought, weights)
    if not are_chances or not len(scores):
        return PartScore(area)
    fine = calibration_bins(scores, bought, weights, ends=BIN_ENDS)
    happened = fine[:, 2].sum()
    return PartScore(
        auc=area,
        logloss=float(np.average(log_losses(scores, bought), weights=weights)),
        ece=expected_calibration_error(calibration_bins(scores, bought, weights, ends=EQUAL_ENDS)),
        ece_fine=expected_calibration_error(fine),
        expected=float(fine[:, 1].sum() / happened) if happened else float("nan"),
    )


def _weights(asked: Candidates) -> Floats:
    """Return how many pairs each candidate (rows, columns) stands for."""
    return np.asarray(asked.row_weight[:, None] * asked.column_weight)


def spread(worlds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean, standard deviation, least and most of every number in dicts of the same form, leaf by leaf.

    A number that some of them lack is told over those that have it.
    """
    found: dict[str, Any] = {}
    for key in dict.fromkeys(key for world in worlds for key in world):
        values = [world[key] for world in worlds if key in world]
        if isinstance(values[0], dict):
            found[key] = spread(values)
            continue
        numbers = np.array(values, dtype=np.float64)
        found[key] = {
            "mean": _rounded(numbers.mean()),
            "sd": _rounded(numbers.std(ddof=1)) if len(numbers) > 1 else 0.0,
            "least": _rounded(numbers.min()),
            "most": _rounded(numbers.max()),
            "worlds": len(numbers),
        }
    return found


def _rounded(value: float) -> float:
    """Return six digits of a number: logloss and calibration errors are small."""
    return float(f"{value:.6g}")
