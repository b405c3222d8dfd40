"""``nextbest train`` and ``nextbest evaluate``: the gate, and the judging of models."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from feature_repo.store import open_store
from feature_repo.tables import Tables
from serving.bundle import NAME, verify
from serving.errors import ConfigError
from serving.settings import Settings
from training.backtest import backtest
from training.cli.features import sound
from training.cli.progress import shown
from training.cli.tables import console, differences, leaderboard
from training.recipe import Recipe, TrainConfig
from training.train import current_features, last_split, one_job, train


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("train")(train_command)
    app.command("evaluate")(evaluate_command)


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
    typer.echo(f"{told['reason']}\npublished {told['published']}")


def evaluate_command(
    tables: Annotated[Path, _TABLES],
    bundle: Annotated[
        list[str] | None, typer.Option(metavar="TAG", help="Judge the recipe of this bundle too; repeatable.")
    ] = None,
    config: Annotated[Path | None, _CONFIG] = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Judge recipes on the last weeks, beside the baselines; nothing is published."""
    settings = Settings.load()
    chosen = TrainConfig.read(config) if config else TrainConfig.default()
    recipes = [*chosen.recipes, *(_recipe(settings, tag) for tag in bundle or ())]
    sound(tables)
    now = datetime.now(UTC)
    with one_job(settings), Tables.open(tables) as opened, shown(quiet=as_json) as progress:
        current_features(settings, opened, progress)
        result = backtest(
            recipes,
            opened,
            open_store(settings.store),
            last_split(opened, chosen.horizon_days),
            k=chosen.k,
            seed=chosen.seed,
            threads=chosen.threads,
            now=now,
            progress=progress,
        )
    told = result.to_json()
    directory = settings.reports / f"evaluate-{now:%Y%m%d-%H%M%S}"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.json").write_text(json.dumps(told, indent=1))
    if as_json:
        typer.echo(json.dumps(told))
        return
    show(told)
    typer.echo(f"results: {directory / 'results.json'}")


def show(backtest_json: dict[str, Any]) -> None:
    """Print the leaderboard and the comparisons with the stronger baseline."""
    screen = console()
    screen.print(leaderboard(backtest_json))
    for sentence in differences(backtest_json):
        screen.print(sentence, markup=False)


def _recipe(settings: Settings, tag: str) -> Recipe:
    version = tag.removeprefix(f"{NAME}:")
    if not (settings.bundles / version).is_dir():
        raise ConfigError(f"expected the tag of a published bundle, found {tag!r}; see `nextbest models`")
    recipe = Recipe.model_validate(verify(settings.bundles / version, version).recipe)
    return recipe.model_copy(update={"name": f"{recipe.name}@{version}"})
