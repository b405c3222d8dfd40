"""The tables of the page: leaderboards, slices, published figures, examples, drift, the model card.

Every number is one of ``results.json``, written for people.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from eval.evaluate import ALL
from eval.metrics import F1, HR, MAP, MRR, NDCG, PRECISION, RECALL
from eval.report.look import (
    TITLES,
    Look,
    interval,
    mean,
    number,
    p_value,
    percent,
    pooled_scores,
)
from eval.report.svg import Range, ranges
from eval.results import CandidateScore, Estimate, Group, ListScore, OwnGroup, RecipeInfo, Results
from eval.scorecard import AUC
from eval.slices import STANDING
from serving.recommender import PurchasedPolicy

_SMALL: Final = 50  # judged rows below which an interval is not to be trusted
_WHERE: Final[dict[PurchasedPolicy, str]] = {
    "exclude": "where only what is new to the customer counts",
    "allow": "where products bought before may be shown",
    "due": "where products bought before are shown when due",
}
_GROUPS: Final[dict[Group, str]] = {
    "all": "all",
    "new": "new: nothing bought before",
    "new with measures": "with measures",
    "new without measures": "without measures",
    "existing": "existing",
}
_EXPLAINED: Final[dict[PurchasedPolicy, str]] = {
    "exclude": "Products the customer bought before are neither shown nor counted.",
    "allow": "Everything may be shown, and every purchase counts, repeats too.",
    "due": "Products bought before are shown when they are due again.",
}


def boards(results: Results, look: Look) -> list[dict[str, Any]]:
    """Return a leaderboard for each purchased policy."""
    k, told = results.setting.k, []
    lacking = {recipe.name for recipe in results.recipes if recipe.unranked}
    for policy in results.policies:
        multiples = results.multiples(policy)
        beyond = {row.recipe: row for row in results.beyond if row.purchased == policy}
        rows = sorted(pooled_scores(results, policy, look), key=lambda row: -row.metrics[NDCG].mean)
        chart = ranges(
            [
                Range(
                    row.recipe,
                    row.metrics[NDCG].low,
                    row.metrics[NDCG].mean,
                    row.metrics[NDCG].high,
                    look.colour[row.recipe],
                    strong=row.recipe == look.winner,
                )
                for row in rows
            ],
            label=f"NDCG@{k} of each recipe with its 95 % interval: "
            + "; ".join(f"{row.recipe} {interval(row.metrics[NDCG])}" for row in rows),
            told=lambda one: f"{one.mean:.4f}  [{one.low:.4f}, {one.high:.4f}]",
        )
        table = [
            {
                "recipe": row.recipe,
                "is_winner": row.recipe == look.winner,
                "cells": [
                    mean(row.metrics.get(NDCG)),
                    _percents(row.metrics.get(HR)),
                    mean(row.metrics.get(MRR), 3),
                    mean(row.metrics.get(PRECISION)),
                    mean(row.metrics.get(RECALL)),
                    mean(row.metrics.get(F1)),
                    mean(row.metrics.get(MAP)),
                    mean(row.metrics.get(AUC), 3),
                    "–" if (own := multiples.get(row.recipe)) is None else f"{interval(own, 2)} ×",
                    percent(beyond[row.recipe].coverage),
                ],
            }
            for row in rows
        ]
        told.append(
            {
                "title": TITLES[policy],
                "note": f"{_EXPLAINED[policy]} {rows[0].customers:,} customers, judged {rows[0].rows:,} times."
                f"{_alike(rows, lacking)}",
                "chart": chart,
                "rows": table,
                "differences": _differences(results, policy, rows[0].recipe),
                "disagree": disagreeing(results, policy, rows[0].recipe),
                "best": rows[0].recipe,
            }
        )
    return told


def unranked(results: Results) -> list[dict[str, Any]]:
    """Return the recipes that were judged without their ranker: where, and why."""
    return [
        {
            "recipe": recipe.name,
            "count": len(recipe.unranked),
            "origins": [{"at": f"{one.at:%Y-%m-%d}", "why": one.why} for one in recipe.unranked],
        }
        for recipe in results.recipes
        if recipe.unranked
    ]


def _alike(rows: Sequence[ListScore], lacking: Collection[str]) -> str:
    """Say which recipes show the same, and why; an expert rule without categories is popularity."""
    groups: dict[tuple[float, ...], list[str]] = {}
    for row in rows:
        key = tuple(row.metrics[metric].mean for metric in (NDCG, HR, MRR, RECALL, MAP))
        groups.setdefault(key, []).append(row.recipe)
    told = ""
    for names in (names for names in groups.values() if len(names) > 1):
        without = " and ".join(name for name in names if name in lacking)
        told += f" {' and '.join(names)} show the same{f', {without} without its ranker' if without else ''}."
    return told


def _percents(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    return f"{percent(estimate.mean)} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _differences(results: Results, policy: PurchasedPolicy, best: str) -> list[dict[str, str]]:
    """Return how far the best recipe is above each other one."""
    found = []
    for row in results.comparisons:
        if row.purchased == policy and row.metric == NDCG and best in (row.better, row.worse):
            other = row.worse if row.better == best else row.better
            sign = 1 if row.better == best else -1
            ends = sorted((sign * row.difference.low, sign * row.difference.high))
            found.append(
                {
                    "other": other,
                    "difference": f"{sign * row.difference.mean:+.4f}",
                    "ends": f"[{ends[0]:+.4f}, {ends[1]:+.4f}]",
                    "p": p_value(row.p_holm),
                    "word": "surely better" if row.p_holm < 0.05 else "could be chance",
                }
            )
    return found


def disagreeing(results: Results, policy: PurchasedPolicy, best: str) -> str:
    """Return why intervals and p-values beside ``best`` differ, in one sentence; nothing where they do not."""
    names = [
        row.worse if row.better == best else row.better
        for row in results.comparisons
        if row.purchased == policy
        and row.metric == NDCG
        and best in (row.better, row.worse)
        and row.disagrees
    ]
    if not names:
        return ""
    return (
        f"Against {' and '.join(names)} interval and p differ on whether it could be chance: the interval is of that "
        "pair alone, p is corrected for all pairs of recipes, and the verdict goes by p."
    )


def slices(results: Results, look: Look) -> list[dict[str, Any]]:
    """Return NDCG by slice, one table a purchased policy: recipes side by side, the best one marked."""
    shown = look.drawn
    tables = []
    for policy in results.policies:
        held: dict[tuple[str, str], dict[str, ListScore]] = {}
        for row in results.lists:
            if row.purchased == policy and row.at is None and row.dimension != ALL and row.recipe in shown:
                held.setdefault((row.dimension, row.value), {})[row.recipe] = row
        rows, last = [], None
        for (dimension, value), by_recipe in held.items():
            best = max(one.metrics[NDCG].mean for one in by_recipe.values())
            some = next(iter(by_recipe.values()))
            rows.append(
                {
                    "dimension": dimension if dimension != last else "",
                    "value": value,
                    "rows": some.rows,
                    "is_small": some.rows < _SMALL,
                    "cells": [
                        {
                            "recipe": name,
                            "text": mean(by_recipe[name].metrics.get(NDCG), 3) if name in by_recipe else "–",
                            "is_best": name in by_recipe
                            and by_recipe[name].metrics[NDCG].mean >= best - 5e-7,
                        }
                        for name in shown
                    ],
                }
            )
            last = dimension
        tables.append({"title": TITLES[policy], "recipes": shown, "rows": rows})
    return tables


def published(results: Results, look: Look) -> dict[str, Any]:
    """Return the published table beside ours: recipes by group, and the winner's own figures group by group."""
    held = results.beside_published
    groups = [one.group for one in held.published]
    policy: PurchasedPolicy = "allow" if "allow" in results.policies else results.policies[0]
    rows: list[dict[str, Any]] = [
        {
            "who": "published by a bank",
            "cells": [
                {"auc": number(one.auc, 2), "logloss": number(one.logloss, 2), "mrr": number(one.mrr, 2)}
                for one in held.published
            ],
            "is_theirs": True,
        }
    ]
    for name in look.drawn:
        cells = []
        for group in groups:
            one = next(
                (c for c in results.candidates if (c.recipe, c.value, c.at) == (name, group, None)), None
            )
            part = (
                results.score(name, policy)
                if group == ALL
                else results.score(name, policy, dimension=STANDING, value=group)
            )
            cells.append(
                {
                    "auc": _area(one, None if part is None else part.metrics.get(AUC)),
                    "logloss": "–" if one is None or one.logloss is None else mean(one.logloss, 4),
                    "mrr": "–" if part is None else mean(part.metrics.get(MRR), 2),
                }
            )
        rows.append({"who": name, "cells": cells, "is_theirs": False})
    own = [_own(one) for one in held.ours if one.purchased == policy]
    success = [
        (one.purchased, one.times_expert) for one in held.ours if one.group == ALL and one.times_expert
    ]
    return {
        "groups": groups,
        "rows": rows,
        "own": own,
        "own_title": TITLES[policy].lower(),
        "marked": any("*" in cell["auc"] for row in rows for cell in row["cells"])
        or any("*" in cell for row in own for cell in row["cells"]),
        "why": held.why,
        "success": [
            {"title": _WHERE[purchased], "multiple": f"{interval(multiple, 2)} ×"}
            for purchased, multiple in success
        ],
        "most": f"{held.published_times_expert:g}",
        "k": held.k,
    }


