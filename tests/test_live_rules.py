"""Rules over HTTP: under a running service, of variants, broken and corrected, with propensities and a trace."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest

from serving.process import Service
from serving.settings import Settings
from tests.conftest import Published
from tests.served_home import (
    WITHIN,
    ask,
    call,
    exposures,
    logged,
    metric,
    put_experiments,
    put_rules,
    ready,
    until,
    write,
)


@pytest.fixture(autouse=True)
def no_files(service: Service, home: Settings) -> None:
    """Each test begins without rules and experiments."""
    home.rules.unlink(missing_ok=True)
    home.experiments.unlink(missing_ok=True)
    until(lambda: "\nrules none\nexperiments none\n" in ready(service), WITHIN)


def categories(published: Published) -> dict[str, str]:
    frame = pd.read_parquet(published.tables / "products.parquet")
    return dict(zip(frame["product_id"], frame["category"], strict=True))


@pytest.mark.slow
def test_rules_are_taken_up_changed_and_dropped_while_the_service_runs(
    service: Service, home: Settings, customers: list[str], published: Published
) -> None:
    category_of = categories(published)
    body = {"customer_id": customers[0], "n": 10}
    before = ask(service, body)
    assert before["rules"] is None
    digest = put_rules(service, home, '[[cap]]\nname = "two of each"\nat_most = 2\n')
    capped = ask(service, body)
    assert capped["rules"] == digest
    shown = [category_of[item["product_id"]] for item in capped["recommendations"]]
    assert max(map(shown.count, shown)) <= 2
    (again,) = ask(service, {"customer_ids": [customers[0]], "n": 10}, "/v1/recommend/batch")
    assert (again["rules"], again["recommendations"]) == (digest, capped["recommendations"])
    last = before["recommendations"][-1]["product_id"]
    put_rules(
        service, home, f'[[pin]]\nname = "first"\nsurface = ["home"]\nproduct_id = "{last}"\nslot = 1\n'
    )
    pinned = ask(service, {**body, "context": {"surface": "home"}})["recommendations"][0]
    assert (pinned["product_id"], pinned["source"], pinned["reason"]["code"]) == (last, "pinned", "featured")
    assert ask(service, body)["recommendations"] == before["recommendations"], "on another surface"
    home.rules.unlink()
    until(lambda: ask(service, body)["rules"] is None, WITHIN)


def test_broken_rules_are_told_and_the_old_ones_stay(service: Service, home: Settings) -> None:
    digest = put_rules(service, home, '[[cap]]\nname = "one"\nat_most = 1\n')
    before = ready(service)
    for broken, told in (
        ("[[cap", "expected TOML"),
        ('[[cap]]\nname = "one"\nmost = 1\n', "most"),
        (
            '[[cap]]\nname = "one"\ncategory = ["nothing such"]\nat_most = 1\n',
            "expected a category of the bundle",
        ),
        (
            '[[eligibility]]\nname = "tall"\ncustomer = "shoe"\nmin = 43\n',
            "expected an attribute of the customers",
        ),
    ):
        write(home.rules, broken)
        until(lambda: metric(service, "nextbest_rules_up ") == 0, WITHIN)
        until(lambda told=told: told in logged(service), WITHIN)  # type: ignore[misc]
        assert "not all of live.json, rules.toml and experiments.toml is taken up" in ready(service)
        assert ask(service, {"customer_id": "a"})["rules"] == digest
        write(home.rules, '[[cap]]\nname = "one"\nat_most = 1\n')
        until(lambda: ready(service) == before, WITHIN)
        assert metric(service, "nextbest_rules_up ") == 1
    assert metric(service, f'nextbest_rules_info{{digest="{digest}"}}') == 1


def test_eligibility_goes_by_attributes_as_they_are_now(
    service: Service, home: Settings, customers: list[str], published: Published
) -> None:
    frame = pd.read_parquet(published.tables / "customers.parquet").sort_values("valid_from")
    region = (
        frame.drop_duplicates("customer_id", keep="last").set_index("customer_id").loc[customers[0], "region"]
    )
    first = ask(service, {"customer_id": customers[0]})["recommendations"][0]["product_id"]
    put_rules(
        service,
        home,
        '[[eligibility]]\nname = "not here"\ncustomer = "region"\n'
        f'one_of = ["nowhere", "far"]\nproduct_id = ["{first}"]\n',
    )
    shown = lambda: [i["product_id"] for i in ask(service, {"customer_id": customers[0]})["recommendations"]]  # noqa: E731
    assert region not in ("nowhere", "far")
    assert first not in shown()
    put_experiments(service, home, "holdout = 0.999999")
    assert first not in shown(), "the holdout is no way around"
    home.experiments.unlink()
    until(lambda: "experiments none" in ready(service), WITHIN)
    ask(
        service,
        {"customers": [{"customer_id": customers[0], "attributes": {"region": "far"}}]},
        "/v1/customers",
    )
    until(lambda: first in shown(), WITHIN)


def test_what_is_due_goes_by_the_days_of_its_category(
    service: Service, home: Settings, published: Published
) -> None:
    category_of = categories(published)
    product = next(iter(category_of))
    event = {"session_id": "due", "product_id": product, "kind": "purchase", "at": "2026-05-25T12:00:00Z"}
    ask(service, {"events": [event]}, "/v1/feedback")
    body: Any = {"session_id": "due", "n": 100, "purchased": "due"}
    shown = lambda: [item["product_id"] for item in ask(service, body)["recommendations"]]  # noqa: E731
    until(
        lambda: (
            product
            not in [
                i["product_id"] for i in ask(service, {**body, "purchased": "exclude"})["recommendations"]
            ]
        )
    )
    put_rules(service, home, f"[due]\ndays = {{{json.dumps(category_of[product])} = 100000}}\n")
    assert product not in shown()
    put_rules(service, home, f"[due]\ndays = {{{json.dumps(category_of[product])} = 1}}\n")
    assert product in shown()


def test_variants_have_their_own_rules_and_what_is_explored_keeps_its_chance(
    service: Service, home: Settings, customers: list[str]
) -> None:
    common = put_rules(service, home, '[[cap]]\nname = "three"\nat_most = 3\n')
    own = home.home / "bold.toml"
    write(own, '[[explore]]\nname = "new"\nslots = [2]\nepsilon = 1.0\n')
    text = (
        '[[experiments]]\nname = "bold"\n[[experiments.variants]]\nname = "control"\nweight = 1\n'
        '[[experiments.variants]]\nname = "bold"\nweight = 1\nrules = "bold.toml"\n'
    )
    put_experiments(service, home, text)
    answers = [ask(service, {"customer_id": customer, "n": 4}) for customer in customers[:40]]
    told = {(answer["variant"], answer["rules"]) for answer in answers}
    assert len(told) == 2 and ("control", common) in told
    shown = exposures(home, {answer["request_id"] for answer in answers})
    for answer in answers:
        one = shown[answer["request_id"]]
        assert one.rules == answer["rules"]
        assert [item.propensity for item in one.items][2:] == [1.0, 1.0]
        chance = one.items[1].propensity
        assert chance is not None and (chance < 0.1) == (answer["variant"] == "bold")
    # the trace of an answer tells what chance made of it
    first = next(answer for answer in answers if answer["variant"] == "bold")
    asked = {"customer_id": first["customer_id"], "n": 4, "request_id": first["request_id"]}
    traced = ask(service, asked, "/v1/trace")
    assert (traced["variant"], traced["trace"]["rules"]) == ("bold", first["rules"])
    ranked = [one["product_id"] for one in traced["trace"]["products"] if one["rank"] is not None]
    assert ranked == [item["product_id"] for item in first["recommendations"]]
    assert traced["trace"]["soft"] == ["new"]
    # its file alone changes
    write(own, '[[pin]]\nname = "no more chance"\nproduct_id = "gone"\nslot = 1\n')
    until(lambda: ask(service, asked, "/v1/trace")["trace"]["soft"] == ["no more chance"], WITHIN)
    write(own, "[[")
    until(lambda: metric(service, "nextbest_experiments_up ") == 0, WITHIN)
    assert ask(service, asked, "/v1/trace")["trace"]["soft"] == ["no more chance"]
    assert metric(service, "nextbest_rules_up ") == 1


def test_a_trace_without_sense_is_refused(service: Service) -> None:
    for body, field in (({}, "customer_id"), ({"customer_id": "a", "trace": True}, "trace")):
        status, _, told = call(f"{service.url}/v1/trace", body)
        assert (status, json.loads(told)["error"]["field"]) == (422, field)
