"""How visits are written down: the ``interactions`` table with times, orders, quantities and money.

``Ledger`` holds everything about every line before it becomes rows, so that campaigns can still change what is
bought. Deliberately absent: what customers look at in stores, where only purchases and returns are recorded.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
import pandas as pd

from eval.world_cast import CHANNELS, REGION, People
from eval.world_config import WorldConfig
from eval.world_exposure import request_ids
from eval.world_names import REGIONS
from eval.world_time import DAY, BoolArray, FloatArray, IntArray, TextArray, to_times
from eval.world_truth import REPLENISH_DAYS, Truth
from eval.world_visits import STORE, Lines, Visits, presence
from feature_repo.schema import (
    AT,
    CART,
    CHANNEL,
    CUSTOMER_ID,
    CUSTOMER_IDX,
    DISCOUNT,
    KIND,
    ORDER_ID,
    PRICE,
    PRODUCT_ID,
    PRODUCT_IDX,
    PURCHASE,
    QUANTITY,
    REQUEST_ID,
    RETURN,
    STORE_ID,
    VALUE,
    VIEW,
)

FUNNEL: Final = (VIEW, CART, PURCHASE, RETURN)
_LOOK_SECONDS = 25
_CHECKOUT_SECONDS = 300


@dataclass(frozen=True, eq=False)
class Ledger:
    """Lines in order of their visit, with when each step happened and what was paid.

    Attributes
    ----------
    seen, carted, ordered, returned
        Seconds since 1970 of the steps of each line, whether or not it came to them.
    sent_back
        Whether the line, if bought, is sent back, and
    quantity, units_back
        how many units are bought and sent back.
    discount
        Share of the price that is not paid.
    """

    lines: Lines
    seen: IntArray
    carted: IntArray
    ordered: IntArray
    returned: IntArray
    sent_back: BoolArray
    quantity: IntArray
    units_back: IntArray
    discount: FloatArray

    def after(self, earlier: Ledger, visits: int) -> Ledger:
        """Return these lines behind those of another ledger, which has so many visits."""
        mine, theirs = replace(self.lines, visit=self.lines.visit + visits), earlier.lines
        joined = Lines(
            *(np.concatenate([getattr(theirs, f.name), getattr(mine, f.name)]) for f in fields(Lines))
        )
        own = [f.name for f in fields(Ledger) if f.name != "lines"]
        return Ledger(
            joined,
            **{name: np.concatenate([getattr(earlier, name), getattr(self, name)]) for name in own},
        )


def keep_time(truth: Truth, visits: Visits, lines: Lines, *, rng: np.random.Generator) -> Ledger:
    """Draw when everything in the visits happened, how much was bought, and what is sent back."""
    config = truth.config
    lines = lines.take(np.lexsort((rng.random(len(lines.visit)), lines.visit)))  # seen in any order
    visit = lines.visit
    size = len(visit)

    # looks are half a minute or more apart, a cart follows within that, the order after the last of them
    first = np.flatnonzero(np.diff(visit, prepend=-1))
    lengths = np.diff(first, append=size)
    elapsed = np.cumsum(_LOOK_SECONDS + rng.geometric(1 / _LOOK_SECONDS, size=size))
    seen = visits.at[visit] + elapsed - np.repeat(elapsed[first], lengths)
    checkout = _LOOK_SECONDS + rng.integers(_CHECKOUT_SECONDS, size=len(first))
    ordered = np.repeat(seen[first + lengths - 1] + checkout, lengths)

    consumable = truth.products[REPLENISH_DAYS].to_numpy()[lines.product] > 0
    further = np.where(consumable, config.extra_quantity, config.extra_quantity / 3)
    quantity = rng.geometric(1 - further)
    wait = DAY + rng.gamma(2.0, config.return_days * DAY / 2, size=size).astype(np.int64)
    return Ledger(
        lines,
        seen=seen,
        carted=seen + rng.integers(5, _LOOK_SECONDS, size=size),
        ordered=ordered,
        returned=ordered + wait,
        sent_back=rng.random(size) < config.return_rate,
        quantity=quantity,
        units_back=1 + np.floor(rng.random(size) * quantity).astype(np.int64),
        discount=visits.coupon[visit],
    )


def owned(ledger: Ledger, visits: Visits) -> pd.DataFrame:
    """Return the first purchase of each pair and each renewal, as in ``Truth``."""
    chosen = np.flatnonzero(ledger.lines.owns & ledger.lines.bought)
    visit, product = ledger.lines.visit[chosen], ledger.lines.product[chosen]
    customer, at = visits.customer[visit], visits.at[visit]
    order = np.lexsort((product, customer, at))
    return pd.DataFrame({CUSTOMER_IDX: customer[order], PRODUCT_IDX: product[order], AT: to_times(at[order])})


@dataclass(frozen=True, eq=False)
class Written:
    """The ``interactions`` table and the keys (visit · products + product) of the views in it, ascending."""

    interactions: pd.DataFrame
    viewed: IntArray


def write_down(truth: Truth, people: People, visits: Visits, ledger: Ledger, *, clicked: IntArray) -> Written:
    """Write the ledger down as the ``interactions`` table.

    Parameters
    ----------
    truth, people, visits, ledger
        All that happened.
    clicked
        Ascending keys (visit · products + product) of looks that a shown list brought: they, and the
        purchases that followed, carry the ``request_id`` of the list.
    """
    config, lines = truth.config, ledger.lines
    online = visits.channel[lines.visit] != STORE
    events = (  # the lines that a kind happened to, and when
        (online, ledger.seen),  # VIEW
        (online & lines.carted, ledger.carted),  # CART
        (lines.bought, ledger.ordered),  # PURCHASE
        (lines.bought & ledger.sent_back, ledger.returned),  # RETURN
    )
    line = np.concatenate([np.flatnonzero(chosen) for chosen, _ in events])
    kind = np.repeat(np.arange(len(events)), [chosen.sum() for chosen, _ in events])
    at = np.concatenate([when[chosen] for chosen, when in events])

    # what would come after the customer left does not happen, and nothing can be had that is not on sale
    real = at < presence(truth)[1][visits.customer[lines.visit[line]]]
    real &= (kind == FUNNEL.index(RETURN)) | truth.on_sale(lines.product[line], at=at)
    line, kind, at = line[real], kind[real], at[real]
    customer = visits.customer[lines.visit[line]]
    order = np.lexsort((lines.product[line], kind, customer, at))
    line, kind, at, customer = line[order], kind[order], at[order], customer[order]
    product, visit = lines.product[line], lines.visit[line]
    real_order = np.zeros(len(lines.visit), dtype=bool)
    real_order[line[kind == FUNNEL.index(PURCHASE)]] = True
    lost = (kind == FUNNEL.index(RETURN)) & ~real_order[line]  # of an order that did not happen
    if lost.any():
        kept = ~lost
        line, kind, at, customer = line[kept], kind[kept], at[kept], customer[kept]
        product, visit = product[kept], visit[kept]

    traded = kind >= FUNNEL.index(PURCHASE)
    units = np.where(kind == FUNNEL.index(RETURN), ledger.units_back[line], ledger.quantity[line])
    # a return gives back what was paid: the price of the order's day, not of the return's
    prices = truth.products[PRICE].to_numpy()[product]
    prices = np.round(prices * truth.shelf.price[truth.shelf.row(ledger.ordered[line]), product], 2)
    discount = ledger.discount[line]
    value = np.where(traded, np.round(prices * units * (1 - discount), 2), 0.0)

    key = visit * len(truth.products) + product
    channel = visits.channel[visit]
    table = pd.DataFrame(
        {
            CUSTOMER_ID: truth.customers[CUSTOMER_ID].to_numpy(dtype=object)[customer],
            PRODUCT_ID: truth.products[PRODUCT_ID].to_numpy(dtype=object)[product],
            AT: to_times(at),
            KIND: np.array(FUNNEL, dtype=object)[kind],
            QUANTITY: np.where(traded, units, 1).astype(float),
            VALUE: value,
            DISCOUNT: discount,
            ORDER_ID: _orders(visit, kind),
            CHANNEL: np.array(CHANNELS, dtype=object)[channel],
            STORE_ID: np.where(channel == STORE, _stores(visits, people, config)[visit], None),
            REQUEST_ID: _requests(visit, np.isin(key, clicked) & (kind < FUNNEL.index(RETURN))),
        }
    )
    return Written(table, np.unique(key[kind == FUNNEL.index(VIEW)]))


def _orders(visit: IntArray, kind: IntArray) -> TextArray:
    """Number the visits with a purchase in order of time; rows come in order of time."""
    numbers = np.full(int(visit.max(initial=0)) + 1, -1)
    buying = pd.unique(visit[kind == FUNNEL.index(PURCHASE)])
    numbers[buying] = np.arange(len(buying))
    ids = np.array([f"o{number:07d}" for number in range(len(buying))] + [None], dtype=object)
    orders: TextArray = ids[np.where(kind >= FUNNEL.index(PURCHASE), numbers[visit], -1)]
    return orders


def _requests(visit: IntArray, through_list: BoolArray) -> TextArray:
    ids = np.full(len(visit), None, dtype=object)
    ids[through_list] = request_ids(visit[through_list])
    return ids


def _stores(visits: Visits, people: People, config: WorldConfig) -> TextArray:
    """The store of each visit if it were in one: mostly the customer's nearest, always of the region."""
    rng = config.chance("stores")
    region = pd.Index(REGIONS).get_indexer(pd.Index(people.table[REGION]))
    each = config.stores_per_region
    nearest = rng.integers(each, size=len(region))
    # drawn by the second of the visit, so that visits that campaigns add or take away change no other
    luck = (visits.at * 2_654_435_761 + visits.customer * 40_503) % 2**32 / 2**32
    elsewhere = np.floor(luck / max(1 - config.home_store, 1e-12) * each).astype(np.int64)
    number = np.where(luck < 1 - config.home_store, elsewhere, nearest[visits.customer])
    names = np.array([[f"store-{name}-{n + 1}" for n in range(each)] for name in REGIONS], dtype=object)
    chosen: TextArray = names[region[visits.customer], np.minimum(number, each - 1)]
    return chosen
