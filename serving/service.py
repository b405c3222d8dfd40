"""The BentoML service: one process that follows the files of its home, and answers ``/v1``.

BentoML gives the process model, the probes and ``/metrics``; ``serving.app`` answers everything else. All
heavy imports and all settings wait for the constructor, because BentoML's supervisor imports this module
too and serves nothing. Ready means: a verified bundle is loaded, has replayed its golden queries, and its
feature store has been read once. Workers share one socket and accept from it once they are constructed, so the
constructor waits until this one is ready: a worker that starts beside others takes no request from them that it
cannot answer.
"""

from __future__ import annotations

import gc
import os
import threading
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

import bentoml

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from serving.app import Application

#: One thread each: workers are the unit of parallelism, and idle spinning of others would slow all.
THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
#: New objects between two rounds of the garbage collector: those of some forty answers, where Python's own are of two.
COLLECTED_EVERY: Final = 20_000
#: So long a worker that loads a bundle accepts nothing; then it answers the probes, and 503 until it is ready.
FIRST_LOOK_SECONDS: Final = 15.0


class _Front:
    """What BentoML mounts at import, before there are settings; hands over to the application."""

    application: Application | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.application is None:
            raise RuntimeError("expected the service's constructor to have run, found a request before it")
        await self.application(scope, receive, send)


_front = _Front()


class _Readyz:
    """What BentoML answers to ``/readyz``, with the words of the service in the place of an empty line."""

    told: Callable[[], str] | None = None

    def __call__(self, app: ASGIApp) -> ASGIApp:
        def answer(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            is_asked = scope.get("path") == "/readyz" and scope.get("method") == "GET"
            return app(scope, receive, self._telling(send) if is_asked else send)

        return answer

    def _telling(self, send: Send) -> Send:
        body = b"\n" if self.told is None else self.told().encode()

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [pair for pair in message["headers"] if pair[0] != b"content-length"]
                message["headers"] = [*headers, (b"content-length", str(len(body)).encode())]
            elif message["type"] == "http.response.body":
                message["body"] = body
            await send(message)

        return sent


_readyz = _Readyz()


@bentoml.asgi_app(_front, path="/")
@bentoml.service(
    name="Nextbest",
    envs=[{"name": name, "value": "1"} for name in THREADS],
    logging={"access": {"enabled": False}},  # requests are counted and timed in /metrics
    tracing={"excluded_urls": "v1"},  # a fifth of a request's time; BENTOML_CONFIG can ask for it again
)
class Nextbest:
    """Product recommendations over HTTP; the API is described at ``/v1/openapi.json``."""

    def __init__(self) -> None:
        import faiss

        from serving.app import Application
        from serving.events.live import LiveEvents
        from serving.experiments_file import NO_FILE
        from serving.follower import Follower
        from serving.loading import Loader
        from serving.metrics import Metrics, forget_the_dead
        from serving.process import exit_with_parent
        from serving.settings import Settings

        exit_with_parent()
        gc.set_threshold(COLLECTED_EVERY, 20, 20)
        faiss.omp_set_num_threads(1)
        settings = Settings.load()
        forget_the_dead(os.environ.get("PROMETHEUS_MULTIPROC_DIR"))
        metrics = Metrics()
        clock = partial(datetime.now, UTC)
        self._events = LiveEvents(settings, lost=partial(metrics.exposed, "lost"))
        load = self._load = Loader(settings, metrics, clock=clock, overlay=self._events.overlay)
        self._follower = Follower(
            settings.live,
            settings.slot,
            load,
            poll_seconds=settings.live_poll_seconds,
            rules=settings.rules,
            experiments=settings.experiments,
            bind=load.under,
            attributes=load.attributes,
            taken=lambda served: metrics.live(
                served.live.bundle.tag, served.live.digest or NO_FILE, served.experiments.digest
            ),
            rules_up=metrics.rules_up,
            experiments_up=metrics.experiments_up,
        )
        self._application = Application(
            settings,
            current=lambda: self._follower.current,
            metrics=metrics,
            clock=clock,
            event_log=self._events.log,
            exposures=self._events.exposures,
        )
        _front.application = self._application
        _readyz.told = self._told
        self._events.start()
        first_look = threading.Thread(target=self._follower.start, name="first look", daemon=True)
        first_look.start()
        first_look.join(FIRST_LOOK_SECONDS)

    def _told(self) -> str:
        """Return what ``/readyz`` says: what this worker serves, and whether that is what the files say."""
        served = self._follower.current
        lines = [] if served is None else served.lines
        if self._follower.problem:
            lines.append(
                "not all of live.json, rules.toml and experiments.toml is taken up: the log of the service says why"
            )
        if self._load.problem:
            lines.append(self._load.problem)
        return "\n".join([*lines, ""])

    async def __is_ready__(self) -> bool:
        return self._follower.current is not None

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Stop following and answering."""
        self._follower.stop()
        self._application.close()
        self._events.close()


Nextbest.add_asgi_middleware(_readyz)  # type: ignore[attr-defined]
