"""The serving benchmark: its figures fit each other, and the shop it draws is a shop."""

from __future__ import annotations

import json
import sqlite3
import urllib.request
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from eval.benchmarks import figures
from eval.benchmarks.load import Load
from eval.benchmarks.memory import memory
from eval.benchmarks.ruled import RULES, ruled
from eval.benchmarks.serving import benchmark
from eval.benchmarks.shop import FAVOURITES, HISTORY_DAYS, Shop, Size, draw_shop
from eval.benchmarks.shop_home import ENCODER
from eval.benchmarks.sites import DrawnShop, drawn_site
from eval.benchmarks.traffic import draw, particular
from feature_repo import schema as s
from feature_repo.recent import DAY_US, KIND_CODES, to_micros
from serving.errors import ConfigError
from serving.process import running
from serving.settings import Settings
from tests.conftest import Published
from training.cli import app
from training.recipe import TrainConfig

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
TINY = Size(products=300, dimensions=16, customers=200, history=50)
RATIOS = {f"{figure}_c{c}" for figure in ("p50", "p99", "throughput") for c in (1, 8, 32)}


def silent(what: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def shop() -> Shop:
    return draw_shop(TINY, seed=3, at=NOW)


def test_same_seed_same_shop(shop: Shop) -> None:
    again, other = draw_shop(TINY, seed=3, at=NOW), draw_shop(TINY, seed=4, at=NOW)
    assert shop.catalog.frame.equals(again.catalog.frame)
    for name in ("vectors", "products", "kinds", "times", "earlier", "earlier_times"):
        assert np.array_equal(getattr(shop, name), getattr(again, name))
        assert not np.array_equal(getattr(shop, name), getattr(other, name))
    customers = draw(shop.customers, count=50, seed=1)
    assert customers == draw(shop.customers, count=50, seed=1)
    assert particular(customers, shop.catalog, seed=1) == particular(customers, shop.catalog, seed=1)


def test_histories_are_of_customers_with_taste(shop: Shop) -> None:
    """Most events are of the three favourite categories, kinds are mixed, times ascend within four weeks."""
    favourite = (shop.category[shop.products][:, :, None] == shop.favourites[:, None, :]).any(axis=2)
    by_chance = FAVOURITES / len(shop.category_names)
    assert 0.75 < favourite.mean() < 0.80 + 0.20 * by_chance + 0.05
    assert set(np.unique(shop.kinds)) == set(KIND_CODES.values())
    assert (np.diff(shop.times, axis=1) >= 0).all()
    assert (shop.times < to_micros(NOW)).all()
    assert (shop.times >= to_micros(NOW) - HISTORY_DAYS * DAY_US).all()
    assert (shop.earlier_times < shop.times.min()).all()


def test_requests_filter_exclude_and_come_from_strangers(shop: Shop) -> None:
    asked = particular(draw(shop.customers, count=600, seed=5), shop.catalog, seed=5)
    assert all(10 <= len(request["exclude"]) <= 20 for request in asked)
    filtered = [request["filters"] for request in asked if "filters" in request]
    assert 0.27 < len(filtered) / len(asked) < 0.40
    assert {"category"} in [set(one) for one in filtered]
    assert {"price_min", "price_max"} in [set(one) for one in filtered]
    assert 0.18 < sum("context" in request for request in asked) / len(asked) < 0.32
    strange = sum(request["customer_id"] not in set(shop.customers) for request in asked)
    assert 0.06 < strange / len(asked) < 0.14


def test_encoder_is_that_of_the_shipped_recipe() -> None:
    recipe = next(one for one in TrainConfig.default().recipes if one.model == "als")
    assert recipe.als.regularization == ENCODER.regularization
    assert recipe.als.confidence == ENCODER.confidence


def test_ratios_are_of_the_same_round() -> None:
    def side(seconds: float) -> dict[str, float]:
        return figures.of({c: Load((seconds, seconds), 2 * seconds, seconds, (200,)) for c in (1, 8, 32)})

    rounds = [
        {"sqlite": side(slow * 3), **{base: side(slow) for base in ("native", "raw_asgi", "floor")}}
        for slow in (0.001, 0.005)
    ]
    summary = figures.summary(rounds, "sqlite")
    assert summary["ratios"]["p50_c1"] == pytest.approx(3)
    assert summary["ratios"]["throughput_c8"] == pytest.approx(1 / 3)
    assert summary["spread"]["p99_c32_floor"] == pytest.approx([3, 3])
    assert summary["medians"]["ours"]["p50_ms_c1"] == pytest.approx(9)
    # busy for half of the time: it could ask twice as often
    assert figures.client(rounds)["ceiling_c32"] == pytest.approx(np.median([2000, 400]))


@pytest.mark.parametrize("name", ["products", "dimensions", "customers", "history"])
def test_sizes_have_bounds(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"expected {name} from \d+ to \d+, found 0; correct --{name}"):
        Size(**{name: 0})


@pytest.mark.parametrize("stores", [(), ("mysql",), ("redis", "redis")])
def test_stores_are_known(stores: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="expected online stores, each once, of redis, sqlite, found"):
        DrawnShop(TINY, NOW, stores)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--products", "500"], "expected a drawn shop with --products, found no --drawn; add it"),
        (["--store", "redis"], "expected a drawn shop with --store, found no --drawn; add it"),
        (["--drawn", "--history", "51"], "expected history from 1 to 50, found 51; correct --history"),
        (["--drawn", "--store", "mysql"], "found 'mysql'; correct --store"),
        ([], "expected a live bundle to measure, found none"),
    ],
)
def test_options_that_do_not_fit_are_told(options: list[str], told: str) -> None:
    result = CliRunner().invoke(app, ["benchmark", "serving", *options])
    assert isinstance(result.exception, ConfigError)
    assert told in str(result.exception)


