"""What the event log holds: an event, a live change, an exposure; each a value that JSON can hold and give back.

Times are integers, microseconds since 1970 UTC. Fields are written by name, and a reader passes over fields it
does not know: workers of two versions may share a log while one replaces the other. Who may send what is decided
at the border (HTTP); here only what would make a record unreadable, or swallow another, is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

import orjson

from feature_repo import schema as s
from serving.errors import DataError

#: Kinds of feedback that are no interactions: seen, and waved away.
IMPRESSION: Final = "impression"
DISMISS: Final = "dismiss"
FEEDBACK_KINDS: Final = (*s.KINDS, IMPRESSION, DISMISS)

Subject = Literal["product", "customer"]


class _Record:
    """JSON, there and back."""

    def to_json(self) -> bytes:
        """Return the record as JSON, made once; DataError when it holds what JSON cannot."""
        return self._json

    @cached_property
    def _json(self) -> bytes:
        try:
            return orjson.dumps(self)
        except orjson.JSONEncodeError as error:
            raise DataError(f"expected a record that JSON can hold, found {error}; correct {self}") from error


@dataclass(frozen=True)
class Event(_Record):
    """Something a customer, or a session without one, did with a product.

    ``event_id`` is the sender's own name for it: repeated under the same one it counts once. ``value`` is money,
    ``request_id`` the answer in which the product was shown.
    """

    event_id: str
    kind: str
    at: int
    product_id: str
    customer_id: str | None = None
    session_id: str | None = None
    value: float = 0.0
    request_id: str | None = None

    def __post_init__(self) -> None:
        if not self.event_id:
            raise DataError("expected an event_id, found an empty one; give every event its own")
        if self.kind not in FEEDBACK_KINDS:
            raise DataError(
                f"expected a kind of {', '.join(FEEDBACK_KINDS)}, found {self.kind!r}; correct event {self.event_id}"
            )
        if not math.isfinite(self.value):
            raise DataError(f"expected a finite value, found {self.value}; correct event {self.event_id}")

    @classmethod
    def from_json(cls, raw: bytes | str) -> Event:
        """Read what ``to_json`` wrote."""
        return cls(**_known(cls, orjson.loads(raw)))


@dataclass(frozen=True)
class Change(_Record):
    """A live change: price, availability or attributes of a product, consent or attributes of a customer.

    ``values`` maps names to what they are from ``at`` on: told again, it changes nothing more.
    """

    subject: Subject
    id: str
    values: dict[str, Any]
    at: int

    @classmethod
    def from_json(cls, raw: bytes | str) -> Change:
        """Read what ``to_json`` wrote."""
        return cls(**_known(cls, orjson.loads(raw)))


@dataclass(frozen=True)
class Shown:
    """One product of an answer, and how likely it was to be shown there (None: not known).

    ``team`` is the variant whose pick it was, in an answer made of the lists of two.
    """

    product_id: str
    score: float
    source: str
    propensity: float | None = None
    team: str | None = None


@dataclass(frozen=True)
class Exposure(_Record):
    """What one answer showed to whom; ``items`` in order of position.

    ``forced``: a tester asked for the variant by name, so the answer is none of an experiment's. ``rules`` is the hash
    of the rules it was made under, None without rules; ``conditions`` what was asked besides (``serving.query``).
    """

    request_id: str
    at: int
    customer_id: str | None
    session_id: str | None
    surface: str | None
    experiment: str | None
    variant: str | None
    bundle: str
    items: tuple[Shown, ...]
    forced: bool = False
    rules: str | None = None
    conditions: str | None = None

    @classmethod
    def from_json(cls, raw: bytes | str) -> Exposure:
        """Read what ``to_json`` wrote."""
        values = _known(cls, orjson.loads(raw))
        values["items"] = tuple(Shown(**_known(Shown, item)) for item in values["items"])
        return cls(**values)


def _known(record: type[Event | Change | Exposure | Shown], values: dict[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in record.__dataclass_fields__ if name in values}
