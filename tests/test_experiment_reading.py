"""An experiment from its tables to the verdict: who is counted, what is refused, planted truths to be found."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.experiment import customers as c
from eval.experiment.effect import effect
from eval.experiment.guardrails import coverage, guardrails, margins, standing
from eval.experiment.looks import EveryLook, OneLook
from eval.experiment.moments import Estimate, Moments
from eval.experiment.page import render_experiment
from eval.experiment.reading import Asked, read
from eval.experiment.results import Change, Reading
from eval.experiment.words import words
from feature_repo import schema as s
from feature_repo.errors import ConfigError, DataError
from tests.planted_experiment import BEGUN, NAME, planted, written
from tests.test_cli import Run, run

__all__ = ["run"]

EVEN = {"control": 0.5, "treatment": 0.5}
DAY = pd.Timedelta(days=1)


def exposure(customer: str | None, variant: str, day: float, product: str = "p1") -> dict:
    return {
        s.REQUEST_ID: f"{customer}-{variant}-{day}",
        s.AT: BEGUN + day * DAY,
        s.CUSTOMER_ID: customer,
        "experiment": NAME,
        "variant": variant,
        s.PRODUCT_ID: product,
    }


def event(customer: str, day: float, kind: str = s.PURCHASE, value: float = 10.0) -> dict:
    return {s.CUSTOMER_ID: customer, s.AT: BEGUN + day * DAY, s.KIND: kind, s.VALUE: value}


def enrolled(exposures: list[dict], events: list[dict], **options: object) -> c.Enrolled:
    found = pd.DataFrame(events or [event("nobody", 0)])
    return c.enrol(pd.DataFrame(exposures), found, NAME, now=BEGUN + 30 * DAY, **options)  # type: ignore[arg-type]


def test_each_customer_is_one_row_with_the_first_exposure_and_the_window_from_it() -> None:
    found = enrolled(
        [
            exposure("a", "control", 3),
            exposure("a", "control", 3, "p2"),  # a second product of the same answer
            exposure("a", "control", 1),
            exposure("a", "control", 16),  # after the window
            exposure("b", "treatment", 2),
        ],
        [
            event("a", 0.9, value=7.0),  # past: before the first exposure
            event("a", -56, value=70.0),  # before the past
            event("a", 1.0, value=11.0),  # at the instant of the exposure: within
            event("a", 14.99, value=13.0),
            event("a", 15.0, value=17.0),  # the window has ended
            event("a", 2, s.CLICK, 0.0),
            event("a", 5, s.RETURN, 11.0),
            event("c", 2),  # not in the experiment
        ],
    )
    rows = found.rows.set_index(s.CUSTOMER_ID)
    a, b = rows.loc["a"], rows.loc["b"]
    assert a[c.VARIANT] == "control" and a[c.START] == BEGUN + DAY
    assert (a[c.PURCHASES], a[c.CONVERTED], a[c.SPENT], a[c.CLICKS], a[c.RETURNS]) == (2, 1, 24.0, 1, 1)
    assert (a["past_purchases"], a["past_value"], a["past_clicks"]) == (1, 7.0, 0)
    assert a[c.EXPOSURES] == 2
    assert (a[c.STANDING], b[c.STANDING]) == ("existing", "new")
    assert b[[c.PURCHASES, c.SPENT, "past_value"]].tolist() == [0, 0, 0]
    assert found.seen == {"control": 1, "treatment": 1}


def test_who_cannot_be_counted_is_told() -> None:
    many = [exposure(f"c{i}", "control" if i % 2 else "treatment", 1) for i in range(200)]
    found = enrolled(
        [
            *many,
            exposure("c0", "control", 2),  # crossed
            exposure("late", "control", 20),  # its 14 days end on day 34
            exposure(None, "control", 1),
        ],
        [],
    )
    assert (found.crossed, found.immature, found.anonymous) == (1, 1, 1)
    assert not set(found.rows[s.CUSTOMER_ID]) & {"c0", "late"}
    assert found.seen == {"control": 101, "treatment": 99}
    kept = enrolled([*many, exposure("late", "control", 20)], [event("late", 21)], immature=True)
    assert kept.rows.set_index(s.CUSTOMER_ID).loc["late", c.PURCHASES] == 1


def test_what_cannot_be_read_is_refused_in_a_sentence() -> None:
    shown = [exposure("a", "control", 1), exposure("b", "treatment", 1)]
    with pytest.raises(DataError, match="1 of 2 in two or more"):
        enrolled([*shown, exposure("b", "control", 2)], [])
    with pytest.raises(DataError, match="found those of homepage"):
        c.enrol(pd.DataFrame(shown), pd.DataFrame([event("a", 1)]), "other", now=BEGUN)
    with pytest.raises(DataError, match="found none of 2; wait"):
        enrolled(shown, [], window_days=60)
    with pytest.raises(DataError, match="found no variant"):
        enrolled([{k: v for k, v in row.items() if k != "variant"} for row in shown], [])
    with pytest.raises(ConfigError, match="at least a day"):
        enrolled(shown, [], window_days=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_order_of_rows_does_not_matter(first: int, second: int) -> None:
    frames = planted(customers=60, seed=3)
    mixed = {
        name: frames[name].sample(frac=1, random_state=seed)
        for name, seed in (("exposures", first), (s.INTERACTIONS, second))
    }
    found = [
        c.enrol(part["exposures"], part[s.INTERACTIONS], NAME, now=BEGUN + 60 * DAY).rows
        for part in (frames, mixed)
    ]
    one, other = (rows.sort_values(s.CUSTOMER_ID).reset_index(drop=True) for rows in found)
    pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("immature", [False, True])
def test_what_happens_after_the_reading_changes_nothing(immature: bool) -> None:
    frames = planted(customers=500, seed=4)
    now = BEGUN + 25 * DAY
    cut = {name: frames[name][frames[name][s.AT] <= now] for name in ("exposures", s.INTERACTIONS)}
    whole = c.enrol(frames["exposures"], frames[s.INTERACTIONS], NAME, now=now, immature=immature)
    short = c.enrol(cut["exposures"], cut[s.INTERACTIONS], NAME, now=now, immature=immature)
    pd.testing.assert_frame_equal(whole.rows, short.rows)
    assert whole.seen == short.seen


def reading(asked: Asked | None = None, attributes: pd.DataFrame | None = None, **truth: object) -> Reading:
    frames = planted(**truth)  # type: ignore[arg-type]
    now = BEGUN + 45 * DAY
    found = c.enrol(frames["exposures"], frames[s.INTERACTIONS], NAME, now=now)
    return read(
        found,
        frames["exposures"],
        asked or Asked(EVEN),
        name=NAME,
        now=now,
        window_days=14,
        past_days=56,
        attributes=frames[s.CUSTOMERS] if attributes is None else attributes,
    )


LOOSE = margins({"returns": 2.0})


def test_a_planted_lift_is_found_and_shipped() -> None:
    found = reading(Asked(EVEN, margins=LOOSE), customers=12_000, lift=0.3)
    row = next(row for row in found.metrics if row.decides)
    assert row.metric == "conversion"
    assert found.verdict.decision == "ship" and found.verdict.variant == "treatment"
    assert row.change.relative_low is not None and row.change.relative_high is not None
    # the planted chance is cut at 1, so that the true lift lies a little below .3
    assert 0 < row.change.relative_low < 0.27 < row.change.relative_high
    clicks = next(row for row in found.metrics if row.metric == "clicks")
    assert clicks.change.low < 0 < clicks.change.high
    assert clicks.p_holm is not None and clicks.p_holm >= clicks.change.p
    assert {(one.dimension, one.value) for one in found.slices} == {
        ("customer", "new"),
        ("customer", "existing"),
        ("region", "north"),
        ("region", "south"),
    }
    p_values = sorted((one.change.p, one.p_holm) for one in found.slices if one.change is not None)
    assert p_values[0][1] == pytest.approx(4 * p_values[0][0])  # four groups
    assert found.looks[-1].customers == 12_000 == sum(arm.read for arm in found.arms)
    assert found.looks[0].customers < 6000
    assert sum("narrower" in reason for reason in found.verdict.reasons) == 1


def test_a_planted_harm_keeps_the_control() -> None:
    found = reading(lift=-0.4)
    assert found.verdict.decision == "keep" and found.verdict.variant == "control"
    assert "surely lower" in found.verdict.sentence


def test_no_effect_goes_on_and_says_how_long() -> None:
    found = reading(lift=0.0, seed=1)
    assert found.verdict.decision == "go on"
    plan = found.plan[0]
    assert plan.required is not None and plan.required > plan.read
    # 28 days brought what is read
    assert plan.days == pytest.approx((plan.required - plan.read) * 28 / plan.read, rel=0.02)
    assert f"{plan.required:,}" in found.verdict.sentence
    ended = reading(Asked(EVEN, final=True), lift=0.0, seed=1)
    assert ended.verdict.decision == "keep"
    wide, narrow = (next(row.change for row in one.metrics if row.decides) for one in (found, ended))
    assert 1.4 < (wide.high - wide.low) / (narrow.high - narrow.low) < 1.7


def test_an_effect_worth_having_is_ruled_out() -> None:
    found = reading(Asked(EVEN, smallest=0.5), lift=0.0, seed=1)
    assert found.verdict.decision == "keep"
    assert "50.0 % is ruled out" in found.verdict.sentence


def early(**truth: object) -> Reading:
    """Read a planted experiment after six days, when nobody has had their fourteen."""
    frames = planted(**truth)  # type: ignore[arg-type]
    now = BEGUN + 6 * DAY
    found = c.enrol(frames["exposures"], frames[s.INTERACTIONS], NAME, now=now, immature=True)
    return read(
        found,
        frames["exposures"],
        Asked(EVEN, margins=LOOSE),
        name=NAME,
        now=now,
        window_days=14,
        past_days=56,
        immature=True,
    )


@pytest.mark.parametrize("truth", [{"lift": 1.5}, {"lift": -0.8}, {"lift": 1.5, "narrow": True}])
def test_while_days_are_not_over_nothing_is_decided(truth: dict) -> None:
    found = early(customers=20_000, **truth)
    deciding = next(row.change for row in found.metrics if row.decides)
    assert deciding.low > 0 or deciding.high < 0  # it would be decided
    assert found.verdict.decision == "go on" and found.verdict.variant == "control"
    read_ = sum(arm.read for arm in found.arms)
    assert found.verdict.sentence.startswith(
        f"Too early to decide: {read_:,} of {read_:,} customers have not had their 14 days (all of them will by "
        "2026-03-2"
    )
    page = render_experiment(found)
    assert "change nothing and read again later" in page and "end the experiment" not in page
    assert "surely" not in page and ">holds<" not in page


def test_groups_are_told_in_words_and_few_of_them() -> None:
    frames = planted(customers=12_000, lift=0.6)
    number = frames[s.CUSTOMERS][s.CUSTOMER_ID].str[1:].astype(int)
    kinds = frames[s.CUSTOMERS].assign(
        consent=number % 2 == 0,
        **{f"kind{i}": (number // 2**i % 2).map({0: "a", 1: "b"}) for i in range(1, 6)},
    )
    found = reading(Asked(EVEN, margins=LOOSE), customers=12_000, lift=0.6, attributes=kinds)
    assert {row.value for row in found.slices if row.dimension == "consent"} == {"yes", "no"}
    told = [reason for reason in found.verdict.reasons if reason.startswith("Where ")]
    sure = [row for row in found.slices if row.p_holm is not None and row.p_holm < 0.05]
    assert len(told) == 3 < len(sure)
    assert f"It is sure in {len(sure) - 3} more of {len(found.slices)} groups: the" in " ".join(
        found.verdict.reasons
    )


def test_the_page_tells_how_it_was_read() -> None:
    page = render_experiment(early(customers=3000))
    for option in (
        "--immature",
        "--smallest",
        "--window",
        "--metric",
        "--margin",
        "--since",
        "--expected",
        "--past",
    ):
        assert f">{option}</td>" in page


def test_a_verdict_names_what_was_measured_and_what_was_not() -> None:
    found = reading(Asked(EVEN, margins=LOOSE), customers=12_000, lift=0.3, returns=0.0)
    assert found.verdict.decision == "ship"
    assert found.verdict.sentence.endswith("; coverage holds, returns and latency were not measured.")
    (missing,) = (reason for reason in found.verdict.reasons if reason.startswith("Not measured"))
    assert "returns (nothing was returned" in missing and "latency (the exposures have no column" in missing


def test_a_relative_interval_without_bounds_to_speak_of_is_told_as_such() -> None:
    few = Estimate(np.asarray(2000.0), np.asarray(0.01), np.asarray(0.0051**2))
    more = Estimate(np.asarray(2000.0), np.asarray(0.05), np.asarray(0.005**2))
    change = Change.of(effect(few, more, OneLook()))
    assert change.relative_high is not None and change.relative_high > 100  # as wide as it is right
    assert change.share is None
    told = words(change, 0.95)
    assert told.startswith("+0.0400 in its own unit (95 % interval +0.0") and "too uncertain" in told


def test_lost_customers_leave_no_effect_to_be_named() -> None:
    found = reading(customers=20_000, lift=0.3, lost=0.1)
    assert found.shares.failed and found.verdict.decision == "distrust"
    assert not (found.metrics or found.guardrails or found.slices or found.looks or found.plan)
    page = render_experiment(found)
    assert "Do not read an effect" in page and "higher" not in page and "lower than" not in page


def test_a_broken_guardrail_outweighs_a_lift() -> None:
    found = reading(Asked(EVEN, margins=LOOSE), customers=12_000, lift=0.3, narrow=True)
    state = {row.guardrail: row.state for row in found.guardrails}
    assert state["coverage"] == "broken"
    assert found.verdict.decision == "keep"
    assert re.search(
        r"coverage got worse by more than is put up with \(fewer different products are shown: 25.0 % of all products "
        r"shown, with control 100.0 % of all products shown\); conversion with",
        found.verdict.sentence,
    )
    assert any("that limit is --margin coverage=0.1" in reason for reason in found.verdict.reasons)
    returned = reading(customers=12_000, lift=0.3, returns=0.1, more_returns=3.0)
    assert {row.guardrail: row.state for row in returned.guardrails}["returns"] == "broken"
    assert returned.verdict.decision == "keep"


def test_a_guardrail_that_is_open_holds_a_lift_back() -> None:
    found = reading(Asked(EVEN, margins=margins({"returns": 0.01})), customers=12_000, lift=0.3)
    assert found.verdict.decision == "go on" and "not yet known to hold" in found.verdict.sentence


def test_guardrails_hold_are_open_or_broken_by_the_ends_of_the_interval() -> None:
    def change(mean: float, error: float) -> object:
        arm = Estimate(np.asarray(1e6), np.asarray(1.0), np.asarray(1e-12))
        other = Estimate(np.asarray(1e6), np.asarray(mean), np.asarray(error**2))
        return effect(arm, other, OneLook())

    for mean, error, more, wanted in (
        (1.05, 0.01, False, "holds"),
        (1.09, 0.01, False, "open"),
        (1.15, 0.01, False, "broken"),
        (0.95, 0.01, True, "holds"),
        (0.85, 0.01, True, "broken"),
        (1.15, 0.01, True, "holds"),
    ):
        assert standing(change(mean, error), margin=0.1, more_is_better=more) == wanted  # type: ignore[arg-type]


def test_coverage_compares_at_the_same_number_of_customers() -> None:
    """Rarefaction beside drawing customers again and again; ten times the customers change nothing."""
    rng = np.random.default_rng(5)
    weights = 1 / np.arange(1, 201) ** 1.3

    def shown(customers: int) -> pd.DataFrame:
        product = rng.choice(200, size=(customers, 3), p=weights / weights.sum())
        frame = pd.DataFrame(
            {s.CUSTOMER_ID: np.repeat(np.arange(customers), 3), s.PRODUCT_ID: product.ravel()}
        )
        return frame.drop_duplicates()

    few, many = shown(400), shown(4000)
    found, large = coverage(few, 200, 200), coverage(many, 200, 200)
    drawn = [
        few.loc[few[s.CUSTOMER_ID].isin(rng.choice(400, 200, replace=False)), s.PRODUCT_ID].nunique() / 200
        for _ in range(400)
    ]
    assert float(found.mean) == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 20)
    error = np.sqrt(float(found.error2 + large.error2))
    assert float(found.mean) == pytest.approx(float(large.mean), abs=4 * error)
    repeated = [float(coverage(shown(400), 200, 200).mean) for _ in range(60)]
    # 60 repetitions fix a deviation to 9 %, the jackknife's twenty groups another to 16 %
    assert np.sqrt(float(found.error2)) == pytest.approx(np.std(repeated), rel=0.6)


def test_latency_is_judged_where_it_is_there() -> None:
    frames = planted(customers=3000, seed=6)
    shown = frames["exposures"]
    slow = np.where(shown["variant"] == "treatment", 60.0, 40.0)
    shown[c.LATENCY] = slow + np.random.default_rng(0).normal(0, 5, len(shown))
    rows = c.enrol(shown, frames[s.INTERACTIONS], NAME, now=BEGUN + 45 * DAY).rows
    arms = [rows[rows[c.VARIANT] == variant] for variant in EVEN]
    found = {one.name: one for one in guardrails(arms[0], arms[1], shown, EveryLook())}
    assert found["latency"].state == "broken"
    assert found["latency"].control == pytest.approx(40, abs=0.5)
    assert found["latency"].treatment == pytest.approx(60, abs=0.5)


def test_several_treatments_widen_each_others_intervals() -> None:
    frames = planted(customers=9000, seed=7)
    shown = frames["exposures"]
    third = shown[s.CUSTOMER_ID].map(lambda name: int(name[1:]) % 3)
    shown["variant"] = third.map({0: "control", 1: "b", 2: "c"})
    asked = Asked({"control": 1, "b": 1, "c": 1}, final=True)
    now = BEGUN + 45 * DAY
    found = c.enrol(shown, frames[s.INTERACTIONS], NAME, now=now)
    told = read(found, shown, asked, name=NAME, now=now, window_days=14, past_days=56)
    rows = [row for row in told.metrics if row.decides]
    assert [row.variant for row in rows] == ["b", "c"]
    arms = {
        name: found.rows[found.rows[c.VARIANT] == name][c.CONVERTED].to_numpy() for name in ("control", "b")
    }
    alone = effect(Moments.of(arms["control"]).mean(), Moments.of(arms["b"]).mean(), OneLook())
    # 2.241 instead of 1.960 standard errors
    width = (rows[0].plain.high - rows[0].plain.low) / float(alone.high - alone.low)
    assert width == pytest.approx(2.2414 / 1.96, abs=0.001)


def test_too_few_to_tell_go_on() -> None:
    found = reading(customers=80)
    assert found.verdict.decision == "go on" and "too few customers" in found.verdict.sentence
    assert not found.metrics
    (plan,) = found.plan
    assert plan.to_begin and plan.required is not None and plan.required >= 200
    # 28 days brought 80
    assert plan.days == pytest.approx((plan.required - 80) * 28 / 80, rel=0.1)
    assert f"80 are read and about {plan.required:,} are needed" in found.verdict.sentence
    assert f"about {plan.days:,} days more" in found.verdict.sentence
    assert "too few customers" in render_experiment(found)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"control": "c"}, "expected the control among"),
        ({"metric": "joy"}, "expected a metric of"),
        ({"confidence": 1.0}, "confidence between 0 and 1"),
        ({"smallest": 0.0}, "relative effect above 0"),
        ({"margins": {"joy": 0.1}}, "expected margins"),
    ],
)
def test_what_is_asked_wrongly_is_refused(wrong: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Asked(EVEN, **wrong)


def test_the_page_holds_itself_and_trusts_no_text() -> None:
    region = planted()[s.CUSTOMERS].assign(region=lambda f: f["region"].map({"north": "<b>x", "south": "y"}))
    page = render_experiment(reading(attributes=region, lift=0.3))
    assert "<b>x" not in page and "&lt;b&gt;x" in page
    assert "<script" not in page and "http" not in page.replace("http://www.w3.org", "")
    assert 'name="viewport"' in page
    assert page.count("<table") == page.count('<div class="scroll')  # wide tables scroll, the page does not


SHARES = ("--shares", "control=0.5,treatment=0.5")


def test_the_command_reads_reports_and_refuses(run: Run, tmp_path: Path) -> None:
    shop = written(planted(customers=4000, lift=0.4), tmp_path / "shop")
    done = run("experiment", NAME, "--tables", shop, *SHARES, "--margin", "returns=5", home=tmp_path / "home")
    assert done.code == 0, done.err
    assert done.out.startswith("Ship treatment: conversion with treatment is ")
    report = Path(done.out.splitlines()[-1].removeprefix("report: "))
    assert "Which variant is better: homepage" in report.read_text()
    kept = Reading.model_validate_json((report.parent / "experiment.json").read_text())
    told = json.loads(
        run("experiment", NAME, "--tables", shop, *SHARES, "--margin", "returns=5", "--json").out
    )
    assert {**told, "made_at": None} == {**json.loads(kept.model_dump_json()), "made_at": None}
    early = run(
        "experiment", NAME, "--tables", shop, *SHARES, "--as-of", "2026-03-10", "--immature", "--json"
    )
    assert json.loads(early.out)["counts"]["immature"] > 1000
    for asked, wanted in (
        (("other", "--tables", shop, *SHARES), "found those of homepage"),
        ((NAME, "--tables", shop, "--shares", "control=1"), "at least two variants"),
        ((NAME, "--tables", shop, "--shares", "control=1,b=1"), "found also treatment"),
        ((NAME, "--tables", shop, "--shares", "half"), "names and numbers"),
        ((NAME, "--tables", shop, "--shares", "control=0.5,treatment=0.6"), "which add up to 1.1"),
        ((NAME, "--tables", tmp_path, *SHARES), "events export"),
        ((NAME, *SHARES), "expected --tables"),
        ((NAME, "--tables", shop, *SHARES, "--margin", "joy=1"), "expected margins"),
        (
            (NAME, "--tables", shop, *SHARES, "--as-of", "2026-03-05"),
            "over at 2026-03-15 00:04 UTC, give --window 3 or fewer",
        ),
    ):
        refused = run("experiment", *asked)
        assert refused.code == 2 and wanted in refused.err, (asked, refused)
    (shop / "exposures.parquet").write_bytes(b"nothing of ours")
    assert "restore it" in run("experiment", NAME, "--tables", shop, *SHARES).err


def test_the_command_ends_with_2_where_shares_do_not_match(run: Run, tmp_path: Path) -> None:
    shop = written(planted(customers=8000, lost=0.2), tmp_path / "shop")
    done = run("experiment", NAME, "--tables", shop, *SHARES, home=tmp_path / "home")
    assert done.code == 2
    assert done.out.startswith("Do not read an effect") and "report: " in done.out


def test_what_testers_asked_for_is_left_out(run: Run, tmp_path: Path) -> None:
    """They would be in two variants, and are nobody whom the experiment assigned."""
    frames = planted(customers=4000, lift=0.4)
    shop = written(frames, tmp_path / "shop")
    asked = ("experiment", NAME, "--tables", shop, *SHARES, "--margin", "returns=5", "--json")
    plain = json.loads(run(*asked).out)
    exposures = pd.read_parquet(shop / "exposures.parquet")
    turned = exposures["variant"].map({"control": "treatment", "treatment": "control"})
    testers = exposures.assign(variant=turned, request_id=exposures["request_id"] + "t", forced=True)
    both = pd.concat([exposures.assign(forced=False), testers], ignore_index=True)
    both.to_parquet(shop / "exposures.parquet")
    assert json.loads(run(*asked).out)["arms"] == plain["arms"]
