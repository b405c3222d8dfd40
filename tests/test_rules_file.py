"""A file of rules: what does not fit is one sentence, and every rule can be said in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import ConfigError
from serving.rules import Rules, load_rules
from serving.rules.config import RulesFile
from serving.rules.describe import described
from serving.rules.file import MAX_BYTES, MAX_RULES
from tests.builders import AT, make_bundle
from tests.rules_given import chancy, file_of, hard, joined, soft

BUNDLE = make_bundle()
WHOLE = """
[[price]]
name = "nothing dear by mail"
surface = ["mail"]
max = 20
without_price = "show"

[[eligibility]]
name = "no riskier than asked for"
category = ["garden"]
product = "stars"
compare = "at_most"
customer = "risk_limit"

[[age]]
name = "of age"
category = ["tea"]
born = "birth_date"
min = 18

[due]
purchases = 3
days = {tea = 21}

[[boost]]
name = "own brand"
attributes = {brand = ["Alto", "Bora"], eco = true}
factor = 2
segment = ["category:tea"]

[[cap]]
name = "three of a kind"
at_most = 3

[[diversity]]
name = "variety"
lambda = 0.7

[[pin]]
name = "spring"
product_id = "p003"
slot = 1
starts_at = 2026-03-01T00:00:00Z
ends_at = 2026-04-01T00:00:00+02:00

[[new]]
name = "fresh"
at_least = 1
days = 30

