"""Visits to the simulated shop: who comes when, through which channel, and with a coupon or without.

``Visits`` and ``Lines`` are what the steps of a history hand to each other. Deliberately absent: what is
looked at in a visit (``eval.world_history``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eval.world_cast import CHANNELS, People
from eval.world_config import WorldConfig
from eval.world_time import DAY, YEAR_DAYS, BoolArray, FloatArray, IntArray, at_hours, to_instant, to_seconds
from eval.world_truth import ALIVE_UNTIL, VISITS_PER_DAY, Truth
from feature_repo.schema import SIGNED_UP_AT

STORE = CHANNELS.index("store")


@dataclass(frozen=True, eq=False)
class Visits:
    """Visits: who (customer_idx), when (seconds since 1970), where, and the coupon's share of the price."""

    customer: IntArray
    at: IntArray
    channel: IntArray
    coupon: FloatArray

    def __add__(self, others: Visits) -> Visits:
        return Visits(
            np.concatenate([self.customer, others.customer]),
            np.concatenate([self.at, others.at]),
            np.concatenate([self.channel, others.channel]),
            np.concatenate([self.coupon, others.coupon]),
        )


@dataclass(frozen=True, eq=False)
class Lines:
    """What came of a product in a visit, one line a (visit, product): seen, and perhaps carted and bought.

    ``owns`` marks the first purchase of each pair and each renewal of what had run out.
    """

    visit: IntArray
    product: IntArray
    carted: BoolArray
    bought: BoolArray
    owns: BoolArray

    def take(self, rows: IntArray) -> Lines:
        """Return the lines of the given rows, in that order."""
        return Lines(
            self.visit[rows], self.product[rows], self.carted[rows], self.bought[rows], self.owns[rows]
        )


def presence(truth: Truth) -> tuple[IntArray, IntArray]:
    """Seconds since 1970 from which and until which each customer can do something in the history."""
    config = truth.config
    arrived = np.maximum(to_seconds(truth.customers[SIGNED_UP_AT]), to_instant(config.starts_at))
    left = np.minimum(to_seconds(truth.customers[ALIVE_UNTIL]), to_instant(config.ends_at))
    return arrived, left


def rhythm(days: IntArray, config: WorldConfig) -> FloatArray:
    """Relative traffic of days (since 1970): the week and the year; its mean is 1."""
    weekday = np.array(config.weekdays) / np.mean(config.weekdays)
    year = 1 + config.year_swing * np.cos(2 * np.pi * (days - config.year_peak_day) / YEAR_DAYS)
    traffic: FloatArray = weekday[(days + 3) % 7] * year  # 1970 began on a Thursday
    return traffic


def make_visits(truth: Truth, people: People) -> Visits:
    """Browsing visits in order of time: a Poisson process with the rhythm of the week and the year.

    A customer who joins within the history also visits on signing up.
    """
    config = truth.config
    rng = config.chance("visits")
    arrived, left = presence(truth)
    busiest = max(config.weekdays) / np.mean(config.weekdays) * (1 + config.year_swing)
    expected = truth.customers[VISITS_PER_DAY].to_numpy() * np.maximum(left - arrived, 0) / DAY
    customer = np.repeat(np.arange(len(expected)), rng.poisson(expected * busiest))
    at = arrived[customer] + rng.random(len(customer)) * (left - arrived)[customer]
    kept = rng.random(len(at)) * busiest < rhythm((at // DAY).astype(np.int64), config)  # thinning
    customer, when = customer[kept], at_hours(at[kept], config, rng=rng)

    joined = to_seconds(truth.customers[SIGNED_UP_AT])
    joiners = np.flatnonzero(joined >= to_instant(config.starts_at))
    customer, when = np.concatenate([customer, joiners]), np.concatenate([when, joined[joiners]])
    there = (arrived[customer] <= when) & (when < left[customer])
    customer, when = customer[there], when[there]
    order = np.lexsort((customer, when))
    return equip(customer[order], when[order], people, config, rng=rng, coupons=True)


def equip(
    customer: IntArray,
    at: IntArray,
    people: People,
    config: WorldConfig,
    *,
    rng: np.random.Generator,
    coupons: bool = False,
) -> Visits:
    """Draw the channel of each visit by its customer's habit, and whether there is a coupon."""
    habits = np.cumsum(people.channel_weights, axis=1)[customer, :-1]
    channel = (rng.random((len(habits), 1)) > habits).sum(axis=1)
    coupon = np.zeros(len(customer))
    if coupons:
        coupon = rng.choice(config.discounts, size=len(customer))
        coupon *= rng.random(len(customer)) < config.discount_share
    return Visits(customer, at, channel, coupon)
