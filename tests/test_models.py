"""The model contract: planted answers recovered, same seed same vectors, inputs untouched, fold-in optimal."""

from __future__ import annotations

import copy
import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo import schema as s
from feature_repo.recent import DAY_US, KIND_CODES, History, to_micros
from serving.batch import rank
from serving.bundle import load, save
from serving.catalog import REPURCHASE_DAYS, Catalog
from serving.encoders.fold_in import FoldIn
from serving.encoders.weights import Confidence, HistoryWeights
from serving.errors import ConfigError, DataError
from serving.features import CustomerState, FrameReader
from serving.recommender import Query, Recommender
from training.assemble import assemble, purchased
from training.dataset import IdMap, TrainingSet
from training.models import als, popularity, registry
from training.models.base import Embeddings
from training.models.registry import BASELINES
from training.recipe import Recipe, TrainConfig

AS_OF = datetime(2026, 3, 1, tzinfo=UTC)
NOW = AS_OF + timedelta(days=1)
GROUPS, PER_GROUP, CUSTOMERS = 4, 6, 48


def checkerboard(*, drop: int = 2, seed: int = 0) -> TrainingSet:
    """A planted world: customers of a group buy only its products, each leaving ``drop`` of them out.

    The right answer is provable: what a customer left out of the own group, before anything else.
    """
    generator = np.random.default_rng(seed)
    rows = []
    for customer in range(CUSTOMERS):
        group = customer % GROUPS
        kept = generator.permutation(PER_GROUP)[drop:]
        rows += [(customer, group * PER_GROUP + product, int(generator.integers(1, 60))) for product in kept]
    table = np.array(sorted(rows, key=lambda row: -row[2]))
    products = [f"p{number:02d}" for number in range(GROUPS * PER_GROUP)]
    frame = pd.DataFrame(
        {s.PRODUCT_ID: products, s.AVAILABLE: pd.array([True] * len(products), dtype="boolean")}
    )
    for name in (s.NAME, s.CATEGORY, s.PRICE, s.LAUNCHED_AT, s.WITHDRAWN_AT, REPURCHASE_DAYS):
        frame[name] = np.nan if name in (s.PRICE, REPURCHASE_DAYS) else None
    customers = IdMap(tuple(f"c{number:02d}" for number in range(CUSTOMERS)))
    at = np.array([to_micros(AS_OF - timedelta(days=int(days))) for days in table[:, 2]], dtype=np.int64)
    states = {}
    for number, name in enumerate(customers.ids):
        mine = table[:, 0] == number
        events = zip(table[mine, 1], at[mine], strict=True)
        states[name] = CustomerState(
            {}, History.of((products[p], s.PURCHASE, int(t), 1.0) for p, t in events)
        )
    return TrainingSet(
        as_of=AS_OF,
        customers=customers,
        catalog=Catalog(frame),
        customer_idx=table[:, 0].astype(np.int32),
        product_idx=table[:, 1].astype(np.int32),
        kinds=np.full(len(table), KIND_CODES[s.PURCHASE], dtype=np.int8),
        at=at,
        reader=FrameReader(states),
    )


RECIPES = {
    name: Recipe.model_validate({"name": name, **settings})
    for name, settings in {
        "als": {"model": "als", "als": {"factors": 4, "regularization": 2.0, "confidence": {"alpha": 10.0}}},
        "als-degree": {
            "model": "als",
            "als": {
                "factors": 4,
                "regularization": 2.0,
                "confidence": {"alpha": 10.0, "degree_exponent": 0.5},
            },
        },
        "bpr": {"model": "bpr", "bpr": {"factors": 4}},
        **{
            f"knn-{kind}": {"model": "knn", "knn": {"similarity": kind}}
            for kind in ("cosine", "bm25", "tfidf", "linear")
        },
        "spectral": {"model": "spectral", "spectral": {"factors": 4}},
        "lightfm": {"model": "lightfm", "lightfm": {"factors": 16, "epochs": 60, "learning_rate": 0.02}},
        "two_tower": {"model": "two_tower", "two_tower": {"factors": 4, "batch_size": 16, "hidden": 4}},
        "blend": {
            "model": "blend",
            "als": {"factors": 4, "regularization": 2.0, "confidence": {"alpha": 10.0}},
            "spectral": {"factors": 4},
            "blend": {"weights": {"spectral": 1.0, "als": 0.5}},
        },
        "repeats": {"model": "repeats"},
        "popularity": {"model": "popularity", "popularity_days": None},
    }.items()
}
PERSONAL = tuple(name for name in RECIPES if RECIPES[name].model not in BASELINES)
#: Capabilities: models that learn who a customer is from the history, and those whose vectors are drawn at the start.
FROM_HISTORY = tuple(name for name in PERSONAL if RECIPES[name].model not in ("bpr", "lightfm"))
DRAWN = ("als", "als-degree", "bpr", "lightfm", "two_tower")


