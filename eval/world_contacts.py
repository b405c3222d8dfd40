"""What is told of campaigns: the tables ``campaigns`` and ``contacts``, and the truth about their effects.

Who opens a message may click, think it over, refuse with a reason, or buy; the last is read from the history as
it became. Deliberately absent: the drawing of audiences and effects (``eval.world_campaigns``) and what contacts
change in the history (``eval.world_outcomes``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from eval.world_campaigns import (
    ARMS,
    PERSUADABLE,
    SLEEPING_DOG,
    SLOTS,
    TEMPERS,
    Plan,
    Planned,
)
from eval.world_cast import CHANNELS
from eval.world_consent import CONTACT_CHANNELS, PHONE
from eval.world_ledger import Ledger
from eval.world_names import CATEGORIES
from eval.world_time import DAY, FOREVER, HOUR, BoolArray, FloatArray, IntArray, TextArray, to_times
from eval.world_truth import PRICE_SENSITIVITY, Truth
from eval.world_visits import Visits
from feature_repo.schema import (
    AGENT_ID,
    ARM,
    AT,
    CAMPAIGN_ID,
    CATEGORY,
    CHANNEL,
    COST,
    CUSTOMER_ID,
    DELIVERED_AT,
    ENDS_AT,
    GROUP,
    NAME,
    OFFER,
    OPENED_AT,
    PRICE,
    PROPENSITY,
    REASON,
    RESPONDED_AT,
    RESPONSE,
    RESPONSE_CHANNEL,
    REWARD,
    SENT_AT,
    STARTS_AT,
    VALUE,
)

TARGET: Final = "target"
HOLDOUT: Final = "holdout"
NONE, CLICK, CONSIDERING, REFUSED, BOUGHT = RESPONSES = (
    "none",
    "click",
    "considering",
    "refused",
    "purchase",
)
STOP: Final = "asked not to be contacted"
SLOT: Final = "slot"
TEMPER: Final = "temper"
SKILL: Final = "skill"
EFFECT_COLUMNS: Final = (
    CAMPAIGN_ID,
    CUSTOMER_ID,
    CHANNEL,
    SLOT,
    AT,
    PROPENSITY,
    ARM,
    TEMPER,
    *(f"chance_{arm}" for arm in ARMS),
    *(f"bought_{arm}" for arm in ARMS),
)
"""Of ``Truth.effects``: what was planned; the chance of a purchase in the category within ``response_days``
under each arm; and both potential outcomes, of which the tables show the one of ``arm``."""

_REASONS: Final = ("too expensive", "no need", "bad timing", "buys elsewhere", STOP)
_COSTS = np.array([0.02, 0.07, 0.01, 3.5])  # of a contact, by channel
_OPENING_SECONDS = np.array([4 * HOUR, 600, 1200, 1])
_LATEST_OPENING = 2 * DAY


@dataclass(frozen=True, eq=False)
class Course:
    """When the contacts of a campaign were sent, delivered, opened (``FOREVER``: never) and acted upon."""

    sent: IntArray
    delivered: IntArray
    opened: IntArray

    @classmethod
    def of(cls, planned: Planned, *, rng: np.random.Generator) -> Course:
        """Draw what becomes of each planned contact if it is made."""
        size = len(planned.at)
        targeted = planned.arm > 0
        sent = planned.at + rng.integers(300, size=size)
        delivered = sent + rng.integers(1, 60, size=size)
        wait = rng.exponential(_OPENING_SECONDS[planned.channel], size=size).astype(np.int64)
        opened = delivered + np.minimum(wait + 1, _LATEST_OPENING)
        reached = targeted & planned.delivers
        return cls(
            np.where(targeted, sent, FOREVER),
            np.where(reached, delivered, FOREVER),
            np.where(reached & planned.opens, opened, FOREVER),
        )


def answers(
    truth: Truth,
    planned: Planned,
    course: Course,
    visits: Visits,
    ledger: Ledger,
    row: IntArray,
    *,
    plan: Plan,
    agents: pd.DataFrame,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Return the rows of the ``contacts`` table.

    Parameters
    ----------
    truth, planned, course
        The contacts.
    visits, ledger
        What happened.
    row
        Shape (lines,): the contact in whose window a line of the category was ordered, or -1.
    plan, agents
        The campaign, and who makes its calls.
    rng
        Source of chance.
    """
    size = len(planned.at)
    opened = course.opened < FOREVER
    phone = planned.channel == CONTACT_CHANNELS.index(PHONE)

    line = np.flatnonzero(row >= 0)
    line = line[ledger.ordered[line] > course.opened[row[line]]]
    line = line[np.argsort(ledger.ordered[line], kind="stable")]
    buyers, first = np.unique(row[line], return_index=True)
    order_at, order_visit = np.full(size, FOREVER), np.full(size, -1)
    order_at[buyers] = ledger.ordered[line[first]]
    order_visit[buyers] = ledger.lines.visit[line[first]]
    paid, saved = _money(truth, ledger, line)
    of_order = ledger.lines.visit[line] == order_visit[row[line]]
    value = np.bincount(row[line][of_order], weights=paid[of_order], minlength=size)
    is_offer = (planned.arm == 2)[row[line]]
    reward = np.bincount(row[line], weights=saved * is_offer, minlength=size)

    persuaded = planned.actually(planned.persuaded)
    dog, persuadable = planned.temper == SLEEPING_DOG, planned.temper == PERSUADABLE
    luck = rng.random((size, 3))
    refuses = opened & ~persuaded & (luck[:, 0] < np.where(dog, 0.35, 0.04) * np.where(phone, 2.0, 1.0))
    considers = opened & (luck[:, 1] < np.where(persuadable, 0.3, 0.03) * np.where(phone, 1.5, 1.0))
    clicks = opened & ~phone & (luck[:, 2] < np.where(persuadable, 0.4, 0.12))
    answer = np.select([refuses, order_at < FOREVER, considers, clicks], [3, 4, 2, 1], 0)
    pause = np.where(phone, rng.integers(60, 600, size=size), rng.integers(5, 6 * HOUR, size=size))
    replied = np.select(
        [answer == 0, answer == 4],
        [np.full(size, FOREVER), order_at],
        np.where(opened, course.opened, 0) + pause,
    )
    bought = answer == 4
    shops = np.array([*CHANNELS, None], dtype=object)
    where = shops[np.append(visits.channel, len(CHANNELS))[order_visit]]  # the last stands for no visit
    own = np.array(CONTACT_CHANNELS, dtype=object)[planned.channel]
    targeted = planned.arm > 0
    nobody = np.array(None, dtype=object)
    offer = f"{truth.config.offer_discount:.0%} off {CATEGORIES[plan.category].name}"
    return pd.DataFrame(
        {
            CAMPAIGN_ID: _campaign_id(plan),
            CUSTOMER_ID: truth.customers[CUSTOMER_ID].to_numpy(dtype=object)[planned.customer],
            CHANNEL: own,
            AT: to_times(planned.at),
            GROUP: _text(targeted, TARGET, HOLDOUT),
            ARM: np.array(ARMS, dtype=object)[planned.arm],
            OFFER: _text(planned.arm == 2, offer, None),
            PROPENSITY: planned.propensity,
            COST: np.where(targeted, _COSTS[planned.channel], 0.0),
            SENT_AT: to_times(course.sent),
            DELIVERED_AT: to_times(course.delivered),
            OPENED_AT: to_times(course.opened),
            RESPONSE: np.array(RESPONSES, dtype=object)[answer],
            RESPONDED_AT: to_times(replied),
            RESPONSE_CHANNEL: np.where(bought, where, np.where(answer > 0, own, nobody)),
            REWARD: np.where(bought, np.round(reward, 2), 0.0),
            REASON: _reasons(truth, planned, answer == 3, rng=rng),
            AGENT_ID: np.where(
                targeted & phone, agents[AGENT_ID].to_numpy(dtype=object)[planned.agent], nobody
            ),
            VALUE: np.where(bought, np.round(value, 2), 0.0),
        }
    )


