"""Answers of a service whose Redis goes away: they come, and say what they do not know."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from eval.benchmarks.own_home import OwnHome
from eval.redis_server import redis_server
from serving.api import RecommendResponse
from serving.live import Live
from serving.loading import Loader
from serving.metrics import Metrics
from tests.conftest import Published
from tests.served_home import until
from tests.test_api import Api


@pytest.mark.slow
def test_answers_say_so_while_redis_is_away(published: Published, tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as redis:
        own = OwnHome.copied(published.settings, tmp_path / "home", redis_url=redis.url)
        version = Live.read(own.settings.live).version("default")
        assert version is not None
        held = Loader(own.settings, Metrics(CollectorRegistry()), clock=lambda: datetime.now(UTC))(version)
        api = Api(lambda: held)
        who = own.customers[0]

        def asked(path: str = "/v1/recommend", **body: Any) -> Any:
            answered = api.ask(path, body)
            assert answered.status_code == 200, answered.text
            return answered.json()

        before = asked(customer_id=who)
        assert "degraded" not in before
        redis.kill()
        for _ in range(5):  # some reads fail, then they rest
            told = asked(customer_id=who)
            RecommendResponse.model_validate(told, strict=True, extra="forbid")
            assert told["degraded"] is True
            assert len(told["recommendations"]) == 10
        batch = asked("/v1/recommend/batch", customer_ids=[who, "nobody"])
        assert [one["degraded"] for one in batch] == [True, True]
        similar = asked("/v1/similar", product_ids=own.products[:1])
        assert "degraded" not in similar, "it asks nothing of the store"
        redis.start()
        until(lambda: "degraded" not in asked(customer_id=who))
        after = asked(customer_id=who)
        assert [item["product_id"] for item in after["recommendations"]] == [
            item["product_id"] for item in before["recommendations"]
        ]
