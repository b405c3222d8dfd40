"""Pooling of hand-made origins: means, slices, comparisons, multiples, and what the verdict says of them."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from eval.evaluate import ALL
from eval.metrics import NDCG
from eval.pooled import pool
from eval.published import why_compare
from eval.results import Verdict
from eval.scorecard import BASE_RATE
from eval.slices import NEWCOMERS, STANDING, WITH_MEASURES, WITHOUT_MEASURES
from eval.verdict import verdict
from tests.planted_results import SETTING, START, infos, origins, pooled


def test_pooling_by_hand() -> None:
    customers = [[f"e{i:02d}" for i in range(10)] + ["n1", "n2"], [f"e{i:02d}" for i in range(10)]]
    first = np.r_[np.full(10, 0.5), 0.1, 0.3]
    found = pooled({"als": [first, np.full(10, 0.2)], "expert": [first / 2, np.full(10, 0.1)]}, customers)
    rows = {(row.recipe, row.dimension, row.value, row.at): row for row in found.lists}
    whole = rows["als", "all", "all", None]
    assert (whole.customers, whole.rows) == (12, 22)
    assert whole.metrics[NDCG].mean == pytest.approx((10 * 0.5 + 0.4 + 10 * 0.2) / 22, abs=1e-6)
    assert whole.metrics[NDCG].low <= whole.metrics[NDCG].mean <= whole.metrics[NDCG].high
    existing = rows["als", STANDING, "existing", None]
    assert (existing.customers, existing.rows) == (10, 20)
    assert existing.metrics[NDCG].mean == pytest.approx(0.35)
    # every existing customer has the same two values: drawn with both, no resample differs
    assert (existing.metrics[NDCG].low, existing.metrics[NDCG].high) == pytest.approx((0.35, 0.35))
    assert ("als", STANDING, "new", None) not in rows  # two rows name persons, not a kind
    assert rows["als", "all", "all", START + timedelta(weeks=1)].metrics[NDCG].mean == pytest.approx(0.2)
    (difference,) = [row for row in found.comparisons if row.metric == NDCG]
    assert (difference.better, difference.worse) == ("als", "expert")
    assert difference.difference.mean == pytest.approx(whole.metrics[NDCG].mean / 2, abs=1e-6)
    assert difference.p == pytest.approx(2 / 401, abs=1e-6) and difference.p_holm == difference.p
    multiples = {row.recipe: row.multiple for row in found.success if row.dimension == ALL}
    assert multiples["als"] is not None and multiples["als"].mean == pytest.approx(2.0)
    assert multiples["expert"] is not None and multiples["expert"].mean == 1.0
    assert found.gains[0].contacts_for_80 == pytest.approx(0.8) and found.gains[0].lift["5 %"] == 1.0
    (als, _) = found.beyond
    assert als.tiers["tail"] == {"products": 6, "bought": 6, "shown": 6, "hits": 6}
    candidates = {(row.recipe, row.value, row.at): row for row in found.candidates}
    constant = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert candidates["als", "all", None].logloss_constant == pytest.approx(constant, abs=1e-6)
    assert candidates["als", "all", None].auc is not None


def test_nothing_is_told_of_the_share_bought_where_nothing_is() -> None:
    names = [f"e{i:02d}" for i in range(12)] + [f"n{i:02d}" for i in range(12)]
    runs = origins({name: [np.full(24, 0.5)] for name in ("als", "expert")}, [names])
    for one in runs[0].judged.values():
        one.rows.loc[names[12:], BASE_RATE] = 0.0
    rows = {
        row.value: row
        for row in pool(runs, expert="expert", seed=0, resamples=400).candidates
        if row.at is None
    }
    assert (rows["new"].base_rate, rows["new"].logloss_constant) == (None, None)
    assert rows["existing"].base_rate == 0.25 and rows["all"].base_rate == 0.125
    told = why_compare(products=10, base_rate=None, has_chances=False)
    assert "here none is." in told and "hold ours against" not in told


def test_a_policy_of_one_customer_is_left_out() -> None:
    runs = origins({name: [np.array([0.5])] * 2 for name in ("als", "expert")}, [["e1"], ["e1"]])
    assert pool(runs, expert="expert", seed=0, resamples=400).lists == []


def test_newcomers_with_and_without_measures_are_told_apart() -> None:
    # 12 newcomers with measures (odd numbers) and 12 without, of whom the expert rule serves the first half as well
    names = [f"n{i:02d}" for i in range(24)]
    odd = np.arange(24) % 2 == 1
    found = pooled({"als": [np.where(odd, 0.4, 0.2)], "expert": [np.where(odd, 0.2, 0.2)]}, [names])
    areas = {row.value: row.auc for row in found.candidates if row.recipe == "als" and row.at is None}
    assert set(areas) == {"all", "new", "new with measures", "new without measures"}
    assert areas["new with measures"] is not None and areas["new with measures"].mean == pytest.approx(0.4)
    assert areas["new without measures"] is not None
    assert areas["new without measures"].mean == pytest.approx(0.2)
    times = {(row.dimension, row.value): row.multiple for row in found.success if row.recipe == "als"}
    assert {key: one.mean for key, one in times.items() if one is not None} == pytest.approx(
        {
            (ALL, ALL): 1.5,
            (STANDING, "new"): 1.5,
            (NEWCOMERS, WITH_MEASURES): 2.0,
            (NEWCOMERS, WITHOUT_MEASURES): 1.0,
        }
    )


def told(means: dict[str, float], *, models: int, noise: float = 0.02, customers: int = 200) -> Verdict:
    """The verdict on recipes, models first, whose customers differ by common and by own chance."""
    rng = np.random.default_rng(0)
    common = rng.normal(0, 0.05, customers)
    names = [f"e{i:03d}" for i in range(customers)]
    by_recipe = {
        name: [mean + common + rng.permuted(np.linspace(-1, 1, customers)) * noise for _ in range(2)]
        for name, mean in means.items()
    }
    found = pooled(by_recipe, [names, names])
    return verdict(
        infos(list(means), models=models), SETTING, found.lists, found.comparisons, found.candidates
    )


def test_a_model_that_wins_is_to_be_shipped() -> None:
    found = told({"als": 0.3, "bpr": 0.2, "expert": 0.1, "popularity": 0.05}, models=2)
    assert found.sentence.startswith(
        "Ship als: on the same customers it is surely better than every other recipe"
    )
    assert "198 % above the best baseline, expert" in found.sentence
    assert found.sure and found.beats_baselines and not found.level_with
    assert any("above expert in 2 of 2 weeks" in reason for reason in found.reasons)


def test_two_models_that_cannot_be_told_apart_are_both_named() -> None:
    found = told({"als": 0.3, "bpr": 0.2999, "expert": 0.1}, models=2)
    assert found.sentence.startswith(
        "Ship als: on the same customers it is surely better than every baseline, "
    )
    assert found.sentence.endswith("bpr cannot be told from it.")
    assert not found.sure and found.beats_baselines and found.level_with == ["bpr"]


def test_a_model_that_does_not_win_is_said_not_to() -> None:
    found = told({"als": 0.1005, "expert": 0.1}, models=1, noise=0.2)
    assert "not surely better than the baseline expert" in found.sentence
    assert not found.beats_baselines
    assert any(reason.startswith("Why the model cannot be shown to be better") for reason in found.reasons)


def test_a_baseline_that_wins_is_said_to() -> None:
    sure = told({"als": 0.1, "expert": 0.3}, models=1)
    assert sure.winner == "expert"
    assert sure.sentence.startswith(
        "Do not ship a model: the baseline expert is surely better than every model"
    )
    unsure = told({"als": 0.1, "expert": 0.1003}, models=1, noise=0.2)
    assert unsure.sentence.startswith("Do not ship a model on this evidence")
    assert any("Why models cannot be shown" in reason for reason in unsure.reasons)
    assert told({"popularity": 0.1, "expert": 0.2}, models=0).sentence.startswith(
        "Of the baselines, expert is best"
    )


def test_a_ranker_is_held_against_the_recipe_without_it() -> None:
    names = ["als", "als-ranked", "expert"]
    rng = np.random.default_rng(0)
    customers = [f"e{i:03d}" for i in range(100)]
    found = pooled(
        {name: [mean + rng.normal(0, 0.01, 100)] for name, mean in zip(names, (0.2, 0.3, 0.1), strict=True)},
        [customers],
    )
    described = infos(names, models=2)
    described[1] = described[1].model_copy(
        update={"recipe": {**described[1].recipe, "ranker": {"trees": 50}}}
    )
    reasons = verdict(described, SETTING, found.lists, found.comparisons, found.candidates).reasons
    (line,) = [reason for reason in reasons if reason.startswith("With and without the ranker")]
    assert "als-ranked is surely above als" in line