[[explore]]
name = "tenth"
slots = [10]
epsilon = 0.1
"""


def refused(text: str, path: Path, **known: Any) -> str:
    path.write_text(text)
    with pytest.raises(ConfigError) as told:
        load_rules(path, BUNDLE, **known)
    return str(told.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rules.toml"


def test_every_rule_is_told_in_words(path: Path) -> None:
    path.write_text(WHOLE)
    rules = load_rules(path, BUNDLE, customer_attributes={"risk_limit": "a number", "birth_date": "a text"})
    told = {row.name: row for row in described(rules, BUNDLE, at=AT)}
    assert len(told) == 10
    assert (
        told["nothing dear by mail"].does
        == "shows every product only at prices up to 20; without a price: show"
    )
    assert told["nothing dear by mail"].whom == "on mail"
    assert "its stars ≤ the customer's risk_limit" in told["no riskier than asked for"].does
    assert "customer not known: hide" in told["no riskier than asked for"].does
    assert told["of age"].products == int((BUNDLE.catalog.frame["category"] == "tea").sum())
    assert told["own brand"].products == int(BUNDLE.catalog.frame["eco"].sum())
    assert told["spring"].whom == "from 2026-03-01 00:00+0000, until 2026-04-01 00:00+0200"
    assert told["spring"].products == 1
    assert told["due"].does == "tea after 21 days; own mean gap once bought on 3 days, else what is usual"
    assert rules.reads == ("customer_attributes.birth_date", "customer_attributes.risk_limit")


def test_what_the_hash_is_of_is_what_the_file_says(path: Path) -> None:
    path.write_text(WHOLE)
    first = load_rules(path, BUNDLE).digest
    path.write_text("# a comment\n" + WHOLE)
    assert load_rules(path, BUNDLE).digest == first
    path.write_text(WHOLE.replace("at_most = 3", "at_most = 4"))
    assert load_rules(path, BUNDLE).digest != first


def test_an_empty_file_has_no_rules(path: Path) -> None:
    path.write_text("")
    assert described(load_rules(path, BUNDLE), BUNDLE, at=AT) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[price]", "expected TOML in UTF-8"),
        (
            "[[prices]]\nname = 'a'",
            "expected one of the fields price, eligibility, age, due, boost, cap, diversity",
        ),
        ("[[pin]]\nproduct_id = 'p001'\nslot = 1", "expected the field name, found none in pin[0]"),
        (
            "[[pin]]\nname = 'a'\nproduct_id = 'p001'\nslot = 0",
            'a number of at least 1, found 0 in pin[0].slot ("a")',
        ),
        (
            "[[pin]]\nname = 'a'\nproduct_id = 'p001'\nslot = '1'",
            'expected an integer, found "1" in pin[0].slot',
        ),
        (
            "[[pin]]\nname = 'a'\nproduct_id = 'p001'\nslot = 1\nslots = 1",
            "expected one of the fields name, surface, segment",
        ),
        ("[[diversity]]\nname = 'd'\nlambda = 1.5", "expected a number of at most 1"),
        ("[[diversity]]\nname = 'd'\ntrade_off = 0.5", "expected"),
        ("[[diversity]]\nname = 'd'\nlamda = 0.5", "lambda"),
        ("[[boost]]\nname = 'b'\nfactor = 1e-300", "expected a number of at least 1e-06, found 1e-300"),
        ("[[boost]]\nname = 'b'\nfactor = 1e7", "expected a number of at most 1000000.0, found 10000000.0"),
        ("[[boost]]\nname = 'b'\nfactor = inf", "expected a"),
        (
            "[[boost]]\nname = 'b'\nfactor = 2\nattributes = {brand = []}",
            "expected a string, a number, true or false",
        ),
        (
            "[[boost]]\nname = 'b'\nfactor = 2\nattributes = {brand = 2026-01-01}",
            "expected a string, a number",
        ),
        ("[[boost]]\nname = 'b'\nfactor = 2\nsurface = []", "expected at least 1 entry, found 0"),
        ("[[boost]]\nname = 'b'\nfactor = 2\nsurface = 'home'", 'expected a list, found "home"'),
        ("[[price]]\nname = 'p'", "expected min, max or both, found neither"),
        ("[[price]]\nname = 'p'\nmin = 5\nmax = 4", "expected max of at least min 5.0, found 4.0"),
        ("[[price]]\nname = 'p'\nmin = nan", "expected a finite number"),
        ("[[eligibility]]\nname = 'e'\ncustomer = 'c'", "expected one condition on the customer"),
        (
            "[[eligibility]]\nname = 'e'\ncustomer = 'c'\nproduct = 'stars'",
            "expected product and compare together",
        ),
        ("[[age]]\nname = 'a'\nmin = 18", "expected either years or born"),
        ("[[age]]\nname = 'a'\nborn = 'b'", "expected min, max or both"),
        ("[due]\npurchases = 1", "a number of at least 2, found 1 in due.purchases"),
        ("[due]\ndays = {tea = 0}", "expected a number above 0"),
        (
            "[[pin]]\nname = 'a'\nproduct_id = 'p'\nslot = 1\nstarts_at = 2026-01-01T00:00:00",
            "expected an instant with its time zone",
        ),
        ("[[pin]]\nname = 'a'\nproduct_id = 'p'\nslot = 1\nstarts_at = 2026-01-01", "expected an instant"),
        (
            "[[cap]]\nname = 'a'\nat_most = 1\nstarts_at = 2026-02-01T00:00:00Z\nends_at = 2026-01-01T00:00:00Z",
            "expected ends_at after starts_at",
        ),
        ("[[cap]]\nname = 'a'\nat_most = 1\n[[new]]\nname = 'a'\nat_least = 1\ndays = 1", '"a" 2 times'),
        ("cap = 3", "expected a list, found 3 in cap"),
        ("cap = [3]", "expected an object, found 3 in cap[0]"),
        ("[[explore]]\nname = 'x'\nslots = []\nepsilon = 0.1", "at least 1 entry"),
        ("[[explore]]\nname = 'x'\nslots = [1]\nepsilon = 0", "a number above 0"),
        (
            "[[cap]]\nname = 'c'\nat_most = 1\ncategory = ['teas']",
            '(there are: garden, mugs, tea), found "teas"',
        ),
        ("[due]\ndays = {teas = 3}", 'expected a category of the bundle in "due"'),
        (
            "[[boost]]\nname = 'b'\nfactor = 2\nattributes = {eco = 'yes'}",
            'expected true or false for eco in "b", found "yes"',
        ),
        (
            "[[boost]]\nname = 'b'\nfactor = 2\nattributes = {colour = 'red'}",
            "(there are: brand, eco, stars)",
        ),
        (
            "[[eligibility]]\nname = 'e'\ncustomer = 'c'\nproduct = 'risk'\ncompare = 'equal'",
            'an attribute of the products in "e"',
        ),
        (
            "[[eligibility]]\nname = 'e'\ncustomer = 'c'\nproduct = 'brand'\ncompare = 'at_most'",
            "expected a product attribute of numbers",
        ),
    ],
)
def test_a_broken_file_is_one_sentence_that_says_where(path: Path, text: str, told: str) -> None:
    found = refused(text, path)
    assert told in found
    assert found.startswith("expected") and "found" in found and "correct" in found and str(path) in found
    assert "\n" not in found


def test_a_file_is_bounded_in_rules_and_in_bytes(path: Path) -> None:
    rule = '[[cap]]\nname = "{}"\nat_most = 1\n'
    told = "".join(map(rule.format, range(MAX_RULES + 1)))
    assert f"expected at most 2,000 rules in {path}, found 2,001" in refused(told, path)
    path.write_text(told.removesuffix(rule.format(MAX_RULES)))
    assert len(load_rules(path, BUNDLE).ordering) == MAX_RULES
    assert "expected at most 1,000,000 bytes of rules" in refused("#" * (MAX_BYTES + 1), path)


def test_a_byte_order_mark_is_passed_over(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + WHOLE.encode())
    assert len(list(load_rules(path, BUNDLE).file.named())) == 9


def test_a_file_that_is_not_there_or_not_text(path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_rules(path, BUNDLE)
    with pytest.raises(ConfigError, match="see that it can be read"):
        load_rules(path.parent, BUNDLE)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="expected TOML in UTF-8"):
        load_rules(path, BUNDLE)


def test_attributes_of_customers_are_checked_where_they_are_known(path: Path) -> None:
    assert 'found "birth_date"' in refused(
        WHOLE, path, customer_attributes={"risk_limit": "a number", "age": "a number"}
    )
    assert load_rules(path, BUNDLE).reads


@pytest.mark.parametrize(
    ("asks", "told"),
    [
        (
            "[[eligibility]]\ncustomer = 'region'\nmin = 1",
            'is a number in "r", found "region", which is a text',
        ),
        (
            "[[eligibility]]\ncustomer = 'region'\nproduct = 'price'\ncompare = 'at_most'",
            'is a number to compare with the products\' price in "r", found "region"',
        ),
        (
            "[[eligibility]]\ncustomer = 'limit'\nproduct = 'brand'\ncompare = 'equal'",
            'is a text to compare with the products\' brand in "r", found "limit", which is a number',
        ),
        (
            "[[eligibility]]\ncustomer = 'limit'\none_of = ['high']",
            "expected a number for the customers' limit",
        ),
        (
            "[[eligibility]]\ncustomer = 'member'\none_of = ['yes']",
            "expected true or false for the customers'",
        ),
        ("[[age]]\nyears = 'region'\nmin = 18", 'is a number in "r", found "region", which is a text'),
        ("[[age]]\nborn = 'limit'\nmin = 18", 'is a text with the day of birth, such as 2000-03-01 in "r"'),
        ("[[age]]\nborn = 'region'\nmax = -1", "expected a number of at least 0.0, found -1"),
        ("[[price]]\nmax = -5", "expected a number of at least 0.0, found -5"),
    ],
)
def test_what_can_never_be_compared_is_refused(path: Path, asks: str, told: str) -> None:
    kinds = {"region": "a text", "limit": "a number", "member": "true or false"}
    assert told in refused(asks + "\nname = 'r'", path, customer_attributes=kinds)


@settings(max_examples=300, deadline=None)
@given(content=joined(hard, soft, chancy))
def test_what_is_written_is_read(content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    file = file_of(content)
    path = tmp_path_factory.getbasetemp() / "written.toml"
    path.write_text(tomli_w.dumps(file.model_dump(by_alias=True, exclude_none=True)))
    rules = load_rules(path, BUNDLE)
    assert rules.file == file
    assert all(row.does and row.whom for row in described(rules, BUNDLE, at=AT))


values = st.recursive(
    st.one_of(
        st.booleans(), st.integers(-5, 200), st.floats(), st.text(max_size=5), st.datetimes(), st.dates()
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
fields = [
    "name",
    "surface",
    "starts_at",
    "min",
    "max",
    "days",
    "category",
    "attributes",
    "product_id",
    "customer",
    "product",
    "compare",
    "one_of",
    "born",
    "slot",
    "factor",
    "lambda",
    "at_most",
    "at_least",
    "slots",
    "epsilon",
]


@settings(max_examples=600, deadline=None)
@given(
    content=st.dictionaries(
        st.sampled_from([*RulesFile.model_fields, "other"]),
        st.one_of(values, st.lists(st.dictionaries(st.sampled_from(fields), values, max_size=6), max_size=2)),
        max_size=3,
    )
)
def test_whatever_a_file_holds_it_is_rules_or_a_sentence(
    content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(tomli_w.dumps(content))
    try:
        assert isinstance(load_rules(path, BUNDLE), Rules)
    except ConfigError as error:
        assert str(error).startswith("expected")  # noqa: PT017 - any other error fails the test


def test_a_day_of_birth_may_be_a_time(path: Path) -> None:
    path.write_text("[[age]]\nname = 'r'\nborn = 'born'\nmin = 18")
    kinds = {"born": "a time as ISO 8601"}
    assert load_rules(path, BUNDLE, customer_attributes=kinds).hard.rules
