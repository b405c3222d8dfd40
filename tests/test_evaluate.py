"""Anchors of the evaluation: random ≈ k/|catalogue|, oracle = 1, popularity exact; the gate's rule."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from eval.evaluate import ALL, EXISTING, NEW, Evaluation, Window, comparison, evaluate
from eval.metrics import HR, METRICS, MRR, NDCG, RECALL
from feature_repo import schema as s
from serving.bundle import Bundle
from serving.catalog import Catalog
from serving.errors import DataError
from serving.features import FrameReader
from serving.recommender import Recommender
from tests.builders import AS_OF, make_bundle
from training.backtest import Backtest, gate
from training.recipe import Recipe
from training.train import entrants

PRODUCTS, CUSTOMERS, K = 60, 400, 6


def everything_on_sale(bundle: Bundle) -> Bundle:
    frame = bundle.catalog.frame.assign(**{s.LAUNCHED_AT: pd.NaT, s.WITHDRAWN_AT: pd.NaT, s.AVAILABLE: True})
    return replace(
        bundle, catalog=Catalog(frame.assign(**{s.AVAILABLE: frame[s.AVAILABLE].astype("boolean")}))
    )


def popularity_bundle(order: np.ndarray | None = None) -> Bundle:
    bundle = everything_on_sale(
        make_bundle(products=PRODUCTS, customers=1, encoder="none", chain=("popular",))
    )
    return bundle if order is None else replace(bundle, popular=order.astype(np.int32))


def window(pairs: dict[str, list[int]], before: dict[str, list[int]] | None = None) -> Window:
    def frame(held: dict[str, list[int]]) -> pd.DataFrame:
        rows = [(customer, f"p{product:03d}") for customer, products in held.items() for product in products]
        return pd.DataFrame(rows, columns=[s.CUSTOMER_ID, s.PRODUCT_ID])

    earlier = frame(before or {})
    return Window(AS_OF + timedelta(hours=1), frame(pairs), earlier, frozenset(earlier[s.PRODUCT_ID]))


def judged(bundle: Bundle, held: Window, **options: object) -> Evaluation:
    return evaluate(Recommender(bundle, FrameReader({})), held, name="x", k=K, policy="allow", **options)  # type: ignore[arg-type]


def random_pairs(generator: np.random.Generator) -> dict[str, list[int]]:
    return {
        f"s{i:03d}": generator.choice(PRODUCTS, generator.integers(1, 5), replace=False).tolist()
        for i in range(CUSTOMERS)
    }


def test_random_purchases_are_found_at_k_over_catalogue() -> None:
    """Purchases independent of the ranking: each is in the top k with probability k/|catalogue|."""
    result = judged(popularity_bundle(), window(random_pairs(np.random.default_rng(0))))
    recall = result.rows()[RECALL]
    chance = K / PRODUCTS
    error = np.sqrt(chance * (1 - chance) / CUSTOMERS)  # at least one purchase each: an upper bound
    assert abs(recall.mean() - chance) < 4 * error
    assert result.interval(RECALL) is not None and chance in result.interval(RECALL)  # type: ignore[operator]


def test_oracle_is_one_in_every_metric() -> None:
    """A popularity order that is exactly what everybody buys."""
    order = np.random.default_rng(1).permutation(PRODUCTS)
    result = judged(popularity_bundle(order), window({f"s{i}": order[:K].tolist() for i in range(20)}))
    assert result.rows().to_numpy().tolist() == [[1.0] * len(METRICS)] * 20


def test_popularity_by_hand() -> None:
    order = np.arange(PRODUCTS)
    result = judged(popularity_bundle(order), window({"a": [1, 30], "b": [59]}, {"a": [2]}))
    rows = result.rows()
    assert rows.loc["a", RECALL] == 0.5
    assert rows.loc["a", MRR] == 0.5
    assert rows.loc["a", NDCG] == pytest.approx((1 / np.log2(3)) / (1 + 1 / np.log2(3)))
    assert rows.loc["b"].tolist() == [0.0] * len(METRICS)
    assert result.rows(EXISTING).index.tolist() == ["a"]
    assert result.rows(NEW).index.tolist() == ["b"]
    assert result.beyond["coverage"] == K / PRODUCTS
    assert result.sources == {"popular": 1.0}


def test_products_unknown_at_the_cut_are_misses() -> None:
    held = window({"a": [0], "b": [0]})
    held = replace(
        held,
        purchases=pd.concat(
            [held.purchases, pd.DataFrame({s.CUSTOMER_ID: ["a"], s.PRODUCT_ID: ["unheard-of"]})]
        ),
    )
    result = judged(popularity_bundle(np.arange(PRODUCTS)), held)
    assert result.unseen == pytest.approx(1 / 3)
    assert result.rows()[RECALL].to_dict() == {"a": 0.5, "b": 1.0}


def test_without_bought_only_discoveries_count() -> None:
    held = window({"a": [1, 2], "b": [3]}, {"a": [1], "b": [3]})
    assert held.truth("exclude").to_numpy().tolist() == [["a", "p002"]]
    assert len(held.truth("allow")) == 3
    only_repeats = window({"b": [3]}, {"b": [3]})
    with pytest.raises(DataError, match="found only repeats"):
        evaluate(
            Recommender(popularity_bundle(), FrameReader({})), only_repeats, name="x", k=K, policy="exclude"
        )


def test_window_cut_is_half_open_and_knows_what_was_before() -> None:
    day = pd.Timestamp(AS_OF)
    rows = pd.DataFrame(
        [
            ("a", "p1", day - pd.Timedelta(days=1), s.PURCHASE),
            ("a", "p2", day, s.PURCHASE),
            ("a", "p3", day, s.VIEW),
            (None, "p4", day, s.PURCHASE),
            ("b", "p5", day + pd.Timedelta(days=7), s.PURCHASE),
        ],
        columns=[s.CUSTOMER_ID, s.PRODUCT_ID, s.AT, s.KIND],
    )
    held = Window.cut(rows, at=AS_OF, end=AS_OF + timedelta(days=7))
    assert held.purchases.to_numpy().tolist() == [["a", "p2"]]
    assert held.bought_before.to_numpy().tolist() == [["a", "p1"]]
    with pytest.raises(DataError, match="expected purchases by known customers"):
        Window.cut(rows, at=AS_OF + timedelta(days=8), end=AS_OF + timedelta(days=9))


def test_comparison_takes_the_stronger_baseline() -> None:
    order = np.arange(PRODUCTS)
    held = window(random_pairs(np.random.default_rng(2)))
    common = held.purchases[s.PRODUCT_ID].value_counts().index.str[1:].astype(int).to_numpy()
    best = np.concatenate([common, np.setdiff1d(order, common)])
    runs = [
        replace(judged(popularity_bundle(o), held), name=name)
        for name, o in (("weak", best[::-1]), ("strong", best), ("mine", order))
    ]
    told = comparison(runs, "mine", ["weak", "strong"])
    assert told[RECALL]["stronger_baseline"] == told[NDCG]["stronger_baseline"] == "strong"
    assert told[RECALL]["mean"] == pytest.approx(
        runs[2].rows()[RECALL].mean() - runs[1].rows()[RECALL].mean(), abs=1e-5
    )
    assert told[RECALL]["high"] < 0


def gated(scores: dict[str, float], champion: str | None, at: datetime = AS_OF, customers: int = 500) -> str:
    """Run the gate on made-up per-customer NDCG: the given mean with common noise."""
    noise = np.random.default_rng(0).normal(scale=0.05, size=customers)
    own = np.random.default_rng(1)
    evaluations = []
    for name, mean in scores.items():
        values = mean + noise + own.normal(scale=0.02, size=customers)
        frame = pd.DataFrame(dict.fromkeys(METRICS, values)).assign(slice=ALL)
        evaluations.append(Evaluation(name, "exclude", K, frame, np.empty((0, K), dtype=np.int32), {}, 0.0))
    recipes = tuple(Recipe(name=name, model="popularity") for name in scores)
    by_name = {recipe.name: recipe for recipe in recipes}
    result = Backtest(at, at + timedelta(days=28), {"exclude": evaluations}, recipes)
    return gate(result, by_name[champion] if champion else None).winner.name


def test_gate_rules() -> None:
    assert gated({"a": 0.20, "b": 0.25}, None) == "b", "without a champion the best mean wins"
    assert gated({"a": 0.20, "b": 0.25}, "a") == "b", "a sure gain replaces the champion"
    assert gated({"a": 0.20, "b": 0.2005}, "a") == "a", "an unsure gain does not"
    assert gated({"a": 0.25, "b": 0.20}, "a") == "a"


def test_nothing_replaces_the_champion_where_nobody_could_judge() -> None:
    with pytest.raises(DataError, match="live stays live"):
        gated({"a": 0.20, "b": 0.25}, "a", customers=0)


def test_hit_rate_and_json_are_consistent() -> None:
    result = judged(popularity_bundle(), window(random_pairs(np.random.default_rng(3))))
    told = result.to_json()
    assert told["slices"][ALL]["customers"] == CUSTOMERS
    assert told["slices"][ALL][HR]["mean"] == pytest.approx(result.rows()[HR].mean(), abs=1e-5)
    assert EXISTING in told["slices"] and told["slices"][EXISTING]["customers"] == 0


def test_the_live_recipe_competes_as_it_is() -> None:
    """Also when the configuration uses its name for other settings."""
    als = Recipe(name="als", model="als")
    tuned = Recipe.model_validate({"name": "als", "model": "als", "als": {"factors": 16}})
    other = Recipe(name="popularity", model="popularity")
    assert entrants([als, other], None) == ([als, other], None)
    assert entrants([als, other], als) == ([als, other], als)
    assert entrants([other], als) == ([other, als], als)
    everybody, held = entrants([tuned, other], als)
    assert held is not None
    assert (held.name, held.als) == ("als@live", als.als)
    assert everybody == [tuned, other, held]
