"""Dated facts about customers: balance, income and visits to the app, month by month.

They speak of what is hidden. Income follows wealth and age; the balance follows income and rises in the month
before a customer orders, in proportion to what they will pay; app visits follow how active a customer is, and
end when they leave. Everybody who signed up has them, also who never bought. Deliberately absent: any effect of
measures on what customers do.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from eval.world_cast import AGE_BAND, CHANNELS, People
from eval.world_ledger import Ledger
from eval.world_names import AGE_BANDS
from eval.world_time import DAY, FloatArray, IntArray, to_instant, to_seconds, to_times
from eval.world_truth import ALIVE_UNTIL, VISITS_PER_DAY, WEALTH, Truth
from eval.world_visits import Visits
from feature_repo.schema import AT, CUSTOMER_ID, NAME, PRICE, SIGNED_UP_AT, VALUE

BALANCE: Final = "balance"
INCOME: Final = "income"
APP_VISITS: Final = "app_visits"
MONTH: Final = 30 * DAY
"""Seconds between two readings."""

_INCOME_BY_AGE = np.array([1500.0, 2300.0, 2900.0, 3200.0, 3000.0, 1900.0])
_APP_PER_VISIT = 4.0  # openings of the app a browsing visit, by those who use nothing else
_REVIEW_MONTHS = 12  # between two readings of the income


def make_measures(truth: Truth, people: People, visits: Visits, ledger: Ledger) -> pd.DataFrame:
    """Return the ``measures`` table in order of time.

    Parameters
    ----------
    truth, people
        Customers and what is hidden of them.
    visits, ledger
        What they did.
    """
    config = truth.config
    rng = config.chance("measures")
    start, end = to_instant(config.starts_at), to_instant(config.ends_at)
    signed_up = to_seconds(truth.customers[SIGNED_UP_AT])
    size = len(signed_up)
    first = np.maximum(signed_up, start) + rng.integers(1, MONTH, size=size)
    readings = np.maximum(-((first - end) // MONTH), 0)  # all that come before the end
    # who joined in the last weeks is read once, on joining
    first = np.where(readings == 0, np.maximum(signed_up, start), first)
    readings = np.maximum(readings, 1)
    customer = np.repeat(np.arange(size), readings)
    turn = np.arange(len(customer)) - np.repeat(np.cumsum(readings) - readings, readings)
    at = first[customer] + turn * MONTH

    age = pd.Index(AGE_BANDS).get_indexer(pd.Index(people.table[AGE_BAND]))
    usual = _INCOME_BY_AGE[age] * np.exp(0.35 * truth.customers[WEALTH].to_numpy())
    raised = np.exp(0.03 * (turn // _REVIEW_MONTHS))
    income = np.round(usual[customer] * raised * np.exp(0.02 * rng.standard_normal(len(customer))), 0)

    ahead = _spent_within(visits, ledger, truth, customer, at)
    typical = np.mean(ahead[ahead > 0]) if (ahead > 0).any() else 1.0
    rise = config.balance_rise * np.minimum(ahead / typical, 2.0)
    level = usual * rng.lognormal(0.0, 0.5, size=size)
    balance = level[customer] * np.exp(0.25 * rng.standard_normal(len(customer))) * (1 + rise)

    there = at < to_seconds(truth.customers[ALIVE_UNTIL])[customer]
    habit = people.channel_weights[:, CHANNELS.index("app")]
    rate = 30 * truth.customers[VISITS_PER_DAY].to_numpy() * habit * _APP_PER_VISIT
    app = rng.poisson(rate[customer] * there)

    yearly = turn % _REVIEW_MONTHS == 0
    who = np.concatenate([customer, customer[yearly], customer])
    when = np.concatenate([at, at[yearly], at])
    name = np.repeat([0, 1, 2], [len(customer), int(yearly.sum()), len(customer)])
    value = np.concatenate([np.round(balance, 2), income[yearly], app.astype(float)])
    order = np.lexsort((name, who, when))
    ids = truth.customers[CUSTOMER_ID].to_numpy(dtype=object)
    return pd.DataFrame(
        {
            CUSTOMER_ID: ids[who[order]],
            AT: to_times(when[order]),
            NAME: np.array([BALANCE, INCOME, APP_VISITS], dtype=object)[name[order]],
            VALUE: value[order],
        }
    )


def _spent_within(
    visits: Visits, ledger: Ledger, truth: Truth, customer: IntArray, at: IntArray
) -> FloatArray:
    """Money each customer will spend in the month after each instant, at prices of the launch."""
    lines = ledger.lines
    bought = np.flatnonzero(lines.bought)
    who, when = visits.customer[lines.visit[bought]], ledger.ordered[bought]
    paid = truth.products[PRICE].to_numpy()[lines.product[bought]] * ledger.quantity[bought]
    order = np.lexsort((when, who))
    span = int(max(when.max(initial=0), at.max(initial=0))) + MONTH + 1
    timeline = who[order] * span + when[order]
    total = np.concatenate([[0.0], np.cumsum(paid[order])])
    key = customer * span + at
    spent: FloatArray = total[np.searchsorted(timeline, key + MONTH)] - total[np.searchsorted(timeline, key)]
    return np.maximum(spent, 0.0)
