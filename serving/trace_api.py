"""What ``/v1/trace`` takes and gives: a request for recommendations, and how its answer came about."""

from __future__ import annotations

from pydantic import BaseModel

from serving.api import Id, RecommendRequest
from serving.draft_trace import DraftTrace
from serving.trace import Trace


class TraceRequest(RecommendRequest):
    """Asks how an answer comes about now; with the ``request_id`` of an earlier one, what chance made of that."""

    request_id: Id | None = None


class TraceResponse(BaseModel):
    """Who answered, and what each rule did to each candidate (see ``Trace``).

    An interleaved answer is in ``draft``: whose pick each product is, and the trace of each list; ``trace`` is then
    that of the control's.
    """

    request_id: str
    experiment: str | None
    variant: str | None
    trace: Trace
    draft: DraftTrace | None