def _area(pairs: CandidateScore | OwnGroup | None, within: Estimate | None) -> str:
    """Write the AUC of all pairs; where too few such customers were known beforehand, with * that within customers."""
    asked = 0 if pairs is None else pairs.asked if isinstance(pairs, OwnGroup) else pairs.rows
    area = None if pairs is None or asked < _SMALL else pairs.auc
    return mean(area or within, 2) + ("*" if area is None and within is not None else "")


def _own(one: OwnGroup) -> dict[str, Any]:
    """Return the row of a group of customers."""
    return {
        "group": _GROUPS[one.group],
        "is_part": one.group not in ("all", "new", "existing"),
        "is_small": one.rows < _SMALL,
        "rows": one.rows,
        "cells": [
            _area(one, one.auc_within),
            mean(one.logloss, 4),
            "–" if one.logloss_constant is None else number(one.logloss_constant, 4),
            f"1 in {1 / one.base_rate:,.0f}" if one.base_rate else "–",
            mean(one.mrr, 2),
            mean(one.precision, 3),
            mean(one.recall, 3),
            mean(one.f1, 3),
            "–" if one.hr is None else percent(one.hr.mean),
            "–" if one.times_expert is None else f"{interval(one.times_expert, 2)} ×",
        ],
    }


def examples(results: Results, look: Look) -> list[dict[str, Any]]:
    """Return the examples; recipes that show a customer the same are told together."""
    told = []
    for example in results.examples:
        lists: dict[tuple[str, ...], list[str]] = {}
        for name in look.drawn:
            if name in example.shown:
                lists.setdefault(tuple(one.product_id for one in example.shown[name]), []).append(name)
        told.append(
            {
                "example": example,
                "lists": [
                    {"recipes": ", ".join(names), "products": example.shown[names[0]]}
                    for names in lists.values()
                ],
            }
        )
    return told


