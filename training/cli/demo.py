"""``nextbest demo``: the whole path on a simulated shop, from events to an answer over HTTP."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from eval.world import WorldConfig, simulate
from feature_repo import schema as s
from feature_repo.tables import Tables
from feature_repo.validate import refuse_failed, validate
from serving.errors import ConfigError
from serving.process import check_port, start_service
from serving.settings import Settings
from training.cli.progress import shown
from training.cli.tables import answer, console
from training.cli.train import show
from training.recipe import TrainConfig
from training.train import build_features, one_job, train

#: The folder of a home that tells what the demo's customers like; no other shop has one.
TRUTH: Final = "truth"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("demo")(demo_command)


def demo_command(
    customers: Annotated[
        int, typer.Option(min=50, max=200_000, help="How many customers to simulate.")
    ] = 5000,
    products: Annotated[int, typer.Option(min=50, max=50_000, help="How many products.")] = 800,
    seed: Annotated[int, typer.Option(help="Seed of the simulated shop.")] = 0,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the service.")] = 3000,
    ends_at: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            metavar="DATE",
            help="Midnight (UTC) at which the history ends; default: the last one, so that it ends yesterday.",
        ),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="End after the answers instead of serving on.")
    ] = False,
) -> None:
    """Simulate a shop, build features, train, gate, publish, serve, and ask for recommendations."""
    settings = Settings.load()
    tables = settings.home / "tables"
    now, began = datetime.now(UTC), time.monotonic()
    screen = console()
    _refuse_another_shop(settings)
    check_port("127.0.0.1", port)

    def step(number: int, text: str) -> None:
        screen.print(f"\n{number}/6 {text} ({time.monotonic() - began:.0f} s)", style="bold", markup=False)

    step(1, f"simulate {customers:,} customers × {products:,} products, 18 months")
    world = simulate(
        WorldConfig(customers=customers, products=products, seed=seed, ends_at=_midnight(ends_at, now))
    )
    world.write(tables, truth_dir=settings.home / TRUTH)
    kinds = world.interactions[s.KIND].value_counts()
    screen.print("    " + ", ".join(f"{count:,} {kind}s" for kind, count in kinds.items()))
    known = _active_customer(world.interactions)
    del world

    step(2, "validate the tables")
    found = validate(tables, now=now)
    findings = found.findings
    for finding in findings:
        if finding.status != "PASS":
            screen.print(
                f"    {finding.status} {finding.table}: {finding.check}, {finding.count:,} of {finding.total:,}"
            )
    screen.print(
        f"    {sum(finding.status == 'PASS' for finding in findings)} of {len(findings)} checks pass"
    )
    refuse_failed(found)

    step(3, "build features, register them with Feast, bring them online")
    with one_job(settings), shown() as progress, Tables.open(tables) as opened:
        features, written = build_features(settings, opened, progress=progress)
    rows = ", ".join(f"{count:,} {view}" for view, count in written.items())
    screen.print(f"    {features.snapshots} weekly snapshots; online: {rows}")

    step(4, "train, gate, refit, publish")
    with one_job(settings), shown() as progress:
        report = train(settings, tables, TrainConfig.default(), now=datetime.now(UTC), progress=progress)
    told = report.to_json()
    show(told["backtest"])
    screen.print(f"{told['reason']}\npublished {told['published']}", markup=False)

    step(5, "serve and ask over HTTP")
    with start_service(settings, port=port, workers=1) as url:
        for customer, who in ((known, "a known customer"), ("somebody-new", "an unknown customer")):
            body = {"customer_id": customer, "n": 5}
            given = _post(f"{url}/v1/recommend", body)
            screen.print(f"POST /v1/recommend {json.dumps(body)}  ({who})", markup=False)
            screen.print(answer(given["recommendations"]))
        step(6, "where to look next")
        command = Path(sys.argv[0])
        command = command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command
        body_text = json.dumps({"customer_id": known})
        for line in (
            f"tables, features, bundles and reports: {settings.home}",
            f"in the terminal: {command} recommend {known} · {command} models · {command} evaluate {tables}",
            f"over HTTP, while `{command} serve --port {port}` runs:",
            f"  curl -s {url}/v1/recommend -H 'content-type: application/json' -d '{body_text}'",
            f"the API: {url}/v1/openapi.json",
            "your own shop: README, “Bring your own shop”",
        ):
            screen.print(f"    {line}", markup=False, soft_wrap=True)
        if not once:
            screen.print(f"\nserving on {url}; Ctrl-C ends it", markup=False)
            _wait()


def _refuse_another_shop(settings: Settings) -> None:
    """Raise ``ConfigError`` where the home holds a shop that is not the demo's."""
    held = [path for path in (settings.home / "tables", settings.live) if path.exists()]
    if held and not (settings.home / TRUTH).exists():
        raise ConfigError(
            f"expected a home without another shop, found {held[0]}; give the demo a directory of its own "
            "(NEXTBEST_HOME=…)"
        )


def _midnight(asked: datetime | None, now: datetime) -> datetime:
    """Return where the history ends: what was asked for, else the last midnight, so that refreshes go on from it.

    Raises
    ------
    ConfigError
        It is yet to come: nothing can be told after it.
    """
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    end = midnight if asked is None else asked.replace(tzinfo=UTC)
    if end > midnight:
        raise ConfigError(
            f"expected --ends-at up to {midnight:%Y-%m-%d}, found {end:%Y-%m-%d}; give an earlier day"
        )
    return end


def _active_customer(interactions: Any) -> str:
    """Return the customer with the most purchases among those active in the last month."""
    last = interactions[s.AT].max()
    lately = interactions[(last - interactions[s.AT]).dt.days < 30]
    bought = lately.loc[lately[s.KIND] == s.PURCHASE, s.CUSTOMER_ID]
    return str(bought.value_counts().sort_index().idxmax())


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        url, data=json.dumps(body).encode(), headers={"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        given: dict[str, Any] = json.loads(response.read())
    return given


def _wait() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return
