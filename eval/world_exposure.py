"""Ranked lists shown in some visits, and which of their products were looked at.

The position-based model (Craswell et al. 2008, "An experimental comparison of click position-bias models";
Joachims et al. 2017, "Unbiased learning-to-rank with biased feedback"): a product of the list is clicked if
its position was examined *and* the customer would look at it anyway. A look that the list did not bring
happens all the same, without a ``request_id``; so lists show what customers want and do not change it.

The input contract has no table of exposures: ``World.write`` puts the log into the directory of the truth,
as ``exposures.parquet``. Deliberately absent: an effect of being shown on demand.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from eval.world_config import WorldConfig
from eval.world_time import BoolArray, FloatArray, IntArray, to_times
from eval.world_truth import APPEAL, Truth
from eval.world_visits import STORE, Visits
from feature_repo.schema import AT, CUSTOMER_ID, PRODUCT_ID, REQUEST_ID

EXPOSURES: Final = "exposures"
POSITION: Final = "position"
CLICKED: Final = "clicked"
RELEVANCE: Final = "relevance"
EXAMINED: Final = "examined"

_POPULAR_SHARE = 0.5  # of a list; the rest fits the customer
_RANKING_NOISE = 3.0  # logits by which the shop's ranking errs


@dataclass(frozen=True, eq=False)
class Shown:
    """Products shown: the visit, the product, its position (1 = first), and the truth about it."""

    visit: IntArray
    product: IntArray
    position: IntArray
    relevance: FloatArray
    examined: BoolArray

    @classmethod
    def nothing(cls) -> Shown:
        """Return no product at all."""
        none = np.empty(0, dtype=np.int64)
        return cls(none, none, none, none.astype(np.float64), none > 0)

    @classmethod
    def joined(cls, parts: list[Shown]) -> Shown:
        """Return the rows of all parts, one after the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def choose_lists(visits: Visits, config: WorldConfig, *, rng: np.random.Generator) -> BoolArray:
    """Choose by lot the online visits that are shown a list."""
    listed: BoolArray = (rng.random(len(visits.at)) < config.listed_share) & (visits.channel != STORE)
    return listed


def draw(cumulated: FloatArray, size: int, row: IntArray, *, rng: np.random.Generator) -> IntArray:
    """Draw a column by the weights of each given row.

    Parameters
    ----------
    cumulated
        Running sum of the weights, row after row in one array.
    size
        Number of columns.
    row
        Which row each draw is from.
    rng
        Source of chance.
    """
    ends = cumulated[size - 1 :: size]
    begins = np.append(0.0, ends)[row]
    target = begins + rng.random(len(row)) * (ends[row] - begins)
    position = np.searchsorted(cumulated, target, side="right")
    column: IntArray = np.clip(position - row * size, 0, size - 1)
    return column


def show(
    truth: Truth,
    weights: npt.NDArray[np.float32],
    cumulated: FloatArray,
    rows: IntArray,
    looks: IntArray,
    *,
    first: int,
    rng: np.random.Generator,
) -> Shown:
    """Draw the lists of some visits of one day.

    Parameters
    ----------
    truth
        The world.
    weights, cumulated
        Chances of a look up to a factor, shape (visits, products), and their running sum over all of them.
    rows
        Which visits are shown a list.
    looks
        Shape (visits,): how many looks each visit has.
    first
        Number of the first visit.
    rng
        Source of chance.
    """
    length, size = truth.config.list_length, weights.shape[1]
    popular = np.cumsum(np.exp(truth.products[APPEAL].to_numpy()) * (weights[rows[0]] > 0))
    row = np.repeat(rows, length)
    own = draw(cumulated, size, row, rng=rng)
    common = np.searchsorted(popular, rng.random(len(row)) * popular[-1], side="right")
    product = np.where(rng.random(len(row)) < _POPULAR_SHARE, common, own)
    row, product = np.divmod(np.unique(row * size + np.minimum(product, size - 1)), size)

    total = weights[rows].sum(axis=1, dtype=np.float64)
    share = weights[row, product] / total[np.searchsorted(rows, row)]
    noise = _RANKING_NOISE * rng.gumbel(size=len(row))
    order = np.lexsort((-(np.log(np.maximum(share, 1e-300)) + noise), row))
    row, product, share = row[order], product[order], share[order]
    begins = np.flatnonzero(np.diff(row, prepend=-1))
    place = np.arange(len(row)) - np.repeat(begins, np.diff(begins, append=len(row)))
    examined = rng.random(len(row)) < truth.examination[place]
    return Shown(row + first, product, place + 1, 1 - (1 - share) ** looks[row], examined)


def write_down(
    shown: Shown, visits: Visits, truth: Truth, *, viewed: IntArray
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the log of exposures and, row by row beside it, the truth about them.

    Parameters
    ----------
    shown
        What was shown.
    visits
        All visits.
    truth
        For the ids.
    viewed
        Ascending keys ``visit · products + product`` of what was recorded as looked at.
    """
    key = shown.visit * len(truth.products) + shown.product
    request = request_ids(shown.visit)
    product = truth.products[PRODUCT_ID].to_numpy(dtype=object)[shown.product]
    log = pd.DataFrame(
        {
            REQUEST_ID: request,
            CUSTOMER_ID: truth.customers[CUSTOMER_ID].to_numpy(dtype=object)[visits.customer[shown.visit]],
            AT: to_times(visits.at[shown.visit]),
            PRODUCT_ID: product,
            POSITION: shown.position,
            CLICKED: shown.examined & np.isin(key, viewed),
        }
    )
    known = pd.DataFrame(
        {REQUEST_ID: request, PRODUCT_ID: product, RELEVANCE: shown.relevance, EXAMINED: shown.examined}
    )
    return log, known


def request_ids(visit: IntArray) -> npt.NDArray[np.object_]:
    """Return the id of the request behind the list of each visit."""
    distinct, inverse = np.unique(visit, return_inverse=True)
    ids: npt.NDArray[np.object_] = np.array([f"r{number:07d}" for number in distinct], dtype=object)[inverse]
    return ids