@pytest.mark.slow
def test_live_bundle_is_measured(published: Published) -> None:
    """All sides answer every request, the figures of the contract are there, and the home is as it was."""

    def sizes() -> dict[Path, int]:
        files = [path for path in published.settings.home.rglob("*") if path.is_file()]
        # whoever reads SQLite leaves these beside the file
        return {path: path.stat().st_size for path in files if not path.name.endswith(("-shm", "-wal"))}

    with closing(sqlite3.connect(published.settings.home / "feast" / "online.db")) as store:
        store.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # a reader would move what waits
    before = sizes()
    result = benchmark(published.settings, requests=40, rounds=1, warm_up=20, seed=0, progress=silent)
    assert sizes() == before
    assert result["ratios"].keys() >= RATIOS | {"p50_c1_raw_asgi", "p50_c1_floor"}
    assert all(ratio > 0 for ratio in result["ratios"].values())
    assert result["in_process_ms"]["p50"] > 0
    assert {"features", "encode", "search"} <= result["stages_ms"].keys()
    assert "class" in result["constant_source"]
    assert list(result["stores"]) == ["sqlite"]
    assert "sqlite_over_redis" not in result


@pytest.mark.slow
def test_in_process_alone(published: Published) -> None:
    result = benchmark(published.settings, requests=20, warm_up=20, http=False)
    assert 0 < result["in_process_ms"]["p50"] <= result["in_process_ms"]["p99"]
    assert "ratios" not in result
    assert "rounds" not in result


@pytest.mark.slow
def test_drawn_shop_is_measured_on_both_stores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every answer is 200 (or it raises) and none goes without features; what the environment says is left alone."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "own"))
    drawn = DrawnShop(TINY, datetime.now(UTC), ("redis", "sqlite"))
    patient = Settings.load(feature_timeout_ms=10_000)  # however busy the machine is
    result = benchmark(patient, requests=10, rounds=3, warm_up=20, drawn=drawn, progress=silent)
    assert list(result["stores"]) == ["redis", "sqlite"]
    for own in result["stores"].values():
        assert own["ratios"].keys() >= RATIOS
        assert own["spread"].keys() == own["ratios"].keys()
        assert all(own["spread"][name][0] <= own["ratios"][name] <= own["spread"][name][1] for name in RATIOS)
        assert own["medians"].keys() == {"ours", "native", "raw_asgi", "floor"}
        assert 0 < own["in_process_ms"]["p50"] <= own["in_process_ms"]["p99"]
        assert min(own["stages_ms"][stage] for stage in ("features", "encode", "search")) > 0
        assert own["degraded_reads"] == 0
    assert all(result[name] == value for name, value in result["stores"]["redis"].items())
    assert result["sqlite_over_redis"].keys() == RATIOS
    assert [set(one) for one in result["rounds"]] == [{"redis", "sqlite", "native", "raw_asgi", "floor"}] * 3
    assert all(0 < busy <= 1.1 for busy in result["client"]["busy_c32"].values())
    assert (result["products"], result["dimensions"], result["customers"]) == (300, 16, 200)
    assert not (tmp_path / "own").exists()
    assert not Settings.load().home.exists()


