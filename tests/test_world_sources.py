"""A simulated shop goes out through nine files and comes back through their map, but for the faults put in."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from eval.world import AGE_BAND, BRAND, ECO, REGION, World, WorldConfig, simulate
from eval.world_sources import Sources, exported_names, write_sources
from feature_repo import schema as s
from feature_repo.importers import SourcesReport
from feature_repo.importers.sources import import_sources
from feature_repo.tables import Tables
from feature_repo.validate import validate

STORE = "store"
ENCODINGS = {
    "orders.csv": "latin-1",
    "till-1.csv": "gb18030",
    "till-2.csv": "gb18030",
    "browsing.csv": "utf-8",
}
KEYS = {
    s.INTERACTIONS: [s.AT, s.CUSTOMER_ID, s.PRODUCT_ID, s.KIND, s.ORDER_ID],
    s.PRODUCTS: [s.PRODUCT_ID, s.VALID_FROM],
    s.CUSTOMERS: [s.CUSTOMER_ID, s.VALID_FROM],
    s.MEASURES: [s.CUSTOMER_ID, s.AT, s.NAME],
}
FIRST_COMING = pd.Timestamp("2025-10-26 00:20:05.25", tz="UTC")  # 02:20:05 in Berlin, and again an hour later
SECOND_COMING = FIRST_COMING + pd.Timedelta(hours=1, minutes=10)


@dataclass(frozen=True)
class Shop:
    world: World
    sources: Sources
    report: SourcesReport
    tables: Path


def _to_microseconds(world: World) -> World:
    """Give every instant a fraction of a second, and two web orders the hour that comes twice."""
    rng = np.random.default_rng(5)

    def fraction(frame: pd.DataFrame, *names: str) -> pd.DataFrame:
        drawn = pd.to_timedelta(rng.integers(1_000_000, size=len(frame)), unit="us")
        return frame.assign(**{name: frame[name] + drawn for name in names})

    lines = fraction(world.interactions, s.AT)
    online = lines.index[(lines[s.KIND] == s.PURCHASE) & (lines[s.CHANNEL] != STORE)]
    lines.loc[online[[100, 200]], s.AT] = [FIRST_COMING, SECOND_COMING]
    # readings of one day are one row of the bank's file: they keep one instant
    measures = world.measures.assign(**{s.AT: world.measures[s.AT] + pd.Timedelta(microseconds=123_456)})
    return replace(
        world,
        interactions=lines,
        products=fraction(world.products, s.VALID_FROM),
        customers=fraction(world.customers, s.SIGNED_UP_AT, s.VALID_FROM),
        measures=measures,
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    directory = tmp_path_factory.mktemp("shop")
    world = _to_microseconds(simulate(WorldConfig(customers=300, products=150, months=9, seed=21)))
    sources = write_sources(world, directory / "sources")
    report = import_sources(sources.path, directory / "tables")
    return Shop(world, sources, report, directory / "tables")


def imported(shop: Shop, table: str) -> pd.DataFrame:
    with Tables.open(shop.tables) as tables:
        return tables.frame(table)


def same_rows(found: pd.DataFrame, expected: pd.DataFrame, table: str) -> None:
    """The same rows in any order, numbers within a billionth of the unit: cents are exact."""
    assert sorted(found) == sorted(expected)
    left, right = (
        frame[sorted(frame)].sort_values(KEYS[table], ignore_index=True) for frame in (found, expected)
    )
    nothing = dict.fromkeys(left.select_dtypes("object"), "object")
    left, right = (frame.astype(nothing).where(frame.notna(), None) for frame in (left, right))
    assert_frame_equal(left, right, check_dtype=False, rtol=0, atol=1e-9)


# --- nothing but the faults is lost -------------------------------------------------------------------


def test_interactions_come_back_to_the_precision_of_their_files(shop: Shop) -> None:
    expected = shop.world.interactions.copy()
    stores = expected[s.CHANNEL] == STORE
    orders = ~stores & expected[s.KIND].isin([s.PURCHASE, s.RETURN])
    second = orders & (expected[s.AT] == SECOND_COMING)
    assert second.sum() == 1
    exact = expected[s.AT]
    expected[s.AT] = exact.where(stores, exact.dt.floor("ms")).where(~orders, exact.dt.floor("s"))
    expected.loc[second, s.AT] -= pd.Timedelta(hours=1)
    same_rows(imported(shop, s.INTERACTIONS), expected, s.INTERACTIONS)
    notes = {note.kind: note.count for note in shop.report.of("orders").notes}
    assert shop.sources.repeated_hour == notes["time that comes twice"] >= 2


def test_products_come_back_with_their_exported_names(shop: Shop) -> None:
    products = shop.world.products
    expected = products.assign(**{s.NAME: exported_names(products)})
    found = imported(shop, s.PRODUCTS)
    same_rows(found, expected, s.PRODUCTS)
    assert {BRAND, ECO} <= set(found)
    chinese = found[s.CATEGORY].isin(["tea", "coffee"])
    assert chinese.any()
    assert not found.loc[chinese, s.NAME].str.contains("[A-Za-z ]").any()
    assert found.loc[~chinese, s.NAME].map(str.isascii).all()
    assert found.groupby(s.PRODUCT_ID)[s.NAME].first().is_unique


def test_customers_come_back_although_two_files_disagree(shop: Shop) -> None:
    found = imported(shop, s.CUSTOMERS)
    same_rows(found, shop.world.customers, s.CUSTOMERS)
    assert {REGION, AGE_BAND, "consent_email"} <= set(found)


def test_measures_come_back_from_a_column_each(shop: Shop) -> None:
    same_rows(imported(shop, s.MEASURES), shop.world.measures, s.MEASURES)
    wide = shop.report.of("bank")
    assert wide.rows_read < wide.written < wide.records == wide.written + wide.empty_cells


def test_what_comes_back_fits_the_contract(shop: Shop) -> None:
    assert not [finding for finding in validate(shop.tables).findings if finding.status == "FAIL"]


# --- the faults are as planted ------------------------------------------------------------------------


def test_faults_are_as_many_as_planted(shop: Shop) -> None:
    sources, report = shop.sources, shop.report
    reasons = {
        (account.name, reason.field, reason.reason): reason.count
        for account in report.sources
        for reason in (*account.reasons, *account.values)
    }
    assert reasons == {
        ("orders", s.AT, "at is not a time as declared"): sources.impossible_dates,
        ("till", s.CUSTOMER_ID, "customer_id is not in crosswalk ids"): sources.unknown_cards,
        ("browsing", s.KIND, "kind is not among the declared values"): sources.unmapped_kinds,
    }
    assert sum(account.rejected for account in report.sources) == sources.rejected
    assert report.of("till").same_as == {"till": sources.exported_twice}
    loyalty = report.of("loyalty")
    assert loyalty.merged == sources.regions_overruled + sources.regions_filled
    assert loyalty.same_as == {"crm": sources.regions_repeated}
    region = report.field(s.CUSTOMERS, REGION)
    assert region.won == {"crm over loyalty": sources.regions_overruled}
    assert region.origins["loyalty"] == sources.regions_filled
    assert min(value for value in vars(sources).values() if isinstance(value, int)) > 0
    conflicts = sum(field.conflicts for field in report.fields)
    assert conflicts == sources.regions_overruled


def test_every_row_left_out_is_found_again(shop: Shop) -> None:
    rejected = pd.read_parquet(shop.tables / "rejected.parquet")
    rejected = rejected[rejected["outcome"] == "rejected"]
    lines = {}
    for name, encoding in ENCODINGS.items():
        with (shop.sources.path.parent / name).open(encoding=encoding, newline="") as file:
            lines[name] = list(csv.DictReader(file, delimiter=";" if name == "orders.csv" else ","))
    for row in rejected.itertuples():
        stored = {key: value or "" for key, value in json.loads(row.row).items()}
        assert stored == lines[row.file][row.row_number - 1]
    planted = {
        (name, number)
        for name, rows in lines.items()
        for number, row in enumerate(rows, start=1)
        if row.get("Zeitpunkt", "").startswith("31.02.")
        or row.get("会员卡", "").startswith("K999999")
        or row.get("event") == "scroll"
    }
    assert set(zip(rejected["file"], rejected["row_number"], strict=True)) == planted
    assert len(rejected) == len(planted) == shop.sources.rejected


def test_ids_are_written_in_several_ways_and_tills_overlap_by_whole_receipts(shop: Shop) -> None:
    folder = shop.sources.path.parent
    accounts = pd.read_csv(folder / "orders.csv", encoding="latin-1", sep=";")["Konto"]
    assert 0 < accounts.str.isupper().sum() < len(accounts)
    cards = pd.read_csv(folder / "ids.csv")
    assert cards.loc[cards["id"].str.startswith("K"), "customer"].duplicated().any()
    tills = [
        pd.read_csv(folder / f"till-{n}.csv", encoding="gb18030", dtype=str, keep_default_na=False)
        for n in (1, 2)
    ]
    both = tills[0].merge(tills[1])
    assert len(both) == shop.sources.exported_twice
    again = set(both["时间"])
    assert (tills[0]["时间"] >= min(again)).sum() == len(both)


# --- borders -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("customers", [1, 40])
def test_a_part_of_the_customers(shop: Shop, tmp_path: Path, customers: int) -> None:
    sources = write_sources(shop.world, tmp_path / "sources", customers=customers)
    report = import_sources(sources.path, tmp_path / "tables")
    with Tables.open(tmp_path / "tables") as tables:
        found = tables.frame(s.INTERACTIONS)
        people = set(tables.frame(s.CUSTOMERS)[s.CUSTOMER_ID])
    ids = sorted(set(shop.world.customers[s.CUSTOMER_ID]))[:customers]
    assert people == set(ids)
    assert len(found) == shop.world.interactions[s.CUSTOMER_ID].isin(ids).sum()
    assert sum(account.rejected for account in report.sources) == sources.rejected


def test_the_same_world_gives_the_same_files(shop: Shop, tmp_path: Path) -> None:
    write_sources(shop.world, tmp_path)
    folder = shop.sources.path.parent
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in folder.iterdir())
    assert all((tmp_path / name).read_bytes() == (folder / name).read_bytes() for name in names)
