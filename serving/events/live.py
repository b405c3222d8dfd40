"""The event log of one worker and all that lives by it: exposures, live changes, and a turn at the consumer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from feature_repo import names as v
from feature_repo import store as feature_store
from serving.events.consumer import Consumer, ConsumerThread
from serving.events.exposures import ExposureBuffer, settle
from serving.events.log import EventLog, open_log
from serving.events.rows import RecentRows, histories
from serving.events.states import SqliteStates, States
from serving.events.streams import EXPOSURES, now_micros
from serving.overlay import Overlay
from serving.settings import Settings

if TYPE_CHECKING:
    from feast import FeatureStore

    from feature_repo.build import FeatureSet

_ROWS: Final = 5_000
_DAY_US: Final = 86_400_000_000


class LiveEvents:
    """What a worker does with events in the background.

    Parameters
    ----------
    settings
        Where the log is: in the home, or in Redis.
    lost
        Told how many exposures were found to be lost with a worker, each of them once.
    """

    def __init__(self, settings: Settings, *, lost: Callable[[int], None] = lambda count: None) -> None:
        self._settings = settings
        self._lost = lost
        self.log = event_log(settings)
        self.exposures = ExposureBuffer(self.log, settings.events / "exposures")
        self.overlay = Overlay(self.log, poll_seconds=settings.events_poll_seconds)
        self._consumer = consumer(settings, self.log)
        self._consuming = ConsumerThread(
            self._consumer, poll_seconds=settings.events_poll_seconds, chores=self._chores
        )

    def start(self) -> None:
        """Begin."""
        self.exposures.start()
        self.overlay.start()
        self._consuming.start()

    def close(self) -> None:
        """End in order: what is still to be written is written."""
        self.overlay.stop()
        self._consuming.stop()
        self.exposures.close()
        self.log.close()

    def _chores(self) -> None:
        """Count what dead workers lost, and trim what is old; live changes stay, since every start reads them all."""
        self._lost(settle(self._settings.events / "exposures", self.log))
        before = now_micros() - self._settings.events_keep_days * _DAY_US
        self._consumer.trim(before)
        self.log.trim(EXPOSURES, before=before)


def event_log(settings: Settings) -> EventLog:
    """Open the event log that the settings name."""
    return open_log(settings.events, redis_url=settings.redis_url, redis_durable=settings.redis_durable)


def consumer(settings: Settings, log: EventLog) -> Consumer:
    """Return a consumer of ``log`` for the online store that the settings name."""
    return Consumer(
        log,
        states(settings),
        RecentRows(lambda: feature_store.open_store(settings.store, offline=False)),
        clock=now_micros,
    )


def bring_online(settings: Settings, store: FeatureStore, features: FeatureSet) -> dict[str, int]:
    """Bring features online, and recent histories with all that was logged since; return the rows by view.

    Raises
    ------
    FeatureUnavailable, EventLogUnavailable
        A store did not take them; to be done again.
    """
    written = feature_store.materialise(store, features)
    rows = feature_store.latest(features, v.CUSTOMER_RECENT)
    log = event_log(settings)
    folding = consumer(settings, log)
    try:
        folding.rebuild(histories(rows.iloc[start : start + _ROWS]) for start in range(0, len(rows), _ROWS))
    finally:
        folding.close()
        log.close()
    return {**written, v.CUSTOMER_RECENT: len(rows)}


def states(settings: Settings) -> States:
    """Return where the consumer that the settings name keeps its fold."""
    if settings.redis_url is None:
        return SqliteStates(settings.events / "state.db")
    from serving.events.redis_states import RedisStates

    return RedisStates(settings.redis_url)
