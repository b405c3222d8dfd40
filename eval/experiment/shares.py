"""Whether the split is the one that was planned: asked before any effect is looked at.

Where customers are lost from one variant (a slower page, a crash, a log that drops, bots that are filtered) those
who stay are others than those of the other variant, and every difference between them is suspect. The check is
cheap, and about one in sixteen experiments of a large site fails it (Fabijan, Gupchup, Gupta, Omhover, Qin, Vermeer
& Dmitriev, "Diagnosing Sample Ratio Mismatch in Online Controlled Experiments", KDD 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from eval.experiment.moments import Floats
from feature_repo.errors import ConfigError, DataError

#: Between the customary .001 and .01: a sound experiment is stopped once in two hundred.
THRESHOLD: Final = 0.005


@dataclass(frozen=True)
class ShareCheck:
    """Customers by variant, those that were expected, and how likely so large a mismatch is by chance."""

    counts: Mapping[str, int]
    expected: Mapping[str, float]
    p: float
    threshold: float

    @property
    def failed(self) -> bool:
        """Whether chance alone does not explain the counts: no effect may be named."""
        return self.p < self.threshold


def mismatch(counts: npt.ArrayLike, shares: npt.ArrayLike) -> Floats:
    """Return p-values of counts against shares: Pearson's χ².

    Parameters
    ----------
    counts : int array, shape (…, variants)
    shares : array of positive numbers that sum to 1, shape (variants,)
    """
    observed = np.asarray(counts, dtype=np.float64)
    expected = observed.sum(axis=-1, keepdims=True) * np.asarray(shares, dtype=np.float64)
    return np.asarray(stats.chisquare(observed, expected, axis=-1).pvalue, dtype=np.float64)


def check_shares(
    counts: Mapping[str, int], shares: Mapping[str, float], *, threshold: float = THRESHOLD
) -> ShareCheck:
    """Check the customers of each variant against the planned shares.

    Parameters
    ----------
    counts
        Variant → customers who saw it first.
    shares
        Variant → planned share; any positive numbers, of which only the proportions matter.
    threshold
        Below which p-value the check fails.

    Raises
    ------
    ConfigError
        Fewer than two variants, a share that is not positive, or a variant that was seen and has no share.
    DataError
        No customers at all.
    """
    planned = planned_shares(shares)
    if unplanned := sorted(set(counts) - set(planned)):
        raise ConfigError(
            f"expected the variants {', '.join(planned)}, found also {', '.join(unplanned)} in the exposures; "
            "give every variant its share"
        )
    found = [counts.get(name, 0) for name in planned]
    total = sum(found)
    if not total:
        raise DataError("expected customers in the variants, found none; wait until the experiment has begun")
    p = float(mismatch(found, list(planned.values())))
    expected = {name: total * share for name, share in planned.items()}
    return ShareCheck(dict(zip(planned, found, strict=True)), expected, p, threshold)


def planned_shares(shares: Mapping[str, float]) -> dict[str, float]:
    """Return the shares scaled to sum to one; ConfigError where they are no shares of two variants."""
    if len(shares) < 2:
        raise ConfigError(
            f"expected the shares of at least two variants, found {len(shares)}; "
            "write them as control=0.5,treatment=0.5"
        )
    for name, share in shares.items():
        if not np.isfinite(share) or share <= 0:
            raise ConfigError(f"expected a positive share, found {share} for {name}; correct the shares")
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}
