"""The recommender against brute force: hard rules, exactly n, order by score, the chain, reasons."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo import schema as s
from feature_repo.recent import DAY_US, History, to_micros
from serving.bundle import Bundle
from serving.catalog import Filters
from serving.encoders.spec import CUSTOMERS
from serving.errors import DataError, FeatureUnavailable
from serving.features import CustomerState, FeatureReader, FrameReader
from serving.index import ProductIndex
from serving.reasons import Reason
from serving.recommender import Query, Recommender
from tests.builders import AS_OF, AT, make_bundle, state

BUNDLE = make_bundle()
RECOMMENDER = Recommender(BUNDLE, FrameReader({}))
IDS = BUNDLE.catalog.ids


def purchases(bundle: Bundle, row: int) -> list[tuple[int, int, int]]:
    """(product, days, last) of a customer, as the bundle has it."""
    own = bundle.purchased.bought(row)
    return list(zip(own.products.tolist(), own.days.tolist(), own.last.tolist(), strict=True))


def passing(bundle: Bundle, query: Query, customer: CustomerState) -> set[str]:
    """Products that pass the hard rules, row by row from the definition."""
    bought: dict[str, tuple[int, int]] = {}
    rows = bundle.customers[s.CUSTOMER_ID].tolist()
    since = 0
    if query.customer_id in rows:
        since = to_micros(bundle.manifest.data.as_of)
        for product, _, at in purchases(bundle, rows.index(query.customer_id)):
            bought[bundle.catalog.ids[product]] = (0, at)
    for product, kind, at, _ in customer.history.to_rows():
        if kind == s.PURCHASE and at >= since:
            bought[product] = (0, max(at, bought.get(product, (0, 0))[1]))
    allowed = set()
    for row in bundle.catalog.frame.to_dict("records"):
        product = row[s.PRODUCT_ID]
        launched, withdrawn = row[s.LAUNCHED_AT], row[s.WITHDRAWN_AT]
        on_sale = (
            bool(row[s.AVAILABLE])
            and not (launched == launched and launched is not None and launched > query.at)
            and not (withdrawn == withdrawn and withdrawn is not None and withdrawn <= query.at)
        )
        f = query.filters
        fits = (
            (not f.category or row[s.CATEGORY] in f.category)
            and (f.price_min is None or (row[s.PRICE] == row[s.PRICE] and row[s.PRICE] >= f.price_min))
            and (f.price_max is None or (row[s.PRICE] == row[s.PRICE] and row[s.PRICE] <= f.price_max))
            and all(row[name] in values for name, values in f.attributes)
        )
        usual = bundle.catalog.repurchase_days[bundle.catalog.index[product]]
        if query.purchased == "exclude":
            free = product not in bought
        elif query.purchased == "due":
            free = product not in bought or (to_micros(query.at) - bought[product][1]) / DAY_US >= usual
        else:
            free = True
        if on_sale and fits and free and product not in query.exclude:
            allowed.add(product)
    return allowed


queries = st.builds(
    Query,
    at=st.sampled_from([AT, AT + timedelta(days=40), AT - timedelta(days=200)]),
    customer_id=st.sampled_from([None, "c00", "c01", "c05", "stranger"]),
    n=st.integers(min_value=1, max_value=60),
    context=st.lists(st.sampled_from([*IDS[:12], "no-such"]), max_size=4).map(tuple),
    exclude=st.lists(st.sampled_from([*IDS, "no-such"]), max_size=12).map(tuple),
    filters=st.builds(
        Filters,
        category=st.lists(st.sampled_from(["tea", "mugs", "garden", "none such"]), max_size=2).map(tuple),
        price_min=st.one_of(st.none(), st.floats(min_value=0, max_value=60)),
        price_max=st.one_of(st.none(), st.floats(min_value=0, max_value=60)),
        attributes=st.sampled_from(
            [(), (("brand", ("Alto",)),), (("eco", (True,)), ("stars", (1.0, 2.0, 5.0)))]
        ),
    ),
    purchased=st.sampled_from(["exclude", "allow", "due"]),
)
events = st.lists(
    st.tuples(
        st.sampled_from([*IDS, "gone"]), st.sampled_from(s.KINDS), st.floats(min_value=0.001, max_value=100)
    ),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(asked=st.lists(queries, min_size=2, max_size=5), seen=events)
def test_what_is_remembered_of_a_state_changes_no_answer(
    asked: list[Query], seen: list[tuple[str, str, float]]
) -> None:
    """Whatever was asked before, with context or without, before the data end or after it."""
    customer = state(seen, "category:tea", at=AT - timedelta(days=300))
    remembered = dataclasses.replace(customer, memo={})
    for query in asked:
        of_one = dataclasses.replace(query, customer_id="c01")  # a state is of one customer
        assert RECOMMENDER.answer(of_one, remembered) == RECOMMENDER.answer(of_one, customer)
    after = [query for query in asked if query.at > AS_OF and not query.context]
    assert ("vector" in remembered.memo) >= bool(after)  # type: ignore[operator]


@settings(max_examples=200, deadline=None)
@given(asked=st.lists(queries, min_size=2, max_size=6))
def test_the_one_state_of_whom_nothing_is_kept_is_everybodys(asked: list[Query]) -> None:
    """Of those too whom the bundle knows, with purchases and a segment of their own."""
    blank = CustomerState(memo={}, is_blank=True)
    for query in asked:
        assert RECOMMENDER.answer(query, blank) == RECOMMENDER.answer(query, CustomerState())


@settings(max_examples=1500, deadline=None)
@given(query=queries, seen=events, segment=st.sampled_from(["", "category:tea", "unheard of"]))
def test_exactly_n_of_those_that_pass_the_hard_rules(
    query: Query, seen: list[tuple[str, str, float]], segment: str
) -> None:
    customer = state(seen, segment, at=query.at)
    got = RECOMMENDER.answer(query, customer).product_ids
    allowed = passing(BUNDLE, query, customer)
    assert len(got) == min(query.n, len(allowed))
    assert len(set(got)) == len(got)
    assert set(got) <= allowed


@settings(max_examples=300, deadline=None)
@given(query=queries, seen=events)
def test_personal_order_is_the_order_of_scores(query: Query, seen: list[tuple[str, str, float]]) -> None:
    """Where nothing is in the context: the best inner products of everything that passes, in order."""
    query = Query(**{**query.__dict__, "context": (), "purchased": "exclude"})
    customer = state(seen, at=query.at)
    items = RECOMMENDER.answer(query, customer).items
    personal = [item for item in items if item.source == "model:toy"]
    scores = [item.score for item in personal]
    assert scores == sorted(scores, reverse=True)
    if personal:
        assert len(personal) == len(items), "vectors score every product"
        source = RECOMMENDER._personal
        vector = source.vector(RECOMMENDER.subject(query, customer))  # type: ignore[union-attr]
        allowed = sorted(passing(BUNDLE, query, customer))
        inner = sorted(
            (float(BUNDLE.vectors[BUNDLE.catalog.index[p]] @ vector) for p in allowed), reverse=True
        )  # type: ignore[index]
        assert scores == pytest.approx(inner[: query.n], rel=1e-4, abs=1e-5)


def test_ranks_count_from_one_and_names_come_along() -> None:
    items = RECOMMENDER.answer(Query(at=AT, n=5), CustomerState()).items
    assert [item.rank for item in items] == [1, 2, 3, 4, 5]
    assert all(item.name == f"Thing {int(item.product_id[1:])}" for item in items)


def test_stranger_gets_popular_in_order() -> None:
    items = RECOMMENDER.answer(Query(at=AT, customer_id="stranger", n=8), CustomerState()).items
    on_sale = BUNDLE.catalog.on_sale(AT)
    expected = [IDS[row] for row in BUNDLE.popular if on_sale[row]][:8]
    assert [item.product_id for item in items] == expected
    assert {item.source for item in items} == {"popular"}
    assert {item.reason.code for item in items} == {"popular"}


def test_segment_comes_before_popular() -> None:
    items = RECOMMENDER.answer(Query(at=AT, n=20), CustomerState({"segment": "category:tea"})).items
    sources = [item.source for item in items]
    count = sources.count("segment")
    assert count > 0
    assert sources == ["segment"] * count + ["popular"] * (20 - count)
    assert items[0].reason.segment == "category:tea"


def test_known_customer_without_history_is_looked_up() -> None:
    items = RECOMMENDER.answer(
        Query(at=AT, customer_id="c03", n=3, purchased="exclude"), CustomerState()
    ).items
    assert BUNDLE.vectors is not None and BUNDLE.matrices
    inner = BUNDLE.vectors @ BUNDLE.matrices["customers"][3]
    allowed = passing(BUNDLE, Query(at=AT, customer_id="c03"), CustomerState())
    best = sorted(allowed, key=lambda p: -inner[BUNDLE.catalog.index[p]])[:3]
    assert [item.product_id for item in items] == best


def cosines_of(product: str, others: Sequence[str]) -> dict[str, float]:
    assert BUNDLE.vectors is not None
    units = BUNDLE.vectors / np.linalg.norm(BUNDLE.vectors, axis=1, keepdims=True)
    return {other: float(units[IDS.index(product)] @ units[IDS.index(other)]) for other in others}


def least_similar() -> float:
    """Halfway from an average pair of products to the nearest pairs."""
    pairs = np.array([c for a, one in enumerate(IDS) for c in cosines_of(one, IDS[a + 1 :]).values()])
    return float(pairs.mean() + np.quantile(pairs, 0.999)) / 2


def test_context_changes_a_strangers_answer_towards_it() -> None:
    plain = RECOMMENDER.answer(Query(at=AT, n=5), CustomerState())
    context = ("p001", "p002", "p003")
    near = RECOMMENDER.answer(Query(at=AT, n=5, context=context), CustomerState())
    assert near.product_ids != plain.product_ids
    assert {item.source for item in near.items} == {"model:toy"}
    for item in near.items:  # similar is said of what is near alone, of the nearest
        cosines = cosines_of(item.product_id, context)
        is_near = max(cosines.values()) >= least_similar()
        nearest = max(cosines, key=cosines.__getitem__)
        assert item.reason == (Reason("similar_to", nearest) if is_near else Reason("for_you"))
    assert {item.reason.code for item in near.items} == {"similar_to", "for_you"}
    assert not set(near.product_ids) & set(context), "what is being looked at comes last"


def test_an_unknown_product_in_the_context_changes_nothing() -> None:
    """Also for somebody whose history is long past."""
    customer = state([("p001", s.PURCHASE, 300.0), ("p002", s.VIEW, 200.0)])
    for at in (AT, AT + timedelta(days=900)):
        plain = RECOMMENDER.answer(Query(at=at, customer_id="stranger", n=9), customer)
        unknown = RECOMMENDER.answer(
            Query(at=at, customer_id="stranger", n=9, context=("no-such",)), customer
        )
        assert unknown.items == plain.items
        assert unknown.ignored == ("no-such",)


def test_what_is_looked_at_now_outweighs_an_old_view() -> None:
    source = RECOMMENDER._personal
    history = state([("p001", s.VIEW, 1.0)]).history
    context = np.array([2], dtype=np.int32)
    products, weights = source._encoder._history.of(history, AT, context)  # type: ignore[union-attr]
    assert products.tolist() == [1, 2]
    assert weights[1] > 10 * weights[0]


def test_bought_products_say_so_whatever_is_near() -> None:
    on_sale = [p for p, ok in zip(IDS, BUNDLE.catalog.on_sale(AT), strict=True) if ok]
    customer = state([(p, s.PURCHASE, 5.0) for p in on_sale[:6]])
    items = RECOMMENDER.answer(Query(at=AT, n=40, purchased="allow"), customer).items
    told = {item.product_id: item.reason for item in items}
    for product in on_sale[:6]:
        assert told[product].code == "bought_before"
        assert told[product].product_id == product


def test_similar_without_vectors_stays_in_the_category() -> None:
    bundle = make_bundle(encoder="none", chain=("popular",))
    given = next(row for row, c in enumerate(bundle.catalog.frame[s.CATEGORY]) if c == "tea")
    items = Recommender(bundle, FrameReader({})).similar([IDS[given]], n=30, at=AT).items
    category = dict(zip(IDS, bundle.catalog.frame[s.CATEGORY], strict=True))
    same = [category[item.product_id] == "tea" for item in items]
    assert same == sorted(same, reverse=True)
    assert 0 < sum(same) < len(same)
    assert {item.reason.code for item in items[: sum(same)]} == {"same_category"}


def test_context_is_shown_when_nothing_else_is_left() -> None:
    allowed = sorted(passing(BUNDLE, Query(at=AT), CustomerState()))
    only = tuple(sorted(set(IDS) - set(allowed[:4])))
    got = RECOMMENDER.answer(Query(at=AT, n=10, exclude=only, context=(allowed[0],)), CustomerState())
    assert sorted(got.product_ids) == allowed[:4]
    assert got.product_ids[-1] == allowed[0]


def test_unknown_ids_are_told_once() -> None:
    got = RECOMMENDER.answer(Query(at=AT, context=("x", "p001", "x"), exclude=("y", "x")), CustomerState())
    assert got.ignored == ("x", "y")


def test_purchases_since_the_bundle_count() -> None:
    bought = state([("p004", s.PURCHASE, 0.01)])
    assert "p004" not in RECOMMENDER.answer(Query(at=AT, customer_id="c00", n=60), bought).product_ids


def test_repeats_are_lifted_only_where_they_may_be_shown() -> None:
    lifted = Recommender(make_bundle(repeat_weight=1000.0), FrameReader({}))
    on_sale = [p for p, ok in zip(IDS, BUNDLE.catalog.on_sale(AT), strict=True) if ok]
    customer = state([(on_sale[3], s.PURCHASE, 0.05), (on_sale[5], s.VIEW, 0.04)])
    allow = lifted.answer(Query(at=AT, n=5, purchased="allow"), customer).items
    assert allow[0].product_id == on_sale[3]
    assert allow[0].reason.code == "bought_before"
    exclude = lifted.answer(Query(at=AT, n=60, purchased="exclude"), customer).product_ids
    assert on_sale[3] not in exclude


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_the_lift_of_repeats_is_in_standard_deviations_of_the_scores(scale: float) -> None:
    """Equal to brute force, and so the same whatever the scale of a model's scores."""
    bundle = make_bundle(repeat_weight=0.7)
    assert bundle.vectors is not None
    vectors = bundle.vectors * np.float32(scale)
    bundle = dataclasses.replace(bundle, vectors=vectors, index=ProductIndex.build(vectors))
    recommender = Recommender(bundle, FrameReader({}))
    for row, customer in enumerate(bundle.customers[s.CUSTOMER_ID]):
        scores = (vectors @ bundle.matrices[CUSTOMERS][row]).astype(np.float64)
        lifted = scores.copy()
        for product, days, _ in purchases(bundle, row):
            lifted[product] += 0.7 * days * scores.std()
        lifted[~bundle.catalog.on_sale(AT)] = -np.inf
        items = recommender.answer(
            Query(at=AT, customer_id=customer, n=9, purchased="allow"), CustomerState()
        ).items
        assert [item.product_id for item in items] == [IDS[place] for place in np.argsort(-lifted)[:9]]
        assert [item.score for item in items] == pytest.approx(np.sort(-lifted)[:9] * -1, rel=1e-4)


