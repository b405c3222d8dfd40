"""``nextbest benchmark …``: measurements of this installation on this machine, as JSON.

Each command parses, calls the measurement and prints; progress goes to standard error, so that standard
output can be piped. Deliberately absent: any judgement of the figures.
"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from serving.settings import Settings
from training.cli.progress import shown


def register(app: typer.Typer) -> None:
    """Add the group of commands to the application."""
    group = typer.Typer(help="Measure this installation; JSON on standard output.", no_args_is_help=True)
    group.command("serving")(serving_command)
    app.add_typer(group, name="benchmark")


def serving_command(
    requests: Annotated[
        int, typer.Option(min=10, max=100_000, help="Requests a side, a concurrency and a round.")
    ] = 400,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="How often the sides take turns.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the draw of customers.")] = 0,
) -> None:
    """Measure the service on the live bundle beside services that return a constant answer."""
    from eval.benchmarks.serving import benchmark

    with shown() as progress:
        result = benchmark(Settings.load(), requests=requests, rounds=rounds, seed=seed, progress=progress)
    typer.echo(json.dumps(result, ensure_ascii=False, indent=1))
