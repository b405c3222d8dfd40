"""Two bundles side by side in a terminal; what is compared is in ``training.compare``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import typer
from rich.table import Table

from training.cli.tables import console


def print_comparison(told: dict[str, Any], *, as_json: bool) -> None:
    """Print what ``training.compare.compare`` found."""
    if as_json:
        typer.echo(json.dumps(told))
        return
    screen = console()
    table = Table("", "A", "B")
    for row in _facts(told):
        table.add_row(*(str(value) for value in row))
    screen.print(table)
    for window in told["metrics"]:
        screen.print(_measured(window))
    screen.print(told["comparable"], markup=False, soft_wrap=True)


def _facts(told: dict[str, Any]) -> Iterator[tuple[Any, Any, Any]]:
    a, b = told["a"], told["b"]
    for name in ("tag", "model", "ranker", "created_at", "code_version", "seed"):
        yield name, a[name], b[name]
    yield "data until", a["data"]["as_of"], b["data"]["as_of"]
    for name in sorted(a["data"]["rows"].keys() | b["data"]["rows"].keys()):
        yield name, f"{a['data']['rows'].get(name, 0):,}", f"{b['data']['rows'].get(name, 0):,}"
    yield (
        "tables",
        a["data"]["tables_hash"][:12],
        "the same" if told["same_data"] else b["data"]["tables_hash"][:12],
    )
    for name in sorted(a["index"].keys() | b["index"].keys()):
        yield f"index: {name}", a["index"].get(name, ""), b["index"].get(name, "")
    yield "bytes", f"{a['bytes']['all']:,}", f"{b['bytes']['all']:,}"
    for path, (mine, theirs) in told["recipe"].items():
        yield f"recipe: {path}", mine, theirs
    if not told["recipe"]:
        yield "recipe", "the same", "the same"


def _measured(window: dict[str, Any]) -> Table:
    table = Table(
        title=f"Fitted before {window['train_before'][:10]}, judged until {window['judged_until'][:10]} "
        f"(the backtest of {window['of']})",
        title_justify="left",
    )
    for name in ("purchased", "products", "slice", "metric"):
        table.add_column(name)
    for name in ("customers", "A", "B", "B − A"):
        table.add_column(name, justify="right")
    last = None
    for row in window["rows"]:
        part = (row["purchased"], row["products"])
        if last not in (None, part):
            table.add_section()
        last = part
        numbers = (f"{row['customers']:,}", f"{row['a']:.4f}", f"{row['b']:.4f}", f"{row['difference']:+.4f}")
        table.add_row(*part, row["slice"], row["metric"], *numbers)
    return table