def _money(truth: Truth, ledger: Ledger, line: IntArray) -> tuple[FloatArray, FloatArray]:
    """Money paid for lines, and money saved on them through their discount."""
    product = ledger.lines.product[line]
    price = truth.products[PRICE].to_numpy()[product]
    price = price * truth.shelf.price[truth.shelf.row(ledger.ordered[line]), product]
    full = price * ledger.quantity[line]
    return full * (1 - ledger.discount[line]), full * ledger.discount[line]


def _reasons(truth: Truth, planned: Planned, refused: BoolArray, *, rng: np.random.Generator) -> TextArray:
    """Why they refused: who is sensitive to prices finds it dear, sleeping dogs want to be left alone."""
    sensitivity = truth.customers[PRICE_SENSITIVITY].to_numpy()[planned.customer]
    weight = np.ones((len(refused), len(_REASONS)))
    weight[:, 0] = 0.4 + sensitivity / max(truth.config.price_sensitivity, 1e-9)
    weight[:, 1] = 1.5
    weight[:, -1] = np.where(planned.temper == SLEEPING_DOG, 2.0, 0.2)
    choice = (np.log(weight) + rng.gumbel(size=weight.shape)).argmax(axis=1)
    reasons: TextArray = np.where(
        refused, np.array(_REASONS, dtype=object)[choice], np.array(None, dtype=object)
    )
    return reasons


