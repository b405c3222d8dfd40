"""The trace of a request tells what the answer was, and what each rule did to it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings

from serving.features import CustomerState
from serving.recommender import Query
from serving.trace import Move, trace
from tests.builders import AT, state
from tests.rules_given import (
    BUNDLE,
    IDS,
    PLAIN,
    allowed_ids,
    asked,
    chancy,
    customers,
    hard,
    joined,
    soft,
    under,
    with_row,
)
from tests.test_recommender import events


@settings(max_examples=400, deadline=None)
@given(query=asked, seen=events, row=customers, content=joined(hard, soft, chancy))
def test_a_trace_is_of_the_answer_and_tells_why_what_is_missing_is_missing(
    query: Query, seen: list[tuple[str, str, float]], row: dict[str, Any], content: dict[str, Any]
) -> None:
    customer = with_row(state(seen, at=query.at), row)
    recommender = under(content)
    assert recommender.rules is not None
    told = trace(recommender, query, customer)
    items = recommender.answer(query, customer).items
    shown = [one for one in told.products if one.rank is not None]
    assert [(one.product_id, one.rank, one.score, one.source, one.propensity) for one in shown] == [
        (item.product_id, item.rank, item.score, item.source, item.propensity) for item in items
    ]
    allowed = allowed_ids(BUNDLE, recommender.rules.file, query, customer)
    for one in told.products:
        assert (one.product_id in allowed) == (not one.dropped_by)
        places = [place for move in one.moves for place in (move.before, move.after)]
        assert places[1:-1:2] == places[2::2], "each rule goes on where the one before it left off"
        if places and one.product_id not in query.context:
            assert places[-1] == one.rank
    json.dumps(told.to_json())


def test_a_trace_names_rule_after_rule() -> None:
    query = Query(at=AT, customer_id="c03", n=4)
    plain = PLAIN.answer(Query(at=AT, customer_id="c03", n=6), CustomerState()).product_ids
    content = {
        "price": [{"product_id": [plain[1]], "max": 0.5}],
        "boost": [{"product_id": [plain[3]], "factor": 10.0}],
        "pin": [
            {"product_id": plain[5], "slot": 2},
            {"product_id": "gone", "slot": 3},
            {"product_id": plain[1], "slot": 1},
        ],
    }
    told = trace(under(content), query, CustomerState())
    found = {one.product_id: one for one in told.products}
    assert [one.product_id for one in told.products if one.rank] == [plain[3], plain[5], plain[0], plain[2]]
    assert found[plain[1]].dropped_by == ("price 0",)
    assert found[plain[1]].candidate == 2 and found[plain[1]].moves == ()
    assert found[plain[3]].moves == (Move("boost 0", 3, 1),)
    assert found[plain[0]].moves == (Move("boost 0", 1, 2), Move("pin 0", 2, 3))
    assert found[plain[5]].moves == (Move("pin 0", None, 2),)
    assert (told.hard, told.soft) == (("price 0",), ("boost 0", "pin 0", "pin 1", "pin 2"))
    assert told.gave_way == (
        "pin 1: gone is not in the bundle",
        f"pin 2: {plain[1]} does not pass the hard rules",
    )


def test_without_rules_a_trace_has_the_candidates_alone() -> None:
    told = trace(PLAIN, Query(at=AT, customer_id="c03", n=4, exclude=(IDS[0],)), CustomerState())
    assert (told.hard, told.soft, told.gave_way) == ((), (), ())
    assert sum(one.rank is not None for one in told.products) == 4
    assert {name for one in told.products for name in one.dropped_by} <= {"exclude", "purchased: exclude"}
