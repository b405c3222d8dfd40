"""Rules against their definitions: who may see what, and in which order."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval.benchmarks import shop_home
from eval.benchmarks.shop import Size, draw_shop
from eval.benchmarks.shop_ranker import with_ranker
from feature_repo import schema as s
from feature_repo.recent import DAY_US, to_micros
from serving import batch
from serving.bundle import Bundle
from serving.catalog import Catalog
from serving.events import Exposure
from serving.features import CustomerState, FrameReader
from serving.index import ProductIndex
from serving.recommender import Query, Recommendation, Recommender
from serving.rules import Rules, apply, load_rules
from serving.rules.config import RulesFile
from tests.builders import AS_OF, AT, make_bundle, state
from tests.rules_reference import arranged, is_eligible
from tests.test_api import Api
from tests.test_recommender import events, passing, queries

BUNDLE = make_bundle()
PLAIN = Recommender(BUNDLE, FrameReader({}))
IDS = BUNDLE.catalog.ids
CATEGORIES = ("tea", "mugs", "garden")
SURFACES = st.sampled_from([None, "home", "mail"])
numbers = st.floats(min_value=0, max_value=60).map(lambda x: round(x, 1))
unknown = st.sampled_from(["hide", "show"])
categories = st.lists(st.sampled_from(CATEGORIES), min_size=1, max_size=2, unique=True)


def rule(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(fields)


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


def joined(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(*parts).map(lambda found: {key: value for part in found for key, value in part.items()})


windows = st.sampled_from(
    [{}, {"starts_at": AT}, {"ends_at": AT}, {"starts_at": AS_OF, "ends_at": AT + timedelta(days=60)}]
)
where = joined(windows, optional(surface=st.lists(st.sampled_from(["home", "mail"]), min_size=1, max_size=2)))
selectors = optional(
    category=categories,
    product_id=st.lists(st.sampled_from([*IDS, "gone"]), min_size=1, max_size=20),
    attributes=st.sampled_from([{"brand": "Alto"}, {"eco": True}, {"stars": [1.0, 2.0, 5.0]}]),
)
bands = st.one_of(
    rule(min=numbers), rule(max=numbers), numbers.map(lambda least: {"min": least, "max": least + 20.0})
)
prices = joined(where, selectors, bands, optional(without_price=unknown))
eligibilities = joined(
    where,
    selectors,
    rule(customer=st.sampled_from(["limit", "class"])),
    st.one_of(
        rule(product=st.just("stars"), compare=st.sampled_from(["at_most", "at_least", "equal"])),
        rule(product=st.just("price"), compare=st.just("at_most")),
        bands,
        rule(one_of=st.lists(st.sampled_from([1.0, 2.0, 3.0]), min_size=1)),
    ),
    optional(unknown_customer=unknown, unknown_product=unknown),
)
ages = joined(where, selectors, bands, rule(born=st.just("born")), optional(unknown_customer=unknown))
boosts = joined(selectors, rule(factor=st.sampled_from([0.1, 0.5, 2.0, 3.0, 10.0])))
caps = joined(optional(category=categories), rule(at_most=st.integers(1, 4)))
pins = rule(product_id=st.sampled_from([*IDS, "gone"]), slot=st.integers(1, 15))
diversities = rule(**{"lambda": st.sampled_from([0.0, 0.3, 0.7, 0.95, 1.0])})
news = rule(at_least=st.integers(1, 5), days=st.sampled_from([7.0, 60.0, 400.0]))
explores = rule(
    slots=st.lists(st.integers(1, 12), min_size=1, max_size=3), epsilon=st.sampled_from([0.2, 1.0])
)


def some(kind: st.SearchStrategy[dict[str, Any]], most: int = 2) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(kind, max_size=most)


def file_of(content: dict[str, Any]) -> RulesFile:
    named = {
        kind: [{"name": f"{kind} {number}", **one} for number, one in enumerate(rules)]
        if isinstance(rules, list)
        else rules
        for kind, rules in content.items()
    }
    return RulesFile.model_validate(named)


def under(content: dict[str, Any], bundle: Bundle = BUNDLE) -> Recommender:
    return Recommender(bundle, FrameReader({}), Rules(file_of(content), bundle))


hard = rule(price=some(prices), eligibility=some(eligibilities), age=some(ages))
soft = rule(boost=some(boosts), cap=some(caps), diversity=some(diversities, 1), pin=some(pins, 4))
chancy = rule(new=some(news, 1), explore=some(explores, 1))
customers = st.fixed_dictionaries(
    {},
    optional={
        "customer_attributes.limit": st.sampled_from([0.0, 1.0, 3.0, 5.0, 30.0]),
        "customer_attributes.class": st.sampled_from([1.0, 2.0, 9.0]),
        "customer_attributes.born": st.sampled_from(["2000-03-01", "1970-12-31", "2024-02-29"]),
    },
)
asked = st.tuples(queries, SURFACES, st.sampled_from([None, "r1", "r2"])).map(
    lambda found: dataclasses.replace(found[0], surface=found[1], request_id=found[2])
)


def with_row(customer: CustomerState, row: dict[str, Any]) -> CustomerState:
    return dataclasses.replace(customer, row={**customer.row, **row})


def allowed_ids(bundle: Bundle, file: RulesFile, query: Query, customer: CustomerState) -> set[str]:
    rows = {row[s.PRODUCT_ID]: row for row in bundle.catalog.frame.to_dict("records")}
    found = passing(bundle, query, customer)
    return {product for product in found if is_eligible(file, rows[product], customer.row, query)}


def _exactly_n_of_those_that_pass_whatever_the_rules(
    query: Query, seen: list[tuple[str, str, float]], row: dict[str, Any], content: dict[str, Any]
) -> None:
    customer = with_row(state(seen, "category:tea", at=query.at), row)
    recommender = under(content)
    assert recommender.rules is not None
    items = recommender.answer(query, customer).items
    allowed = allowed_ids(BUNDLE, recommender.rules.file, query, customer)
    got = [item.product_id for item in items]
    assert set(got) <= allowed
    assert len(got) == len(set(got)) == min(query.n, len(allowed))
    assert [item.rank for item in items] == list(range(1, len(items) + 1))
    assert all(item.propensity is not None and 0 < item.propensity <= 1 for item in items)
    assert recommender.answer(query, customer).items == items, "the same request, the same answer"


@settings(max_examples=400, deadline=None)
@given(query=asked, seen=events, row=customers, content=joined(hard, soft, chancy))
def test_exactly_n_of_those_that_pass_whatever_the_rules(
    query: Query, seen: list[tuple[str, str, float]], row: dict[str, Any], content: dict[str, Any]
) -> None:
    _exactly_n_of_those_that_pass_whatever_the_rules(query, seen, row, content)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(query=asked, seen=events, row=customers, content=joined(hard, soft, chancy))
def test_exactly_n_of_those_that_pass_whatever_the_rules_in_many_cases(
    query: Query, seen: list[tuple[str, str, float]], row: dict[str, Any], content: dict[str, Any]
) -> None:
    _exactly_n_of_those_that_pass_whatever_the_rules(query, seen, row, content)


@settings(max_examples=600, deadline=None)
@given(query=asked, seen=events, row=customers, content=hard)
def test_under_hard_rules_alone_the_order_is_the_plain_one(
    query: Query, seen: list[tuple[str, str, float]], row: dict[str, Any], content: dict[str, Any]
) -> None:
    """As if what does not pass had been excluded by the request."""
    customer = with_row(state(seen, at=query.at), row)
    recommender = under(content)
    assert recommender.rules is not None
    allowed = allowed_ids(BUNDLE, recommender.rules.file, query, customer)
    excluding = dataclasses.replace(query, exclude=tuple(sorted({*IDS, *query.exclude} - allowed)))
    items = recommender.answer(query, customer).items
    assert [item._replace(propensity=None) for item in items] == list(PLAIN.answer(excluding, customer).items)
    assert {item.propensity for item in items} <= {1.0}


def plain_order(query: Query, customer: CustomerState) -> list[int]:
    """All that passes without what is looked at, in plain order."""
    everything = dataclasses.replace(query, n=100, exclude=(*query.exclude, *query.context))
    return [BUNDLE.catalog.index[p] for p in PLAIN.answer(everything, customer).product_ids]


def _soft_rules_do_what_their_definitions_say(
    query: Query, seen: list[tuple[str, str, float]], content: dict[str, Any]
) -> None:
    """Boosts, pins, caps and diversity, slot by slot from the definitions; what is looked at comes last, plainly."""
    customer = state(seen, at=query.at)
    query = dataclasses.replace(query, context=())
    pool = plain_order(query, customer)
    recommender = under(content)
    assert recommender.rules is not None
    expected = arranged(BUNDLE, recommender.rules.file, pool, query.n)
    items = recommender.answer(query, customer).items
    assert [item.product_id for item in items] == [IDS[product] for product, _ in expected]
    assert [item.source == "pinned" for item in items] == [is_pinned for _, is_pinned in expected]
    scores = {
        item.product_id: item.score
        for item in PLAIN.answer(dataclasses.replace(query, n=100), customer).items
    }
    if query.purchased == "exclude":  # what was bought before is lifted by the source, which pins pass by
        assert [item.score for item in items] == pytest.approx(
            [scores[item.product_id] for item in items], rel=1e-5, abs=1e-6
        )


@settings(max_examples=400, deadline=None)
@given(query=asked, seen=events, content=soft)
def test_soft_rules_do_what_their_definitions_say(
    query: Query, seen: list[tuple[str, str, float]], content: dict[str, Any]
) -> None:
    _soft_rules_do_what_their_definitions_say(query, seen, content)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(query=asked, seen=events, content=soft)
def test_soft_rules_do_what_their_definitions_say_in_many_cases(
    query: Query, seen: list[tuple[str, str, float]], content: dict[str, Any]
) -> None:
    _soft_rules_do_what_their_definitions_say(query, seen, content)


@settings(max_examples=300, deadline=None)
@given(query=asked, content=soft, looked=st.lists(st.sampled_from(IDS[:12]), min_size=1, max_size=4))
def test_what_is_looked_at_comes_last_and_no_pin_brings_it_forward(
    query: Query, content: dict[str, Any], looked: list[str]
) -> None:
    query = dataclasses.replace(query, context=tuple(looked))
    got = under(content).answer(query, CustomerState()).product_ids
    is_context = [product in looked for product in got]
    assert is_context == sorted(is_context)


@settings(max_examples=300, deadline=None)
@given(query=asked, seen=events, content=soft)
def test_diversity_with_lambda_1_is_the_order_without(
    query: Query, seen: list[tuple[str, str, float]], content: dict[str, Any]
) -> None:
    customer = state(seen, at=query.at)
    without = under({**content, "diversity": []}).answer(query, customer)
    assert under({**content, "diversity": [{"lambda": 1.0}]}).answer(query, customer) == without


@pytest.fixture(scope="module")
def wide() -> Bundle:
    return make_bundle(3, products=300)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(1, 40),
    at_most=st.integers(1, 3),
    tea=st.integers(1, 3),
    depth=st.sampled_from([(1, 1), (2, 5), (5, 100)]),
    trade_off=st.sampled_from([0.5, 1.0]),
)
def test_caps_hold_whenever_enough_others_pass(
    wide: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    n: int,
    at_most: int,
    tea: int,
    depth: tuple[int, int],
    trade_off: float,
) -> None:
    """However deep candidates are drawn: where they are too few under the caps, more are."""
    monkeypatch.setattr(apply, "DEPTH", depth[0])
    monkeypatch.setattr(apply, "LEAST", depth[1])
    content = {
        "cap": [{"at_most": at_most}, {"at_most": tea, "category": ["tea"]}],
        "diversity": [{"lambda": trade_off}],
    }
    category = dict(zip(wide.catalog.ids, wide.catalog.frame[s.CATEGORY], strict=True))
    limits = {name: at_most if name != "tea" else min(at_most, tea) for name in CATEGORIES}
    on_sale = [p for p, ok in zip(wide.catalog.ids, wide.catalog.on_sale(AT), strict=True) if ok]
    there = Counter(category[product] for product in on_sale)
    room = there[None] + sum(min(limit, there[name]) for name, limit in limits.items())
    items = (
        under(content, wide)
        .answer(Query(at=AT, customer_id="c01", n=n, purchased="allow"), CustomerState())
        .items
    )
    counts = Counter(category[item.product_id] for item in items)
    assert len(items) == min(n, len(on_sale))
    if n <= room:
        assert all(counts[name] <= limit for name, limit in limits.items())
    else:  # no more than had to give way
        assert (
            sum(max(counts[name] - limit, 0) for name, limit in limits.items()) == min(n, len(on_sale)) - room
        )


def test_caps_give_way_before_diversity_and_that_before_pins() -> None:
    """Of one category alone: the cap is passed, the order is still that of diversity, the pin stands."""
    tea = [p for p, c in zip(IDS, BUNDLE.catalog.frame[s.CATEGORY], strict=True) if c == "tea"]
    query = Query(at=AT, customer_id="c03", n=6, exclude=tuple(sorted(set(IDS) - set(tea))))
    customer = CustomerState()
    pool = plain_order(query, customer)
    pin = {"product_id": IDS[pool[-1]], "slot": 2}
    content = {"cap": [{"at_most": 1}], "diversity": [{"lambda": 0.3}], "pin": [pin]}
    got = under(content).answer(query, customer).product_ids
    assert len(got) == min(6, len(pool))
    assert got == under({**content, "cap": []}).answer(query, customer).product_ids
    assert got[1] == pin["product_id"]
    assert got != under({"pin": [pin]}).answer(query, customer).product_ids
    short = dataclasses.replace(query, n=1)
    assert under(content).answer(short, customer).product_ids == [IDS[pool[0]]], (
        "it ends before the pin's slot"
    )


@settings(max_examples=400, deadline=None)
@given(query=asked, content=chancy, seen=events)
def test_a_quota_is_met_as_far_as_new_products_pass(
    query: Query, content: dict[str, Any], seen: list[tuple[str, str, float]]
) -> None:
    query = dataclasses.replace(query, context=(), request_id=None)
    customer = state(seen, at=query.at)
    recommender = under(content)
    items = recommender.answer(query, customer).items
    plain = {item.product_id for item in PLAIN.answer(query, customer).items}
    for quota in content["new"][:1]:
        launched = dict(zip(IDS, BUNDLE.catalog.frame[s.LAUNCHED_AT], strict=True))
        since = query.at - timedelta(days=quota["days"])
        new = {
            product for product, at in launched.items() if at is not None and at > since and at <= query.at
        }
        open_slots = len(items) - len(
            {slot for one in content["explore"] for slot in one["slots"] if slot <= len(items)}
        )
        there = len(new & allowed_ids(BUNDLE, file_of({}), query, customer))
        got = sum(item.product_id in new for item in items)
        assert got >= min(quota["at_least"], there, open_slots)
        brought = [item for item in items if item.source == "new"]
        assert all(item.product_id in new and item.product_id not in plain for item in brought)


def explored(slots: list[int], epsilon: float, requests: int) -> Iterator[tuple[Recommendation, ...]]:
    recommender = under({"explore": [{"slots": slots, "epsilon": epsilon}]})
    for number in range(requests):
        query = Query(at=AT, customer_id="c03", n=5, request_id=f"request {number}")
        yield recommender.answer(query, CustomerState()).items


@pytest.mark.parametrize("epsilon", [0.3, 1.0])
def test_what_a_slot_explores_has_the_frequencies_of_its_propensities(epsilon: float) -> None:
    """Pearson's chi-square over all eligible products, at the 0.1 % level; propensities add up to 1."""
    plain = PLAIN.answer(Query(at=AT, customer_id="c03", n=5), CustomerState()).product_ids
    eligible = passing(BUNDLE, Query(at=AT, customer_id="c03"), CustomerState()) - {*plain[:2], *plain[3:]}
    requests, seen, told = 6000, Counter[str](), dict[str, float]()
    for items in explored([3], epsilon, requests):
        ids = [item.product_id for item in items]
        assert [*ids[:2], *ids[3:]] == [*plain[:2], *plain[3:]], "other slots stay as they are"
        assert all(item.propensity == 1.0 for place, item in enumerate(items) if place != 2)
        assert (items[2].source == "explore") == (ids[2] != plain[2])
        seen[ids[2]] += 1
        told[ids[2]] = items[2].propensity or 0.0
    assert set(told) == eligible
    assert math.fsum(told.values()) == pytest.approx(1.0, abs=1e-12)
    chi_square = sum((seen[p] - requests * told[p]) ** 2 / (requests * told[p]) for p in eligible)
    # Wilson-Hilferty: the 99.9 % quantile of a chi-square with so many degrees of freedom
    freedom = len(eligible) - 1
    assert chi_square < freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3


