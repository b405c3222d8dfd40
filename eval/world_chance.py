"""The true chance that a customer buys a product within so many days: the ceiling for whoever guesses it.

It is worked out from the truth, not counted. Interest comes in visits, a Poisson process with the rhythm of the
shop: ``Truth.affinity`` in the middle of each week of the window, so with the prices, seasons and gaps in stock of
those weeks, times the days the customer is there. What runs out is bought again by its waiting time, given how long
ago the last purchase is and that no visit has been seen since.

Who is still there is *known* (``alive_until``), or *inferred*: by Bayes from when the customer was last seen, given
how often they come. The second is the best that anybody can know who knows all tastes and habits but not the future.

Deliberately absent: what campaigns change, and what measures foretell (a balance rises in the month before an order),
so a recipe that reads measures can know some things about *when* that this ceiling does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final, Literal

import numpy as np
import pandas as pd

from eval.world_baseline import traffic_days
from eval.world_config import WorldConfig
from eval.world_time import DAY, FloatArray, IntArray, to_instant, to_seconds
from eval.world_truth import ALIVE_UNTIL, REPLENISH_DAYS, VISITS_PER_DAY, Truth
from feature_repo.errors import DataError
from feature_repo.schema import (
    AT,
    CUSTOMER_ID,
    CUSTOMER_IDX,
    KIND,
    PRODUCT_ID,
    PRODUCT_IDX,
    RETURN,
    SIGNED_UP_AT,
)

Alive = Literal["known", "inferred"]

_STEP_DAYS: Final = 7
_STORE_SHARE: Final = 0.23  # of visits, where looks are not recorded: only those who pay are seen
_BINS: Final = 24  # of an integral over time
_BLOCK: Final = 1 << 16  # pairs whose integrals are held at once


def chances(
    truth: Truth,
    customer_ids: Sequence[str],
    product_ids: Sequence[str],
    *,
    at: datetime,
    days: int,
    seen: pd.Series[pd.Timestamp],
    alive: Alive,
) -> FloatArray:
    """Return the chance of a purchase of each product by each customer in the ``days`` from ``at``.

    Parameters
    ----------
    truth
        The world.
    customer_ids, product_ids
        The rows and the columns.
    at, days
        The window; it should lie in the history.
    seen
        When each customer was last seen before ``at``, by customer_id; who was never seen may be missing.
    alive
        Whether it is ``known`` who leaves when, or to be ``inferred``.

    Returns
    -------
    ndarray
        Shape (customers, products), 0 to 1.

    Raises
    ------
    DataError
        An id is unknown, ``at`` has no timezone, or ``days`` is below one.
    """
    if days < 1:
        raise DataError(f"expected a window of at least one day, found {days}; make it longer")
    rows = pd.Index(truth.customers[CUSTOMER_ID]).get_indexer(pd.Index(customer_ids))
    columns = pd.Index(truth.products[PRODUCT_ID]).get_indexer(pd.Index(product_ids))
    now = to_instant(at)
    presence = _Presence(truth, rows, seen.reindex(list(customer_ids)), now=now, days=days, alive=alive)
    expected = np.zeros((len(rows), len(columns)))
    stocked = np.zeros(len(columns))
    for start, length in _steps(days):
        middle = at + timedelta(days=start + length / 2)
        there = presence.days_there(start, length)
        expected += truth.affinity(customer_ids, at=middle, product_ids=product_ids) * there[:, None]
        stocked += truth.on_sale(columns, at=np.array([to_instant(middle)])) * length / days
    row, column, again = _renewals(truth, rows, columns, presence)
    expected[row, column] *= truth.config.again_rate
    chance = 1 - np.exp(-expected)
    chance[row, column] = 1 - (1 - chance[row, column]) * (1 - again * stocked[column])
    found: FloatArray = presence.now[:, None] * chance
    return found


def last_seen(interactions: pd.DataFrame, *, at: datetime) -> pd.Series[pd.Timestamp]:
    """Return when each customer last did anything but send something back, before ``at``, by customer_id."""
    visits = interactions[(interactions[AT] < at) & (interactions[KIND] != RETURN)]
    seen: pd.Series[pd.Timestamp] = visits.groupby(CUSTOMER_ID)[AT].max()
    return seen


def _steps(days: int) -> list[tuple[int, int]]:
    """Return where the weeks of the window begin, and their lengths; the last may be shorter."""
    return [(start, min(_STEP_DAYS, days - start)) for start in range(0, days, _STEP_DAYS)]


class _Presence:
    """Whether customers are there when the window begins, and for how long they stay; arrays (customers,).

    ``at`` is where it begins (seconds since 1970), ``now`` the chance that they are there at all then, ``silent`` how
    many days ago they were last seen, ``rate`` their browsing visits a day, and ``stays`` for how many days of it they
    are there if they are at its beginning.
    """

    def __init__(
        self, truth: Truth, rows: IntArray, seen: pd.Series, *, now: int, days: int, alive: Alive
    ) -> None:
        config = truth.config
        hidden = truth.customers.iloc[rows]
        self._truth, self.at, self._days, self._alive = truth, now, days, alive
        self._until = to_seconds(hidden[ALIVE_UNTIL])
        # lifetimes are counted from here, and nobody was seen before it
        self._born = np.maximum(to_seconds(hidden[SIGNED_UP_AT]), to_instant(config.starts_at))
        last = to_seconds(seen.dt.tz_convert("UTC")) if len(seen) else np.empty(0, dtype=np.int64)
        last = np.clip(np.where(seen.isna(), self._born, last), self._born, now)
        self.rate: FloatArray = hidden[VISITS_PER_DAY].to_numpy()
        self.silent: FloatArray = (now - last) / DAY
        if alive == "known":
            self.now: FloatArray = (self._until > now).astype(float)
        else:
            self.now = self._still_there(last)
        self.stays: FloatArray = np.sum(
            [self.share(start, length) * length for start, length in _steps(days)], axis=0
        )

    def share(self, start: int, length: int) -> FloatArray:
        """Return for which share of a stretch of the window customers are there, if they are at its beginning."""
        begin, end = self.at + start * DAY, self.at + (start + length) * DAY
        if self._alive == "known":
            share: FloatArray = np.clip((self._until - begin) / (end - begin), 0, 1)
            return share
        return self._survival((begin + end) / 2) / self._survival(self.at)

    def days_there(self, start: int, length: int) -> FloatArray:
        """Return the days of a stretch of the window that customers are there, counted by the shop's traffic."""
        begin, end = np.array(self.at + start * DAY), np.array(self.at + (start + length) * DAY)
        return self.share(start, length) * traffic_days(self._truth, begin, end)

    @property
    def traffic(self) -> float:
        """The traffic of the window beside that of a mean day."""
        end = np.array(self.at + self._days * DAY)
        return float(traffic_days(self._truth, np.array(self.at), end)) / self._days

    def _survival(self, at: FloatArray | float) -> FloatArray:
        """Return the chance to be still there at instants: an exponential lifetime whose rate is gamma (Pareto II)."""
        config = self._truth.config
        age = np.maximum(at - self._born, 0) / DAY
        survival: FloatArray = (1 + age / config.lifetime_days) ** -config.lifetime_shape
        return survival

    def _still_there(self, last: IntArray) -> FloatArray:
        r"""Return the chance to be there still, for those last seen at ``last``.

        With survival S and visible visits at rate λ, by Bayes
        :math:`S(t) e^{-\lambda(t-l)} / [S(t) e^{-\lambda(t-l)} - \int_l^t e^{-\lambda(u-l)}\,dS(u)]`
        (Schmittlein, Morrison & Colombo, Management Science 33, 1987, with λ known).
        """
        unseen = _STORE_SHARE * (1 - self._truth.config.checkout_rate)
        silent = traffic_days(self._truth, last, np.full_like(last, self.at))
        visits = self.rate * (1 - unseen) * silent  # expected since
        edges = np.linspace(0, 1, 4 * _BINS + 1)
        alive = self._survival(self.at) * np.exp(-visits)
        gone = np.zeros(len(last))
        before = self._survival(last.astype(float))
        for left, right in pairwise(edges):
            after = self._survival(last + right * (self.at - last))
            gone += (before - after) * np.exp(-visits * (left + right) / 2)
            before = after
        chance: FloatArray = alive / np.maximum(alive + gone, 1e-300)
        return chance