@pytest.mark.slow
@pytest.mark.parametrize("store", ["redis", "sqlite"])
def test_drawn_shop_answers_as_asked(store: str) -> None:
    """The service knows its customers and strangers, and keeps to filters, exclusions and what is on sale."""
    now = datetime.now(UTC)
    drawn = DrawnShop(TINY, now, (store,))
    patient = Settings.load(feature_timeout_ms=10_000)
    with drawn_site(patient, drawn, requests=60, seed=2, progress=silent) as site:
        shop = draw_shop(TINY, seed=2, at=now)
        frame = shop.catalog.frame.set_index(s.PRODUCT_ID)
        on_sale = shop.catalog.on_sale(now) & shop.catalog.on_sale(now + timedelta(minutes=5))
        extra = {
            "BENTOML_HOME": str(site.bundles.parent.parent),
            "NEXTBEST_REDIS_URL": site.stores[store].redis_url or "",
        }
        sources: dict[bool, set[str]] = {True: set(), False: set()}
        with running(site.stores[store], extra=extra) as service:
            for request in site.requests:
                found = _answered(service.url, request)
                ids = [item["product_id"] for item in found["recommendations"]]
                filters = request.get("filters", {})
                assert ids if filters else len(ids) == 10
                assert not set(ids) & set(request["exclude"])
                assert all(on_sale[shop.catalog.index[product]] for product in ids)
                if "category" in filters:
                    assert set(frame.loc[ids, s.CATEGORY]) <= set(filters["category"])
                if "price_min" in filters:
                    assert frame.loc[ids, s.PRICE].between(filters["price_min"], filters["price_max"]).all()
                known = request["customer_id"] in set(shop.customers)
                if "context" not in request and not filters:
                    sources[known] |= {item["source"] for item in found["recommendations"]}
        assert sources == {True: {"model:als"}, False: {"popular"}}


def _answered(url: str, request: dict[str, object]) -> dict[str, list[dict[str, str]]]:
    asked = urllib.request.Request(
        f"{url}/v1/recommend", data=json.dumps(request).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=10) as response:
        answer: dict[str, list[dict[str, str]]] = json.loads(response.read())
    return answer


@pytest.mark.slow
def test_rules_are_measured_beside_none_and_variants_beside_one_bundle(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path)
    now = datetime.now(UTC)
    shop = DrawnShop(Size(products=400, dimensions=8, customers=50, history=10), now, stores=("sqlite",))
    found = ruled(settings, shop, requests=20, rounds=2, warm_up=10)
    assert set(found["kinds_ms"]) == set(RULES)
    assert found["ratios"].keys() == found["spread"].keys() >= {"p50_c1", "throughput_c8"}
    for side in ("with", "without"):
        assert found["medians"][side]["p50_ms_c1"] > 0
    taken = memory(settings, shop.size, now=now, variants=2, workers=1, requests=20)
    assert taken["vectors_mb"] == pytest.approx(400 * 8 * 4 / 1e6)
    for side in ("one", "all"):
        assert 0 < taken[side]["private_mb"] <= taken[side]["pss_mb"] <= taken[side]["rss_sum_mb"]


def test_options_that_do_not_go_together_are_refused() -> None:
    for options, told in (
        (["--rules"], "--drawn with --rules"),
        (["--rules", "--drawn", "--store", "redis,sqlite"], "--drawn with --rules"),
        (["--kinds", "cap"], "--rules with --kinds"),
        (["--rules", "--drawn", "--kinds", "cap,hat"], "found hat"),
    ):
        result = CliRunner().invoke(app, ["benchmark", "serving", *options])
        assert isinstance(result.exception, ConfigError)
        assert told in str(result.exception)
