"""Instants of the simulated world: seconds since 1970 inside, timestamps in UTC at the border.

Deliberately absent: any calendar but weekdays and hours. Products come, go, run out and change their price
at midnight UTC, so that the shelf is a table with a row a day.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from eval.world_config import WorldConfig
from feature_repo.errors import DataError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
TextArray = npt.NDArray[np.object_]

DAY: Final = 86_400
"""Seconds in a day."""
HOUR: Final = 3_600
YEAR_DAYS: Final = 365.25
FOREVER: Final = int(np.iinfo(np.int64).max)


def to_instant(at: datetime) -> int:
    """Whole seconds since 1970 of one instant; DataError if it has no timezone."""
    if at.tzinfo is None:
        raise DataError(f"expected an instant with a timezone, found {at!r}: give it one, such as UTC.")
    return math.floor(at.timestamp())


def to_seconds(times: pd.Series) -> IntArray:
    """Whole seconds since 1970 of a column of instants; a missing instant is far in the future."""
    seconds = times.dt.as_unit("s").astype("int64").to_numpy()
    return np.where(times.isna(), FOREVER, seconds)


def to_times(seconds: FloatArray | IntArray) -> pd.Series:
    """Instants (UTC, microseconds) of seconds since 1970, cut to whole ones.

    inf and ``FOREVER`` become a missing instant.
    """
    known = np.isfinite(seconds) & (seconds < FOREVER)
    micros = np.where(known, seconds, 0).astype(np.int64) * 1_000_000
    return pd.Series(micros.view("datetime64[us]")).dt.tz_localize("UTC").where(known)


def at_hours(seconds: FloatArray | IntArray, config: WorldConfig, *, rng: np.random.Generator) -> IntArray:
    """Keep the days of the instants (seconds since 1970) and draw their hours anew from ``config.hours``."""
    size = len(seconds)
    traffic = np.cumsum(config.hours)
    hour = np.searchsorted(traffic, rng.random(size) * traffic[-1], side="right")
    midnight = np.floor(np.asarray(seconds) / DAY).astype(np.int64) * DAY
    at: IntArray = midnight + hour * HOUR + rng.integers(HOUR, size=size)
    return at


def spread(chosen: BoolArray, start: float, end: float, *, rng: np.random.Generator) -> FloatArray:
    """Instants spread evenly between two for the chosen entries, in random order; the others are 0.

    Evenly, not independently, so that even a small world has somebody new in its last weeks.
    """
    size = int(chosen.sum())
    instants = np.zeros(len(chosen))
    instants[chosen] = start + (end - start) * (rng.permutation(size) + rng.random(size)) / max(size, 1)
    return instants