def test_of_two_slots_the_later_ones_propensity_is_given_the_earlier() -> None:
    """What was put out of slot 2 may stand in slot 4; each of the m eligible has ε/m, the rules' own 1 − ε more."""
    plain = PLAIN.answer(Query(at=AT, customer_id="c03", n=5), CustomerState()).product_ids
    there = len(passing(BUNDLE, Query(at=AT, customer_id="c03"), CustomerState()))
    size, moved = there - 4, 0
    for items in explored([2, 4], 0.5, 1500):
        ids = [item.product_id for item in items]
        assert len(set(ids)) == 5
        moved += ids[3] == plain[1]
        for slot in (1, 3):
            greedy = ids[slot] == plain[slot]
            assert items[slot].propensity == pytest.approx(0.5 / size + (0.5 if greedy else 0.0))
    assert moved > 0


def test_nothing_is_explored_without_a_request_id() -> None:
    recommender = under({"explore": [{"slots": [1, 2, 3], "epsilon": 1.0}]})
    plain = PLAIN.answer(Query(at=AT, n=5), CustomerState()).product_ids
    assert recommender.answer(Query(at=AT, n=5), CustomerState()).product_ids == plain


def test_exploration_keeps_caps() -> None:
    category = dict(zip(IDS, BUNDLE.catalog.frame[s.CATEGORY], strict=True))
    content = {"cap": [{"at_most": 1}], "explore": [{"slots": [1, 3], "epsilon": 1.0}]}
    recommender = under(content)
    for number in range(300):
        query = Query(at=AT, customer_id="c05", n=4, request_id=str(number))
        got = Counter(category[p] for p in recommender.answer(query, CustomerState()).product_ids)
        assert all(got[name] <= 1 for name in CATEGORIES)


