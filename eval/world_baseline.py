"""The chance that a customer buys something of a category without being contacted.

It is worked out from the truth, not counted: visits are a Poisson process, what is carted in one of them
follows from taste, price and what is owned, and renewals from their waiting times. Where chances depend on
each other a little (renewals wait for a visit; a visit may see one product twice) they are taken as
independent. Deliberately absent: the effect of contacts (``eval.world_campaigns``).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import pandas as pd

from eval.world_time import DAY, FloatArray, IntArray, to_instant, to_seconds
from eval.world_truth import (
    LOOKS_PER_VISIT,
    PRICE_SENSITIVITY,
    REPLENISH_DAYS,
    VISITS_PER_DAY,
    Truth,
)
from eval.world_visits import presence, rhythm
from feature_repo.schema import AT, CUSTOMER_IDX, PRODUCT_IDX

_BLOCK: Final = 1 << 20  # entries of a dense (customers, products) matrix held at once


def baseline(truth: Truth, customer: IntArray, *, at: IntArray, columns: IntArray) -> FloatArray:
    """Return the chance of a purchase within ``response_days`` of an instant.

    Parameters
    ----------
    truth
        The world; ``owned`` tells what customers had before.
    customer
        Shape (n,): customer_idx, each at most once.
    at
        Shape (n,): from when, seconds since 1970; all within a few days.
    columns
        The products that count, product_idx.

    Returns
    -------
    ndarray
        Shape (n,).
    """
    if not len(customer):
        return np.zeros(0)
    config = truth.config
    hidden = truth.customers.iloc[customer]
    until = np.minimum(presence(truth)[1][customer], at + config.response_days * DAY)
    visits = hidden[VISITS_PER_DAY].to_numpy() * traffic_days(truth, at, np.maximum(until, at))
    looks = hidden[LOOKS_PER_VISIT].to_numpy()
    sensitivity = hidden[PRICE_SENSITIVITY].to_numpy()[:, None]
    now = int(at.min()) + config.response_days * DAY // 2
    cut = truth.price_cut(columns, at=np.array(now))
    interest, due = _possessions(truth, customer, at, until, columns)

    in_visit = np.zeros(len(customer))
    step = max(1, _BLOCK // len(truth.products))
    for start in range(0, len(customer), step):
        rows = slice(start, start + step)
        for taste, weight in zip(
            truth.tastes[customer[rows]].swapaxes(0, 1), truth.taste_weights[customer[rows]].T, strict=True
        ):
            weights = truth.weights(taste, at=now)
            share = weights[:, columns] / np.maximum(weights.sum(axis=1, keepdims=True), 1e-30)
            match = taste @ truth.product_factors[columns].T
            carting = truth.mean_cart_rate(match, sensitivity=sensitivity[rows], cut=cut) * interest[rows]
            carted = (share * carting).sum(axis=1)
            in_visit[rows] += weight * truth.seen_rate(carted, looks[rows])
    chance: FloatArray = 1 - np.exp(-visits * config.checkout_rate * in_visit) * (1 - due)
    return np.where(until > at, chance, 0.0)


def traffic_days(truth: Truth, since: IntArray, until: IntArray) -> FloatArray:
    """Return the days between instants (seconds since 1970), each counted by its relative traffic."""
    first = to_instant(truth.config.starts_at) // DAY
    days = np.arange(first, to_instant(truth.config.ends_at) // DAY + 2)
    total = np.concatenate([[0.0], np.cumsum(rhythm(days, truth.config))])

    def passed(at: IntArray) -> FloatArray:
        day = np.clip(at // DAY - first, 0, len(days) - 1)
        so_far: FloatArray = total[day] + (at % DAY) / DAY * (total[day + 1] - total[day])
        return so_far

    return passed(until) - passed(since)


def _possessions(
    truth: Truth, customer: IntArray, at: IntArray, until: IntArray, columns: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Interest left in products, shape (n, columns), and chance that any of them is renewed, shape (n,)."""
    config = truth.config
    interest = np.ones((len(customer), len(columns)))
    no_renewal = np.ones(len(customer))
    past = truth.owned[truth.owned[PRODUCT_IDX].isin(columns) & truth.owned[CUSTOMER_IDX].isin(customer)]
    row = pd.Index(customer).get_indexer(pd.Index(past[CUSTOMER_IDX]))
    before = to_seconds(past[AT]) < at[row]
    past = past[before].drop_duplicates([CUSTOMER_IDX, PRODUCT_IDX], keep="last")
    row = pd.Index(customer).get_indexer(pd.Index(past[CUSTOMER_IDX]))
    product = past[PRODUCT_IDX].to_numpy()
    interest[row, pd.Index(columns).get_indexer(pd.Index(product))] = config.again_rate

    period = truth.products[REPLENISH_DAYS].to_numpy()[product]
    scale = np.where(period > 0, period, np.inf) * DAY / math.gamma(1 + 1 / config.rebuy_shape)
    age = at[row] - to_seconds(past[AT])
    # a renewal that was due is made in a visit; half the usual wait for one is taken as its delay
    rate = truth.customers[VISITS_PER_DAY].to_numpy()[customer[row]]
    patience = config.rebuy_patience_days
    joins = 1 - np.exp(-rate * patience)
    delay = np.where(rate * patience > 1e-9, (1 - joins * 0.5) * patience * 0.5, 0.0) * DAY

    def due_by(elapsed: FloatArray | IntArray) -> FloatArray:
        late = 1 - np.exp(-((np.maximum(elapsed - delay, 0) / scale) ** config.rebuy_shape))
        chance: FloatArray = config.rebuy_rate * late
        return chance

    served = joins + (1 - joins) * config.rebuy_trip_rate
    sold = truth.on_sale(product, at=at[row])
    begun, ended = due_by(age), due_by(np.maximum(until - at, 0)[row] + age)
    np.multiply.at(no_renewal, row, 1 - sold * served * (ended - begun) / (1 - begun))
    return interest, 1 - no_renewal
