"""The consumer: from the event log to the recent histories that the online store serves.

A step reads what was logged since the last one, folds it into the touched histories, commits them together with the
new offset, and pushes the whole rows. A crash between commit and push is made up for at the next step, since what was
pushed is noted last; a crash before the commit changes nothing. One consumer works at a time, whatever the number of
workers; each of them stands by with ``ConsumerThread``.

``rebuild`` starts over, after new features: the tables' histories with the whole log folded over them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

from serving.errors import EventLogUnavailable, NextbestError
from serving.events.fold import Lines, folded, key_of, line_of, merged
from serving.events.log import EventLog
from serving.events.states import States
from serving.events.streams import EVENTS, place

log = logging.getLogger("nextbest")

BATCH: Final = 500
_PAGE: Final = 4 * BATCH  # more than one commit touches, so that every page ends a commit
_SESSION_US: Final = 24 * 3_600 * 1_000_000
_WAIT_SECONDS: Final = 1.0
_CHORE_SECONDS: Final = 30.0
_CLAIM_SECONDS: Final = 15.0


class Rows(Protocol):
    """The rows of ``customer_recent`` in the online store; see ``serving.events.rows``."""

    def read(self, keys: Sequence[str]) -> dict[str, Lines]:
        """Return the histories that are online."""
        ...

    def write(self, histories: Mapping[str, Lines], stamps: Mapping[str, int]) -> None:
        """Replace whole rows."""
        ...

    def remove(self, keys: Sequence[str]) -> None:
        """Remove rows."""
        ...


class Consumer:
    """Folds the log; see the module.

    Parameters
    ----------
    log, states, rows
        Where events come from, where the fold is kept, and where rows are served from.
    clock
        The time in microseconds since 1970 UTC.
    """

    def __init__(self, log: EventLog, states: States, rows: Rows, *, clock: Callable[[], int]) -> None:
        self._log = log
        self._states = states
        self._rows = rows
        self._clock = clock

    def step(self) -> int | None:
        """Fold and push what there is, one batch at most; return how many events, None without the lease.

        Raises
        ------
        EventLogUnavailable, FeatureUnavailable
            A store does not answer; nothing is lost, the next step goes on.
        """
        if not self._states.lease():
            return None
        position = self._states.position()
        if position.pushed < position.stamp:
            self._push()
        entries = self._log.read(EVENTS, after=position.offset, limit=BATCH)
        if not entries:
            return 0
        keyed = [(key, entry.record) for entry in entries if (key := key_of(entry.record)) is not None]
        histories = self._known(list(dict.fromkeys(key for key, _ in keyed)))
        for key, event in keyed:
            histories[key] = folded(histories[key], line_of(event))
        stamp = max(self._clock(), position.stamp + 1)
        self._states.commit(histories, offset=entries[-1].offset, stamp=stamp)
        self._push()
        return len(entries)

    def sweep(self) -> int:
        """Remove the histories of sessions that ended a day ago; return how many."""
        if not self._states.lease():
            return 0
        keys = self._states.sessions_before(self._clock() - _SESSION_US, limit=BATCH)
        if keys:
            self._rows.remove(keys)
            self._states.forget(keys)
        return len(keys)

    def trim(self, before: int) -> int:
        """Remove the events logged before an instant (microseconds) that are folded; return how many.

        A rebuild folds what is left over the tables: events that are to go on counting must have been exported.
        """
        folded_to = self._states.position().offset
        return 0 if folded_to is None else self._log.trim(EVENTS, before=min(before, place(folded_to) + 1))

    def rebuild(self, base: Iterable[Mapping[str, Lines]]) -> int:
        """Start over from the tables' histories, chunk by chunk; return how many events were folded.

        Every row that is online afterwards is the fold of the whole log over the tables. Killed in between, it is to
        be done again.

        Raises
        ------
        EventLogUnavailable
            The running consumer does not give way, or a store does not answer.
        """
        if not self._states.claim(seconds=_CLAIM_SECONDS):
            raise EventLogUnavailable(
                "expected the running consumer to give way, found that it does not; see whether a service hangs"
            )
        self._states.clear()
        told: dict[str, Lines] = {}
        count, offset = 0, None
        while entries := self._log.read(EVENTS, after=offset, limit=_PAGE):
            for entry in entries:
                if (key := key_of(entry.record)) is not None:
                    told[key] = folded(told.get(key, ()), line_of(entry.record))
            count, offset = count + len(entries), entries[-1].offset
            self._states.lease()  # reading takes its time
        for chunk in base:
            fresh = {key: merged(chunk[key], told.pop(key)) for key in sorted(told.keys() & chunk.keys())}
            self._replace({**chunk, **fresh}, fresh)
        left = list(told)
        for start in range(0, len(left), BATCH):
            some = {key: told[key] for key in left[start : start + BATCH]}
            self._replace(some, some)
        self._states.commit({}, offset=offset, stamp=self._stamp())
        self._states.mark_pushed(self._states.position().stamp)
        return count

    def close(self) -> None:
        """Give up the lease."""
        self._states.close()

    def _replace(self, online: Mapping[str, Lines], touched: Mapping[str, Lines]) -> None:
        stamp = self._stamp()
        keys = list(touched)
        for start in range(0, len(keys), BATCH):
            some = {key: touched[key] for key in keys[start : start + BATCH]}
            self._states.commit(some, offset=None, stamp=stamp)
        self._rows.write(online, dict.fromkeys(online, stamp))

    def _stamp(self) -> int:
        return max(self._clock(), self._states.position().stamp + 1)

    def _known(self, keys: Sequence[str]) -> dict[str, Lines]:
        """Return histories to fold into: touched ones, else what the tables brought online."""
        found = self._states.lines(keys)
        untouched = [key for key in keys if key not in found]
        online = self._rows.read(untouched) if untouched else {}
        return {key: found.get(key, online.get(key, ())) for key in keys}

    def _push(self) -> None:
        while page := self._states.unpushed(limit=_PAGE):
            self._rows.write({one.key: one.lines for one in page}, {one.key: one.stamp for one in page})
            # a full page may have cut the last commit in two
            done = page[-1].stamp if len(page) < _PAGE else page[-1].stamp - 1
            self._states.mark_pushed(done)
            if len(page) < _PAGE:
                return


class ConsumerThread:
    """Consumes in the background, or stands by while somebody else does.

    Parameters
    ----------
    consumer
        Closed when the thread ends.
    poll_seconds
        How often the log is looked at.
    chores
        Done by whoever consumes every ``chore_seconds``, however busy, besides ending old sessions.
    """

    def __init__(
        self,
        consumer: Consumer,
        *,
        poll_seconds: float,
        chores: Callable[[], None] = lambda: None,
        chore_seconds: float = _CHORE_SECONDS,
    ) -> None:
        self._consumer = consumer
        self._poll_seconds = poll_seconds
        self._chores = chores
        self._chore_seconds = chore_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="consumer", daemon=True)
        self.problem = ""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the step at hand."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _follow(self) -> None:
        wait, due = 0.0, time.monotonic()
        while not self._stop.wait(wait):
            try:
                count = self._consumer.step()
                if count is not None and time.monotonic() >= due:
                    # a full batch of old sessions: there are more, after the next step
                    if self._consumer.sweep() < BATCH:
                        due = time.monotonic() + self._chore_seconds
                    self._chores()
                problem = ""
                # a full batch: there is more
                wait = _WAIT_SECONDS if count is None else 0.0 if count == BATCH else self._poll_seconds
            except Exception as error:  # the thread must outlive whatever a store can raise
                problem = (
                    str(error) if isinstance(error, NextbestError) else f"{type(error).__name__}: {error}"
                )
                wait = self._poll_seconds
            if problem and not self.problem:  # a store that comes and goes has many words for it
                log.error("events wait: %s", problem)
            if self.problem and not problem:
                log.warning("events are consumed again")
            self.problem = problem
        self._consumer.close()