@settings(max_examples=300, deadline=None)
@given(query=asked, row=customers, content=joined(hard, soft, chancy))
def test_without_vectors_rules_hold_too(query: Query, row: dict[str, Any], content: dict[str, Any]) -> None:
    bundle = make_bundle(encoder="none", chain=("segment", "popular"))
    recommender = under(content, bundle)
    assert recommender.rules is not None
    customer = CustomerState({"segment": "category:tea", **row})
    got = recommender.answer(query, customer).product_ids
    allowed = allowed_ids(bundle, recommender.rules.file, query, customer)
    assert set(got) <= allowed
    assert len(set(got)) == len(got) == min(query.n, len(allowed))


@pytest.fixture(scope="module")
def ranked() -> tuple[Bundle, list[CustomerState]]:
    shop = draw_shop(Size(products=400, dimensions=16, customers=60), seed=5, at=AT)
    bundle = shop_home._bundle(shop, seed=5)
    assert bundle.vectors is not None
    bundle = dataclasses.replace(bundle, index=ProductIndex.build(bundle.vectors))
    states = [shop_home.state(shop, row) for row in range(60)]
    return with_ranker(bundle, shop, states, seed=5), states


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    row=st.integers(0, 59),
    n=st.integers(1, 60),
    pin=st.integers(0, 399),
    excluded=st.lists(st.integers(0, 399), max_size=100),
    purchased=st.sampled_from(["exclude", "allow", "due"]),
    kinds=st.sets(st.sampled_from(["price", "pin", "boost", "cap", "diversity", "new", "explore"])),
)
def test_ranked_answers_follow_rules_too(
    ranked: tuple[Bundle, list[CustomerState]],
    row: int,
    n: int,
    pin: int,
    excluded: list[int],
    purchased: Any,
    kinds: set[str],
) -> None:
    """Scores are the ranker's chances, of what a rule brings too."""
    bundle, states = ranked
    ids = bundle.catalog.ids
    content: dict[str, list[dict[str, Any]]] = {
        "price": [{"max": 40.0, "without_price": "show"}],
        "pin": [{"product_id": ids[pin], "slot": 2}],
        "boost": [{"attributes": {"eco": True}, "factor": 3.0}],
        "cap": [{"at_most": 2}],
        "diversity": [{"lambda": 0.6}],
        "new": [{"at_least": 2, "days": 200.0}],
        "explore": [{"slots": [3], "epsilon": 0.8}],
    }
    recommender = under({kind: content[kind] for kind in sorted(kinds)}, bundle)
    assert recommender.rules is not None
    exclude = tuple(ids[product] for product in excluded)
    customer = dataclasses.replace(states[row], memo={})
    query = Query(at=AT, customer_id=f"c{row:08d}", n=n, exclude=exclude, purchased=purchased, request_id="r")
    items = recommender.answer(query, customer).items
    assert recommender.answer(query, customer).items == items, "from what is remembered too"
    allowed = allowed_ids(bundle, recommender.rules.file, query, customer)
    got = [item.product_id for item in items]
    assert set(got) <= allowed
    assert len(set(got)) == len(got) == min(n, len(allowed))
    if "pin" in kinds and ids[pin] in allowed and len(got) >= 2:
        assert got[1] == ids[pin]
    reader = FrameReader({query.customer_id or "": customer})
    chances = Recommender(bundle, reader).score([query.customer_id or ""], got, AT)[0]
    # trees split between neighbouring numbers: one that another batch rounds otherwise may fall on the other side
    assert np.isclose([item.score for item in items], chances, rtol=1e-4).sum() >= len(items) - 2


