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
from serving.rules import load_rules
from serving.settings import Settings
from serving.trace import trace
from training.cli.progress import shown
from training.cli.tables import answer, console, traced_table

#: How long reading a chunk of customers may take where nobody waits for the answer.
_PATIENCE_MS: Final = 60_000.0
_REPAIR: Final = "`nextbest features TABLES` makes it anew, from the tables and the event log"


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
    rules: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Answer under these rules. Default: rules.toml in NEXTBEST_HOME, as the service.",
        ),
    ] = None,
    surface: Annotated[str | None, typer.Option(help="Where it is shown, for rules.")] = None,
    request_id: Annotated[
        str | None, typer.Option(help="Seeds what rules explore; nothing is explored without.")
    ] = None,
    traced: Annotated[
        bool, typer.Option("--trace", help="Tell how the answer came about, rule by rule.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show what the live bundle recommends to one customer, or write it for all."""
    policy = _policy(purchased)
    rules = _live_rules() if rules is None else rules
    if everybody:
        if customer_id is not None:
            raise ConfigError(
                f"expected a CUSTOMER_ID or --all, found {customer_id!r} and --all; leave out one"
            )
        if traced:
            raise ConfigError("expected --trace with a CUSTOMER_ID, found it with --all; leave out one")
        if to is None:
            raise ConfigError("expected --to DIR with --all, found none; name the directory to write")
        _write_all(to, n, policy, rules=rules, as_json=as_json)
        return
    if to is not None:
        raise ConfigError(f"expected --all with --to, found only --to {to}; add --all or leave out --to")
    if customer_id is None or not customer_id.strip():
        raise ConfigError(
            "expected a CUSTOMER_ID or --all, found nothing; name a customer, or add --all --to DIR"
        )
    query = Query(
        at=datetime.now(UTC),
        customer_id=customer_id,
        n=n,
        purchased=policy,
        surface=surface,
        request_id=request_id,
    )
    if traced:
        _show_trace(query, rules=rules, as_json=as_json)
    else:
        _show_one(query, rules=rules, as_json=as_json)


def _policy(purchased: str) -> PurchasedPolicy:
    for policy in get_args(PurchasedPolicy):
        if purchased == policy:
            return cast(PurchasedPolicy, policy)
    raise ConfigError(f"expected --purchased exclude, allow or due, found {purchased!r}; choose one")


def _live_rules() -> Path | None:
    path = Settings.load().rules
    return path if path.exists() else None


def _show_one(query: Query, *, rules: Path | None, as_json: bool) -> None:
    recommender = open_live(Settings.load(), rules=rules)
    result = recommender.recommend([query])[0]
    _warn_of_degraded(recommender, is_unread=result.degraded)
    items = [described(item) for item in result.items]
    if as_json:
        told = {"customer_id": query.customer_id, "bundle": recommender.bundle.tag, "recommendations": items}
        typer.echo(json.dumps(told, ensure_ascii=False))
        return
    screen = console()
    screen.print(f"{query.customer_id}, by {recommender.bundle.tag}", markup=False)
    screen.print(answer(items) if items else "nothing on sale passes: try --purchased allow")


def _show_trace(query: Query, *, rules: Path | None, as_json: bool) -> None:
    recommender = open_live(Settings.load(), rules=rules)
    state = recommender.states([query])[0]
    told = trace(recommender, query, state)
    _warn_of_degraded(recommender, is_unread=state.unread)
    if as_json:
        typer.echo(json.dumps(told.to_json(), ensure_ascii=False))
        return
    screen = console()
    screen.print(f"{query.customer_id}, by {told.bundle}", markup=False)
    for what, names in (("hard rules", told.hard), ("soft rules", told.soft), ("gave way", told.gave_way)):
        screen.print(f"{what}: {'; '.join(names) or 'none'}", markup=False)
    screen.print(traced_table(told))


def _warn_of_degraded(recommender: Recommender, *, is_unread: bool) -> None:
    if recommender.degraded["damaged"] or (is_unread and not recommender.degraded["features"]):
        what = (
            "the online store is"
            if recommender.degraded["damaged"]
            else "what the online store has of them is"
        )
        typer.echo(f"warning: {what} damaged; shown without recent history; {_REPAIR}", err=True)
    elif is_unread:
        typer.echo("warning: the online store did not answer; shown without recent history", err=True)


def _write_all(
    directory: Path, n: int, purchased: PurchasedPolicy, *, rules: Path | None, as_json: bool
) -> None:
    recommender = open_live(Settings.load(), timeout_ms=_PATIENCE_MS, rules=rules)
    with shown(quiet=as_json) as progress:
        summary = batch.write(
            recommender, directory, at=datetime.now(UTC), n=n, purchased=purchased, progress=progress
        )
    if summary.without_features and recommender.degraded["damaged"]:
        typer.echo(
            f"warning: the online store is damaged: {summary.without_features:,} customers are without recent "
            f"history; {_REPAIR}",
            err=True,
        )
    elif summary.without_features:
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


def open_live(settings: Settings, *, timeout_ms: float = 2000.0, rules: Path | None = None) -> Recommender:
    """Return the verified recommender of the live bundle with the online store, under the rules of a file.

    A person or a job waits for it, for ``timeout_ms`` at the least; the service does not.

    Raises
    ------
    ConfigError
        Nothing is live, or the rules do not fit it.
    """
    from serving.online import OnlineReader  # Feast takes seconds to import

    version = Live.read(settings.live).version(settings.slot)
    if version is None:
        raise ConfigError(
            f"expected a live bundle in {settings.live}, found none; run `nextbest train TABLES`"
        )
    bundle = load(settings.bundles, version)
    held = None if rules is None else load_rules(rules, bundle)
    reader = OnlineReader(
        open_store(settings.store, offline=False),
        service=bundle.manifest.feature_service,
        schema_hash=bundle.manifest.feature_schema_hash,
        defaults=bundle.manifest.feature_defaults,
        timeout_ms=max(settings.feature_timeout_ms, timeout_ms),
        also=(*bundle.manifest.read, *(() if held is None else held.reads)),
    )
    recommender = Recommender(bundle, reader)
    golden.replay(recommender)  # golden answers are those without rules
    if held is not None and rules is not None:
        try:
            held.check_customers(reader.attributes)
        except ConfigError as error:
            raise ConfigError(f"{error}; correct {rules}") from None
    return recommender.with_rules(held)