def _renewals(
    truth: Truth, rows: IntArray, columns: IntArray, presence: _Presence
) -> tuple[IntArray, IntArray, FloatArray]:
    """Return the pairs that are owned (row, column), and the chance that each is bought again for having run out."""
    past = truth.owned[to_seconds(truth.owned[AT]) < presence.at]
    past = past.drop_duplicates([CUSTOMER_IDX, PRODUCT_IDX], keep="last")
    row = pd.Index(rows).get_indexer(pd.Index(past[CUSTOMER_IDX]))
    column = pd.Index(columns).get_indexer(pd.Index(past[PRODUCT_IDX]))
    kept = (row >= 0) & (column >= 0)
    past, row, column = past[kept], row[kept].astype(np.int64), column[kept].astype(np.int64)
    age = (presence.at - to_seconds(past[AT])) / DAY
    period = truth.products[REPLENISH_DAYS].to_numpy()[past[PRODUCT_IDX].to_numpy(dtype=np.int64)]
    chance = np.zeros(len(past))
    lasting = np.flatnonzero(period > 0)
    for block in np.split(lasting, range(_BLOCK, len(lasting), _BLOCK)):
        chance[block] = renewal_chance(
            truth.config,
            period[block],
            age=age[block],
            silent=presence.silent[row[block]],
            rate=presence.rate[row[block]],
            traffic=presence.traffic,
            days=presence.stays[row[block]],
        )
    return row, column, chance


