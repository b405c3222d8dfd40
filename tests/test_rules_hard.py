"""Hard rules against their definitions: prices, ages, eligibility, and what is due."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo import schema as s
from feature_repo.recent import DAY_US, to_micros
from serving.features import CustomerState, FrameReader
from serving.recommender import Query, Recommender
from serving.rules import Rules
from tests.builders import AS_OF, AT, make_bundle, state
from tests.rules_given import (
    BUNDLE,
    IDS,
    PLAIN,
    allowed_ids,
    asked,
    customers,
    file_of,
    hard,
    under,
    with_row,
)
from tests.test_recommender import events


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


def test_a_price_changed_live_is_seen_by_the_rules() -> None:
    bundle = make_bundle()
    recommender = under({"price": [{"max": 20.0}]}, bundle)
    before = recommender.answer(Query(at=AT, n=60), CustomerState()).product_ids
    bundle.catalog.change({before[0]: {s.PRICE: 21.0}})
    assert recommender.answer(Query(at=AT, n=60), CustomerState()).product_ids == before[1:]
    bundle.catalog.change({before[0]: {s.PRICE: 20.0}})
    assert recommender.answer(Query(at=AT, n=60), CustomerState()).product_ids == before


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
        (int(datetime(2008, 3, 1, tzinfo=UTC).timestamp()), True),  # as the online store holds times
        (int(datetime(2008, 3, 2, tzinfo=UTC).timestamp()), False),
        (int(datetime(1950, 3, 2, tzinfo=UTC).timestamp()), True),
        (10**300, False),
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
