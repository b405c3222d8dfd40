"""How results are shown in a terminal: one table for all models, one for an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from eval.evaluate import ALL, EXISTING, NEW
from eval.metrics import HR, MRR, NDCG
from eval.results import Estimate, Results
from eval.scorecard import AUC
from eval.slices import STANDING
from serving.recommender import PurchasedPolicy
from serving.trace import Trace


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
    for column in (
        "customers",
        f"recall@{k}",
        f"NDCG@{k}",
        f"MRR@{k}",
        "NDCG existing",
        "NDCG new",
        "coverage",
    ):
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
            f"{slices[ALL]['customers']:,}",
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


def rolling_leaderboard(results: Results, policy: PurchasedPolicy) -> Table:
    """Return the recipes of a rolling evaluation under a purchased policy, best first, with intervals."""
    k, origins = results.setting.k, results.origins
    table = Table(
        title=f"{len(origins)} origins from {origins[0].at:%Y-%m-%d}, each judged by the "
        f"{results.setting.horizon_days} days after it, purchased={policy} (95 % bootstrap intervals over customers)",
        title_justify="left",
    )
    table.add_column("recipe")
    columns = (f"NDCG@{k}", f"HR@{k}", f"MRR@{k}", "AUC", "NDCG existing", "NDCG new", "× expert", "coverage")
    for column in columns:
        table.add_column(column, justify="right")
    multiples = results.multiples(policy)
    beyond = {row.recipe: row for row in results.beyond if row.purchased == policy}
    rows = [row for recipe in results.recipes if (row := results.score(recipe.name, policy)) is not None]
    for row in sorted(rows, key=lambda row: -row.metrics[NDCG].mean):
        parts = [
            results.score(row.recipe, policy, dimension=STANDING, value=value) for value in (EXISTING, NEW)
        ]
        multiple = multiples.get(row.recipe)
        table.add_row(
            row.recipe,
            _interval(_ends(row.metrics.get(NDCG))),
            *(_mean(_ends(row.metrics.get(metric))) for metric in (HR, MRR, AUC)),
            *(_mean(None if part is None else _ends(part.metrics.get(NDCG))) for part in parts),
            "–" if multiple is None else f"{multiple.mean:.2f}",
            f"{beyond[row.recipe].coverage:.2f}",
        )
    return table


def comparisons(results: Results) -> list[str]:
    """Return one sentence for each recipe that the winner is compared with in NDCG."""
    return [
        f"purchased={row.purchased}: {row.better} − {row.worse} in NDCG@{results.setting.k} = "
        f"{row.difference.mean:+.4f} [{row.difference.low:+.4f}, {row.difference.high:+.4f}], "
        f"corrected p {row.p_holm:.2g}"
        for row in results.comparisons
        if row.metric == NDCG and results.verdict.winner in (row.better, row.worse)
    ]


def _ends(estimate: Estimate | None) -> dict[str, float] | None:
    return None if estimate is None else estimate.model_dump()


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


def traced_table(told: Trace) -> Table:
    """Return the products of a trace as a table: those of the answer, then the other candidates."""
    table = Table()
    for column in ("rank", "candidate", "product", "name", "score", "source", "propensity", "what rules did"):
        table.add_column(column, justify="right" if column in ("rank", "candidate", "score") else "left")
    is_shown = True
    for item in told.products:
        if is_shown and item.rank is None:
            table.add_section()
            is_shown = False
        did = [f"dropped by {name}" for name in item.dropped_by]
        did += [f"{move.rule}: {_rank(move.before)} → {_rank(move.after)}" for move in item.moves]
        table.add_row(
            _rank(item.rank),
            _rank(item.candidate),
            item.product_id,
            item.name or "",
            "" if item.score is None else f"{item.score:.3f}",
            item.source or "",
            "" if item.propensity is None else f"{item.propensity:.4g}",
            "; ".join(did),
        )
    return table


def _rank(rank: int | None) -> str:
    return "–" if rank is None else str(rank)


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
