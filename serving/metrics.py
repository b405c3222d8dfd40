"""What the service counts, as Prometheus metrics on BentoML's ``/metrics``.

BentoML merges the files that all workers write below ``PROMETHEUS_MULTIPROC_DIR``; importing this module
imports ``prometheus_client``, so it must not be imported before BentoML has set that variable (the service
imports it in its constructor). Labels are bounded: paths nobody serves count as ``other``.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter as Tally
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.multiprocess import mark_process_dead

from serving.recommender import Recommendations
from serving.stages import StageName

_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_STAGE_SECONDS = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25)


#: ``unavailable`` did not answer, ``resting`` was not asked for that, ``damaged`` is the store, ``corrupt`` a row.
DegradedReason = Literal["unavailable", "resting", "corrupt", "damaged"]
ExposureOutcome = Literal["taken", "dropped", "lost"]
ShadowOutcome = Literal["same", "other", "failed", "skipped"]


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
            "nextbest_degraded_reads",
            "Feature reads that failed and were served without, by what was wrong",
            ["reason"],
            registry=registry,
        )
        self._stages = Histogram(
            "nextbest_stage_seconds",
            "Where the time of an answer goes, in one answer of eight",
            ["stage"],
            buckets=_STAGE_SECONDS,
            registry=registry,
        )
        self._exposures = Counter(
            "nextbest_exposures",
            "Answers whose exposure was taken, was dropped for want of room, or was lost with a worker",
            ["outcome"],
            registry=registry,
        )
        self._log_up = Gauge(
            "nextbest_event_log_up",
            "Whether the event log takes what it is told",
            multiprocess_mode="livemin",
            registry=registry,
        )
        self._bundle = Gauge(
            "nextbest_bundle_info",
            "Workers in which a bundle is live",
            ["bundle"],
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._variants = Counter(
            "nextbest_variant_answers", "Answers of variants", ["experiment", "variant"], registry=registry
        )
        self._shadows = Counter(
            "nextbest_shadow_answers",
            "Answers of shadow variants: the same products as were shown, others, failed, or skipped for want of time",
            ["experiment", "variant", "outcome"],
            registry=registry,
        )
        self._shadow_seconds = Histogram(
            "nextbest_shadow_seconds",
            "What an answer of a shadow variant takes",
            ["experiment", "variant"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._shadow_products = Counter(
            "nextbest_shadow_products",
            "Products in answers of shadow variants, by whether they were shown too",
            ["experiment", "variant", "shown"],
            registry=registry,
        )
        self._experiments = Gauge(
            "nextbest_experiments_info",
            "Workers that serve experiments.toml, by the hash of its content",
            ["digest"],
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._rules = Gauge(
            "nextbest_rules_info",
            "Workers that serve rules.toml, by the hash of what it says",
            ["digest"],
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._told: dict[Gauge, str] = {}
        self._experiments_up = Gauge(
            "nextbest_experiments_up",
            "Whether experiments.toml is served as it is, by every worker",
            multiprocess_mode="livemin",
            registry=registry,
        )
        self._rules_up = Gauge(
            "nextbest_rules_up",
            "Whether rules.toml is served as it is, by every worker",
            multiprocess_mode="livemin",
            registry=registry,
        )
        self._is_up: dict[Gauge, bool] = {}
        for reason in get_args(DegradedReason):  # shown as 0 from the start, so that a change is seen
            self._degraded.labels(reason)
        for outcome in get_args(ExposureOutcome):
            self._exposures.labels(outcome)
        # looking a child up costs more than counting; labels are bounded, so there are few
        self._request_of = cache(self._requests.labels)
        self._seconds_of = cache(self._seconds.labels)
        self._source_of = cache(self._recommendations.labels)
        self._stage_of = cache(self._stages.labels)
        self._exposure_of = cache(self._exposures.labels)
        self._variant_of = cache(self._variants.labels)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count one answer."""
        self._request_of(route, str(status)).inc()
        self._seconds_of(route).observe(seconds)

    def recommended(self, *answers: Recommendations) -> None:
        """Count the products of answers by their sources."""
        tally = Tally(item.source for answer in answers for item in answer.items)
        for source, count in tally.items():
            self._source_of(source).inc(count)

    def told(self, **outcomes: int) -> None:
        """Count events by outcome: accepted, duplicates, rejected."""
        for outcome, count in outcomes.items():
            self._feedback.labels(outcome).inc(count)

    def degraded(self, reason: DegradedReason) -> None:
        """Count a feature read that failed."""
        self._degraded.labels(reason).inc()

    def staged(self, seconds: Mapping[StageName, float]) -> None:
        """Count the stages of one answer."""
        for name, spent in seconds.items():
            self._stage_of(name).observe(spent)

    def exposed(self, outcome: ExposureOutcome, count: int = 1) -> None:
        """Count exposures by outcome."""
        self._exposure_of(outcome).inc(count)

    def log_is_up(self, is_up: bool) -> None:
        """Note whether the event log takes what it is told."""
        self._set_up(self._log_up, is_up)

    def chosen(self, experiment: str, variant: str) -> None:
        """Count an answer of a variant."""
        self._variant_of(experiment, variant).inc()

    def shadowed(
        self, experiment: str, variant: str, outcome: ShadowOutcome, seconds: float | None = None
    ) -> None:
        """Count an answer of a shadow variant."""
        self._shadows.labels(experiment, variant, outcome).inc()
        if seconds is not None:
            self._shadow_seconds.labels(experiment, variant).observe(seconds)

    def shadow_products(self, experiment: str, variant: str, *, shown: int, other: int) -> None:
        """Count the products of a shadow's answer: those that were shown too, and others."""
        self._shadow_products.labels(experiment, variant, "yes").inc(shown)
        self._shadow_products.labels(experiment, variant, "no").inc(other)

    def live(self, bundle: str, rules: str, experiments: str) -> None:
        """Note which bundle is live in this worker from now on, and the hashes of the rules and the experiments."""
        for gauge, now in ((self._bundle, bundle), (self._rules, rules), (self._experiments, experiments)):
            if gauge in self._told:
                gauge.labels(self._told[gauge]).set(0)
            gauge.labels(now).set(1)
            self._told[gauge] = now

    def rules_up(self, is_up: bool) -> None:
        """Note whether this worker serves the rules as the file has them."""
        self._set_up(self._rules_up, is_up)

    def experiments_up(self, is_up: bool) -> None:
        """Note whether this worker serves the experiments as the file has them."""
        self._set_up(self._experiments_up, is_up)

    def _set_up(self, gauge: Gauge, is_up: bool) -> None:
        if self._is_up.get(gauge) is not is_up:
            gauge.set(is_up)
            self._is_up[gauge] = is_up


def forget_the_dead(directory: str | None) -> None:
    """Drop what processes that have died say of the present (gauges), in the directory of all workers' metrics.

    BentoML does so for workers that end in order. One that was killed would count among those that serve for ever.
    """
    for path in Path(directory).glob("gauge_live*_*.db") if directory else ():
        pid = int(path.stem.rpartition("_")[2])
        if not _is_alive(pid):
            with contextlib.suppress(FileNotFoundError):  # another worker that starts now was quicker
                mark_process_dead(pid, directory)  # type: ignore[no-untyped-call]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
