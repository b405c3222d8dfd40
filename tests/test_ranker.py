"""The ranker: weights that count every pair, chances that keep the order, and nothing of the future in any row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest

from eval.benchmarks import shop_ranker
from eval.placement import auc
from eval.slices import Facts
from eval.world import WorldConfig, simulate
from feature_repo import schema as s
from feature_repo.store import open_store
from feature_repo.tables import Tables
from serving.bundle import Bundle, load
from serving.catalog import Filters
from serving.errors import BundleError, ConfigError
from serving.features import CustomerState, FrameReader
from serving.manifest import RankerSpec
from serving.ranker import Calibration, Trees
from serving.ranking import FIXED, FRESHEST
from serving.recommender import Query, Recommender
from serving.settings import Settings
from tests.conftest import NOW
from training.assemble import assemble
from training.dataset import TrainingSet
from training.publish import store
from training.ranker import fit
from training.ranker.config import RankerConfig
from training.ranker.keys import Outcome, TooLittleError, draw
from training.recipe import Recipe, TrainConfig
from training.train import build_features

ALS = {"name": "als-ranked", "model": "als", "als": {"factors": 16, "regularization": 5.0, "epochs": 8}}
SMALL = {"horizon_days": 21, "windows": 1, "candidates": 40, "trees": 10, "leaves": 6}


def recipe(**ranker: Any) -> Recipe:
    return Recipe.model_validate({**ALS, "ranker": {**SMALL, **ranker}})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingSet]:
    """A shop of 1,200 customers and eight months, with measures, as known three weeks before its end."""
    root = tmp_path_factory.mktemp("ranked")
    simulate(WorldConfig(customers=1200, products=100, months=8, seed=3)).write(
        root / "t", truth_dir=root / "truth"
    )
    settings = Settings.load(home=root / "home")
    with Tables.open(root / "t") as tables:
        build_features(settings, tables)
        at = (tables.span()[1] - timedelta(days=21)).replace(hour=0, minute=0, second=0, microsecond=0)
        yield TrainingSet.load(tables, open_store(settings.store), at, also=Facts.of(tables).known(at))


@pytest.fixture(scope="module")
def bundle(data: TrainingSet) -> Bundle:
    return assemble(recipe(), data, seed=0, threads=1, tables_hash="", now=NOW)


def test_trees_answer_as_the_library_does() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(500, 3)).astype(np.float32)
    rows[::7, 1] = np.nan
    label = (rows[:, 0] > 0).astype(float)
    booster = lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(rows, label), 5)
    trees = Trees(booster.model_to_string())
    assert trees.margins(rows).tolist() == booster.predict(rows, raw_score=True).tolist()
    assert trees.margins(rows[:0]).tolist() == []
    with pytest.raises(BundleError, match="rows of 3 features"):
        trees.margins(np.ascontiguousarray(rows[:, :2]))
    with pytest.raises(BundleError, match="LightGBM's text"):
        Trees("no trees").margins(rows)


def test_calibration_is_the_weighted_share_where_margins_tell_apart() -> None:
    margins = np.array([-1.0, -1.0, 2.0, 2.0])
    bought = np.array([False, True, True, True])
    got = fit.calibrated(margins, bought, np.array([9.0, 1.0, 1.0, 3.0]))
    assert got(np.array([-1.0, 2.0])) == pytest.approx([0.1, 1.0])
    assert 0.1 < got(np.array([0.5]))[0] < 1.0
    assert Calibration.from_json(got.to_json())(margins).tolist() == got(margins).tolist()
    with pytest.raises(ValueError, match="ascending"):
        Calibration.from_json('{"margins": [1, 0], "chances": [0, 1]}')


def test_calibration_pools_what_falls() -> None:
    margins, bought = np.array([0.0, 1.0, 2.0]), np.array([True, False, True])
    got = fit.calibrated(margins, bought, np.ones(3))
    assert got(np.array([0.5])) == pytest.approx([0.5])  # the first two are one step, at its middle
    assert (np.diff(got(np.linspace(-2, 4, 50))) >= 0).all()


def test_weights_count_every_pair_of_the_shop(data: TrainingSet) -> None:
    end = data.as_of
    earlier = data.earlier(
        end - timedelta(days=21), also=Facts.of(data.origin.tables).known(end - timedelta(days=21))
    )
    config = RankerConfig(**{**SMALL, "negatives": 7, "others": 5, "buyers": 40, "bystanders": 30})
    retrieval = assemble(
        recipe().model_copy(update={"ranker": None}), earlier, seed=0, threads=1, tables_hash="", now=NOW
    )
    recommender = Recommender(retrieval, earlier.reader)
    outcome = Outcome.of(data.origin.tables, retrieval, earlier.as_of, end)
    keys = draw(recommender, earlier.origin.known, outcome, config, seed=1)
    on_sale = retrieval.catalog.on_sale(earlier.as_of)
    pairs = len(earlier.origin.known) * int(on_sale.sum())
    assert sum(one.weight.sum() for one in keys) == pytest.approx(pairs)
    assert all(len(set(one.products.tolist())) == len(one.products) for one in keys)
    assert all(on_sale[one.products].all() for one in keys)
    rows = data.origin.tables.frame(s.INTERACTIONS)
    window = rows[(rows[s.AT] >= earlier.as_of) & (rows[s.AT] < end) & (rows[s.KIND] == s.PURCHASE)]
    sold = window.groupby(s.CUSTOMER_ID)[s.PRODUCT_ID].agg(set)
    ids, sellable = np.array(retrieval.catalog.ids), set(np.array(retrieval.catalog.ids)[on_sale])
    for one in keys:
        row = one.subject.row
        if row is not None:
            name = retrieval.customers[s.CUSTOMER_ID].iloc[row]
            assert set(ids[one.products[one.bought]]) == (sold.get(name, set()) & sellable)


def test_chances_are_those_of_the_answer_and_fall_with_the_rank(data: TrainingSet, bundle: Bundle) -> None:
    recommender = Recommender(bundle, data.reader)
    customers = data.customers.ids[:60]
    for policy in ("exclude", "allow"):
        queries = [Query(at=data.as_of, customer_id=c, n=15, purchased=policy) for c in customers]  # type: ignore[arg-type]
        for customer, answer in zip(customers, recommender.recommend(queries), strict=True):
            scores = [item.score for item in answer.items]
            assert len(scores) == 15
            assert all(0 <= score <= 1 for score in scores)
            assert scores == sorted(scores, reverse=True)
            told = recommender.score([customer], answer.product_ids, data.as_of)[0]
            assert told == pytest.approx(scores, rel=1e-5)


def test_everybody_has_a_chance_and_strangers_get_n(data: TrainingSet, bundle: Bundle) -> None:
    recommender = Recommender(bundle, data.reader)
    silent = sorted(set(data.origin.known) - set(data.customers.ids))
    assert silent, "the shop has customers who signed up and did nothing"
    chances = recommender.score([silent[0], "nobody"], data.catalog.ids, data.as_of)
    assert np.isfinite(chances).all()
    on_sale = int(data.catalog.on_sale(data.as_of).sum())
    for customer in (silent[0], "nobody", None):
        answer = recommender.recommend([Query(at=data.as_of, customer_id=customer, n=100)])[0]
        assert len(answer.items) == min(100, on_sale)


def test_whom_the_model_does_not_know_gets_the_sources_own_order_and_chances(
    data: TrainingSet, bundle: Bundle
) -> None:
    """An order learnt from those with a history says nothing of strangers: theirs is that of the unranked chain."""
    policy = bundle.manifest.policy.model_copy(update={"ranker": None})
    plain = replace(bundle, manifest=bundle.manifest.model_copy(update={"policy": policy}), ranker=None)
    ranked, unranked = (Recommender(one, data.reader) for one in (bundle, plain))
    silent = sorted(set(data.origin.known) - set(data.customers.ids))
    for customer in (silent[0], "nobody"):
        query = Query(at=data.as_of, customer_id=customer, n=15)
        answer = ranked.recommend([query])[0]
        assert answer.product_ids == unranked.recommend([query])[0].product_ids
        assert {item.source for item in answer.items} <= {"segment", "popular"}
        told = ranked.score([customer], answer.product_ids, data.as_of)[0]
        assert told == pytest.approx([item.score for item in answer.items], rel=1e-5)


def test_fewer_asked_for_are_the_first_of_more(data: TrainingSet, bundle: Bundle) -> None:
    """Whatever is filtered, for known customers and strangers: n decides where a list ends and nothing else."""
    recommender = Recommender(bundle, data.reader)
    prices = np.sort(data.catalog.frame[s.PRICE].to_numpy(dtype=float))
    categories = data.catalog.frame[s.CATEGORY].dropna().unique().tolist()
    turns: list[dict[str, Any]] = [
        {},
        {"exclude": tuple(data.catalog.ids[::2])},
        {"purchased": "allow", "filters": Filters(category=(categories[0],))},
        *({"filters": Filters(price_max=float(prices[share]))} for share in (8, 20, 40, 70)),
        {"context": tuple(data.catalog.ids[:2]), "filters": Filters(price_max=float(prices[30]))},
    ]
    for customer in [*data.customers.ids[:15], "nobody"]:
        for turn in turns:
            most, *fewer = (
                recommender.recommend([Query(at=data.as_of, customer_id=customer, n=n, **turn)])[0].items
                for n in (100, 1, 2, 10, 30, 60)
            )
            assert len({item.product_id for item in most}) == len(most)
            for items in fewer:
                assert items == most[: len(items)]


def drawn_rarely(rows: Any, bought: Any, weight: Any, near: Any, *, customers: int) -> fit.Examples:
    """Return examples of as many keys a customer, of whom nothing is known but four numbers without a meaning."""
    each = len(rows) // customers
    noise = np.random.default_rng(9).normal(size=(customers, 4))
    return fit.Examples(
        rows=rows.astype(np.float32),
        customer=np.repeat(noise, each, axis=0).astype(np.float32),
        group=np.repeat(np.arange(customers), each),
        bought=bought,
        near=near,
        weight=weight,
    )


def test_chances_put_pairs_in_order_where_purchases_are_rare_and_all_drawn() -> None:
    """One pair in hundreds is bought and all of those are keys: what tells nothing must not outweigh the margin."""
    generator = np.random.default_rng(4)
    customers, each = 800, 60
    bought = generator.random(customers * each) < 0.2
    near = np.ones(len(bought), dtype=np.bool_)
    rows = generator.normal(size=(len(bought), 1)) + 1.5 * bought[:, None]
    weight = np.where(bought, 1.0, 100.0)
    examples = drawn_rarely(rows, bought, weight, near, customers=customers)
    settings = {"objective": "binary", "verbose": -1, "num_threads": 1, "monotone_constraints": [1]}
    order = Trees(lightgbm.train(settings, lightgbm.Dataset(examples.rows, bought), 20).model_to_string())
    calibrates = examples.group % 4 == 0
    trees, calibration = fit._chance(order, examples, calibrates, seed=0, threads=1)
    margins = order.margins(examples.rows)
    read = np.ascontiguousarray(np.column_stack([margins, examples.customer]), dtype=np.float32)
    chances = calibration(trees.margins(read))
    held = [part[calibrates] for part in (bought, weight)]
    assert auc(chances[calibrates], *held) > auc(margins[calibrates], *held) - 0.02
    assert np.average(chances, weights=weight) == pytest.approx(np.average(bought, weights=weight), rel=0.1)


def test_what_is_far_is_put_below_what_is_near_and_far_purchases_do_not_lift_it() -> None:
    """What sells puts candidates in order, and far products sell as well: that they are far has to count too."""
    generator = np.random.default_rng(5)
    customers, each = 300, 40
    near = np.tile(np.arange(each) < 25, customers)
    place = np.where(near, generator.uniform(1, 3, len(near)), generator.uniform(-2, 0, len(near)))
    sells = generator.normal(size=len(near))
    bought = generator.random(len(near)) < np.where(near, 0.2 * (sells > 0), 0.3)
    rows = np.column_stack([place, sells])
    examples = drawn_rarely(rows, bought, np.where(near | bought, 1.0, 50.0), near, customers=customers)
    spec = RankerSpec(horizon_days=28, candidates=25, features=("retrieval.z", "product.trend"), customer=())
    order = fit._order(RankerConfig(), spec, examples, seed=0, threads=1)
    margins = order.margins(examples.rows)
    assert auc(margins[sells > 0], near[sells > 0]) > 0.9
    assert auc(margins[near], sells[near] > 0) > 0.9, "among candidates the order is still learnt"


def test_a_bundle_read_again_answers_alike_and_names_what_it_reads(
    data: TrainingSet, bundle: Bundle, tmp_path: Path
) -> None:
    settings = Settings.load(home=tmp_path)
    version = store(bundle, data, settings, metrics={})  # replays the golden answers after reading
    again = load(settings.bundles, version)
    spec = again.manifest.policy.ranker
    assert spec is not None
    assert spec.features[: len(FIXED)] == FIXED
    assert spec.customer[: len(FRESHEST)] == FRESHEST
    assert any("balance" in name for name in spec.customer), "measures are among the features of customers"
    asked = (data.customers.ids[:20], data.catalog.ids[:30], data.as_of)
    ours, theirs = (Recommender(b, data.reader).score(*asked) for b in (bundle, again))
    assert ours.tolist() == theirs.tolist()


def test_the_past_decides_every_row_and_a_look_ahead_is_seen(data: TrainingSet) -> None:
    """Rows made where later rows exist equal those made where they do not; with a leak they do not."""
    at = data.as_of
    earlier = data.earlier(at - timedelta(days=21))
    retrieval = assemble(
        recipe().model_copy(update={"ranker": None}), earlier, seed=0, threads=1, tables_hash="", now=NOW
    )
    spec = assemble(recipe(), data, seed=0, threads=1, tables_hash="", now=NOW).manifest.policy.ranker
    assert spec is not None

    def rows(states: dict[str, CustomerState]) -> Any:
        from serving.ranking import RankingFeatures

        recommender = Recommender(retrieval, FrameReader(states))
        products = fit.product_matrix(earlier, retrieval, spec)
        features = RankingFeatures(retrieval, recommender.model, spec.features, products, spec.customer)  # type: ignore[arg-type]
        everything = np.arange(len(retrieval.catalog), dtype=np.int32)
        queries = [Query(at=earlier.as_of, customer_id=customer) for customer in states]
        subjects = [recommender.subject(q, state) for q, state in zip(queries, states.values(), strict=True)]
        return np.stack([features.of(subject, everything)[0] for subject in subjects])

    ids = earlier.customers.ids
    honest = dict(zip(ids, earlier.reader.read(ids, earlier.as_of), strict=True))
    later = dict(zip(ids, data.reader.read(ids, at), strict=True))
    cut = {c: replace(state, history=later[c].history.before(earlier.as_of)) for c, state in honest.items()}
    kept = [c for c in ids if cut[c].history.to_rows() == honest[c].history.to_rows()]
    assert len(kept) > len(ids) / 3  # whose last events still reach back before the cut
    some = {c: honest[c] for c in kept}
    assert np.array_equal(rows(some), rows({c: cut[c] for c in kept}), equal_nan=True)
    leaking = rows({c: replace(honest[c], history=later[c].history) for c in kept})
    assert not np.array_equal(rows(some), leaking, equal_nan=True)


def test_shuffled_customers_carry_no_signal_and_a_planted_leak_does(data: TrainingSet) -> None:
    """What customers did with products tells apart their own purchases, not those of somebody else."""
    end = data.as_of
    earlier = data.earlier(end - timedelta(days=21))
    retrieval = assemble(
        recipe().model_copy(update={"ranker": None}), earlier, seed=0, threads=1, tables_hash="", now=NOW
    )
    recommender = Recommender(retrieval, earlier.reader)
    outcome = Outcome.of(data.origin.tables, retrieval, earlier.as_of, end)
    known = [c for c in earlier.customers.ids if c in outcome.bought]
    generator = np.random.default_rng(0)
    turned = [known[place] for place in np.roll(generator.permutation(len(known)), 1)]
    popularity = np.bincount(
        np.concatenate([outcome.bought[c] for c in known]), minlength=len(retrieval.catalog)
    )
    own: list[float] = []
    others: list[float] = []
    leak: list[float] = []
    queries = [Query(at=earlier.as_of, customer_id=c) for c in known]
    subjects = [
        recommender.subject(q, st) for q, st in zip(queries, recommender.states(queries), strict=True)
    ]
    products = np.flatnonzero(popularity > 0).astype(np.int32)
    # what everybody buys more of is taken out: only the customer's own taste is left
    margins = np.array([recommender.model.scores(subject, products) for subject in subjects])  # type: ignore[union-attr]
    margins = margins - margins.mean(axis=0)
    for row, (customer, other) in enumerate(zip(known, turned, strict=True)):
        mine = np.isin(products, outcome.bought[customer])
        theirs = np.isin(products, outcome.bought[other])
        if not mine.any() or not theirs.any():
            continue
        own.append(auc(margins[row], mine, np.ones(len(products))))
        others.append(auc(margins[row], theirs, np.ones(len(products))))
        leak.append(auc(margins[row] + 100.0 * theirs, theirs, np.ones(len(products))))
    assert np.mean(own) > 0.6
    assert np.mean(others) == pytest.approx(0.5, abs=4 * np.std(others) / np.sqrt(len(others)))
    assert np.mean(leak) > 0.99


def test_without_enough_to_learn_from_the_recipe_goes_unranked_and_says_so(
    data: TrainingSet, caplog: pytest.LogCaptureFixture
) -> None:
    first = pd.Timestamp(data.at.min(), unit="us", tz="UTC").to_pydatetime()
    early = data.earlier(first + timedelta(days=15))
    got = assemble(recipe(), early, seed=0, threads=1, tables_hash="", now=NOW)
    assert got.manifest.policy.ranker is None
    assert got.ranker is None
    assert "als-ranked is fitted without its ranker" in caplog.text
    with pytest.raises(TooLittleError, match="leave the ranker out"):
        fit._earlier(early, first - timedelta(days=1), Facts.of(data.origin.tables))


def test_a_ranker_needs_vectors() -> None:
    told = '[[recipes]]\nname = "a"\nmodel = "knn"\n[recipes.ranker]\n'
    with pytest.raises(ConfigError, match="vectors"):
        TrainConfig.parse(told, "a.toml")


def test_what_was_shown_is_learnt_from(data: TrainingSet, bundle: Bundle, tmp_path: Path) -> None:
    at, end = data.as_of, data.as_of + timedelta(days=21)
    for table in (s.INTERACTIONS, s.PRODUCTS):
        (tmp_path / f"{table}.parquet").symlink_to(data.origin.tables.directory / f"{table}.parquet")
    shown = pd.DataFrame(
        {
            s.CUSTOMER_ID: ["x", "x", None, "y"],
            s.PRODUCT_ID: [data.catalog.ids[4], "gone", data.catalog.ids[0], data.catalog.ids[1]],
            s.AT: pd.to_datetime([at, at, at, at - timedelta(days=1)], utc=True),
        }
    )
    shown.to_parquet(tmp_path / "exposures.parquet")
    with Tables.open(tmp_path) as tables:
        outcome = Outcome.of(tables, bundle, at, end)
    assert {customer: rows.tolist() for customer, rows in outcome.shown.items()} == {"x": [4]}


def test_the_drawn_ranker_is_as_large_as_the_one_that_ships() -> None:
    shipped = RankerConfig()
    drawn = (shop_ranker.TREES, shop_ranker.LEAVES, shop_ranker.DEPTH, shop_ranker.CANDIDATES)
    assert drawn == (shipped.trees, shipped.leaves, shipped.depth, shipped.candidates)
    assert (fit.CHANCE_TREES, fit.CHANCE["num_leaves"]) == (
        shop_ranker.CHANCE_TREES,
        shop_ranker.CHANCE_LEAVES,
    )
    default = next(recipe for recipe in TrainConfig.default().recipes if recipe.ranker is not None)
    assert default.ranker == shipped


def test_a_remembered_order_is_the_one_that_would_be_made(data: TrainingSet, bundle: Bundle) -> None:
    """Asked again, within minutes, with exclusions, filters or another policy, a kept state answers as a fresh one."""
    recommender = Recommender(bundle, data.reader)
    at = data.as_of + timedelta(hours=1)
    ids = data.customers.ids[:25]
    kept = {c: replace(st, memo={}) for c, st in zip(ids, data.reader.read(ids, at), strict=True)}
    prices = np.sort(data.catalog.frame[s.PRICE].to_numpy(dtype=float))
    for number, customer in enumerate(ids):
        first = recommender.answer(Query(at=at, customer_id=customer), kept[customer]).product_ids
        turns: list[dict[str, Any]] = [
            {},
            {"exclude": tuple(first[:3])},
            {"purchased": "allow"},
            {"purchased": "due"},
            {"context": tuple(data.catalog.ids[number : number + 2])},
            {"n": 100},
            {"exclude": tuple(data.catalog.ids[:60])},
            {"filters": Filters(price_max=float(prices[len(prices) // 2]))},
            {"filters": Filters(price_max=float(prices[5])), "n": 4},
            {},
        ]
        for turn in turns:
            query = Query(at=at, customer_id=customer, **turn)
            plain = recommender.answer(query, replace(kept[customer], memo=None))
            again = recommender.answer(query, kept[customer])
            assert [(i.product_id, i.score, i.source) for i in again.items] == [
                (i.product_id, i.score, i.source) for i in plain.items
            ]
    later = Query(at=at + timedelta(days=3), customer_id=ids[0])
    assert (
        recommender.answer(later, kept[ids[0]]).items
        == recommender.answer(later, replace(kept[ids[0]], memo=None)).items
    )
