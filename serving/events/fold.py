"""The fold of the event log into recent histories: what an event makes of a customer's row.

A history holds the last ``HISTORY_LENGTH`` events by their own time, oldest first, those of one instant in the order
in which they were logged. An event that the history has already, to the microsecond and the cent, is the same event
come back through the tables: it counts once. So folding a log, in any grouping and however often from any point,
over what the tables held gives one and the same row.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from feature_repo import schema as s
from feature_repo.names import HISTORY_LENGTH
from serving.events.records import Event

#: One event of a row: (microseconds, product_id, kind, value).
Line = tuple[int, str, str, float]
Lines = tuple[Line, ...]

#: Before the id of a session, where a customer's would stand; no customer_id of the API holds a control character.
_SESSION: Final = "\x1fsession:"


def session_key(session_id: str) -> str:
    """Return the key under which the history of a session is kept beside those of customers."""
    return _SESSION + session_id


def is_session(key: str) -> bool:
    """Whether a key is that of a session."""
    return key.startswith(_SESSION)


def key_of(event: Event) -> str | None:
    """Return whose history an event belongs to: the customer's, else the session's; None for no interaction."""
    if event.kind not in s.KINDS:
        return None  # seen, or waved away: nothing that the tables would tell of
    if event.customer_id is not None:
        return event.customer_id
    return None if event.session_id is None else session_key(event.session_id)


def line_of(event: Event) -> Line:
    """Return the event as a line of a history."""
    return (event.at, event.product_id, event.kind, float(event.value))


def folded(lines: Lines, line: Line) -> Lines:
    """Return a history with one more event."""
    if line in lines:
        return lines
    place = bisect_right(lines, line[0], key=lambda held: held[0])
    return (*lines[:place], line, *lines[place:])[-HISTORY_LENGTH:]


def merged(lines: Lines, others: Lines) -> Lines:
    """Return the history of both; of events of one instant those of ``lines`` stand first."""
    for line in others:
        lines = folded(lines, line)
    return lines
