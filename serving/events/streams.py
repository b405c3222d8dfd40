"""The three streams of the log, and what an entry of one is.

The log stamps every entry with its own time, in microseconds and strictly increasing within a stream whatever
the machine's clock does; that stamp is the entry's place, and the offset a reader goes on from is its text. A
reader that has come to an offset never misses a later entry: entries become visible in the order of their stamps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from serving.errors import DataError
from serving.events.records import Change, Event, Exposure

R = TypeVar("R")

#: For how long after an event was logged a repetition is recognised, at the least and whatever is trimmed.
KNOWN_DAYS: Final = 30


@dataclass(frozen=True)
class Entry(Generic[R]):
    """One entry: where to read on from, when it was logged (microseconds), and what was logged."""

    offset: str
    logged_at: int
    record: R


@dataclass(frozen=True)
class Stream(Generic[R]):
    """One stream of the log, by name, and how its records are read."""

    name: str
    decode: Callable[[bytes | str], R]

    def entry(self, logged_at: int, raw: bytes | str) -> Entry[R]:
        """Return the entry of a stored record; DataError when it is none of this stream's."""
        try:
            return Entry(str(logged_at), logged_at, self.decode(raw))
        except (TypeError, ValueError, KeyError) as error:
            raise DataError(
                f"expected a record of {self.name} at offset {logged_at}, found {raw[:200]!r} ({error}); "
                "it was not written by this log, or by a later version: use that one, or remove it"
            ) from error


EVENTS: Final = Stream("events", Event.from_json)
CHANGES: Final = Stream("changes", Change.from_json)
EXPOSURES: Final = Stream("exposures", Exposure.from_json)


def place(after: str | None) -> int:
    """Return the log time an offset stands for, 0 for the beginning; DataError when it is no offset."""
    if after is None:
        return 0
    if not (after.isascii() and after.isdigit()):
        raise DataError(f"expected an offset that the log gave, found {after!r}; read from the beginning")
    return int(after)


def now_micros() -> int:
    """Return the machine's time in microseconds since 1970 UTC."""
    return time.time_ns() // 1000
