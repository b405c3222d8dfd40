"""``nextbest features``: build snapshots, register them with Feast, bring the newest online."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from feature_repo.build import EngineOf
from feature_repo.engine import DuckDBEngine
from feature_repo.export import DEFINITIONS, export_features
from feature_repo.tables import Tables
from feature_repo.validate import refuse_failed, validate
from serving.errors import ConfigError
from serving.settings import Settings
from training.cli.progress import shown
from training.train import build_features, one_job


class EngineName(StrEnum):
    """What evaluates the features."""

    DUCKDB = "duckdb"
    SPARK = "spark"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("features")(features_command)


def features_command(
    tables: Annotated[Path, typer.Argument(metavar="TABLES", help="Directory of the tables.")],
    as_of: Annotated[
        str | None, typer.Option(metavar="T", help="Knowledge cut-off, ISO 8601; default: all data.")
    ] = None,
    engine: Annotated[
        EngineName, typer.Option(help="What evaluates the features; spark needs its extra and Java 17.")
    ] = EngineName.DUCKDB,
    memory: Annotated[
        str, typer.Option(metavar="SIZE", help="What DuckDB may hold in memory; more goes to disk.")
    ] = "2GB",
    csv: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write the newest features as CSV for spreadsheets."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Build the features of customers and products and materialise the newest."""
    settings = Settings.load()
    sound(tables)
    limit = memory_limit(memory)
    with (
        one_job(settings),
        Tables.open(tables, memory_limit=limit) as opened,
        shown(quiet=as_json) as progress,
    ):
        features, written = build_features(
            settings,
            opened,
            as_of=None if as_of is None else instant(as_of),
            engine=engine_of(engine),
            progress=progress,
        )
        if csv is not None:
            export_features(features, opened, csv)
    result = {"as_of": features.as_of.isoformat(), "offline_rows": features.rows, "online_rows": written}
    if as_json:
        typer.echo(json.dumps(result))
    else:
        typer.echo(
            f"{features.snapshots} snapshots, one each {features.cadence_days} days, up to "
            f"{features.as_of:%Y-%m-%d %H:%M} in {features.directory}"
        )
        for view, rows in features.rows.items():
            typer.echo(f"  {view}: {rows:,} rows offline, {written.get(view, 0):,} online")
        if csv is not None:
            typer.echo(f"{csv} holds the newest as CSV, and what each column means in {DEFINITIONS}")


def memory_limit(size: str) -> str:
    """Return a size such as ``4GB`` as DuckDB takes it.

    Raises
    ------
    ConfigError
        It is no such size.
    """
    if not re.fullmatch(r"[1-9]\d*\s*(MB|MiB|GB|GiB)", size):
        raise ConfigError(f"expected a size such as 512MB or 4GB, found {size!r}; correct --memory")
    return size


def engine_of(name: EngineName) -> EngineOf:
    """Return what makes the engine called ``name``."""
    if name is EngineName.DUCKDB:
        return DuckDBEngine
    from feature_repo.spark_engine import SparkEngine

    return SparkEngine


def instant(text: str, option: str = "--as-of") -> datetime:
    """Parse an ISO 8601 instant; without an offset it is UTC.

    Raises
    ------
    ConfigError
        It is no such instant.
    """
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"expected an instant such as 2026-01-31T00:00, found {text!r}; correct {option}"
        ) from error
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)


def sound(directory: Path) -> None:
    """Refuse tables that fail validation; tell in one line, on standard error, that some checks warn.

    Raises
    ------
    DataError
        A check fails; its finding is told.
    """
    found = validate(directory, now=datetime.now(UTC))
    refuse_failed(found)
    if found.counts["WARN"]:
        typer.echo(counted(found.counts, directory), err=True)


def counted(counts: Mapping[str, int], directory: Path | str) -> str:
    """Return how many checks of tables passed, warned and failed, and where that is told at length."""
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    rows = f"; `nextbest validate {directory}` shows rows" if counts["WARN"] or counts["FAIL"] else ""
    return f"checks of the tables: {told}{rows}"
