"""Quality: profiles, drift, late and repeated batches, volumes; laws, planted faults, and silence under noise."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from feature_repo import schema as s
from feature_repo.errors import DataError
from feature_repo.quality import Inspection, inspect
from feature_repo.quality_drift import compare_columns, noise, psi
from feature_repo.quality_profile import ColumnProfile, Profile
from feature_repo.quality_store import KEEP, earlier_profile, load_profile, store_profile
from feature_repo.quality_volumes import Volume, unusual
from feature_repo.tables import write_tables
from feature_repo.validate import Finding

NOW = datetime(2024, 12, 1, tzinfo=UTC)
START = pd.Timestamp("2024-01-01", tz="UTC")


def shop(seed: int = 0, *, days: int = 84, rows: int = 6000) -> dict[str, pd.DataFrame]:
    """Return a steady little shop: nothing in it is worth a warning."""
    rng = np.random.default_rng(seed)
    at = START + pd.to_timedelta(np.sort(rng.integers(0, days * 86_400, rows)), unit="s")
    quantity = 1.0 + rng.poisson(0.5, rows)
    product = rng.integers(0, 40, rows)
    interactions = pd.DataFrame(
        {
            s.CUSTOMER_ID: [f"c{i}" for i in rng.integers(0, 300, rows)],
            s.PRODUCT_ID: [f"p{i}" for i in product],
            s.AT: at,
            s.KIND: s.PURCHASE,
            s.QUANTITY: quantity,
            s.VALUE: quantity * (2.0 + product),
            s.ORDER_ID: [f"o{i}" for i in range(rows)],
            s.CHANNEL: rng.choice(["web", "app", "store"], rows, p=[0.6, 0.3, 0.1]),
        }
    )
    products = pd.DataFrame(
        {
            s.PRODUCT_ID: [f"p{i}" for i in range(40)],
            s.NAME: [f"茶 {i}" for i in range(40)],
            s.CATEGORY: [f"k{i % 4}" for i in range(40)],
            s.PRICE: 2.0 + np.arange(40),
            s.VALID_FROM: START,
        }
    )
    return {s.INTERACTIONS: interactions, s.PRODUCTS: products}


def look(directory: Path, tables: dict[str, pd.DataFrame], *, against: Profile | None = None) -> Inspection:
    write_tables(tables, directory)
    return inspect(directory, now=NOW, against=against)


def loud(inspection: Inspection) -> dict[tuple[str, str], Finding]:
    return {(f.table, f.check): f for f in inspection.validation.findings if f.status != "PASS"}


# --- the population stability index


def test_psi_by_hand() -> None:
    then, now = [200, 800], [500, 500]  # half a row and a thousandth are near: 1 row of 1000 is added to each
    p, q = 201 / 1002, 501 / 1002
    by_hand = (q - p) * math.log(q / p) + (p - q) * math.log((1 - q) / (1 - p))
    assert psi(then, now) == pytest.approx(by_hand, rel=1e-12)


def test_psi_is_the_sum_of_both_divergences() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(1, 400, 10), rng.integers(1, 400, 10)

    def smoothed(counts: np.ndarray) -> np.ndarray:
        return counts + max(0.5, counts.sum() / 1000)

    expected = stats.entropy(smoothed(a), smoothed(b)) + stats.entropy(smoothed(b), smoothed(a))
    assert psi(a.tolist(), b.tolist()) == pytest.approx(expected, rel=1e-12)


def test_psi_laws() -> None:
    assert psi([3, 5, 0], [3, 5, 0]) == 0.0
    assert psi([3, 5], [300, 500]) == 0.0
    assert psi([0, 0], [3, 5]) == 0.0
    assert psi([1, 9], [9, 1]) == pytest.approx(psi([9, 1], [1, 9]))
    assert math.isfinite(psi([10, 0], [0, 10]))


@pytest.mark.parametrize(("bins", "n", "m"), [(2, 50, 50), (10, 50, 5000), (11, 400, 90)])
def test_noise_is_the_quantile_of_chi_square(bins: int, n: int, m: int) -> None:
    """Wilson and Hilferty are within 8 % of the quantile, and above it where bins are few."""
    exact = float(stats.chi2.ppf(stats.norm.cdf(3.72), bins - 1)) * (1 / n + 1 / m)
    assert noise(bins, n, m) == pytest.approx(exact, rel=0.08)


@pytest.mark.parametrize("size", [20, 50, 1000])
def test_noise_does_not_cry_wolf(size: int) -> None:
    rng = np.random.default_rng(size)
    alarms = 0
    for _ in range(200):
        then, now = rng.multinomial(size, np.ones(10) / 10), rng.multinomial(3 * size, np.ones(10) / 10)
        profiles = [
            ColumnProfile("float", *[int(c.sum())] * 4, edges=tuple(range(9)), counts=tuple(c))
            for c in (then, now)
        ]
        (drift,) = compare_columns({"x": profiles[0]}, {"x": profiles[1]})
        alarms += drift.major or drift.moderate or drift.filled_moved
    assert alarms < 10  # 5 % of 200


def test_a_shift_of_a_deviation_is_seen_in_a_thousand_rows(tmp_path: Path) -> None:
    tables = shop()
    before = look(tmp_path / "a", tables).profile
    tables[s.INTERACTIONS][s.VALUE] *= 4
    found = loud(look(tmp_path / "b", tables, against=before))
    finding = found[s.INTERACTIONS, "distributions as in the last run"]
    assert [example["column"] for example in finding.examples] == [s.VALUE]


# --- profiles


def test_shuffled_rows_give_the_same_profile(tmp_path: Path) -> None:
    tables = shop()
    profile = look(tmp_path / "a", tables).profile
    mixed = {name: frame.sample(frac=1, random_state=5) for name, frame in tables.items()}
    assert look(tmp_path / "b", mixed).profile == profile


def test_profile_round_trip(tmp_path: Path) -> None:
    profile = look(tmp_path, shop()).profile
    again = Profile.from_dict(json.loads(json.dumps(profile.to_dict())))
    assert again == profile
    assert again.digest == profile.digest


def test_identical_data_has_no_drift_and_no_new_warning(tmp_path: Path) -> None:
    tables = shop()
    first = look(tmp_path / "a", tables)
    second = look(tmp_path / "b", tables, against=first.profile)
    assert loud(first) == {}
    assert loud(second) == {}
    drifts = [drift for of in second.drifts.values() for drift in of]
    assert drifts
    assert {drift.psi for drift in drifts} == {0.0}


def test_resampled_shops_are_quiet(tmp_path: Path) -> None:
    """Twelve other shops of the same kind: whole inspections, each against the first."""
    first = look(tmp_path / "first", shop(0)).profile
    alarms = []
    for seed in range(1, 13):
        write_tables(shop(seed), tmp_path / str(seed))
        found = loud(inspect(tmp_path / str(seed), now=NOW, against=first))
        # Another shop's past is not this one's: only what compares distributions and volumes is asked.
        alarms += [key for key in found if key[1] != "the past stays" and key[1] != "rows arrive in time"]
    assert len(alarms) <= 1


# --- stored runs


def test_a_rerun_over_the_same_data_says_the_same(tmp_path: Path) -> None:
    tables = shop()
    first = look(tmp_path, tables)
    assert store_profile(first.profile, tmp_path) is not None
    tables[s.INTERACTIONS][s.CHANNEL] = tables[s.INTERACTIONS][s.CHANNEL].replace("web", "Web")
    second = look(tmp_path, tables)
    store_profile(second.profile, tmp_path)
    third = inspect(tmp_path, now=NOW + timedelta(days=1))
    assert (s.INTERACTIONS, "texts as in the last run") in loud(second)
    assert loud(third) == loud(second)
    store_profile(third.profile, tmp_path)
    assert len(list((tmp_path / ".quality" / "profiles").glob("*.json"))) == 2


def test_only_the_newest_profiles_are_kept(tmp_path: Path) -> None:
    profile = look(tmp_path, shop(rows=100)).profile
    for i in range(KEEP + 3):
        stamp = (NOW + timedelta(hours=i)).isoformat()
        store_profile(replace(profile, made_at=stamp, engine=f"engine {i}"), tmp_path)
    stored = sorted((tmp_path / ".quality" / "profiles").iterdir())
    assert len(stored) == KEEP
    earlier = earlier_profile(tmp_path, than=profile)
    assert earlier is not None
    assert earlier.engine == f"engine {KEEP + 2}"


def test_damaged_profiles_are_passed_over_and_refused_by_name(tmp_path: Path) -> None:
    profile = look(tmp_path, shop(rows=100)).profile
    path = store_profile(profile, tmp_path)
    assert path is not None
    path.write_text('{"format": 1, "tables": {"interactions": 3}}')
    assert earlier_profile(tmp_path, than=replace(profile, engine="other")) is None
    with pytest.raises(DataError, match="expected a directory of tables or a profile"):
        load_profile(path)
    with pytest.raises(DataError, match="found nothing"):
        load_profile(tmp_path / "nowhere")


def test_a_directory_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    profile = look(tmp_path, shop(rows=100)).profile
    (tmp_path / ".quality").write_text("a file where the folder should be")
    assert store_profile(profile, tmp_path) is None


# --- planted faults: exactly the matching finding

LAST = "as in the last run"


def _new_text(t: dict[str, pd.DataFrame]) -> None:
    t[s.INTERACTIONS].loc[::50, s.CHANNEL] = "kiosk"


def _vanished_column(t: dict[str, pd.DataFrame]) -> None:
    t[s.PRODUCTS] = t[s.PRODUCTS].drop(columns=[s.CATEGORY])


def _changed_type(t: dict[str, pd.DataFrame]) -> None:
    t[s.PRODUCTS]["size"] = ["small", "large"] * 20


def _emptied(t: dict[str, pd.DataFrame]) -> None:
    t[s.PRODUCTS].loc[5:, s.CATEGORY] = None


def _fewer_products(t: dict[str, pd.DataFrame]) -> None:
    t[s.PRODUCTS] = t[s.PRODUCTS].drop(index=0)


def _late(t: dict[str, pd.DataFrame]) -> None:
    more = t[s.INTERACTIONS].iloc[1000:1100].copy()
    more[s.AT] += pd.Timedelta("17s")
    more[s.ORDER_ID] += "x"
    t[s.INTERACTIONS] = pd.concat([t[s.INTERACTIONS], more])


def _changed_past(t: dict[str, pd.DataFrame]) -> None:
    t[s.INTERACTIONS].loc[100, s.QUANTITY] = 3.0
    t[s.INTERACTIONS].loc[100, s.VALUE] *= 1.5


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (_new_text, {(s.INTERACTIONS, f"texts {LAST}"), (s.INTERACTIONS, "the past stays")}),
        (_vanished_column, {(s.PRODUCTS, f"columns {LAST}")}),
        (_changed_type, {(s.PRODUCTS, f"columns {LAST}")}),
        (_emptied, {(s.PRODUCTS, f"shares filled {LAST}")}),
        (_fewer_products, {(s.PRODUCTS, f"rows {LAST}"), (s.INTERACTIONS, "product_id in products")}),
        (_late, {(s.INTERACTIONS, "rows arrive in time")}),
        (_changed_past, {(s.INTERACTIONS, "the past stays")}),
    ],
)
def test_planted_change(tmp_path: Path, fault: object, expected: set[tuple[str, str]]) -> None:
    assert callable(fault)
    tables = shop()
    tables[s.PRODUCTS]["size"] = np.arange(40.0)
    before = look(tmp_path / "a", tables).profile
    fault(tables)
    assert set(loud(look(tmp_path / "b", tables, against=before))) == expected


def test_appended_weeks_are_not_late(tmp_path: Path) -> None:
    tables = shop()
    cut = START + pd.Timedelta(days=60, hours=11)
    whole = tables[s.INTERACTIONS]
    store_profile(look(tmp_path, {**tables, s.INTERACTIONS: whole[whole[s.AT] < cut]}).profile, tmp_path)
    again = look(tmp_path, tables)
    assert again.earlier is not None
    assert loud(again) == {}


def test_late_rows_are_told_by_week(tmp_path: Path) -> None:
    tables = shop()
    whole = tables[s.INTERACTIONS]
    held_back = (whole[s.AT] >= START + pd.Timedelta(days=14)) & (whole.index % 4 == 0)
    held_back &= whole[s.AT] < START + pd.Timedelta(days=21)
    before = look(tmp_path / "a", {**tables, s.INTERACTIONS: whole[~held_back]}).profile
    finding = loud(look(tmp_path / "b", tables, against=before))[s.INTERACTIONS, "rows arrive in time"]
    assert finding.count == held_back.sum()
    assert finding.examples == (
        {"week of": "2024-01-15", "late": held_back.sum(), "then": finding.examples[0]["then"]},
    )


def test_half_a_table_lost_fails(tmp_path: Path) -> None:
    tables = shop()
    before = look(tmp_path / "a", tables).profile
    tables[s.INTERACTIONS] = tables[s.INTERACTIONS].tail(2000)
    found = look(tmp_path / "b", tables, against=before)
    assert found.validation.failed
    assert loud(found)[s.INTERACTIONS, f"rows {LAST}"].status == "FAIL"


def test_the_last_weeks_are_compared_with_those_before(tmp_path: Path) -> None:
    tables = shop()
    log = tables[s.INTERACTIONS]
    late = log[s.AT] >= START + pd.Timedelta(days=60)
    log.loc[late & (log[s.CHANNEL] == "web"), s.CHANNEL] = "app"
    found = loud(look(tmp_path, tables))
    assert (s.INTERACTIONS, "distributions in the last weeks") in found
    assert {key[1] for key in found} <= {
        "distributions in the last weeks",
        "texts in the last weeks",
        "days without rows",
        "days of usual volume",
        "weeks of usual volume",
    }


def test_a_constant_column_is_told(tmp_path: Path) -> None:
    tables = shop()
    tables[s.PRODUCTS][s.CATEGORY] = "things"
    finding = loud(look(tmp_path, tables))[s.PRODUCTS, "columns vary"]
    assert finding.examples == ({"column": s.CATEGORY, "value": "things"},)


# --- volumes

MONDAY = date(2024, 1, 1)
WEEK = np.array([80, 80, 85, 90, 120, 150, 0])  # closed on Sundays


def steady(rng: np.random.Generator, weeks: int = 26) -> np.ndarray:
    """Return counts with twice the variance of a Poisson process."""
    mean = np.tile(WEEK, weeks).astype(float)
    return rng.negative_binomial(np.maximum(mean, 0.001), 0.5).astype(np.int64)


def test_a_steady_shop_has_no_unusual_day() -> None:
    alarms = [unusual(Volume("", "", MONDAY, steady(np.random.default_rng(seed)))) for seed in range(200)]
    assert sum(bool(found) for found in alarms) < 10  # 5 %


@pytest.mark.parametrize(
    ("first", "last", "factor", "sort"),
    [(60, 60, 0.0, "gap"), (60, 60, 10.0, "day"), (60, 60, 0.1, "day"), (98, 181, 4.0, "week")],
)
def test_planted_volume(first: int, last: int, factor: float, sort: str) -> None:
    counts = steady(np.random.default_rng(3))
    counts[first : last + 1] = (counts[first : last + 1] * factor).astype(np.int64)
    found = unusual(Volume("", "", MONDAY, counts))
    assert sort in {one.sort for one in found}
    day = MONDAY + timedelta(days=first)
    assert day in {one.day for one in found if one.sort == sort}
    if sort != "week":
        assert {one.day for one in found} == {day}


def test_an_unfinished_last_day_is_not_judged() -> None:
    counts = steady(np.random.default_rng(4))[:-2]  # ends on a Friday
    counts[-1] = 1
    assert unusual(Volume("", "", MONDAY, counts)) == []


def test_gaps_told_at_the_last_run_are_not_told_again(tmp_path: Path) -> None:
    tables = shop(rows=9000)
    log = tables[s.INTERACTIONS]
    gap = log[s.AT].dt.date == date(2024, 2, 7)
    tables[s.INTERACTIONS] = log[~gap]
    half = tables[s.INTERACTIONS][s.AT] < START + pd.Timedelta(days=70)
    first = look(tmp_path, {**tables, s.INTERACTIONS: tables[s.INTERACTIONS][half]})
    store_profile(first.profile, tmp_path)
    assert set(loud(first)) == {(s.INTERACTIONS, "days without rows")}
    assert loud(look(tmp_path, tables)) == {}


def test_empty_tables_are_inspected(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text("customer_id,product_id,at\n")
    (tmp_path / "products.csv").write_text("product_id\n")
    found = inspect(tmp_path, now=NOW)
    assert set(loud(found)) == {(s.INTERACTIONS, "not empty"), (s.PRODUCTS, "not empty")}
    json.dumps(found.to_dict(), default=str)
    (tmp_path / "products.csv").unlink()
    assert inspect(tmp_path).validation.failed
