"""A small published home of a simulated shop, for benchmarks of the service where nothing is live."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from eval.world import WorldConfig, simulate
from serving.live import Live
from serving.settings import Settings
from training.recipe import TrainConfig
from training.train import train

_CONFIG: Final = """
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


@contextmanager
def home_to_copy(settings: Settings, *, seed: int, now: datetime) -> Iterator[Settings]:
    """Yield the home of ``settings`` if something is live in it, else a small one that is gone afterwards.

    Parameters
    ----------
    settings
        The home that is asked about; it is not changed.
    seed
        Of the simulated shop of 300 customers and 120 products.
    now
        When the bundle of the small home is made.
    """
    if Live.read(settings.live).version(settings.slot) is not None:
        yield settings
        return
    with TemporaryDirectory(prefix="nextbest-shop-") as directory:
        home, tables = Path(directory, "home"), Path(directory, "tables")
        own = settings.model_copy(update={"home": home, "redis_url": None})
        world = simulate(WorldConfig(customers=300, products=120, months=8, seed=seed))
        world.write(tables, truth_dir=Path(directory, "truth"))
        train(own, tables, TrainConfig.parse(_CONFIG, "small home"), now=now)
        yield own
