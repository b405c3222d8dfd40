"""What a request asks is logged so that it can be asked again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.catalog import Filters
from serving.errors import DataError
from serving.features import CustomerState
from serving.query import Query, conditions, under
from tests.builders import AT
from tests.rules_given import IDS, PLAIN, Kept
from tests.test_api import Api

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
listed = st.lists(texts, max_size=3).map(tuple)
values = st.lists(texts | st.booleans() | st.integers(-5, 5) | st.floats(-9, 9), min_size=1, max_size=2).map(
    tuple
)
prices = st.none() | st.floats(0, 100)
filters = st.builds(
    Filters, listed, prices, prices, st.lists(st.tuples(texts, values), max_size=2).map(tuple)
)


@settings(deadline=None)
@given(
    context=listed, exclude=listed, filters=filters, purchased=st.sampled_from(["exclude", "allow", "due"])
)
def test_what_is_told_of_a_query_asks_the_same_again(
    context: tuple[str, ...], exclude: tuple[str, ...], filters: Filters, purchased: str
) -> None:
    plain = Query(at=AT, customer_id="c1", n=7, surface="home", request_id="r")
    asked = replace(plain, context=context, exclude=exclude, filters=filters, purchased=purchased)
    told = conditions(asked)
    assert (told is None) == (asked == plain)
    assert told is None or under(plain, told) == asked


@pytest.mark.parametrize("told", ["", "[]", "{", '{"mood": "good"}', '{"filters": 3}', '{"context": 3}'])
def test_what_is_no_condition_is_refused_in_a_sentence(told: str) -> None:
    with pytest.raises(DataError, match="expected the conditions of a request"):
        under(Query(at=AT), told)


def test_an_answer_is_logged_with_what_was_asked() -> None:
    kept = Kept()
    exposures: Any = kept
    api = Api(lambda: PLAIN, exposures=exposures)
    body = {
        "customer_id": "c03",
        "n": 3,
        "context": {"product_ids": [IDS[1]], "surface": "home"},
        "exclude": [IDS[2], "nobody knows"],
        "filters": {"category": "tea", "price_max": 90},
        "purchased": "allow",
    }
    try:
        answers = [api.ask(body=one).json() for one in (body, {"customer_id": "c03", "n": 3})]
    finally:
        api.app.close()
    first, plain = kept
    assert plain.conditions is None and first.conditions is not None
    query = Query(at=AT, customer_id="c03", n=3, surface="home", request_id=first.request_id)
    again = PLAIN.answer(under(query, first.conditions), CustomerState())
    told = [one["product_id"] for one in answers[0]["recommendations"]]
    assert again.product_ids == told == [item.product_id for item in first.items]
    assert told != [one["product_id"] for one in answers[1]["recommendations"]]
