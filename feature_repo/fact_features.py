"""Features of dated facts: level and change of every measure, and dates as elapsed time.

Which measures and dates there are is what the shop's tables hold, so these lists are functions of names; the
build writes what came out into the description of the features. A window without a measurement keeps the last
level: somebody whose balance is told monthly has one this week too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import ibis

from feature_repo import schema as s
from feature_repo.errors import DataError
from feature_repo.feature import CHANGES, Expression, Feature, in_days, within
from feature_repo.names import NEVER_DAYS

_SUFFIX_OF_DATES: Final = "_at"


def column_name(name: str) -> str:
    """Return a measure's name as a column: word characters of any script, all else an underscore."""
    return re.sub(r"\W+", "_", name).strip("_") or "measure"


def measure_features(names: Iterable[str]) -> tuple[Feature, ...]:
    """Return the features of each measure: last level, its age, and mean, change and slope by window.

    The expressions see the measurements of a customer strictly before the instant (``name``, ``value``,
    ``age_days``, ``line``); ``derive`` ones the row made of them.

    Raises
    ------
    DataError
        Two measures would have the same column.
    """
    columns: dict[str, str] = {}
    for name in sorted(names):
        column = column_name(name)
        if column in columns:
            raise DataError(
                f"expected measures whose names differ in letters and digits, found {columns[column]!r} and "
                f"{name!r}; rename one in {s.MEASURES}"
            )
        columns[column] = name
    return tuple(feature for column, name in columns.items() for feature in _of_measure(column, name))


def _of_measure(column: str, name: str) -> Iterator[Feature]:
    def mine(m: Any) -> Any:
        return m[s.NAME] == name

    def level_before(days: float) -> Expression:
        """Last value at least ``days`` old; None when there is none."""
        return lambda m: m[s.VALUE].argmax(m.line, where=mine(m) & (m.age_days >= days))

    last = f"{column}_last"
    yield Feature(
        last,
        f"last value of {name}; of two told at one instant the greater",
        lambda m: m[s.VALUE].argmax(m.line, where=mine(m)),
    )
    yield Feature(
        f"{column}_age_days",
        f"days since {name} was last told",
        lambda m: m.age_days.min(where=mine(m)).fill_null(NEVER_DAYS),
        default=NEVER_DAYS,
    )
    for days in CHANGES:
        yield Feature(
            f"{column}_mean_{days}d",
            f"mean of {name} in the last {days} days; the last value where none was told",
            _mean(mine, days),
            window_days=days,
        )
        yield Feature(
            f"{column}_change_{days}d",
            f"last value of {name} less the last told at least {days} days ago; 0 where there was none",
            _change(mine, days, level_before(days)),
            window_days=days,
        )
        yield Feature(
            f"{column}_slope_{days}d",
            f"least-squares slope of {name} a day over the last {days} days; 0 below two distinct instants",
            _slope(mine, days),
            window_days=days,
        )


def _last(mine: Expression, m: Any) -> Any:
    return m[s.VALUE].argmax(m.line, where=mine(m))


def _mean(mine: Expression, days: int) -> Expression:
    return lambda m: m[s.VALUE].mean(where=mine(m) & within(m, days)).fill_null(_last(mine, m))


def _change(mine: Expression, days: int, before: Expression) -> Expression:
    return lambda m: (_last(mine, m) - before(m)).fill_null(0.0)


def _slope(mine: Expression, days: int) -> Expression:
    def expression(m: Any) -> Any:
        inside = mine(m) & within(m, days)
        spread = m.age_days.var(where=inside, how="pop")
        together = m.age_days.cov(m[s.VALUE], where=inside, how="pop")
        return ibis.ifelse(spread > 0, -together / spread, 0.0).fill_null(0.0)

    return expression


def date_features(columns: Sequence[str]) -> tuple[Feature, ...]:
    """Return a feature a date: days since it, negative while it lies ahead.

    The expressions see the row of an entity as known at the instant, with ``<column>_us`` and ``instant_us``.
    """
    return tuple(
        Feature(
            elapsed_name(column),
            f"days since {column}; negative while it lies ahead",
            _since(column),
            default=NEVER_DAYS,
            stage="derive",
        )
        for column in columns
    )


def elapsed_name(column: str) -> str:
    """Return the feature's name of a date column: ``signed_up_at`` becomes ``signed_up_days``."""
    return f"{column.removesuffix(_SUFFIX_OF_DATES)}_days"


def _since(column: str) -> Expression:
    return lambda row: in_days(row.instant_us - row[f"{column}_us"])
