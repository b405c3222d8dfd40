"""A shop of the simulated world with something live, and its visitors, for benchmarks whose truth is known.

Nothing is read from a home and nothing stays: the shop lies in a folder of its own that is gone afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from eval.benchmarks.shown import Menu
from eval.world import Truth, WorldConfig, simulate
from eval.world_visitors import Visitors
from serving.bundle import load
from serving.errors import ConfigError
from serving.live import Live
from serving.query import Query
from serving.recommender import Recommender
from serving.settings import Settings
from training.recipe import TrainConfig
from training.train import train

_CONFIG = """
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
"""
_PATIENCE_MS = 60_000.0
_CHUNK = 500


@dataclass(frozen=True)
class WorldShop:
    """Its home, its tables, and the truth behind them."""

    settings: Settings
    tables: Path
    truth: Truth


@contextmanager
def world_shop(
    settings: Settings, *, customers: int, products: int, seed: int, now: datetime
) -> Iterator[WorldShop]:
    """Yield a shop whose history ends now: a world, features, and a model that is live.

    Parameters
    ----------
    settings
        Whatever does not lie in its home.
    customers, products
        How many there ever are.
    seed
        Of the world.
    now
        When its history ends.
    """
    with TemporaryDirectory(prefix="nextbest-world-") as directory:
        home, tables = Path(directory, "home"), Path(directory, "tables")
        own = settings.model_copy(
            update={"home": home, "redis_url": None, "api_keys": (), "live_poll_seconds": 0.1}
        )
        world = simulate(
            WorldConfig(customers=customers, products=products, months=8, seed=seed, ends_at=now)
        )
        world.write(tables, truth_dir=Path(directory, "truth"))
        train(own, tables, TrainConfig.parse(_CONFIG, "shop of the world"), now=now)
        yield WorldShop(own, tables, world.truth)


def live_recommender(settings: Settings) -> Recommender:
    """Return the recommender of what is live, without rules.

    Raises
    ------
    ConfigError
        Nothing is live.
    """
    from feature_repo.store import open_store  # Feast takes seconds to import
    from serving.online import OnlineReader

    version = Live.read(settings.live).version(settings.slot)
    if version is None:
        raise ConfigError(
            f"expected a live bundle in {settings.live}, found none; run `nextbest train TABLES`"
        )
    bundle = load(settings.bundles, version)
    reader = OnlineReader(
        open_store(settings.store, offline=False),
        service=bundle.manifest.feature_service,
        schema_hash=bundle.manifest.feature_schema_hash,
        defaults=bundle.manifest.feature_defaults,
        timeout_ms=_PATIENCE_MS,
        also=bundle.manifest.read,
    )
    return Recommender(bundle, reader)


def menu_of(recommender: Recommender, visitors: Visitors, *, n: int, at: datetime) -> Menu:
    """Return what a recommender shows to each visitor at an instant, and what passes its hard rules.

    Raises
    ------
    ConfigError
        It knows products that the visitors' world does not have.
    """
    ids = recommender.bundle.catalog.ids
    unknown = [one for one in ids if one not in visitors.index]
    if unknown:
        raise ConfigError(
            f"expected a bundle of the visitors' world, found the product {unknown[0]!r}; name the truth of its tables"
        )
    columns = np.array([visitors.index[one] for one in ids])
    usual = np.full((len(visitors.ids), n), -1, dtype=np.int64)
    allowed = np.zeros((len(visitors.ids), len(visitors.index)), dtype=bool)
    for first in range(0, len(visitors.ids), _CHUNK):
        queries = [Query(at=at, customer_id=one, n=n) for one in visitors.ids[first : first + _CHUNK]]
        states = recommender.states(queries)
        for row, (query, state) in enumerate(zip(queries, states, strict=True), start=first):
            listed = [visitors.index[one] for one in recommender.answer(query, state).product_ids]
            usual[row, : len(listed)] = listed
            allowed[row, columns] = recommender.case(query, state).allowed
    return Menu(usual, allowed)