def test_repeats_source_orders_by_days_then_latest() -> None:
    bundle = make_bundle(encoder="repeats", chain=("personal", "popular"))
    recommender = Recommender(bundle, FrameReader({}))
    on_sale = [p for p, ok in zip(IDS, bundle.catalog.on_sale(AT), strict=True) if ok]
    a, b, c = on_sale[:3]
    seen = [(a, s.PURCHASE, 9.0), (b, s.PURCHASE, 5.0), (b, s.PURCHASE, 3.0), (c, s.PURCHASE, 2.0)]
    items = recommender.answer(Query(at=AT, n=4, purchased="allow"), state(seen)).items
    assert [item.product_id for item in items[:3]] == [b, c, a]
    assert [item.source for item in items] == ["model:toy"] * 3 + ["popular"]


def test_unknown_attribute_is_told() -> None:
    with pytest.raises(DataError, match=r"brand.*found 'colour'"):
        RECOMMENDER.answer(Query(at=AT, filters=Filters(attributes=(("colour", ("red",)),))), CustomerState())


class Broken(FeatureReader):
    def read(self, customer_ids: Sequence[str], at: datetime) -> list[CustomerState]:
        raise FeatureUnavailable("down")


def test_without_features_the_answer_degrades_and_counts() -> None:
    recommender = Recommender(BUNDLE, Broken())
    known, stranger = recommender.recommend(
        [Query(at=AT, customer_id="c00", n=5), Query(at=AT, customer_id="stranger", n=5)]
    )
    assert {item.source for item in known.items} == {"model:toy"}, "the stored vector still serves"
    assert {item.source for item in stranger.items} == {"popular"}
    assert recommender.degraded["features"] == 1
    assert known.degraded and stranger.degraded
    both, nobody = recommender.recommend(
        [Query(at=AT, customer_id="c00", session_id="s", n=5), Query(at=AT, n=5)]
    )
    assert (both.degraded, nobody.degraded) == (True, False), "of nobody there is nothing to be read"
    assert not any(answer.degraded for answer in RECOMMENDER.recommend([Query(at=AT, customer_id="c00")]))


