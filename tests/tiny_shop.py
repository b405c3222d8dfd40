"""A shop so small that a whole refresh takes a second or two: a home with something live, and tables of its own."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pandas as pd

from eval.world import WorldConfig, simulate
from serving.events import Event
from serving.events.live import event_log
from serving.live import Live
from serving.settings import Settings
from tests.conftest import NOW, SMALL
from training.recipe import TrainConfig
from training.refresh import refresh
from training.refresh_runs import Run

TINY = SMALL.replace("horizon_days = 28", "horizon_days = 14")
MICROS = int(NOW.timestamp()) * 1_000_000


def tiny() -> TrainConfig:
    return TrainConfig.parse(TINY, "tiny.toml")


@dataclass(frozen=True)
class Shop:
    """A home with something live, and tables of its own."""

    settings: Settings
    tables: Path

    def refresh(self, *, days: int = 1, config: TrainConfig | None = None) -> Run:
        return refresh(self.settings, self.tables, config or tiny(), now=NOW + timedelta(days=days))

    def tell(self, name: str, *, count: int = 3, day: int = 0) -> None:
        """Log purchases that happened on NOW, and that were logged ``day`` days after it."""
        held = pd.read_parquet(self.tables / "interactions.parquet")
        known = held["customer_id"].dropna().unique()
        products = held["product_id"].unique()
        micros = MICROS + day * 86_400_000_000
        log = event_log(self.settings)
        log._file._clock = lambda: micros
        log.append_events(
            [
                Event(f"{name}-{n}", "purchase", MICROS - n, products[n], customer_id=known[n])
                for n in range(count)
            ]
        )
        log.close()

    @property
    def live(self) -> str | None:
        return Live.read(self.settings.live).version(self.settings.slot)

    @property
    def rows(self) -> int:
        return len(pd.read_parquet(self.tables / "interactions.parquet"))

    def copy(self, to: Path) -> Shop:
        """Return the same shop elsewhere; its records name its tables there."""
        shutil.copytree(self.settings.home, to / "home")
        shutil.copytree(self.tables, to / "tables")
        for record in (to / "home" / "refresh").glob("*.json"):
            record.write_text(record.read_text().replace(str(self.tables), str(to / "tables")))
        return Shop(Settings.load(home=to / "home"), to / "tables")


def tiny_tables(directory: Path) -> Path:
    """Write the tables of the shop."""
    simulate(WorldConfig(customers=80, products=40, months=3, seed=7)).write(
        directory, truth_dir=directory.parent / "truth"
    )
    for name in ("measures", "campaigns", "contacts", "ties"):
        (directory / f"{name}.parquet").unlink()
    (directory / "features.toml").write_text("cadence_days = 28\n")
    return directory


def ready_shop(place: Path) -> Shop:
    """Return a shop with features and something live, whose first refresh was that of NOW."""
    shop = Shop(Settings.load(home=place / "home"), tiny_tables(place / "tables"))
    assert shop.refresh(days=0).outcome == "published"
    return shop
