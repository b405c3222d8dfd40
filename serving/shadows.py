"""Shadow variants: they answer what others are shown, to be counted and nothing else.

They answer in a thread of their own, after the answer that is shown, from the same instant. Where they come slower than
requests do they are passed over, which is counted, so that they cannot pile up. What they cost is a worker's time.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Final

from serving.metrics import Metrics, ShadowOutcome
from serving.recommender import Query, Recommendations
from serving.served import Choice, Shadow

log = logging.getLogger("nextbest")

#: So many wait at the most.
WAITING: Final = 32


class Shadows:
    """Lets shadow variants answer.

    Parameters
    ----------
    metrics
        Counts their answers beside those that were shown.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._room = threading.BoundedSemaphore(WAITING)
        self._told: set[str] = set()

    def close(self) -> None:
        """Stop; what waits is not answered."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def answer(self, query: Query, choice: Choice, shown: Recommendations) -> None:
        """Let the shadow of a choice, if there is one, answer what was answered with ``shown``."""
        shadow = choice.shadow
        if shadow is None or choice.experiment is None:
            return
        if not self._room.acquire(blocking=False):
            self._metrics.shadowed(choice.experiment, shadow.variant, "skipped")
            return
        with contextlib.suppress(RuntimeError):  # the service ends
            self._pool.submit(self._answer, query, choice.experiment, shadow, shown)

    def _answer(self, query: Query, experiment: str, shadow: Shadow, shown: Recommendations) -> None:
        began = perf_counter()
        try:
            found = shadow.recommender.recommend([query])[0].product_ids
        except Exception as error:  # its own affair: the customer was answered
            self._metrics.shadowed(experiment, shadow.variant, "failed")
            problem = f"{experiment}/{shadow.variant}: {type(error).__name__}: {error}"
            if problem not in self._told:
                log.error("a shadow variant does not answer: %s", problem)
                self._told.add(problem)
            return
        finally:
            self._room.release()
        outcome: ShadowOutcome = "same" if found == shown.product_ids else "other"
        self._metrics.shadowed(experiment, shadow.variant, outcome, perf_counter() - began)
        common = len({*found} & {*shown.product_ids})
        self._metrics.shadow_products(experiment, shadow.variant, shown=common, other=len(found) - common)
