"""What happens in the simulated world: visits, what is looked at and bought in them, what is bought again.

Every step works on arrays of all customers at once; only blocks of visits, and the rounds of renewals, are
gone through one after the other. Deliberately absent: what customers look at in stores, where only purchases
and returns are recorded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from eval.world_cast import CHANNELS, REGION, People, at_hours
from eval.world_truth import (
    ALIVE_UNTIL,
    DAY,
    REPLENISH_DAYS,
    VISITS_PER_DAY,
    BoolArray,
    FloatArray,
    IntArray,
    Truth,
    to_instant,
    to_seconds,
    to_times,
)
from feature_repo.schema import (
    AT,
    CART,
    CHANNEL,
    CUSTOMER_ID,
    CUSTOMER_IDX,
    DISCOUNT,
    KIND,
    ORDER_ID,
    PRODUCT_ID,
    PRODUCT_IDX,
    PURCHASE,
    QUANTITY,
    RETURN,
    SIGNED_UP_AT,
    STORE_ID,
    VALUE,
    VIEW,
)

_BLOCK = 2048  # visits whose dense (visits, products) matrix is held at once
_LOOK_SECONDS = 25
_CHECKOUT_SECONDS = 300
_STORE = CHANNELS.index("store")
_FUNNEL = (VIEW, CART, PURCHASE, RETURN)


@dataclass(frozen=True, eq=False)
class History:
    """All that happened: ``interactions`` as in ``World``, ``owned`` as in ``Truth``."""

    interactions: pd.DataFrame
    owned: pd.DataFrame


def make_history(truth: Truth, *, people: People, prices: FloatArray, rng: np.random.Generator) -> History:
    """Let everybody live through the history.

    Parameters
    ----------
    truth
        The world so far; its ``owned`` is not read.
    people
        Customers, for what is recorded of them.
    prices
        Shape (products,): money a unit.
    rng
        Source of chance.
    """
    visits = _visits(truth, rng=rng)
    browsed = _browse(truth, visits, rng=rng)
    visits, lines, owned = _buy_again(truth, visits, browsed, rng=rng)
    return History(_record(truth, visits, lines, people=people, prices=prices, rng=rng), owned)


@dataclass(frozen=True, eq=False)
class _Visits:
    """Visits: who (customer_idx) and when (seconds since 1970)."""

    customer: IntArray
    at: IntArray


@dataclass(frozen=True, eq=False)
class _Lines:
    """What came of a product in a visit: seen, and perhaps carted and bought; one line a (visit, product)."""

    visit: IntArray
    product: IntArray
    carted: BoolArray
    bought: BoolArray

    def take(self, rows: IntArray) -> _Lines:
        """Return the lines of the given rows, in that order."""
        return _Lines(self.visit[rows], self.product[rows], self.carted[rows], self.bought[rows])


def _visits(truth: Truth, *, rng: np.random.Generator) -> _Visits:
    """Browsing visits in order of time: a Poisson process with the rhythm of the week and the year.

    A customer who joins within the history also visits on signing up.
    """
    config = truth.config
    arrived, left = _presence(truth)
    weekday = np.array(config.weekdays) / np.mean(config.weekdays)
    busiest = weekday.max() * (1 + config.year_swing)
    expected = truth.customers[VISITS_PER_DAY].to_numpy() * np.maximum(left - arrived, 0) / DAY
    customer = np.repeat(np.arange(len(expected)), rng.poisson(expected * busiest))
    at = arrived[customer] + rng.random(len(customer)) * (left - arrived)[customer]
    day = at // DAY
    year = 1 + config.year_swing * np.cos(2 * np.pi * (day - config.year_peak_day) / 365.25)
    rhythm = weekday[(day.astype(np.int64) + 3) % 7] * year  # 1970 began on a Thursday
    kept = rng.random(len(at)) * busiest < rhythm  # thinning
    customer, at = customer[kept], at_hours(at[kept], config, rng=rng)

    joined = to_seconds(truth.customers[SIGNED_UP_AT])
    joiners = np.flatnonzero(joined >= to_instant(config.starts_at))
    customer, at = np.concatenate([customer, joiners]), np.concatenate([at, joined[joiners]])
    there = (arrived[customer] <= at) & (at < left[customer])
    customer, at = customer[there], at[there]
    order = np.lexsort((customer, at))
    return _Visits(customer[order], at[order])


def _browse(truth: Truth, visits: _Visits, *, rng: np.random.Generator) -> _Lines:
    """What is looked at, carted and bought out of interest."""
    config = truth.config
    size = len(truth.products)
    follows = np.cumsum(truth.taste_weights, axis=1)[visits.customer, :-1]
    taste = (rng.random((len(follows), 1)) > follows).sum(axis=1)
    looks = 1 + rng.poisson(config.views_per_visit - 1, size=len(taste))
    checked_out = rng.random(len(taste)) < config.checkout_rate
    none = np.empty(0, dtype=np.int64)
    blocks = [(none, none, none > 0, none > 0)]
    for start in range(0, len(taste), _BLOCK):
        block = slice(start, start + _BLOCK)
        tastes = truth.tastes[visits.customer[block], taste[block]]
        row = np.repeat(np.arange(len(tastes)), looks[block])
        shares = truth.view_shares(tastes, at=visits.at[block])
        product = _draw(shares, row, rng=rng)
        row, product = np.divmod(np.unique(row * size + product), size)
        there = shares[row, product] > 0  # else nothing at all is on sale
        row, product = row[there], product[there]
        match = np.einsum("ij,ij->i", tastes[row], truth.product_factors[product])
        carted = rng.random(len(row)) < truth.cart_rate(match)
        visit = row + start
        blocks.append((visit, product, carted, carted & checked_out[visit]))
    return _Lines(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))


def _draw(shares: FloatArray, row: IntArray, *, rng: np.random.Generator) -> IntArray:
    """Draw a column by the probabilities of each given row."""
    cumulated = np.cumsum(shares, axis=1)
    cumulated[:, -1] = 1.0
    cumulated += np.arange(len(shares))[:, None]  # rows one after the other: a single ascending array
    position = np.searchsorted(cumulated.ravel(), row + rng.random(len(row)), side="right")
    column: IntArray = np.minimum(position - row * shares.shape[1], shares.shape[1] - 1)
    return column


def _buy_again(
    truth: Truth, visits: _Visits, browsed: _Lines, *, rng: np.random.Generator
) -> tuple[_Visits, _Lines, pd.DataFrame]:
    """Tell what is bought for the first time from what is bought again.

    Who has a product buys it out of interest less often. The first purchase of a consumable starts a cycle
    of renewals, each following the one before: in the next browsing visit if that comes soon, else in a
    visit of its own.

    Returns
    -------
    visits, lines
        With the renewals; new visits stand at the end.
    owned
        As in ``Truth``.
    """
    config = truth.config
    size = len(truth.products)
    left = _presence(truth)[1]
    period = truth.products[REPLENISH_DAYS].to_numpy() * DAY / math.gamma(1 + 1 / config.rebuy_shape)

    first = np.flatnonzero(browsed.bought)  # in order of time, so that unique finds the first of each pair
    pair = visits.customer[browsed.visit[first]] * size + browsed.product[first]
    first = first[np.unique(pair, return_index=True)[1]]
    still = rng.random(len(browsed.bought)) < config.again_rate
    still[first] = True
    customer, product = visits.customer[browsed.visit[first]], browsed.product[first]
    at, visit = visits.at[browsed.visit[first]], browsed.visit[first]
    renewals = [(customer, product, at, visit)]
    consumable = period[product] > 0
    customer, product, at = customer[consumable], product[consumable], at[consumable]

    by_customer = np.lexsort((visits.at, visits.customer))
    span = int(visits.at.max(initial=0)) + 1
    timeline = visits.customer[by_customer] * span + visits.at[by_customer]
    while len(customer):
        again = rng.random(len(customer)) < config.rebuy_rate
        customer, product, at = customer[again], product[again], at[again]
        wait = np.maximum(period[product] * rng.weibull(config.rebuy_shape, size=len(at)), DAY)
        due = at_hours(at + wait, config, rng=rng)
        position = np.searchsorted(timeline, customer * span + np.minimum(due, span - 1))
        visit = by_customer[np.minimum(position, len(by_customer) - 1)]
        delay = visits.at[visit] - due
        joins = (visits.customer[visit] == customer) & (delay >= 0)
        joins &= delay <= config.rebuy_patience_days * DAY
        at, visit = np.where(joins, visits.at[visit], due), np.where(joins, visit, -1)
        there = (at < left[customer]) & truth.on_sale(product, at=at)
        customer, product, at, visit = customer[there], product[there], at[there], visit[there]
        renewals.append((customer, product, at, visit))
    customer, product, at, visit = (np.concatenate(parts) for parts in zip(*renewals, strict=True))

    # renewals of one day that have no visit yet share one
    alone = np.flatnonzero(visit < 0)
    day, which = np.unique(customer[alone] * (span // DAY + 1) + at[alone] // DAY, return_inverse=True)
    began = np.full(len(day), np.iinfo(np.int64).max)
    np.minimum.at(began, which, at[alone])
    visitor = np.zeros(len(day), dtype=np.int64)
    visitor[which] = customer[alone]
    visit[alone] = len(visits.at) + which
    visits = _Visits(np.concatenate([visits.customer, visitor]), np.concatenate([visits.at, began]))

    sure = np.ones(len(visit), dtype=bool)
    lines = _Lines(
        np.concatenate([visit, browsed.visit]),
        np.concatenate([product, browsed.product]),
        np.concatenate([sure, browsed.carted]),
        np.concatenate([sure, browsed.bought & still]),
    )
    # a product both browsed and renewed in a visit is one line, the renewal (it stands first)
    lines = lines.take(np.unique(lines.visit * size + lines.product, return_index=True)[1])
    order = np.lexsort((product, customer, visits.at[visit]))
    owned = pd.DataFrame(
        {CUSTOMER_IDX: customer[order], PRODUCT_IDX: product[order], AT: to_times(visits.at[visit][order])}
    )
    return visits, lines, owned


def _presence(truth: Truth) -> tuple[IntArray, IntArray]:
    """Seconds since 1970 from which and until which each customer can do something in the history."""
    config = truth.config
    arrived = np.maximum(to_seconds(truth.customers[SIGNED_UP_AT]), to_instant(config.starts_at))
    left = np.minimum(to_seconds(truth.customers[ALIVE_UNTIL]), to_instant(config.ends_at))
    return arrived, left


def _record(
    truth: Truth,
    visits: _Visits,
    lines: _Lines,
    *,
    people: People,
    prices: FloatArray,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Write visits down as the ``interactions`` table, with channel, order, quantity and money."""
    config = truth.config
    order = np.lexsort((rng.random(len(lines.visit)), lines.visit))  # products are seen in any order
    lines = lines.take(order)
    visit, product = lines.visit, lines.product
    customer = visits.customer[visit]

    # looks are half a minute or more apart, a cart follows within that, the order after the last of them
    first = np.flatnonzero(np.diff(visit, prepend=-1))
    lengths = np.diff(first, append=len(visit))
    elapsed = np.cumsum(_LOOK_SECONDS + rng.geometric(1 / _LOOK_SECONDS, size=len(visit)))
    seen = visits.at[visit] + elapsed - np.repeat(elapsed[first], lengths)
    carted = seen + rng.integers(5, _LOOK_SECONDS, size=len(visit))
    checkout = _LOOK_SECONDS + rng.integers(_CHECKOUT_SECONDS, size=len(first))
    ordered = np.repeat(seen[first + lengths - 1] + checkout, lengths)

    weights = np.cumsum(people.channel_weights, axis=1)[visits.customer, :-1]
    channel = (rng.random((len(weights), 1)) > weights).sum(axis=1)[visit]
    online = channel != _STORE

    consumable = truth.products[REPLENISH_DAYS].to_numpy()[product] > 0
    further = np.where(consumable, config.extra_quantity, config.extra_quantity / 3)
    quantity = rng.geometric(1 - further)
    discount = rng.choice(config.discounts, size=len(visit))
    discount *= rng.random(len(visit)) < config.discount_share
    returned = lines.bought & (rng.random(len(visit)) < config.return_rate)
    wait = DAY + rng.gamma(2.0, config.return_days * DAY / 2, size=len(visit)).astype(np.int64)
    sent_back = 1 + np.floor(rng.random(len(visit)) * quantity).astype(np.int64)

    events = (  # the lines a kind happened to, when, and how many units (of all lines)
        (online, seen, quantity),  # VIEW
        (online & lines.carted, carted, quantity),  # CART
        (lines.bought, ordered, quantity),  # PURCHASE
        (returned, ordered + wait, sent_back),  # RETURN
    )
    line = np.concatenate([np.flatnonzero(chosen) for chosen, _, _ in events])
    kind = np.repeat(np.arange(len(events)), [chosen.sum() for chosen, _, _ in events])
    at = np.concatenate([when[chosen] for chosen, when, _ in events])
    units = np.concatenate([number[chosen] for chosen, _, number in events])

    # what would come after the customer left or the product was withdrawn does not happen
    real = (at < _presence(truth)[1][customer[line]]) & truth.on_sale(product[line], at=at)
    order = np.lexsort((product[line], kind, customer[line], at))
    order = order[real[order]]
    line, kind, at, units = line[order], kind[order], at[order], units[order]
    customer, product, visit = customer[line], product[line], visit[line]
    channel, discount = channel[line], discount[line]

    purchase = _FUNNEL.index(PURCHASE)
    traded = kind >= purchase
    numbered = pd.Index(pd.unique(visit[kind == purchase]))  # visits with an order, in order of time
    order_ids = np.array([f"o{number:07d}" for number in range(len(numbered))] + [None], dtype=object)
    stores = ("store-" + people.table[REGION]).to_numpy(dtype=object)
    return pd.DataFrame(
        {
            CUSTOMER_ID: people.table[CUSTOMER_ID].to_numpy(dtype=object)[customer],
            PRODUCT_ID: truth.products[PRODUCT_ID].to_numpy(dtype=object)[product],
            AT: to_times(at),
            KIND: np.array(_FUNNEL, dtype=object)[kind],
            QUANTITY: np.where(traded, units, 1).astype(float),
            VALUE: np.where(traded, np.round(prices[product] * units * (1 - discount), 2), 0.0),
            DISCOUNT: np.where(traded, discount, 0.0),
            ORDER_ID: order_ids[np.where(traded, numbered.get_indexer(pd.Index(visit)), -1)],
            CHANNEL: np.array(CHANNELS, dtype=object)[channel],
            STORE_ID: np.where(channel == _STORE, stores[customer], None),
        }
    )
