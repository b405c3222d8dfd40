"""The endpoints of the HTTP API, and the OpenAPI 3.1 document made from them.

``ENDPOINTS`` is the one list: the application routes by it and the document is generated from it and from
the pydantic models, so neither can know a path that the other does not. The probes and the metrics are
BentoML's own routes and are documented here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.api import (
    BatchRequest,
    ChangesResponse,
    CustomerChanges,
    ErrorBody,
    FeedbackRequest,
    FeedbackResponse,
    ProductChanges,
    RecommendRequest,
    RecommendResponse,
    SimilarRequest,
)
from serving.trace_api import TraceRequest, TraceResponse

DOCUMENT_PATH: Final = "/v1/openapi.json"

#: Every refusal of an endpoint that takes a body: status, code, when.
REFUSALS: Final[dict[int, tuple[str, str]]] = {
    400: ("invalid_json", "The body is not a JSON object in UTF-8 (NaN and Infinity are not JSON)."),
    401: ("unauthorized", "Keys are configured and the request brings none of them."),
    403: (
        "forbidden",
        "The request is not from this machine, and no keys are configured or the path is for this machine alone.",
    ),
    405: ("method_not_allowed", "The path takes another method; see Allow."),
    408: ("request_timeout", "The body did not arrive in time."),
    413: ("too_large", "The body is larger than the limit."),
    415: ("unsupported_media_type", "The content type is not application/json."),
    422: ("invalid_request", "A field is missing, unknown, of another type or out of range."),
    429: ("overloaded", "Too many requests are in flight; repeat after Retry-After seconds."),
    500: ("internal", "An error of the service; its log has it under the request id."),
    503: (
        "not_ready",
        "No verified bundle is loaded yet, or the event log is down; repeat after Retry-After seconds.",
    ),
}
_RETRIED: Final = (429, 503)


_ITEM: Final = {
    "product_id": "85123A",
    "name": "White hanging heart",
    "rank": 1,
    "score": 0.83,
    "source": "model:als",
    "reason": {"code": "similar_to", "product_id": "22423"},
}
_ANSWER: Final = {
    "request_id": "5f2b6c0e9a7d4d0f8a4b1c2d3e4f5a6b",
    "customer_id": "17850",
    "bundle": "nextbest:202601311200-0123456789ab",
    "rules": "5d41402abc4b",
    "experiment": None,
    "variant": None,
    "ignored": [],
    "recommendations": [_ITEM],
}
_TRACE: Final = {
    "request_id": "5f2b6c0e9a7d4d0f8a4b1c2d3e4f5a6b",
    "experiment": None,
    "variant": None,
    "trace": {
        "customer_id": "17850",
        "surface": "home",
        "at": "2026-01-31T12:00:00+00:00",
        "bundle": "nextbest:202601311200-0123456789ab",
        "rules": "5d41402abc4b",
        "hard": ["for adults"],
        "soft": ["hearts first"],
        "gave_way": [],
        "products": [
            {
                "product_id": "85123A",
                "name": "White hanging heart",
                "candidate": 3,
                "dropped_by": [],
                "moves": [{"rule": "hearts first", "before": None, "after": 1}],
                "rank": 1,
                "score": 0.83,
                "source": "model:als",
                "propensity": 1.0,
            }
        ],
    },
    "draft": None,
}


@dataclass(frozen=True)
class Endpoint:
    """One path with one method: what it takes, what it gives, and an example of both.

    What is told is taken whether or not a bundle is loaded (``needs_bundle``). What tells of the inside is for this
    machine alone (``is_local``).
    """

    path: str
    operation: str
    summary: str
    request: type[BaseModel]
    response: type[BaseModel]
    many: bool = False
    method: str = "POST"
    example: Mapping[str, Any] = field(default_factory=dict)
    answer: Mapping[str, Any] = field(default_factory=lambda: _ANSWER)
    needs_bundle: bool = True
    is_local: bool = False


ENDPOINTS: Final = (
    Endpoint(
        "/v1/recommend",
        "recommend",
        "Which products to show to one customer",
        RecommendRequest,
        RecommendResponse,
        example={
            "customer_id": "17850",
            "n": 5,
            "context": {"product_ids": ["22423"], "surface": "home"},
            "filters": {"category": ["kitchen", "garden"], "price_max": 20},
        },
    ),
    Endpoint(
        "/v1/recommend/batch",
        "recommend_batch",
        "Which products to show to each of many customers; answers in the order of the ids",
        BatchRequest,
        RecommendResponse,
        many=True,
        example={"customer_ids": ["17850", "13047"], "n": 5},
    ),
    Endpoint(
        "/v1/similar",
        "similar",
        "Which products are like the given ones",
        SimilarRequest,
        RecommendResponse,
        example={"product_ids": ["22423", "85123A"], "n": 5},
    ),
    Endpoint(
        "/v1/trace",
        "trace",
        "How an answer comes about: candidates, what each rule did to them, propensities, whose "
        "pick each product of an interleaved answer is; for this machine alone",
        TraceRequest,
        TraceResponse,
        example={"customer_id": "17850", "n": 1, "context": {"surface": "home"}},
        answer=_TRACE,
        is_local=True,
    ),
    Endpoint(
        "/v1/feedback",
        "feedback",
        "What customers did; what is acknowledged is durable, and a repeated event_id counts once",
        FeedbackRequest,
        FeedbackResponse,
        example={
            "events": [
                {
                    "event_id": "order-4711-1",
                    "customer_id": "17850",
                    "product_id": "22423",
                    "kind": "purchase",
                    "at": "2026-01-31T12:00:00Z",
                    "value": 12.75,
                    "request_id": "5f2b6c0e9a7d4d0f8a4b1c2d3e4f5a6b",
                }
            ]
        },
        answer={"accepted": 1, "duplicates": 0, "rejected": [], "unknown_products": []},
        needs_bundle=False,
    ),
    Endpoint(
        "/v1/products",
        "products",
        "Live changes of products: price, availability, attributes",
        ProductChanges,
        ChangesResponse,
        example={"products": [{"product_id": "22423", "available": False}]},
        answer={"accepted": 1, "unknown": [], "ignored": []},
        needs_bundle=False,
    ),
    Endpoint(
        "/v1/customers",
        "customers",
        "Live changes of customers: consent by channel, attributes",
        CustomerChanges,
        ChangesResponse,
        example={"customers": [{"customer_id": "17850", "consent": {"email": False, "fax": False}}]},
        answer={
            "accepted": 1,
            "unknown": [],
            "ignored": [
                {
                    "field": "customers[0].consent.fax",
                    "why": "expected a column of the customers' table (there are: consent_email, region), "
                    "found none called consent_fax",
                }
            ],
        },
        needs_bundle=False,
    ),
)


def document() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document as JSON values."""
    used: dict[type[BaseModel], None] = {ErrorBody: None}
    for endpoint in ENDPOINTS:
        used |= {endpoint.request: None, endpoint.response: None}
    _, schemas = models_json_schema(
        [(model, "validation") for model in used], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, Any] = {
        endpoint.path: {endpoint.method.lower(): _operation(endpoint)} for endpoint in ENDPOINTS
    }
    paths[DOCUMENT_PATH] = {"get": _plain("openapi", "This document", "application/json", {"type": "object"})}
    text = {"type": "string"}
    paths["/livez"] = {"get": _plain("livez", "Whether the process answers", "text/plain", text)}
    ready = _plain("readyz", "Whether a verified and warm bundle is served", "text/plain", text)
    ready["responses"]["503"] = {"description": "Not yet", "content": {"text/plain": {"schema": text}}}
    paths["/readyz"] = {"get": ready}
    paths["/metrics"] = {"get": _plain("metrics", "Prometheus metrics", "text/plain", text)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Nextbest",
            "version": "1.0.0",  # of the API; the code may run without its distribution, as in a Bento
            "description": "Which products for this customer. An unknown customer is not an error.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        # without configured keys no credential is needed on the machine itself
        "security": [{"key": []}, {}],
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    item = _ref(endpoint.response)
    responses: dict[str, Any] = {
        "200": {
            "description": "The answer",
            "headers": {"X-Request-Id": {"schema": {"type": "string"}}},
            "content": {
                "application/json": {
                    "schema": {"type": "array", "items": item} if endpoint.many else item,
                    "example": [dict(endpoint.answer)] if endpoint.many else dict(endpoint.answer),
                }
            },
        }
    }
    responses |= {str(status): _refusal(status) for status in REFUSALS}
    return {
        "operationId": endpoint.operation,
        "summary": endpoint.summary,
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _ref(endpoint.request), "example": dict(endpoint.example)}
            },
        },
        "responses": responses,
    }


def _refusal(status: int) -> dict[str, Any]:
    code, when = REFUSALS[status]
    told = {"error": {"code": code, "message": when, "field": None}}
    response: dict[str, Any] = {
        "description": when,
        "content": {"application/json": {"schema": _ref(ErrorBody), "example": told}},
    }
    if status in _RETRIED:
        response["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    if status == 405:
        response["headers"] = {"Allow": {"schema": {"type": "string"}}}
    return response


def _plain(operation: str, summary: str, media: str, schema: dict[str, Any]) -> dict[str, Any]:
    answered = {"description": summary, "content": {media: {"schema": schema}}}
    return {"operationId": operation, "summary": summary, "responses": {"200": answered}}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
