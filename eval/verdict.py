"""The verdict: which recipe to ship, how sure that is, and what else a reader who signs it should know.

The rule is stated before the data are seen: the recipe with the highest NDCG where products bought before are left out,
as the gate has it; sure only where every paired difference is beyond chance after Holm's correction. Where a model does
not beat the baselines the sentence says so first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from eval.evaluate import ALL, EXISTING, NEW
from eval.metrics import NDCG
from eval.results import CandidateScore, Comparison, ListScore, RecipeInfo, Setting, Verdict
from serving.recommender import PurchasedPolicy

ALPHA: Final = 0.05
WITHOUT: Final = "without products bought before"
WITH: Final = "with products bought before"


def verdict(
    recipes: Sequence[RecipeInfo],
    setting: Setting,
    lists: Sequence[ListScore],
    comparisons: Sequence[Comparison],
    candidates: Sequence[CandidateScore],
) -> Verdict:
    """Return the verdict; the arguments are fields of ``Results``."""
    policies = list(dict.fromkeys(row.purchased for row in lists))
    first: PurchasedPolicy = "exclude" if "exclude" in policies else "allow"
    means = _means(lists, first)
    winner = max(means, key=lambda name: means[name])
    baselines = [recipe.name for recipe in recipes if recipe.baseline]
    beaten = _beaten(comparisons, first, winner)
    level = [name for name in means if name != winner and not beaten[name].sure]
    others = [name for name in means if name != winner]
    opposed = [name for name in others if (name in baselines) != (winner in baselines)]
    strongest = max(opposed or others, key=lambda name: means[name])
    sure = not level
    beats = winner not in baselines and not set(level) & set(baselines)
    sentence = _sentence(
        winner, winner in baselines, level, beaten, strongest, means, first, setting, baselines=baselines
    )
    reasons = [_wins(lists, winner, first, strongest, setting), *_ranked(recipes, means, comparisons, first)]
    if first == "exclude" and "allow" in policies:
        reasons.append(_allowed(lists, comparisons, winner, setting))
    reasons += _standing(lists, winner, first, strongest)
    if not beats:
        reasons.append(_why(lists, winner, first, setting, winner in baselines))
    reasons += [*_over_candidates(candidates, winner), *_chances(recipes, candidates, winner, setting)]
    return Verdict(
        winner=winner,
        sure=sure,
        beats_baselines=beats,
        level_with=level,
        sentence=sentence,
        reasons=[reason for reason in reasons if reason],
    )


class _Difference:
    """Whether the winner is above another recipe beyond chance, and by how much."""

    def __init__(self, one: Comparison | None) -> None:
        self.p = "" if one is None else _p(one.p_holm)
        self.sure = one is not None and one.p_holm < ALPHA and one.difference.mean > 0


def _beaten(
    comparisons: Sequence[Comparison], policy: PurchasedPolicy, winner: str
) -> Mapping[str, _Difference]:
    found: dict[str, _Difference] = {}
    for one in comparisons:
        if one.purchased == policy and one.metric == NDCG and winner in (one.better, one.worse):
            other = one.worse if one.better == winner else one.better
            found[other] = _Difference(one if one.better == winner else None)
    return found


def _means(lists: Sequence[ListScore], policy: PurchasedPolicy) -> dict[str, float]:
    return {
        row.recipe: row.metrics[NDCG].mean
        for row in lists
        if (row.purchased, row.dimension, row.at) == (policy, ALL, None)
    }


def _sentence(
    winner: str,
    is_baseline: bool,
    level: Sequence[str],
    beaten: Mapping[str, _Difference],
    strongest: str,
    means: Mapping[str, float],
    policy: PurchasedPolicy,
    setting: Setting,
    *,
    baselines: Sequence[str],
) -> str:
    metric = f"NDCG@{setting.k}"
    where = WITHOUT if policy == "exclude" else WITH
    score = f"{metric} {means[winner]:.4f} {where}"
    models = [name for name in means if name not in baselines]
    if is_baseline:
        if not models:
            return f"Of the baselines, {winner} is best ({score}); no model was judged."
        near = [name for name in level if name in models]
        if near:
            return (
                f"Do not ship a model on this evidence: the baseline {winner} is best ({score}), "
                f"and {_listed(near)} cannot be told from it."
            )
        return f"Do not ship a model: the baseline {winner} is surely better than every model ({score})."
    rivals = [name for name in level if name in baselines]
    if rivals:
        return (
            f"{winner} is ahead ({score}), but not surely better than the baseline {_listed(rivals)}: "
            f"the difference could be chance, so the simpler one may as well stay."
        )
    gain = (
        f"{100 * (means[winner] / means[strongest] - 1):.0f} %" if means[strongest] > 0 else "infinitely far"
    )
    figures = f"{metric} {means[winner]:.4f} beside {means[strongest]:.4f} {where}; corrected p {beaten[strongest].p}"
    whom = "every baseline" if level else "every other recipe"
    also = f"; {_listed(level)} cannot be told from it" if level else ""
    return (
        f"Ship {winner}: on the same customers it is surely better than {whom}, {gain} above the best baseline, "
        f"{strongest} ({figures}){also}."
    )


def _wins(
    lists: Sequence[ListScore], winner: str, policy: PurchasedPolicy, rival: str, setting: Setting
) -> str:
    """Say at how many origins the winner is above a rival."""
    by_origin: dict[str, dict[object, float]] = {winner: {}, rival: {}}
    for row in lists:
        if row.at is not None and row.purchased == policy and row.recipe in by_origin:
            by_origin[row.recipe][row.at] = row.metrics[NDCG].mean
    both = by_origin[winner].keys() & by_origin[rival].keys()
    if not both:
        return ""
    ahead = sum(by_origin[winner][at] > by_origin[rival][at] for at in both)
    unit = "week" if setting.every_days == 7 else "day" if setting.every_days == 1 else "origin"
    return f"{winner} is above {rival} in {ahead} of {len(both)} {unit}s."


def _ranked(
    recipes: Sequence[RecipeInfo],
    means: Mapping[str, float],
    comparisons: Sequence[Comparison],
    policy: PurchasedPolicy,
) -> list[str]:
    """Hold each recipe with a ranker against the recipe that is the same but for it, and say where it had none."""
    told = []
    for recipe in recipes:
        if not recipe.recipe.get("ranker"):
            continue
        if recipe.unranked:
            told.append(_lacking(recipe))
            if recipe.chance_days is None:
                continue
        bare = {**recipe.recipe, "ranker": None, "name": ""}
        for other in recipes:
            if {**other.recipe, "ranker": other.recipe.get("ranker") or None, "name": ""} != bare:
                continue
            names = {recipe.name, other.name}
            one = next(
                (
                    c
                    for c in comparisons
                    if (c.purchased, c.metric) == (policy, NDCG) and {c.better, c.worse} == names
                ),
                None,
            )
            if one is None:
                continue
            how = "surely above" if one.p_holm < ALPHA else "not surely above"
            told.append(
                f"With and without the ranker: {one.better} is {how} {one.worse} "
                f"(+{one.difference.mean:.4f}, corrected p {_p(one.p_holm)})."
            )
    return told


def _lacking(recipe: RecipeInfo) -> str:
    why = recipe.unranked[-1].why
    if recipe.chance_days is None:
        return (
            f"{recipe.name} was judged without its ranker at every origin, so its figures say nothing of what a "
            f"ranker is worth: {why}."
        )
    at = _listed([f"{one.at:%Y-%m-%d}" for one in recipe.unranked])
    return f"At {at} {recipe.name} was judged without its ranker, which its figures have to bear: {why}."


def _allowed(
    lists: Sequence[ListScore], comparisons: Sequence[Comparison], winner: str, setting: Setting
) -> str:
    """Say who leads where products bought before may be shown."""
    means = _means(lists, "allow")
    best = max(means, key=lambda name: means[name])
    level = [
        name
        for name, difference in _beaten(comparisons, "allow", best).items()
        if not difference.sure and name != best
    ]
    near = f"; {_listed(level)} cannot be told from it" if level else ", surely above all others"
    same = f"{winner} leads as well" if best == winner else f"{best} leads, not {winner}"
    return f"Where products bought before may be shown, {same} (NDCG@{setting.k} {means[best]:.4f}{near})."


def _standing(lists: Sequence[ListScore], winner: str, policy: PurchasedPolicy, rival: str) -> list[str]:
    """Say for whom the winner is no better than the strongest baseline: new or existing customers."""
    told = []
    for value in (NEW, EXISTING):
        rows = {
            row.recipe: row
            for row in lists
            if row.purchased == policy
            and row.value == value
            and row.at is None
            and row.dimension == "customers"
        }
        if winner in rows and rival in rows:
            mine, theirs = rows[winner].metrics[NDCG], rows[rival].metrics[NDCG]
            if mine.mean <= theirs.mean:
                same = "the same as" if np.isclose(mine.mean, theirs.mean, atol=5e-5) else "no better than"
                told.append(
                    f"For {value} customers ({rows[winner].rows:,} judged) it is {same} {rival}: {mine.mean:.4f} "
                    f"beside {theirs.mean:.4f}."
                )
    return told


def _why(
    lists: Sequence[ListScore], winner: str, policy: PurchasedPolicy, setting: Setting, is_baseline: bool
) -> str:
    """Say what in the data may be behind a model that does not win."""
    row = next(r for r in lists if (r.recipe, r.purchased, r.dimension, r.at) == (winner, policy, ALL, None))
    spread = row.metrics[NDCG]
    half = (spread.high - spread.low) / 2
    what = "models" if is_baseline else "the model"
    return (
        f"Why {what} cannot be shown to be better, as far as these data tell: {row.customers:,} customers judged "
        f"{row.rows:,} times fix a mean to about ± {half:.4f}, so smaller gains are lost in chance; more origins, or a "
        f"longer horizon than {setting.horizon_days} days, would show smaller ones."
    )


def _over_candidates(candidates: Sequence[CandidateScore], winner: str) -> list[str]:
    """Say which recipe puts all candidates in the best order, where it is another."""
    areas = {c.recipe: c.auc.mean for c in candidates if (c.value, c.at) == (ALL, None) and c.auc is not None}
    best = max(areas, key=lambda name: areas[name], default=winner)
    if winner not in areas or best == winner:
        return []
    return [
        f"Over all pairs of customers and products {best} has the better order (AUC {areas[best]:.3f} beside "
        f"{areas[winner]:.3f}); the verdict looks at the few that are shown."
    ]


def _chances(
    recipes: Sequence[RecipeInfo], candidates: Sequence[CandidateScore], winner: str, setting: Setting
) -> list[str]:
    """Say whether scores of the winner may be read as chances, and whether they are worth it."""
    days = next(recipe for recipe in recipes if recipe.name == winner).chance_days
    if days is None:
        return [f"The scores of {winner} rank products; they are not chances of a purchase."]
    if days != setting.horizon_days:
        return [
            f"Its scores are chances of a purchase within {days} days; these windows have {setting.horizon_days}, "
            f"so they cannot be held against what happened: --horizon {days} does that."
        ]
    for row in candidates:
        if (row.recipe, row.value, row.at) == (winner, ALL, None) and row.logloss and row.logloss_constant:
            how = "below" if row.logloss.mean < row.logloss_constant else "not below"
            return [
                f"Its scores are chances of a purchase: logloss {row.logloss.mean:.5f}, {how} the "
                f"{row.logloss_constant:.5f} of always saying the average."
            ]
    return []


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0")
