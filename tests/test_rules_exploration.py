"""Exploration: what chance shows, with which propensity, and that an answer can be made again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from feature_repo import schema as s
from serving.features import CustomerState
from serving.recommender import Query, Recommendation
from tests.builders import AT
from tests.rules_given import BUNDLE, CATEGORIES, IDS, PLAIN, Kept, under
from tests.test_api import Api
from tests.test_recommender import passing


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
