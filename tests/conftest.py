"""What the tests share: a small simulated shop, its features and a published home, made once a session."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from eval.world import World, WorldConfig, simulate
from feature_repo.build import FeatureSet
from feature_repo.tables import Tables
from serving.settings import Settings
from training.recipe import TrainConfig
from training.train import TrainReport, build_features, train

if TYPE_CHECKING:
    from eval.redis_server import RedisServer
    from serving.process import Service
    from tests.event_stores import Store
    from tests.tiny_shop import Shop

# a machine that others use too takes its time; speed is for benchmarks
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
WORLD = WorldConfig(customers=300, products=120, months=8, seed=7)

SMALL = """
horizon_days = 28
k = 10
threads = 1
[[recipes]]
name = "als"
model = "als"
[recipes.als]
factors = 16
regularization = 5.0
epochs = 10
[[recipes]]
name = "popularity-28d"
model = "popularity"
popularity_days = 28
[[recipes]]
name = "repeats"
model = "repeats"
"""


@dataclass(frozen=True)
class Published:
    """A home with tables, features and a live bundle; copy it before changing it."""

    settings: Settings
    tables: Path
    report: TrainReport


def small_config() -> TrainConfig:
    return TrainConfig.parse(SMALL, "small.toml")


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reads or writes the developer's own home."""
    for name in list(os.environ):
        if name.startswith("NEXTBEST_") and name != "NEXTBEST_REALDATA":
            monkeypatch.delenv(name)
    monkeypatch.delenv("BENTOML_HOME", raising=False)
    monkeypatch.setenv("NEXTBEST_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def world() -> World:
    return simulate(WORLD)


@pytest.fixture(scope="session")
def world_tables(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("world") / "tables"
    world.write(directory, truth_dir=directory.parent / "truth")
    return directory


@pytest.fixture(scope="session")
def features(world_tables: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, FeatureSet]:
    """Features of the world, registered and materialised on SQLite."""
    settings = Settings.load(home=tmp_path_factory.mktemp("features"))
    with Tables.open(world_tables) as tables:
        return settings, build_features(settings, tables)[0]


@pytest.fixture(scope="session")
def published(world_tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A published home; shared by all tests, so read only."""
    settings = Settings.load(home=tmp_path_factory.mktemp("published"))
    report = train(settings, world_tables, small_config(), now=NOW)
    return Published(settings, world_tables, report)


@pytest.fixture
def own_copy(published: Published, tmp_path: Path) -> Published:
    """A published home of the test's own, to publish into, corrupt or roll back."""
    home = tmp_path / "copied"
    shutil.copytree(published.settings.home, home)
    return Published(Settings.load(home=home), published.tables, published.report)


@pytest.fixture(scope="module")
def home(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A copy of the published home with a second, quite different bundle that is not live."""
    directory = tmp_path_factory.mktemp("served") / "home"
    shutil.copytree(published.settings.home, directory)
    settings = Settings.load(home=directory, live_poll_seconds=0.1)
    from tests.test_bundle import stored

    stored(settings.bundles, seed=1)
    return settings


@pytest.fixture(scope="module")
def versions(home: Settings) -> tuple[str, str]:
    """The version that is live, and the other one."""
    from serving.live import Live

    first = Live.read(home.live).version(home.slot)
    assert first is not None
    other = next(path.name for path in home.bundles.iterdir() if path.name != first)
    return first, other


@pytest.fixture(scope="module")
def service(home: Settings) -> Iterator[Service]:
    """The service of that home, for the tests of one file."""
    from serving.process import running

    with running(home) as started:
        yield started


@pytest.fixture(scope="module")
def customers(home: Settings, versions: tuple[str, str]) -> list[str]:
    """The customers of the live bundle."""
    from serving.bundle import load

    ids: list[str] = load(home.bundles, versions[0]).customers["customer_id"].tolist()
    return ids


@pytest.fixture(scope="session")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A tiny shop with something live; shared by all tests, so copy it before changing it."""
    from tests.tiny_shop import ready_shop

    return ready_shop(tmp_path_factory.mktemp("ready"))


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis server on a free port of loopback, for this session only."""
    from eval.redis_server import redis_server

    settings = {"appendonly": "no", "appendfsync": "everysec", "maxmemory_policy": "noeviction"}
    with redis_server(tmp_path_factory.mktemp("redis"), **settings) as server:
        yield server.url


@pytest.fixture(scope="session")
def durable_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real Redis server that keeps what it acknowledges, for this session only; flush it before use."""
    from eval.redis_server import RedisServer

    server = RedisServer(tmp_path_factory.mktemp("durable-redis"))
    yield server
    server.kill()


@pytest.fixture(params=["sqlite", "redis"])
def event_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty place for an event log; a test runs once on each store."""
    from tests.event_stores import Store

    if request.param == "sqlite":
        return Store(tmp_path / "events", None)
    server: RedisServer = request.getfixturevalue("durable_redis")
    server.client.flushall()
    return Store(tmp_path / "events", server)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real data sets; skips with a reason where it is absent."""
    default = Path(__file__).parents[2] / "shared" / "data"
    directory = Path(os.environ.get("NEXTBEST_REALDATA", default))
    if not directory.is_dir():
        pytest.skip(f"no real data in {directory}; set NEXTBEST_REALDATA")
    return directory