def renewal_chance(
    config: WorldConfig,
    period: FloatArray,
    *,
    age: FloatArray,
    silent: FloatArray,
    rate: FloatArray,
    traffic: float,
    days: FloatArray,
) -> FloatArray:
    """Return the chance that what runs out is bought again within so many days.

    A renewal falls due after a Weibull time, if ever, and is made in the next visit, if that comes within the
    patience; else it is mostly forgotten. What fell due before the last visit would have been bought in it.

    Parameters
    ----------
    config
        How renewals go.
    period
        Shape (n,): mean days until the product has run out.
    age, silent
        Days since it was last bought, and since the customer was last seen.
    rate, traffic
        Browsing visits a day, and by how much the days ahead have more of them.
    days
        For how many days from now the customer is there.

    Returns
    -------
    ndarray
        Shape (n,).
    """
    scale = period / math.gamma(1 + 1 / config.rebuy_shape)
    patience, trip = config.rebuy_patience_days, config.rebuy_trip_rate
    coming = rate * traffic
    silent = np.minimum(silent, age)

    def due(by: FloatArray) -> FloatArray:
        share: FloatArray = 1 - np.exp(-((np.maximum(by, 0) / scale) ** config.rebuy_shape))
        return share

    waiting = np.minimum(silent, patience)
    bought, still = np.zeros(len(period)), np.zeros(len(period))
    for step in range(_BINS):  # fell due since the last visit, and waits for the next
        begin, end = (age - waiting * (1 - edge / _BINS) for edge in (step, step + 1))
        mass, left = due(end) - due(begin), patience - age + (begin + end) / 2
        bought += mass * (1 - np.exp(-coming * np.minimum(left, days)))
        still += mass * (1 - trip * np.exp(-coming * left))
    for step in range(_BINS):  # will fall due
        begin, end = (age + days * edge / _BINS for edge in (step, step + 1))
        room = np.minimum(age + days - (begin + end) / 2, patience)
        alone = trip * np.exp(-coming * patience)
        bought += (due(end) - due(begin)) * (1 - np.exp(-coming * room) + alone)
    still += 1 - due(age)
    # fell due and was forgotten: long before the last visit, or so long ago that patience has run out
    forgotten = due(age - silent - patience) * np.exp(-rate * patience)
    forgotten += np.maximum(due(age - patience) - due(age - silent), 0)
    still += forgotten * (1 - trip)
    chance: FloatArray = config.rebuy_rate * bought / (1 - config.rebuy_rate + config.rebuy_rate * still)
    return chance