def drift(results: Results) -> dict[str, Any] | None:
    """Return what moved since the previous report; None where there is none."""
    if results.drift is None:
        return None
    held = results.drift
    moved = [shift for shift in held.shifts if shift.verdict != "stable"]
    return {
        "when": f"{held.made_at:%Y-%m-%d %H:%M}",
        "previous": held.previous,
        "same_tables": held.same_tables,
        "metrics": [
            {
                "policy": TITLES[row.purchased].lower(),
                "recipe": row.recipe,
                "metric": {NDCG: f"NDCG@{results.setting.k}", HR: "customers with a hit", AUC: "AUC"}[
                    row.metric
                ],
                "then": mean(row.then),
                "now": mean(row.now),
                "delta": f"{row.now.mean - row.then.mean:+.4f}",
            }
            for row in held.metrics
            if row.metric == NDCG
        ],
        "moved": [
            {"column": shift.column, "psi": number(shift.psi, 3), "verdict": shift.verdict} for shift in moved
        ],
        "compared": len(held.shifts),
    }


def card(results: Results) -> dict[str, Any]:
    """Return the model card of the winner."""
    winner = _winner(results)
    settings = {
        key: value
        for key, value in winner.recipe.items()
        if key in ("popularity_days", "repeat_weight", "ranker") or key == winner.model
    }
    last = results.origins[-1]
    return {
        "name": winner.name,
        "model": winner.model,
        "settings": settings,
        "baseline": winner.baseline,
        "chance_days": winner.chance_days,
        "fit_seconds": number(winner.fit_seconds, 1),
        "customers": last.known_customers,
        "products": last.products_on_sale,
    }


def _winner(results: Results) -> RecipeInfo:
    return next(recipe for recipe in results.recipes if recipe.name == results.verdict.winner)
