"""Where the time of an answer goes: stages, timed where somebody watches.

A stage is marked where it is done, ``with stage("search"):``, whatever function that is in; it costs next to nothing
while nobody watches. Stages of one name add up; they do not nest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter
from typing import Final, Literal

StageName = Literal["features", "filters", "encode", "search", "rank", "reasons", "exposure", "json"]
STAGES: Final[tuple[StageName, ...]] = (
    "features",
    "filters",
    "encode",
    "search",
    "rank",
    "reasons",
    "exposure",
    "json",
)
_watched: ContextVar[dict[StageName, float] | None] = ContextVar("watched", default=None)


class stage:  # noqa: N801 - a context manager, in lower case as those of contextlib
    """Times a block as one stage of what is watched."""

    __slots__ = ("_name", "_start")

    def __init__(self, name: StageName) -> None:
        self._name = name

    def __enter__(self) -> None:
        self._start = perf_counter()

    def __exit__(self, *raised: object) -> None:
        seconds = _watched.get()
        if seconds is not None:
            seconds[self._name] = seconds.get(self._name, 0.0) + perf_counter() - self._start


@contextmanager
def watched() -> Iterator[dict[StageName, float]]:
    """Watch the stages of a block; yield the dictionary that their seconds are summed in."""
    seconds: dict[StageName, float] = {}
    token = _watched.set(seconds)
    try:
        yield seconds
    finally:
        _watched.reset(token)
