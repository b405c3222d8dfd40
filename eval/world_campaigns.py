"""Campaigns in the simulated shop: who is contacted by lot, and what it truly does to them.

The effect is heterogeneous. Contacts persuade some, do nothing to most, and put off a few ("sleeping dogs",
Radcliffe and Surry 2011, "Real-world uplift modelling with significance-based uplift trees"). Age, channel,
time of day and, with an offer, price sensitivity decide how much; all of them can be seen or learned. Both
potential outcomes (Rubin 1974) of every planned contact are drawn and kept in the truth: whether the customer
buys anything of the campaign's category within ``response_days``. Deliberately absent: fatigue and carry-over,
since the windows of two campaigns never overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from eval.world_baseline import baseline
from eval.world_cast import AGE_BAND, People
from eval.world_config import WorldConfig
from eval.world_consent import CONTACT_CHANNELS, Consent
from eval.world_ledger import Ledger
from eval.world_names import AGE_BANDS
from eval.world_time import DAY, FOREVER, HOUR, BoolArray, FloatArray, IntArray, to_instant, to_seconds
from eval.world_truth import PRICE_SENSITIVITY, Truth
from eval.world_visits import Visits, presence
from feature_repo.schema import SIGNED_UP_AT

NO_CONTACT: Final = "none"
MESSAGE: Final = "message"
OFFER: Final = "offer"
ARMS: Final = (NO_CONTACT, MESSAGE, OFFER)
SLOTS: Final = ("morning", "noon", "evening")

UNMOVED, PERSUADABLE, SLEEPING_DOG = range(3)
TEMPERS: Final = ("unmoved", "persuadable", "sleeping dog")

_HOURS = np.array([8, 12, 18])  # slots begin, and last two hours
_MIX = np.array([0.45, 0.2, 0.2, 0.15])  # of channels among those who consent to all
_REACHED = np.array([0.96, 0.98, 0.9, 0.7])  # share delivered; of calls, answered
_OPENED = np.array([0.55, 0.9, 0.6, 1.0])  # at the best time of the day
_INTRUSIVE = np.array([0.6, 1.0, 0.9, 1.0])  # to sleeping dogs
# youngest to oldest
_CHANNEL_FIT = np.array([np.linspace(0.8, 0.9, 6), np.linspace(0.9, 0.5, 6), np.linspace(1.0, 0.3, 6),
                         np.linspace(0.4, 1.0, 6)]).T  # fmt: skip
_SLOT_FIT = np.array([np.linspace(0.4, 1.0, 6), np.full(6, 0.8), np.linspace(1.0, 0.5, 6)]).T
_PERSUADABLE_BY_AGE = np.linspace(1.5, 0.5, 6)
_DOG_BY_AGE = np.linspace(0.4, 1.7, 6)
_PROPENSITIES = np.array([0.8, 0.5, 0.3])  # bought lately, bought, never bought
_LATELY_DAYS = 90
_LEAD_DAYS = 30


@dataclass(frozen=True, eq=False)
class Plan:
    """One campaign: its category (index), its first day (days since 1970), how its contacts were chosen."""

    number: int
    category: int
    day: int
    even: bool


@dataclass(frozen=True, eq=False)
class Planned:
    """The planned contacts of a campaign, a row each; see ``eval.world_contacts`` for what came of them.

    Attributes
    ----------
    customer, channel, slot, at, agent
        Whom (customer_idx), how (index of ``CONTACT_CHANNELS``), in which slot of the day, when (seconds
        since 1970), and by which agent if by phone.
    propensity
        Chance of being contacted.
    arm
        Index of ``ARMS``; 0 for the holdout.
    temper
        Index of ``TEMPERS``.
    delivers, opens
        Whether the contact would be delivered, and then opened, if made.
    persuaded, put_off
        Shape (contacts, arms): what each arm would do.
    chance
        Shape (contacts, arms): chance of a purchase under each arm.
    """

    customer: IntArray
    channel: IntArray
    slot: IntArray
    at: IntArray
    agent: IntArray
    propensity: FloatArray
    arm: IntArray
    temper: IntArray
    delivers: BoolArray
    opens: BoolArray
    persuaded: BoolArray
    put_off: BoolArray
    chance: FloatArray

    def actually(self, by_arm: BoolArray) -> BoolArray:
        """Return what holds under the arm that was drawn."""
        chosen: BoolArray = by_arm[np.arange(len(self.arm)), self.arm]
        return chosen


def make_plans(truth: Truth, category: IntArray) -> list[Plan]:
    """Choose the time and the category of each campaign; ``category`` is that of each product."""
    config = truth.config
    rng = config.chance("campaign plans")
    first, last = to_instant(config.starts_at) // DAY + 1, to_instant(config.ends_at) // DAY - 2
    gap = config.contact_days + config.response_days + 2
    lead = min(_LEAD_DAYS, (last - first) // 6)
    room = last - first - lead
    size = min(config.campaigns, room // gap)
    plans: list[Plan] = []
    for number in range(size):
        day = int(first + lead + number * (room // size))
        held = truth.shelf.stocked[truth.shelf.row(np.array([day * DAY, (day + gap) * DAY]))[0] :][:gap]
        sold = np.unique(category[held.all(axis=0)])
        fresh = np.setdiff1d(sold, [plan.category for plan in plans])
        choice = fresh if len(fresh) else sold
        if len(choice):
            plans.append(Plan(number, int(rng.choice(choice)), day, even=number % 3 == 0))
    return plans


def draw_tempers(people: People, config: WorldConfig) -> IntArray:
    """Draw how each customer takes contacts, as an index of ``TEMPERS``."""
    rng = config.chance("tempers")
    age = pd.Index(AGE_BANDS).get_indexer(pd.Index(people.table[AGE_BAND]))
    persuadable = np.minimum(config.persuadable_share * _PERSUADABLE_BY_AGE[age], 1.0)
    dog = np.minimum(config.sleeping_dog_share * _DOG_BY_AGE[age], 1.0 - persuadable)
    luck = rng.random(len(age))
    return np.where(
        luck < persuadable, PERSUADABLE, np.where(luck < persuadable + dog, SLEEPING_DOG, UNMOVED)
    )


def plan_contacts(
    plan: Plan,
    truth: Truth,
    people: People,
    visits: Visits,
    ledger: Ledger,
    *,
    consent: Consent,
    tempers: IntArray,
    skill: FloatArray,
    category: IntArray,
) -> Planned:
    """Draw the audience of a campaign, who of it is contacted, and what a contact would do to each.

    Parameters
    ----------
    plan
        The campaign.
    truth, people, visits, ledger
        The world up to now.
    consent
        As it stands before the campaign.
    tempers
        Shape (customers,): index of ``TEMPERS``.
    skill
        Shape (agents,): factor on the chance to persuade.
    category
        Shape (products,).
    """
    config = truth.config
    rng = config.chance(f"campaign {plan.number}")
    size = len(people.table)
    everyone = np.arange(size)
    slot = rng.integers(len(SLOTS), size=size)
    at = (plan.day + rng.integers(config.contact_days, size=size)) * DAY
    at = at + _HOURS[slot] * HOUR + rng.integers(2 * HOUR, size=size)
    agrees = np.stack(
        [consent.holds(everyone, np.full(size, ch), at=at) for ch in range(len(CONTACT_CHANNELS))], 1
    )
    wish = np.log(_MIX) + rng.gumbel(size=agrees.shape)
    channel = np.where(agrees, wish, -np.inf).argmax(axis=1)
    chosen = (to_seconds(people.table[SIGNED_UP_AT]) < plan.day * DAY) & agrees.any(axis=1)
    chosen &= rng.random(size) < config.audience_share
    agent = rng.integers(config.agents, size=size)
    luck = rng.random((size, 6))
    customer = np.flatnonzero(chosen)
    slot, at, channel, agent, luck = slot[chosen], at[chosen], channel[chosen], agent[chosen], luck[chosen]

    last = last_purchase(visits, ledger, size, before=plan.day * DAY)[customer]
    band = np.where(last == 0, 2, np.where(last >= (plan.day - _LATELY_DAYS) * DAY, 0, 1))
    propensity = np.full(len(customer), 0.5) if plan.even else _PROPENSITIES[band]
    arm = np.where(luck[:, 0] < propensity, np.where(luck[:, 1] < 0.5, 1, 2), 0)

    age = pd.Index(AGE_BANDS).get_indexer(pd.Index(people.table[AGE_BAND]))[customer]
    temper = tempers[customer]
    phone = channel == CONTACT_CHANNELS.index("phone")
    until = at + config.response_days * DAY
    there = presence(truth)[1][customer] > until
    best_time = _SLOT_FIT[age, slot]
    opening = np.where(phone, 1.0, _OPENED[channel] * best_time) * there
    sensitivity = truth.customers[PRICE_SENSITIVITY].to_numpy()[customer] / max(
        config.price_sensitivity, 1e-9
    )
    appeal = np.stack([0 * sensitivity, 0 * sensitivity + 0.7, 0.7 + 0.4 * np.minimum(sensitivity, 2.5)], 1)
    strength = config.persuasion * _CHANNEL_FIT[age, channel] * np.where(phone, skill[agent], 1.0)
    persuading = np.minimum(strength[:, None] * appeal, 0.95) * (temper == PERSUADABLE)[:, None]
    annoying = np.outer(config.putting_off * _INTRUSIVE[channel] * (temper == SLEEPING_DOG), [0, 1, 1])
    delivers, opens = luck[:, 2] < _REACHED[channel], luck[:, 3] < opening
    untouched = baseline(truth, customer, at=at, columns=np.flatnonzero(category == plan.category))
    reached = _REACHED[channel][:, None]
    chance = 1 - (1 - untouched[:, None] * (1 - reached * annoying)) * (
        1 - reached * opening[:, None] * persuading
    )
    return Planned(
        customer,
        channel,
        slot,
        at,
        np.where(phone, agent, -1),
        propensity,
        arm,
        temper,
        delivers,
        opens,
        persuaded=(delivers & opens)[:, None] & (luck[:, 4:5] < persuading),
        put_off=delivers[:, None] & (luck[:, 5:6] < annoying),
        chance=chance,
    )


def last_purchase(visits: Visits, ledger: Ledger, size: int, *, before: int) -> IntArray:
    """When each customer last bought before an instant, seconds since 1970; 0 if never."""
    bought = ledger.lines.bought & (ledger.ordered < before)
    last = np.zeros(size, dtype=np.int64)
    np.maximum.at(last, visits.customer[ledger.lines.visit[bought]], ledger.ordered[bought])
    return last


def within(planned: Planned, customer: IntArray, at: IntArray, *, days: int, size: int) -> IntArray:
    """For each event the row of the contact in whose window it falls, or -1.

    Parameters
    ----------
    planned
        The contacts; a customer has at most one.
    customer, at
        Shape (events,): customer_idx and seconds since 1970.
    days
        Length of the window.
    size
        Number of customers.
    """
    row_of = np.full(size, -1)
    row_of[planned.customer] = np.arange(len(planned.customer))
    row = row_of[customer]
    since = np.where(row >= 0, planned.at[row] if len(planned.at) else 0, FOREVER)
    inside = (row >= 0) & (at > since) & (at - since <= days * DAY)
    return np.where(inside, row, -1)
