"""What must hold of the event log, the online store and the answers after whatever happened to a service.

The expected histories are folded here from scratch: the log's events over the rows of the tables.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from eval.benchmarks.clients import LATE, NOTHING, RECOMMEND, TELL, Seen
from eval.benchmarks.own_home import OwnHome
from feature_repo.store import open_store
from serving.events import EVENTS, EXPOSURES, Entry, EventLog, Stream, settle
from serving.events.fold import Lines, folded, key_of, line_of
from serving.events.live import event_log, states
from serving.events.rows import RecentRows

_CONSUMED_SECONDS: Final = 30.0
_PAGE: Final = 2_000
#: What an event may be answered besides 200: it is told again.
_LOG_DOWN: Final = "503 log_unavailable"


def wait_until_consumed(home: OwnHome) -> bool:
    """Wait until the running consumer has folded and pushed the whole log; False when it does not within 30 s."""
    log, held = event_log(home.settings), states(home.settings)
    try:
        deadline = time.monotonic() + _CONSUMED_SECONDS
        while time.monotonic() < deadline:
            position = held.position()
            if position.pushed == position.stamp and not log.read(EVENTS, after=position.offset, limit=1):
                return True
            time.sleep(0.1)
        return False
    finally:
        held.close()
        log.close()


def examine(home: OwnHome, seen: Sequence[Seen]) -> tuple[dict[str, Any], list[str]]:
    """Return what is found in the stores of a stopped service, and the laws that are broken.

    Parameters
    ----------
    home
        Whose service has ended, after ``wait_until_consumed``.
    seen
        What all clients saw that ever told it something.
    """
    log = event_log(home.settings)
    try:
        settle(home.settings.events / "exposures", log)
        events, exposures = everything(log, EVENTS), everything(log, EXPOSURES)
        lost = log.exposures_lost()
    finally:
        log.close()
    broken = of_answers(seen)
    told, more = of_events([entry.record.event_id for entry in events], seen)
    shown, yet_more = of_exposures([entry.record.request_id for entry in exposures], lost, seen)
    rows, most = of_rows(home, events)
    return {**told, **shown, **rows}, [*broken, *more, *yet_more, *most]


def of_answers(seen: Sequence[Seen]) -> list[str]:
    """Nothing fails that what happened does not excuse, and of the log's faults only the telling of events may know."""
    broken = []
    for one in seen:
        broken += [f"an acknowledged event was not taken: {text}" for text in one.wrong[:3]]
        for (path, outcome), count in sorted(one.answers.items()):
            allowed = {"200", *one.excused, *([_LOG_DOWN] if path == TELL else [])}
            if outcome not in allowed:
                broken.append(f"{path} was answered {count} times with: {outcome}")
        if one.without_retry:
            broken.append(f"{one.without_retry} answers of 429 or 503 came without Retry-After")
    return broken


def of_events(logged: Sequence[str], seen: Sequence[Seen]) -> tuple[dict[str, Any], list[str]]:
    """Every acknowledged event is in the log exactly once, and nothing is there that nobody told."""
    told = {event_id for one in seen for event_id in one.told}
    acknowledged = {event_id for one in seen for event_id in one.acknowledged}
    found = set(logged)
    counts = {
        "events_told": len(told),
        "events_acknowledged": len(acknowledged),
        "events_logged": len(logged),
        "events_lost": len(acknowledged - found),
        "events_twice": len(logged) - len(found),
    }
    broken = []
    if acknowledged - found:
        broken.append(f"{len(acknowledged - found)} acknowledged events are not in the log")
    if len(logged) != len(found):
        broken.append(f"{len(logged) - len(found)} events are in the log twice")
    if found - told:
        broken.append(f"{len(found - told)} events are in the log that nobody told")
    if told - acknowledged:
        broken.append(f"{len(told - acknowledged)} events were told for half a minute and never acknowledged")
    return counts, broken


def of_exposures(logged: Sequence[str], lost: int, seen: Sequence[Seen]) -> tuple[dict[str, Any], list[str]]:
    """Every answer is in the log once, or counted as lost; a loss without an answer is of a request without one."""
    shown = {request_id for one in seen for request_id in one.shown}
    missing = len(shown - set(logged))
    unanswered = sum(one.count(RECOMMEND, NOTHING, LATE) for one in seen)
    counts = {"answers": len(shown), "exposures_logged": len(logged), "exposures_lost": lost}
    broken = []
    if len(set(logged)) != len(logged):
        broken.append(f"{len(logged) - len(set(logged))} exposures are in the log twice")
    if not missing <= lost <= missing + unanswered:
        broken.append(
            f"{lost} exposures are counted as lost where {missing} answers are missing and {unanswered} requests "
            "had no answer"
        )
    return counts, broken


def of_rows(home: OwnHome, events: Sequence[Entry[Any]]) -> tuple[dict[str, Any], list[str]]:
    """The rows that are online and the consumer's state are the fold of the log over the tables' histories."""
    touched: dict[str, Lines] = {}
    for entry in events:
        if (key := key_of(entry.record)) is not None:
            touched[key] = folded(touched.get(key, home.base.get(key, ())), line_of(entry.record))
    expected = {**home.base, **touched}
    rows = RecentRows(lambda: open_store(home.settings.store, offline=False))
    held = states(home.settings)
    keys = list(expected)
    try:
        online: dict[str, Lines] = {}
        for start in range(0, len(keys), _PAGE):
            online |= rows.read(keys[start : start + _PAGE])
        state = held.lines(list(touched))
    finally:
        held.close()
    wrong_rows = [key for key in keys if online.get(key, ()) != expected[key]]
    wrong_states = [key for key in touched if state.get(key) != touched[key]]
    counts = {"rows": len(keys), "rows_wrong": len(wrong_rows), "states_wrong": len(wrong_states)}
    broken = [
        f"{len(wrong)} of {what} differ from a replay of the log, {wrong[0]!r} among them"
        for what, wrong in (("the rows online", wrong_rows), ("the consumer's histories", wrong_states))
        if wrong
    ]
    return counts, broken


def everything(log: EventLog, stream: Stream[Any]) -> list[Entry[Any]]:
    """Return all entries of a stream."""
    found: list[Entry[Any]] = []
    while entries := log.read(stream, after=found[-1].offset if found else None, limit=_PAGE):
        found += entries
    return found
