"""``nextbest evaluate``: recipes judged over rolling origins, beside the baselines."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from eval.report.index import write_index
from eval.report.page import write_report
from eval.report.tables import disagreeing
from serving.bundle import NAME, verify
from serving.errors import ConfigError
from serving.settings import Settings
from training.cli.features import sound
from training.cli.progress import shown
from training.cli.tables import comparisons, console, rolling_leaderboard
from training.recipe import Recipe, TrainConfig
from training.rolling import Plan, roll
from training.train import one_job

#: So many origins where none are asked for.
ORIGINS: Final = 10


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("evaluate")(evaluate_command)


def evaluate_command(
    tables: Annotated[Path, typer.Argument(metavar="TABLES", help="Directory of the tables.")],
    bundle: Annotated[
        list[str] | None, typer.Option(metavar="TAG", help="Judge the recipe of this bundle too; repeatable.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="F.toml", help="Recipes and settings; default: those shipped."),
    ] = None,
    origins: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"How many instants to fit and judge at, the last ones; default: {ORIGINS}, or as many as there are.",
        ),
    ] = None,
    every: Annotated[int, typer.Option(min=1, metavar="DAYS", help="From one origin to the next.")] = 7,
    horizon: Annotated[
        int | None,
        typer.Option(min=1, metavar="DAYS", help="How many days after an origin judge; default: EVERY."),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=100, help="How many products are shown.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json.")] = False,
) -> None:
    """Judge recipes over rolling origins, each fitted on what came before it, and write a report; nothing is published.

    An interrupted run goes on where it stopped: what is finished is kept below reports/kept.
    """
    settings = Settings.load()
    chosen = TrainConfig.read(config) if config else TrainConfig.default()
    recipes = (*chosen.recipes, *(_recipe(settings, tag) for tag in bundle or ()))
    sound(tables)
    now = datetime.now(UTC)
    plan = Plan(
        count=origins or ORIGINS,
        every_days=every,
        horizon_days=horizon or every,
        k=k,
        is_exact=origins is not None,
    )
    with one_job(settings), shown(quiet=as_json) as progress:
        results = roll(
            settings,
            tables,
            chosen.model_copy(update={"recipes": recipes}),
            plan,
            command=shlex.join(["nextbest", *sys.argv[1:]]),
            now=now,
            progress=progress,
        )
        directory = settings.reports / f"evaluate-{now:%Y%m%d-%H%M%S}"
        results.write(directory)
        report = write_report(results, directory)
        index = write_index(settings.reports)
    if as_json:
        typer.echo(results.model_dump_json())
        return
    screen = console()
    for policy in results.policies:
        screen.print(rolling_leaderboard(results, policy))
    verdict = results.verdict
    why = [disagreeing(results, policy, verdict.winner) for policy in results.policies]
    for sentence in (*comparisons(results), *dict.fromkeys(why), verdict.sentence, *verdict.reasons):
        if sentence:
            screen.print(sentence, markup=False)
    typer.echo(f"report: {report}\nall reports: {index}")


def _recipe(settings: Settings, tag: str) -> Recipe:
    version = tag.removeprefix(f"{NAME}:")
    if not (settings.bundles / version).is_dir():
        raise ConfigError(f"expected the tag of a published bundle, found {tag!r}; see `nextbest models`")
    recipe = Recipe.model_validate(verify(settings.bundles / version, version).recipe)
    return recipe.model_copy(update={"name": f"{recipe.name}@{version}"})
