"""``nextbest benchmark ranking``: scores of candidates beside the truth of simulated shops."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from training.cli.progress import shown


def register(group: typer.Typer) -> None:
    """Add the command to the group of benchmarks."""
    group.command("ranking")(ranking_command)


def ranking_command(
    seeds: Annotated[
        int,
        typer.Option(min=1, max=5, help="How many simulated shops, of seeds reserved for this benchmark."),
    ] = 5,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Take other seeds, so that the reserved ones stay unseen.")
    ] = False,
    customers: Annotated[int, typer.Option(min=200, max=100_000, help="Customers of each shop.")] = 5000,
    products: Annotated[int, typer.Option(min=50, max=20_000, help="Products of each shop.")] = 800,
    config: Annotated[
        Path | None, typer.Option(metavar="F.toml", help="Recipes; default: those shipped.")
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Judge this one of them; repeatable. [default: als-ranked, else the first that is no baseline]",
        ),
    ] = None,
) -> None:
    """Measure AUC, logloss and calibration of recipes over all candidates of simulated shops, beside the truth's own.

    Baselines are always judged too. Figures are told for all candidates, for new and existing customers, for new
    products and the others, shop by shop and with their spread.
    """
    from training.benchmarks.ranking import REHEARSAL, RESERVED, choose, ranking
    from training.recipe import TrainConfig

    chosen = TrainConfig.read(config) if config else TrainConfig.default()
    recipes = choose(chosen, recipe or ())
    with shown() as progress:
        result = ranking(
            (REHEARSAL if rehearse else RESERVED)[:seeds],
            customers=customers,
            products=products,
            config=chosen,
            recipes=recipes,
            now=datetime.now(UTC),
            progress=progress,
        )
    typer.echo(json.dumps(result, indent=1))
