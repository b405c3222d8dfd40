"""What contacts change in the history of the simulated shop.

Whoever is persuaded makes a visit more, whoever is put off does not buy in the category while the window lasts,
and who opens an offer pays less there. Deliberately absent: the drawing of audiences and effects
(``eval.world_campaigns``) and what is told of it all (``eval.world_contacts``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from eval.world_campaigns import (
    Planned,
    draw_tempers,
    make_plans,
    plan_contacts,
    within,
)
from eval.world_cast import People
from eval.world_consent import Consent
from eval.world_contacts import (
    SKILL,
    STOP,
    Course,
    answers,
    describe,
    effects_of,
    nothing,
)
from eval.world_ledger import Ledger, keep_time
from eval.world_names import CATEGORIES
from eval.world_time import DAY, HOUR, BoolArray, IntArray, at_hours
from eval.world_truth import APPEAL, Truth
from eval.world_visits import Lines, Visits, equip, presence
from feature_repo.schema import (
    AGENT_ID,
    AT,
    CATEGORY,
    CUSTOMER_ID,
    REASON,
    RESPONDED_AT,
)

_CLOSING = 2 * HOUR  # a visit must begin so long before the window ends


@dataclass(frozen=True, eq=False)
class Campaigned:
    """The world after its campaigns: what changed in it, and what is known of them."""

    visits: Visits
    ledger: Ledger
    consent: Consent
    campaigns: pd.DataFrame
    contacts: pd.DataFrame
    effects: pd.DataFrame
    agents: pd.DataFrame


def run_campaigns(
    truth: Truth, people: People, visits: Visits, ledger: Ledger, consent: Consent
) -> Campaigned:
    """Run one campaign after the other over the history.

    Parameters
    ----------
    truth
        The world, ``owned`` included.
    people, visits, ledger, consent
        What would happen without campaigns.
    """
    config = truth.config
    category = pd.Index([kind.name for kind in CATEGORIES]).get_indexer(pd.Index(truth.products[CATEGORY]))
    tempers = draw_tempers(people, config)
    skill = config.chance("agents").lognormal(0.0, config.agent_spread, size=config.agents)
    agents = pd.DataFrame({AGENT_ID: [f"agent-{n + 1:02d}" for n in range(config.agents)], SKILL: skill})
    told: list[tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]] = []
    for plan in make_plans(truth, category):
        planned = plan_contacts(
            plan,
            truth,
            people,
            visits,
            ledger,
            consent=consent,
            tempers=tempers,
            skill=skill,
            category=category,
        )
        rng = config.chance(f"campaign {plan.number}, course")
        course = Course.of(planned, rng=rng)
        in_category = np.flatnonzero(category == plan.category)
        row = windows(truth, planned, visits, ledger, category == plan.category)
        bought = np.zeros(len(planned.at), dtype=bool)
        bought[row[(row >= 0) & ledger.lines.bought]] = True
        outcomes = (bought[:, None] & ~planned.put_off) | planned.persuaded
        ledger = _change(planned, course, ledger, row, discount=config.offer_discount)
        visits, ledger = _extra_visits(truth, people, planned, course, visits, ledger, in_category, rng=rng)
        row = windows(truth, planned, visits, ledger, category == plan.category)
        contacts = answers(truth, planned, course, visits, ledger, row, plan=plan, agents=agents, rng=rng)
        stops = np.flatnonzero((contacts[REASON] == STOP).to_numpy())
        moments = contacts[RESPONDED_AT].iloc[stops].dt.as_unit("s").astype("int64").to_numpy() + 1
        consent = consent.withdrawn(planned.customer[stops], planned.channel[stops], at=moments)
        told.append(
            (describe(plan, truth, in_category), contacts, effects_of(plan, truth, planned, outcomes))
        )
    if not told:
        return Campaigned(visits, ledger, consent, *nothing(), agents)
    tables = [pd.concat(parts, ignore_index=True) for parts in zip(*told, strict=True)]
    tables[1] = tables[1].sort_values([AT, CUSTOMER_ID], ignore_index=True)
    return Campaigned(visits, ledger, consent, tables[0], tables[1], tables[2], agents)


def windows(truth: Truth, planned: Planned, visits: Visits, ledger: Ledger, chosen: BoolArray) -> IntArray:
    """For each line the contact in whose window it is ordered, -1 if none or not of the category."""
    lines = ledger.lines
    candidates = np.flatnonzero(lines.bought & chosen[lines.product])
    at, customer = ledger.ordered[candidates], visits.customer[lines.visit[candidates]]
    real = (at < presence(truth)[1][customer]) & truth.on_sale(lines.product[candidates], at=at)
    candidates, at, customer = candidates[real], at[real], customer[real]
    row = np.full(len(lines.visit), -1)
    row[candidates] = within(
        planned, customer, at, days=truth.config.response_days, size=len(truth.customers)
    )
    return row


def _change(planned: Planned, course: Course, ledger: Ledger, row: IntArray, *, discount: float) -> Ledger:
    """Take away what those who were put off would have bought, and give offers to those who opened them."""
    inside = np.flatnonzero(row >= 0)
    contact = row[inside]
    bought = ledger.lines.bought.copy()
    bought[inside[planned.actually(planned.put_off)[contact]]] = False
    redeemed = inside[(planned.arm[contact] == 2) & (ledger.ordered[inside] > course.opened[contact])]
    given = ledger.discount.copy()
    given[redeemed] = np.maximum(given[redeemed], discount)
    return replace(ledger, lines=replace(ledger.lines, bought=bought), discount=given)


def _extra_visits(
    truth: Truth,
    people: People,
    planned: Planned,
    course: Course,
    visits: Visits,
    ledger: Ledger,
    columns: IntArray,
    *,
    rng: np.random.Generator,
) -> tuple[Visits, Ledger]:
    """Let the persuaded come and buy one or two products of the category."""
    config = truth.config
    rows = np.flatnonzero(planned.actually(planned.persuaded))
    if not len(rows):
        return visits, ledger
    latest = planned.at[rows] + config.response_days * DAY - _CLOSING
    opened = course.opened[rows]
    wait = rng.exponential(2.5 * DAY, size=len(rows)).astype(np.int64) + 60
    at = at_hours(opened + wait, config, rng=rng)
    at = np.where((at > opened) & (at < latest), at, np.minimum(opened + wait % DAY + 60, latest))
    customer = planned.customer[rows]
    days = truth.shelf.row(np.array([planned.at.min(), planned.at.max() + config.response_days * DAY]))
    lasting = columns[truth.shelf.stocked[days[0] : days[1] + 1, columns].all(axis=0)]

    liking = np.einsum("ct,ctf->cf", truth.taste_weights[customer], truth.tastes[customer])
    logits = config.sharpness * liking @ truth.product_factors[lasting].T
    logits += truth.products[APPEAL].to_numpy()[lasting]
    ranked = np.argsort(-(logits + rng.gumbel(size=logits.shape)), axis=1)
    each = np.minimum(1 + rng.poisson(0.4, size=len(rows)), len(lasting))
    visit = np.repeat(np.arange(len(rows)), each)
    place = np.arange(len(visit)) - np.repeat(np.cumsum(each) - each, each)
    product = lasting[ranked[visit, place]]

    more = equip(customer, at, people, config, rng=rng)
    more = replace(more, coupon=np.where(planned.arm[rows] == 2, config.offer_discount, 0.0))
    pair = visits.customer[ledger.lines.visit] * len(truth.products) + ledger.lines.product
    owns = ~np.isin(customer[visit] * len(truth.products) + product, pair[ledger.lines.bought])
    sure = np.ones(len(visit), dtype=bool)
    entries = keep_time(truth, more, Lines(visit, product, sure, sure, owns), rng=rng)
    return visits + more, entries.after(ledger, len(visits.at))
