"""Visitors as clients of what is served: bounded, the same for the same seed, and told exactly once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import numpy as np
import pandas as pd
import pytest

from eval.benchmarks.visits import HttpShop, Listed, ServedShop, Told, coming, play
from eval.world import World
from eval.world_visitors import Visitors
from serving.errors import ConfigError, NextbestError
from serving.events.live import event_log
from serving.experiments_file import Experiments
from serving.process import running
from serving.served import Served
from serving.settings import Settings
from tests.conftest import NOW, WORLD, Published
from tests.test_cli import Run, run  # noqa: F401 - a fixture
from training.benchmarks.agreement import live_agreement
from training.benchmarks.world_shop import live_recommender, menu_of, world_shop
from training.export import export, export_exposures


@pytest.fixture(scope="module")
def visitors(world: World) -> Visitors:
    return Visitors.of(world.truth, at=WORLD.ends_at, days=200)


class Fixed:
    """A shop that shows everybody the same, and keeps what it is told."""

    def __init__(self, products: Sequence[str]) -> None:
        self.products = list(products)
        self.asked: list[str] = []
        self.events: list[dict[str, Any]] = []

    def ask(self, customer_id: str, *, n: int, surface: str | None) -> Listed:
        self.asked.append(customer_id)
        return Listed(f"r-{customer_id}-{self.asked.count(customer_id)}", None, None, self.products[:n])

    def tell(self, events: Sequence[dict[str, Any]]) -> Told:
        self.events += events
        return Told(len(events), 0, 0)


def clock() -> datetime:
    return NOW


def popular(visitors: Visitors) -> list[str]:
    ids = list(visitors.index)
    return [ids[column] for column in np.argsort(-visitors.chance.mean(axis=0))[:10]]


def told(shops: Sequence[Fixed]) -> set[tuple[str, str, str]]:
    return {(one["customer_id"], one["event_id"], one["kind"]) for shop in shops for one in shop.events}


def test_the_same_seed_does_the_same_over_any_number_of_connections(visitors: Visitors) -> None:
    found = []
    for seed, lanes in ((1, 1), (1, 3), (2, 1)):
        shops = [Fixed(popular(visitors)) for _ in range(lanes)]
        played = play(visitors, shops, visits=300, seconds=60, seed=seed, clock=clock)
        assert played.visits == 300 == sum(len(shop.asked) for shop in shops)
        assert played.told == played.accepted == sum(len(shop.events) for shop in shops) > 50
        assert all({*a.asked}.isdisjoint(b.asked) for a in shops for b in shops if a is not b)
        found.append(told(shops))
    assert found[0] == found[1] != found[2]


def test_who_is_active_comes_often(visitors: Visitors) -> None:
    order = coming(visitors, 10**6, seed=0)
    counts = np.bincount(order, minlength=len(visitors.ids))
    assert abs(len(order) - visitors.expected.sum()) < 5 * visitors.expected.sum() ** 0.5
    assert np.corrcoef(counts, visitors.expected)[0, 1] > 0.8
    assert (coming(visitors, 50, seed=0) == order[:50]).all()


def test_what_is_bought_was_clicked_and_has_its_price(visitors: Visitors) -> None:
    shop = Fixed(popular(visitors))
    played = play(visitors, [shop], visits=600, seconds=60, seed=3, clock=clock)
    clicks = {(e["request_id"], e["product_id"]) for e in shop.events if e["kind"] == "click"}
    bought = [e for e in shop.events if e["kind"] == "purchase"]
    assert len(clicks) == played.clicks > len(bought) == played.purchases > 0
    prices = visitors.truth.products.set_index("product_id")["price"]
    for event in bought:
        assert (event["request_id"], event["product_id"]) in clicks
        assert 0.2 * prices[event["product_id"]] < event["value"] < 2 * prices[event["product_id"]]
    assert len({event["event_id"] for event in shop.events}) == len(shop.events)
    assert played.to_json()["value"] == pytest.approx(sum(e["value"] for e in bought), abs=0.01)


def test_nobody_clicks_what_the_world_does_not_have(visitors: Visitors) -> None:
    shop = Fixed([f"stranger-{number}" for number in range(10)])
    assert play(visitors, [shop], visits=100, seconds=60, seed=3, clock=clock).told == 0
    nothing = Fixed([])
    assert play(visitors, [nothing], visits=100, seconds=60, seed=3, clock=clock).visits == 100


def test_after_the_time_nobody_comes(visitors: Visitors) -> None:
    assert play(visitors, [Fixed([])], visits=100, seconds=-1, seed=3, clock=clock).visits == 0


MIXED = """
[[experiments]]
name = "mixed"
kind = "interleave"
surfaces = ["home"]
[[experiments.variants]]
name = "control"
[[experiments.variants]]
name = "same"
"""


def test_in_process_everything_is_logged_once(
    own_copy: Published, visitors: Visitors, tmp_path: Path
) -> None:
    experiments = Experiments.parse(MIXED.encode(), Path("experiments.toml"))
    served, log = Served(live_recommender(own_copy.settings), experiments), event_log(own_copy.settings)
    ticks = iter(range(10**6))

    def ticking() -> datetime:
        return NOW + timedelta(milliseconds=next(ticks))

    shop = ServedShop(served, log, clock=ticking)
    played = play(visitors, [shop], visits=80, seconds=60, seed=0, clock=ticking, n=5, surface="home")
    assert played.accepted == played.told > 0 and not played.duplicates
    tables = tmp_path / "tables"
    assert export(log, tables) == played.told
    assert export_exposures(log, tables) == 5 * 80
    log.close()
    shown = pd.read_parquet(tables / "exposures.parquet")
    assert {*shown["variant"]} == {"interleaved"} and {*shown["team"]} == {"control", "same"}
    done = pd.read_parquet(tables / "interactions.parquet")
    keys = ["request_id", "product_id", "customer_id"]
    assert len(done.merge(shown[keys], on=keys)) == len(done), "everything that was done was shown to them"


@pytest.mark.slow
def test_over_http_events_are_accepted_exactly_once(own_copy: Published, visitors: Visitors) -> None:
    with running(own_copy.settings, workers=2) as service:
        shops = [HttpShop(service.url) for _ in range(3)]
        begun = datetime.now(UTC)
        played = play(visitors, shops, visits=120, seconds=60, seed=0, clock=lambda: datetime.now(UTC), n=8)
        event = {
            "event_id": "again",
            "customer_id": "c1",
            "product_id": "p1",
            "kind": "click",
            "at": begun.isoformat(),
            "value": 0.0,
            "request_id": "r",
        }
        assert shops[0].tell([event]) == Told(1, 0, 0)
        assert shops[1].tell([event]) == Told(0, 1, 0)
        with pytest.raises(NextbestError, match=r"expected /v1/recommend of .* to answer, found 422"):
            shops[0].ask("", n=5, surface=None)
        for shop in shops:
            shop.close()
    assert played.visits == 120 and played.told == played.accepted > 10
    assert (played.duplicates, played.rejected) == (0, 0)
    log = event_log(own_copy.settings)
    assert export(log, own_copy.settings.home / "read") == played.told + 1
    assert export_exposures(log, own_copy.settings.home / "read") == 8 * 120
    log.close()


class _Flaky(BaseHTTPRequestHandler):
    """Breaks the connection of every second request after it took the event; then says that it knows it."""

    protocol_version = "HTTP/1.1"
    seen: set[str] = set()  # noqa: RUF012
    count = 0
    lock = Lock()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        with self.lock:
            _Flaky.count += 1
            is_new = body not in self.seen
            self.seen.add(body)
            breaks = is_new and _Flaky.count % 2 == 1
        if breaks:
            self.close_connection = True
            return
        told = b'{"accepted": %d, "duplicates": %d, "rejected": []}' % (is_new, not is_new)
        self.send_response(200)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("eval.benchmarks.visits._PAUSE_SECONDS", 0.01)
    server = HTTPServer(("127.0.0.1", 0), _Flaky)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_broke_is_told_again_under_the_same_name(flaky: str) -> None:
    shop = HttpShop(flaky)
    assert shop.tell([{"event_id": "a"}]) == Told(0, 1, 0)
    assert shop.tell([{"event_id": "b"}]).rejected == 0
    shop.close()
    gone = HttpShop("http://127.0.0.1:9")
    with pytest.raises(NextbestError, match="see that the service runs"):
        gone.tell([{"event_id": "c"}])


def test_the_menu_is_what_the_recommender_shows(own_copy: Published, visitors: Visitors) -> None:
    recommender = live_recommender(own_copy.settings)
    menu = menu_of(recommender, visitors, n=6, at=NOW)
    assert np.take_along_axis(menu.allowed, menu.usual, axis=1).all()
    assert menu.pool.min() > 6
    renamed = visitors.truth.products.assign(product_id=visitors.truth.products["product_id"] + "x")
    others = replace(visitors, truth=replace(visitors.truth, products=renamed))
    with pytest.raises(ConfigError, match="expected a bundle of the visitors' world, found the product"):
        menu_of(recommender, others, n=6, at=NOW)


@pytest.mark.slow
def test_live_experiments_of_every_kind_agree_with_the_truth() -> None:
    now = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for _ in range(2):  # one fair coin in 200 is refused; two in a row are one in 40,000
        with world_shop(Settings.load(), customers=600, products=120, seed=0, now=now) as shop:
            found = live_agreement(
                shop,
                now=now,
                clock=lambda: datetime.now(UTC),
                loss=0.6,
                visits=1500,
                n=8,
                progress=lambda *told: None,
            )
        if "delta" in found["interleaving"] and "difference" in found["ab"]:
            break
    assert "delta" in found["interleaving"], found["interleaving"]["verdict"]
    assert "difference" in found["ab"], found["ab"]["verdict"]
    assert found["truth_relative"] == pytest.approx(-0.6)
    assert found["doubly_robust"]["propensities_checked"] > 500
    for kind, estimate in (("ab", "difference"), ("interleaving", "delta"), ("doubly_robust", "difference")):
        assert found[kind][estimate] < 0 and found[kind]["p"] < 0.05, kind
    first = found["interleaving"]["first_places"].values()
    assert min(first) > 0.4 * sum(first)
    told = found["visits"]
    assert all(one["accepted"] == one["told"] > 0 for one in told.values())


def test_the_command_wants_a_service_with_its_truth(
    run: Run,  # noqa: F811
    tmp_path: Path,
) -> None:
    found = run("benchmark", "visitors", "--url", "http://127.0.0.1:9", home=tmp_path)
    assert (found.code, found.out) == (2, "") and "expected --url with --truth" in found.err
    found = run("benchmark", "visitors", "--url", "http://127.0.0.1:9", "--truth", tmp_path, home=tmp_path)
    assert found.code == 2 and "found no config.json" in found.err