def test_a_price_changed_live_is_seen_by_the_rules() -> None:
    bundle = make_bundle()
    recommender = under({"price": [{"max": 20.0}]}, bundle)
    before = recommender.answer(Query(at=AT, n=60), CustomerState()).product_ids
    bundle.catalog.change({before[0]: {s.PRICE: 21.0}})
    assert recommender.answer(Query(at=AT, n=60), CustomerState()).product_ids == before[1:]
    bundle.catalog.change({before[0]: {s.PRICE: 20.0}})
    assert recommender.answer(Query(at=AT, n=60), CustomerState()).product_ids == before


def test_an_attribute_changed_live_is_seen_by_boosts() -> None:
    bundle = make_bundle()
    recommender = under({"boost": [{"attributes": {"brand": "Cielo"}, "factor": 1000.0}]}, bundle)
    before = recommender.answer(Query(at=AT, n=8), CustomerState()).product_ids
    bundle.catalog.change({before[7]: {"brand": "Cielo"}})
    assert recommender.answer(Query(at=AT, n=8), CustomerState()).product_ids == [before[7], *before[:7]]


def test_what_is_due_goes_by_category_then_own_rhythm_then_what_is_usual() -> None:
    """Bought every 10 days three times, last 12 days ago: due by the own rhythm, whatever is usual."""
    catalog = BUNDLE.catalog
    on_sale = catalog.on_sale(AT)
    usual = catalog.repurchase_days
    category = catalog.frame[s.CATEGORY].tolist()
    mug = next(i for i in range(len(IDS)) if on_sale[i] and category[i] == "mugs" and usual[i] > 15)
    tea = next(i for i in range(len(IDS)) if on_sale[i] and category[i] == "tea")
    rare = next(i for i in range(len(IDS)) if on_sale[i] and category[i] == "garden" and np.isnan(usual[i]))
    bought = [(IDS[mug], s.PURCHASE, days) for days in (32.0, 22.0, 12.0)]
    bought += [(IDS[tea], s.PURCHASE, days) for days in (32.0, 22.0, 12.0)]
    bought += [(IDS[rare], s.PURCHASE, days) for days in (31.0, 12.0)]
    customer = state(bought)
    query = Query(at=AT, n=60, purchased="due")

    def shown(recommender: Recommender) -> set[str]:
        return set(recommender.answer(query, customer).product_ids) & {IDS[mug], IDS[tea], IDS[rare]}

    assert IDS[mug] not in shown(PLAIN)
    assert shown(under({})) == shown(PLAIN), "without a word on it, as without rules"
    assert shown(under({"due": {"days": {"tea": 12.5}}})) == {IDS[mug]}
    assert shown(under({"due": {"days": {"tea": 11.5}}})) == {IDS[mug], IDS[tea]}
    assert shown(under({"due": {"purchases": 2, "days": {"tea": 11.5}}})) == {IDS[mug], IDS[tea]}
    assert IDS[mug] not in shown(under({"due": {"purchases": 4}}))


