"""The trace of a request tells what the answer was, and what each rule did to it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings

from feature_repo import schema as s
from serving.catalog import Filters
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
        f'pin 2: {plain[1]} does not pass the rule "price 0"',
    )


def test_a_trace_tells_why_a_pin_does_not_stand() -> None:
    """Each reason for what it is: off sale, excluded, filtered out, bought before, a rule, another pin."""
    frame, on_sale = BUNDLE.catalog.frame.set_index(s.PRODUCT_ID), BUNDLE.catalog.on_sale(AT)
    tea = [p for p, there in zip(IDS, on_sale, strict=True) if there and frame[s.CATEGORY][p] == "tea"]
    other = next(p for p, there in zip(IDS, on_sale, strict=True) if there and frame[s.CATEGORY][p] == "mugs")
    gone = next(p for p, there in zip(IDS, on_sale, strict=True) if not there)
    pinned = [gone, tea[0], other, tea[1], tea[2], tea[3], tea[4], tea[3], tea[5]]
    slots = [1, 1, 1, 1, 1, 1, 1, 2, 2]
    content = {
        "price": [{"product_id": [tea[2]], "max": 0.5}],
        "pin": [{"product_id": p, "slot": slot} for p, slot in zip(pinned, slots, strict=True)],
    }
    query = Query(at=AT, n=3, exclude=(tea[0],), filters=Filters(category=("tea",)))
    told = trace(under(content), query, state([(tea[1], s.PURCHASE, 3.0)]))
    assert [one.product_id for one in told.products if one.rank][:2] == [tea[3], tea[5]]
    assert told.gave_way == (
        f"pin 0: {gone} is not on sale"
        + (" and is filtered out by the request" if frame[s.CATEGORY][gone] != "tea" else ""),
        f"pin 1: {tea[0]} is excluded by the request",
        f"pin 2: {other} is filtered out by the request",
        f"pin 3: {tea[1]} was bought before (purchased: exclude)",
        f'pin 4: {tea[2]} does not pass the rule "price 0"',
        f'pin 6: {tea[4]} gives way to "pin 5", which has slot 1',
        f'pin 7: {tea[3]} stands in slot 1 already, by "pin 5"',
    )


def test_rules_that_move_nothing_are_told_as_such_and_others_as_ever() -> None:
    """A boost of what is not drawn, a pin that cannot stand: the steps after them go on from where it was."""
    plain = PLAIN.answer(Query(at=AT, n=5), CustomerState()).product_ids
    content = {
        "boost": [{"product_id": ["gone"], "factor": 5.0}, {"product_id": [plain[4]], "factor": 100.0}],
        "pin": [{"product_id": "gone", "slot": 1}, {"product_id": plain[3], "slot": 2}],
    }
    told = trace(under(content), Query(at=AT, n=5), CustomerState())
    moves = {one.product_id: one.moves for one in told.products if one.moves}
    assert moves[plain[4]] == (Move("boost 1", 5, 1),)
    assert moves[plain[3]] == (Move("boost 1", 4, 5), Move("pin 1", 5, 2))


def test_without_rules_a_trace_has_the_candidates_alone() -> None:
    told = trace(PLAIN, Query(at=AT, customer_id="c03", n=4, exclude=(IDS[0],)), CustomerState())
    assert (told.hard, told.soft, told.gave_way) == ((), (), ())
    assert sum(one.rank is not None for one in told.products) == 4
    assert {name for one in told.products for name in one.dropped_by} <= {"exclude", "purchased: exclude"}
