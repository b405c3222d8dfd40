"""The HTTP border in process: every refusal, its body, and what a good request becomes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from time import sleep
from typing import Any, get_args, get_type_hints

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from serving import app as app_module
from serving.api import (
    ChangesResponse,
    ErrorBody,
    FeedbackResponse,
    ReasonItem,
    RecommendRequest,
    RecommendResponse,
)
from serving.app import Application
from serving.catalog import Filters
from serving.errors import FeatureUnavailable
from serving.events import CHANGES, ExposureBuffer, open_log
from serving.features import CustomerState, FeatureReader, FrameReader, Kind, Reading
from serving.loading import FAILURES, QUICK_SECONDS, REST_SECONDS, GuardedReader
from serving.metrics import Metrics
from serving.openapi import DOCUMENT_PATH, document
from serving.recommender import Query, Reason, Recommender
from serving.served import Served
from serving.settings import Settings
from serving.validation import InvalidRequest, parse
from tests.builders import AT, make_bundle, state

READER = FrameReader({"c01": state([("p001", "purchase", 2.0), ("p002", "view", 1.0)], "category:tea")})
JSON = {"content-type": "application/json"}


def recommender() -> Recommender:
    return Recommender(make_bundle(), READER)


def _served(held: Recommender | Served) -> Served:
    return held if isinstance(held, Served) else Served(held)


class Api:
    """An application in this process and a client of it."""

    def __init__(
        self,
        current: Callable[[], Recommender | Served | None],
        *,
        client: str = "127.0.0.1",
        clock: Callable[[], datetime] = lambda: AT,
        exposures: ExposureBuffer | None = None,
        **given: Any,
    ) -> None:
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry)
        settings = Settings.load(**given)
        self.log = open_log(settings.events)
        self.app = Application(
            settings,
            current=lambda: None if (held := current()) is None else _served(held),
            metrics=metrics,
            clock=clock,
            event_log=self.log,
            exposures=exposures,
        )
        self._client = client

    def ask(
        self,
        path: str = "/v1/recommend",
        body: Any = None,
        *,
        method: str = "POST",
        headers: Mapping[Any, Any] | None = None,
    ) -> httpx.Response:
        return self.ask_many([(path, body, method, headers)])[0]

    def ask_many(
        self, asked: Sequence[tuple[str, Any, str, Mapping[Any, Any] | None]]
    ) -> list[httpx.Response]:
        async def run() -> list[httpx.Response]:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=True, client=(self._client, 5))
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await asyncio.gather(
                    *(
                        client.request(
                            method,
                            path,
                            content=body if body is None or isinstance(body, bytes) else orjson.dumps(body),
                            headers=JSON if headers is None else headers,
                        )
                        for path, body, method, headers in asked
                    )
                )

        return asyncio.run(run())

    def counted(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    held = recommender()
    made = Api(lambda: held)
    yield made
    made.app.close()


def refused(response: httpx.Response, status: int, code: str, field: str | None = None) -> str:
    assert response.status_code == status, response.text
    body = ErrorBody.model_validate(response.json(), strict=True, extra="forbid")
    assert body.error.code == code
    assert body.error.field == field
    assert "expected" in body.error.message
    assert "found" in body.error.message
    assert "Traceback" not in response.text
    assert len(response.headers["x-request-id"]) == 32
    return body.error.message


INVALID: list[tuple[dict[str, Any], str, str]] = [
    ({}, "customer_id", "found neither"),
    ({"customer_id": None}, "customer_id", "found neither"),
    ({"customer_id": 5}, "customer_id", "expected a string, found 5"),
    ({"customer_id": ""}, "customer_id", "at least 1 character"),
    ({"customer_id": "x" * 201}, "customer_id", "at most 200 characters"),
    ({"session_id": ["a"]}, "session_id", "expected a string"),
    ({"n": 0}, "n", "expected a number of at least 1, found 0"),
    ({"n": 101}, "n", "expected a number of at most 100, found 101"),
    ({"n": True}, "n", "expected an integer, found true"),
    ({"n": "5"}, "n", 'expected an integer, found "5"'),
    ({"n": 1.5}, "n", "expected an integer, found 1.5"),
    ({"n": None}, "n", "expected an integer, found null"),
    ({"colour": 1}, "colour", 'found "colour"'),
    ({"context": []}, "context", "expected an object, found []"),
    ({"context": {"product_ids": "p001"}}, "context.product_ids", "expected a list"),
    ({"context": {"product_ids": ["p001", 7]}}, "context.product_ids[1]", "expected a string, found 7"),
    ({"context": {"product_ids": ["p001"] * 101}}, "context.product_ids", "at most 100 entries, found 101"),
    ({"context": {"page": "home"}}, "context.page", "product_ids, surface"),
    ({"exclude": ["p001"] * 1001}, "exclude", "at most 1000 entries, found 1001"),
    ({"filters": {"category": 5}}, "filters.category", "or a list of 1 to 100 strings, found 5"),
    ({"filters": {"category": []}}, "filters.category", "or a list of 1 to 100 strings, found []"),
    ({"filters": {"category": ["tea", 5]}}, "filters.category[1]", "1 to 200 characters, found 5"),
    ({"exclude": ["p001", ""]}, "exclude[1]", "at least 1 character"),
    ({"filters": {"price_min": "5"}}, "filters.price_min", 'expected a number, found "5"'),
    ({"filters": {"price_min": True}}, "filters.price_min", "expected a number, found true"),
    (
        {"filters": {"price_min": 5, "price_max": 4}},
        "filters.price_max",
        "at least price_min (5.0), found 4.0",
    ),
    ({"filters": {"size": 1}}, "filters.size", "category, price_min, price_max, attributes"),
    ({"filters": {"attributes": {"brand": None}}}, "filters.attributes.brand", "found null"),
    ({"filters": {"attributes": {"brand": []}}}, "filters.attributes.brand", "a list of 1 to 100 of them"),
    ({"filters": {"attributes": {"brand": ["Alto", {}]}}}, "filters.attributes.brand[1]", "found {}"),
    ({"filters": {"attributes": {"colour": "red"}}}, "filters.attributes.colour", "brand, eco, stars"),
    (
        {"filters": {"attributes": {"eco": "yes"}}},
        "filters.attributes.eco",
        'true or false for eco in filters, found "yes"',
    ),
    ({"filters": {"attributes": {"brand": "Alto", "eco": 1}}}, "filters.attributes.eco", "true or false"),
    (
        {"filters": {"attributes": {"stars": [5, "4"]}}},
        "filters.attributes.stars",
        'expected a number for stars in filters, found "4"',
    ),
    ({"filters": {"attributes": {"stars": True}}}, "filters.attributes.stars", "found true"),
    ({"purchased": "never"}, "purchased", "'exclude', 'allow' or 'due'"),
    ({"variant": "b"}, "variant", 'expected a configured variant (there are: none), found "b"'),
]


@pytest.mark.parametrize(("change", "field", "told"), INVALID, ids=[str(case[0])[:40] for case in INVALID])
def test_a_body_that_does_not_fit_is_422(api: Api, change: dict[str, Any], field: str, told: str) -> None:
    body = (
        change
        if {"customer_id", "session_id"} & set(change) or not change
        else {"customer_id": "c01", **change}
    )
    assert told in refused(api.ask(body=body), 422, "invalid_request", field)


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        (
            "/v1/products",
            {"products": [{"product_id": "p001", "price": -1}]},
            "a number of at least 0.0, found -1",
        ),
        ("/v1/products", {"products": [{"product_id": "p001", "available": "no"}]}, "true or false, found"),
        (
            "/v1/customers",
            {"customers": [{"customer_id": "c01", "consent": {"email": "yes"}}]},
            "true or false, found",
        ),
    ],
)
def test_what_does_not_fit_is_told_in_words(api: Api, path: str, body: dict[str, Any], told: str) -> None:
    response = api.ask(path, body)
    assert response.status_code == 422, response.text
    assert f"expected {told}" in response.json()["error"]["message"]


FINE = {"product_id": "p001", "price": 5.0}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/recommend/batch", {}, "customer_ids"),
        ("/v1/recommend/batch", {"customer_ids": []}, "customer_ids"),
        ("/v1/recommend/batch", {"customer_ids": ["a"] * 1001}, "customer_ids"),
        ("/v1/recommend/batch", {"customer_ids": ["a", 1]}, "customer_ids[1]"),
        ("/v1/recommend/batch", {"customer_ids": ["a"], "exclude": []}, "exclude"),
        ("/v1/similar", {}, "product_ids"),
        ("/v1/similar", {"product_ids": ["nope", "neither"]}, "product_ids"),
        ("/v1/similar", {"product_ids": ["p001"], "n": 0}, "n"),
        (
            "/v1/similar",
            {"product_ids": ["p001"], "filters": {"attributes": {"x": 1}}},
            "filters.attributes.x",
        ),
        ("/v1/products", {"products": [FINE, {"price": 1.0}]}, "products[1].product_id"),
        ("/v1/products", {"products": [FINE, {"product_id": "p002"}]}, "products[1].product_id"),
        ("/v1/products", {"products": [FINE, 5]}, "products[1]"),
        ("/v1/products", {"products": [{**FINE, "prize": 1.0}]}, "products[0].prize"),
        ("/v1/products", {"products": [{**FINE, "attributes": {"eco": []}}]}, "products[0].attributes.eco"),
        (
            "/v1/products",
            {"products": [{**FINE, "attributes": {"price": "?"}}]},
            "products[0].attributes.price",
        ),
        (
            "/v1/products",
            {"products": [{**FINE, "attributes": {"available": 3}}]},
            "products[0].attributes.available",
        ),
        ("/v1/customers", {"customers": [{"customer_id": "c01"}]}, "customers[0].customer_id"),
        (
            "/v1/customers",
            {"customers": [{"customer_id": "c01", "consent": {"email": 1}}]},
            "customers[0].consent.email",
        ),
        (
            "/v1/customers",
            {"customers": [{"customer_id": "c01", "attributes": {"consent_email": 1}}]},
            "customers[0].attributes.consent_email",
        ),
    ],
)
def test_the_other_endpoints_refuse_alike(api: Api, path: str, body: dict[str, Any], field: str) -> None:
    refused(api.ask(path, body), 422, "invalid_request", field)


def test_a_field_nobody_knows_is_told_with_those_beside_it(api: Api) -> None:
    body = {"products": [FINE, {**FINE, "prize": 1.0}]}
    told = refused(api.ask("/v1/products", body), 422, "invalid_request", "products[1].prize")
    assert told == 'expected one of the fields product_id, price, available, attributes; found "prize"'
    told = api.ask("/v1/feedback", {"events": [{**EVENT, "kid": 1}]}).json()["rejected"][0]["why"]
    assert "event_id, customer_id, session_id, product_id, kind" in told


EVENT = {"customer_id": "c01", "product_id": "p001", "kind": "view"}


def test_each_rejected_event_has_its_place(api: Api) -> None:
    events = [
        EVENT,
        {**EVENT, "kind": "stare"},
        5,
        {**EVENT, "at": "2126-01-31T12:00:00Z"},
        {"product_id": "p"},
    ]
    told = FeedbackResponse.model_validate(api.ask("/v1/feedback", {"events": events}).json(), strict=True)
    assert told.accepted == 1
    assert [(one.index, one.field) for one in told.rejected] == [
        (1, "events[1].kind"),
        (2, "events[2]"),
        (3, "events[3].at"),
        (4, "events[4].kind"),
    ]


def test_attributes_that_have_no_effect_are_told(api: Api) -> None:
    change = {
        "product_id": "p002",
        "available": True,
        "attributes": {"brand": "Cava", "colour": "red", "eco": 3, "stars": "five", "category": "tea"},
    }
    told = ChangesResponse.model_validate(
        api.ask("/v1/products", {"products": [FINE, change]}).json(), strict=True, extra="forbid"
    )
    assert (told.accepted, told.unknown) == (2, [])
    assert {one.field.removeprefix("products[1].attributes."): one.why for one in told.ignored} == {
        "colour": "expected an attribute of the products (there are: brand, eco, stars), found none called colour",
        "category": (
            "expected an attribute of the products (there are: brand, eco, stars), found category, which only the "
            "tables change"
        ),
        "eco": "expected true or false, found 3",
        "stars": 'expected a number, found "five"',
    }


def test_attributes_and_channels_of_customers_that_nobody_has_are_told() -> None:
    class Known(FeatureReader):
        attributes: Mapping[str, Kind] = {"region": "a text", "consent_email": "true or false"}

    held = Recommender(make_bundle(), Known())
    change = {
        "customer_id": "c01",
        "consent": {"email": True, "fax": False},
        "attributes": {"region": "north", "shoe": 43},
    }
    told = Api(lambda: held).ask("/v1/customers", {"customers": [change]}).json()
    assert [one["field"] for one in told["ignored"]] == [
        "customers[0].consent.fax",
        "customers[0].attributes.shoe",
    ]
    for one, name in zip(told["ignored"], ("consent_fax", "shoe"), strict=True):
        assert one["why"] == (
            f"expected a column of the customers' table (there are: consent_email, region), found none called {name}"
        )


KINDS: dict[str, Kind] = {
    "region": "a text",
    "age": "a number",
    "vip": "true or false",
    "born": "a time as ISO 8601",
}


def test_values_of_customers_that_do_not_fit_are_told_by_kind() -> None:
    class Known(FeatureReader):
        attributes: Mapping[str, Kind] = KINDS

    api = Api(lambda: Recommender(make_bundle(), Known()))

    def why(**attributes: Any) -> dict[str, str]:
        change = {"customer_id": "c01", "attributes": attributes}
        told = api.ask("/v1/customers", {"customers": [change]}).json()
        lead = "customers[0].attributes."
        return {one["field"].removeprefix(lead): one["why"] for one in told["ignored"]}

    assert why(region="north", age=7, vip=False, born="1980-02-03") == {}
    assert why(region=None, age=None, vip=None, born=None) == {}, "null: not known"
    assert why(region=5, age="7", vip=0, born="long ago") == {
        "region": "expected a text, or null for not known, found 5",
        "age": 'expected a number, or null for not known, found "7"',
        "vip": "expected true or false, or null for not known, found 0",
        "born": 'expected a time as ISO 8601, or null for not known, found "long ago"',
    }
    assert why(region=True, age=True).keys() == {"region", "age"}


def test_a_value_that_does_not_fit_leaves_what_was_told_before(tmp_path: Path) -> None:
    """It is not kept: as the latest value of its column it would take the place of one that fits."""

    class Known(FeatureReader):
        attributes: Mapping[str, Kind] = KINDS

    api = Api(lambda: Recommender(make_bundle(), Known()), home=tmp_path)
    odd = {"customer_id": "c01", "attributes": {"region": 5, "shoe": 43, "vip": True}}
    assert api.ask("/v1/customers", {"customers": [odd]}).json()["accepted"] == 1
    bad = {"customer_id": "c02", "attributes": {"age": "old"}}
    assert api.ask("/v1/customers", {"customers": [bad]}).json()["accepted"] == 0
    odd = {"product_id": "p002", "attributes": {"stars": "five", "colour": "red"}}
    assert api.ask("/v1/products", {"products": [odd]}).json()["accepted"] == 1
    kept = [entry.record.values for entry in api.log.read(CHANGES, after=None, limit=10)]
    assert kept == [{"shoe": 43, "vip": True}, {"colour": "red"}], "columns to come are kept"


def test_a_negative_value_is_rejected_and_an_unknown_product_is_told(api: Api) -> None:
    events = [
        {**EVENT, "kind": "purchase", "value": -5},
        {**EVENT, "kind": "return", "value": 5},
        {**EVENT, "product_id": "p00l"},
        {**EVENT, "product_id": "p00l", "kind": "cart"},
        {**EVENT, "product_id": "no-such", "kind": "stare"},
        {**EVENT, "kind": "purchase", "value": 1e308},
    ]
    told = FeedbackResponse.model_validate(
        api.ask("/v1/feedback", {"events": events}).json(), strict=True, extra="forbid"
    )
    assert (told.accepted, told.unknown_products) == (3, ["p00l"])
    assert [one.field for one in told.rejected] == ["events[0].value", "events[4].kind", "events[5].value"]
    assert "at most 1e+15" in told.rejected[2].why
    assert "kind return" in told.rejected[0].why and "found -5" in told.rejected[0].why
    first = Api(lambda: None).ask("/v1/feedback", {"events": [EVENT]}).json()
    assert (first["accepted"], first["unknown_products"]) == (1, [])


NOT_JSON = [b"", b"{", b"[]", b"5", b'"x"', b"null", b'{"n": NaN}', b'{"n": Infinity}', b'{"n": 1e999}']
NOT_JSON += [b"\xff\xfe", b"{'a': 1}", b"[" * 5000, b'{"customer_id": "\\ud800"}']


@pytest.mark.parametrize("body", NOT_JSON)
def test_what_is_no_json_object_is_400(api: Api, body: bytes) -> None:
    refused(api.ask(body=body), 400, "invalid_json")


def test_wrong_path_method_and_type(api: Api) -> None:
    for path in ("/", "/v1", "/v1/", "/v1/recommend/", "/v2/recommend", "/v1/%00", "/v1/" + "x" * 500):
        refused(api.ask(path, {}), 404, "not_found")
    for method in ("GET", "PUT", "DELETE", "OPTIONS", "PATCH"):
        response = api.ask(method=method, body={})
        refused(response, 405, "method_not_allowed")
        assert response.headers["allow"] == "POST"
    response = api.ask(DOCUMENT_PATH, {})
    refused(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "GET, HEAD"
    for headers in (
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
    ):
        refused(api.ask(body={"customer_id": "c01"}, headers=headers), 415, "unsupported_media_type")
    fine = api.ask(body={"customer_id": "c01"}, headers={"content-type": "Application/JSON; charset=utf-8"})
    assert fine.status_code == 200


def test_a_large_body_is_refused_by_its_header_and_while_it_streams() -> None:
    api = Api(recommender, request_limit_bytes=1000)
    assert "10000000 bytes" in refused(api.ask(body=b"x" * 10_000_000), 413, "too_large")
    read = 0

    async def endless() -> None:
        nonlocal read
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            nonlocal read
            read += 1
            if sent and read > 20:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": b"x" * 600, "more_body": True}

        async def send(message: Any) -> None:
            sent.append((read, message))

        await api.app(scope(), receive, send)
        assert sent[0][0] == 2  # the answer leaves after the part that exceeds the limit
        assert sent[0][1]["status"] == 413

    asyncio.run(endless())


def scope() -> dict[str, Any]:
    headers = [(b"content-type", b"application/json")]
    return {
        "type": "http",
        "path": "/v1/recommend",
        "method": "POST",
        "headers": headers,
        "client": ("127.0.0.1", 1),
    }


def test_a_body_that_never_ends_is_408(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "BODY_SECONDS", 0.05)
    monkeypatch.setattr(app_module, "DISCARD_SECONDS", 0.05)
    sent: list[Any] = []

    async def run() -> None:
        async def receive() -> dict[str, Any]:
            await asyncio.sleep(10)
            return {}

        async def send(message: Any) -> None:
            sent.append(message)

        await api.app(scope(), receive, send)

    asyncio.run(run())
    assert sent[0]["status"] == 408


def test_who_is_answered() -> None:
    body = {"customer_id": "c01"}
    assert Api(recommender, client="::1").ask(body=body).status_code == 200
    for client in ("10.0.0.7", "8.8.8.8", "unknown"):
        assert "NEXTBEST_API_KEYS" in refused(
            Api(recommender, client=client).ask(body=body), 403, "forbidden"
        )
    api = Api(recommender, client="10.0.0.7", api_keys=("first-key", "second-key"))
    for held in ("", "first-key", "Basic first-key", "Bearer", "Bearer nope", "Bearer first-ke", "Bearer ä"):
        headers = {b"content-type": b"application/json", b"authorization": held.encode("latin-1")}
        response = api.ask(body=body, headers=headers)
        refused(response, 401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"
    for key in ("first-key", "second-key"):
        assert api.ask(body=body, headers={**JSON, "authorization": f"bearer {key}"}).status_code == 200
    # what tells of the inside is for this machine alone, and asks for a key all the same
    bearer = {**JSON, "authorization": "bearer first-key"}
    assert "from this machine" in refused(api.ask("/v1/trace", body, headers=bearer), 403, "forbidden")
    here = Api(recommender, api_keys=("first-key",))
    assert here.ask("/v1/trace", body, headers=bearer).json()["trace"]["customer_id"] == "c01"
    refused(here.ask("/v1/trace", body), 401, "unauthorized")


def test_not_ready_until_there_is_a_recommender() -> None:
    held: list[Recommender] = []
    api = Api(lambda: held[0] if held else None)
    response = api.ask(body={"customer_id": "c01"})
    refused(response, 503, "not_ready")
    assert response.headers["retry-after"] == "1"
    assert api.ask(DOCUMENT_PATH, method="GET").status_code == 200
    held.append(recommender())
    assert api.ask(body={"customer_id": "c01"}).status_code == 200


def test_overload_is_told_at_once() -> None:
    waits = threading.Event()

    class Slow(FeatureReader):
        is_quick = False

        def read(self, customer_ids: Sequence[str], at: datetime) -> list[CustomerState]:
            waits.wait(5)
            return [CustomerState() for _ in customer_ids]

    held = Recommender(make_bundle(), Slow())
    api = Api(lambda: held, concurrency_limit=2)
    threading.Timer(0.3, waits.set).start()
    asked = [("/v1/recommend", {"customer_id": "c01"}, "POST", None)] * 6
    responses = api.ask_many(asked)
    assert sorted(response.status_code for response in responses) == [200, 200, 429, 429, 429, 429]
    for response in responses:
        if response.status_code == 429:
            refused(response, 429, "overloaded")
            assert response.headers["retry-after"] == "1"
    assert api.ask(body={"customer_id": "c01"}).status_code == 200


def test_overload_of_a_quick_store_is_told_too() -> None:
    """Answers that take the event loop for themselves do not hide who waits for it."""
    held = recommender()
    api = Api(lambda: held, concurrency_limit=2)
    asked = [("/v1/recommend", {"customer_id": "c01"}, "POST", None)] * 6
    found = [response.status_code for response in api.ask_many(asked)]
    assert sorted(found) == [200, 200, 429, 429, 429, 429]


def test_answers_leave_the_event_loop_while_the_store_is_slow() -> None:
    """The probes are answered by the loop: a store that takes its time must not hold it."""
    threads: list[str] = []
    asked: list[str] = []

    class Store(FeatureReader):
        is_quick = False

        def read(self, customer_ids: Sequence[str], at: datetime) -> list[CustomerState]:
            threads.append(threading.current_thread().name)
            return [CustomerState() for _ in customer_ids]

        def begin(self, customer_ids: Sequence[str], at: datetime) -> Reading:
            asked.append(threading.current_thread().name)  # to connect takes time, too
            return super().begin(customer_ids, at)

    store = Store()
    held = Recommender(make_bundle(), store)
    api = Api(lambda: held)
    for store.is_quick in (True, False, True):
        assert api.ask(body={"customer_id": "c01"}).status_code == 200
    for names in (threads, asked):
        assert [name.startswith("answer") for name in names] == [False, True, False]


def test_an_unexpected_error_is_500_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(FeatureReader):
        def read(self, customer_ids: Sequence[str], at: datetime) -> list[CustomerState]:
            raise ZeroDivisionError("secret detail")

    held = Recommender(make_bundle(), Broken())
    api = Api(lambda: held)
    response = api.ask(body={"customer_id": "c01"})
    refused(response, 500, "internal")
    assert "secret" not in response.text
    assert response.headers["x-request-id"] in caplog.text
    assert api.counted("nextbest_requests_total", route="/v1/recommend", status="500") >= 1


def test_the_answer_has_the_fields_of_the_contract(api: Api) -> None:
    body = {
        "customer_id": "c01",
        "n": 5,
        "context": {"product_ids": ["p003", "ghost"], "surface": "home"},
        "exclude": ["p004", "phantom"],
        "purchased": "allow",
    }
    response = api.ask(body=body)
    assert response.status_code == 200
    told = response.json()
    RecommendResponse.model_validate(told, strict=True, extra="forbid")
    assert list(told) == [
        name for name in RecommendResponse.model_fields if name not in ("degraded", "unmatched")
    ]
    assert told["request_id"] == response.headers["x-request-id"]
    assert told["customer_id"] == "c01"
    assert told["bundle"] == "nextbest:202603010000-000000000000"
    assert told["experiment"] is None
    assert told["variant"] is None
    assert told["ignored"] == ["ghost", "phantom"]
    assert [item["rank"] for item in told["recommendations"]] == [1, 2, 3, 4, 5]
    assert "p004" not in {item["product_id"] for item in told["recommendations"]}


def test_http_answers_what_the_recommender_answers(api: Api) -> None:
    body = {
        "customer_id": "c01",
        "n": 7,
        "filters": {"category": "tea", "price_max": 40, "attributes": {"eco": True}},
    }
    filters = Filters(("tea",), None, 40.0, (("eco", (True,)),))
    expected = recommender().recommend([Query(at=AT, customer_id="c01", n=7, filters=filters)])[0]
    told = api.ask(body=body).json()["recommendations"]
    assert [item["product_id"] for item in told] == expected.product_ids
    assert [item["score"] for item in told] == pytest.approx([item.score for item in expected.items])


@pytest.mark.parametrize("path", ["recommend", "similar"])
def test_values_in_filters_that_no_product_has_are_told(api: Api, path: str) -> None:
    filters = {"category": ["tea", "Tea"], "attributes": {"brand": "alto", "stars": [5, 5.5], "eco": True}}
    body = {"product_ids": ["p001"]} if path == "similar" else {"customer_id": "c01"}
    told = api.ask(f"/v1/{path}", body={**body, "filters": filters}).json()
    assert told["recommendations"] == []
    assert told["unmatched"] == [
        {"field": "filters.category", "value": "Tea"},
        {"field": "filters.attributes.brand", "value": "alto"},
        {"field": "filters.attributes.stars", "value": 5.5},
    ]
    assert "unmatched" not in api.ask(f"/v1/{path}", body={**body, "filters": {"category": "tea"}}).json()


def test_an_unknown_customer_and_a_session_are_answered(api: Api) -> None:
    stranger = api.ask(body={"customer_id": "nobody"}).json()
    session = api.ask(body={"session_id": "s-1"}).json()
    assert session["customer_id"] is None
    assert len(stranger["recommendations"]) == 10
    assert stranger["recommendations"] == session["recommendations"]
    looking = api.ask(body={"session_id": "s-1", "context": {"product_ids": ["p001", "p002", "p003"]}}).json()
    assert looking["recommendations"] != session["recommendations"]


def test_a_batch_equals_its_singles(api: Api) -> None:
    customers = [f"c{row:02d}" for row in range(12)] * 10 + ["nobody", "c01"]
    response = api.ask("/v1/recommend/batch", {"customer_ids": customers, "n": 4})
    told = response.json()
    assert [one["customer_id"] for one in told] == customers
    assert len({one["request_id"] for one in told}) == len(customers)
    for customer in {*customers}:
        alone = api.ask(body={"customer_id": customer, "n": 4}).json()["recommendations"]
        assert all(one["recommendations"] == alone for one in told if one["customer_id"] == customer)


def test_similar(api: Api) -> None:
    told = api.ask("/v1/similar", {"product_ids": ["p001", "ghost"], "n": 3}).json()
    RecommendResponse.model_validate(told, strict=True, extra="forbid")
    assert told["ignored"] == ["ghost"]
    assert [item["product_id"] for item in told["recommendations"]] == recommender().similar(
        ["p001"], n=3, at=AT
    ).product_ids


def test_requests_products_and_failed_reads_are_counted() -> None:
    class Down(FeatureReader):
        def read(self, customer_ids: Sequence[str], at: datetime) -> list[CustomerState]:
            raise FeatureUnavailable("down")

    api = Api(lambda: held)
    held = Recommender(make_bundle(), GuardedReader(Down(), api.app._metrics))
    expected = {
        ("nextbest_requests_total", ("route", "/v1/recommend"), ("status", "200")): 1,
        ("nextbest_requests_total", ("route", "/v1/recommend"), ("status", "422")): 1,
        ("nextbest_requests_total", ("route", "other"), ("status", "404")): 2,
        ("nextbest_recommendations_total", ("source", "popular")): 3,
        ("nextbest_degraded_reads_total", ("reason", "unavailable")): 1,
        ("nextbest_request_seconds_count", ("route", "/v1/recommend")): 2,
    }

    def counts() -> dict[Any, float]:
        assert api.ask(body={"customer_id": "nobody", "n": 3}).status_code == 200
        api.ask(body={"n": 0})
        api.ask("/v1/whatever", {})
        api.ask("/v1/else", {})
        return {key: api.counted(key[0], **dict(key[1:])) for key in expected}

    # twice, since importing Feast makes all registries of a process share their values
    before, after = counts(), counts()
    assert {key: after[key] - before[key] for key in expected} == expected


def test_a_failing_store_is_left_alone_for_a_while() -> None:
    calls, works, time = [0], [False], [0.0]

    class Flaky(FeatureReader):
        def read(self, customer_ids: Sequence[str], at: datetime) -> list[CustomerState]:
            calls[0] += 1
            if not works[0]:
                raise FeatureUnavailable("down")
            return [CustomerState()]

    reader = GuardedReader(Flaky(), Metrics(CollectorRegistry()), monotonic=lambda: time[0])
    for _ in range(10):
        with pytest.raises(FeatureUnavailable):
            reader.read(["a"], AT)
    assert calls[0] == FAILURES
    time[0] += REST_SECONDS  # one read is let through, the others rest again
    for _ in range(3):
        with pytest.raises(FeatureUnavailable):
            reader.read(["a"], AT)
    assert calls[0] == FAILURES + 1
    time[0] += REST_SECONDS
    works[0] = True
    assert [reader.read(["a"], AT) for _ in range(3)]
    assert calls[0] == FAILURES + 4


def test_a_store_is_quick_until_a_read_is_slow_and_again_after_some() -> None:
    seconds = [0.0]

    class Store(FeatureReader):
        is_quick = False

        def read(self, customer_ids: Sequence[str], at: datetime) -> list[CustomerState]:
            if seconds[0] < 0:
                raise FeatureUnavailable("down")
            sleep(seconds[0])
            return [CustomerState()]

    reader = GuardedReader(Store(), Metrics(CollectorRegistry()))
    assert not reader.is_quick  # nobody knows yet
    for _ in range(10):
        reader.read(["a"], AT)
    assert reader.is_quick
    seconds[0] = 3 * QUICK_SECONDS
    reader.read(["a"], AT)
    assert not reader.is_quick
    seconds[0] = 0.0
    for _ in range(10):
        reader.read(["a"], AT)
    assert reader.is_quick
    seconds[0] = -1.0
    with pytest.raises(FeatureUnavailable):
        reader.read(["a"], AT)
    assert not reader.is_quick


def test_the_clock_is_the_one_given() -> None:
    held = recommender()
    answers = {
        days: Api(lambda: held, clock=lambda days=days: AT + timedelta(days=days))  # type: ignore[misc]
        .ask(body={"customer_id": "nobody", "n": 100})
        .json()["recommendations"]
        for days in (-400, 0)
    }
    assert answers[-400] != answers[0]  # other products were on sale


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from(
    ["customer_id", "session_id", "n", "context", "exclude", "filters", "purchased", "variant", "x"]
)
nested = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("category", "price_min", "price_max", "attributes", "product_ids"), json_values),
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(fields, json_values | nested, max_size=5))
def test_whatever_comes_is_parsed_or_refused_in_one_sentence(value: dict[str, Any]) -> None:
    try:
        told: int | InvalidRequest = parse(RecommendRequest, value).to_query(AT).n
    except InvalidRequest as error:
        told = error
    if isinstance(told, InvalidRequest):
        assert told.message.startswith("expected")
        orjson.dumps([told.message, told.field])
    else:
        assert 1 <= told <= 100


def test_reasons_of_the_api_are_those_of_the_recommender() -> None:
    ours = get_args(ReasonItem.model_fields["code"].annotation)
    assert set(ours) == set(get_args(get_type_hints(Reason)["code"]))


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from ([value["$ref"]] if isinstance(value.get("$ref"), str) else [])
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_the_openapi_document_is_whole_and_true(api: Api) -> None:
    told = api.ask(DOCUMENT_PATH, method="GET").json()
    assert told == orjson.loads(orjson.dumps(document()))
    assert told["openapi"] == "3.1.0"
    for reference in references(told):
        place = told
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
    assert set(told["paths"]) == {*api.app.paths, "/livez", "/readyz", "/metrics"}
    operations = [operation for path in told["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for path, methods in told["paths"].items():
        for operation in (methods.get("post"),):
            if operation is None:
                continue
            body = operation["requestBody"]["content"]["application/json"]
            schema = told["components"]["schemas"][body["schema"]["$ref"].rpartition("/")[2]]
            assert schema["additionalProperties"] is False
            assert {"200", "400", "401", "403", "413", "415", "422", "429", "503"} <= set(
                operation["responses"]
            )
            # its example is a request that is understood
            response = api.ask(path, body["example"])
            assert response.status_code in (200, 422)
            if response.status_code == 422:
                assert "known product" in response.text


def test_head_has_no_body(api: Api) -> None:
    response = api.ask(DOCUMENT_PATH, method="HEAD")
    assert response.status_code == 200
    assert response.content == b""
    assert int(response.headers["content-length"]) > 1000
