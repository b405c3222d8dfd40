"""The event log of one worker and all that lives by it: exposures, live changes, and a turn at the consumer."""

from __future__ import annotations

from feature_repo.store import open_store
from serving.events.consumer import Consumer, ConsumerThread
from serving.events.exposures import ExposureBuffer, settle
from serving.events.log import EventLog, open_log
from serving.events.rows import RecentRows
from serving.events.states import SqliteStates, States
from serving.events.streams import now_micros
from serving.overlay import Overlay
from serving.settings import Settings


class LiveEvents:
    """What a worker does with events in the background.

    Parameters
    ----------
    settings
        Where the log is: in the home, or in Redis.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.log = event_log(settings)
        self.exposures = ExposureBuffer(self.log, settings.events / "exposures")
        self.overlay = Overlay(self.log, poll_seconds=settings.events_poll_seconds)
        self._consumer = ConsumerThread(
            consumer(settings, self.log), poll_seconds=settings.events_poll_seconds, idle=self._settle
        )

    def start(self) -> None:
        """Begin."""
        self.exposures.start()
        self.overlay.start()
        self._consumer.start()

    def close(self) -> None:
        """End in order: what is still to be written is written."""
        self.overlay.stop()
        self._consumer.stop()
        self.exposures.close()
        self.log.close()

    def _settle(self) -> None:
        settle(self._settings.events / "exposures", self.log)


def event_log(settings: Settings) -> EventLog:
    """Open the event log that the settings name."""
    return open_log(settings.events, redis_url=settings.redis_url, redis_durable=settings.redis_durable)


def consumer(settings: Settings, log: EventLog) -> Consumer:
    """Return a consumer of ``log`` for the online store that the settings name."""
    return Consumer(
        log,
        _states(settings),
        RecentRows(lambda: open_store(settings.store, offline=False)),
        clock=now_micros,
    )


def _states(settings: Settings) -> States:
    if settings.redis_url is None:
        return SqliteStates(settings.events / "state.db")
    from serving.events.redis_states import RedisStates

    return RedisStates(settings.redis_url)