def test_ages_count_completed_years_on_the_day() -> None:
    content = {"age": [{"born": "born", "min": 18, "category": ["tea"]}]}
    recommender = under(content)
    tea = {p for p, c in zip(IDS, BUNDLE.catalog.frame[s.CATEGORY], strict=True) if c == "tea"}
    for born, is_shown in (
        ("2008-03-01", True),
        ("2008-03-02", False),
        (datetime(2008, 3, 1, tzinfo=UTC), True),
        ("not a day", False),
        ("2027-01-01", False),
        (None, False),
    ):
        customer = CustomerState({"customer_attributes.born": born})
        got = recommender.answer(Query(at=AT, n=60), customer).product_ids
        assert bool(tea & set(got)) == is_shown, born


def test_similar_products_pass_the_hard_rules_of_nobody_in_particular() -> None:
    content = {
        "price": [{"max": 20.0}],
        "age": [{"born": "born", "min": 18, "category": ["tea"]}],
        "pin": [{"product_id": IDS[0], "slot": 1}],
    }
    got = under(content).similar([IDS[7]], n=60, at=AT).product_ids
    frame = BUNDLE.catalog.frame.set_index(s.PRODUCT_ID)
    plain = PLAIN.similar([IDS[7]], n=60, at=AT).product_ids
    assert got == [p for p in plain if frame[s.PRICE][p] <= 20.0 and frame[s.CATEGORY][p] != "tea"]


