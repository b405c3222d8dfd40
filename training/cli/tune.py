"""``nextbest tune``: the best settings of the recipes, within a time."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from serving.settings import Settings
from training.cli.features import sound
from training.cli.progress import shown
from training.cli.tables import console
from training.recipe import TrainConfig

if TYPE_CHECKING:
    from training.tuned import Tuning


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("tune")(tune_command)


def tune_command(
    tables: Annotated[Path, typer.Argument(metavar="TABLES", help="Directory of the tables.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="F.toml", help="Recipes to begin at; default: those shipped."),
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this recipe of the configuration; repeatable."),
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0.0, help="How long to search, earlier calls on the same data counted.")
    ] = 10.0,
    trials: Annotated[
        int | None, typer.Option(min=1, help="At most so many trials a recipe, earlier ones counted.")
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(metavar="F.toml", help="Where to write; default: tune/tuned.toml in the home."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Search for better settings on the weeks before those that the gate judges by; write them as a configuration.

    Killed, it goes on where it was: call it again.
    """
    from training.tuned import tune, writable, write

    settings = Settings.load()
    chosen = TrainConfig.read(config) if config else TrainConfig.default()
    target = to or settings.tuning / "tuned.toml"
    sound(tables)
    writable(target)
    with shown(quiet=as_json) as progress:
        found = tune(
            settings,
            tables,
            chosen,
            recipes=recipe or (),
            minutes=minutes,
            trials=trials,
            now=datetime.now(UTC),
            progress=progress,
        )
    write(found, target)
    if as_json:
        typer.echo(json.dumps({**found.to_json(), "config": str(target)}))
        return
    console().print(_table(found))
    typer.echo(f"written: {target}\njudge it on later weeks: nextbest train {tables} --config {target}")


def _table(found: Tuning) -> Table:
    told = found.described
    table = Table(
        title=f"Fitted before {told['fitted_before'][:10]}, judged on purchases until {told['judged_until'][:10]}, "
        f"purchased={told['purchased']}",
        title_justify="left",
    )
    for name in (
        "recipe",
        "trials",
        "could not be fitted",
        f"{told['metric']} at first",
        "best",
        "in trial",
        "seconds",
    ):
        table.add_column(name, justify="left" if name == "recipe" else "right")
    for one in found.to_json()["recipes"]:
        table.add_row(
            one["recipe"],
            str(one["trials"]),
            str(one["failed"]),
            f"{one['start']:.4f}",
            f"{one['best']:.4f}",
            str(one["best_trial"]),
            f"{one['seconds']:.0f}",
        )
    return table
