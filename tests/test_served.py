"""Who is answered by what: holdout, experiments in their order, surfaces, customers, testers, shadows."""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from feature_repo import names as v
from serving.errors import FeatureUnavailable
from serving.events import Exposure
from serving.experiments_file import Experiments
from serving.features import CustomerState, FeatureReader, FrameReader
from serving.recommender import Query, Recommender
from serving.served import Choice, Served
from tests.builders import AT, make_bundle, state
from tests.test_api import Api, refused

CUSTOMERS = [f"c{number:02d}" for number in range(12)] + [f"x{number}" for number in range(300)]
COUNTRY = v.row_key(v.CUSTOMER_ATTRIBUTES, "country")
HOLDOUT = "holdout = 0.2\n"
TWO = """
[[experiments]]
name = "home page"
surfaces = ["home"]
[[experiments.variants]]
name = "control"
weight = 50
[[experiments.variants]]
name = "other"
weight = 50
bundle = "nextbest:v2"
[[experiments]]
name = "all"
[[experiments.variants]]
name = "control"
weight = 1
[[experiments.variants]]
name = "shaded"
weight = 1
bundle = "nextbest:v2"
shadow = true
""".replace("home page", "home-page")


def recommender(seed: int, version: str) -> Recommender:
    bundle = make_bundle(seed)
    object.__setattr__(bundle, "version", version)
    return Recommender(bundle, FrameReader({"c01": state([("p001", "purchase", 2.0)], "category:tea")}))


LIVE, OTHER = recommender(0, "v1"), recommender(1, "v2")


def served(text: str, attributes: FeatureReader | None = None) -> Served:
    told = Experiments.parse(text.encode(), Path("experiments.toml"))
    return Served(LIVE, told, {"v1": LIVE, "v2": OTHER}, attributes)


def choose(held: Served, customer: str | None, surface: str | None = None, **given: Any) -> Choice:
    return held.choose(Query(at=AT, customer_id=customer, **given), surface)


def test_without_experiments_everybody_sees_what_is_live() -> None:
    held = Served(LIVE)
    assert {choose(held, customer) for customer in CUSTOMERS} == {Choice(LIVE)}
    assert held.variants == []


def test_the_first_experiment_that_matches_decides() -> None:
    held = served(TWO)
    home = Counter(choose(held, customer, "home")[1:3] for customer in CUSTOMERS)
    assert set(home) == {("home-page", "control"), ("home-page", "other")}
    assert min(home.values()) > len(CUSTOMERS) / 3
    for surface in (None, "basket"):
        assert {choose(held, customer, surface)[1] for customer in CUSTOMERS} == {"all"}


def test_a_variant_answers_with_its_bundle_and_a_shadow_with_the_controls() -> None:
    held = served(TWO)
    for customer in CUSTOMERS:
        choice = choose(held, customer, "home")
        assert choice.recommender is (OTHER if choice.variant == "other" else LIVE)
        unseen = choose(held, customer)
        assert (unseen.variant, unseen.recommender) == ("control", LIVE)
    shadows = [choice.shadow for customer in CUSTOMERS if (choice := choose(held, customer)).shadow]
    assert len(CUSTOMERS) / 3 < len(shadows) < len(CUSTOMERS) * 2 / 3
    assert {shadow and shadow.recommender for shadow in shadows} == {OTHER}


def test_the_holdout_is_the_same_over_all_experiments_and_sees_no_model() -> None:
    held = served(HOLDOUT + TWO)
    out = [
        {c for c in CUSTOMERS if choose(held, c, where).experiment == "holdout"} for where in ("home", None)
    ]
    assert out[0] == out[1] == {c for c in CUSTOMERS if served(HOLDOUT).is_held_out(c)}
    assert 0.1 < len(out[0]) / len(CUSTOMERS) < 0.3
    for customer in out[0]:
        choice = choose(held, customer)
        (answer,) = choice.recommender.recommend([Query(at=AT, customer_id=customer, n=20)])
        assert {item.source for item in answer.items} <= {"segment", "popular"}
        assert len(answer.items) == 20
        assert choice.recommender.bundle is LIVE.bundle
    assert choose(held, None, session_id=out[0].pop()).experiment == "all", "a session is no customer"


def test_the_holdout_of_one_bundle_is_the_same_with_another() -> None:
    text = HOLDOUT + TWO
    assert [served(text).is_held_out(c) for c in CUSTOMERS] == [
        Served(OTHER, served(text).experiments, {"v1": LIVE, "v2": OTHER}).is_held_out(c) for c in CUSTOMERS
    ]


def test_an_experiment_is_for_certain_customers() -> None:
    text = TWO.replace('surfaces = ["home"]', 'customers = {country = ["DE", "AT"], member = true}')
    member = v.row_key(v.CUSTOMER_ATTRIBUTES, "member")
    held = served(text)
    assert held.asks_for_attributes(None)
    assert not served(TWO).asks_for_attributes("home")
    for row, expected in (
        ({COUNTRY: "DE", member: True}, "home-page"),
        ({COUNTRY: "AT", member: True}, "home-page"),
        ({COUNTRY: "DE", member: False}, "all"),
        ({COUNTRY: "FR", member: True}, "all"),
        ({COUNTRY: "DE"}, "all"),
        ({}, "all"),
    ):
        assert held.choose(Query(at=AT, customer_id="c01"), None, row).experiment == expected


