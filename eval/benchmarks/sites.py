"""What the serving benchmark asks: the live bundle of a home, or a drawn shop on one online store or on several.

A drawn shop stands in a temporary directory: one bundle, and a home for each store, so that what one service writes
(its event log, its counts) is no work of the other.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from eval.benchmarks.shop import Shop, Size, draw_shop
from eval.benchmarks.traffic import Request, draw, particular, plain
from eval.redis_server import redis_server
from feature_repo import schema as s
from serving import live
from serving.bundle import load
from serving.errors import ConfigError
from serving.live import Live
from serving.settings import Settings

Progress = Callable[[str, int, int], None]

REDIS: Final = "redis"
SQLITE: Final = "sqlite"
STORES: Final = (REDIS, SQLITE)


@dataclass(frozen=True)
class DrawnShop:
    """Which shop to draw, at which instant, and on which online stores (``STORES``) its customers are.

    With ``ranker`` its bundle has one of the size that ships.

    Raises
    ------
    ConfigError
        There is no store of a name, or none is named, or one twice.
    """

    size: Size
    now: datetime
    stores: tuple[str, ...] = STORES
    ranker: bool = False

    def __post_init__(self) -> None:
        if not self.stores or not set(self.stores) <= set(STORES) or len(set(self.stores)) < len(self.stores):
            found = ",".join(self.stores)
            raise ConfigError(
                f"expected online stores, each once, of {', '.join(STORES)}, found {found!r}; correct --store"
            )


@dataclass(frozen=True)
class Site:
    """A live bundle with the settings of a service on each store, the first one foremost, and what is asked of it.

    ``bundles`` holds the folder of ``version``; ``requests`` are JSON objects of ``/v1/recommend``; ``told`` is what a
    report says of the site.
    """

    stores: Mapping[str, Settings]
    bundles: Path
    version: str
    requests: list[Request]
    told: dict[str, Any] = field(default_factory=dict)


@contextmanager
def live_site(settings: Settings, *, requests: int, seed: int) -> Iterator[Site]:
    """Yield the live bundle of ``settings``, asked for nothing particular; its online store is only read.

    What the measurement shows is kept in a log of its own; with Redis, which holds store and log together, in the real
    one.

    Raises
    ------
    ConfigError
        Nothing is live.
    """
    version = Live.read(settings.live).version(settings.slot)
    if version is None:
        raise ConfigError("expected a live bundle to measure, found none; run `nextbest train TABLES`")
    bundle = load(settings.bundles, version)
    customers = draw(bundle.customers[s.CUSTOMER_ID].tolist(), count=requests, seed=seed)
    told = {"bundle": bundle.tag, "products": len(bundle.catalog), "customers": len(bundle.customers)}
    store = REDIS if settings.redis_url else SQLITE
    with tempfile.TemporaryDirectory(prefix="nextbest-benchmark-home-") as directory:
        own = settings.model_copy(update={"home": Path(directory)})
        own.store.directory.symlink_to(settings.store.directory, target_is_directory=True)
        live.publish(own.live, own.slot, version)
        yield Site({store: own}, settings.bundles, version, plain(customers), told)


@contextmanager
def drawn_site(
    settings: Settings, drawn: DrawnShop, *, requests: int, seed: int, progress: Progress
) -> Iterator[Site]:
    """Draw a shop, publish it and bring its customers online; it is gone when the block ends.

    Parameters
    ----------
    settings
        Of the services, but for where things are.
    drawn
        Which shop.
    requests, seed
        How many requests to draw, and the seed of everything.
    progress
        Called with (what, done, all).

    Raises
    ------
    ConfigError
        There is no Redis server to run.
    """
    # Feast takes seconds to import, and a live bundle is asked without it
    from eval.benchmarks.shop_home import bring_online, publish

    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nextbest-benchmark-shop-")))
        stores = {
            store: settings.model_copy(
                update={
                    "home": directory / store,
                    "redis_url": _redis(directory, stack) if store == REDIS else None,
                    "redis_durable": False,
                }
            )
            for store in drawn.stores
        }
        began = time.perf_counter()
        shop = draw_shop(drawn.size, seed=seed, at=drawn.now)
        bundles = directory / "bentoml" / "models" / "nextbest"
        version = publish(shop, bundles, seed=seed, ranker=drawn.ranker)
        bring_online(shop, [own.store for own in stores.values()], seed=seed, progress=progress)
        for own in stores.values():
            live.publish(own.live, own.slot, version)
        told = {
            "bundle": f"nextbest:{version}",
            **asdict(drawn.size),
            "ranker": drawn.ranker,
            "build_seconds": round(time.perf_counter() - began, 1),
        }
        yield Site(stores, bundles, version, _requests(shop, count=requests, seed=seed), told)


def _requests(shop: Shop, *, count: int, seed: int) -> list[Request]:
    return particular(draw(shop.customers, count=count, seed=seed), shop.catalog, seed=seed)


def _redis(directory: Path, stack: ExitStack) -> str:
    data = directory / "redis-data"
    data.mkdir()
    # a rewrite of the file in the background would fall on whoever is measured just then
    return stack.enter_context(redis_server(data, auto_aof_rewrite_percentage="0")).url
