"""``nextbest recommend``: one answer in the terminal, or everybody's as Parquet, from what is live."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, cast, get_args

import typer

from feature_repo.store import open_store
from serving import batch, golden
from serving.bundle import load
from serving.errors import ConfigError
from serving.live import Live
from serving.recommender import MAX_N, PurchasedPolicy, Query, Recommender, described
from serving.settings import Settings
from training.cli.progress import shown
from training.cli.tables import answer, console

#: How long reading a chunk of customers may take where nobody waits for the answer.
_PATIENCE_MS: Final = 60_000.0


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("recommend")(recommend_command)


def recommend_command(
    customer_id: Annotated[str | None, typer.Argument(metavar="CUSTOMER_ID")] = None,
    n: Annotated[int, typer.Option("-n", min=1, max=MAX_N, help="How many products.")] = 10,
    purchased: Annotated[
        str, typer.Option(help="exclude, allow or due: products bought before.")
    ] = "exclude",
    everybody: Annotated[
        bool, typer.Option("--all", help="Every customer of the live bundle, as Parquet files in --to.")
    ] = False,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where --all writes its files; new, empty, or a former result to replace."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show what the live bundle recommends to one customer, or write it for all."""
    policy = _policy(purchased)
    if everybody:
        if customer_id is not None:
            raise ConfigError(
                f"expected a CUSTOMER_ID or --all, found {customer_id!r} and --all; leave out one"
            )
        if to is None:
            raise ConfigError("expected --to DIR with --all, found none; name the directory to write")
        _write_all(to, n, policy, as_json=as_json)
        return
    if to is not None:
        raise ConfigError(f"expected --all with --to, found only --to {to}; add --all or leave out --to")
    if customer_id is None or not customer_id.strip():
        raise ConfigError(
            "expected a CUSTOMER_ID or --all, found nothing; name a customer, or add --all --to DIR"
        )
    _show_one(customer_id, n, policy, as_json=as_json)


def _policy(purchased: str) -> PurchasedPolicy:
    for policy in get_args(PurchasedPolicy):
        if purchased == policy:
            return cast(PurchasedPolicy, policy)
    raise ConfigError(f"expected --purchased exclude, allow or due, found {purchased!r}; choose one")


def _show_one(customer_id: str, n: int, purchased: PurchasedPolicy, *, as_json: bool) -> None:
    recommender = open_live(Settings.load())
    query = Query(at=datetime.now(UTC), customer_id=customer_id, n=n, purchased=purchased)
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


def _write_all(directory: Path, n: int, purchased: PurchasedPolicy, *, as_json: bool) -> None:
    recommender = open_live(Settings.load(), timeout_ms=_PATIENCE_MS)
    with shown(quiet=as_json) as progress:
        summary = batch.write(
            recommender, directory, at=datetime.now(UTC), n=n, purchased=purchased, progress=progress
        )
    if summary.without_features:
        typer.echo(
            f"warning: the online store did not answer for {summary.without_features:,} customers; "
            "theirs are without recent history",
            err=True,
        )
    if as_json:
        typer.echo(json.dumps(summary.to_json()))
        return
    typer.echo(
        f"{summary.customers:,} customers, {summary.rows:,} recommendations by {summary.bundle} "
        f"in {directory}/part-*.parquet ({summary.seconds:.1f} s); {batch.SUMMARY} tells how they were made"
    )


def open_live(settings: Settings, *, timeout_ms: float = 2000.0) -> Recommender:
    """Return the verified recommender of the live bundle with the online store.

    A person or a job waits for it, for ``timeout_ms`` at the least; the service does not.

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
        timeout_ms=max(settings.feature_timeout_ms, timeout_ms),
        also=bundle.manifest.read,
    )
    recommender = Recommender(bundle, reader)
    golden.replay(recommender)
    return recommender
