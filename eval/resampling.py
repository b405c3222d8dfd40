"""Bootstrap of clustered rows: customers are drawn with all their rows, for many columns at once.

A rolling evaluation judges a customer at each origin at which they bought. Those rows are not independent, so whole
customers are drawn and a mean is the ratio of two sums over the drawn rows (Cameron, Gelbach & Miller 2008, on the
pairs cluster bootstrap; Field & Welsh, JRSS B 2007). The draws are made once for a set of rows: all columns, and so
all differences between recommenders, are resampled with the same customers, which is what pairs them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eval.significance import Interval, ends, two_sided
from feature_repo.errors import ConfigError, DataError

Floats = npt.NDArray[np.float64]
_CELLS = 1 << 22  # multiplicities held at once: 16 MiB


@dataclass(frozen=True)
class Means:
    """Means of columns, as observed (columns,) and resampled (resamples, columns); NaN where a column has no value."""

    observed: Floats
    resampled: Floats

    def interval(self, column: int, *, confidence: float = 0.95) -> Interval | None:
        """Return mean and percentile interval of a column; None where it has no value."""
        return _interval(self.observed[column], self.resampled[:, column], confidence)

    def difference(self, a: int, b: int, *, confidence: float = 0.95) -> Interval | None:
        """Return the paired difference of columns a − b with its two-sided p-value; None where one has no value."""
        resampled = self.resampled[:, a] - self.resampled[:, b]
        plain = _interval(self.observed[a] - self.observed[b], resampled, confidence)
        if plain is None:
            return None
        return Interval(plain.mean, plain.low, plain.high, confidence, two_sided(resampled))

    def ratio(self, a: int, b: int, *, confidence: float = 0.95) -> Interval | None:
        """Return the ratio of columns a / b; None where one has no value, or b is zero in too many resamples."""
        with np.errstate(divide="ignore", invalid="ignore"):
            observed = float(np.float64(self.observed[a]) / np.float64(self.observed[b]))
            resampled = self.resampled[:, a] / self.resampled[:, b]
        return _interval(observed, resampled, confidence)


def _interval(observed: float, resampled: Floats, confidence: float) -> Interval | None:
    finite = resampled[np.isfinite(resampled)]
    # a resample may miss the few customers who have a value; where many do, the interval would say nothing
    if not np.isfinite(observed) or len(finite) < 0.99 * len(resampled):
        return None
    low, high = ends(finite, confidence)
    return Interval(float(observed), low, high, confidence)


def clustered_means(
    values: npt.ArrayLike,
    clusters: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Means:
    """Return the means of columns with their bootstrap over clusters.

    Parameters
    ----------
    values : array, shape (rows, columns)
        NaN where a value is undefined: such rows are left out of that column.
    clusters : int array, shape (rows,)
        Which rows belong together; a customer.
    weights : array of positive numbers, shape (rows,), optional
        How many rows a row stands for; 1 by default.
    resamples, seed
        As in ``eval.significance``; the same clusters, whatever their numbers, get the same draws.

    Raises
    ------
    ConfigError
        Fewer than 100 resamples.
    DataError
        The arrays do not fit together, or there are fewer than two clusters.
    """
    table = np.asarray(values, dtype=np.float64)
    names, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    size = len(names)
    if table.ndim != 2 or len(cluster) != len(table):
        raise DataError(
            f"expected one cluster for each row, found {len(cluster)} for a table of {table.shape}"
        )
    if size < 2:
        raise DataError(f"a bootstrap needs at least two clusters, found {size}; judge more customers")
    if resamples < 100:
        raise ConfigError(f"expected at least 100 resamples, found {resamples}; draw more")
    weight = np.ones(len(table)) if weights is None else np.asarray(weights, dtype=np.float64)
    known = np.isfinite(table)
    sums = _by_cluster(np.where(known, table, 0.0) * weight[:, None], cluster, size)
    counts = _by_cluster(known * weight[:, None], cluster, size)
    columns = table.shape[1]
    both = np.hstack([sums, counts])
    resampled = np.empty((resamples, columns))
    generator = np.random.default_rng(seed)
    step = max(_CELLS // size, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        for start in range(0, resamples, step):
            stop = min(start + step, resamples)
            drawn = generator.integers(size, size=(stop - start, size))
            drawn += np.arange(stop - start)[:, None] * size
            times = np.bincount(drawn.ravel(), minlength=(stop - start) * size).reshape(-1, size)
            totals = times.astype(np.float64) @ both
            resampled[start:stop] = totals[:, :columns] / totals[:, columns:]
        observed = sums.sum(axis=0) / counts.sum(axis=0)
    return Means(observed, resampled)


def _by_cluster(table: Floats, cluster: npt.NDArray[np.intp], size: int) -> Floats:
    summed = np.zeros((size, table.shape[1]))
    np.add.at(summed, cluster, table)
    return summed
