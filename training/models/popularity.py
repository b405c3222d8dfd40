"""Popularity: what is bought most, over all time or lately, by everybody or within a segment.

The baseline that every other model has to beat, and the end of every chain of sources.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from feature_repo import schema as s
from feature_repo.names import CATEGORY_SEGMENT
from training.dataset import TrainingSet

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]

SEGMENT_FAVOURITES = 200
_MIN_SEGMENT_PURCHASES = 50


def fit(data: TrainingSet, *, days: int | None) -> tuple[Int32, Float32]:
    """Order all products by purchases of the last ``days`` (None: of all time).

    Ties go to all-time purchases, then to the smaller product id. Anonymous purchases count.

    Returns
    -------
    tuple
        Product indices (products,) best first, and their shares of the counted purchases.
    """
    return _ordered(data, data.is_purchase & _lately(data, days))


def fit_segments(data: TrainingSet, segments: Mapping[str, str], *, days: int | None) -> dict[str, Int32]:
    """Return the favourites (indices, best first) of each segment with enough purchases.

    ``segments`` maps a customer id to a segment; customers without one count in none.
    """
    names = sorted({segment for segment in segments.values() if segment})
    code = {name: number for number, name in enumerate(names)}
    of_customer = np.array(
        [code.get(segments.get(c, ""), -1) for c in data.customers.ids] + [-1], dtype=np.int64
    )
    of_row = of_customer[data.customer_idx]
    bought = data.is_purchase & _lately(data, days) & (of_row >= 0)
    favourites: dict[str, Int32] = {}
    for name, number in code.items():
        mine = bought & (of_row == number)
        if int(mine.sum()) >= _MIN_SEGMENT_PURCHASES:
            order, share = _ordered(data, mine)
            favourites[name] = order[share > 0][:SEGMENT_FAVOURITES]
    return favourites


def fit_expert(data: TrainingSet, *, days: int | None) -> dict[str, Int32]:
    """Return the best sellers (indices, best first) of each category, by the segment of those who like it best.

    What an expert would do without a model: show everybody the best sellers of the category they buy most of. A
    customer's segment is ``category:X`` where X is that category; of somebody without one nothing is known.
    """
    order, share = fit(data, days=days)
    category = data.catalog.frame[s.CATEGORY]
    sold = order[share > 0]
    of_sold = category.iloc[sold].to_numpy()
    return {
        f"{CATEGORY_SEGMENT}{name}": sold[of_sold == name][:SEGMENT_FAVOURITES]
        for name in sorted(set(category.iloc[sold].dropna()))
    }


def _lately(data: TrainingSet, days: int | None) -> NDArray[np.bool_]:
    return np.ones(len(data), dtype=np.bool_) if days is None else np.asarray(data.age_days <= days)


def _ordered(data: TrainingSet, counted: NDArray[np.bool_]) -> tuple[Int32, Float32]:
    size = len(data.catalog)
    counts = np.bincount(data.product_idx[counted], minlength=size)
    ever = np.bincount(data.product_idx[data.is_purchase], minlength=size)
    order = np.lexsort((np.arange(size), -ever, -counts)).astype(np.int32)
    return order, (counts[order] / max(int(counts.sum()), 1)).astype(np.float32)
