"""``nextbest recommend CUSTOMER_ID``: one answer in the terminal, from what is live."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated

import typer

from feature_repo.store import open_store
from serving import golden
from serving.bundle import load
from serving.errors import ConfigError
from serving.live import Live
from serving.recommender import MAX_N, Query, Recommender, described
from serving.settings import Settings
from training.cli.tables import answer, console


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("recommend")(recommend_command)


def recommend_command(
    customer_id: Annotated[str, typer.Argument(metavar="CUSTOMER_ID")],
    n: Annotated[int, typer.Option("-n", min=1, max=MAX_N, help="How many products.")] = 10,
    purchased: Annotated[
        str, typer.Option(help="exclude, allow or due: products bought before.")
    ] = "exclude",
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show what the live bundle recommends to one customer."""
    if purchased not in ("exclude", "allow", "due"):
        raise ConfigError(f"expected --purchased exclude, allow or due, found {purchased!r}; choose one")
    if not customer_id.strip():
        raise ConfigError("expected a CUSTOMER_ID, found nothing; name one")
    settings = Settings.load()
    recommender = open_live(settings)
    query = Query(at=datetime.now(UTC), customer_id=customer_id, n=n, purchased=purchased)  # type: ignore[arg-type]
    result = recommender.recommend([query])[0]
    if recommender.degraded:
        typer.echo("warning: the online store did not answer; shown without recent history", err=True)
    items = [described(item) for item in result.items]
    if as_json:
        told = {"customer_id": customer_id, "bundle": recommender.bundle.tag, "recommendations": items}
        typer.echo(json.dumps(told, ensure_ascii=False))
        return
    screen = console()
    screen.print(f"{customer_id}, by {recommender.bundle.tag}", markup=False)
    screen.print(answer(items) if items else "nothing on sale passes: try --purchased allow")


def open_live(settings: Settings) -> Recommender:
    """Return the verified recommender of the live bundle with the online store.

    Raises
    ------
    ConfigError
        Nothing is live.
    """
    from serving.online import OnlineReader  # Feast takes seconds to import

    version = Live.read(settings.live).version(settings.slot)
    if version is None:
        raise ConfigError(
            f"expected a live bundle in {settings.live}, found none; run `nextbest train TABLES`"
        )
    bundle = load(settings.bundles, version)
    reader = OnlineReader(
        open_store(settings.store, offline=False),
        service=bundle.manifest.feature_service,
        schema_hash=bundle.manifest.feature_schema_hash,
        defaults=bundle.manifest.feature_defaults,
        timeout_ms=max(settings.feature_timeout_ms, 2000.0),  # a person waits; the service does not
    )
    recommender = Recommender(bundle, reader)
    golden.replay(recommender)
    return recommender
