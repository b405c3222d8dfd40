"""What a feature is, and the few words its expressions are written in.

A feature is one entry: name, definition, type, default, window, and one Ibis expression. ``aggregate``
expressions see the events of an entity strictly before the instant (columns of ``staging`` and ``age_days``)
and return a reduction; ``last`` expressions see the line the customer bought last; ``derive`` expressions see
the row made of all of these, lists and facts. Deliberately absent: how events are staged, and any engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import ibis

from feature_repo.names import FeatureType
from feature_repo.recent import DAY_US

WINDOWS: Final = (7, 30, 90, 365)
CHANGES: Final = (7, 30, 90)
YEAR: Final = 365
#: How many names a list holds.
TOP: Final = 5

Default = float | str | bool | list[str] | list[float] | list[int] | None
Expression = Callable[[Any], Any]
"""Takes the aged events (``aggregate``), the last line (``last``) or the row made of all (``derive``)."""
Windowed = Callable[[Any, Any], Any]
"""Takes the aged events and which of them are in the window, returns an Ibis reduction."""


@dataclass(frozen=True)
class Feature:
    """One feature: definition in words, type, default, window in days, and its expression."""

    name: str
    definition: str
    expression: Expression
    default: Default = 0.0
    dtype: FeatureType = "float"
    window_days: int | None = None
    stage: Literal["aggregate", "last", "derive"] = "aggregate"


def within(events: Any, days: float) -> Any:
    """Which events happened in the last ``days``."""
    return events.age_days <= days


def between(events: Any, days: float) -> Any:
    """Which events happened in the ``days`` before the last ``days``."""
    return (events.age_days > days) & (events.age_days <= 2 * days)


def count(where: Any) -> Any:
    """How many rows hold; as a float, since engines read ``1.0`` as a decimal."""
    return ibis.ifelse(where, 1, 0).cast("float64").sum()


def in_days(micros: Any) -> Any:
    """Turn microseconds (int64) into days (float64)."""
    return micros.cast("float64") / float(DAY_US)


def total(column: Any, where: Any) -> Any:
    """Sum of a column over the rows that hold."""
    return ibis.ifelse(where, column, 0.0).sum()


def ratio(numerator: Any, denominator: Any, otherwise: float = 0.0) -> Any:
    """Numerator over denominator; ``otherwise`` where the denominator is not positive."""
    return ibis.ifelse(denominator > 0, numerator / denominator, otherwise)


def elapsed(events: Any, where: Any, never: float) -> Any:
    """Days since the last row that holds; ``never`` when none does."""
    return ibis.ifelse(where, events.age_days, ibis.null("float64")).min().fill_null(never)


def windowed(name: str, definition: str, expression: Windowed) -> tuple[Feature, ...]:
    """Make from one expression a feature a window, and its change against the window before."""

    def level(days: int) -> Expression:
        return lambda e: expression(e, within(e, days))

    def change(days: int) -> Expression:
        return lambda e: expression(e, within(e, days)) - expression(e, between(e, days))

    levels = (
        Feature(f"{name}_{days}d", f"{definition} in the last {days} days", level(days), window_days=days)
        for days in WINDOWS
    )
    changes = (
        Feature(
            f"{name}_change_{days}d",
            f"{definition} in the last {days} days less those in the {days} days before",
            change(days),
            window_days=2 * days,
        )
        for days in CHANGES
    )
    return (*levels, *changes)


def over(name: str, definition: str, above: Windowed, below: Windowed, *, days: int = YEAR) -> Feature:
    """Make a feature of one amount over another in the last ``days``, 0 where the latter is 0."""

    def quotient(e: Any) -> Any:
        return ratio(above(e, within(e, days)), below(e, within(e, days)))

    return Feature(name, f"{definition} of the last {days} days", quotient, window_days=days)
