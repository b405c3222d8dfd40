"""What an experiment needs to know of an arm: how many, two means, and how the two vary together.

Every method here is a function of these six numbers: Welch's interval needs the first mean, a ratio of sums both
(the delta method), an adjustment by the past their covariance. They add up over days and arms, so that no look at the
experiment reads the customers again. The arrays may have any shape: one experiment, or a thousand by thirty days.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from feature_repo.errors import DataError

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean (or a ratio) of each arm with its squared standard error, and over how many customers.

    Attributes
    ----------
    n, mean, error2 : arrays of one shape
        Customers, the estimate in its own unit, and its variance (not that of a customer).
    """

    n: Floats
    mean: Floats
    error2: Floats


@dataclass(frozen=True)
class Moments:
    """Means and centred sums of two values ``y`` and ``x`` of each customer.

    Attributes
    ----------
    n, y, x : arrays of one shape
        Number of customers and the means.
    yy, xx, xy : arrays of the same shape
        Sums of squares and products around the means.
    """

    n: Floats
    y: Floats
    x: Floats
    yy: Floats
    xx: Floats
    xy: Floats

    @classmethod
    def of(cls, y: npt.ArrayLike, x: npt.ArrayLike | None = None) -> Moments:
        """Return the moments over the last axis, on which the customers lie.

        Parameters
        ----------
        y : array of finite numbers, shape (…, customers)
        x : array of the same shape, optional
            The customer's own past, or the denominator of a ratio; zeros by default.

        Raises
        ------
        DataError
            No customers, shapes that differ, or a value that is not finite.
        """
        first = np.asarray(y, dtype=np.float64)
        second = np.zeros_like(first) if x is None else np.asarray(x, dtype=np.float64)
        if first.ndim == 0 or first.shape != second.shape or first.shape[-1] == 0:
            raise DataError(
                f"expected two values for each of at least one customer, found shapes {first.shape} and "
                f"{second.shape}; give arrays of one shape"
            )
        if not (np.isfinite(first).all() and np.isfinite(second).all()):
            raise DataError(
                "expected finite values, found some that are not; count customers without a value as 0"
            )
        a, b = first.mean(axis=-1), second.mean(axis=-1)
        da, db = first - a[..., None], second - b[..., None]
        size = np.full(a.shape, float(first.shape[-1]))
        sums = (np.einsum("...i,...i->...", one, other) for one, other in ((da, da), (db, db), (da, db)))
        return cls(size, a, b, *sums)

    def merged(self, axis: int = -1) -> Moments:
        """Return the moments of all customers along an axis together (Chan, Golub & LeVeque 1983)."""
        cumulated = self.cumulated(axis)
        return Moments(*(np.take(part, -1, axis=axis) for part in cumulated._parts()))

    def cumulated(self, axis: int = -1) -> Moments:
        """Return the moments of the customers so far along an axis, such as days."""
        # Sums are taken around a common point near all means, so that nothing large cancels.
        with np.errstate(invalid="ignore", divide="ignore"):
            total = self.n.sum(axis=axis, keepdims=True)
            y0 = (self.n * self.y).sum(axis=axis, keepdims=True) / total
            x0 = (self.n * self.x).sum(axis=axis, keepdims=True) / total
            dy, dx = self.y - y0, self.x - x0
            n = np.cumsum(self.n, axis=axis)
            sy, sx = np.cumsum(self.n * dy, axis=axis), np.cumsum(self.n * dx, axis=axis)
            yy = np.cumsum(self.yy + self.n * dy**2, axis=axis) - sy**2 / n
            xx = np.cumsum(self.xx + self.n * dx**2, axis=axis) - sx**2 / n
            xy = np.cumsum(self.xy + self.n * dy * dx, axis=axis) - sy * sx / n
            return Moments(n, y0 + sy / n, x0 + sx / n, yy, xx, xy)

    def mean(self) -> Estimate:
        """Return the mean of ``y``; its error is not a number below two customers."""
        return Estimate(self.n, self.y, self._error2(self.yy))

    def ratio(self) -> Estimate:
        """Return the ratio of the sums of ``y`` and ``x`` by the delta method.

        The customer is drawn, not the exposure, so what one customer's exposures have in common is in the error (Deng,
        Knoblich & Lu, KDD 2018, eq. 5). Not a number where the denominator is zero throughout.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = self.y / self.x
            spread = self.yy - 2 * ratio * self.xy + ratio**2 * self.xx
            return Estimate(self.n, ratio, self._error2(spread) / self.x**2)

    def _error2(self, spread: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            found: Floats = np.where(self.n > 1, np.maximum(spread, 0.0) / (self.n - 1) / self.n, np.nan)
        return found

    def _parts(self) -> tuple[Floats, ...]:
        return self.n, self.y, self.x, self.yy, self.xx, self.xy


def adjusted(control: Moments, treatment: Moments) -> tuple[Estimate, Estimate]:
    """Return the means of ``y`` less what the customers' own past ``x`` explains: CUPED.

    Deng, Xu, Kohavi & Walker (WSDM 2013), eq. 4: θ = cov(y, x) / var(x) within the arms, the past centred at the
    mean of both. The past lies before the first exposure, so the adjustment moves no true effect; the error shrinks
    by the factor 1 − ρ². Where the past does not vary, nothing is adjusted.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        xx = control.xx + treatment.xx
        theta = np.where(xx > 0, (control.xy + treatment.xy) / xx, 0.0)
        center = (control.n * control.x + treatment.n * treatment.x) / (control.n + treatment.n)
    found = []
    for arm in (control, treatment):
        spread = arm.yy - 2 * theta * arm.xy + theta**2 * arm.xx
        found.append(Estimate(arm.n, arm.y - theta * (arm.x - center), arm._error2(spread)))
    return found[0], found[1]
