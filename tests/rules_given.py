"""What tests of rules are given: a small bundle, files of rules at random, and what passes them."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st

from feature_repo import schema as s
from serving.bundle import Bundle
from serving.events import Exposure
from serving.features import CustomerState, FrameReader
from serving.recommender import Query, Recommender
from serving.rules import Rules
from serving.rules.config import RulesFile
from tests.builders import AS_OF, AT, make_bundle
from tests.rules_reference import is_eligible
from tests.test_recommender import passing, queries

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


class Kept(list[Exposure]):
    """Keeps exposures instead of writing them."""

    def add(self, exposure: Exposure) -> bool:
        self.append(exposure)
        return True
