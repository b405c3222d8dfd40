"""``nextbest rules check``: a file of rules against the live bundle, each rule in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from feature_repo import schema as s
from serving.errors import FeatureUnavailable
from serving.recommender import Recommender
from serving.rules.describe import described
from serving.rules.effects import Effects
from serving.settings import Settings
from training.cli.checked import asked
from training.cli.recommend import open_live
from training.cli.tables import console

#: Hard rules are tried on so many customers.
_LOOKED_AT: Final = 200


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
    """Tell what each rule of a file does, whom it concerns, what it comes to now, and what of it has no effect."""
    settings = Settings.load()
    path = asked(path, settings.rules)
    recommender = open_live(settings, rules=path)
    rules, bundle, at = recommender.rules, recommender.bundle, datetime.now(UTC)
    assert rules is not None
    customers, warnings = _some_customers(recommender, at) if rules.reads else ([], [])
    rows = described(rules, bundle, at=at, customers=customers)
    warnings += Effects(rules, bundle, at, customers).together()
    if as_json:
        told = {"bundle": bundle.tag, "digest": rules.digest, "customers": len(customers)}
        told |= {"warnings": warnings, "rules": [asdict(row) for row in rows]}
        typer.echo(json.dumps(told, ensure_ascii=False))
        return
    table = Table("kind", "rule", "what it does", "whom it concerns")
    table.add_column("about", justify="right")
    table.add_column("lets pass", justify="right")
    for row in rows:
        table.add_row(row.kind, row.name, row.does, row.whom, f"{row.products:,}", _band(row.shown))
    console().print(table)
    warnings += [f"{row.name}: {warning}" for row in rows for warning in row.warnings]
    for warning in warnings:
        typer.echo(f"warning: {warning}")
    if customers:
        typer.echo(f"hard rules were tried on {len(customers):,} customers")
    fits = (
        f"fit {bundle.tag}, with {len(warnings):,} warning{'' if len(warnings) == 1 else 's'}"
        if warnings
        else f"hold together with {bundle.tag}"
    )
    typer.echo(f"{len(rows)} rules of {path} {fits}")


def _some_customers(recommender: Recommender, at: datetime) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Return rows of some customers, spread over all, and a warning where they cannot be read."""
    everybody = recommender.bundle.customers[s.CUSTOMER_ID].astype(str)
    some = everybody.iloc[:: max(1, -(-len(everybody) // _LOOKED_AT))].tolist()
    try:
        return [state.row for state in recommender.features.read(some, at)], []
    except FeatureUnavailable as error:
        return [], [f"rules that ask for attributes of customers were not tried: {error}"]


def _band(shown: tuple[int, int] | None) -> str:
    if shown is None:
        return ""
    least, most = shown
    return f"{most:,}" if least == most else f"{least:,}–{most:,}"
