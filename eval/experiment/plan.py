"""How many customers an experiment needs, and how many days that is from now."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from eval.experiment.looks import Looks
from feature_repo.errors import ConfigError


def required_customers(
    spread2: float,
    smallest: float,
    looks: Looks,
    *,
    share: float,
    confidence: float = 0.95,
    power: float = 0.8,
) -> int | None:
    """Return how many customers, of both arms together, show an effect of ``smallest`` with the chance ``power``.

    The error of a difference is √(``spread2`` / n); it must be so small that the interval's reach and the quantile
    of the power fit into the effect (Cohen 1988, §2.3; van Belle, *Statistical Rules of Thumb*, 2008, §2). Where the
    experiment is looked at every day the reach grows with n, and n is found by repetition; it is then an upper
    bound, since most experiments show the effect at an earlier look.

    Parameters
    ----------
    spread2
        Squared error of the difference times the customers of both arms.
    smallest
        The effect that is worth finding, in the unit of the metric.
    looks
        How it will be looked at.
    share
        Share of the treatment among both, in (0, 1): neither arm may be so small that no spread is known.
    confidence, power
        Of the interval, and the chance to find the effect where it is there.

    Returns
    -------
    int or None
        None where nothing varies, or the effect is zero or not a number.
    """
    if not 0 < share < 1 or not 0 < power < 1:
        raise ConfigError(
            f"expected a share and a power between 0 and 1, found {share} and {power}; 0.8 is usual"
        )
    if not (math.isfinite(smallest) and math.isfinite(spread2)) or smallest == 0 or spread2 <= 0:
        return None
    beyond = float(stats.norm.ppf(power))
    fewest = 2 / min(share, 1 - share)
    n = fewest
    for _ in range(100):
        size = np.asarray(n)
        reach = float(looks.reach(size, size - 1, 1 - confidence))
        following = max(spread2 * ((reach + beyond) / smallest) ** 2, fewest)
        if abs(following - n) < 0.5:
            break
        n = following
    return math.ceil(n)


def days_to_go(required: int, enrolled: int, days: float) -> int | None:
    """Return how many days until so many customers have come, at the pace so far; None where none came."""
    if required <= enrolled:
        return 0
    if enrolled <= 0 or days <= 0:
        return None
    return math.ceil((required - enrolled) * days / enrolled)
