"""``nextbest benchmark faults | freshness | overload``: a service on a copy of the home, broken, asked and crowded."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from serving.errors import ConfigError, NextbestError
from serving.settings import Settings
from training.benchmarks.small_home import home_to_copy
from training.cli.progress import Progress, shown

_STORES = ("sqlite", "redis")
Stores = Annotated[str, typer.Option(help="Where the event log is, with commas: sqlite, redis.")]
Seed = Annotated[
    int, typer.Option(min=0, help="Seed of the waits, and of the simulated shop where nothing is live.")
]


def register(group: typer.Typer) -> None:
    """Add the commands to the group of benchmarks."""
    group.command("faults")(faults_command)
    group.command("freshness")(freshness_command)
    group.command("overload")(overload_command)
    group.command("changes")(changes_command)
    group.command("memory")(memory_command)


def faults_command(
    kills: Annotated[
        int, typer.Option(min=0, max=1000, help="How often each process is killed (SIGKILL).")
    ] = 20,
    outage: Annotated[
        float, typer.Option(min=0, max=600, help="Seconds for which Redis is away; 0: not at all.")
    ] = 30.0,
    hang: Annotated[
        float, typer.Option(min=0, max=600, help="Seconds for which Redis hangs (SIGSTOP); 0: not at all.")
    ] = 5.0,
    stores: Stores = "sqlite,redis",
    seed: Seed = 0,
) -> None:
    """Kill workers, parent and Redis under load, and show that nothing is lost, doubled or left broken."""
    from eval.benchmarks.faults import faults

    chosen = _stores(stores)
    _measured(
        seed,
        lambda home, progress: faults(
            home, kills=kills, outage=outage, hang=hang, stores=chosen, seed=seed, progress=progress
        ),
    )


def freshness_command(
    purchases: Annotated[int, typer.Option(min=10, max=100_000, help="How many are told.")] = 200,
    rate: Annotated[float, typer.Option(min=1, max=2000, help="Other requests a second.")] = 100.0,
    stores: Stores = "sqlite,redis",
    seed: Seed = 0,
) -> None:
    """Measure the time from an acknowledged purchase to an answer without the product."""
    from eval.benchmarks.freshness import freshness

    chosen = _stores(stores)
    _measured(
        seed,
        lambda home, progress: freshness(
            home, purchases=purchases, rate=rate, stores=chosen, progress=progress
        ),
    )


def overload_command(
    factors: Annotated[
        str, typer.Option(help="How many times its capacity is asked of it, with commas.")
    ] = "2,4",
    seconds: Annotated[
        float, typer.Option(min=1, max=60, help="How long each measurement takes, about.")
    ] = 5.0,
    seed: Seed = 0,
) -> None:
    """Measure how many answers are left when more is asked of the service than it can take."""
    from eval.benchmarks.overload import overload
    from eval.benchmarks.own_home import OwnHome
    from eval.benchmarks.supervised import supervised

    try:
        chosen = [float(factor) for factor in factors.split(",")]
    except ValueError as error:
        raise ConfigError(f"expected factors such as 2,4, found {factors!r}; correct --factors") from error

    def measure(settings: Settings, progress: Progress) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="nextbest-overload-") as directory:
            home = OwnHome.copied(settings, Path(directory, "home"))
            with supervised(home, Path(directory, "service.log")) as service:
                return overload(home, service.url, factors=chosen, seconds=seconds)

    _measured(seed, measure)


def changes_command(
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="How long.")] = 120.0,
    every: Annotated[float, typer.Option(min=0.2, max=60, help="Seconds between two changes.")] = 2.0,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Worker processes.")] = 2,
    seed: Seed = 0,
) -> None:
    """Publish, roll back, change rules and experiments under load, a corrupted bundle and broken files among them."""
    from eval.benchmarks.changes import changes

    _measured(
        seed,
        lambda home, progress: changes(
            home, seconds=seconds, every=every, workers=workers, progress=progress
        ),
    )


def memory_command(
    variants: Annotated[int, typer.Option(min=2, max=16, help="Bundles that are served at once.")] = 4,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Worker processes.")] = 2,
    products: Annotated[int, typer.Option(help="Of the drawn shop.")] = 50_000,
    dimensions: Annotated[int, typer.Option(help="Of its vectors.")] = 64,
    customers: Annotated[int, typer.Option(help="Of the drawn shop.")] = 50_000,
    requests: Annotated[int, typer.Option(min=10, max=1_000_000, help="Asked before memory is read.")] = 2000,
    seed: Seed = 0,
) -> None:
    """Measure the memory of workers that serve variants beside workers that serve one bundle."""
    from eval.benchmarks.memory import memory
    from eval.benchmarks.shop import Size

    size = Size(products=products, dimensions=dimensions, customers=customers)
    with shown() as progress:
        result = memory(
            Settings.load(),
            size,
            now=datetime.now(UTC),
            variants=variants,
            workers=workers,
            requests=requests,
            seed=seed,
            progress=progress,
        )
    typer.echo(json.dumps(result, indent=1))


def _measured(seed: int, measure: Callable[[Settings, Progress], dict[str, Any]]) -> None:
    """Measure on a copy of the home, or of a small one where nothing is live, and print the result.

    Raises
    ------
    NextbestError
        The result names laws that are broken.
    """
    with shown() as progress, home_to_copy(Settings.load(), seed=seed, now=datetime.now(UTC)) as home:
        result = measure(home, progress)
    typer.echo(json.dumps(result, indent=1))
    if broken := result.get("broken"):
        raise NextbestError(
            f"expected a service that loses nothing and goes on, found: {'; '.join(broken)}; see the counts above"
        )


def _stores(given: str) -> Sequence[str]:
    found = [store.strip() for store in given.split(",")]
    if not found or not set(found) <= set(_STORES):
        raise ConfigError(f"expected --stores of {', '.join(_STORES)}, found {given!r}; correct it")
    return found
