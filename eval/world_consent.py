"""Consent to be contacted, by channel, and how it changes: versions of the ``customers`` table.

Each customer has for each channel at most one period of consent: some give it later, some take it back, and
campaigns make some take it back. Deliberately absent: changes of other attributes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from eval.world_cast import AGE_BAND, People
from eval.world_config import WorldConfig
from eval.world_names import AGE_BANDS
from eval.world_time import FOREVER, BoolArray, IntArray, to_instant, to_seconds, to_times
from feature_repo.schema import CONSENT_PREFIX, CUSTOMER_ID, SIGNED_UP_AT, VALID_FROM

EMAIL: Final = "email"
SMS: Final = "sms"
PUSH: Final = "push"
PHONE: Final = "phone"
CONTACT_CHANNELS: Final = (EMAIL, SMS, PUSH, PHONE)

_SHARES = np.array([0.7, 0.35, 0.4, 0.25])
_BY_AGE = np.array([0.0, -0.05, -0.06, 0.05])  # change a band of age


@dataclass(frozen=True, eq=False)
class Consent:
    """Consent from ``given`` until ``taken`` (seconds since 1970), shape (customers, contact channels)."""

    given: IntArray
    taken: IntArray

    def holds(self, customer: IntArray, channel: IntArray, *, at: IntArray) -> BoolArray:
        """Tell whether customers consent to channels at instants."""
        given, taken = self.given[customer, channel], self.taken[customer, channel]
        held: BoolArray = (given <= at) & (at < taken)
        return held

    def withdrawn(self, customer: IntArray, channel: IntArray, *, at: IntArray) -> Consent:
        """Return the consent after some took it back."""
        taken = self.taken.copy()
        np.minimum.at(taken, (customer, channel), at)
        return Consent(self.given, taken)


def make_consent(people: People, config: WorldConfig) -> Consent:
    """Draw who consents to what, and when that changes."""
    rng = config.chance("consent")
    signed_up = to_seconds(people.table[SIGNED_UP_AT])[:, None]
    years = pd.Index(AGE_BANDS).get_indexer(pd.Index(people.table[AGE_BAND]))[:, None] - 2.4
    shape = (len(signed_up), len(CONTACT_CHANNELS))
    consents = rng.random(shape) < np.clip(_SHARES + _BY_AGE * years, 0.02, 0.98)
    changes = rng.random(shape) < config.consent_changes
    end = to_instant(config.ends_at)
    moment = np.maximum(signed_up, to_instant(config.starts_at))
    moment = moment + np.floor(rng.random(shape) * (end - moment)).astype(np.int64)
    changes &= (moment > signed_up) & (moment < end)
    later = changes & ~consents
    given = np.where(later, moment, np.where(consents, np.broadcast_to(signed_up, shape), FOREVER))
    taken = np.where(changes & consents, moment, FOREVER)
    return Consent(given, taken)


def make_customers(people: People, consent: Consent, *, public: list[str]) -> pd.DataFrame:
    """Return the ``customers`` table: a row for each change of consent.

    Parameters
    ----------
    people, consent
        Who they are and what they agree to.
    public
        Columns of the people that may be seen.
    """
    signed_up = to_seconds(people.table[SIGNED_UP_AT])
    size, channels = consent.given.shape
    customer = np.tile(np.arange(size), 2 * channels + 1)
    at = np.concatenate([signed_up, consent.given.T.ravel(), consent.taken.T.ravel()])
    # a consent that was taken back before it was given is never told
    told = (at < FOREVER) & (at >= signed_up[customer])
    moments = np.unique(np.stack([customer[told], at[told]], axis=1), axis=0)
    customer, at = moments[:, 0], moments[:, 1]
    table = people.table[public].iloc[customer].reset_index(drop=True)
    table.insert(list(table.columns).index(SIGNED_UP_AT) + 1, VALID_FROM, to_times(at))
    for number, channel in enumerate(CONTACT_CHANNELS):
        table[CONSENT_PREFIX + channel] = consent.holds(customer, np.full(len(at), number), at=at)
    state = table.drop(columns=[VALID_FROM])
    same = (state == state.shift()).all(axis=1)
    return table[~same].reset_index(drop=True).sort_values([CUSTOMER_ID, VALID_FROM], ignore_index=True)
