"""``nextbest events``: what was logged, as interactions and exposures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from serving.errors import ConfigError
from serving.events.live import event_log
from serving.settings import Settings
from training.export import export, export_exposures
from training.train import one_job


def register(app: typer.Typer) -> None:
    """Add the group of commands to the application."""
    events = typer.Typer(help="The event log.", no_args_is_help=True)
    events.command("export")(export_command)
    app.add_typer(events, name="events")


def export_command(
    to: Annotated[Path, typer.Option("--to", metavar="TABLES", help="Directory of the tables.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Append what was logged since the last export to the interactions of TABLES, and to exposures.parquet there."""
    if not to.is_dir():
        raise ConfigError(
            f"expected the directory of your tables at {to}, found none; correct --to, or make the directory first to "
            "begin new tables there"
        )
    settings = Settings.load()
    with one_job(settings):
        log = event_log(settings)
        try:
            count, shown = export(log, to), export_exposures(log, to)
        finally:
            log.close()
    if as_json:
        typer.echo(json.dumps({"exported": count, "shown": shown, "to": str(to)}))
        return
    typer.echo(f"{count:,} interactions and {shown:,} products shown added to {to}")
