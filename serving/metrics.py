"""What the service counts, as Prometheus metrics on BentoML's ``/metrics``.

BentoML merges the files that all workers write below ``PROMETHEUS_MULTIPROC_DIR``; importing this module
imports ``prometheus_client``, so it must not be imported before BentoML has set that variable (the service
imports it in its constructor). Labels are bounded: paths nobody serves count as ``other``.
"""

from __future__ import annotations

from collections import Counter as Tally

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from serving.recommender import Recommendations

_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """The counters of one worker process.

    Parameters
    ----------
    registry
        Where they are registered; the process's default one in the service.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._requests = Counter(
            "nextbest_requests", "Requests answered", ["route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "nextbest_request_seconds",
            "From the first byte of the request to the answer",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._recommendations = Counter(
            "nextbest_recommendations", "Products returned, by source", ["source"], registry=registry
        )
        self._feedback = Counter(
            "nextbest_feedback",
            "Events told by clients, by what became of them",
            ["outcome"],
            registry=registry,
        )
        self._degraded = Counter(
            "nextbest_degraded_reads", "Feature reads that failed and were served without", registry=registry
        )
        self._bundle = Gauge(
            "nextbest_bundle_info",
            "Workers that serve a bundle",
            ["bundle"],
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._live: str | None = None

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count one answer."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def recommended(self, *answers: Recommendations) -> None:
        """Count the products of answers by their sources."""
        tally = Tally(item.source for answer in answers for item in answer.items)
        for source, count in tally.items():
            self._recommendations.labels(source).inc(count)

    def told(self, **outcomes: int) -> None:
        """Count events by outcome: accepted, duplicates, rejected."""
        for outcome, count in outcomes.items():
            self._feedback.labels(outcome).inc(count)

    def degraded(self) -> None:
        """Count a feature read that failed."""
        self._degraded.inc()

    def live(self, bundle: str) -> None:
        """Note which bundle this worker serves from now on."""
        if self._live is not None:
            self._bundle.labels(self._live).set(0)
        self._bundle.labels(bundle).set(1)
        self._live = bundle
