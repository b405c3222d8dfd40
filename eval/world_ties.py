"""Who knows whom in the simulated world.

Acquaintances are drawn mostly among people of one main taste, so that what friends buy says something about
oneself (McPherson et al. 2001, "Birds of a feather: homophily in social networks"). Deliberately absent:
influence; nobody buys because a friend did.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from eval.world_cast import People
from eval.world_config import WorldConfig
from eval.world_time import to_instant, to_seconds, to_times
from feature_repo.schema import AT, CUSTOMER_ID, OTHER_ID, SIGNED_UP_AT, WEIGHT


def make_ties(people: People, config: WorldConfig) -> pd.DataFrame:
    """Return the ``ties`` table: each acquaintance in both directions, in order of time.

    ``weight`` is between 0 and 1, higher for those who share their main taste; ``at`` is when the tie became
    known, after both had signed up.
    """
    rng = config.chance("ties")
    size = len(people.table)
    mine = np.repeat(np.arange(size), rng.poisson(config.ties_per_customer, size=size))
    alike = rng.random(len(mine)) < config.homophily
    order = np.argsort(people.main, kind="stable")
    begins = np.searchsorted(people.main[order], people.main)
    ends = np.searchsorted(people.main[order], people.main, side="right")
    luck = rng.random(len(mine))
    near = order[(begins[mine] + luck * (ends - begins)[mine]).astype(np.int64)]
    other = np.where(alike, near, (luck * size).astype(np.int64))
    pairs = np.unique(np.stack([np.minimum(mine, other), np.maximum(mine, other)], axis=1), axis=0)
    low, high = pairs[pairs[:, 0] < pairs[:, 1]].T

    weight = rng.beta(np.where(people.main[low] == people.main[high], 4.0, 2.0), 3.0)
    signed_up = to_seconds(people.table[SIGNED_UP_AT])
    start, end = to_instant(config.starts_at), to_instant(config.ends_at)
    earliest = np.maximum(np.maximum(signed_up[low], signed_up[high]), start)
    at = earliest + np.floor(rng.random(len(low)) * (end - earliest)).astype(np.int64)
    ids = people.table[CUSTOMER_ID].to_numpy(dtype=object)
    both = pd.DataFrame(
        {
            CUSTOMER_ID: ids[np.concatenate([low, high])],
            OTHER_ID: ids[np.concatenate([high, low])],
            AT: to_times(np.concatenate([at, at])),
            WEIGHT: np.round(np.concatenate([weight, weight]), 3),
        }
    )
    return both.sort_values([AT, CUSTOMER_ID, OTHER_ID], ignore_index=True)
