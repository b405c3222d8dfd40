"""What happens in visits to the simulated shop: what is looked at and bought, and what is bought again.

Every step works on arrays of all customers at once; only blocks of visits of one day, and the rounds of
renewals, are gone through one after the other. Deliberately absent: what campaigns change
(``eval.world_campaigns``) and how it is all written down (``eval.world_ledger``).
"""

from __future__ import annotations

import math

import numpy as np

from eval.world_cast import People
from eval.world_exposure import Shown, choose_lists, draw, show
from eval.world_time import DAY, at_hours
from eval.world_truth import LOOKS_PER_VISIT, PRICE_SENSITIVITY, REPLENISH_DAYS, Truth
from eval.world_visits import Lines, Visits, equip, presence

_BLOCK = 1 << 20  # entries of a dense (visits, products) matrix held at once


def browse(truth: Truth, visits: Visits) -> tuple[Lines, Shown]:
    """What is looked at, carted and bought out of interest, and the lists that were shown.

    Lists have a stream of chance of their own and change nothing of what is looked at.
    """
    config = truth.config
    rng, shop = config.chance("browsing"), config.chance("lists")
    hidden = truth.customers
    size = len(truth.products)
    follows = np.cumsum(truth.taste_weights, axis=1)[visits.customer, :-1]
    taste = (rng.random((len(follows), 1)) > follows).sum(axis=1)
    mean = hidden[LOOKS_PER_VISIT].to_numpy()[visits.customer] - 1
    mean = mean * rng.gamma(config.views_shape, 1 / config.views_shape, size=len(mean))
    looks = 1 + rng.poisson(mean)
    checked_out = rng.random(len(taste)) < config.checkout_rate
    sensitivity = hidden[PRICE_SENSITIVITY].to_numpy()
    listed = choose_lists(visits, config, rng=shop)

    none = np.empty(0, dtype=np.int64)
    blocks = [(none, none, none > 0)]
    shown = [Shown.nothing()]
    day = visits.at // DAY
    starts = np.flatnonzero(np.diff(day, prepend=-1))
    ends = np.append(starts, len(day))[1:]
    step = max(1, _BLOCK // size)
    for start, end in (
        (at, min(at + step, until))
        for since, until in zip(starts, ends, strict=True)
        for at in range(since, until, step)
    ):
        block = slice(start, end)
        now = int(day[start]) * DAY
        if not truth.shelf.stocked[truth.shelf.row(np.array(now))].any():
            continue
        customer = visits.customer[block]
        tastes = truth.tastes[customer, taste[block]]
        weights = truth.weights(tastes, at=now)
        cumulated = np.cumsum(weights, dtype=np.float64)
        row = np.repeat(np.arange(len(tastes)), looks[block])
        product = draw(cumulated, size, row, rng=rng)
        row, product = np.divmod(np.unique(row * size + product), size)
        there = weights[row, product] > 0  # rounding could choose what cannot be chosen
        row, product = row[there], product[there]
        match = np.einsum("ij,ij->i", tastes[row], truth.product_factors[product])
        cut = truth.price_cut(product, at=np.array(now))
        pull = sensitivity[customer[row]] * (1 - (1 - cut) * (1 - visits.coupon[block][row]))
        carted = rng.random(len(row)) < truth.cart_rate(match, pull=pull)
        blocks.append((row + start, product, carted))
        if listed[block].any():
            rows = np.flatnonzero(listed[block])
            shown.append(show(truth, weights, cumulated, rows, looks[block], first=start, rng=shop))
    visit, product, carted = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    lines = Lines(visit, product, carted, carted & checked_out[visit], carted & False)
    return lines, Shown.joined(shown)


def buy_again(truth: Truth, visits: Visits, browsed: Lines, people: People) -> tuple[Visits, Lines]:
    """Tell what is bought for the first time from what is bought again.

    Who has a product buys it out of interest less often. The first purchase of a consumable starts a cycle
    of renewals, each following the one before: in the next browsing visit if that comes soon, else in a
    visit of its own.

    Returns
    -------
    visits, lines
        With the renewals; new visits stand at the end.
    """
    config = truth.config
    rng = config.chance("renewals")
    size = len(truth.products)
    left = presence(truth)[1]
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
        there &= joins | (rng.random(len(at)) < config.rebuy_trip_rate)
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

    sure = np.ones(len(visit), dtype=bool)
    lines = Lines(
        np.concatenate([visit, browsed.visit]),
        np.concatenate([product, browsed.product]),
        np.concatenate([sure, browsed.carted]),
        np.concatenate([sure, browsed.bought & still]),
        np.concatenate([sure, browsed.owns]),
    )
    # a product both browsed and renewed in a visit is one line, the renewal (it stands first)
    lines = lines.take(np.unique(lines.visit * size + lines.product, return_index=True)[1])
    return visits + equip(visitor, began, people, config, rng=rng), lines
