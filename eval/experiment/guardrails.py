"""What must not get worse: each guardrail holds, is broken, or is not known yet.

A guardrail is a test of non-inferiority: it *holds* only where the interval leaves out a harm as large as the
margin, it is *broken* where the interval lies beyond the margin, and in between the experiment has not told
(CONSORT, Piaggio et al., JAMA 2012). Not having seen a harm is not the same as having ruled one out.

How many different products a variant shows grows with how many customers it is shown to, and is no mean of theirs.
So the variants are compared at the same number of customers (rarefaction; Hurlbert, Ecology 1971), with a jackknife
over groups of customers for its error (Efron & Tibshirani 1993, chapter 11).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd
from scipy import special

from eval.experiment import customers as c
from eval.experiment.effect import Effect, effect
from eval.experiment.looks import Looks
from eval.experiment.moments import Estimate, Floats, Moments
from feature_repo import schema as s
from feature_repo.errors import ConfigError

State = Literal["holds", "broken", "open"]
RETURNED: Final = "returns"
COVERAGE: Final = "coverage"
LATENCY: Final = "latency"
#: The largest harm that is put up with, as a share of the control's figure.
MARGINS: Final[Mapping[str, float]] = {RETURNED: 0.25, COVERAGE: 0.10, LATENCY: 0.10}
#: Whether more is better.
_MORE: Final = {RETURNED: False, COVERAGE: True, LATENCY: False}
_GROUPS: Final = 20
_FEWEST: Final = 100


@dataclass(frozen=True)
class Guarded:
    """A guardrail of one treatment beside the control: figures of both, the change, and what follows."""

    name: str
    control: float
    treatment: float
    effect: Effect
    margin: float
    state: State


def margins(chosen: Mapping[str, float]) -> dict[str, float]:
    """Return the margins with those chosen in their place; ConfigError for an unknown guardrail or a margin ≤ 0."""
    for name, margin in chosen.items():
        if name not in MARGINS or not (math.isfinite(margin) and margin > 0):
            raise ConfigError(
                f"expected margins above 0 of {', '.join(MARGINS)}, found {name}={margin:g}; correct --margin"
            )
    return {**MARGINS, **chosen}


def guardrails(
    control: pd.DataFrame,
    treatment: pd.DataFrame,
    shown: pd.DataFrame,
    looks: Looks,
    *,
    margins: Mapping[str, float] = MARGINS,
    confidence: float = 0.95,
) -> list[Guarded]:
    """Judge the guardrails for which there are data.

    Parameters
    ----------
    control, treatment : DataFrame
        Rows of ``customers.enrol``.
    shown : DataFrame
        Distinct ``customer_id`` and ``product_id`` of what those customers were shown.
    looks, confidence
        As for the effects.
    margins
        Guardrail → the largest harm put up with, relative to the control.
    """
    found: list[Guarded] = []

    def judged(name: str, arms: tuple[Estimate, Estimate]) -> None:
        change = effect(*arms, looks, confidence=confidence)
        state = standing(change, margin=margins[name], more_is_better=_MORE[name])
        found.append(Guarded(name, float(arms[0].mean), float(arms[1].mean), change, margins[name], state))

    if control[c.RETURNS].sum() + treatment[c.RETURNS].sum() > 0:
        judged(RETURNED, _ratios(control, treatment, c.RETURNS, c.PURCHASES))
    groups = [shown[shown[s.CUSTOMER_ID].isin(arm[s.CUSTOMER_ID])] for arm in (control, treatment)]
    size = min(group[s.CUSTOMER_ID].nunique() for group in groups)
    if size >= _FEWEST:
        products = int(shown[s.PRODUCT_ID].nunique())
        first, second = (coverage(group, size // 2, products) for group in groups)
        judged(COVERAGE, (first, second))
    if c.WAITED in control and c.WAITED in treatment:
        judged(LATENCY, _ratios(control, treatment, c.WAITED, f"{c.WAITED}_{c.EXPOSURES}"))
    return found


def standing(change: Effect, *, margin: float, more_is_better: bool) -> State:
    """Return whether a guardrail holds, is broken, or is open, by the ends of the relative change."""
    ends = sorted(
        (change.relative_low, change.relative_high)
        if not more_is_better
        else (-change.relative_low, -change.relative_high)
    )
    if not np.isfinite(ends).all():
        return "open"
    if ends[1] < margin:
        return "holds"
    return "broken" if ends[0] > margin else "open"


def coverage(shown: pd.DataFrame, size: int, products: int) -> Estimate:
    """Return the share of products that ``size`` customers, drawn from those of an arm, are shown between them.

    Parameters
    ----------
    shown : DataFrame
        Distinct ``customer_id``, ``product_id`` of one arm.
    size
        How many customers; at most nineteen twentieths of the arm's.
    products
        How many products there are.
    """
    customer, names = pd.factorize(shown[s.CUSTOMER_ID], sort=True)
    product = pd.factorize(shown[s.PRODUCT_ID], sort=True)[0]
    # groups of equal size, in an order that has nothing to do with the arm
    group_of = np.random.default_rng(0).permutation(len(names)) % _GROUPS
    reach = np.zeros((_GROUPS, int(product.max()) + 1))
    np.add.at(reach, (group_of[customer], product), 1.0)
    total = reach.sum(axis=0)
    whole = _rarefied(total, len(names), size) / products
    sizes = np.bincount(group_of, minlength=_GROUPS)
    without = np.array(
        [
            _rarefied(total - reach[group], len(names) - sizes[group], size) / products
            for group in range(_GROUPS)
        ]
    )
    error2 = (_GROUPS - 1) / _GROUPS * ((without - without.mean()) ** 2).sum()
    return Estimate(*(np.asarray(value, dtype=np.float64) for value in (len(names), whole, error2)))


def _rarefied(reached: Floats, n: int, size: int) -> float:
    """Return how many products ``size`` customers out of ``n`` see between them, each seen by ``reached`` of all."""
    left = n - reached
    possible = left >= size
    log_missed = (
        special.gammaln(left[possible] + 1)
        - special.gammaln(left[possible] - size + 1)
        - special.gammaln(n + 1)
        + special.gammaln(n - size + 1)
    )
    return float(len(reached) - np.exp(log_missed).sum())


def _ratios(
    control: pd.DataFrame, treatment: pd.DataFrame, above: str, below: str
) -> tuple[Estimate, Estimate]:
    first, second = (
        Moments.of(arm[above].to_numpy(), arm[below].to_numpy()).ratio() for arm in (control, treatment)
    )
    return first, second
