"""``nextbest refresh``: everything from the event log to what is live, for a timer."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from serving.errors import ConfigError, HomeBusy, NextbestError
from serving.settings import Settings
from training.cli.features import counted
from training.cli.progress import shown
from training.cli.train import show
from training.recipe import TrainConfig
from training.refresh import refresh
from training.refresh_runs import Run, Runs
from training.train import one_job

#: What a timer is told when another job holds the home: EX_TEMPFAIL of sysexits.h, "try again later".
BUSY: Final = 75


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("refresh")(refresh_command)


def refresh_command(
    tables: Annotated[
        Path | None,
        typer.Argument(metavar="[TABLES]", help="Directory of the tables; default: that of the last run."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="F.toml",
            help="Recipes and settings; default: those of the last run, or those shipped where TABLES is given.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record of the run as JSON.")] = False,
) -> None:
    """Export events, build features, train, gate and publish: one run that goes on where it was killed.

    Exits with 0 when it published or nothing was new, with 75 while another job holds the home, with 2 on errors.
    """
    settings, now = Settings.load(), datetime.now(UTC)
    runs = Runs(settings.refresh)
    try:
        with one_job(settings), shown(quiet=as_json) as progress:
            directory, chosen = _remembered(runs.remembered(), tables, config)
            run = refresh(
                settings,
                directory,
                TrainConfig.default() if chosen is None else TrainConfig.read(chosen),
                now=now,
                config_path=chosen,
                progress=progress,
            )
    except HomeBusy as error:
        typer.echo(f"not now: {error}", err=True)
        raise typer.Exit(BUSY) from error
    except NextbestError:
        held = runs.newest()
        if held is not None and held.calls[-1] == now:
            _tell_checks(held, err=True)
        raise
    if as_json:
        typer.echo(run.model_dump_json())
        return
    _tell_checks(run)
    if run.gate is not None:
        show(run.gate.metrics)
    if run.events is not None:
        typer.echo(f"{run.events['interactions']:,} interactions were new in the event log")
    typer.echo(run.said)
    typer.echo(f"record: {settings.refresh / f'{run.run}.json'}")


def _tell_checks(run: Run, *, err: bool = False) -> None:
    """Print what validation found: nothing passes in silence that is not as it should be."""
    if run.checks is None:
        return
    for line in run.checks.told:
        typer.echo(line, err=err)
    typer.echo(counted(run.checks.counts, run.tables), err=err)


def _remembered(last: Run | None, tables: Path | None, config: Path | None) -> tuple[Path, Path | None]:
    """Return the tables and the configuration: those given, else those of the last run.

    Raises
    ------
    ConfigError
        None were given and none are remembered.
    """
    if tables is not None:
        return tables, config
    if last is None:
        raise ConfigError(
            "expected the directory of the tables the first time, found none given and none remembered in this home; "
            "name it: `nextbest refresh TABLES`"
        )
    return Path(last.tables), config or (None if last.config is None else Path(last.config))