def test_lists_of_many_customers_follow_rules() -> None:
    recommender = under({"pin": [{"product_id": IDS[1], "slot": 2}], "cap": [{"at_most": 2}]})
    customers = ["c00", "c01", "c05", "stranger"]
    lists = batch.rank(recommender, customers, at=AT, n=6)
    answers = recommender.recommend([Query(at=AT, customer_id=customer, n=6) for customer in customers])
    for row, answer in zip(lists.products, answers, strict=True):
        assert [IDS[product] for product in row] == answer.product_ids
    assert lists.searched == 0


def test_the_same_recommender_under_other_rules() -> None:
    ruled = under({"pin": [{"product_id": IDS[1], "slot": 1}]})
    query = Query(at=AT, n=5)
    other = PLAIN.with_rules(ruled.rules)
    assert other.answer(query, CustomerState()) == ruled.answer(query, CustomerState())
    assert other.with_rules(None).answer(query, CustomerState()) == PLAIN.answer(query, CustomerState())
    assert PLAIN.rules is None
    assert {item.propensity for item in PLAIN.answer(query, CustomerState()).items} == {None}


def test_what_rules_put_there_says_so() -> None:
    newest = max(
        (
            i
            for i in range(len(IDS))
            if BUNDLE.catalog.on_sale(AT)[i] and BUNDLE.catalog.launched[i] <= to_micros(AT)
        ),
        key=lambda i: int(BUNDLE.catalog.launched[i]),
    )
    content = {"pin": [{"product_id": IDS[newest], "slot": 1}], "explore": [{"slots": [2], "epsilon": 1.0}]}
    items = under(content).answer(Query(at=AT, n=3, request_id="r 7"), CustomerState()).items
    assert (items[0].source, items[0].reason.code) == ("pinned", "featured")
    assert (items[1].source, items[1].reason.code) == ("explore", "discover")
    assert (items[2].source, items[2].reason.code) == ("popular", "popular")


