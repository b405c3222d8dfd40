"""Feature readers: what is known of a customer at an instant, from a frame or from the online store.

Both give the same ``CustomerState``; the recommender cannot tell them apart. The frame reader here serves
evaluation, the gate and golden queries from point-in-time rows; the reader of the online store, which
needs Feast, is in ``serving.online``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Literal

import pandas as pd

from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.recent import History

Row = Mapping[str, Any]
#: What the values of an attribute of customers are, in words.
Kind = Literal["a text", "a number", "true or false", "a time as ISO 8601"]
_NONE: Final[Mapping[str, Kind]] = MappingProxyType({})


@dataclass(frozen=True)
class CustomerState:
    """What is known of one customer: slow features (``row``) and the recent ``history``.

    A reader that gives the same state again, for one recommender, gives it a ``memo``: what that has made of it. One
    that has nothing of a customer may give the same state for all such, which then ``is_blank``. Where what the store
    has could not be read, the state is ``unread``.
    """

    row: Row = field(default_factory=dict)
    history: History = field(default_factory=History.empty)
    memo: dict[str, Any] | None = field(default=None, compare=False, repr=False)
    unread: bool = field(default=False, compare=False, repr=False)
    is_blank: bool = field(default=False, compare=False, repr=False)

    @property
    def segment(self) -> str:
        """The customer's segment, empty when there is none."""
        return str(self.row.get(v.SEGMENT) or "")


@dataclass(frozen=True)
class Reading:
    """A read that is under way: ``finish`` waits for it and returns the states, ``drop`` gives it up.

    One of them is to be called; dropping what is finished does nothing. ``finish`` raises ``FeatureUnavailable`` where
    the store did not answer in time.
    """

    finish: Callable[[], list[CustomerState]]
    drop: Callable[[], None] = lambda: None


class FeatureReader:
    """Reads the states of customers at an instant; a reader defines ``read``, or ``begin``, each from the other."""

    @property
    def is_quick(self) -> bool:
        """Whether a read may be waited for where nothing else runs meanwhile."""
        return True

    @property
    def attributes(self) -> Mapping[str, Kind]:
        """The attributes that the shop's table of customers has, by name; columns of consent are among them."""
        return _NONE

    def read(self, customer_ids: Sequence[str], at: datetime) -> list[CustomerState]:
        """Return one state an id, in order; unknown customers get the empty state.

        Raises
        ------
        FeatureUnavailable
            The store did not answer in time.
        """
        return self.begin(customer_ids, at).finish()

    def begin(self, customer_ids: Sequence[str], at: datetime) -> Reading:
        """Begin to read, so that something else can be done meanwhile; raises nothing."""
        return Reading(partial(self.read, customer_ids, at))


class FrameReader(FeatureReader):
    """Reads states from rows joined point in time for one instant, indexed by customer id."""

    def __init__(self, states: Mapping[str, CustomerState]) -> None:
        self._states = states

    @classmethod
    def from_frame(cls, rows: pd.DataFrame) -> FrameReader:
        """Build from a frame with ``customer_id``, slow features and the columns of ``customer_recent``."""
        recent = {name for name, _ in v.RECENT}
        slow = [name for name in rows.columns if name not in recent | {s.CUSTOMER_ID, s.EVENT_TIMESTAMP}]
        states: dict[str, CustomerState] = {}
        for record in rows.to_dict("records"):
            history = {name: _listed(record.get(name)) for name in recent}
            states[str(record[s.CUSTOMER_ID])] = CustomerState(
                MappingProxyType({name: record[name] for name in slow}), History.from_row(history)
            )
        return cls(states)

    def mapped(self, change: Callable[[str, CustomerState], CustomerState]) -> FrameReader:
        """Return a reader whose states are ``change(customer_id, state)``."""
        return FrameReader({customer: change(customer, state) for customer, state in self._states.items()})

    def read(self, customer_ids: Sequence[str], at: datetime) -> list[CustomerState]:
        """Return the states; see ``FeatureReader``."""
        empty = CustomerState()
        return [self._states.get(customer, empty) for customer in customer_ids]


def is_of(kind: Kind, value: Any) -> bool:
    """Whether an attribute of a kind can have a value."""
    match kind:
        case "true or false":
            return isinstance(value, bool)
        case "a number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "a text":
            return isinstance(value, str)
        case "a time as ISO 8601":
            return isinstance(value, str) and _is_time(value)


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _listed(value: Any) -> list[Any]:
    return [] if value is None or not hasattr(value, "__len__") else list(value)
