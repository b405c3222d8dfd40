"""``nextbest benchmark visitors | agreement``: the simulated world's customers, and what experiments on them find."""

from __future__ import annotations

import json
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from serving.errors import ConfigError
from serving.settings import Settings
from training.cli.progress import shown

Seed = Annotated[int, typer.Option(min=0, help="Seed of the world, and of who comes and looks at what.")]
Customers = Annotated[int, typer.Option(min=100, max=100_000, help="Of the simulated shop.")]
Products = Annotated[int, typer.Option(min=50, max=20_000, help="Of the simulated shop.")]
Length = Annotated[int, typer.Option("-n", min=1, max=100, help="Length of the lists.")]


def register(group: typer.Typer) -> None:
    """Add the commands to the group of benchmarks."""
    group.command("visitors")(visitors_command)
    group.command("agreement")(agreement_command)


def visitors_command(
    url: Annotated[str | None, typer.Option(help="A running service of a simulated shop.")] = None,
    truth: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The truth of that shop, as `nextbest demo` writes it.")
    ] = None,
    visits: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many at the most.")] = 1000,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="For how long at the most.")] = 60.0,
    connections: Annotated[int, typer.Option(min=1, max=64, help="How many come at once.")] = 4,
    days: Annotated[float, typer.Option(min=1, max=730, help="Whose visits of so many days come.")] = 120.0,
    n: Length = 10,
    surface: Annotated[str | None, typer.Option(help="Where lists are shown, for experiments.")] = None,
    customers: Customers = 1000,
    products: Products = 200,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Of the service that is started.")] = 2,
    seed: Seed = 0,
) -> None:
    """Let customers of a simulated shop ask, click, buy, and tell it; without --url, on a shop made for it."""
    from eval.benchmarks.visits import HttpShop, play
    from eval.world import Truth
    from eval.world_visitors import Visitors
    from serving.process import running
    from training.benchmarks.world_shop import world_shop

    if (url is None) != (truth is None):
        raise ConfigError("expected --url with --truth, or neither, found one of them; add the other")
    now = datetime.now(UTC)
    with shown() as progress, ExitStack() as stack:
        if url is None or truth is None:
            shop = stack.enter_context(
                world_shop(Settings.load(), customers=customers, products=products, seed=seed, now=now)
            )
            held = shop.truth
            url = stack.enter_context(running(shop.settings, workers=workers)).url
        else:
            if not (truth / "config.json").exists():
                raise ConfigError(
                    f"expected the truth of a simulated shop in {truth}, found no config.json; `nextbest demo` writes "
                    "it into truth/ of its home"
                )
            held = Truth.read(truth)
        shops = [HttpShop(url) for _ in range(connections)]
        for one in shops:
            stack.callback(one.close)
        played = play(
            Visitors.of(held, at=held.config.ends_at, days=days),
            shops,
            visits=visits,
            seconds=seconds,
            seed=seed,
            clock=partial(datetime.now, UTC),
            n=n,
            surface=surface,
            progress=progress,
        )
    typer.echo(json.dumps(played.to_json(), indent=1))


def agreement_command(
    loss: Annotated[
        float, typer.Option(min=0, max=0.9, help="By which share the treatment's true clicks are lower.")
    ] = 0.05,
    epsilon: Annotated[
        float, typer.Option(min=0.001, max=0.9, help="How much of a list the control leaves to chance.")
    ] = 0.1,
    runs: Annotated[int, typer.Option(min=10, max=10_000, help="How often each is repeated.")] = 200,
    first: Annotated[
        int, typer.Option(min=1000, max=1_000_000, help="Customers of the run that sizes follow from.")
    ] = 100_000,
    live_visits: Annotated[
        int, typer.Option(min=0, max=100_000, help="Visits a kind of experiment over HTTP; 0: none.")
    ] = 3000,
    live_loss: Annotated[float, typer.Option(min=0, max=0.9, help="The loss of these.")] = 0.3,
    customers: Customers = 2000,
    products: Products = 200,
    n: Length = 10,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Of the service.")] = 2,
    seed: Seed = 0,
) -> None:
    """Hold what an A/B test, interleaving and doubly robust find against a simulated shop's truth, and size each."""
    from eval.benchmarks.agreement import agreement
    from eval.world_visitors import Visitors
    from training.benchmarks.agreement import live_agreement
    from training.benchmarks.world_shop import live_recommender, menu_of, world_shop

    now = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    clock = partial(datetime.now, UTC)
    with (
        shown() as progress,
        world_shop(Settings.load(), customers=customers, products=products, seed=seed, now=now) as shop,
    ):
        visitors = Visitors.of(shop.truth, at=now, days=28)
        menu = menu_of(live_recommender(shop.settings), visitors, n=n, at=now)
        result = agreement(
            visitors,
            menu,
            epsilon=epsilon,
            loss=loss,
            first=first,
            runs=runs,
            seed=seed,
            progress=progress,
        )
        if live_visits:
            result["live"] = live_agreement(
                shop,
                now=now,
                clock=clock,
                epsilon=epsilon,
                loss=live_loss,
                visits=live_visits,
                workers=workers,
                n=n,
                seed=seed,
                progress=progress,
            )
    typer.echo(json.dumps(result, indent=1))
