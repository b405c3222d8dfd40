"""The shelf of the simulated shop: which product can be had on which day, and at what price.

Products run out of stock and come back, change their price for good, and are cut in price for a while. The
``products`` table tells it as versions (``valid_from``); ``Shelf`` tells the same as arrays with a row a day.
Deliberately absent: a link between sales and running out, so that a gap in sales is the stock's doing alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from eval.world_config import WorldConfig
from eval.world_time import DAY, YEAR_DAYS, BoolArray, IntArray, to_instant, to_seconds, to_times
from feature_repo.schema import (
    AVAILABLE,
    LAUNCHED_AT,
    MARGIN,
    PRICE,
    PRODUCT_IDX,
    VALID_FROM,
    WITHDRAWN_AT,
)

_CUTS: Final = (0.1, 0.15, 0.2, 0.25)
_SHORTEST_DAYS: Final = 3  # of a stock-out or a price cut


@dataclass(frozen=True, eq=False)
class Shelf:
    """What can be had on each day of the history, and the first one after it.

    Attributes
    ----------
    first_day
        Days since 1970 of row 0.
    stocked
        Shape (days, products): whether the product is on sale on that day.
    price
        Shape (days, products), float32: price as a share of the price at launch.
    """

    first_day: int
    stocked: BoolArray
    price: npt.NDArray[np.float32]

    def row(self, at: IntArray) -> IntArray:
        """Row numbers of instants (seconds since 1970); what lies outside the history is its nearest day."""
        rows: IntArray = np.clip(at // DAY - self.first_day, 0, len(self.stocked) - 1)
        return rows

    @classmethod
    def of(cls, products: pd.DataFrame, versions: pd.DataFrame, config: WorldConfig) -> Shelf:
        """Unfold the versions.

        Parameters
        ----------
        products
            ``launched_at``, ``withdrawn_at``, ``price`` (at launch) in the order of product indices.
        versions
            ``product_idx``, ``valid_from``, ``available``, ``price``; in order of product and time.
        config
            For the span of the history.
        """
        first, last = to_instant(config.starts_at) // DAY, to_instant(config.ends_at) // DAY
        days = np.arange(first, last + 1)[:, None]
        launched = to_seconds(products[LAUNCHED_AT]) // DAY
        withdrawn = to_seconds(products[WITHDRAWN_AT]) // DAY
        product = versions[PRODUCT_IDX].to_numpy()
        begins = np.clip(to_seconds(versions[VALID_FROM]) // DAY - first, 0, len(days))
        follows = np.diff(product, append=-1) == 0
        ends = np.where(follows, np.append(begins[1:], 0), len(days))
        lengths = np.maximum(ends - begins, 0)
        # versions stand in order of product and time: repeated by their days they fill product by product
        fills = len(days) - np.bincount(product, weights=lengths, minlength=len(products)).astype(int)
        opening = np.diff(product, prepend=-1) != 0
        lengths[opening] += fills[product[opening]]  # before its launch a product has its first version
        shape = (len(products), len(days))
        available = np.repeat(versions[AVAILABLE].to_numpy(dtype=bool), lengths).reshape(shape).T
        price = np.repeat(versions[PRICE].to_numpy(), lengths).reshape(shape).T / products[PRICE].to_numpy()
        return cls(
            first_day=int(first),
            stocked=np.ascontiguousarray(available & (launched <= days) & (days < withdrawn)),
            price=np.ascontiguousarray(price, dtype=np.float32),
        )


def make_versions(table: pd.DataFrame, config: WorldConfig) -> pd.DataFrame:
    """Draw what happens to products after their launch and return their versions.

    Parameters
    ----------
    table
        The products at launch, one row each: ``price``, ``margin``, ``available``, ``launched_at``.
    config
        How often products run out and change their price.

    Returns
    -------
    DataFrame
        ``product_idx``, ``valid_from``, ``available``, ``price``, ``margin``: the state of a product from an
        instant on, the first one at its launch. In order of product and time.
    """
    rng = config.chance("shelf")
    begin = np.maximum(to_seconds(table[LAUNCHED_AT]), to_instant(config.starts_at)) // DAY + 1
    end = np.minimum(to_seconds(table[WITHDRAWN_AT]), to_instant(config.ends_at)) // DAY
    sold = table[AVAILABLE].to_numpy(dtype=bool)
    span = np.where(sold, np.maximum(end - begin, 0), 0)

    outs = _episodes(span, begin, config.stockouts_per_year, config.stockout_days, rng=rng)
    cuts = _episodes(span, begin, config.promotions_per_year, config.promotion_days, rng=rng)
    depth = rng.choice(_CUTS, size=len(cuts[0]))
    changed, day, _ = _episodes(span, begin, config.price_changes_per_year, 1.0, rng=rng)
    step = np.exp(config.price_change_sigma * rng.standard_normal(len(changed)) + 0.02)

    # each happening adds to one of three running sums: units out of stock, log of price, log of the cut
    everything = np.arange(len(table))
    product = np.concatenate([everything, outs[0], outs[0], cuts[0], cuts[0], changed])
    days = np.concatenate([np.full(len(table), -1), outs[1], outs[2], cuts[1], cuts[2], day])
    none = np.zeros(len(table))
    missing, lasting = np.zeros(len(product)), np.zeros(len(product))
    cutting = np.zeros(len(product))
    bounds = np.cumsum([len(none), len(outs[0]), len(outs[0]), len(cuts[0]), len(cuts[0])])
    missing[bounds[0] : bounds[1]], missing[bounds[1] : bounds[2]] = 1, -1
    cutting[bounds[2] : bounds[3]], cutting[bounds[3] : bounds[4]] = depth, -depth
    lasting[bounds[4] :] = np.log(step)
    told = days < np.minimum(np.where(span > 0, end, 0)[product], to_instant(config.ends_at) // DAY)
    order = np.lexsort((days, product))
    order = order[told[order]]
    product, days = product[order], days[order]
    state = np.stack([missing[order], lasting[order], cutting[order]])
    state = np.cumsum(state, axis=1)
    first = np.flatnonzero(np.diff(product, prepend=-1))
    # episodes of one kind may overlap (both count); at most one cut of 40 % is taken at a time
    state -= np.repeat(state[:, first], np.diff(first, append=len(product)), axis=1)
    last_of_day = np.append((np.diff(product) != 0) | (np.diff(days) != 0), True)
    product, days, state = product[last_of_day], days[last_of_day], state[:, last_of_day]

    base = table[PRICE].to_numpy()[product]
    price = np.maximum(np.round(base * np.exp(state[1]) * (1 - np.minimum(state[2], 0.4)), 2), 0.01)
    valid_from = np.where(days < 0, to_seconds(table[LAUNCHED_AT])[product], days * DAY)
    versions = pd.DataFrame(
        {
            PRODUCT_IDX: product,
            VALID_FROM: to_times(valid_from),
            AVAILABLE: sold[product] & (np.round(state[0]) == 0),
            PRICE: price,
            MARGIN: np.round(table[MARGIN].to_numpy()[product] + price - base, 2),
        }
    )
    state_of = versions[[PRODUCT_IDX, AVAILABLE, PRICE]]
    same = (state_of == state_of.shift()).all(axis=1)
    return versions[~same].reset_index(drop=True)


def _episodes(
    span: IntArray, begin: IntArray, per_year: float, days: float, *, rng: np.random.Generator
) -> tuple[IntArray, IntArray, IntArray]:
    """Draw which product, from which day and until which day (days since 1970), by a Poisson process."""
    product = np.repeat(np.arange(len(span)), rng.poisson(span * per_year / YEAR_DAYS))
    start = begin[product] + rng.integers(np.maximum(span[product], 1))
    length = _SHORTEST_DAYS + rng.exponential(np.maximum(days - _SHORTEST_DAYS, 0.1), size=len(product))
    return product, start, start + np.ceil(length).astype(np.int64)
