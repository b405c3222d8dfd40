"""Interleaved experiments: who is owed what, planted preferences to be found, a coin that is not fair to be refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eval.experiment.credits import BOUGHT, CLICKED, PAID, credit
from eval.experiment.interleaving import AskedInterleaving, interval, read_interleaving
from eval.experiment.interleaving_results import InterleavingReading
from eval.experiment.looks import OneLook
from eval.experiment.pages import render_reading
from feature_repo import schema as s
from feature_repo.errors import ConfigError, DataError
from tests.planted_drafts import NAME, drafts, written_drafts
from tests.planted_experiment import BEGUN
from tests.test_cli import Run, run

__all__ = ["run"]

HOUR = pd.Timedelta(hours=1)
END = BEGUN + pd.Timedelta(days=60)
ASKED = AskedInterleaving("control", "trees")


def shown(*rows: tuple[str, str | None, str, float]) -> pd.DataFrame:
    told = [(request, customer, product, BEGUN + hours * HOUR) for request, customer, product, hours in rows]
    return pd.DataFrame(told, columns=[s.REQUEST_ID, s.CUSTOMER_ID, s.PRODUCT_ID, s.AT])


def done(*rows: tuple[str | None, str, float, str, float, str | None]) -> pd.DataFrame:
    told = [(c, p, BEGUN + hours * HOUR, kind, value, request) for c, p, hours, kind, value, request in rows]
    return pd.DataFrame(told, columns=[s.CUSTOMER_ID, s.PRODUCT_ID, s.AT, s.KIND, s.VALUE, s.REQUEST_ID])


def test_an_event_is_credited_to_the_answer_that_it_names_else_to_the_latest_that_showed_its_product() -> (
    None
):
    rows = shown(
        ("r1", "a", "p1", 0),
        ("r1", "a", "p2", 0),
        ("r2", "a", "p1", 5),
        ("r3", None, "p1", 0),
        ("r4", "b", "p1", 6),
    )
    events = done(
        ("a", "p1", 6, s.CLICK, 0, "r1"),  # names the earlier one
        ("a", "p1", 6, s.CLICK, 0, "r1"),  # again: once
        ("a", "p1", 7, s.PURCHASE, 8.0, None),  # the latest of a's own
        ("a", "p1", 8, s.PURCHASE, 2.0, None),
        ("a", "p2", 25, s.PURCHASE, 9.0, None),  # longer ago than a day
        ("a", "p3", 1, s.CLICK, 0, "r1"),  # not shown there
        ("a", "p1", 1, s.CLICK, 0, "r9"),  # an answer of something else
        (None, "p1", 1, s.CLICK, 0, "r3"),  # nobody known, by the request
        (None, "p1", 1, s.PURCHASE, 5.0, None),
        ("a", "p2", -0.1, s.CLICK, 0, "r1"),  # a client whose clock is late
        ("b", "p1", 5, s.PURCHASE, 5.0, None),  # before it was shown
        ("b", "p1", 6 + 48, s.CLICK, 0, "r4"),  # after the window of two days
    )
    found = credit(rows, events, now=END, window_days=2)
    assert found.rows[CLICKED].tolist() == [1, 1, 0, 1, 0]
    assert found.rows[BOUGHT].tolist() == [0, 0, 1, 0, 0]
    assert found.rows[PAID].tolist() == [0, 0, 10.0, 0, 0]
    assert (found.remembered, found.astray) == (2, 1)
    assert credit(rows, events, now=END, window_days=2, hours=30).rows[BOUGHT].tolist() == [0, 1, 1, 0, 0]
    assert credit(rows, events.drop(columns=s.REQUEST_ID), now=BEGUN, window_days=2).rows[CLICKED].sum() == 0


def hand(*owed: tuple[str, str, str], coin: str = "ct") -> InterleavingReading:
    """Read answers to ``customers`` of two products, one a team; a credit is (customer, team, kind)."""
    names = sorted({customer for customer, _, _ in owed})
    teams = {"c": "control", "t": "trees"}
    rows = []
    for number, name in enumerate(names):
        order = coin if number % 2 else coin[::-1]
        rows += [
            (f"r-{name}", name, f"p-{team}", 0.0, place, teams[team])
            for place, team in enumerate(order, start=1)
        ]
    exposures = shown(*[row[:4] for row in rows]).assign(
        experiment=NAME,
        variant="interleaved",
        position=[row[4] for row in rows],
        team=[row[5] for row in rows],
    )
    events = done(*[(c, f"p-{team}", 1.0, kind, 3.0, f"r-{c}") for c, team, kind in owed])
    return read_interleaving(exposures, events, ASKED, name=NAME, now=END, window_days=14)


def test_a_customer_prefers_the_team_with_more_credits_and_counts_once() -> None:
    owed = [(f"a{i}", "t", s.CLICK) for i in range(30)] + [(f"b{i}", "c", s.CLICK) for i in range(20)]
    both = [(f"d{i}", team, s.CLICK) for i in range(10) for team in "ct"]
    found = hand(*owed, *both, ("d0", "t", s.PURCHASE))
    row = found.preferences[0]
    assert (row.metric, row.customers) == ("clicks", 60)
    assert (row.for_treatment, row.for_control, row.ties) == (30, 20, 10)
    # (wins + half the ties) / all − ½
    assert row.delta == pytest.approx((30 + 5) / 60 - 0.5)
    assert found.rare == ["conversion", "value"]
    assert found.teams[1].clicked == 40 and found.teams[1].bought == 1 and found.teams[1].paid == 3.0
    assert not found.balance.failed and found.balance.requests == 60


def test_where_all_prefer_one_the_interval_still_has_a_width() -> None:
    delta, low, high, p = interval(np.full(50, 0.5), OneLook(), confidence=0.95)
    assert (delta, high) == (0.5, 0.5)
    # t(49, .975) = 2.0096 times ½ / √50
    assert low == pytest.approx(0.5 - 2.0096 * 0.5 / np.sqrt(50), abs=1e-4)
    assert p < 1e-6
    assert interval(np.zeros(60), OneLook(), confidence=0.95) == (0.0, 0.0, 0.0, 1.0)


def reading(asked: AskedInterleaving = ASKED, **truth: float) -> InterleavingReading:
    frames = drafts(**truth)  # type: ignore[arg-type]
    return read_interleaving(
        frames["exposures"], frames[s.INTERACTIONS], asked, name=NAME, now=END, window_days=14
    )


def test_a_planted_preference_is_found_and_shipped() -> None:
    found = reading(better=1.6, customers=3000)
    row = next(one for one in found.preferences if one.decides)
    assert found.verdict.decision == "ship" and found.verdict.variant == "trees"
    assert found.verdict.sentence.startswith(f"Ship trees: of {row.customers:,} customers who clicked, ")
    assert 0 < row.low < row.delta < row.high
    assert found.looks[-1].delta == pytest.approx(row.delta) and found.looks[-1].customers == row.customers
    assert found.looks[0].customers < row.customers
    worse = reading(better=0.6, customers=3000)
    assert worse.verdict.decision == "keep" and "surely less than half" in worse.verdict.sentence


def test_turning_the_teams_round_turns_the_preference_round() -> None:
    one = reading(better=1.3)
    other = reading(AskedInterleaving("trees", "control"), better=1.3)
    for a, b in zip(one.preferences, other.preferences, strict=True):
        assert (a.delta, a.low, a.high) == pytest.approx((-b.delta, -b.high, -b.low))


def test_no_preference_goes_on_and_says_how_long() -> None:
    found = reading(better=1.0, customers=600)
    assert found.verdict.decision == "go on" and found.plan is not None and found.plan.required is not None
    assert f"{found.plan.required:,}" in found.verdict.sentence
    ended = reading(AskedInterleaving("control", "trees", final=True), better=1.0, customers=600)
    assert ended.verdict.decision == "keep" and "at the planned end" in ended.verdict.sentence
    ruled_out = reading(AskedInterleaving("control", "trees", smallest=0.3), better=1.0)
    assert ruled_out.verdict.decision == "keep" and "80.0 % is ruled out" in ruled_out.verdict.sentence
    few = reading(customers=30)
    assert few.verdict.decision == "go on" and "too few customers clicked" in few.verdict.sentence
    assert "Too few customers did anything" in render_reading(few)


@pytest.mark.slow
def test_without_a_preference_false_alarms_are_as_rare_as_promised() -> None:
    one, every = 0, 0
    repetitions = 200
    for seed in range(repetitions):
        frames = drafts(customers=400, seed=seed, better=1.0, buy=0.0)
        for looks, is_one in ((True, True), (False, False)):
            asked = AskedInterleaving("control", "trees", final=looks, expected=300)
            found = read_interleaving(
                frames["exposures"], frames[s.INTERACTIONS], asked, name=NAME, now=END, window_days=14
            )
            row = next(row for row in found.preferences if row.decides)
            alarm = row.low > 0 or row.high < 0
            if is_one:
                one += alarm
            else:
                every += any(look.low > 0 or look.high < 0 for look in found.looks)
    # four standard errors of a rate of .05 over 200
    assert one / repetitions == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / repetitions))
    assert every / repetitions <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / repetitions)


def test_a_coin_that_is_not_fair_leaves_no_preference_to_be_named() -> None:
    found = reading(better=1.5, coin=0.58)
    assert found.balance.failed and found.verdict.decision == "distrust"
    assert not (found.preferences or found.looks or found.plan)
    page = render_reading(found)
    assert "Do not read a preference" in page and "surely more" not in page and ">clicked<" not in page


def test_fewer_customers_are_needed_than_for_two_arms() -> None:
    """Sensitivity by the same clicks: interleaved, and with each customer seeing the picks of one team alone."""
    found = reading(better=1.25, customers=1500, seed=4)
    row = next(one for one in found.preferences if one.decides)
    frames = drafts(better=1.25, customers=1500, seed=4)
    exposures = frames["exposures"]
    clicks = frames[s.INTERACTIONS][frames[s.INTERACTIONS][s.KIND] == s.CLICK].merge(
        exposures[[s.REQUEST_ID, s.PRODUCT_ID, "team"]], on=[s.REQUEST_ID, s.PRODUCT_ID]
    )
    customers = sorted(exposures[s.CUSTOMER_ID].unique())
    per = (
        clicks.groupby([s.CUSTOMER_ID, "team"]).size().unstack(fill_value=0).reindex(customers, fill_value=0)
    )
    arms = per["control"].to_numpy()[::2], per["trees"].to_numpy()[1::2]
    z = (arms[1].mean() - arms[0].mean()) / np.sqrt(sum(arm.var() / len(arm) for arm in arms))
    interleaved = row.delta / np.sqrt((row.for_treatment + row.for_control) / 4) * row.customers
    assert interleaved > 1.5 * abs(z)


def test_sessions_are_read_by_themselves() -> None:
    found = reading(sessions=0.5, better=1.0)
    assert found.counts.customers + found.counts.sessions == 1500
    assert any("sessions without a known customer" in reason for reason in found.verdict.reasons)


def test_what_cannot_be_read_is_refused_in_a_sentence() -> None:
    frames = drafts(customers=50)
    rest = {"name": NAME, "now": END, "window_days": 14}
    exposures, events = frames["exposures"], frames[s.INTERACTIONS]
    with pytest.raises(DataError, match="found no team"):
        read_interleaving(exposures.drop(columns="team"), events, ASKED, **rest)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="found control for"):
        read_interleaving(exposures, events, AskedInterleaving("a", "trees"), **rest)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="found none; correct the name"):
        read_interleaving(exposures, events, ASKED, name="other", now=END, window_days=14)
    for wrong, told in (
        ({"metric": "purchases per exposure"}, "expected a metric of clicks, conversion, value"),
        ({"smallest": 0.5}, "below 0.5"),
        ({"hours": 0.0}, "hours above 0"),
        ({"power": 1.0}, "power between 0 and 1"),
    ):
        with pytest.raises(ConfigError, match=told):
            AskedInterleaving("control", "trees", **wrong)  # type: ignore[arg-type]


def test_rows_in_any_order_read_alike() -> None:
    frames = drafts(customers=300)
    mixed = {name: frame.sample(frac=1, random_state=3) for name, frame in frames.items()}
    one, other = (
        read_interleaving(part["exposures"], part[s.INTERACTIONS], ASKED, name=NAME, now=END, window_days=14)
        for part in (frames, mixed)
    )
    assert one == other


def test_the_command_knows_a_draft_by_its_exposures(run: Run, tmp_path: Path) -> None:
    shop = written_drafts(drafts(better=1.6, customers=3000), tmp_path / "shop")
    home = tmp_path / "home"
    told = run("experiment", NAME, "--tables", shop, home=home)
    assert told.code == 0, told.err
    assert told.out.startswith("Ship trees: of ")
    report = Path(told.out.splitlines()[-1].removeprefix("report: "))
    assert "Whose products do customers prefer: draft" in report.read_text()
    assert "Ship trees" in (home / "reports" / "index.html").read_text()
    turned = json.loads(run("experiment", NAME, "--tables", shop, "--control", "trees", "--json").out)
    assert turned["verdict"]["decision"] == "keep" and turned["kind"] == "interleaving"
    bought = json.loads(run("experiment", NAME, "--tables", shop, "--metric", "conversion", "--json").out)
    assert next(row for row in bought["preferences"] if row["decides"])["metric"] == "conversion"
    refused = run("experiment", NAME, "--tables", shop, "--control", "nobody")
    assert refused.code == 2 and "--control nobody" in refused.err
    unfair = written_drafts(drafts(coin=0.6), tmp_path / "unfair")
    assert run("experiment", NAME, "--tables", unfair).code == 2
