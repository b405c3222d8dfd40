"""How many rows came each day, by kind, channel and store: days without any, and days and weeks unlike others.

A day is expected to be as the same weekday four weeks around it (their median), a week as the eight before
it. How far a shop's days usually lie from that, on logarithms, is its own noise: the median absolute
deviation, and at least that of a Poisson process of visits, since the
lines of one visit come together. What is six times that, and three times (for weeks two and a half times)
more or less, is told. The first and the last day are never
judged: they may be unfinished. Deliberately absent: a calendar of holidays, which differ between countries; a
closed shop is asked about once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from feature_repo.casts import quoted
from feature_repo.checks_form import Finding
from feature_repo.schema import (
    AT,
    CHANNEL,
    CUSTOMER_ID,
    INTERACTIONS,
    KIND,
    MEASURES,
    NAME,
    ORDER_ID,
    STORE_ID,
    TABLES,
)
from feature_repo.tables import Tables

__all__ = ["ALL_ROWS", "DATED", "Unusual", "Volume", "unusual", "volume_findings", "volumes_of"]

Sort = Literal["gap", "day", "week"]

#: Tables whose volume is steady, and the columns it is counted by. Contacts come in campaigns.
DATED: Final[dict[str, tuple[str, ...]]] = {INTERACTIONS: (KIND, CHANNEL, STORE_ID), MEASURES: (NAME,)}

ALL_ROWS: Final = "all rows"

_SERIES: Final = 50
_AROUND: Final = 4  # weeks on each side
_BEFORE: Final = 8  # weeks before a week
_SIGMAS: Final = 6.0
_DAY_TIMES: Final = 3.0
_WEEK_TIMES: Final = 2.5
_LEAST_DAY: Final = 10.0
_LEAST_WEEK: Final = 50.0
_POISSON: Final = 1.5  # variance of a log ratio of a count to a median of counts, times the count


@dataclass(frozen=True)
class Volume:
    """Rows a day of one series.

    Attributes
    ----------
    by, of
        The column and its text; empty for all rows.
    first
        The first day.
    counts
        Rows of each day from then on, also where there are none.
    visit
        Rows that come together, of a typical row: chance is about visits, not about their lines.
    """

    by: str
    of: str
    first: date
    counts: npt.NDArray[np.int64]
    visit: float = 1.0

    @property
    def name(self) -> str:
        """What is counted."""
        return f"{self.by} {self.of}" if self.by else ALL_ROWS


@dataclass(frozen=True)
class Unusual:
    """A day or a week that is unlike the others."""

    sort: Sort
    series: str
    day: date
    expected: float
    found: float

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return {**asdict(self), "day": self.day.isoformat()}


def volumes_of(tables: Tables, name: str) -> list[Volume]:
    """Return the daily volumes of a table: all rows, and those of its most frequent kinds."""
    day = f"{quoted(AT)}::DATE"
    span = tables.con.execute(f"SELECT min({day}), max({day}) FROM {name}").fetchone()
    if span is None or span[0] is None:
        return []
    first, last = span
    keys = [column for column in (CUSTOMER_ID, ORDER_ID) if column in TABLES[name].names]
    visits = f"SELECT count(*)::DOUBLE AS n FROM {name} WHERE coalesce({', '.join(keys)}) IS NOT NULL "
    visits += f"GROUP BY coalesce({', '.join(keys)}), {day}"
    row = tables.con.execute(f"SELECT sum(n * n) / sum(n) FROM ({visits})").fetchone()
    visit = float(row[0]) if row and row[0] else 1.0
    volumes = []
    for by in ("", *DATED.get(name, ())):
        key = quoted(by) if by else "''"
        query = f"SELECT {key}, {day}, count(*) FROM {name} WHERE {key} IS NOT NULL GROUP BY ALL"
        series: dict[str, npt.NDArray[np.int64]] = {}
        for of, at, rows in tables.con.execute(query).fetchall():
            if str(of) not in series:
                series[str(of)] = np.zeros((last - first).days + 1, dtype=np.int64)
            series[str(of)][(at - first).days] = rows
        most = sorted(series, key=lambda of: (-int(series[of].sum()), of))[:_SERIES]
        # One store's days are the shop's own: a column with one text says nothing that all rows do not.
        volumes += [Volume(by, of, first, series[of], visit) for of in most if not by or len(series) > 1]
    return volumes


def unusual(volume: Volume) -> list[Unusual]:
    """Return the days and weeks of a series that are unlike the others, in order of time.

    Parameters
    ----------
    volume
        Rows a day; days before the first and after the last row of the series are not judged, nor are
        these two.
    """
    there = np.flatnonzero(volume.counts)
    if not len(there):
        return []
    start, end = int(there[0]) + 1, int(there[-1])
    counts = volume.counts[start:end].astype(np.float64)
    first = volume.first + timedelta(days=start)
    counts /= volume.visit
    days = _days(volume.name, first, counts)
    for one in days:
        if one.sort == "day":  # one day's batch does not make the week another
            counts[(one.day - first).days] = one.expected
    found = [*days, *_weeks(volume.name, first, counts)]
    rows = [
        replace(one, expected=one.expected * volume.visit, found=one.found * volume.visit) for one in found
    ]
    return sorted(rows, key=lambda one: (one.day, one.sort))


def _days(name: str, first: date, counts: npt.NDArray[np.float64]) -> list[Unusual]:
    expected = np.full(len(counts), np.nan)
    for i in range(len(counts)):
        around = [i + 7 * k for k in range(-_AROUND, _AROUND + 1) if k and 0 <= i + 7 * k < len(counts)]
        if len(around) >= _AROUND:
            expected[i] = np.median(counts[around])
    judged = np.flatnonzero(expected >= _LEAST_DAY)
    far, size = _far(counts[judged], expected[judged])
    found = []
    for i in judged[far & ((size > np.log(_DAY_TIMES)) | (counts[judged] == 0))]:
        sort: Sort = "day" if counts[i] else "gap"
        found.append(
            Unusual(sort, name, first + timedelta(days=int(i)), float(expected[i]), float(counts[i]))
        )
    return found


def _weeks(name: str, first: date, counts: npt.NDArray[np.float64]) -> list[Unusual]:
    skip = -first.weekday() % 7
    weeks = counts[skip : skip + (len(counts) - skip) // 7 * 7].reshape(-1, 7).sum(axis=1)
    expected = np.full(len(weeks), np.nan)
    for i in range(_AROUND, len(weeks)):
        expected[i] = np.median(weeks[max(i - _BEFORE, 0) : i])
    judged = np.flatnonzero(expected >= _LEAST_WEEK)
    far, size = _far(weeks[judged], expected[judged])
    found: list[Unusual] = []
    last = (-2, 0.0)
    for i in judged[far & (size > np.log(_WEEK_TIMES))]:
        sign = float(np.sign(weeks[i] - expected[i]))
        if last != (i - 1, sign):  # a new level is told when it begins
            monday = first + timedelta(days=skip + 7 * int(i))
            found.append(Unusual("week", name, monday, float(expected[i]), float(weeks[i])))
        last = (int(i), sign)
    return found


def _far(
    counts: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Return which counts lie beyond chance, and the sizes of their log ratios."""
    if not len(counts):
        return np.zeros(0, dtype=bool), np.zeros(0)
    ratio = np.log((counts + 0.5) / (expected + 0.5))
    chance = _POISSON / (expected + 0.5)
    spread = 1.4826 * float(np.median(np.abs(ratio[counts > 0]))) if (counts > 0).any() else 0.0
    size: npt.NDArray[np.float64] = np.abs(ratio)
    return size > _SIGMAS * np.sqrt(np.maximum(spread**2, chance)), size