def test_batch_equals_one_by_one() -> None:
    states = {f"c{i:02d}": state([(IDS[i], s.VIEW, 1.0 + i)]) for i in range(6)}
    recommender = Recommender(BUNDLE, FrameReader(states))
    asked = [Query(at=AT, customer_id=customer, n=7) for customer in states]
    assert recommender.recommend(asked) == [recommender.recommend([query])[0] for query in asked]


def test_score_is_the_inner_product_and_nan_for_the_unknown() -> None:
    recommender = Recommender(BUNDLE, FrameReader({}))
    scores = recommender.score(["c03", "stranger"], ["p001", "no-such"], AT)
    assert BUNDLE.vectors is not None and BUNDLE.matrices
    assert scores[0, 0] == pytest.approx(float(BUNDLE.vectors[1] @ BUNDLE.matrices["customers"][3]), rel=1e-5)
    assert np.isnan(scores[0, 1]) and np.isnan(scores[1]).all()


def test_similar_is_the_nearest_by_cosine() -> None:
    assert BUNDLE.vectors is not None
    unit = BUNDLE.vectors / np.linalg.norm(BUNDLE.vectors, axis=1, keepdims=True)
    got = RECOMMENDER.similar(["p007"], n=6, at=AT)
    on_sale = BUNDLE.catalog.on_sale(AT)
    order = [IDS[row] for row in np.argsort(-(unit @ unit[7])) if on_sale[row] and row != 7]
    assert got.product_ids == order[:6]
    assert {item.reason.product_id for item in got.items} == {"p007"}
    everything = RECOMMENDER.similar(["p007"], n=100, at=AT).product_ids
    assert sorted([*everything, *(["p007"] if on_sale[7] else [])]) == sorted(np.array(IDS)[on_sale].tolist())


def test_model_clock_keeps_recency_alive_long_after_the_data_ended() -> None:
    """Served years later, a recent view still weighs more than an old one."""
    years_later = AS_OF + timedelta(days=4000)
    events = [
        (IDS[0], s.PURCHASE, to_micros(AS_OF - timedelta(days=300)), 1.0),
        (IDS[1], s.PURCHASE, to_micros(AS_OF - timedelta(days=1)), 1.0),
    ]
    source = RECOMMENDER._personal
    _, weights = source._encoder._history.of(History.of(events), years_later)  # type: ignore[union-attr]
    assert weights[1] > 5 * weights[0] > 0
