"""AUC of weighted scores: how often something taken stands above something left, ties counting half.

Everything comes from placement values (Hanley & Hajian-Tilaki, Academic Radiology 4, 1997): of each positive the
share of negatives below it, of each negative the share of positives above it. Their sums by customer give the AUC of
all pairs as a mean over customers, so that the same bootstrap serves it as every other metric.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def placements(scores: npt.ArrayLike, positive: Bools, weights: Floats) -> Floats:
    """Return the placement value (n,) of each score.

    Parameters
    ----------
    scores : array of finite numbers, shape (n,)
        Higher is better.
    positive : bool array, shape (n,)
        Which were taken.
    weights : array of positive numbers, shape (n,)
        How many a score stands for.

    Returns
    -------
    float array, shape (n,)
        Of a positive the weighted share of negatives with a lower score, of a negative that of positives with a higher
        one, equal scores counting half; NaN where there is nothing of the other kind.
    """
    values = np.asarray(scores)
    order = np.argsort(values)
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    sizes = np.diff(np.r_[starts, len(ordered)])
    is_positive = positive[order]
    weight = weights[order]
    taken = np.add.reduceat(np.where(is_positive, weight, 0.0), starts)
    left = np.add.reduceat(np.where(is_positive, 0.0, weight), starts)
    below = np.cumsum(left) - left / 2
    above = taken.sum() - np.cumsum(taken) + taken / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        of_positive, of_negative = below / left.sum(), above / taken.sum()
    found = np.empty(len(ordered))
    found[order] = np.where(is_positive, np.repeat(of_positive, sizes), np.repeat(of_negative, sizes))
    return found


def auc(scores: npt.ArrayLike, positive: Bools, weights: Floats | None = None) -> float:
    """Return the area under the ROC curve; NaN without a positive or without a negative.

    The Mann-Whitney statistic: the chance that a positive has a higher score than a negative, ties counting half
    (Hanley & McNeil, Radiology 143, 1982).
    """
    weight = np.ones(len(positive)) if weights is None else weights
    if not positive.any() or positive.all():
        return float("nan")
    return float(np.average(placements(scores, positive, weight)[positive], weights=weight[positive]))


def clustered_auc(scores: Floats, positive: Bools, weights: Floats) -> Floats:
    r"""Return one value a row (rows,) whose plain mean is the AUC of all cells of a table.

    With :math:`P_c` and :math:`N_c` the weighted sums of the placements of the positives and the negatives in row c,
    and :math:`p_c, n_c` their weights, the value is
    :math:`A + R [(P_c - A p_c) / \sum p + (N_c - A n_c) / \sum n]` for R rows: the influence of the row on
    the AUC (Obuchowski, Biometrics 53, 1997, for clustered data). Rows are independent, the cells in one are not.

    Parameters
    ----------
    scores, positive, weights : arrays, shape (rows, columns)
        As in :func:`placements`; a row is a customer, a column a product.

    Returns
    -------
    float array, shape (rows,)
        NaN without a positive or without a negative.
    """
    if not positive.any() or positive.all():
        return np.full(len(scores), np.nan)
    placed = placements(scores.ravel(), positive.ravel(), weights.ravel()).reshape(scores.shape) * weights
    of_positive = np.where(positive, placed, 0.0).sum(axis=1)
    of_negative = np.where(positive, 0.0, placed).sum(axis=1)
    p = np.where(positive, weights, 0.0).sum(axis=1)
    n = np.where(positive, 0.0, weights).sum(axis=1)
    area = of_positive.sum() / p.sum()
    influence = (of_positive - area * p) / p.sum() + (of_negative - area * n) / n.sum()
    return np.asarray(area + len(scores) * influence)