def _days_of(one: Unusual) -> list[date]:
    return [one.day + timedelta(days=i) for i in range(7 if one.sort == "week" else 1)]


def volume_findings(
    table: str, found: Sequence[Unusual], *, days: int, known: Collection[date] = ()
) -> list[Finding]:
    """Return what is told of unusual days and weeks.

    Parameters
    ----------
    table
        The table.
    found
        Its unusual days and weeks.
    days
        Days from the first row to the last.
    known
        Days that the last run saw as they are, and told.
    """
    messages: dict[Sort, tuple[str, int, str]] = {
        "gap": (
            "days without rows",
            days,
            "expected rows on these days, as the same weekday has, found none; load them if the shop was open",
        ),
        "day": (
            "days of usual volume",
            days,
            "expected about as many rows as on the same weekday four weeks around, found many more or fewer; "
            "look for batches that are missing, doubled or dated wrongly",
        ),
        "week": (
            "weeks of usual volume",
            days // 7,
            "expected about as many rows as in the eight weeks before, found many more or fewer, from this "
            "week on; look whether the shop or the recording changed",
        ),
    }
    findings = []
    for sort, (check, total, message) in messages.items():
        mine = [one for one in found if one.sort == sort]
        fresh = [one for one in mine if any(day not in known for day in _days_of(one))]
        told = (
            ""
            if len(fresh) == len(mine)
            else f" ({len({o.day for o in mine} - {o.day for o in fresh})} older, told before)"
        )
        count = len({one.day for one in fresh})
        biggest = sorted(
            fresh, key=lambda o: (-abs(np.log((o.found + 0.5) / (o.expected + 0.5))), o.day, o.series)
        )
        examples = tuple(
            {
                "day" if sort != "week" else "week of": one.day.isoformat(),
                "rows of": one.series,
                "expected": round(one.expected),
                "found": round(one.found),
            }
            for one in biggest
        )
        findings.append(
            Finding(check, table, "WARN" if fresh else "PASS", count, total, message + told, examples)
        )
    return findings