class Attributes(FeatureReader):
    """Gives every second customer a country."""

    fails = False

    def read(self, customer_ids: Any, at: datetime) -> list[CustomerState]:
        if self.fails:
            raise FeatureUnavailable("expected the store, found none; check it")
        return [CustomerState({COUNTRY: "DE"} if int(c[1:]) % 2 else {}) for c in customer_ids]


def test_many_are_answered_as_one_by_one_and_without_the_store_as_strangers() -> None:
    reader = Attributes()
    held = served(TWO.replace('surfaces = ["home"]', 'customers = {country = "DE"}'), reader)
    queries = [Query(at=AT, customer_id=c, n=5) for c in (*CUSTOMERS[:60], "c01")]
    queries.append(Query(at=AT, session_id="s", n=5))
    many = held.recommend(queries)
    for query, (choice, answer) in zip(queries, many, strict=True):
        assert held.recommend([query]) == [(choice, answer)]
        assert choice.recommender.recommend([query]) == [answer]
        is_target = query.customer_id is not None and int(query.customer_id[1:]) % 2
        assert choice.experiment == ("home-page" if is_target else "all")
    reader.fails = True
    assert {choice.experiment for choice, _ in held.recommend(queries)} == {"all"}


def test_testers_ask_by_name() -> None:
    held = served(HOLDOUT + TWO)
    assert held.variants == [
        "home-page/control",
        "home-page/other",
        "all/control",
        "all/shaded",
        "holdout/fallback",
    ]
    asked = held.forced("home-page/other")
    assert asked == held.forced("other") == Choice(OTHER, "home-page", "other", forced=True)
    shaded = held.forced("shaded")
    assert shaded is not None and shaded.recommender is OTHER, "whoever asks for a shadow is shown it"
    assert held.forced("fallback") is not None
    assert held.forced("control") is None, "two are called so"
    assert held.forced("nobody") is None


class Taken:
    """Keeps exposures."""

    def __init__(self) -> None:
        self.all: list[Exposure] = []

    def add(self, exposure: Exposure) -> bool:
        self.all.append(exposure)
        return True


def test_answers_and_exposures_say_what_was_used() -> None:
    held, taken = served(HOLDOUT + TWO), Taken()
    api = Api(lambda: held, exposures=taken)  # type: ignore[arg-type]
    for customer in CUSTOMERS[:60]:
        told = api.ask(body={"customer_id": customer, "context": {"surface": "home"}}).json()
        choice = choose(held, customer, "home")
        assert (told["experiment"], told["variant"]) == (choice.experiment, choice.variant)
        assert told["bundle"] == choice.recommender.bundle.tag
        query = Query(at=AT, customer_id=customer)
        expected = choice.recommender.recommend([query])[0].product_ids
        assert [item["product_id"] for item in told["recommendations"]] == expected
        last = taken.all[-1]
        assert (last.experiment, last.variant, last.bundle) == (*choice[1:3], told["bundle"])
        assert not last.forced
    batch = api.ask("/v1/recommend/batch", {"customer_ids": CUSTOMERS, "n": 3}).json()
    for customer, told in zip(CUSTOMERS, batch, strict=True):
        assert (told["experiment"], told["variant"]) == choose(held, customer)[1:3]
    assert {one.variant for one in taken.all} == {"control", "other", "fallback"}, "a shadow is never shown"
    answers = sum(choose(held, c, "home")[1:3] == ("home-page", "other") for c in CUSTOMERS[:60])
    assert (
        api.counted("nextbest_variant_answers_total", experiment="home-page", variant="other") >= answers > 0
    )
    api.app.close()


def test_a_tester_is_answered_by_the_variant_asked_for() -> None:
    held, taken = served(TWO), Taken()
    api = Api(lambda: held, exposures=taken)  # type: ignore[arg-type]
    for customer in CUSTOMERS[:12]:
        told = api.ask(body={"customer_id": customer, "variant": "other"}).json()
        assert (told["experiment"], told["variant"], told["bundle"]) == ("home-page", "other", "nextbest:v2")
    assert all(one.forced for one in taken.all)
    told = refused(
        api.ask(body={"customer_id": "c", "variant": "control"}), 422, "invalid_request", "variant"
    )
    assert told == (
        "expected a configured variant (there are: home-page/control, home-page/other, all/control, all/shaded), "
        'found "control"'
    )
    api.app.close()


def test_shadows_are_counted_and_a_failing_one_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    held = served(TWO.replace('"all"', '"shadowing"'))  # processes, not applications, keep counts by name
    api = Api(lambda: held)
    asked = [c for c in CUSTOMERS if choose(held, c).shadow][:20]

    def counted(*outcomes: str) -> float:
        names = {"experiment": "shadowing", "variant": "shaded"}
        return sum(api.counted("nextbest_shadow_answers_total", **names, outcome=one) for one in outcomes)

    every = ("same", "other", "failed", "skipped")
    for customer in asked:
        assert api.ask(body={"customer_id": customer}).json()["variant"] == "control"
    wait_for(lambda: counted(*every) == len(asked))
    assert counted("failed") == 0

    class Broken(FeatureReader):
        def read(self, customer_ids: Any, at: datetime) -> list[CustomerState]:
            raise ZeroDivisionError("secret")

    failing = Recommender(OTHER.bundle, Broken())
    held = Served(LIVE, held.experiments, {"v2": failing})
    for customer in asked:
        assert api.ask(body={"customer_id": customer}).status_code == 200
    wait_for(lambda: counted(*every) == 2 * len(asked))
    assert counted("failed") > 0
    assert len([line for line in caplog.messages if "a shadow variant does not answer" in line]) == 1
    api.app.close()


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
