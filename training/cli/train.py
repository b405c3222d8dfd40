"""``nextbest train``: the gate, and what it publishes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from serving.settings import Settings
from training.cli.features import sound
from training.cli.progress import shown
from training.cli.tables import console, differences, leaderboard
from training.recipe import TrainConfig
from training.train import one_job, train


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("train")(train_command)


_TABLES = typer.Argument(metavar="TABLES", help="Directory of the tables.")
_CONFIG = typer.Option("--config", metavar="F.toml", help="Recipes and settings; default: those shipped.")
_JSON = typer.Option("--json", help="Print the result as JSON.")


def train_command(
    tables: Annotated[Path, _TABLES],
    config: Annotated[Path | None, _CONFIG] = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Judge the recipes on the last weeks, refit the best on everything, publish it."""
    chosen = TrainConfig.read(config) if config else TrainConfig.default()
    sound(tables)
    settings = Settings.load()
    with one_job(settings), shown(quiet=as_json) as progress:
        report = train(settings, tables, chosen, now=datetime.now(UTC), progress=progress)
    told = report.to_json()
    if as_json:
        typer.echo(json.dumps(told))
        return
    show(told["backtest"])
    typer.echo(told["reason"])
    if report.unranked is not None:
        typer.echo(f"{report.verdict.winner.name} has no ranker: {report.unranked}")
    typer.echo(f"published {told['published']}")


def show(backtest_json: dict[str, Any]) -> None:
    """Print the leaderboard and the comparisons with the stronger baseline."""
    screen = console()
    screen.print(leaderboard(backtest_json))
    for sentence in differences(backtest_json):
        screen.print(sentence, markup=False)
    for name, why in backtest_json.get("unranked", {}).items():
        screen.print(f"{name} was judged without its ranker: {why}", markup=False, soft_wrap=True)
