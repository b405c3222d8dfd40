"""``nextbest models``, ``publish`` and ``rollback``: what there is, and what is live."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from serving import golden, live
from serving.bundle import NAME, load, verify
from serving.errors import BundleError, ConfigError, NextbestError
from serving.features import FrameReader
from serving.recommender import Recommender
from serving.settings import Settings
from training.cli.comparison import print_comparison
from training.cli.tables import console
from training.compare import compare as compared
from training.compare import ranker_told


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("models")(models_command)
    app.command("publish")(publish_command)
    app.command("rollback")(rollback_command)


def models_command(
    compare: Annotated[
        tuple[str, str] | None, typer.Option("--compare", metavar="A B", help="Compare two bundles instead.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List published bundles, newest first; the live one is marked. Or compare two of them."""
    settings = Settings.load()
    if compare is not None:
        print_comparison(compared(settings.bundles, *compare), as_json=as_json)
        return
    current = live.Live.read(settings.live).version(settings.slot) if _readable(settings) else None
    found = {path.name for path in settings.bundles.glob("[0-9]*") if path.is_dir()}
    versions = sorted(found | ({current} if current else set()), reverse=True)
    rows = [_described(settings, version, current) for version in versions]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    if not rows:
        typer.echo("no bundle yet; make one with `nextbest train TABLES`")
        return
    table = Table("live", "tag", "model", "data until", "customers", "products", "ranker", "state")
    for row in rows:
        table.add_row("●" if row["live"] else "", *(str(row[name]) for name in tuple(row)[1:]))
    console().print(table)


def _readable(settings: Settings) -> bool:
    """Whether ``live.json`` can be read; bundles are listed all the same, for one of them to be published."""
    try:
        live.Live.read(settings.live)
    except BundleError as error:
        typer.echo(f"warning: {error}", err=True)
        return False
    return True


def _described(settings: Settings, version: str, current: str | None) -> dict[str, Any]:
    row: dict[str, Any] = {"live": version == current, "tag": f"{NAME}:{version}"}
    try:
        manifest = verify(settings.bundles / version, version)
    except BundleError as error:
        return {
            **row,
            "model": "",
            "as_of": "",
            "customers": "",
            "products": "",
            "ranker": "",
            "state": str(error),
        }
    rows = manifest.data.rows
    return {
        **row,
        "model": manifest.policy.model,
        "as_of": f"{manifest.data.as_of:%Y-%m-%d %H:%M}",
        "customers": rows["customers"],
        "products": rows["products"],
        "ranker": ranker_told(manifest.policy),
        "state": "whole",
    }


def publish_command(tag: Annotated[str, typer.Argument(metavar="TAG", help="nextbest:VERSION")]) -> None:
    """Make a bundle live, after verifying and replaying it."""
    settings = Settings.load()
    version = tag.removeprefix(f"{NAME}:")
    if not version or not (settings.bundles / version).is_dir():
        raise ConfigError(f"expected the tag of a published bundle, found {tag!r}; see `nextbest models`")
    golden.replay(Recommender(load(settings.bundles, version), FrameReader({})))
    live.publish(settings.live, settings.slot, version)
    typer.echo(f"live: {NAME}:{version}")


def rollback_command() -> None:
    """Make the bundle before the live one live again."""
    settings = Settings.load()
    held = live.Live.read(settings.live).slots.get(settings.slot)
    if held is not None and held.history:
        before = held.history[-1].partition(":")[2]
        try:
            golden.replay(Recommender(load(settings.bundles, before), FrameReader({})))
        except NextbestError as error:
            raise BundleError(f"not rolled back to {held.history[-1]}: {error}") from error
    gone, now = live.rollback(settings.live, settings.slot)
    typer.echo(f"live: {now} (was {gone})")
