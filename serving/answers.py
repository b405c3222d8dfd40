"""From a parsed request to the bytes of its answer.

One method an operation of ``serving.openapi.ENDPOINTS``, of the same name. An answer takes less time than handing it
to a thread and back would add, so it is made on the event loop, as long as the online store is quick; once reads are
slow, answers move to worker threads, so that the store never stops the probes. A batch runs there in chunks, so that
single requests come in between. Each method is given what was served when the request came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from itertools import count
from typing import Any, Final

import orjson

from feature_repo.recent import to_micros
from serving.api import BatchRequest, RecommendRequest, SimilarRequest, answer
from serving.catalog import Filters
from serving.draft_trace import draft_trace
from serving.errors import DataError
from serving.events import Exposure, ExposureBuffer, Shown
from serving.metrics import Metrics
from serving.query import conditions
from serving.recommender import Query, Recommendations, Recommender
from serving.served import Choice, Served
from serving.shadows import Shadows
from serving.stages import stage, watched
from serving.trace import trace
from serving.trace_api import TraceRequest
from serving.validation import InvalidRequest, shown

BATCH_CHUNK: Final = 50
#: Counting the stages of an answer takes longer than most of them; of so many answers one stands for all.
STAGED_ONE_IN: Final = 8
_THREADS: Final = 2
_NO_FILTERS: Final = Filters()


class Answers:
    """Answers requests.

    Parameters
    ----------
    metrics
        Counts what was recommended.
    clock
        Gives the instant of a request; the only clock behind the API.
    exposures
        Takes what was shown.
    """

    def __init__(
        self, metrics: Metrics, clock: Callable[[], datetime], exposures: ExposureBuffer | None = None
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._exposures = exposures
        self._shadows = Shadows(metrics)
        self._turns = count()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="answer")

    def close(self) -> None:
        """Stop the worker threads."""
        self._shadows.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def recommend(self, asked: RecommendRequest, served: Served, request_id: str) -> bytes:
        """Answer ``/v1/recommend``."""
        query, surface = asked.to_query(self._clock(), request_id), asked.context.surface
        choice = self._choice(asked, query, served)
        first = served.live if choice is None else choice.recommender
        is_quick = first.features.is_quick if choice is None else choice.is_quick
        # a slow store is not even asked on the event loop
        begun = choice.begin([query]) if choice is not None and is_quick else None

        def work() -> bytes:
            with watched() as seconds:
                with _filters_refused(first, query.filters):
                    if choice is None:
                        chosen, answered = served.recommend([query], surface)[0]
                    else:
                        chosen, answered = choice, choice.recommend([query], begun)[0]
                with stage("exposure"):
                    self._shown(query, answered, chosen, request_id, surface)
                with stage("json"):
                    body = orjson.dumps(_told(answered, chosen, request_id, query.customer_id, query.filters))
            self._metrics.recommended(answered)
            if next(self._turns) % STAGED_ONE_IN == 0:
                self._metrics.staged(seconds)
            return body

        try:
            # the store answers meanwhile, and whoever has come is let in and counted before this answer takes the loop
            await asyncio.sleep(0)
            return work() if is_quick else await self._in_thread(work)
        finally:
            for one in begun or ():
                one.drop()

    def _choice(self, asked: RecommendRequest, query: Query, served: Served) -> Choice | None:
        """Return what answers a request; None where that depends on attributes that are still to be read."""
        surface = asked.context.surface
        if asked.variant is None:
            return None if served.asks_for_attributes(surface) else served.choose(query, surface)
        choice = served.forced(asked.variant)
        if choice is None:
            there = ", ".join(served.variants) or "none"
            told = f"expected a configured variant (there are: {there}), found {shown(asked.variant)}"
            raise InvalidRequest(told, "variant")
        return choice

    async def recommend_batch(self, asked: BatchRequest, served: Served, request_id: str) -> bytes:
        """Answer ``/v1/recommend/batch``; each answer has a request id of its own."""
        queries = asked.to_queries(self._clock(), request_id)

        def work(first: int) -> bytes:
            chunk = queries[first : first + BATCH_CHUNK]
            answers = served.recommend(chunk)
            self._metrics.recommended(*(answered for _, answered in answers))
            told = []
            for number, (query, (choice, answered)) in enumerate(
                zip(chunk, answers, strict=True), start=first
            ):
                one = f"{request_id}.{number}"
                self._shown(query, answered, choice, one, None)
                told.append(_told(answered, choice, one, query.customer_id))
            return orjson.dumps(told)[1:-1]

        starts = range(0, len(queries), BATCH_CHUNK)
        chunks = [await self._in_thread(partial(work, first)) for first in starts]
        return b"[" + b",".join(chunks) + b"]"

    async def similar(self, asked: SimilarRequest, served: Served, request_id: str) -> bytes:
        """Answer ``/v1/similar``, by what is live: nobody is asking whom an experiment could assign."""
        recommender = served.live
        at, filters = self._clock(), asked.filters.to_filters()
        if not any(product in recommender.bundle.catalog.index for product in asked.product_ids):
            told = f"expected at least one known product, found none among the {len(asked.product_ids)} given"
            raise InvalidRequest(told, "product_ids")

        def work() -> bytes:
            with _filters_refused(recommender, filters):
                answered = recommender.similar(asked.product_ids, n=asked.n, at=at, filters=filters)
            self._metrics.recommended(answered)
            return orjson.dumps(_told(answered, Choice(recommender), request_id, None, filters))

        await asyncio.sleep(0)
        return work()

    async def trace(self, asked: TraceRequest, served: Served, request_id: str) -> bytes:
        """Answer ``/v1/trace``; nothing is recorded as shown."""
        query = asked.to_query(self._clock(), asked.request_id or request_id)

        def work() -> bytes:
            choice = self._choice(asked, query, served) or served.choices([query], query.surface)[0]
            recommender = choice.recommender
            with _filters_refused(recommender, query.filters):
                draft = draft_trace(choice, query)
                told = (
                    trace(recommender, query, recommender.states([query])[0])
                    if draft is None
                    else next(iter(draft.lists.values()))
                )
            about = {
                "request_id": query.request_id,
                "experiment": choice.experiment,
                "variant": choice.variant,
            }
            drafted = None if draft is None else draft.to_json()
            return orjson.dumps({**about, "trace": told.to_json(), "draft": drafted})

        return await self._in_thread(work)

    def _shown(
        self,
        query: Query,
        answered: Recommendations,
        choice: Choice,
        request_id: str,
        surface: str | None,
    ) -> None:
        """Record what is shown, count the variant, and let its shadow answer."""
        if choice.experiment is not None and choice.variant is not None:
            self._metrics.chosen(choice.experiment, choice.variant)
            self._shadows.answer(query, choice, answered)
        if self._exposures is None:
            return
        is_taken = self._exposures.add(exposure(query, choice, answered, request_id, surface))
        self._metrics.exposed("taken" if is_taken else "dropped")

    async def _in_thread(self, work: Callable[[], bytes]) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def exposure(
    query: Query, choice: Choice, answered: Recommendations, request_id: str, surface: str | None
) -> Exposure:
    """Return the record of what an answer showed."""
    return Exposure(
        request_id=request_id,
        at=to_micros(query.at),
        customer_id=query.customer_id,
        session_id=query.session_id,
        surface=surface,
        experiment=choice.experiment,
        variant=choice.variant,
        bundle=choice.recommender.bundle.tag,
        rules=choice.recommender.digest,
        items=tuple(
            Shown(item.product_id, item.score, item.source, item.propensity, item.team)
            for item in answered.items
        ),
        forced=choice.forced,
        conditions=conditions(query),
    )


def _told(
    answered: Recommendations,
    choice: Choice,
    request_id: str,
    customer_id: str | None,
    filters: Filters = _NO_FILTERS,
) -> dict[str, Any]:
    catalog = choice.recommender.bundle.catalog
    return answer(
        answered,
        request_id=request_id,
        customer_id=customer_id,
        bundle=choice.recommender.bundle.tag,
        rules=choice.recommender.digest,
        experiment=choice.experiment,
        variant=choice.variant,
        unmatched=catalog.unmatched(filters) if filters else (),
    )


@contextmanager
def _filters_refused(recommender: Recommender, filters: Filters) -> Iterator[None]:
    """Turn a filter that the catalog cannot apply into a refusal that names it."""
    try:
        yield
    except DataError as error:
        catalog = recommender.bundle.catalog
        fields = (
            f"filters.attributes.{name}"
            for name, values in filters.attributes
            if name not in catalog.attributes or not all(map(catalog.column(name).suits, values))
        )
        raise InvalidRequest(str(error), next(fields, "filters")) from None
