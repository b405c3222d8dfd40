"""The service as it runs: a BentoML process over HTTP on loopback, published to, rolled back, broken, killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from serving import live
from serving.errors import ConfigError, NextbestError
from serving.loading import Loader
from serving.metrics import Metrics
from serving.process import Service, check_port, environment, running, start_service
from serving.recommender import Query
from serving.settings import Settings
from tests.conftest import NOW, Published
from tests.served_home import JSON, ask, call, until
from tests.test_bundle import stored


def products(answer: Any) -> list[tuple[str, float]]:
    return [(item["product_id"], item["score"]) for item in answer["recommendations"]]


def test_the_probes_answer(service: Service) -> None:
    for path in ("/livez", "/readyz"):
        assert call(service.url + path)[0] == 200


def test_http_answers_what_the_recommender_answers(
    service: Service, home: Settings, versions: tuple[str, str], customers: list[str]
) -> None:
    held = Loader(home, Metrics(_registry()), clock=lambda: NOW)(versions[0])
    for customer in customers[:5]:
        told = ask(service, {"customer_id": customer, "n": 8})
        query = Query(at=_now(), customer_id=customer, n=8)
        assert [product for product, _ in products(told)] == held.recommend([query])[0].product_ids
        assert told["bundle"] == held.bundle.tag


def _registry() -> Any:
    from prometheus_client import CollectorRegistry

    return CollectorRegistry()


def _now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)


def test_a_known_customer_gets_own_products_and_a_stranger_the_popular(
    service: Service, customers: list[str]
) -> None:
    stranger = ask(service, {"customer_id": "never-seen"})
    assert {item["source"] for item in stranger["recommendations"]} == {"popular"}
    known = [ask(service, {"customer_id": customer}) for customer in customers[:10]]
    assert len({tuple(products(answer)) for answer in known}) > 3


def test_looking_at_products_changes_the_answer(service: Service) -> None:
    stranger = ask(service, {"customer_id": "never-seen"})
    seen = [product for product, _ in products(stranger)[:3]]
    looking = ask(service, {"customer_id": "never-seen", "context": {"product_ids": [*seen, "ghost"]}})
    assert products(looking) != products(stranger)
    assert looking["ignored"] == ["ghost"]
    assert not {product for product, _ in products(looking)} & set(seen)


def test_a_batch_equals_its_singles(service: Service, customers: list[str]) -> None:
    asked = [*customers[:60], "never-seen"]
    told = ask(service, {"customer_ids": asked, "n": 5}, "/v1/recommend/batch")
    assert [one["customer_id"] for one in told] == asked
    for customer, one in zip(asked, told, strict=True):
        assert products(one) == products(ask(service, {"customer_id": customer, "n": 5}))


def test_similar_over_http(service: Service) -> None:
    known = products(ask(service, {"customer_id": "never-seen"}))[0][0]
    told = ask(service, {"product_ids": [known], "n": 4}, "/v1/similar")
    assert len(told["recommendations"]) == 4
    assert known not in {product for product, _ in products(told)}
    assert call(f"{service.url}/v1/similar", {"product_ids": ["ghost"]})[0] == 422


@pytest.mark.parametrize(
    ("path", "body", "method", "headers", "status", "code"),
    [
        ("/v1/recommend", b"", "POST", JSON, 400, "invalid_json"),
        ("/v1/recommend", None, "POST", JSON, 400, "invalid_json"),
        ("/v1/recommend", b"{", "POST", JSON, 400, "invalid_json"),
        ("/v1/recommend", b'{"n": NaN}', "POST", JSON, 400, "invalid_json"),
        ("/v1/recommend", b"\xff", "POST", JSON, 400, "invalid_json"),
        ("/v1/recommend", {"customer_id": "a", "n": 0}, "POST", JSON, 422, "invalid_request"),
        ("/v1/recommend", {"customer_id": "a", "n": 101}, "POST", JSON, 422, "invalid_request"),
        ("/v1/recommend", {"customer_id": "a", "n": True}, "POST", JSON, 422, "invalid_request"),
        ("/v1/recommend", {"customer_id": 5}, "POST", JSON, 422, "invalid_request"),
        ("/v1/recommend", {"customer_id": "a", "x": 1}, "POST", JSON, 422, "invalid_request"),
        ("/v1/recommend", {"customer_id": "a", "variant": "b"}, "POST", JSON, 422, "invalid_request"),
        (
            "/v1/recommend",
            {"customer_id": "a", "filters": {"attributes": {"nope": 1}}},
            "POST",
            JSON,
            422,
            "invalid_request",
        ),
        ("/v1/recommend", b"x" * 10_000_000, "POST", JSON, 413, "too_large"),
        (
            "/v1/recommend",
            {"customer_id": "a"},
            "POST",
            {"content-type": "text/plain"},
            415,
            "unsupported_media_type",
        ),
        ("/v1/recommend", None, "GET", JSON, 405, "method_not_allowed"),
        ("/livez", {}, "POST", JSON, 405, "method_not_allowed"),
        ("/v1/nothing", {}, "POST", JSON, 404, "not_found"),
        ("/nothing", None, "GET", JSON, 404, "not_found"),
    ],
)
def test_bad_input_gets_its_body(
    service: Service, path: str, body: Any, method: str, headers: dict[str, str], status: int, code: str
) -> None:
    answered, given, told = call(service.url + path, body, method=method, headers=headers)
    assert answered == status, told
    error = json.loads(told)["error"]
    assert set(error) == {"code", "message", "field"}
    assert error["code"] == code
    assert len(given["x-request-id"]) == 32


def test_the_document_is_served(service: Service) -> None:
    told = json.loads(call(f"{service.url}/v1/openapi.json")[2])
    for path, methods in told["paths"].items():
        for method in methods:
            assert call(service.url + path, {} if method == "post" else None)[0] in (200, 422)


def test_metrics_show_up(service: Service, versions: tuple[str, str]) -> None:
    ask(service, {"customer_id": "never-seen"})
    told = call(f"{service.url}/metrics")[2].decode()
    for expected in (
        'nextbest_requests_total{route="/v1/recommend",status="200"}',
        'nextbest_request_seconds_bucket{le="0.005",route="/v1/recommend"}',
        'nextbest_recommendations_total{source="popular"}',
        'nextbest_degraded_reads_total{reason="unavailable"} 0.0',
        'nextbest_degraded_reads_total{reason="corrupt"} 0.0',
        'nextbest_degraded_reads_total{reason="damaged"} 0.0',
        'nextbest_stage_seconds_bucket{le="0.001",stage="filters"}',
        'nextbest_exposures_total{outcome="taken"}',
        'nextbest_exposures_total{outcome="lost"} 0.0',
        f'nextbest_bundle_info{{bundle="nextbest:{versions[0]}"}} 1.0',
    ):
        assert expected in told


def test_a_rollback_under_load_fails_no_request_and_restores_the_answers(
    service: Service, home: Settings, versions: tuple[str, str], customers: list[str]
) -> None:
    first, other = versions
    before = [products(ask(service, {"customer_id": customer})) for customer in customers[:20]]
    stop, failed, seen = threading.Event(), [], set()

    def load() -> None:
        while not stop.is_set():
            status, _, told = call(f"{service.url}/v1/recommend", {"customer_id": customers[0]})
            if status == 200:
                seen.add(json.loads(told)["bundle"])
            else:
                failed.append(told)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        live.publish(home.live, home.slot, other)
        until(lambda: f"nextbest:{other}" in seen)
        live.rollback(home.live, home.slot)
        until(lambda: ask(service, {"customer_id": "x"})["bundle"] == f"nextbest:{first}")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed
    assert seen == {f"nextbest:{first}", f"nextbest:{other}"}
    assert [products(ask(service, {"customer_id": customer})) for customer in customers[:20]] == before


def test_an_altered_bundle_is_not_taken_up_and_the_old_one_serves_on(
    service: Service, home: Settings, versions: tuple[str, str]
) -> None:
    first, other = versions
    broken = home.bundles / other / "bundle" / "popular.npy"
    held = broken.read_bytes()
    try:
        broken.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
        live.publish(home.live, home.slot, other)
        until(lambda: "popular.npy" in service.log.read_text())
        assert ask(service, {"customer_id": "x"})["bundle"] == f"nextbest:{first}"
        assert call(f"{service.url}/readyz")[0] == 200
    finally:
        broken.write_bytes(held)
        live.rollback(home.live, home.slot)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
@pytest.mark.slow
def test_not_ready_then_ready_without_a_restart_and_killing_the_parent_frees_the_port(
    own_copy: Published, versions: tuple[str, str]
) -> None:
    settings = own_copy.settings
    first = versions[0]
    told = settings.live.read_bytes()
    broken = settings.bundles / first / "bundle" / "catalog.parquet"
    held = broken.read_bytes()
    settings.live.unlink()
    with running(settings, wait="/livez") as service:
        # nothing is published
        assert call(f"{service.url}/readyz")[0] == 503
        status, headers, body = call(f"{service.url}/v1/recommend", {"customer_id": "x"})
        assert (status, headers["retry-after"]) == (503, "1")
        assert json.loads(body)["error"]["code"] == "not_ready"
        # what is published is not whole
        broken.write_bytes(b"x" + held[1:])
        settings.live.write_bytes(told)
        until(lambda: "catalog.parquet" in service.log.read_text())
        assert call(f"{service.url}/readyz")[0] == 503
        # it is whole, and the feature store is not there
        broken.write_bytes(held)
        shutil.move(settings.store.directory, settings.home / "away")
        settings.live.unlink()
        time.sleep(2 * settings.live_poll_seconds)
        stored(settings.bundles, seed=2)
        second = next(path.name for path in settings.bundles.iterdir() if path.name != first)
        live.publish(settings.live, settings.slot, second)
        until(lambda: "expected the feature service" in service.log.read_text())
        assert call(f"{service.url}/readyz")[0] == 503
        # it is there
        shutil.rmtree(settings.store.directory, ignore_errors=True)
        shutil.move(settings.home / "away", settings.store.directory)
        until(lambda: call(f"{service.url}/readyz")[0] == 200)
        assert ask(service, {"customer_id": "x"})["bundle"] == f"nextbest:{second}"
        # the parent is killed
        port = int(service.url.rpartition(":")[2])
        assert service.workers
        assert not _is_free(port)
        service.process.kill()
        service.process.wait()
        until(lambda: _is_free(port), seconds=2.0)


def _is_free(port: int) -> bool:
    with contextlib.suppress(ConfigError):
        check_port("127.0.0.1", port)
        return True
    return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_two_workers_share_the_metrics_and_one_that_starts_again_refuses_nothing(
    home: Settings, versions: tuple[str, str]
) -> None:
    with running(home, workers=2) as service:
        assert len(service.workers) == 2
        for _ in range(50):
            ask(service, {"customer_id": "x"})
        told = call(f"{service.url}/metrics")[2].decode()
        assert f'nextbest_bundle_info{{bundle="nextbest:{versions[0]}"}} 2.0' in told
        assert 'nextbest_requests_total{route="/v1/recommend",status="200"} 50.0' in told
        first = set(service.workers)
        os.kill(min(first), signal.SIGKILL)
        found: Counter[int] = Counter()

        def asked() -> None:
            with contextlib.suppress(OSError, HTTPException):  # what the killed one had taken
                found[call(f"{service.url}/v1/recommend", {"customer_id": "x"})[0]] += 1

        def is_whole() -> bool:
            asked()
            begun = service.log.read_text(errors="replace").count("Service Nextbest initialized")
            return begun == 3 and len(service.workers) == 2 and service.serving == 2

        until(is_whole, seconds=60.0)
        for _ in range(50):
            asked()
        assert set(found) == {200}
        assert not first >= set(service.workers)


@pytest.mark.slow
def test_keys_are_asked_for(own_copy: Published) -> None:
    with running(own_copy.settings.model_copy(update={"api_keys": ("key-1", "key-2")})) as service:
        url = f"{service.url}/v1/recommend"
        assert call(url, {"customer_id": "x"})[0] == 401
        assert call(url, {"customer_id": "x"}, headers={**JSON, "authorization": "Bearer key-2"})[0] == 200


def test_a_taken_port_is_told_before_anything_starts(home: Settings) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        with (
            pytest.raises(ConfigError, match=f"expected a free port at 127.0.0.1:{port}"),
            start_service(home, port=port),
        ):
            pass


def test_a_service_that_does_not_come_up_is_told_with_its_log(home: Settings) -> None:
    with (
        pytest.raises(NextbestError, match=r"exit code 1; its log ends:\n(.|\n)*nothing_here"),
        running(home, service="serving.nothing_here:Service"),
    ):
        pass


def test_the_environment_carries_the_settings(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path, api_keys=("a", "b"), live_poll_seconds=0.5)
    given = environment(settings, workers=3)
    assert given["NEXTBEST_HOME"] == str(tmp_path)
    assert given["NEXTBEST_API_KEYS"] == "a,b"
    assert given["NEXTBEST_LIVE_POLL_SECONDS"] == "0.5"
    assert given["OMP_NUM_THREADS"] == given["OPENBLAS_NUM_THREADS"] == given["MKL_NUM_THREADS"] == "1"
    assert json.loads(given["BENTOML_CONFIG_OVERRIDES"])["services"]["Nextbest"]["workers"] == 3