def test_the_example_of_the_readme_fits_a_bundle_that_has_what_it_names(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    path = tmp_path / "rules.toml"
    example = readme.partition("```toml\n[[eligibility]]")[2].partition("```")[0]
    path.write_text("[[eligibility]]" + example)
    frame = BUNDLE.catalog.frame.assign(risk_level=1.0)
    frame[s.CATEGORY] = frame[s.CATEGORY].replace({"tea": "funds", "mugs": "coffee"})
    rules = load_rules(path, dataclasses.replace(BUNDLE, catalog=Catalog(frame)))
    assert len(list(rules.file.named())) == 8
    assert rules.file.due is not None


class Kept(list[Exposure]):
    """Keeps exposures instead of writing them."""

    def add(self, exposure: Exposure) -> bool:
        self.append(exposure)
        return True


def test_exposures_have_the_propensities_of_the_answer_which_its_request_id_gives_again() -> None:
    plain = PLAIN.answer(Query(at=AT, customer_id="c03", n=6), CustomerState()).product_ids
    content = {
        "pin": [{"product_id": plain[5], "slot": 1, "surface": ["home"]}],
        "explore": [{"slots": [2], "epsilon": 0.5}],
    }
    recommender, kept = under(content), Kept()
    exposures: Any = kept
    api = Api(lambda: recommender, exposures=exposures)
    try:
        told = [
            api.ask(body={"customer_id": "c03", "n": 3, "context": {"surface": surface}}).json()
            for surface in ["home", "mail"] * 10
        ]
        batched = api.ask("/v1/recommend/batch", {"customer_ids": ["c01", "c03"], "n": 3}).json()
    finally:
        api.app.close()
    assert [(one["recommendations"][0]["source"] == "pinned") for one in told] == [True, False] * 10
    assert len({one["request_id"] for one in [*told, *batched]}) == 22
    for one, exposure in zip([*told, *batched], kept, strict=True):
        assert exposure.request_id == one["request_id"]
        query = Query(
            at=AT,
            customer_id=exposure.customer_id,
            n=3,
            surface=exposure.surface,
            request_id=exposure.request_id,
        )
        again = recommender.answer(query, CustomerState()).items
        assert [(item.product_id, item.propensity) for item in again] == [
            (item.product_id, item.propensity) for item in exposure.items
        ]
        assert exposure.items[0].propensity == 1.0 and (exposure.items[1].propensity or 0.0) < 1.0
    assert {item.source for exposure in kept for item in exposure.items} >= {"pinned", "explore", "model:toy"}


@settings(max_examples=200, deadline=None)
@given(
    at=st.lists(st.floats(min_value=0.01, max_value=400), min_size=1, max_size=12),
    customer=st.sampled_from([None, "c00", "c01", "c05"]),
    purchases=st.integers(2, 5),
)
def test_the_own_gap_is_the_mean_between_days_of_purchase_ever(
    at: list[float], customer: str | None, purchases: int
) -> None:
    """Of the bundle's record joined with what was bought since; products of categories go by these."""
    product = int(np.flatnonzero(BUNDLE.catalog.on_sale(AT))[0])
    seen = state([(IDS[product], s.PURCHASE, days) for days in at])
    query = Query(at=AT, customer_id=customer)
    bought = PLAIN.subject(query, seen).bought
    rules = Rules(file_of({"due": {"purchases": purchases}}), BUNDLE)
    days = dict(zip(bought.products.tolist(), rules.due_days(bought).tolist(), strict=True))
    row = None if customer is None else BUNDLE.customers[s.CUSTOMER_ID].tolist().index(customer)
    record = BUNDLE.purchased.bought(row)
    since = 0 if customer is None else to_micros(AS_OF)
    instants = [one for one in seen.history.at.tolist() if one >= since]
    for place, one in enumerate(record.products.tolist()):
        firsts, lasts = record.first, record.last
        assert firsts is not None
        count, span = int(record.days[place]), (int(firsts[place]) // DAY_US, int(lasts[place]) // DAY_US)
        if one == product:
            later = {instant // DAY_US for instant in instants} - {span[1]}
            count, span = count + len(later), (span[0], max([span[1], *later]))
        usual = BUNDLE.catalog.repurchase_days[one]
        expected = (span[1] - span[0]) / (count - 1) if count >= purchases else usual
        assert days[one] == pytest.approx(expected, nan_ok=True)
    if product not in record.products and instants:
        dates = {instant // DAY_US for instant in instants}
        usual = BUNDLE.catalog.repurchase_days[product]
        expected = (max(dates) - min(dates)) / (len(dates) - 1) if len(dates) >= purchases else usual
        assert days[product] == pytest.approx(expected, nan_ok=True)


def test_a_bundle_that_does_not_tell_first_purchases_goes_by_what_is_usual() -> None:
    bundle = dataclasses.replace(BUNDLE, purchased=dataclasses.replace(BUNDLE.purchased, first=None))
    recommender = Recommender(bundle, FrameReader({}), Rules(file_of({"due": {"purchases": 2}}), bundle))
    query = Query(at=AT + timedelta(days=20), customer_id="c01", n=60, purchased="due")
    assert (
        recommender.answer(query, CustomerState()).product_ids
        == PLAIN.answer(query, CustomerState()).product_ids
    )
