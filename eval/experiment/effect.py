"""The difference between two variants, in the unit of the metric and relative to the control, with intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eval.experiment.looks import Looks
from eval.experiment.moments import Estimate, Floats


@dataclass(frozen=True)
class Effect:
    """Treatment less control; arrays of one shape.

    Attributes
    ----------
    difference, low, high
        In the unit of the metric.
    relative, relative_low, relative_high
        As a share of the control's mean; not numbers where that mean cannot be told from zero.
    error : array
        Standard error of the difference.
    p : array
        Two-sided, against no difference.
    """

    difference: Floats
    low: Floats
    high: Floats
    relative: Floats
    relative_low: Floats
    relative_high: Floats
    error: Floats
    p: Floats


def effect(control: Estimate, treatment: Estimate, looks: Looks, *, confidence: float = 0.95) -> Effect:
    """Compare two independent arms.

    The difference has unequal variances (Welch, Biometrika 1947). The relative interval holds the r for which
    ``treatment − (1 + r) · control`` cannot be told from zero (Fieller, JRSS B 1954), so that it is right also where
    the control's mean is uncertain; it leaves zero out where the other one does.
    Where no customer differs from another there is no error, and the interval has no width.

    Parameters
    ----------
    control, treatment
        Means or ratios of the arms.
    looks
        Whether the interval holds for one look or for all.
    confidence
        Nominal coverage, in (0, 1).
    """
    alpha = 1 - confidence
    c, t, vc, vt = control.mean, treatment.mean, control.error2, treatment.error2
    n = control.n + treatment.n
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = vc + vt
        freedom = variance**2 / (vc**2 / (control.n - 1) + vt**2 / (treatment.n - 1))
        freedom = np.where(variance > 0, freedom, n - 2)
        error = np.sqrt(variance)
        reach = looks.reach(n, freedom, alpha)
        difference = t - c
        z = np.where(difference == 0, 0.0, difference / error)
        p = np.where(np.isnan(error), np.nan, looks.p(z, n, freedom))
        ratio = t / c
        # (t − qc)² = reach² (vt + q² vc), solved for the ratio q; a control near zero has no bounded solution
        a, b, last = c**2 - reach**2 * vc, t * c, t**2 - reach**2 * vt
        root = np.sqrt(np.maximum(b**2 - a * last, 0.0))
        bounded = a > 0
        low, high = (np.where(bounded, (b + sign * root) / a - 1, np.nan) for sign in (-1, 1))
        return Effect(
            difference=difference,
            low=difference - reach * error,
            high=difference + reach * error,
            relative=np.where(bounded, ratio - 1, np.nan),
            relative_low=low,
            relative_high=high,
            error=error,
            p=p,
        )
