"""``inspect``: tables as ``validate`` sees them row by row, and as a whole beside the last run and the last weeks.

What is asked of rows is in ``checks``; here whole tables are compared: with an earlier profile
(``quality_drift``, ``quality_batches``), the last four weeks with the four before, and each day with those
around it (``quality_volumes``). None of it fails a run but the loss of half a table: a shop may change.
Deliberately absent: the clock, printing and writing; storing a profile is the caller's word (``quality_store``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from feature_repo.casts import quoted
from feature_repo.checks_form import Finding
from feature_repo.quality_batches import batch_findings, table_findings
from feature_repo.quality_counts import count_facets, facets_of, profile_of
from feature_repo.quality_drift import Drift, compare_columns, drift_findings
from feature_repo.quality_profile import ColumnProfile, Profile, TableProfile
from feature_repo.quality_store import earlier_profile
from feature_repo.quality_volumes import ALL_ROWS, DATED, Unusual, unusual, volume_findings, volumes_of
from feature_repo.schema import AT, AVAILABLE, CATEGORY, INTERACTIONS, MARGIN, PRICE, TABLES, VALUE
from feature_repo.tables import Tables
from feature_repo.validate import Validation, check_rows

__all__ = ["Inspection", "inspect"]

_WEEKS: Final = timedelta(weeks=4)
_EXAMPLES: Final = 5
_ENOUGH: Final = 20  # rows of which one expects that they differ
_VARY: Final = (PRICE, MARGIN, CATEGORY, VALUE)


@dataclass(frozen=True)
class Inspection:
    """All that is told of a directory of tables.

    Attributes
    ----------
    validation
        The findings, those about rows and those about whole tables, table by table.
    profile
        The tables as they are.
    earlier
        What they were compared with; None on a first run.
    drifts
        Table → its columns beside those of the earlier run.
    latest
        Table → its columns in the last four weeks beside the four before.
    unusual
        Table → days and weeks unlike the others.
    hours
        Interactions by weekday (Monday first) and hour (UTC); empty where times are dates.
    """

    validation: Validation
    profile: Profile
    earlier: Profile | None
    drifts: dict[str, tuple[Drift, ...]] = field(default_factory=dict)
    latest: dict[str, tuple[Drift, ...]] = field(default_factory=dict)
    unusual: dict[str, tuple[Unusual, ...]] = field(default_factory=dict)
    hours: tuple[tuple[int, ...], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return findings, comparisons and volumes as JSON-ready values."""
        drifts = {"last_run": self.drifts, "last_weeks": self.latest}
        return {
            **self.validation.to_dict(),
            "compared_with": None if self.earlier is None else self.earlier.made_at,
            "drift": {
                what: {name: [drift.to_dict() for drift in of] for name, of in tables.items()}
                for what, tables in drifts.items()
            },
            "unusual": {name: [one.to_dict() for one in of] for name, of in self.unusual.items()},
            "tables": {
                name: {
                    "rows": table.rows,
                    "first": table.first,
                    "last": table.last,
                    "filled": {column: profile.share for column, profile in table.columns.items()},
                    "weeks": table.weeks,
                }
                for name, table in self.profile.tables.items()
            },
        }


def inspect(
    tables_dir: str | Path,
    *,
    now: datetime | None = None,
    against: Profile | None = None,
    memory_limit: str = "1GB",
) -> Inspection:
    """Check the rows of a directory of tables, and compare the tables with an earlier run.

    Parameters
    ----------
    tables_dir
        Folder of ``<table>.parquet`` or ``<table>.csv`` files.
    now
        The present; see ``validate``.
    against
        The earlier profile; by default the newest stored beside the tables that tells of other data.
    memory_limit
        Of DuckDB.

    Returns
    -------
    Inspection
        Findings, and what they were made of.

    Raises
    ------
    DataError
        The directory is not there. All that is wrong inside it is a finding.
    """
    made_at = "" if now is None else now.astimezone(UTC).isoformat(timespec="seconds")
    with Tables.open(tables_dir, memory_limit=memory_limit, strict=False) as tables:
        rows = check_rows(tables, now=now)
        profile = profile_of(tables, made_at=made_at)
        earlier = against or earlier_profile(tables_dir, than=profile)
        drifts, latest, odd = {}, {}, {}
        wholes: list[Finding] = [] if earlier is None else table_findings(earlier, profile)
        for name in profile.tables:
            old = None if earlier is None else earlier.tables.get(name)
            wholes += _constant(name, profile.tables[name].columns)
            if earlier is not None and old is not None:
                facets = facets_of(tables, name)
                same = count_facets(tables.con, f"typed_{name}", facets, like=old.columns)
                drifts[name] = compare_columns(old.columns, same, seen=profile.tables[name].columns)
                wholes += drift_findings(
                    drifts[name], table=name, then="the last run", now="this run", what="as in the last run"
                )
                same_engine = earlier.engine == profile.engine
                wholes += batch_findings(name, old, profile.tables[name], same_engine=same_engine)
            if name in DATED:
                odd[name] = _unusual(tables, name)
                known = (
                    _unchanged(old, profile.tables[name]) if old is not None and against is None else set()
                )
                first, last = _day(profile.tables[name].first), _day(profile.tables[name].last)
                days = (last - first).days + 1 if first and last else 0
                wholes += volume_findings(name, odd[name], days=days, known=known)
                latest[name] = _latest(tables, name, last)
                if latest[name]:
                    wholes += drift_findings(
                        latest[name],
                        table=name,
                        then="the four weeks before",
                        now="the last four weeks",
                        what="in the last weeks",
                    )
        hours = _hours(tables) if tables.has(INTERACTIONS) else ()
    order = {name: i for i, name in enumerate(TABLES)}
    whole = [_short(finding) for finding in wholes]
    findings = tuple(sorted([*rows, *whole], key=lambda finding: order[finding.table]))
    return Inspection(Validation(str(tables_dir), findings), profile, earlier, drifts, latest, odd, hours)