def embeddings(name: str, data: TrainingSet, *, seed: int = 0) -> Embeddings:
    found = registry.fit(RECIPES[name], data, seed=seed, threads=1)
    assert found is not None
    return found


def arrays(fit: Embeddings) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    vectors = {} if fit.products is None else {"products": fit.products}
    return {**vectors, **fit.matrices, **fit.weights}


def fitted(recipe: Recipe, data: TrainingSet, *, seed: int = 0, threads: int = 1) -> Recommender:
    bundle = assemble(recipe, data, seed=seed, threads=threads, tables_hash="", now=NOW)
    return Recommender(bundle, data.reader)


@pytest.fixture(params=RECIPES)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return RECIPES[request.param]


def test_config_round_trip(recipe: Recipe) -> None:
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_input_is_unchanged(recipe: Recipe) -> None:
    data, before = checkerboard(), checkerboard()
    fitted(recipe, data)
    for name in ("customer_idx", "product_idx", "kinds", "at"):
        assert np.array_equal(getattr(data, name), getattr(before, name))
    pd.testing.assert_frame_equal(data.catalog.frame, before.catalog.frame)


def test_same_seed_and_one_thread_same_answers(recipe: Recipe) -> None:
    first, second = (fitted(recipe, checkerboard()) for _ in range(2))
    asked = [Query(at=AS_OF, customer_id=f"c{number:02d}", n=24, purchased="allow") for number in range(12)]
    assert first.recommend(asked) == second.recommend(asked)


@pytest.mark.parametrize("name", PERSONAL)
def test_same_seed_and_one_thread_same_vectors(name: str) -> None:
    one, two = (arrays(embeddings(name, checkerboard())) for _ in range(2))
    assert {key: array.tobytes() for key, array in one.items()} == {
        key: array.tobytes() for key, array in two.items()
    }
    for key, array in one.items():
        assert np.isfinite(array).all(), key
        assert array.dtype == (np.float32 if np.issubdtype(array.dtype, np.floating) else array.dtype)


@pytest.mark.parametrize("name", DRAWN)
def test_another_seed_other_vectors(name: str) -> None:
    one, other = (embeddings(name, checkerboard(), seed=seed).products for seed in (0, 1))
    assert one is not None and other is not None
    assert one.tobytes() != other.tobytes()


