"""What an earlier run knew of the past, beside what is known of it now: rows that came late, and that are gone.

A table grows at its end. Rows that appear before the end of the earlier run's data were not known when a
model was trained on it; rows that vanish or change were, and now are not. Both are seen from the rows and
hashes of days, without keeping a row. The last two days of the earlier run are not judged: they may have been
unfinished, and events come a little late. Deliberately absent: batches that are there twice
(``checks_batches``), which need no earlier run.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Final

from feature_repo.checks_form import MOST, Finding, Status
from feature_repo.quality_profile import Profile, TableProfile

__all__ = ["batch_findings", "table_findings"]

_GRACE: Final = timedelta(days=1)
_LATE: Final = 0.001  # share of all rows that may come late
_LATE_WEEK: Final = 0.01  # share of a week's rows that may


def batch_findings(name: str, then: TableProfile, now: TableProfile, *, same_engine: bool) -> list[Finding]:
    """Return what is told of the days before the end of the earlier run's data.

    Parameters
    ----------
    name
        The table.
    then, now
        Its profiles; without days there is nothing to tell.
    same_engine
        Whether the hashes of the days can be compared.
    """
    if not then.days or not now.days:
        return []
    end = date.fromisoformat(max(then.days)) - _GRACE
    past = {day for day in (*then.days, *now.days) if date.fromisoformat(day) < end}
    late: dict[str, int] = {}
    gone: dict[str, int] = {}
    changed: list[str] = []
    for day in sorted(past):
        (rows_then, hash_then), (rows_now, hash_now) = then.days.get(day, (0, "")), now.days.get(day, (0, ""))
        if rows_now > rows_then:
            late[day] = rows_now - rows_then
        elif rows_now < rows_then:
            gone[day] = rows_then - rows_now
        elif same_engine and hash_now != hash_then:
            changed.append(day)
    return [_late(name, late, then, now), _gone(name, gone, changed, then)]


def _late(name: str, late: Mapping[str, int], then: TableProfile, now: TableProfile) -> Finding:
    weeks, known = _by_week(late), _by_week({day: rows for day, (rows, _) in then.days.items()})
    count = sum(weeks.values())
    heavy = any(rows > _LATE_WEEK * known.get(week, 0) for week, rows in weeks.items())
    status: Status = "WARN" if count and (heavy or count > _LATE * then.rows) else "PASS"
    return Finding(
        "rows arrive in time",
        name,
        status,
        count,
        now.rows,
        f"expected new rows after {max(then.days)}, where the last run's data ended, found some before it; what "
        "was trained and measured on the last run did not know them: build features and train again",
        tuple(
            {"week of": week, "late": rows, "then": known.get(week, 0)}
            for week, rows in sorted(weeks.items(), key=lambda one: (-one[1], one[0]))
        ),
    )


def _gone(name: str, gone: Mapping[str, int], changed: list[str], then: TableProfile) -> Finding:
    count = sum(gone.values()) + sum(then.days[day][0] for day in changed)
    status: Status = "WARN" if count else "PASS"
    if sum(gone.values()) > MOST * then.rows:
        status = "FAIL"
    lines = [{"day": day, "rows gone": rows, "then": then.days[day][0]} for day, rows in gone.items()]
    lines += [{"day": day, "rows gone": 0, "then": then.days[day][0], "changed": "yes"} for day in changed]
    return Finding(
        "the past stays",
        name,
        status,
        count,
        then.rows,
        "expected the rows of the last run to be there as they were, found days with fewer or other rows; look "
        "whether an export was cut or corrected: what was measured on it cannot be measured again",
        tuple(sorted(lines, key=lambda line: (-int(str(line["rows gone"])), str(line["day"])))),
    )


def table_findings(then: Profile, now: Profile) -> list[Finding]:
    """Return what is told of tables, rows and columns that were there in the earlier run."""
    findings = []
    for name, old in then.tables.items():
        new = now.tables.get(name)
        if new is None:
            message = (
                "the last run had this table, and it is not there or cannot be read now; export it again"
            )
            findings.append(Finding("rows as in the last run", name, "WARN", old.rows, old.rows, message))
            continue
        lost = max(old.rows - new.rows, 0)
        status: Status = "FAIL" if lost > MOST * old.rows else "WARN" if lost else "PASS"
        message = f"expected at least the {old.rows:,} rows of the last run, found {new.rows:,}; " + (
            "look whether the export was cut" if lost else "none are missing"
        )
        findings.append(Finding("rows as in the last run", name, status, lost, old.rows, message))
        findings.append(_columns(name, old, new))
    return findings


def _columns(name: str, old: TableProfile, new: TableProfile) -> Finding:
    lost = [column for column in old.columns if column not in new.columns and "[" not in column]
    other = [
        column
        for column, profile in old.columns.items()
        if column in new.columns and new.columns[column].dtype != profile.dtype
    ]
    came = [column for column in new.columns if column not in old.columns and "[" not in column]
    told = f" (new: {', '.join(came)})" if came else ""
    return Finding(
        "columns as in the last run",
        name,
        "WARN" if lost or other else "PASS",
        len(lost) + len(other),
        len(old.columns),
        f"expected the columns of the last run with their types{told}; "
        + ("rename or export them again, since features are made of them" if lost or other else "they are"),
        (
            *({"column": column, "found": "not there"} for column in lost),
            *(
                {"column": column, "then": old.columns[column].dtype, "found": new.columns[column].dtype}
                for column in other
            ),
        ),
    )


def _by_week(days: Mapping[str, int]) -> dict[str, int]:
    weeks: dict[str, int] = {}
    for text, rows in days.items():
        day = date.fromisoformat(text)
        monday = (day - timedelta(days=day.weekday())).isoformat()
        weeks[monday] = weeks.get(monday, 0) + rows
    return weeks
