"""Encoders: what each makes of a history, features and a row, against hand-computed values and plain formulas."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from feature_repo import schema as s
from feature_repo.recent import DAY_US, History, to_micros
from serving.encoders import spec as e
from serving.encoders.blend import Blend, Block, covariance, scaled
from serving.encoders.fold_in import FoldIn
from serving.encoders.lookup import FeatureSum, Lookup
from serving.encoders.pooling import Pooling
from serving.encoders.tower import LAYERS, Tower
from serving.encoders.vocabulary import Vocabulary, tokens
from serving.encoders.weights import Confidence, EventWeights, HistoryWeights
from serving.errors import BundleError
from serving.subject import Bought, Subject

AS_OF = datetime(2026, 3, 1, tzinfo=UTC)
PRODUCTS = 12
INDEX = {f"p{row}": row for row in range(PRODUCTS)}
WEIGHTS = EventWeights(half_life_days=10.0, context_weight=7.0)
Event = tuple[int | str, str, float]


def history(events: Sequence[Event]) -> History:
    """Events (product, kind, days before ``AS_OF``), oldest first."""
    ordered = sorted(events, key=lambda event: -event[2])
    return History.of(
        (f"p{product}" if isinstance(product, int) else product, kind, _at(days), 1.0)
        for product, kind, days in ordered
    )


def subject(
    events: Sequence[Event] = (),
    *,
    row: int | None = None,
    context: Sequence[int] = (),
    features: dict[str, Any] | None = None,
    at: datetime = AS_OF,
) -> Subject:
    nothing = np.empty(0, dtype=np.int32)
    return Subject(
        row,
        "",
        history(events),
        np.array(context, dtype=np.int32),
        Bought(nothing, nothing, nothing.astype(np.int64)),
        at,
        features=features or {},
    )


def weigher(weights: EventWeights = WEIGHTS) -> HistoryWeights:
    return HistoryWeights(weights, index=INDEX, as_of=AS_OF)


def weighed(
    events: Sequence[Event], *, at: datetime = AS_OF, context: Sequence[int] = (), **settings: Any
) -> dict[int, float]:
    found = weigher(WEIGHTS.model_copy(update=settings)).of(
        history(events), at, np.array(context, dtype=np.int32)
    )
    products, weights = found
    assert (products.dtype, weights.dtype) == (np.int32, np.float64)
    assert (weights > 0).all() and (np.diff(products) > 0).all()
    return dict(zip(products.tolist(), weights.tolist(), strict=True))


def vectors(rows: int = PRODUCTS, width: int = 5, *, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(0.3, 1.0, (rows, width)).astype(np.float32)


def _at(days: float) -> int:
    return to_micros(AS_OF) - int(days * DAY_US)


# --- the weights of a history


def test_kinds_and_ages_are_weighed_and_summed_by_product() -> None:
    events = [(3, s.PURCHASE, 10.0), (3, s.VIEW, 20.0), (1, s.CART, 1e-9), (1, s.CLICK, 10.0)]
    # 1 · ½ + 0.1 · ¼, and 0.5 · 1 + 0.2 · ½
    assert weighed(events) == pytest.approx({3: 0.525, 1: 0.6})
    assert weighed(events, kind_weights={s.PURCHASE: 2.0}) == pytest.approx({3: 1.0})


def test_ages_begin_at_the_models_clock_or_the_last_event() -> None:
    """A model served long after its data still tells recent from old; an event after its data moves the clock."""
    old = [(0, s.PURCHASE, 10.0)]
    assert weighed(old, at=AS_OF + timedelta(days=500)) == pytest.approx({0: 0.5})
    later = [(0, s.PURCHASE, 10.0), (1, s.PURCHASE, -30.0)]
    assert weighed(later, at=AS_OF + timedelta(days=500)) == pytest.approx({0: 0.5**4, 1: 1.0})


def test_nothing_from_the_asked_instant_on_counts() -> None:
    assert weighed([(0, s.PURCHASE, 0.0), (1, s.PURCHASE, -1.0)]) == {}


def test_returns_take_purchases_back() -> None:
    assert weighed([(0, s.PURCHASE, 10.0), (0, s.RETURN, 10.0), (1, s.VIEW, 10.0)]) == pytest.approx(
        {1: 0.05}
    )
    assert weighed([(0, s.PURCHASE, 10.0)] * 2 + [(0, s.RETURN, 10.0)]) == pytest.approx({0: 0.5})
    assert weighed([(0, s.RETURN, 1.0)]) == {}


def test_the_context_adds_to_the_history() -> None:
    assert weighed([(4, s.PURCHASE, 10.0)], context=[4, 2, 2]) == pytest.approx({4: 7.5, 2: 14.0})
    assert weighed([], context=[2]) == {2: 7.0}
    assert weighed([], context=[2], context_weight=0.0) == {}


def test_unknown_products_say_nothing() -> None:
    assert weighed([("gone", s.PURCHASE, 1.0), (2, s.PURCHASE, 10.0)]) == pytest.approx({2: 0.5})
    assert weighed([("gone", s.PURCHASE, 1.0)]) == {}
    assert weighed([]) == {}


# --- pooling and folding in


def test_pooling_is_the_dense_formula() -> None:
    generator = np.random.default_rng(1)
    scale = generator.random(PRODUCTS).astype(np.float32)
    events = [
        (int(product), kind, float(days))
        for product, kind, days in zip(
            generator.integers(0, PRODUCTS, 40),
            generator.choice([s.VIEW, s.CART, s.PURCHASE], 40),
            generator.uniform(1, 40, 40),
            strict=True,
        )
    ]
    dense = np.zeros(PRODUCTS)
    for product, kind, days in events:
        dense[product] += WEIGHTS.kind_weights[kind] * 0.5 ** (days / 10.0)
    dense[[2, 5]] += 7.0
    found = Pooling(vectors(), product_scale=scale, history=weigher()).encode(subject(events, context=[2, 5]))
    assert found is not None and found.dtype == np.float32
    # sums of twelve terms in single precision
    np.testing.assert_allclose(found, (dense * scale) @ vectors().astype(np.float64), rtol=1e-5)


def test_pooling_knows_nobody_without_a_vector_in_the_history() -> None:
    silent = vectors()
    silent[3] = 0.0
    pooling = Pooling(silent, product_scale=np.ones(PRODUCTS, dtype=np.float32), history=weigher())
    for unknown in (subject(), subject([(3, s.PURCHASE, 1.0)]), subject([(0, s.RETURN, 1.0)], row=0)):
        assert pooling.encode(unknown) is None


def fold_in(*, scale: Any = None, customers: Any = None, products: Any = None, **confidence: float) -> FoldIn:
    settings = Confidence.model_validate({"half_life_days": 10.0, "alpha": 4.0, **confidence})
    return FoldIn(
        vectors() if products is None else products,
        regularization=2.0,
        confidence=settings,
        product_scale=np.ones(PRODUCTS, dtype=np.float32) if scale is None else scale,
        history=weigher(settings),
        customers=customers,
    )


def test_fold_in_scales_confidence_by_both_degrees() -> None:
    scale = np.linspace(0.5, 2.0, PRODUCTS, dtype=np.float32)
    fold = fold_in(scale=scale, degree_exponent=0.5)
    products, weights = np.array([1, 4], dtype=np.int32), np.array([3.0, 6.0])
    # α · w · scale · (3 + 6)^-½
    wanted = 4.0 * weights * scale[[1, 4]] / 3.0
    np.testing.assert_allclose(fold.confidences(products, weights), wanted, rtol=1e-7)


def test_fold_in_solves_the_customers_least_squares() -> None:
    found = fold_in().encode(subject([(1, s.PURCHASE, 10.0), (4, s.VIEW, 10.0)], context=[7]))
    wide = vectors().astype(np.float64)
    extra, wanted = np.zeros(PRODUCTS), np.zeros(PRODUCTS)
    extra[[1, 4, 7]] = 4.0 * np.array([0.5, 0.05, 20.0])
    wanted[[1, 4, 7]] = 1.0
    left = wide.T @ ((1.0 + extra)[:, None] * wide) + 2.0 * np.eye(5)
    # rounded to single precision at the end
    np.testing.assert_allclose(found, np.linalg.solve(left, wide.T @ ((1.0 + extra) * wanted)), rtol=1e-5)


def test_fold_in_falls_back_on_the_fitted_vector() -> None:
    customers = vectors(3, seed=1)
    customers[2] = 0.0
    fold = fold_in(customers=customers)
    said_nothing: list[list[Event]] = [[], [("gone", s.PURCHASE, 1.0)], [(0, s.RETURN, 1.0)]]
    for events in said_nothing:
        np.testing.assert_array_equal(fold.encode(subject(events, row=1)), customers[1])
        assert fold.encode(subject(events)) is None
        assert fold.encode(subject(events, row=2)) is None
        assert fold_in().encode(subject(events, row=1)) is None
    folded = fold.encode(subject([(0, s.PURCHASE, 1.0)], row=1))
    np.testing.assert_array_equal(folded, fold.encode(subject([(0, s.PURCHASE, 1.0)])))
    assert not np.allclose(folded, customers[1])


@pytest.mark.parametrize("exponent", [0.0, 0.5])
def test_fold_in_learns_nothing_from_products_that_training_never_saw(exponent: float) -> None:
    """They have a vector of zeros, and with degrees a scale of zero: they change nothing, alone or beside others."""
    silent, scale, customers = vectors(), np.ones(PRODUCTS, dtype=np.float32), vectors(3, seed=1)
    silent[3] = 0.0
    if exponent:
        scale[3] = 0.0
    fold = fold_in(products=silent, scale=scale, customers=customers, degree_exponent=exponent)
    np.testing.assert_array_equal(fold.encode(subject([(3, s.PURCHASE, 1.0)], row=1)), customers[1])
    assert fold.encode(subject([(3, s.PURCHASE, 1.0)])) is None
    beside, alone = (
        fold.encode(subject([(0, s.PURCHASE, 1.0), *others])) for others in ([(3, s.PURCHASE, 1.0)], [])
    )
    np.testing.assert_array_equal(beside, alone)


# --- looking up


def test_lookup_knows_the_customers_of_training() -> None:
    customers = vectors(3)
    customers[1] = 0.0
    lookup = Lookup(customers)
    np.testing.assert_array_equal(lookup.encode(subject(row=2)), customers[2])
    assert lookup.encode(subject(row=1)) is None
    assert lookup.encode(subject([(0, s.PURCHASE, 1.0)])) is None


def feature_sum() -> FeatureSum:
    return FeatureSum(
        np.array([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]], dtype=np.float32),
        features=np.array([[10.0, 0.0, 0.0], [0.0, 10.0, 0.0]], dtype=np.float32),
        constant=np.array([0.0, 0.0, 1.0], dtype=np.float32),
        vocabulary=Vocabulary(tokens=("town=Linz", "club=True")),
    )


@pytest.mark.parametrize(
    ("row", "features", "wanted"),
    [
        (0, {}, [1.0, 2.0, 1.0]),
        (0, {"town": "Linz"}, [11.0, 2.0, 1.0]),
        (0, {"town": "Linz", "club": True}, [11.0, 12.0, 1.0]),
        (None, {"club": True}, [0.0, 10.0, 1.0]),
        (None, {"town": "Linz", "club": False}, [10.0, 0.0, 1.0]),
        (1, {"town": "Linz"}, [10.0, 0.0, 1.0]),
        (None, {}, None),
        (None, {"town": "Graz"}, None),
        (1, {"town": "Graz"}, None),
    ],
)
def test_feature_sum(row: int | None, features: dict[str, Any], wanted: list[float] | None) -> None:
    """Own vector, features and constant; row 1 is of a customer of whom nothing was learnt."""
    found = feature_sum().encode(subject(row=row, features=features))
    assert (None if found is None else found.tolist()) == wanted


# --- blending


class Says:
    """An encoder that always says the same."""

    def __init__(self, query: np.ndarray[Any, np.dtype[np.float32]] | None) -> None:
        self._query = query

    def encode(self, subject: Subject) -> np.ndarray[Any, np.dtype[np.float32]] | None:
        return self._query


def test_blend_adds_scores_in_units_of_their_spread() -> None:
    """The inner product with the products' joined vectors is Σ weight · score / std of the block's scores."""
    tables = [vectors(200, 4, seed=1), 30.0 * vectors(200, 7, seed=2)]
    queries = [vectors(1, 4, seed=3)[0], 0.01 * vectors(1, 7, seed=4)[0]]
    weights = [1.0, 0.25]
    blend = Blend(
        [
            Block(Says(query), weight, covariance(table))
            for query, weight, table in zip(queries, weights, tables, strict=True)
        ]
    )
    found = blend.encode(subject())
    assert found is not None and found.dtype == np.float32
    scores = [table.astype(np.float64) @ query for table, query in zip(tables, queries, strict=True)]
    wanted = sum(weight * score / score.std() for weight, score in zip(weights, scores, strict=True))
    # the covariances are kept in single precision; the scores are of size one
    np.testing.assert_allclose(np.hstack(tables) @ found, wanted, rtol=1e-4, atol=1e-4)


def test_blend_with_silent_blocks() -> None:
    tables = [vectors(50, 3, seed=1), vectors(50, 2, seed=2)]
    query = vectors(1, 3, seed=3)[0]
    spoken = [Block(Says(query), 2.0, covariance(tables[0])), Block(Says(None), 1.0, covariance(tables[1]))]
    found = Blend(spoken).encode(subject())
    assert found is not None
    np.testing.assert_allclose((tables[0] @ found[:3]).std(), 2.0, rtol=1e-5)  # single precision
    assert found[3:].tolist() == [0.0, 0.0]
    assert Blend([Block(Says(None), 1.0, covariance(table)) for table in tables]).encode(subject()) is None


def test_scores_that_do_not_vary_weigh_nothing() -> None:
    flat = vectors(50, 3)
    flat[:, 2] = 5.0
    queries = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 1.0]], dtype=np.float32)
    found = scaled(queries, covariance(flat), 1.0)
    assert found[0].tolist() == [0.0, 0.0, 0.0]
    np.testing.assert_allclose((flat @ found[1]).std(), 1.0, rtol=1e-5)  # single precision


def test_covariance_is_numpys() -> None:
    table = vectors(40, 3)
    # ours divides by n; kept in single precision
    np.testing.assert_allclose(covariance(table), np.cov(table.T, bias=True), rtol=1e-6, atol=1e-7)


# --- features as tokens


def test_tokens_of_text_truth_and_bands() -> None:
    edges = {"age": (20.0, 40.0)}
    row: dict[str, Any] = {"town": "Linz", "club": True, "new": np.bool_(False), "age": 31}
    assert list(tokens(row, edges)) == ["town=Linz", "club=True", "new=False", "age#1"]
    wanted = {19.999: 0, 20.0: 1, 39: 1, 40: 2, np.float32(20.0): 1, np.int64(1000): 2, -1e300: 0}
    for value, band in wanted.items():
        assert list(tokens({"age": value}, edges)) == [f"age#{band}"], value


@pytest.mark.parametrize(
    "value", [None, "", float("nan"), np.float32("nan"), float("inf"), -float("inf"), ["a"], np.array([1.0])]
)
def test_what_says_nothing_has_no_token(value: Any) -> None:
    assert list(tokens({"age": value}, {"age": (20.0,)})) == []


def test_numbers_need_bands_and_truth_is_no_number() -> None:
    assert list(tokens({"visits": 3.0}, {})) == []
    assert list(tokens({"club": True}, {"club": (0.5,)})) == ["club=True"]


def test_places_of_known_tokens_only() -> None:
    vocabulary = Vocabulary(tokens=("age#0", "age#2", "town=Linz"), edges={"age": (20.0, 40.0)})
    assert vocabulary.places({"town": "Linz", "age": 50}).tolist() == [2, 1]
    assert vocabulary.places({"town": "Graz", "age": 30, "shoe": "42"}).tolist() == []
    assert vocabulary.places({"town": "Graz"}).dtype == np.int32
    assert Vocabulary().places({"town": "Linz"}).tolist() == []


# --- specs


VOCABULARY = Vocabulary(tokens=("town=Linz", "age#0"), edges={"age": (0.1, 1e-7, 40.0)})
VECTOR_SPECS: tuple[Any, ...] = (
    e.FoldInSpec(regularization=0.1, confidence=Confidence(alpha=3.3, degree_exponent=0.25)),
    e.PoolingSpec(weights=WEIGHTS),
    e.LookupSpec(),
    e.FeatureSumSpec(vocabulary=VOCABULARY),
    e.TowerSpec(weights=WEIGHTS, vocabulary=VOCABULARY),
)
BLEND = e.BlendSpec(
    blocks=tuple(
        e.BlockSpec(name=spec.type, start=5 * place, stop=5 * place + 5, weight=0.5 + place, encoder=spec)
        for place, spec in enumerate(VECTOR_SPECS)
    )
)
SPECS = (*VECTOR_SPECS, BLEND, e.NeighboursSpec(weights=WEIGHTS), e.RepeatsSpec())


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.type)
def test_spec_survives_json(spec: Any) -> None:
    assert type(spec).model_validate_json(spec.model_dump_json()) == spec
    found: Any = TypeAdapter(e.EncoderSpec).validate_json(spec.model_dump_json())
    assert found == spec and type(found) is type(spec)


def test_spec_of_another_time_is_refused() -> None:
    for text in ('{"type": "oracle"}', '{"type": "lookup", "bias": 1}', '{"type": "blend", "blocks": []}'):
        with pytest.raises(ValidationError):
            TypeAdapter(e.EncoderSpec).validate_json(text)


ENCODERS = (FoldIn, Pooling, Lookup, FeatureSum, Tower)
SMALL = {
    "features": vectors(2),
    "mix.weight": vectors(5),
    "hidden.weight": vectors(3),
    "hidden.bias": vectors(1, 3)[0],
    "output.weight": vectors(5, 3),
    "output.bias": vectors(1)[0],
    "scale": np.float32(10.0).reshape(()),
    "newcomers": vectors(2),
}
ARRAYS: dict[str, dict[str, Any]] = {
    "fold_in": {e.PRODUCT_SCALE: np.ones(PRODUCTS, dtype=np.float32)},
    "pooling": {e.PRODUCT_SCALE: np.ones(PRODUCTS, dtype=np.float32)},
    "lookup": {e.CUSTOMERS: vectors(3)},
    "feature_sum": {e.CUSTOMERS: vectors(3), e.FEATURES: vectors(2), e.CONSTANT: vectors(1)[0]},
    "tower": {e.HISTORY_VECTORS: vectors(), **SMALL},
}


def parts(arrays: dict[str, Any], *, products: int = 5) -> e.Parts:
    matrices = {name: array for name, array in arrays.items() if array.ndim == 2}
    small = {name: array for name, array in arrays.items() if name not in matrices or name in SMALL}
    return e.Parts(vectors(PRODUCTS, products), matrices, small, INDEX, AS_OF)


@pytest.mark.parametrize(
    ("spec", "kind"),
    [*zip(VECTOR_SPECS, ENCODERS, strict=True)],
    ids=lambda value: getattr(value, "type", ""),
)
def test_spec_makes_its_encoder(spec: Any, kind: type) -> None:
    assert type(e.encoder(spec, parts(ARRAYS[spec.type]))) is kind


@pytest.mark.parametrize(
    ("spec", "name"), [(spec, name) for spec in VECTOR_SPECS for name in ARRAYS[spec.type]], ids=str
)
def test_a_missing_array_is_named(spec: Any, name: str) -> None:
    fewer = {key: array for key, array in ARRAYS[spec.type].items() if key != name}
    with pytest.raises(BundleError, match=f"expected .* array '{name}', found none"):
        e.encoder(spec, parts(fewer))


def test_layers_of_the_tower_are_all_asked_for() -> None:
    assert set(LAYERS) == set(SMALL)


def blend_arrays() -> dict[str, Any]:
    found = {f"{name}/{key}": array for name, own in ARRAYS.items() for key, array in own.items()}
    return found | {f"{name}/{e.COVARIANCE}": np.eye(5, dtype=np.float32) for name in ARRAYS}


def test_blocks_of_a_blend_get_their_own_arrays() -> None:
    """What the blend says of somebody is what the encoders say alone, each brought to scale."""
    arrays = blend_arrays()
    whole = e.Parts(vectors(PRODUCTS, 25), arrays, arrays, INDEX, AS_OF)
    who = subject([(1, s.PURCHASE, 1.0), (4, s.VIEW, 3.0)], row=2, features={"town": "Linz"})
    pooling = VECTOR_SPECS[1]
    two = e.BlendSpec(
        blocks=(
            e.BlockSpec(name="pooling", start=5, stop=10, weight=3.0, encoder=pooling),
            e.BlockSpec(name="feature_sum", start=15, stop=20, weight=1.0, encoder=VECTOR_SPECS[3]),
        )
    )
    found = e.encoder(two, whole).encode(who)
    own = e.Parts(vectors(PRODUCTS, 25)[:, 5:10], {}, ARRAYS["pooling"], INDEX, AS_OF)
    pooled = e.encoder(pooling, own).encode(who)
    summed = e.encoder(VECTOR_SPECS[3], parts(ARRAYS["feature_sum"])).encode(who)
    assert found is not None and pooled is not None and summed is not None
    # with the unit matrix as covariance the spread of the scores is the length of the query
    wanted = [3.0 * pooled / np.linalg.norm(pooled), summed / np.linalg.norm(summed)]
    np.testing.assert_allclose(found, np.concatenate(wanted), rtol=1e-5)  # single precision


@pytest.mark.parametrize("name", ["pooling/product_scale", "feature_sum/constant", "lookup/covariance"])
def test_a_missing_array_of_a_block_is_named(name: str) -> None:
    block = name.partition("/")[0]
    arrays = {key: array for key, array in blend_arrays().items() if key != name}
    spec = e.BlendSpec(blocks=tuple(one for one in BLEND.blocks if one.name == block))
    with pytest.raises(BundleError, match=f"array '{name}'"):
        e.encoder(spec, e.Parts(vectors(PRODUCTS, 25), arrays, arrays, INDEX, AS_OF))
