"""The charts of the page and the tables that go with them: over the origins, gains, calibration, the long tail.

Every number is one of ``results.json``, written for people; nothing is computed here but shares of given counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from eval.metrics import HR, NDCG
from eval.report.look import (
    TITLES,
    Look,
    mean,
    number,
    percent,
    pooled_scores,
)
from eval.report.svg import Line, Part, lines, stacked
from eval.results import Estimate, Results
from eval.rolling import DIVERSITY, NOVELTY, RECALL_NEW, RECALL_REPEATS, REPEATS_SHOWN, TIERS
from eval.scorecard import CONTACTS

_TIER_COLOURS: Final = ("#0072b2", "#7fb3d5", "#e69f00")


def over_origins(results: Results, look: Look) -> list[dict[str, Any]]:
    """Return the metrics at each origin, as lines."""
    at = [origin.at for origin in results.origins]
    ticks = _ticks([f"{instant.day} {instant:%b}" for instant in at])
    charts = []
    for policy in results.policies:
        for metric, name in ((NDCG, f"NDCG@{results.setting.k}"), (HR, "customers with a hit")):
            held = {(row.recipe, row.at): row for row in results.lists if row.purchased == policy and row.at}
            series = []
            for recipe in look.drawn:
                rows = [
                    (i, held[recipe, instant]) for i, instant in enumerate(at) if (recipe, instant) in held
                ]
                known = [(i, row.metrics[metric]) for i, row in rows if metric in row.metrics]
                series.append(
                    Line(
                        recipe,
                        [(float(i), one.mean) for i, one in known],
                        look.colour[recipe],
                        look.dash[recipe],
                        strong=recipe == look.winner,
                        band=[(float(i), one.low, one.high) for i, one in known]
                        if recipe == look.winner
                        else (),
                    )
                )
            charts.append(
                {
                    "title": f"{name}: {TITLES[policy].lower()}",
                    "chart": lines(
                        series,
                        label=f"{name} of each recipe at each origin, {TITLES[policy].lower()}",
                        x_ticks=ticks,
                        y_of=(lambda y: f"{100 * y:.0f} %") if metric == HR else (lambda y: f"{y:g}"),
                    ),
                }
            )
    return charts


def _ticks(names: Sequence[str]) -> list[tuple[float, str]]:
    every = max(-(-len(names) // 5), 1)
    return [(float(i), names[i]) for i in range(0, len(names), every)]


def gains(results: Results, look: Look) -> dict[str, Any]:
    """Return the curves of gains and lift, with what they say in words."""
    held = {row.recipe: row for row in results.gains if row.reached}
    names = [name for name in look.drawn if name in held]
    series = [
        Line(
            name,
            list(zip(CONTACTS, held[name].reached, strict=True)),
            look.colour[name],
            look.dash[name],
            strong=name == look.winner,
        )
        for name in names
    ]
    lifted = [
        Line(
            name,
            [(x, y / x) for x, y in zip(CONTACTS, held[name].reached, strict=True) if 0.01 <= x <= 0.5],
            look.colour[name],
            look.dash[name],
            strong=name == look.winner,
        )
        for name in names
    ]
    ticks = [(x, f"{100 * x:.0f} %") for x in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]
    return {
        "sentence": ""
        if look.winner not in held
        else f"With {look.winner}, {percent(held[look.winner].contacts_for_80, 0)} of contacts reach 80 % of buyers.",
        "curve": lines(
            series,
            label="Share of buyers reached by share of customers contacted",
            x_ticks=ticks,
            y_of=lambda y: f"{100 * y:.0f} %",
            y_max=1.0,
        ),
        "lift": lines(
            lifted,
            label="How many times more buyers than by chance, by share of customers contacted",
            x_ticks=[(x, f"{100 * x:.0f} %") for x in (0.01, 0.1, 0.2, 0.3, 0.4, 0.5)],
            y_of=lambda y: f"{y:g} ×",
        ),
        "rows": [
            {
                "recipe": name,
                "contacts": percent(held[name].contacts_for_80, 0),
                "lift": [f"{value:.1f} ×" for value in held[name].lift.values()],
            }
            for name in names
        ],
        "lifts": list(next(iter(held.values())).lift) if held else [],
        "buyers": f"{max((row.buyers for row in held.values()), default=0):,.0f}",
    }


def calibration(results: Results, look: Look) -> list[dict[str, Any]]:
    """Return, for each recipe whose scores are chances, what was predicted beside what happened."""
    told = []
    for row in results.calibration:
        bins = [
            (one, one.predicted, one.bought)
            for one in row.bins
            if one.pairs > 0 and one.predicted is not None and one.bought is not None
        ]
        ends = max((max(predicted, bought) for _, predicted, bought in bins), default=1.0)
        told.append(
            {
                "recipe": row.recipe,
                "ece": f"{row.ece:.5f}",
                "chart": lines(
                    [
                        Line("as predicted", [(0.0, 0.0), (ends, ends)], "#8d97a0", "4 3"),
                        Line(
                            row.recipe,
                            [(predicted, bought) for _, predicted, bought in bins],
                            look.colour[row.recipe],
                            strong=True,
                        ),
                    ],
                    label=f"Share bought by predicted chance, {row.recipe}",
                    x_ticks=[(0.0, "0 %"), (ends / 2, percent(ends / 2, 0)), (ends, percent(ends, 0))],
                    y_of=lambda y: percent(y, 0) if y else "0 %",
                ),
                "rows": [
                    {
                        "range": f"{100 * one.low:g} to {100 * one.high:g} %",
                        "pairs": f"{one.pairs:,.0f}",
                        "predicted": percent(predicted, 2),
                        "bought": percent(bought, 2),
                    }
                    for one, predicted, bought in bins
                ],
            }
        )
    return told


def long_tail(results: Results, look: Look) -> list[dict[str, Any]]:
    """Return, by purchased policy, how the shown products spread over the catalogue."""
    told = []
    for policy in results.policies:
        held = {row.recipe: row for row in results.beyond if row.purchased == policy}
        scores = {row.recipe: row for row in pooled_scores(results, policy, look)}
        names = [name for name in look.drawn if name in held]
        first = held[names[0]]
        bars = [Part("what customers bought", _shares([first.tiers[tier]["bought"] for tier in TIERS]))]
        bars += [
            Part(f"shown by {name}", _shares([held[name].tiers[tier]["shown"] for tier in TIERS]))
            for name in names
        ]
        told.append(
            {
                "title": TITLES[policy],
                "chart": stacked(
                    bars,
                    label="Share of places by sales of the product: " + "; ".join(map(_bar_told, bars)),
                    colours=_TIER_COLOURS,
                ),
                "rows": [
                    {
                        "recipe": name,
                        "cells": [
                            percent(held[name].coverage),
                            number(held[name].gini, 3),
                            mean(scores[name].metrics.get(NOVELTY), 2),
                            mean(scores[name].metrics.get(DIVERSITY), 3),
                            _share_of(scores[name].metrics.get(REPEATS_SHOWN)),
                            mean(scores[name].metrics.get(RECALL_REPEATS), 3),
                            mean(scores[name].metrics.get(RECALL_NEW), 3),
                        ],
                    }
                    for name in names
                ],
            }
        )
    return told


def _bar_told(bar: Part) -> str:
    shares = [f"{tier} {percent(share, 0)}" for tier, share in zip(TIERS, bar.shares, strict=True)]
    return f"{bar.label} {', '.join(shares)}"


def _share_of(estimate: Estimate | None) -> str:
    return "–" if estimate is None else percent(estimate.mean, 0)


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts) or 1
    return [count / total for count in counts]


def tier_keys() -> list[dict[str, str]]:
    """Return the legend of the long tail."""
    words = ("the fifth sold most", "the middle", "the half sold least")
    return [{"name": word, "colour": colour} for word, colour in zip(words, _TIER_COLOURS, strict=True)]
