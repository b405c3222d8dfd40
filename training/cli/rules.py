"""``nextbest rules check``: a file of rules against the live bundle, each rule in words."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from serving.rules.describe import described
from serving.settings import Settings
from training.cli.checked import asked
from training.cli.recommend import open_live
from training.cli.tables import console


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    rules = typer.Typer(help="Rules about what is shown.", no_args_is_help=True)
    rules.command("check")(check_command)
    app.add_typer(rules, name="rules")


def check_command(
    path: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Default: rules.toml in NEXTBEST_HOME.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Tell what each rule of a file does, whom it concerns, and how many products of the live bundle."""
    settings = Settings.load()
    path = asked(path, settings.rules)
    recommender = open_live(settings, rules=path)
    assert recommender.rules is not None
    rows = described(recommender.rules, recommender.bundle.catalog)
    if as_json:
        told = {"bundle": recommender.bundle.tag, "digest": recommender.rules.digest}
        typer.echo(json.dumps({**told, "rules": [asdict(row) for row in rows]}, ensure_ascii=False))
        return
    table = Table("kind", "rule", "what it does", "whom it concerns")
    table.add_column("products", justify="right")
    for row in rows:
        table.add_row(row.kind, row.name, row.does, row.whom, f"{row.products:,}")
    console().print(table)
    typer.echo(f"{len(rows)} rules of {path} hold together with {recommender.bundle.tag}")