def _short(finding: Finding) -> Finding:
    if len(finding.examples) <= _EXAMPLES:
        return finding
    return Finding(**{**finding.__dict__, "examples": finding.examples[:_EXAMPLES]})


def _unchanged(old: TableProfile, new: TableProfile) -> set[date]:
    """Return the days up to the end of the earlier data whose rows, if any, are those of then."""
    first, last = _day(old.first), _day(old.last)
    if first is None or last is None:
        return set()
    days = (first + timedelta(days=i) for i in range((last - first).days + 1))
    return {day for day in days if old.days.get(day.isoformat()) == new.days.get(day.isoformat())}


def _unusual(tables: Tables, name: str) -> tuple[Unusual, ...]:
    """Return unusual days and weeks; what all rows show is not told again of each kind, channel and store."""
    found: list[Unusual] = []
    for volume in volumes_of(tables, name):
        known = {(one.sort, one.day) for one in found if one.series == ALL_ROWS}
        found += [one for one in unusual(volume) if not volume.by or (one.sort, one.day) not in known]
    return tuple(found)


def _latest(tables: Tables, name: str, last: date | None) -> tuple[Drift, ...]:
    """Compare the four weeks before the last day, which may be unfinished, with the four before them."""
    if last is None:
        return ()
    middle, start = last - _WEEKS, last - 2 * _WEEKS
    at = quoted(AT)
    span = tables.con.execute(f"SELECT min({at})::DATE FROM {name}").fetchone()
    if span is None or span[0] is None or span[0] > start:
        return ()
    facets = [facet for facet in facets_of(tables, name) if facet.column != AT]
    tables.con.execute(
        f"CREATE OR REPLACE TEMP TABLE recent AS SELECT *, {at} >= TIMESTAMP '{middle.isoformat()}' AS later "
        f"FROM typed_{name} WHERE {at} >= TIMESTAMP '{start.isoformat()}' AND {at} < TIMESTAMP '{last.isoformat()}'"
    )
    before = count_facets(tables.con, "(FROM recent WHERE NOT later)", facets)
    after = count_facets(tables.con, "(FROM recent WHERE later)", facets, like=before)
    own = count_facets(tables.con, "(FROM recent WHERE later)", [f for f in facets if before[f.label].texts])
    tables.con.execute("DROP TABLE recent")
    return compare_columns(before, after, seen=own)


def _constant(name: str, columns: Mapping[str, ColumnProfile]) -> list[Finding]:
    """Return whether columns that should differ between rows do; flags and defaults may be the same."""
    known = {column.name for column in TABLES[name].columns}
    asked = {
        column: profile
        for column, profile in columns.items()
        if profile.filled >= _ENOUGH
        and (profile.texts or profile.edges)
        and profile.dtype != "bool"
        and column != AVAILABLE
        and (column in _VARY or (column not in known and "[" not in column))
    }
    if not asked:
        return []
    same = {column: profile for column, profile in asked.items() if max(profile.counts) == profile.filled}
    return [
        Finding(
            "columns vary",
            name,
            "WARN" if same else "PASS",
            len(same),
            len(asked),
            "expected rows to differ, found one value in all that have any; such a column tells nothing: look "
            "whether the export filled it in",
            tuple(
                {"column": column, "value": profile.texts[0] if profile.texts else f"{profile.edges[-1]:g}"}
                for column, profile in same.items()
            ),
        )
    ]


def _hours(tables: Tables) -> tuple[tuple[int, ...], ...]:
    at = quoted(AT)
    query = f"SELECT isodow({at}) - 1, hour({at}), count(*) FROM {INTERACTIONS} GROUP BY ALL"
    grid = [[0] * 24 for _ in range(7)]
    for weekday, hour, rows in tables.con.execute(query).fetchall():
        grid[weekday][hour] = rows
    if not any(any(of_day[1:]) for of_day in grid):
        return ()
    return tuple(tuple(of_day) for of_day in grid)


def _day(instant: str) -> date | None:
    return date.fromisoformat(instant[:10]) if instant else None
