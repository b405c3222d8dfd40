"""How sure a mean or a difference is: percentile bootstrap over customers.

The customer is the unit that is drawn: two products for one customer are not two independent observations, so
callers bring one value per customer. Two models judged on the same customers are compared by their paired
differences, which removes how easy each customer is from the noise. No normality is assumed; hit rates and
recalls are far from it.

Where a customer is judged at several instants the rows are clustered: ``eval.resampling`` draws customers with all
their rows. ``holm`` corrects p-values for the number of comparisons, which the caller knows.

Absent on purpose: tests by rank, which answer another question than "which has the higher mean".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from feature_repo.errors import ConfigError, DataError

Floats = npt.NDArray[np.float64]

# Values drawn at once: 2²¹ indices and values are 32 MiB, whatever the number of customers and resamples.
_DRAWS_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval, and for a difference its p-value.

    ``str`` and ``format`` write ``mean [low, high]``, the format specification applying to each number
    (``f"{interval:.3f}"``); ``0.0 in interval`` asks whether a value is plausible.

    Attributes
    ----------
    mean : float
        The mean observed.
    low, high : float
        Ends of the interval, in the unit of the values.
    confidence : float
        Its nominal coverage.
    p : float or None
        Two-sided p-value against a mean difference of zero; None for a plain mean.
    """

    mean: float
    low: float
    high: float
    confidence: float = 0.95
    p: float | None = None

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __format__(self, spec: str) -> str:
        spec = spec or ".4f"
        written = f"{self.mean:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"
        return written if self.p is None else f"{written} p={self.p:.2g}"

    def __str__(self) -> str:
        return format(self)


def bootstrap_mean(
    values: npt.ArrayLike, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return the mean over customers with its percentile bootstrap interval.

    Efron & Tibshirani, *An Introduction to the Bootstrap* (1993), §13.3; for retrieval metrics Sakai (SIGIR
    2006). The interval is slightly too short for small samples (its spread is that of variance divided by n,
    not n − 1, and its tails are not Student's): trust it from about fifty customers on, and later where few
    customers have a value other than zero.

    Parameters
    ----------
    values : array of finite numbers, shape (n_customers,)
        One value per customer, such as a column of ``ranking_metrics``.
    confidence : float
        Nominal coverage, in (0, 1).
    resamples : int
        How often as many customers are drawn with replacement. The ends move by about 1/√resamples of the
        half-width between seeds.
    seed : int
        Same values, options and seed: same result.

    Raises
    ------
    ConfigError
        If ``confidence`` is not in (0, 1), or ``resamples`` too few to have a value beyond each end.
    DataError
        If there are fewer than two values, or one is not finite.
    """
    observed = _checked(values)
    means = _resampled_means(observed, confidence=confidence, resamples=resamples, seed=seed)
    low, high = ends(means, confidence)
    return Interval(float(observed.mean()), low, high, confidence)


def paired_difference(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the mean of ``a − b`` over customers with its interval and two-sided p-value.

    Whole customers are drawn, so what the two have in common cancels. The p-value inverts the percentile
    interval (Efron & Tibshirani 1993, §15.4): twice the share of resampled means on the other side of zero,
    zero included, counting the observation itself as one resample (Davison & Hinkley 1997, §4.2). Up to the
    resolution 2/(resamples + 1), also the smallest p-value there is, p < 1 − confidence says the same as an
    interval without zero.

    Parameters
    ----------
    a, b : arrays of finite numbers, shape (n_customers,)
        Values of the same customers in the same order. Two Series must have equal indexes.
    confidence, resamples, seed
        As in :func:`bootstrap_mean`.

    Raises
    ------
    ConfigError
        As in :func:`bootstrap_mean`.
    DataError
        If the two are not of the same customers, there are fewer than two, or one value is not finite.
    """
    if isinstance(a, pd.Series) and isinstance(b, pd.Series) and not a.index.equals(b.index):
        raise DataError(
            "paired values must be of the same customers in the same order, found different indexes; "
            "align them first, as in a.align(b, join='inner')"
        )
    first, second = _checked(a), _checked(b)
    if len(first) != len(second):
        raise DataError(
            f"paired values must be one for one, found {len(first)} and {len(second)}; "
            "judge both on the same customers"
        )
    difference = first - second
    means = _resampled_means(difference, confidence=confidence, resamples=resamples, seed=seed)
    low, high = ends(means, confidence)
    return Interval(float(difference.mean()), low, high, confidence, two_sided(means))


def two_sided(means: Floats) -> float:
    """Return the p-value against a mean of zero that inverts the percentile interval of resampled means."""
    beyond = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(means) + 1))


def holm(p_values: npt.ArrayLike) -> Floats:
    """Return p-values corrected for their number: those below α have a chance of at most α of any false one.

    Holm's step-down method (Scandinavian Journal of Statistics 6, 1979): the i-th smallest of m is multiplied by
    m − i + 1, and none is smaller than one before it. No independence is assumed.

    Parameters
    ----------
    p_values : array of numbers in [0, 1], shape (m,)
        One for each comparison that was made, the dull ones included.

    Raises
    ------
    DataError
        A value lies outside [0, 1] or is not a number.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise DataError(f"p-values must lie between 0 and 1, found {p}; correct each of them only once")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def _checked(values: npt.ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2:
        raise DataError(
            f"a bootstrap needs one value for each of at least two customers, found shape {array.shape}; "
            "give a one-dimensional array"
        )
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise DataError(
            f"values must be finite, found {bad} of {len(array)} that are not; leave out customers for whom "
            "the metric is undefined, and count them"
        )
    return array


def _resampled_means(values: Floats, *, confidence: float, resamples: int, seed: int) -> Floats:
    """Return the mean of each resample, shape (resamples,)."""
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must lie between 0 and 1, found {confidence}; 0.95 is customary")
    if resamples * (1 - confidence) / 2 < 1:
        raise ConfigError(
            f"a {confidence:.4g} interval needs at least {int(np.ceil(2 / (1 - confidence)))} resamples, "
            f"found {resamples}; draw more"
        )
    generator = np.random.default_rng(seed)
    n = len(values)
    means = np.empty(resamples)
    # A chunk is whole resamples while they fit, and a resample larger than a chunk is drawn alone.
    step = max(1, _DRAWS_AT_ONCE // n)
    for start in range(0, resamples, step):
        chunk = means[start : start + step]
        chunk[:] = values[generator.integers(n, size=(len(chunk), n))].mean(axis=1)
    return means


def ends(means: Floats, confidence: float) -> tuple[float, float]:
    """Return the ends of the percentile interval of resampled means."""
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
