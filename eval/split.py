"""The global time cut: what a model may learn from, is tuned on, and is judged on; once, or rolling.

One set of instants cuts every customer at the same moment, so nothing a model is judged on was known when
it was fitted. A cut per customer ("last purchase out") or at random leaves tomorrow's fashion in the train
rows and flatters every model. Windows are half-open: an instant belongs to exactly one of them.

Absent on purpose: vocabularies, masks and negatives. They belong to the training set, which is made from the
train window alone.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime, timedelta

import pandas as pd

from feature_repo.errors import ConfigError, DataError
from feature_repo.schema import AT


@dataclass(frozen=True)
class Split:
    """Three instants in UTC that cut interactions into train, validation and test.

    Train is everything before ``train_end``, validation is ``[train_end, validation_end)`` and test is
    ``[validation_end, test_end)``. Rows at or after ``test_end`` belong to no window.

    Parameters
    ----------
    train_end, validation_end, test_end : datetime
        Timezone-aware instants in UTC, strictly increasing.

    Raises
    ------
    ConfigError
        If an instant is naive, not in UTC, or not later than the one before it.
    """

    train_end: datetime
    validation_end: datetime
    test_end: datetime

    def __post_init__(self) -> None:
        for field in fields(self):
            instant: datetime = getattr(self, field.name)
            if instant.tzinfo is None:
                raise ConfigError(
                    f"{field.name} must be a timezone-aware instant in UTC, found the naive {instant}; "
                    "give it a timezone, as in datetime(2024, 1, 1, tzinfo=timezone.utc)"
                )
            if instant.utcoffset() != timedelta(0):
                raise ConfigError(
                    f"{field.name} must be in UTC, found {instant.isoformat()}; "
                    "convert it with .astimezone(timezone.utc)"
                )
        if not self.train_end < self.validation_end < self.test_end:
            raise ConfigError(
                "a split needs train_end < validation_end < test_end, found "
                f"{self.train_end.isoformat()}, {self.validation_end.isoformat()}, "
                f"{self.test_end.isoformat()}; put the instants in order, no two alike"
            )

    @classmethod
    def last(cls, at: pd.Series, *, horizon: timedelta, validation: timedelta | None = None) -> Split:
        """Build the split whose test window is the last ``horizon`` of the data.

        ``test_end`` lies one microsecond after the microsecond of the last interaction, so that the
        half-open test window contains it.

        Parameters
        ----------
        at : Series of timezone-aware datetime64, shape (n_interactions,)
            When the interactions happened, in any order.
        horizon : timedelta
            Length of the test window.
        validation : timedelta, optional
            Length of the validation window just before it; ``horizon`` by default.

        Raises
        ------
        ConfigError
            If a length is not positive.
        DataError
            If ``at`` is empty, naive or has missing values, or if no row is left to train on.
        """
        validation = horizon if validation is None else validation
        for name, length in (("horizon", horizon), ("validation", validation)):
            if length <= timedelta(0):
                raise ConfigError(f"{name} must be a positive length of time, found {length}; make it longer")
        _check_instants(at)
        if at.empty:
            raise DataError("a split needs at least one interaction, found none; check the import")

        first: datetime = at.min().tz_convert("UTC").floor("us").to_pydatetime()
        last: datetime = at.max().tz_convert("UTC").floor("us").to_pydatetime()
        test_end = last + timedelta(microseconds=1)
        span = test_end - first
        if horizon >= span or validation >= span - horizon:
            raise DataError(
                f"the interactions must reach further back than validation ({validation}) plus horizon "
                f"({horizon}), found {span} from {first.isoformat()} to {last.isoformat()}, which leaves an "
                "empty train window; shorten the windows or bring older data"
            )
        validation_end = test_end - horizon
        return cls(validation_end - validation, validation_end, test_end)

    def train(self, interactions: pd.DataFrame) -> pd.DataFrame:
        """Return the rows before ``train_end``, in their order; DataError if there is none."""
        rows = _window(interactions, None, self.train_end)
        if rows.empty:
            raise DataError(
                f"the train window must hold interactions, found none before {self.train_end.isoformat()} "
                f"among {len(interactions)} rows; choose a later train_end or bring older data"
            )
        return rows

    def validation(self, interactions: pd.DataFrame) -> pd.DataFrame:
        """Return the rows in ``[train_end, validation_end)``, in their order; there may be none."""
        return _window(interactions, self.train_end, self.validation_end)

    def test(self, interactions: pd.DataFrame) -> pd.DataFrame:
        """Return the rows in ``[validation_end, test_end)``, in their order; there may be none."""
        return _window(interactions, self.validation_end, self.test_end)


@dataclass(frozen=True)
class Origin:
    """An instant at which recipes are fitted on what came before, and the end of the window [at, end) that judges."""

    at: datetime
    end: datetime


def rolling_origins(at: pd.Series, *, count: int, every: timedelta, horizon: timedelta) -> list[Origin]:
    """Return the last ``count`` origins whose windows lie in the data, earliest first.

    Windows end at midnights (UTC), the last one at that after the last interaction, so that days are whole.

    Parameters
    ----------
    at : Series of timezone-aware datetime64, shape (n_interactions,)
        When the interactions happened, in any order.
    count : int
        How many origins are wanted.
    every : timedelta
        From one origin to the next.
    horizon : timedelta
        Length of the windows; they overlap where it is longer than ``every``.

    Returns
    -------
    list of Origin
        Fewer than ``count`` where the history is too short: before the first origin lies at least a window's length.

    Raises
    ------
    ConfigError
        ``count`` is below one, or a length is not a positive number of whole days.
    DataError
        The data has room for none.
    """
    day = timedelta(days=1)
    if count < 1:
        raise ConfigError(f"expected at least one origin, found {count}; ask for more")
    for name, length in (("every", every), ("horizon", horizon)):
        if length < day or length % day:
            raise ConfigError(f"expected whole days for {name}, at least one, found {length}; change it")
    _check_instants(at)
    if at.empty:
        raise DataError("expected interactions to roll over, found none; check the import")
    first = at.min().tz_convert("UTC").to_pydatetime(warn=False)
    end = (at.max().tz_convert("UTC").floor("D") + day).to_pydatetime(warn=False)
    ends = [end - number * every for number in range(count)]
    origins = [Origin(end - horizon, end) for end in reversed(ends) if end - horizon - horizon >= first]
    if not origins:
        raise DataError(
            f"expected a history of more than {2 * horizon.days} days, to train on a past and judge on the "
            f"{horizon.days} days after it, found {(end - first).days}; give a longer history, or a shorter --horizon"
        )
    return origins


def _window(interactions: pd.DataFrame, start: datetime | None, end: datetime) -> pd.DataFrame:
    if AT not in interactions.columns:
        raise DataError(
            f"interactions must have the column {AT!r}, found {list(interactions.columns)}; "
            "name the column of instants so"
        )
    at = interactions[AT]
    _check_instants(at)
    inside = at < end
    if start is not None:
        inside &= at >= start
    return interactions.loc[inside]


def _check_instants(at: pd.Series) -> None:
    if not isinstance(at.dtype, pd.DatetimeTZDtype):
        raise DataError(
            f"{AT!r} must hold timezone-aware instants, found dtype {at.dtype}; "
            "convert it with pd.to_datetime(…, utc=True)"
        )
    missing = int(at.isna().sum())
    if missing:
        # A missing time compares as false with everything and would vanish from every window unseen.
        raise DataError(
            f"{AT!r} must have no missing values, found {missing} among {len(at)}; "
            "repair or remove these rows"
        )
