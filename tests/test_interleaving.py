"""Interleaved answers: the draft's laws in random cases, fair coins, and what is served and recorded."""

from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from feature_repo.recent import to_micros
from serving.catalog import Filters
from serving.interleaving import coins, draft
from serving.query import Query
from tests.builders import AT
from tests.test_api import Api, refused
from tests.test_served import CUSTOMERS, LIVE, OTHER, Taken, served

MIXED = """
[[experiments]]
name = "mixed"
kind = "interleave"
[[experiments.variants]]
name = "control"
[[experiments.variants]]
name = "other"
bundle = "nextbest:v2"
"""
TOSSED = coins("mixed")
lists = st.lists(st.integers(0, 25), unique=True, max_size=20)


@given(lists, lists, st.integers(1, 25), st.text())
@settings(max_examples=400, deadline=None)
def test_a_draft_keeps_its_laws(first: list[int], second: list[int], n: int, request: str) -> None:
    picks = draft(first, second, n, TOSSED(request))
    both = (first, second)
    shown = [both[pick.team][pick.place] for pick in picks]
    assert len(shown) == min(n, len({*first, *second}))
    assert len({*shown}) == len(shown)
    assert draft(first, second, n, TOSSED(request)) == picks
    counts = [0, 0]
    for place, pick in enumerate(picks):
        before = {*shown[:place]}
        # each takes the best of its own list that is free
        assert shown[place] == next(one for one in both[pick.team] if one not in before)
        has_left = [any(one not in before for one in own) for own in both]
        counts[pick.team] += 1
        if all(has_left):
            assert abs(counts[0] - counts[1]) <= 1
        else:
            assert has_left[pick.team]


@given(lists, st.integers(1, 25), st.text())
@settings(deadline=None)
def test_of_one_list_twice_comes_that_list(own: list[int], n: int, request: str) -> None:
    assert [own[pick.place] for pick in draft(own, own, n, TOSSED(request))] == own[:n]


def test_coins_are_fair_and_do_not_hang_together() -> None:
    tossed = [list(islice(TOSSED(f"r{number}"), 600)) for number in range(4_000)]
    other = [next(coins("another")(f"r{number}")) for number in range(4_000)]
    firsts = [one[0] for one in tossed]
    for heads in (
        sum(firsts),
        sum(one[1] for one in tossed),
        sum(one[599] for one in tossed),  # beyond the first block of the hash
        sum(one[0] == one[1] for one in tossed),
        sum(one[0] == one[512] for one in tossed),
        sum(one == mine for one, mine in zip(other, firsts, strict=True)),
        sum(one == mine for one, mine in pairwise(firsts)),
    ):
        assert stats.binomtest(heads, 4_000).pvalue > 1e-4


def test_each_list_of_a_pair_gets_each_place_equally_often() -> None:
    first, second = list(range(10)), list(range(100, 110))
    picks = [draft(first, second, 10, TOSSED(f"r{number}")) for number in range(4_000)]
    for place in range(10):
        assert stats.binomtest(sum(one[place].team for one in picks), 4_000).pvalue > 1e-4


def query(number: int, **given: Any) -> Query:
    return Query(at=AT, customer_id=CUSTOMERS[number % 12], request_id=f"r{number}", **given)


def test_everybody_sees_both_variants_mixed() -> None:
    held = served(MIXED)
    queries = [query(number, n=6) for number in range(60)]
    answers = held.recommend(queries)
    firsts = Counter[str | None]()
    for asked, (choice, answered) in zip(queries, answers, strict=True):
        assert (choice.experiment, choice.variant) == ("mixed", "interleaved")
        assert choice.recommend([asked]) == [answered] == choice.recommend([asked], choice.begin([asked]))
        own = {
            "control": LIVE.recommend([asked])[0].items,
            "other": OTHER.recommend([asked])[0].items,
        }
        assert len({*answered.product_ids}) == 6
        for rank, item in enumerate(answered.items, start=1):
            assert item.rank == rank and item.propensity is None and item.team is not None
            (drafted,) = (one for one in own[item.team] if one.product_id == item.product_id)
            assert drafted[3:6] == item[3:6], "score, source and reason are the drafting variant's"
        firsts[answered.items[0].team] += 1
    assert min(firsts["control"], firsts["other"]) >= 15


@given(
    st.integers(0, 10**6),
    st.integers(1, 45),
    st.sets(st.sampled_from([f"p{row:03d}" for row in range(40)])),
    st.sampled_from([(), ("tea",), ("tea", "mugs")]),
)
@settings(max_examples=60, deadline=None)
def test_n_products_come_whenever_they_pass(
    number: int, n: int, exclude: set[str], category: tuple[str, ...]
) -> None:
    asked = query(number, n=n, exclude=tuple(exclude), filters=Filters(category))
    (choice, answered), *_ = served(MIXED).recommend([asked])
    alone = [one.recommend([asked])[0].product_ids for one in (LIVE, OTHER)]
    assert len(answered.items) == min(n, len({*alone[0], *alone[1]})) >= max(map(len, alone))
    assert not {*answered.product_ids} & exclude
    assert {*answered.product_ids} <= {*alone[0], *alone[1]}
    assert choice.recommender is LIVE


def test_two_variants_of_one_bundle_show_what_each_would() -> None:
    held = served(MIXED.replace('bundle = "nextbest:v2"', ""))
    asked = query(3, n=8)
    ((_, answered),) = held.recommend([asked])
    assert answered.product_ids == LIVE.recommend([asked])[0].product_ids
    assert Counter(item.team for item in answered.items) == {"control": 4, "other": 4}


def test_a_tester_sees_one_variant_alone() -> None:
    held = served(MIXED)
    assert held.variants == ["mixed/control", "mixed/other"]
    choice = held.forced("mixed/other")
    assert choice is not None and choice.rival is None and choice.recommender is OTHER


@pytest.mark.parametrize("many", [False, True])
def test_an_answer_is_blind_and_its_exposure_knows_the_teams(many: bool) -> None:
    held, taken = served(MIXED), Taken()
    api = Api(lambda: held, exposures=taken)  # type: ignore[arg-type]
    if many:
        told = api.ask("/v1/recommend/batch", {"customer_ids": CUSTOMERS[:12], "n": 6}).json()
    else:
        told = [api.ask(body={"customer_id": customer, "n": 6}).json() for customer in CUSTOMERS[:12]]
    for one, shown in zip(told, taken.all, strict=True):
        assert (one["experiment"], one["variant"], one["bundle"]) == ("mixed", "interleaved", "nextbest:v1")
        assert "team" not in str(one)
        assert (shown.experiment, shown.variant, shown.request_id) == (
            "mixed",
            "interleaved",
            one["request_id"],
        )
        assert {item.team for item in shown.items} == {"control", "other"}
        assert all(item.propensity is None for item in shown.items)
        at = shown.at
        asked = Query(at=AT, customer_id=shown.customer_id, n=6, request_id=shown.request_id)
        assert at == to_micros(AT), "the clock of the test"
        again = held.recommend([asked])[0][1]
        assert [item.product_id for item in shown.items] == again.product_ids, (
            "told again from the request id"
        )
        assert [item.team for item in shown.items] == [item.team for item in again.items]
    api.app.close()


def test_a_filter_that_no_catalog_has_is_refused() -> None:
    held = served(MIXED)
    api = Api(lambda: held)
    body = {"customer_id": "c01", "filters": {"attributes": {"shoe": 43}}}
    refused(api.ask(body=body), 422, "invalid_request", "filters.attributes.shoe")
    api.app.close()