@pytest.mark.parametrize("name", FROM_HISTORY)
def test_somebody_new_is_served_by_what_they_just_did(name: str) -> None:
    """Unknown to training, two purchases in one group: what is shown first is of that group."""
    recommender = fitted(RECIPES[name], checkerboard())
    for group in range(GROUPS):
        bought = [f"p{group * PER_GROUP + place:02d}" for place in (1, 4)]
        history = History.of((p, s.PURCHASE, to_micros(AS_OF - timedelta(days=1)), 1.0) for p in bought)
        got = recommender.answer(Query(at=AS_OF, n=4), CustomerState({}, history))
        assert {int(p[1:]) // PER_GROUP for p in got.product_ids} == {group}
        assert {item.source for item in got.items} == {f"model:{name}"}


@pytest.mark.parametrize("name", PERSONAL)
def test_nobody_at_all_gets_what_is_popular(name: str) -> None:
    got = fitted(RECIPES[name], checkerboard()).answer(Query(at=AS_OF, n=5), CustomerState())
    assert [item.source for item in got.items] == ["popular"] * 5


@pytest.mark.parametrize("name", PERSONAL)
def test_bundle_round_trip(name: str, tmp_path: Path) -> None:
    """What is loaded answers as what was saved, score by score."""
    recommender = fitted(RECIPES[name], checkerboard())
    version = save(recommender.bundle, tmp_path, texts={})
    loaded = Recommender(load(tmp_path, version), checkerboard().reader)
    ids = [f"c{number:02d}" for number in range(CUSTOMERS)]
    asked = [Query(at=AS_OF, customer_id=customer, n=24, purchased="allow") for customer in ids]
    assert loaded.recommend(asked) == recommender.recommend(asked)
    scores = recommender.score(ids, recommender.bundle.catalog.ids, AS_OF)
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(loaded.score(ids, loaded.bundle.catalog.ids, AS_OF), scores)


@pytest.mark.parametrize("name", PERSONAL)
def test_planted_answer_is_recovered(name: str) -> None:
    recommender = fitted(RECIPES[name], checkerboard())
    for number in range(CUSTOMERS):
        got = recommender.recommend([Query(at=AS_OF, customer_id=f"c{number:02d}", n=2)])[0]
        group = number % GROUPS
        assert {int(p[1:]) // PER_GROUP for p in got.product_ids} == {group}, number


@pytest.mark.parametrize("name", PERSONAL)
def test_beats_popularity_on_the_planted_world(name: str) -> None:
    data = checkerboard()
    own = {
        c: set(checkerboard(drop=0).catalog.ids[(i % GROUPS) * PER_GROUP :][:PER_GROUP])
        for i, c in enumerate(data.customers.ids)
    }

    def hits(recommender: Recommender) -> float:
        asked = [Query(at=AS_OF, customer_id=customer, n=2) for customer in data.customers.ids]
        found = recommender.recommend(asked)
        return float(
            np.mean(
                [
                    len(own[q.customer_id or ""] & set(a.product_ids)) / 2
                    for q, a in zip(asked, found, strict=True)
                ]
            )
        )

    assert hits(fitted(RECIPES[name], data)) == 1.0
    assert hits(fitted(RECIPES["popularity"], data)) < 0.6


@pytest.mark.parametrize("name", ["als", "als-degree"])
def test_matrix_and_fold_in_agree_when_the_history_is_whole(name: str) -> None:
    """At ``as_of`` the folded vector is the trained one, up to the alternating steps not yet converged."""
    data = checkerboard()
    recipe = Recipe.model_validate(
        {**RECIPES[name].model_dump(), "als": {**RECIPES[name].als.model_dump(), "epochs": 200}}
    )
    recommender = fitted(recipe, data)
    bundle = recommender.bundle
    for row, customer in enumerate(data.customers.ids):
        state = data.reader.read([customer], AS_OF)[0]
        who = recommender.subject(Query(at=AS_OF, customer_id=customer), state)
        folded = recommender._personal.vector(who)  # type: ignore[union-attr]
        np.testing.assert_allclose(folded, bundle.matrices["customers"][row], rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("name", [name for name in PERSONAL if not name.startswith("knn")])
def test_unseen_products_without_a_description_have_no_direction(name: str) -> None:
    data = checkerboard()
    never = data.product_idx != 3
    fewer = copy.copy(data)
    for part in ("customer_idx", "product_idx", "kinds", "at"):
        object.__setattr__(fewer, part, getattr(data, part)[never])
    fit = embeddings(name, fewer)
    assert fit.products is not None
    assert not fit.products[3].any()
    assert fit.products[[0, 1, 2, 4]].any(axis=1).all()


@pytest.mark.parametrize("name", [name for name in PERSONAL if not name.startswith("knn")])
def test_products_without_a_direction_are_left_to_the_next_source(name: str) -> None:
    """Asked for those alone, or for everything, a model does not claim what it knows nothing of."""
    data = checkerboard()
    never = ~np.isin(data.product_idx, [3, 11])
    fewer = copy.copy(data)
    for part in ("customer_idx", "product_idx", "kinds", "at"):
        object.__setattr__(fewer, part, getattr(data, part)[never])
    recommender = fitted(RECIPES[name], fewer)
    unknown = {"p03", "p11"}
    # of the other groups: nobody's history holds the two
    customers = [f"c{number:02d}" for number in range(CUSTOMERS) if number % GROUPS > 1]
    for customer in customers:
        got = recommender.recommend([Query(at=AS_OF, customer_id=customer, n=24, purchased="allow")])[0]
        assert {item.product_id for item in got.items if item.source == "popular"} == unknown
        assert set(got.product_ids[-2:]) == unknown
    lists = rank(recommender, customers, at=AS_OF, n=24, purchased="exclude")
    for customer, products, sources in zip(customers, lists.products, lists.sources, strict=True):
        asked = recommender.recommend([Query(at=AS_OF, customer_id=customer, n=24)])[0]
        assert [f"p{place:02d}" for place in products if place >= 0] == asked.product_ids
        assert sources[products >= 0].tolist() == [item.source for item in asked.items]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(min_value=0, max_value=10_000),
    regularization=st.floats(min_value=0.01, max_value=100),
    events=st.lists(
        st.tuples(st.integers(0, 29), st.floats(0.01, 200), st.sampled_from([s.VIEW, s.CART, s.PURCHASE])),
        min_size=1,
        max_size=40,
    ),
)
def test_fold_in_is_the_optimum(
    seed: int, regularization: float, events: list[tuple[int, float, str]]
) -> None:
    """The gradient of the customer's weighted least squares is zero, and a direct solve agrees."""
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(30, 7)).astype(np.float32)
    index = {f"p{row}": row for row in range(30)}
    confidence = Confidence(alpha=8.0, half_life_days=50.0)
    weigher = HistoryWeights(confidence, index=index, as_of=AS_OF)
    fold = FoldIn(
        vectors,
        regularization=regularization,
        confidence=confidence,
        product_scale=np.ones(30, dtype=np.float32),
        history=weigher,
    )
    rows = sorted(events, key=lambda event: -event[1])
    history = History.of(
        (f"p{p}", kind, to_micros(AS_OF) - int(days * DAY_US), 1.0) for p, days, kind in rows
    )
    products, weights = weigher.of(history, AS_OF)
    extra = fold.confidences(products, weights)
    x = fold.solve(products, extra)
    wide = vectors.astype(np.float64)
    certainty, preference = np.ones(30), np.zeros(30)
    certainty[products] += extra
    preference[products] = 1.0
    gradient = wide.T @ (certainty * (wide @ x - preference)) + regularization * x
    scale = np.abs(wide.T @ (certainty * preference)).max() + 1.0
    assert np.abs(gradient).max() < 1e-8 * scale
    direct = np.linalg.solve(
        wide.T @ (certainty[:, None] * wide) + regularization * np.eye(7), wide.T @ (certainty * preference)
    )
    np.testing.assert_allclose(x, direct, rtol=1e-6, atol=1e-9)


def test_confidence_by_kind_age_and_return() -> None:
    confidence = Confidence(alpha=1.0, half_life_days=10.0)
    kinds = np.array([KIND_CODES[k] for k in (s.PURCHASE, s.PURCHASE, s.VIEW, s.RETURN)], dtype=np.int8)
    weights = confidence.weights(kinds, np.array([0.0, 10.0, 0.0, 0.0]))
    assert weights.tolist() == pytest.approx([1.0, 0.5, 0.1, -1.0])
    data = checkerboard()
    returned = copy.copy(data)
    object.__setattr__(returned, "kinds", np.full(len(data), KIND_CODES[s.RETURN], dtype=np.int8))
    with pytest.raises(DataError, match="positive weight"):
        als.confidence_matrix(returned, confidence)


def test_degree_scaling_keeps_the_mean_and_tames_the_popular() -> None:
    data = checkerboard(seed=3)
    plain, _ = als.confidence_matrix(data, Confidence(alpha=4.0))
    scaled, scale = als.confidence_matrix(data, Confidence(alpha=4.0, degree_exponent=0.5))
    assert sp.issparse(scaled)
    assert (scaled.data - 1).mean() == pytest.approx((plain.data - 1).mean(), rel=1e-5)
    degree = np.asarray((plain - plain.sign()).sum(axis=0)).ravel()
    assert np.corrcoef(degree, scale)[0, 1] < -0.8


def test_popularity_is_exact() -> None:
    data = checkerboard(seed=1)
    order, share = popularity.fit(data, days=30)
    recent = data.product_idx[data.age_days <= 30]
    counts = np.bincount(recent, minlength=24)
    assert sorted(order.tolist()) == list(range(24))
    assert counts[order].tolist() == sorted(counts.tolist(), reverse=True)
    assert share.tolist() == pytest.approx((counts[order] / len(recent)).tolist())
    ever = np.bincount(data.product_idx, minlength=24)
    tied = [(counts[a], ever[a], -a) >= (counts[b], ever[b], -b) for a, b in itertools.pairwise(order)]
    assert all(tied)


def test_purchased_counts_days_and_keeps_the_latest() -> None:
    data = checkerboard()
    twice = copy.copy(data)
    for name in ("customer_idx", "product_idx", "kinds"):
        object.__setattr__(twice, name, np.tile(getattr(data, name), 3))
    later = data.at + DAY_US // 50
    object.__setattr__(twice, "at", np.concatenate([data.at, later, data.at - 5 * DAY_US]))
    owned = purchased(twice).bought(7)
    assert owned.first is not None
    assert (owned.last - owned.first == 5 * DAY_US + DAY_US // 50).all()
    rows = list(zip(owned.products.tolist(), owned.days.tolist(), owned.last.tolist(), strict=True))
    mine = data.customer_idx == 7
    assert [product for product, _, _ in rows] == sorted(data.product_idx[mine].tolist())
    for product, days, last in rows:
        at = int(data.at[mine & (data.product_idx == product)][0])
        assert (days, last) == (2, at + DAY_US // 50)


def test_segments_need_enough_purchases() -> None:
    data = checkerboard()
    half = {customer: "big" if number % 2 else "" for number, customer in enumerate(data.customers.ids)}
    favourites = popularity.fit_segments(data, {**half, data.customers.ids[0]: "tiny"}, days=None)
    assert set(favourites) == {"big"}
    assert {int(p) // PER_GROUP % 2 for p in favourites["big"]} == {1}


RANKER = "[[recipes]]\nname='r'\nmodel='als'\n[recipes.ranker]\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "[[recipes]]\nname='a'\nmodel='als'\n[recipes.als]\nfactor=3",
            r"als\.factor of the recipe 'a'; the nearest valid key is 'recipes\.als\.factors'",
        ),
        ("horizon=3\n[[recipes]]\nname='a'\nmodel='als'", "horizon.*'horizon_days'"),
        ("[[recipes]]\nname='a'\nmodel='magic'", 'model of the recipe.*"magic"'),
        ("[[recipes]]\nname='a'\nmodel='als'\n[[recipes]]\nname='a'\nmodel='repeats'", "distinct"),
        ("recipes = []", "recipes"),
        ("[recipes.als]\nfactors=3", r"list of tables \(\[\[recipes\]\]\)"),
        (
            "[[recipes]]\nname='a'\nmodel='als'\nfactors=3",
            r"factors of the recipe 'a'.*'recipes\.als\.factors'",
        ),
        ("[[recipes]]\nname='a'\nmodel='bpr'\nfactors=3", r"'recipes\.bpr\.factors'"),
        (
            "colour=3\n[[recipes]]\nname='a'\nmodel='als'",
            "found colour; valid there are seed, horizon_days, k",
        ),
        ("[[recipes]]\nmodel='als'", "expected name of recipe number 1, found none"),
        ("[[recipes]]\nname=7\nmodel='als'", "expected a text for name of recipe number 1, found 7"),
        (f"{RANKER}trees=true", "whole number for ranker.trees of the recipe 'r', found true"),
        (f"{RANKER}trees='12'", "whole number for ranker.trees of the recipe 'r', found \"12\""),
        (f"{RANKER}trees=0", "number of at least 1 for ranker.trees of the recipe 'r', found 0"),
        (f"{RANKER}trees=2001", "number of at most 2000 for ranker.trees"),
        (f"{RANKER}leaves=1", "number of at least 2 for ranker.leaves"),
        (f"{RANKER}leaves=1025", "number of at most 1024 for ranker.leaves"),
        (f"{RANKER}depth=17", "number of at most 16 for ranker.depth"),
        (f"{RANKER}min_leaf=0", "number of at least 1 for ranker.min_leaf"),
        (f"{RANKER}windows=1000000", "number of at most 52 for ranker.windows"),
        (f"{RANKER}horizon_days=1000000000", "number of at most 730 for ranker.horizon_days"),
        (f"{RANKER}learning_rate=0", "number above 0.* for ranker.learning_rate"),
        (f"{RANKER}learning_rate='fast'", "a number for ranker.learning_rate of the recipe 'r'"),
        ("[[recipes]]\nname='a'\nmodel='als'\n[recipes.als]\nepochs=true", "whole number for als.epochs"),
        (
            "[[recipes]]\nname='a'\nmodel='als'\n[recipes.als]\nregularization='1'",
            "a number for als.regularization",
        ),
        ("[[recipes]]\nname='a'\nmodel='als'\npopularity_days=false", "whole number for popularity_days"),
        ("k='5'\n[[recipes]]\nname='a'\nmodel='als'", 'whole number for k, found "5"'),
        (
            "[[recipes]]\nname='a'\nmodel='als'\n[recipes.als.confidence.kind_weights]\nbuy=1.0",
            "kinds of interactions are view.*found 'buy'",
        ),
        ("recipes = [", "TOML"),
        ("[[recipes]]\nname='a'\nmodel='als'\n[recipes.als]\nfactors=0", "factors.*found 0"),
        ("[[recipes]]\nname='a'\nmodel='bpr'\n[recipes.bpr]\nlearning_rate=inf", "learning_rate.*found inf"),
        (
            "[[recipes]]\nname='a'\nmodel='blend'\n[recipes.blend]\nweights={alz=1.0}",
            "'alz' is nearest to 'als'",
        ),
        ("[[recipes]]\nname='a'\nmodel='blend'\n[recipes.blend]\nweights={knn=1.0}", "models with vectors"),
        ("[[recipes]]\nname='a'\nmodel='blend'\n[recipes.blend]\nweights={xyz=1.0}", "'xyz' is none of them"),
        ("[[recipes]]\nname='a'\nmodel='blend'\n[recipes.blend]\nweights={als=nan}", "found nan|finite"),
        ("seed=-1\n[[recipes]]\nname='a'\nmodel='als'", "seed.*found -1"),
        ("seed=1", r"at least one recipe.*\[\[recipes\]\]"),
    ],
)
def test_wrong_configuration_names_what_is_wrong(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        TrainConfig.parse(text, "wrong.toml")


@pytest.mark.parametrize("model", ["bpr", "lightfm"])
def test_a_model_that_diverges_is_told_and_not_served(model: str) -> None:
    settings = {"factors": 4, "learning_rate": 1e4, "epochs": 30}
    recipe = Recipe.model_validate({"name": "wild", "model": model, model: settings})
    with pytest.raises(ConfigError, match="diverged; lower its learning_rate"):
        registry.fit(recipe, checkerboard(), seed=0, threads=1)


def test_shipped_configuration_equals_the_documented_defaults() -> None:
    shipped = {recipe.name: recipe for recipe in TrainConfig.default().recipes}
    assert shipped["als"] == Recipe(name="als", model="als")
    assert shipped["popularity"].popularity_days is None
