"""Experiments over HTTP: who is answered by what, changed and broken files, publishing and rolling back under load."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pandas as pd

from serving.process import Service
from serving.settings import Settings
from tests.conftest import Published
from tests.served_home import WITHIN, ask, call, exposures, logged, metric, put_experiments, ready, until
from tests.test_cli import Run, run  # noqa: F401 - a fixture


def half(version: str, *, name: str = "half", head: str = "", more: str = "", last: str = "") -> str:
    return (
        f'{head}\n[[experiments]]\nname = "{name}"\n{more}\n'
        '[[experiments.variants]]\nname = "control"\nweight = 50\n'
        f'[[experiments.variants]]\nname = "other"\nweight = 50\nbundle = "nextbest:{version}"\n{last}\n'
    )


def test_answers_are_those_that_assign_tells_and_exposures_carry_them(
    service: Service,
    home: Settings,
    versions: tuple[str, str],
    customers: list[str],
    run: Run,  # noqa: F811
) -> None:
    first, other = versions
    put_experiments(service, home, half(other, head="holdout = 0.2"))
    rows = json.loads(run("experiments", "assign", "half", *customers, "--json", home=home.home).out)
    told = {row["customer_id"]: (row["experiment"], row["variant"]) for row in rows}
    assert len(set(told.values())) == 3
    answers = {customer: ask(service, {"customer_id": customer, "n": 5}) for customer in customers}
    batch = ask(service, {"customer_ids": customers, "n": 5}, "/v1/recommend/batch")
    for customer, again in zip(customers, batch, strict=True):
        answer = answers[customer]
        assert (answer["experiment"], answer["variant"]) == told[customer]
        assert answer["bundle"] == f"nextbest:{other if answer['variant'] == 'other' else first}"
        assert [again[key] for key in ("experiment", "variant", "bundle", "recommendations")] == [
            answer[key] for key in ("experiment", "variant", "bundle", "recommendations")
        ]
        sources = {item["source"] for item in answer["recommendations"]}
        if answer["experiment"] == "holdout":
            assert sources <= {"segment", "popular"}
        elif answer["variant"] == "control":
            assert any(source.startswith("model:") for source in sources)
    shown = exposures(home, {answer["request_id"] for answer in answers.values()})
    for answer in answers.values():
        one = shown[answer["request_id"]]
        assert (one.experiment, one.variant, one.bundle) == tuple(
            answer[key] for key in ("experiment", "variant", "bundle")
        )
        assert [item.product_id for item in one.items] == [p["product_id"] for p in answer["recommendations"]]
    counts = Counter(answer["variant"] for answer in [*answers.values(), *batch])
    for (experiment, variant), count in {
        ("half", "control"): counts["control"],
        ("half", "other"): counts["other"],
        ("holdout", "fallback"): counts["fallback"],
    }.items():
        line = f'nextbest_variant_answers_total{{experiment="{experiment}",variant="{variant}"}}'
        assert metric(service, line) >= count > 0


def test_an_interleaved_answer_mixes_both_lists_and_its_exposure_knows_whose(
    service: Service,
    home: Settings,
    versions: tuple[str, str],
    customers: list[str],
    tmp_path: Path,
    run: Run,  # noqa: F811
) -> None:
    first, other = versions
    text = half(other, name="mixed", head="holdout = 0.1", more='kind = "interleave"')
    put_experiments(service, home, text.replace("weight = 50", ""))
    (told,) = json.loads(run("experiments", "assign", "mixed", customers[0], "--json", home=home.home).out)
    assert told["variant"] == "interleaved" or told["experiment"] == "holdout"
    checked = json.loads(run("experiments", "check", "--json", home=home.home).out)["variants"]
    assert [(row["kind"], row["share"]) for row in checked] == [("interleave", 1.0)] * 2
    assert "interleaved" in run("experiments", "check", home=home.home).out
    alone = {
        name: {
            customer: ask(service, {"customer_id": customer, "n": 8, "variant": f"mixed/{name}"})
            for customer in customers
        }
        for name in ("control", "other")
    }
    answers = {customer: ask(service, {"customer_id": customer, "n": 8}) for customer in customers}
    mixed = {c: answer for c, answer in answers.items() if answer["experiment"] == "mixed"}
    assert 40 < len(mixed) < len(customers)
    shown = exposures(home, {answer["request_id"] for answer in mixed.values()})
    firsts = Counter[str | None]()
    for customer, answer in mixed.items():
        assert (answer["variant"], answer["bundle"]) == ("interleaved", f"nextbest:{first}")
        exposure = shown[answer["request_id"]]
        listed = [item["product_id"] for item in answer["recommendations"]]
        assert [item.product_id for item in exposure.items] == listed
        assert len({*listed}) == 8
        for item in exposure.items:
            assert item.team is not None
            own = [one["product_id"] for one in alone[item.team][customer]["recommendations"]]
            assert item.product_id in own
        firsts[exposure.items[0].team] += 1
    assert min(firsts["control"], firsts["other"]) > 15
    # the trace of an answer is that of its draft
    for customer, answer in list(mixed.items())[:10]:
        body = {"customer_id": customer, "n": 8, "request_id": answer["request_id"]}
        traced = ask(service, body, "/v1/trace")
        assert (traced["request_id"], traced["variant"]) == (answer["request_id"], "interleaved")
        picks, lists = traced["draft"]["picks"], traced["draft"]["lists"]
        exposure = shown[answer["request_id"]]
        assert [(one["product_id"], one["team"]) for one in picks] == [
            (item.product_id, item.team) for item in exposure.items
        ]
        assert list(lists) == ["control", "other"] and traced["trace"] == lists["control"]
        assert [lists[name]["bundle"] for name in lists] == [f"nextbest:{first}", f"nextbest:{other}"]
        for one in picks:
            listed = lists[one["team"]]["products"]
            assert {p["product_id"]: p["rank"] for p in listed}[one["product_id"]] == one["own_rank"]
    assert ask(service, {"customer_id": "a", "variant": "mixed/other"}, "/v1/trace")["draft"] is None
    (tmp_path / "tables").mkdir()
    found = run("events", "export", "--to", tmp_path / "tables", home=home.home)
    assert found.code == 0, found.err
    rows = pd.read_parquet(tmp_path / "tables" / "exposures.parquet")
    assert {*rows.loc[rows["variant"] == "interleaved", "team"]} == {"control", "other"}
    assert rows.loc[rows["variant"] != "interleaved", "team"].isna().all()


def test_a_session_and_a_surface_decide_too(
    service: Service, home: Settings, versions: tuple[str, str]
) -> None:
    put_experiments(service, home, half(versions[1], head="holdout = 0.9", more='surfaces = ["home"]'))
    for number in range(20):
        body = {"session_id": f"s{number}", "context": {"surface": "home"}}
        assert ask(service, body)["experiment"] == "half"
        assert ask(service, {"session_id": f"s{number}"})["experiment"] is None


def test_certain_customers_only(
    service: Service, home: Settings, versions: tuple[str, str], published: Published, customers: list[str]
) -> None:
    frame = pd.read_parquet(published.tables / "customers.parquet").sort_values("valid_from")
    frame, name = frame.drop_duplicates("customer_id", keep="last").set_index("customer_id"), "region"
    value = frame.loc[customers, name].mode()[0]
    text = half(versions[1], more=f"customers = {{{name} = {json.dumps(value)}}}")
    put_experiments(service, home, text)
    found = {customer: ask(service, {"customer_id": customer})["experiment"] for customer in customers}
    expected = {customer: "half" if frame.loc[customer, name] == value else None for customer in customers}
    assert found == expected
    assert len(set(found.values())) == 2
    batch = ask(service, {"customer_ids": customers}, "/v1/recommend/batch")
    assert {one["customer_id"]: one["experiment"] for one in batch} == expected
    # what is told of a customer counts at once
    stranger = next(customer for customer, experiment in expected.items() if experiment is None)
    ask(service, {"customers": [{"customer_id": stranger, "attributes": {name: value}}]}, "/v1/customers")
    until(lambda: ask(service, {"customer_id": stranger})["experiment"] == "half")


def test_a_forced_variant_and_one_that_is_not_there(
    service: Service, home: Settings, versions: tuple[str, str]
) -> None:
    put_experiments(service, home, half(versions[1], head="holdout = 0.1"))
    for variant, version in (
        ("other", versions[1]),
        ("half/control", versions[0]),
        ("fallback", versions[0]),
    ):
        answers = [ask(service, {"customer_id": f"c{n}", "variant": variant}) for n in range(10)]
        assert {answer["variant"] for answer in answers} == {variant.rpartition("/")[2]}
        assert {answer["bundle"] for answer in answers} == {f"nextbest:{version}"}
    asked = exposures(home, {answer["request_id"] for answer in answers})
    assert all(one.forced for one in asked.values())
    status, _, body = call(f"{service.url}/v1/recommend", {"customer_id": "a", "variant": "b"})
    error = json.loads(body)["error"]
    assert (status, error["code"], error["field"]) == (422, "invalid_request", "variant")
    assert '(there are: half/control, half/other, holdout/fallback), found "b"' in error["message"]


def test_a_shadow_is_counted_and_never_shown(
    service: Service, home: Settings, versions: tuple[str, str], customers: list[str]
) -> None:
    first, other = versions
    put_experiments(service, home, half(other, name="shaded", last="shadow = true"))
    for customer in customers[:40]:
        answer = ask(service, {"customer_id": customer})
        assert (answer["variant"], answer["bundle"]) == ("control", f"nextbest:{first}")
    line = 'nextbest_shadow_answers_total{experiment="shaded",'
    until(lambda: metric(service, line) > 5)
    assert metric(service, 'nextbest_shadow_answers_total{experiment="shaded",outcome="failed"') == 0


def test_a_broken_file_leaves_what_was_and_says_so(
    service: Service,
    home: Settings,
    versions: tuple[str, str],
    run: Run,  # noqa: F811
) -> None:
    other = versions[1]
    put_experiments(service, home, half(other))
    before = ready(service)
    for broken, told in (
        ("[[experiments", "expected TOML"),
        (half(other).replace("weight", "wieght"), "the nearest is weight"),
        (half("202601010000-0123456789ab"), "expected a bundle at"),
    ):
        home.experiments.write_text(broken)
        until(lambda: metric(service, "nextbest_experiments_up ") == 0, WITHIN)
        until(lambda told=told: told in logged(service), WITHIN)  # type: ignore[misc]
        assert ready(service).startswith(before)
        assert "not all of live.json, rules.toml and experiments.toml is taken up" in ready(service)
        assert ask(service, {"customer_id": "a", "variant": "other"})["bundle"] == f"nextbest:{other}"
        found = run("experiments", "check", home=home.home)
        assert found.code == 2
        assert told in found.err
        put_experiments(service, home, half(other))
        until(lambda: ready(service) == before, WITHIN)
        assert metric(service, "nextbest_experiments_up ") == 1
    home.experiments.unlink()
    until(lambda: "experiments none" in ready(service), WITHIN)
    assert ask(service, {"customer_id": "a"})["experiment"] is None


def test_check_explains(
    home: Settings,
    versions: tuple[str, str],
    tmp_path: Path,
    run: Run,  # noqa: F811
) -> None:
    path = tmp_path / "experiments.toml"
    path.write_text(half(versions[1], head="holdout = 0.05", more='surfaces = ["home"]'))
    told = run("experiments", "check", path, home=home.home)
    assert told.code == 0, told.err
    for part in ("half", "control", "other", "50.00%", "5.00%", "home", versions[1], "(live)", "whole"):
        assert part in told.out
    rows = json.loads(run("experiments", "check", path, "--json", home=home.home).out)["variants"]
    assert [(row["variant"], row["share"], row["state"]) for row in rows] == [
        ("control", 0.5, "whole"),
        ("other", 0.5, "whole"),
    ]
    own = half(versions[1], last='rules = "own.toml"')
    for text, wrong in (
        (None, "own.toml, found none"),
        ("[[cap", "expected TOML"),
        ('[[cap]]\nname = "shoes"\ncategory = ["shoes"]\nat_most = 1\n', 'found "shoes"'),
        ('[[age]]\nname = "adults"\nyears = "shoe"\nmin = 18\n', 'found "shoe"'),
        ('[[cap]]\nname = "few"\nat_most = 1\n', None),
    ):
        path.write_text(own)
        if text is not None:
            (tmp_path / "own.toml").write_text(text)
        told = run("experiments", "check", path, "--json", home=home.home)
        assert (told.code, wrong or "") == (2 if wrong else 0, wrong or "")
        assert wrong is None or wrong in told.err
    assert [row["rules"] for row in json.loads(told.out)["variants"]] == ["rules.toml", "own.toml"]
    path.write_text(half(versions[1], more="customers = {shoe = 43}"))
    unknown = run("experiments", "check", path, home=home.home)
    assert unknown.code == 2
    assert "found shoe" in unknown.err
    gone = run("experiments", "check", tmp_path / "nothing.toml", home=home.home)
    assert (gone.code, gone.out) == (2, "")
    home.experiments.unlink(missing_ok=True)
    nobody = run("experiments", "assign", "nobody", "c1", home=home.home)
    assert nobody.code == 2
    assert "expected the experiment 'nobody' in" in nobody.err and "no such file" in nobody.err
    home.experiments.write_text(half(versions[1]))
    nobody = run("experiments", "assign", "nobody", "c1", home=home.home)
    home.experiments.unlink()
    assert "(there are: half), found 'nobody'" in nobody.err


def test_check_warns_of_what_nobody_would_mean(
    home: Settings,
    versions: tuple[str, str],
    tmp_path: Path,
    run: Run,  # noqa: F811
) -> None:
    path = tmp_path / "experiments.toml"

    def warned(text: str) -> list[str]:
        path.write_text(text)
        told = run("experiments", "check", path, "--json", home=home.home)
        assert told.code == 0, told.err
        found: list[str] = json.loads(told.out)["warnings"]
        return found

    first, other = versions
    assert warned(half(other)) == []
    (same,) = warned(half(first))
    assert same.startswith("control and other of half differ in nothing")
    assert "warning: control and other" in run("experiments", "check", path, home=home.home).out
    later = half(other, name="later", more='surfaces = ["mail"]')
    (hidden,) = warned(half(other) + later)
    assert hidden.startswith("nobody can be in later: half comes before it")
    assert warned(half(other, more='surfaces = ["home"]') + later) == []
    (mars,) = warned(half(other, more='customers = {region = ["mars", "coast"]}'))
    assert mars.startswith("half: no customer has region = mars, as of the features of ")
    # who is in the later experiment is not all in the earlier one
    assert warned(half(other, more='customers = {region = "coast"}') + later) == []
    home.rules.write_text('[[price]]\nname = "cheap"\nmax = 15\n')
    (tmp_path / "own.toml").write_text('[[cap]]\nname = "few"\nat_most = 1\n')
    (dropped,) = warned(half(first, last='rules = "own.toml"'))
    home.rules.unlink()
    assert dropped.startswith("half/other is not bound by price 'cheap' of rules.toml")
