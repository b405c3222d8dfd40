"""From a live version to a recommender that may serve: verified, replayed, and its store read once.

A bundle that is not whole is refused for good; a feature store that is not there (yet) is tried again, so
that a service started before ``nextbest features`` becomes ready without a restart.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from time import perf_counter
from typing import Final, NoReturn

from feature_repo.store import open_store
from serving import golden
from serving.attributes import AttributeReader
from serving.bundle import Bundle, load
from serving.errors import BundleError, FeatureDamaged, FeatureUnavailable, NextbestError
from serving.features import CustomerState, FeatureReader, Kind, Reading
from serving.metrics import Metrics
from serving.online import OnlineReader
from serving.overlay import Overlay, since_of
from serving.recommender import Recommender
from serving.rules import Rules
from serving.settings import Settings

log = logging.getLogger("nextbest")

FAILURES: Final = 3
#: What ``/readyz`` says while the online store fails.
AWAY: Final = "the online store does not answer: answers are without recent history"
DAMAGED: Final = (
    "the online store is damaged, answers lack recent history: `nextbest features TABLES` makes it anew"
)
REST_SECONDS: Final = 1.0
#: A store is quick while its reads take less; of a slow read each later one forgets a part.
QUICK_SECONDS: Final = 0.005
_FORGOTTEN: Final = 0.2


class GuardedReader(FeatureReader):
    """A feature reader that counts its failures, rests after several in a row, and knows whether the store is quick.

    While a store hangs, every read would hold a worker thread until its timeout and the service would
    refuse requests that it can answer without features. After ``FAILURES`` failures in a row, reads fail at
    once; every ``REST_SECONDS`` one is let through to see whether the store is back.
    """

    def __init__(
        self,
        reader: FeatureReader,
        metrics: Metrics,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        note: Callable[[str], None] = lambda problem: None,
    ) -> None:
        self._note = note
        self._reader = reader
        self._metrics = metrics
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._failures = 0
        self._rests_until = 0.0
        self._pace = QUICK_SECONDS  # until the first read

    @property
    def is_quick(self) -> bool:
        """See ``FeatureReader``: whether reads took little time lately and none failed."""
        return self._failures == 0 and self._pace < QUICK_SECONDS

    @property
    def attributes(self) -> Mapping[str, Kind]:
        """See ``FeatureReader``."""
        return self._reader.attributes

    def begin(self, customer_ids: Sequence[str], at: datetime) -> Reading:
        """See ``FeatureReader``."""
        if not self._may_read():
            return Reading(self._rest)
        began = perf_counter()
        reading = self._reader.begin(customer_ids, at)
        asking = perf_counter() - began

        def finish() -> list[CustomerState]:
            began = perf_counter()
            try:
                states = reading.finish()
            except FeatureUnavailable as error:
                self._failed(error)
                raise
            self._succeeded((asking + perf_counter() - began) / max(len(customer_ids), 1))
            return states

        return Reading(finish, reading.drop)

    def _rest(self) -> NoReturn:
        self._metrics.degraded("resting")
        raise FeatureUnavailable("expected the online store to answer, found it failing; resting; check it")

    def _failed(self, error: FeatureUnavailable) -> None:
        is_damaged = isinstance(error, FeatureDamaged)
        self._metrics.degraded("damaged" if is_damaged else "unavailable")
        self._note(DAMAGED if is_damaged else AWAY)
        with self._lock:
            self._failures += 1
            self._rests_until = self._monotonic() + REST_SECONDS
            if self._failures == FAILURES:
                log.warning("the online store fails, answering without recent history: %s", error)

    def _succeeded(self, seconds: float) -> None:
        if self._failures >= FAILURES:
            log.warning("the online store answers again")
        if self._failures:
            self._note("")
        self._failures = 0
        self._pace = max(seconds, self._pace * (1 - _FORGOTTEN))

    def _may_read(self) -> bool:
        if self._failures < FAILURES:
            return True
        with self._lock:
            now = self._monotonic()
            if now < self._rests_until:
                return False
            self._rests_until = now + REST_SECONDS
            return True


class Loader:
    """Makes the recommender of a version, for ``serving.follower.Follower``.

    Each recommender has a store of its own: the registry is read anew at each swap, and a request that
    still holds the former recommender keeps what it reads from.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        *,
        clock: Callable[[], datetime],
        overlay: Overlay | None = None,
    ) -> None:
        self._overlay = overlay
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._held: Bundle | None = None
        #: What is wrong with the online store, in words; empty: nothing that a read has met.
        self.problem = ""

    def _noted(self, problem: str) -> None:
        self.problem = problem

    def __call__(self, version: str) -> Recommender:
        """Return the recommender of ``version``.

        Raises
        ------
        BundleError
            The bundle is not whole or does not answer as it was made to.
        FeatureUnavailable
            The feature store does not offer what the bundle asks for, at least not yet.
        """
        # held while the store is not there, so that trying again costs no second verification
        if self._held is None or self._held.version != version:
            self._held = load(self._settings.bundles, version)
        reader = self.reader(self._held)
        try:
            recommender = Recommender(self._held, reader)
            golden.replay(recommender)
        except NextbestError:
            raise
        except Exception as error:
            raise BundleError(
                f"expected {version} to answer its golden queries, found {type(error).__name__}: {error}; "
                "publish it anew or roll back (`nextbest rollback`)"
            ) from error
        self._warm(recommender)
        if self._overlay is not None:
            self._overlay.attach(self._held)  # after the replay: golden answers are those of the tables
        self._held = None
        return recommender

    def attributes(self, names: Collection[str], live: Recommender) -> FeatureReader:
        """Return the reader of these attributes of customers, live changes since ``live`` was made included.

        Raises
        ------
        ConfigError
            The shop's customers do not have such an attribute.
        FeatureUnavailable
            There is no feature store, at least not yet.
        """
        with self._store_expected():
            store = open_store(self._settings.store, offline=False)
            alone = AttributeReader(store, names, timeout_ms=self._settings.feature_timeout_ms)
        reader = GuardedReader(alone, self._metrics, note=self._noted)
        return reader if self._overlay is None else self._overlay.reader(reader, since_of(live.bundle))

    def under(self, recommender: Recommender, rules: Rules) -> Recommender:
        """Return a recommender under rules, with a reader that reads what they ask for.

        Raises
        ------
        ConfigError
            The rules ask for an attribute that the shop's customers do not have.
        FeatureUnavailable
            There is no feature store, at least not yet.
        """
        rules.check_customers(recommender.features.attributes)
        if not rules.reads:
            return recommender.with_rules(rules)
        return recommender.with_rules(rules, self.reader(recommender.bundle, rules.reads))

    def reader(self, bundle: Bundle, also: Collection[str] = ()) -> FeatureReader:
        """Return a reader of what a bundle asks for, and ``also`` of other features; raises as ``under``."""
        with self._store_expected():
            reader = OnlineReader(
                open_store(self._settings.store, offline=False),
                service=bundle.manifest.feature_service,
                schema_hash=bundle.manifest.feature_schema_hash,
                defaults=bundle.manifest.feature_defaults,
                timeout_ms=self._settings.feature_timeout_ms,
                corrupt=lambda: self._metrics.degraded("corrupt"),
                also=(*bundle.manifest.read, *also),
            )
        guarded = GuardedReader(reader, self._metrics, note=self._noted)
        return guarded if self._overlay is None else self._overlay.reader(guarded, since_of(bundle))

    @contextlib.contextmanager
    def _store_expected(self) -> Iterator[None]:
        """Turn whatever says that the feature store is not as it should be into what is tried again."""
        try:
            yield
        except BundleError as error:
            raise FeatureUnavailable(str(error)) from error
        except NextbestError:
            raise
        except Exception as error:
            raise FeatureUnavailable(
                f"expected a feature store in {self._settings.store.directory}, found "
                f"{type(error).__name__}: {error}; run `nextbest features TABLES`"
            ) from error

    def _warm(self, recommender: Recommender) -> None:
        """Open the connection of the store; one that is down degrades answers and refuses none."""
        with contextlib.suppress(FeatureUnavailable):
            recommender.features.read([""], self._clock())
