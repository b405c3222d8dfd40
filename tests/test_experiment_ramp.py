"""Shares that are changed on the way: seen in the exposures, and read from the change on without bias."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eval.experiment import customers as c
from eval.experiment.moves import last_change
from feature_repo import schema as s
from feature_repo.errors import DataError
from serving.variants import Scale, positions_of
from tests.planted_experiment import BEGUN, NAME
from tests.test_cli import Run, run

__all__ = ["run"]

DAY = pd.Timedelta(days=1)
HOUR = pd.Timedelta(hours=1)
CHANGES = (0.0, 10.0, 20.0)
WEIGHTS = ((50, 50), (30, 70), (50, 50))
LAST = BEGUN + 20 * DAY


def ramp(customers: int = 3000, *, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return exposures and purchases of 60 days under weights that change twice.

    Half of the customers come about every other day and the others seldom; who comes often buys much more
    often afterwards, whatever they see.
    """
    rng = np.random.default_rng(seed)
    ids = np.array([f"c{i:05d}" for i in range(customers)])
    position = positions_of(NAME, ids)
    often = rng.random(customers) < 0.5
    owners = np.array([Scale.of(weights).owners_of(position) for weights in WEIGHTS])
    visits = rng.poisson(np.where(often, 20, 1.5))
    who = np.repeat(np.arange(customers), visits)
    day = rng.random(len(who)) * 40
    epoch = np.searchsorted(CHANGES, day, side="right") - 1
    variant = np.where(owners[epoch, who] == 1, "treatment", "control")
    exposures = pd.DataFrame(
        {
            s.REQUEST_ID: [f"r{i}" for i in range(len(who))],
            s.AT: BEGUN + pd.to_timedelta(day, unit="D"),
            s.CUSTOMER_ID: ids[who],
            "experiment": NAME,
            "variant": variant,
            s.PRODUCT_ID: "p1",
        }
    )
    chance = np.where(often, 0.7, 0.05)
    bought = np.flatnonzero(rng.random(customers) < chance)
    last = exposures[exposures[s.AT] >= LAST].groupby(s.CUSTOMER_ID)[s.AT].min()
    at = pd.Series(ids[bought]).map(last).dropna()
    events = pd.DataFrame(
        {
            s.CUSTOMER_ID: ids[bought][at.index],
            s.PRODUCT_ID: "p1",
            s.AT: at.array + DAY,
            s.KIND: s.PURCHASE,
            s.VALUE: 1.0,
        }
    )
    return exposures, events


def enrolled(exposures: pd.DataFrame, events: pd.DataFrame, **options: object) -> c.Enrolled:
    return c.enrol(exposures, events, NAME, now=BEGUN + 60 * DAY, **options)  # type: ignore[arg-type]


def test_the_last_change_is_found_and_named_in_the_refusal() -> None:
    exposures, events = ramp()
    found = last_change(exposures, "variant")
    assert found is not None and abs(found - LAST) < HOUR
    with pytest.raises(DataError, match=f"read what came since with --since {found:%Y-%m-%dT%H:%M:%SZ}"):
        enrolled(exposures, events)
    first = exposures[exposures[s.AT] < LAST]
    found = last_change(first, "variant")
    assert found is not None and abs(found - (BEGUN + 10 * DAY)) < HOUR
    assert last_change(exposures[exposures[s.AT] >= LAST], "variant") is None


def test_who_moves_to_and_fro_was_moved_by_no_change() -> None:
    exposures, events = ramp()
    rng = np.random.default_rng(1)
    anew = exposures.assign(variant=rng.choice(["control", "treatment"], len(exposures)))
    assert last_change(anew, "variant") is None
    with pytest.raises(DataError, match="see why customers are assigned anew"):
        enrolled(anew, events)


def test_since_the_change_those_who_moved_are_read_by_what_they_see_now() -> None:
    """Left out, they would take regular customers from the control alone, which makes a difference of none."""
    exposures, events = ramp(20_000)
    found = enrolled(exposures, events, since=LAST)
    assert found.moved > 1500 and found.crossed == 0
    assert found.rows[c.START].min() >= LAST
    sides = {name: found.rows[found.rows[c.VARIANT] == name] for name in ("control", "treatment")}
    means = {name: float(rows[c.CONVERTED].mean()) for name, rows in sides.items()}
    error = np.sqrt(sum(rows[c.CONVERTED].var() / len(rows) for rows in sides.values()))
    assert abs(means["control"] - means["treatment"]) < 3 * error
    earlier = exposures[exposures[s.AT] < LAST]
    stranger = set(earlier.loc[earlier["variant"] == "treatment", s.CUSTOMER_ID])
    left = sides["control"][~sides["control"][s.CUSTOMER_ID].isin(stranger)]
    assert float(left[c.CONVERTED].mean()) < means["treatment"] - 5 * error


def test_the_past_ends_where_the_experiment_began_for_a_customer() -> None:
    """Else what the old variant did would be taken out as a habit."""
    shown = pd.DataFrame(
        [
            {s.REQUEST_ID: str(day), s.AT: BEGUN + day * DAY, s.CUSTOMER_ID: "a", "experiment": NAME,
             "variant": variant, s.PRODUCT_ID: "p1"}
            for day, variant in ((1, "control"), (12, "treatment"))
        ]
    )  # fmt: skip
    events = pd.DataFrame(
        [
            {s.CUSTOMER_ID: "a", s.AT: BEGUN + day * DAY, s.KIND: s.PURCHASE, s.VALUE: value}
            for day, value in ((0, 1.0), (5, 10.0), (13, 100.0))
        ]
    )
    row = enrolled(shown, events, since=BEGUN + 10 * DAY).rows.iloc[0]
    assert (row["past_value"], row[c.SPENT], row[c.VARIANT], row[c.STANDING]) == (
        1.0,
        100.0,
        "treatment",
        "existing",
    )


def test_the_command_reads_since_the_change_that_it_names(run: Run, tmp_path: Path) -> None:
    exposures, events = ramp(6000)
    shop = tmp_path / "shop"
    shop.mkdir()
    exposures.to_parquet(shop / "exposures.parquet")
    events.to_parquet(shop / "interactions.parquet")
    pd.DataFrame({s.PRODUCT_ID: ["p1"]}).to_parquet(shop / "products.parquet")
    asked = (
        "experiment",
        NAME,
        "--tables",
        shop,
        "--shares",
        "control=1,treatment=1",
        "--as-of",
        "2026-05-01",
    )
    refused = run(*asked, home=tmp_path / "home")
    assert refused.code == 2
    since = refused.err.partition("--since ")[2].split(",")[0]
    done = run(*asked, "--since", since, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["setting"]["since"] == since and told["counts"]["moved"] > 100
    assert any("saw another variant before 2026-03-21" in reason for reason in told["verdict"]["reasons"])
    assert "correct --since" in run(*asked, "--since", "yesterday").err
    assert "expected --since before" in run(*asked, "--since", "2027-01-01").err
