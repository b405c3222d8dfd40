"""How results are shown in a terminal: one table for all models, one for an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from eval.evaluate import ALL, EXISTING, NEW


def console() -> Console:
    """Return the console for results; wide enough not to fold tables when piped."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=140)


def leaderboard(backtest: dict[str, Any]) -> Table:
    """Return the models of a backtest with intervals, by purchased policy."""
    first = backtest["results"][0]
    k = first["k"]
    table = Table(
        title=f"Full-catalogue ranking: trained before {backtest['train_before'][:10]}, judged on purchases until "
        f"{backtest['judged_until'][:10]} (95 % bootstrap intervals over customers)",
        title_justify="left",
    )
    table.add_column("purchased")
    table.add_column("products")
    table.add_column("model")
    for column in (f"recall@{k}", f"NDCG@{k}", f"MRR@{k}", "NDCG existing", "NDCG new", "coverage"):
        table.add_column(column, justify="right")
    last = None
    for result in backtest["results"]:
        part = (result["purchased"], result["products"])
        if last not in (None, part):
            table.add_section()
        last = part
        slices = result["slices"]
        table.add_row(
            *part,
            result["model"],
            *(_interval(slices[ALL].get(metric)) for metric in ("recall", "ndcg", "mrr")),
            *(_mean(slices[which].get("ndcg")) for which in (EXISTING, NEW)),
            f"{result['beyond_accuracy']['coverage']:.2f}",
        )
    return table


def differences(backtest: dict[str, Any]) -> list[str]:
    """Return one sentence for each model and metric against the stronger baseline."""
    k = backtest["results"][0]["k"]
    sentences = []
    for row in backtest["against_stronger_baseline"]:
        label = {"recall": f"recall@{k}", "ndcg": f"NDCG@{k}"}[row["metric"]]
        sentences.append(
            f"purchased={row['purchased']}: {row['model']} − {row['stronger_baseline']} in {label} = "
            f"{row['mean']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
        )
    return sentences


def answer(items: Sequence[dict[str, Any]]) -> Table:
    """Return an answer of the service as a table."""
    table = Table()
    for column in ("rank", "product", "name", "score", "source", "reason"):
        table.add_column(column, justify="right" if column in ("rank", "score") else "left")
    for item in items:
        reason = item["reason"]
        about = reason.get("product_id") or reason.get("segment") or ""
        table.add_row(
            str(item["rank"]),
            item["product_id"],
            item["name"] or "",
            f"{item['score']:.3f}",
            item["source"],
            f"{reason['code']} {about}".strip(),
        )
    return table


def _interval(told: dict[str, float] | None) -> str:
    if told is None:
        return "–"
    mean, low, high = (_plain(told[end], digits) for end, digits in (("mean", 4), ("low", 3), ("high", 3)))
    return f"{mean} [{low}, {high}]"


def _mean(told: dict[str, float] | None) -> str:
    return "–" if told is None else _plain(told["mean"], 4)


def _plain(value: float, digits: int) -> str:
    """Write a number below one without its leading zero, as tables of rankings do."""
    return f"{value:.{digits}f}".removeprefix("0")
