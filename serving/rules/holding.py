"""Which rules hold for a request, found without asking each of them, and what was made of those that hold together."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, Generic, TypeVar

from serving.rules.config import Rule

R = TypeVar("R", bound=Rule)
T = TypeVar("T")

#: So many kinds of requests are kept apart; where there are more, what was kept is found anew.
_KEPT: Final = 1024


class Holding(Generic[R, T]):
    """Tells what holds for a request.

    Only surfaces and segments that some rule names make a difference, and instants only where one begins or ends: so
    requests are of few kinds, and all of one kind share what is made of their rules.

    Parameters
    ----------
    rules
        All of them, in order.
    made
        What is made of those that hold together, once for the same ones.
    """

    def __init__(self, rules: Sequence[R], made: Callable[[tuple[R, ...]], T]) -> None:
        self._rules = rules
        self._make = made
        instants = {at for rule in rules for at in (rule.starts_at, rule.ends_at) if at is not None}
        self._turns = sorted(instants)
        self._surfaces = frozenset(name for rule in rules for name in rule.surface or ())
        self._segments = frozenset(name for rule in rules for name in rule.segment or ())
        self._found: dict[tuple[int, str | None, str | None], T] = {}
        self._made: dict[tuple[int, ...], T] = {}

    def of(self, at: datetime, surface: str | None, segment: str) -> T:
        """Return what was made of the rules that hold for ``segment`` on ``surface`` at an instant."""
        key = (
            bisect_right(self._turns, at),
            surface if surface in self._surfaces else None,
            segment if segment in self._segments else None,
        )
        try:
            return self._found[key]
        except KeyError:
            pass
        places = tuple(n for n, rule in enumerate(self._rules) if rule.holds(at, surface, segment))
        if len(self._found) >= _KEPT:
            self._found, self._made = {}, {}
        if places not in self._made:
            self._made[places] = self._make(tuple(self._rules[place] for place in places))
        found = self._found[key] = self._made[places]
        return found

    def anew(self) -> Holding[R, T]:
        """Return the same with nothing made yet."""
        return Holding(self._rules, self._make)
