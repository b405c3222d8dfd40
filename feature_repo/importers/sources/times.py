"""SQL that reads times as others write them, and places local ones in UTC.

A local time is not always an instant: when clocks go forward an hour is missing, when they go back one comes
twice. Both are decided and counted: a time in the gap is read with the offset that held before it (02:30 is half
an hour after 02:00 normal time), a time that comes twice is the earlier of the two. Deliberately absent: formats
that are guessed, since 03.04. is two days.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from feature_repo.casts import cast, literal
from feature_repo.errors import ConfigError
from feature_repo.importers.sources.source_map import EPOCHS, nearest

__all__ = ["check_format", "check_zone", "gap", "in_utc", "instant", "local", "twice"]

_OFFSET = "[0-9]{2}:[0-9]{2}[^+-]*(Z|[+-][0-9]{2}(:?[0-9]{2})?)$"
# By how much clocks go back: nearly everywhere, on Lord Howe, in Antarctica. ICU answers with the later of two times.
_MINUTES = (60, 30, 120)


def check_zone(con: duckdb.DuckDBPyConnection, zone: str, *, where: str) -> None:
    """Raise ConfigError if there is no such time zone."""
    known = [
        str(row[0]) for row in con.execute("SELECT name FROM pg_timezone_names() ORDER BY name").fetchall()
    ]
    if zone not in known:
        hint = nearest(zone, known)
        hint = hint if hint.startswith("did") else "write for instance Europe/Berlin, Asia/Shanghai or UTC"
        raise ConfigError(f"expected an IANA time zone in {where}, found {zone!r}; {hint}")


def check_format(con: duckdb.DuckDBPyConnection, form: str, *, where: str) -> None:
    """Raise ConfigError if a time format cannot be read."""
    if form == "iso" or form in EPOCHS:
        return
    try:
        if "%" not in form:
            raise ConfigError(
                f"expected iso, {', '.join(EPOCHS)} or a strptime format in {where}, found {form!r}; "
                "write for instance %d.%m.%Y %H:%M"
            )
        con.execute(f"SELECT try_strptime('', {literal(form)})")
    except duckdb.Error as error:
        found = str(error).strip().split("\n", 1)[0]
        raise ConfigError(
            f"expected a strptime format in {where}, found {form!r} ({found}); write for instance %d.%m.%Y %H:%M"
        ) from error


def instant(text: str, formats: Sequence[str]) -> str:
    """Return SQL for the UTC time of a text that says its offset itself, NULL for others."""
    parts = []
    for form in formats:
        if form in EPOCHS:
            number = f"CASE WHEN regexp_matches({text}, '^-?[0-9]+([.][0-9]+)?$') THEN try_cast({text} AS DOUBLE) END"
            parts.append(f"make_timestamp(try_cast(round({number} * {EPOCHS[form]!r}) AS BIGINT))")
        elif form == "iso":
            parts.append(
                f"CASE WHEN regexp_matches({text}, {literal(_OFFSET)}) THEN {cast(text, 'VARCHAR', 'timestamp')} END"
            )
        elif _has_offset(form):
            parts.append(f"make_timestamp(epoch_us(try_strptime({text}, {literal(form)})))")
    return f"coalesce({', '.join(parts)})" if parts else "NULL::TIMESTAMP"


def local(text: str, formats: Sequence[str]) -> str:
    """Return SQL for the local time of a text that says no offset, NULL for others."""
    parts = []
    for form in formats:
        if form == "iso":
            plain = cast(text, "VARCHAR", "timestamp")  # the connection is in UTC: the clock's digits stay
            parts.append(f"CASE WHEN NOT regexp_matches({text}, {literal(_OFFSET)}) THEN {plain} END")
        elif form not in EPOCHS and not _has_offset(form):
            parts.append(f"try_strptime({text}, {literal(form)})::TIMESTAMP")
    return f"coalesce({', '.join(parts)})" if parts else "NULL::TIMESTAMP"


def in_utc(clock: str, zone: str) -> str:
    """Return SQL for the UTC time at which clocks in ``zone`` show ``clock``; of two, the earlier."""
    if zone == "UTC":
        return clock
    there = f"({clock} AT TIME ZONE {literal(zone)})"
    earlier = "".join(
        f" WHEN ({there} - INTERVAL {minutes} MINUTE) AT TIME ZONE {literal(zone)} = {clock} "
        f"THEN {there} - INTERVAL {minutes} MINUTE"
        for minutes in _MINUTES
    )
    return f"make_timestamp(epoch_us(CASE{earlier} ELSE {there} END))"


def gap(clock: str, zone: str) -> str:
    """Return SQL that is true for a time that clocks in ``zone`` never show."""
    return (
        "FALSE"
        if zone == "UTC"
        else f"coalesce(({clock} AT TIME ZONE {literal(zone)}) AT TIME ZONE {literal(zone)} <> {clock}, FALSE)"
    )


def twice(clock: str, zone: str) -> str:
    """Return SQL that is true for a time that clocks in ``zone`` show twice."""
    if zone == "UTC":
        return "FALSE"
    there = f"({clock} AT TIME ZONE {literal(zone)})"
    again = " OR ".join(
        f"({there} - INTERVAL {minutes} MINUTE) AT TIME ZONE {literal(zone)} = {clock}"
        for minutes in _MINUTES
    )
    return f"coalesce({again}, FALSE)"


def _has_offset(form: str) -> bool:
    return "%z" in form or "%Z" in form
