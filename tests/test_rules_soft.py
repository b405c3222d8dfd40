"""Soft rules against their definitions: boosts, pins, caps, diversity and quotas, slot by slot."""

from __future__ import annotations

import dataclasses
from collections import Counter
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo import schema as s
from serving.bundle import Bundle
from serving.features import CustomerState
from serving.recommender import Query
from serving.rules import Asked, apply
from tests.builders import AT, make_bundle, state
from tests.rules_given import (
    BUNDLE,
    CATEGORIES,
    IDS,
    PLAIN,
    allowed_ids,
    asked,
    chancy,
    file_of,
    joined,
    soft,
    under,
)
from tests.rules_reference import arranged
from tests.test_recommender import events


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


def test_a_pin_that_may_not_be_shown_leaves_its_slot_to_the_next_one() -> None:
    """For whom the first may be shown it stands; a product that has a slot takes no other."""
    plain = PLAIN.answer(Query(at=AT, n=8), CustomerState()).product_ids
    first, second, third = plain[5:8]
    pins = [
        {"product_id": first, "slot": 1},
        {"product_id": second, "slot": 1},
        {"product_id": second, "slot": 2},
        {"product_id": third, "slot": 2},
    ]
    recommender = under({"pin": pins})
    for excluded, stands in (((), (first, second)), ((first,), (second, third)), ((second,), (first, third))):
        items = recommender.answer(Query(at=AT, n=4, exclude=excluded), CustomerState()).items[:2]
        assert tuple(item.product_id for item in items) == stands
        assert {item.source for item in items} == {"pinned"}


def test_boosts_stay_finite_however_many_there_are() -> None:
    content = {
        "boost": [
            {"product_id": [product], "factor": factor}
            for product, factor in ((IDS[0], 1e6), (IDS[1], 1e-6))
            for _ in range(60)
        ]
    }
    rules = under(content).rules
    assert rules is not None
    factors = rules.soft(Asked(AT, None, "", {})).factors
    assert np.isfinite(factors).all() and (factors > 0).all()
    assert np.isfinite(1.0 / factors).all()


def test_what_rules_come_to_is_made_anew_only_where_what_chooses_products_has_changed() -> None:
    bundle = make_bundle()
    rules = under({"boost": [{"attributes": {"brand": "Alto"}, "factor": 2.0}]}, bundle).rules
    assert rules is not None
    nobody = Asked(AT, None, "", {})
    held = rules.soft(nobody)
    bundle.catalog.change({IDS[0]: {s.PRICE: 3.0}})
    assert rules.soft(nobody) is held
    bundle.catalog.change({IDS[0]: {"brand": "Cielo"}})
    assert rules.soft(nobody) is not held and rules.soft(nobody).factors[0] == 1.0


@settings(max_examples=200, deadline=None)
@given(query=asked, content=joined(soft, chancy), segment=st.sampled_from(["", "a", "b"]))
def test_what_holds_is_found_as_each_rule_says(query: Query, content: dict[str, Any], segment: str) -> None:
    """For every kind of request, from what was found for others too."""
    where = [{"surface": ["home"]}, {"segment": ["a"]}, {"starts_at": AT}, {"ends_at": AT}, {}]
    kinds = {kind: [one | where[n % 5] for n, one in enumerate(found)] for kind, found in content.items()}
    rules = under(kinds).rules
    assert rules is not None
    for at in (AT - timedelta(seconds=1), AT, query.at):
        for surface in (query.surface, "home", None):
            expected = tuple(rule for rule in rules.ordering if rule.holds(at, surface, segment))
            assert rules.holding(Asked(at, surface, segment, {})) == expected


@settings(max_examples=300, deadline=None)
@given(query=asked, content=chancy, seen=events, request=st.integers(0, 10**6))
def test_chance_takes_nothing_from_a_quota(
    query: Query, content: dict[str, Any], seen: list[tuple[str, str, float]], request: int
) -> None:
    """What stands in a slot that explores does not count: chance may put another product there."""
    query = dataclasses.replace(query, context=(), request_id=str(request))
    customer = state(seen, at=query.at)
    items = under(content).answer(query, customer).items
    for quota in content["new"][:1]:
        launched = dict(zip(IDS, BUNDLE.catalog.frame[s.LAUNCHED_AT], strict=True))
        since = query.at - timedelta(days=quota["days"])
        new = {product for product, at in launched.items() if at is not None and since < at <= query.at}
        explored = {slot for one in content["explore"] for slot in one["slots"] if slot <= len(items)}
        there = len(new & allowed_ids(BUNDLE, file_of({}), query, customer))
        got = sum(item.product_id in new for item in items)
        assert got >= min(quota["at_least"], there - len(explored), len(items) - len(explored))


def test_an_attribute_changed_live_is_seen_by_boosts() -> None:
    bundle = make_bundle()
    recommender = under({"boost": [{"attributes": {"brand": "Cielo"}, "factor": 1000.0}]}, bundle)
    before = recommender.answer(Query(at=AT, n=8), CustomerState()).product_ids
    bundle.catalog.change({before[7]: {"brand": "Cielo"}})
    assert recommender.answer(Query(at=AT, n=8), CustomerState()).product_ids == [before[7], *before[:7]]
