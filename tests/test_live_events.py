"""Events over HTTP against a service of two workers: what was told counts at once, and once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from feature_repo import schema as s
from feature_repo.tables import Tables
from serving.events import EVENTS, EXPOSURES, open_log
from serving.process import Service, running
from serving.settings import Settings
from tests.conftest import Published
from tests.served_home import ask, call, until
from training.export import export
from training.train import build_features

WHO = "told-live"


@pytest.fixture(scope="module")
def home(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    directory = tmp_path_factory.mktemp("events") / "home"
    shutil.copytree(published.settings.home, directory)
    settings = Settings.load(home=directory, live_poll_seconds=0.1)
    with Tables.open(published.tables) as tables:
        build_features(settings, tables)  # the copy's registry names the copy's files
    return settings


@pytest.fixture(scope="module")
def service(home: Settings) -> Iterator[Service]:
    with running(home, workers=2) as service:
        yield service


def shown(service: Service, **who: Any) -> list[str]:
    answer = ask(service, {"n": 10, **who})
    return [item["product_id"] for item in answer["recommendations"]]


def tell(service: Service, *events: dict[str, Any]) -> Any:
    return ask(service, {"events": list(events)}, "/v1/feedback")


def sources(service: Service, **who: Any) -> set[str]:
    return {item["source"] for item in ask(service, {"n": 5, **who})["recommendations"]}


def test_a_purchase_changes_the_next_answers_of_every_worker(service: Service) -> None:
    before = shown(service, customer_id=WHO)
    assert sources(service, customer_id=WHO) == {"popular"}
    told = tell(service, {"customer_id": WHO, "product_id": before[0], "kind": "purchase", "event_id": "one"})
    assert told == {"accepted": 1, "duplicates": 0, "rejected": [], "unknown_products": []}
    until(lambda: sources(service, customer_id=WHO) == {"model:als"})
    for _ in range(20):  # whichever worker answers
        assert before[0] not in shown(service, customer_id=WHO)
    again = tell(
        service, {"customer_id": WHO, "product_id": before[0], "kind": "purchase", "event_id": "one"}
    )
    assert again == {"accepted": 0, "duplicates": 1, "rejected": [], "unknown_products": []}


def test_a_session_without_a_customer_is_served_by_what_it_did(service: Service) -> None:
    product = shown(service, session_id="s1")[3]
    assert sources(service, session_id="s1") == {"popular"}
    tell(service, {"session_id": "s1", "product_id": product, "kind": "view"})
    until(lambda: sources(service, session_id="s1") == {"model:als"})
    assert sources(service, session_id="s2") == {"popular"}
    # who logs in meanwhile keeps what the session did
    assert sources(service, session_id="s1", customer_id="somebody-else") == {"model:als"}


def test_each_event_is_taken_or_rejected_by_itself(service: Service) -> None:
    good = {"customer_id": "c", "product_id": "p", "kind": "view", "at": "2026-01-31T12:00:00Z"}
    told = tell(
        service,
        good,
        {**good, "kind": "stare"},
        {**good, "at": "2126-01-31T12:00:00Z"},
        {**good, "at": "2026-01-31T12:00:00"},
        {"product_id": "p", "kind": "view"},
        "no event",
        {**good, "customer_id": "\x1fsession:s1"},
        good,
    )
    assert (told["accepted"], told["duplicates"]) == (1, 1), "without an id, an event is known by its content"
    assert [one["index"] for one in told["rejected"]] == [1, 2, 3, 4, 5, 6]
    why = [one["why"] for one in told["rejected"]]
    for text, part in zip(
        why, ["view", "up to now", "time zone", "customer_id", "object", "control"], strict=True
    ):
        assert part in text and text.startswith("expected") and "found" in text, "the field is told beside it"
    fields = [one["field"] for one in told["rejected"]]
    assert fields[:3] == ["events[1].kind", "events[2].at", "events[3].at"] and fields[4] == "events[5]"
    status, _, body = call(f"{service.url}/v1/feedback", {"events": []})
    assert status == 422 and b"events" in body


@pytest.mark.slow
def test_out_of_stock_is_gone_from_every_worker_and_stays_gone(home: Settings) -> None:
    customer = "c000003"
    with running(home, workers=2) as service:
        product = shown(service, customer_id=customer)[0]
        told = ask(service, {"products": [{"product_id": product, "available": False}]}, "/v1/products")
        assert told == {"accepted": 1, "unknown": [], "ignored": []}
        until(lambda: all(product not in shown(service, customer_id=customer) for _ in range(10)))
        assert all(product not in shown(service, customer_id=customer) for _ in range(30))
        unknown = ask(service, {"products": [{"product_id": "new", "price": 3.0}]}, "/v1/products")
        assert unknown == {"accepted": 1, "unknown": ["new"], "ignored": []}
        change = {"customer_id": customer, "consent": {"email": True}, "attributes": {"shoe": 43}}
        told = ask(service, {"customers": [change]}, "/v1/customers")
        assert [one["field"] for one in told["ignored"]] == ["customers[0].attributes.shoe"]
    with running(home, workers=2) as service:
        assert all(product not in shown(service, customer_id=customer) for _ in range(30))
        ask(service, {"products": [{"product_id": product, "available": True}]}, "/v1/products")
        until(lambda: product in shown(service, customer_id=customer))


def test_what_was_shown_is_recorded(service: Service, home: Settings) -> None:
    answer = ask(service, {"customer_id": WHO, "n": 3, "context": {"surface": "home"}})
    log = open_log(home.events)

    def recorded() -> list[Any]:
        found = log.read(EXPOSURES, after=None, limit=100_000)
        return [one.record for one in found if one.record.request_id == answer["request_id"]]

    until(lambda: bool(recorded()))
    (exposure,) = recorded()
    assert (exposure.customer_id, exposure.surface, exposure.bundle) == (WHO, "home", answer["bundle"])
    assert [(item.product_id, item.source) for item in exposure.items] == [
        (item["product_id"], item["source"]) for item in answer["recommendations"]
    ]
    log.close()


def test_export_adds_each_event_once(
    service: Service, home: Settings, published: Published, tmp_path: Path
) -> None:
    event = {"customer_id": WHO, "product_id": "p0001", "kind": "purchase", "event_id": "one"}
    tell(service, event)  # told already where the tests above have run beside this one
    tables = tmp_path / "tables"
    shutil.copytree(published.tables, tables)
    before = len(pd.read_parquet(tables / "interactions.parquet"))
    log = open_log(home.events)
    kinds = [entry.record.kind for entry in log.read(EVENTS, after=None, limit=100_000)]
    count = export(log, tables)
    assert count == sum(kind in s.KINDS for kind in kinds) > 0
    assert export(log, tables) == 0
    log.close()
    with Tables.open(tables) as opened:
        rows = opened.frame(s.INTERACTIONS, [s.CUSTOMER_ID, s.PRODUCT_ID, s.AT, s.KIND])
    assert len(rows) == before + count
    assert (rows[s.CUSTOMER_ID] == WHO).sum() == 1
    alone = tmp_path / "alone"
    log = open_log(home.events)
    assert export(log, alone) == count
    log.close()
    told = json.loads(pd.read_parquet(alone / "interactions.parquet").iloc[[0]].to_json(orient="records"))
    assert told[0][s.KIND] == "purchase"