def describe(plan: Plan, truth: Truth, columns: IntArray) -> pd.DataFrame:
    """Return the row of the ``campaigns`` table."""
    config = truth.config
    starts = plan.day * DAY
    month = pd.Timestamp(starts, unit="s").month
    season = "christmas" if month in (11, 12) else ("winter", "spring", "summer", "autumn")[month % 12 // 3]
    name = CATEGORIES[plan.category].name
    mean_price = float(truth.products[PRICE].to_numpy()[columns].mean())
    return pd.DataFrame(
        {
            CAMPAIGN_ID: [_campaign_id(plan)],
            STARTS_AT: to_times(np.array([starts])),
            ENDS_AT: to_times(np.array([starts + (config.contact_days + config.response_days) * DAY])),
            NAME: [f"{name.capitalize()}, {season}"],
            CATEGORY: [name],
            OFFER: [f"{config.offer_discount:.0%} off {name}"],
            "occasion": [season],
            "contact_cost": [float(np.round(_COSTS @ np.array([0.45, 0.2, 0.2, 0.15]), 2))],
            "reward_cost": [round(mean_price * config.offer_discount, 2)],
            "target": ["everyone who consents" if plan.even else "mostly recent buyers"],
        }
    )


def effects_of(plan: Plan, truth: Truth, planned: Planned, outcomes: BoolArray) -> pd.DataFrame:
    """Return the rows of ``Truth.effects``; ``outcomes`` has a column for each arm."""
    columns: dict[str, object] = {
        CAMPAIGN_ID: _campaign_id(plan),
        CUSTOMER_ID: truth.customers[CUSTOMER_ID].to_numpy(dtype=object)[planned.customer],
        CHANNEL: np.array(CONTACT_CHANNELS, dtype=object)[planned.channel],
        SLOT: np.array(SLOTS, dtype=object)[planned.slot],
        AT: to_times(planned.at),
        PROPENSITY: planned.propensity,
        ARM: np.array(ARMS, dtype=object)[planned.arm],
        TEMPER: np.array(TEMPERS, dtype=object)[planned.temper],
    }
    for number, arm in enumerate(ARMS):
        columns[f"chance_{arm}"] = planned.chance[:, number]
    for number, arm in enumerate(ARMS):
        columns[f"bought_{arm}"] = outcomes[:, number]
    return pd.DataFrame(columns)


def nothing() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return ``campaigns``, ``contacts`` and effects of a shop without campaigns."""
    effects = pd.DataFrame({name: [] for name in EFFECT_COLUMNS})
    return pd.DataFrame({CAMPAIGN_ID: []}), pd.DataFrame({CAMPAIGN_ID: []}), effects


def _campaign_id(plan: Plan) -> str:
    return f"campaign-{plan.number + 1:02d}"


def _text(chosen: BoolArray, this: str, that: str | None) -> TextArray:
    words: TextArray = np.where(chosen, np.array(this, dtype=object), np.array(that, dtype=object))
    return words
