"""Live changes over a bundle: what was told of products and customers since its data end, in every worker.

Each worker follows the stream of changes from a thread of its own and keeps the latest value of each column. A bundle
that is taken up later gets those told after its data end; earlier ones are in its tables. Deliberately absent: new
products, which need a place among the vectors and come with the next training.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.recent import to_micros
from serving.bundle import Bundle
from serving.errors import EventLogUnavailable
from serving.events import CHANGES, Change, Entry, EventLog
from serving.features import CustomerState, FeatureReader, Kind, Reading, is_of

log = logging.getLogger("nextbest")

_PAGE: Final = 1000
Values = dict[str, tuple[int, Any]]


class Overlay:
    """Follows live changes.

    Parameters
    ----------
    log
        Where they are told.
    poll_seconds
        How often it is looked at.
    """

    def __init__(self, log: EventLog, *, poll_seconds: float) -> None:
        self._log = log
        self._poll_seconds = poll_seconds
        self._offset: str | None = None
        self._told: dict[tuple[str, str], Values] = {}
        self._bundles: list[weakref.ref[Bundle]] = []  # those that somebody still serves
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="changes", daemon=True)
        self.problem = ""

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """Take up what was told since the last look.

        Raises
        ------
        EventLogUnavailable
            The log does not answer.
        """
        with self._lock:
            while entries := self._log.read(CHANGES, after=self._offset, limit=_PAGE):
                for entry in entries:
                    self._take(entry)
                self._offset = entries[-1].offset
                for bundle in self._attached():
                    _change(bundle, [entry.record for entry in entries])

    def attach(self, bundle: Bundle) -> None:
        """Change ``bundle`` by all that was told since its data end, and from now on by what will be told."""
        try:
            self.look()
        except EventLogUnavailable as error:
            log.error("live changes are taken up later: %s", error)
        with self._lock:
            since = since_of(bundle)
            _change(bundle, [Change("product", p, values, 0) for p, values in self._since("product", since)])
            self._bundles.append(weakref.ref(bundle))

    def _attached(self) -> list[Bundle]:
        self._bundles = [held for held in self._bundles if held() is not None]
        return [bundle for held in self._bundles if (bundle := held()) is not None]

    def reader(self, reader: FeatureReader, since: int) -> FeatureReader:
        """Return a reader that gives customers' attributes as they were told since an instant (microseconds)."""
        return _Changed(self, reader, since)

    def customer(self, customer_id: str, since: int) -> dict[str, Any]:
        """Return what was told of a customer since an instant, by column."""
        return _later(self._told.get(("customer", customer_id), {}), since)

    def _since(self, subject: str, since: int) -> list[tuple[str, dict[str, Any]]]:
        found = [
            (name, _later(values, since)) for (kind, name), values in self._told.items() if kind == subject
        ]
        return [(name, values) for name, values in found if values]

    def _take(self, entry: Entry[Change]) -> None:
        change = entry.record
        held = self._told.get((change.subject, change.id), {})
        told = {name: (entry.logged_at, value) for name, value in change.values.items()}
        self._told[change.subject, change.id] = {**held, **told}

    def _follow(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            try:
                self.look()
                problem = ""
            except Exception as error:  # the thread must outlive whatever a store can raise
                problem = f"{type(error).__name__}: {error}"
            if problem and not self.problem:  # a store that comes and goes has many words for it
                log.error("live changes wait: %s", problem)
            if self.problem and not problem:
                log.warning("live changes are taken up again")
            self.problem = problem


class _Changed(FeatureReader):
    """A reader over another one; see ``Overlay.reader``."""

    def __init__(self, overlay: Overlay, reader: FeatureReader, since: int) -> None:
        self._overlay = overlay
        self._reader = reader
        self._since = since

    @property
    def is_quick(self) -> bool:
        """See ``FeatureReader``."""
        return self._reader.is_quick

    @property
    def attributes(self) -> Mapping[str, Kind]:
        """See ``FeatureReader``."""
        return self._reader.attributes

    def begin(self, customer_ids: Sequence[str], at: datetime) -> Reading:
        """See ``FeatureReader``."""
        reading = self._reader.begin(customer_ids, at)

        def finish() -> list[CustomerState]:
            kinds = self.attributes
            return [
                _with(state, self._overlay.customer(customer, self._since), kinds)
                for customer, state in zip(customer_ids, reading.finish(), strict=True)
            ]

        return Reading(finish, reading.drop)


def since_of(bundle: Bundle) -> int:
    """Return the instant (microseconds) after which changes are newer than the bundle's tables."""
    manifest = bundle.manifest
    return to_micros(min(manifest.data.as_of, manifest.created_at))


def _with(state: CustomerState, changed: Mapping[str, Any], kinds: Mapping[str, Kind]) -> CustomerState:
    """Return the state with what fits of what was told; what is None now is not known, as if it never was."""
    told = {
        v.row_key(v.CUSTOMER_ATTRIBUTES, name): value
        for name, value in changed.items()
        if not name.startswith(s.CONSENT_PREFIX)
        and (value is None or name not in kinds or is_of(kinds[name], value))
    }
    if not told:
        return state
    row = {name: value for name, value in {**state.row, **told}.items() if told.get(name, value) is not None}
    return CustomerState(MappingProxyType(row), state.history, unread=state.unread)


def _later(values: Values, since: int) -> dict[str, Any]:
    return {name: value for name, (logged_at, value) in values.items() if logged_at >= since}


def _change(bundle: Bundle, changes: Sequence[Change]) -> None:
    told: dict[str, dict[str, Any]] = {}
    for change in changes:
        if change.subject == "product":
            told[change.id] = {**told.get(change.id, {}), **change.values}
    bundle.catalog.change(told)
