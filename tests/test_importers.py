"""Importers: every line of the source is written or dropped with a reason, and can be found again."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from feature_repo import schema as s
from feature_repo.errors import ConfigError, DataError
from feature_repo.importers import IMPORTERS, ImportReport, Step, import_tables
from feature_repo.importers.online_retail import COUNTRY, import_online_retail
from feature_repo.tables import Tables
from feature_repo.validate import validate
from training.cli.data import parse_map, register

COLUMNS = [
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
]
RETAIL = [
    ("536365", "85123A", "WHITE HEART", 6, "2010-12-01 08:26", 2.0, 17850, "France"),
    ("536365", "85123A", "WHITE HEART", 6, "2010-12-01 08:26", 2.0, 17850, "France"),  # exact copy
    (
        "536366",
        "85123a",
        "WHITE HEART",
        1,
        "2011-06-01 09:00",
        3.0,
        17850,
        "France",
    ),  # small letters, last price
    (
        "536367",
        "85123A",
        "damaged",
        1,
        "2011-06-01 10:00",
        3.0,
        None,
        "France",
    ),  # anonymous, a note for a name
    ("536368", "71053", "LANTERN, METAL", 1, "2011-06-02 10:00", 4.0, 17850, "EIRE"),
    ("536369", "71053", "METAL LANTERN", 2, "2011-06-02 11:00", 4.0, 13000, "Unspecified"),
    ("536369", "71053", "METAL LANTERN", 3, "2011-06-02 11:00", 5.0, 13000, "Unspecified"),
    ("C536370", "71053", "METAL LANTERN", -1, "2011-06-03 11:00", 4.0, 13000, "Unspecified"),  # cancellation
    ("C536371", "POST", "POSTAGE", -1, "2011-06-03 11:00", 4.0, 13000, "Unspecified"),
    ("536372", "gift_0001_20", "Voucher", 1, "2011-06-03 11:00", 20.0, 13000, "Unspecified"),
    ("536372", "23444", "Next Day Carriage", 1, "2011-06-03 11:00", 20.0, 13000, "Unspecified"),
    ("536372", "m", "Manual", 1, "2011-06-03 11:00", 20.0, 13000, "Unspecified"),
    ("536373", "DCGSSBOY", "BOYS PARTY BAG", 1, "2011-06-03 11:00", 3.0, 13000, "Unspecified"),
    ("536374", "22423", "?", -9, "2011-06-03 11:00", 0.0, None, "France"),  # stock adjustment
    ("536375", "22423", "found", 9, "2011-06-03 11:00", 0.0, None, "France"),  # zero price
    ("536376", "22423", "CAKESTAND", 9, "2011-06-03 11:00", -1.0, None, "France"),  # negative price
    ("A563185", "B", "Adjust bad debt", 1, "2011-08-12 14:50", -11062.06, None, "France"),
    ("536377", "22423", "CAKESTAND", 1, None, 1.0, None, "France"),  # no date
    ("536377", "22423", "CAKESTAND", None, "2011-06-03 11:00", 1.0, None, "France"),  # no quantity
]
DROPPED = {
    "exact copy": [2],
    "not a product": [9, 10, 11, 12, 17],
    "stock adjustment": [14],
    "zero price": [15],
    "negative price": [16],
    "no readable date": [18],
    "no readable number": [19],
}


def retail(rows: Sequence[tuple[object, ...]] = RETAIL) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame["InvoiceDate"] = pd.to_datetime(frame["InvoiceDate"])
    frame["CustomerID"] = frame["CustomerID"].astype("Int64")
    frame["Quantity"] = frame["Quantity"].astype("Int64")
    return frame


def rejected(directory: Path) -> dict[str, list[int]]:
    rows = pd.read_parquet(directory / "rejected.parquet")
    return {str(why): sorted(part[s.ROW_NUMBER].tolist()) for why, part in rows.groupby(s.REASON)}


def written(name: str, directory: Path) -> pd.DataFrame:
    with Tables.open(directory) as tables:
        return tables.frame(name)


@pytest.fixture
def imported(tmp_path: Path) -> tuple[ImportReport, Path]:
    retail().to_parquet(tmp_path / "retail.parquet")
    return import_online_retail(tmp_path / "retail.parquet", tmp_path / "tables"), tmp_path / "tables"


def test_online_retail_decides_every_line_once(imported: tuple[ImportReport, Path]) -> None:
    report, directory = imported
    assert report.rows_read == len(RETAIL)
    assert report.rows_written == {s.INTERACTIONS: 8, s.PRODUCTS: 3, s.CUSTOMERS: 2}
    assert {step.kind: step.count for step in report.steps if step.dropped} == {
        why: len(numbers) for why, numbers in DROPPED.items()
    }
    assert rejected(directory) == DROPPED
    counts = {step.kind: step.count for step in report.steps if not step.dropped}
    assert counts == {
        "time without zone": 8,
        "anonymous line": 1,
        "cancellation": 1,
        "code in small letters": 1,
        "codes that differ in case": 1,
        "product with several descriptions": 2,
        "customer in several countries": 1,
        "product price": 3,
    }
    assert json.loads((directory / "import_report.json").read_text("utf-8")) == json.loads(
        json.dumps(report.to_dict(), default=str)
    )


def test_online_retail_interactions(imported: tuple[ImportReport, Path]) -> None:
    log = written(s.INTERACTIONS, imported[1])
    back = log[log[s.KIND] == s.RETURN].iloc[0]
    assert (back[s.QUANTITY], back[s.VALUE], back[s.ORDER_ID]) == (1.0, 4.0, "C536370")
    assert log[s.VALUE].sum() == 12 + 3 + 3 + 4 + 8 + 15 + 4 + 3
    assert log[s.CUSTOMER_ID].isna().sum() == 1
    assert log[s.AT].iloc[0] == pd.Timestamp("2010-12-01T08:26Z")
    assert log[s.AT].is_monotonic_increasing


def test_online_retail_products_and_customers(imported: tuple[ImportReport, Path]) -> None:
    products = written(s.PRODUCTS, imported[1]).set_index(s.PRODUCT_ID)
    assert products[s.NAME].to_dict() == {
        "71053": "METAL LANTERN",
        "85123A": "WHITE HEART",
        "DCGSSBOY": "BOYS PARTY BAG",
    }
    # The first sale of 85123A, at 2.00, lies more than 90 days before its last.
    assert products[s.PRICE].to_dict() == {"71053": 4.0, "85123A": 3.0, "DCGSSBOY": 3.0}
    assert products[s.CATEGORY].isna().all()
    assert products[s.LAUNCHED_AT].isna().all()
    customers = written(s.CUSTOMERS, imported[1])
    assert customers[[s.CUSTOMER_ID, COUNTRY]].values.tolist() == [["13000", None], ["17850", "France"]]
    assert not validate(imported[1]).failed


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_online_retail_csv_as_published(tmp_path: Path, encoding: str) -> None:
    frame = retail().dropna(subset=["InvoiceDate"])
    frame["InvoiceDate"] = [
        f"{t.month}/{t.day}/{t.year} {t.hour}:{t.minute:02}" for t in frame["InvoiceDate"]
    ]
    frame["CustomerID"] = frame["CustomerID"].astype("float")  # as a program writes ids with gaps: 17850.0
    frame.loc[0, "Description"] = "CAFÉ £1"
    frame.to_csv(tmp_path / "retail.csv", index=False, encoding=encoding)
    report = import_online_retail(tmp_path / "retail.csv", tmp_path / "tables")
    assert report.rows_written == {
        s.INTERACTIONS: 9,
        s.PRODUCTS: 3,
        s.CUSTOMERS: 2,
    }  # no longer an exact copy
    log = written(s.INTERACTIONS, tmp_path / "tables")
    assert set(log[s.CUSTOMER_ID].dropna()) == {"13000", "17850"}
    assert log[s.AT].iloc[0] == pd.Timestamp("2010-12-01T08:26Z")


def test_online_retail_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found no file"):
        import_online_retail(tmp_path / "none.parquet", tmp_path)
    retail().drop(columns="Country").to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"expected column\(s\) country"):
        import_online_retail(tmp_path / "a.parquet", tmp_path)
    retail(RETAIL[8:12]).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match="expected sales"):
        import_online_retail(tmp_path / "b.parquet", tmp_path)
    with pytest.raises(ConfigError, match="columns are known"):
        import_online_retail(tmp_path / "b.parquet", tmp_path, column_map={"at": "InvoiceDate"})


LINES = st.tuples(
    st.sampled_from(["536365", "C536366", "A1"]),
    st.sampled_from(["85123A", "85123a", "POST", "gift_1", "71053", None]),
    st.sampled_from(["WHITE HEART", "damaged", None]),
    st.sampled_from([-1, 0, 1, None]),
    st.sampled_from(["2011-01-01 10:00", None]),
    st.sampled_from([-1.0, 0.0, 2.5, None]),
    st.sampled_from([1, 2, None]),
    st.sampled_from(["France", "EIRE", None]),
)


@given(lines=st.lists(LINES, max_size=12))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_online_retail_counts_add_up(
    lines: list[tuple[object, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("retail")
    frame = retail([*RETAIL[:1], *lines])
    frame.to_parquet(folder / "retail.parquet")
    report = import_online_retail(folder / "retail.parquet", folder)
    log, dropped = written(s.INTERACTIONS, folder), pd.read_parquet(folder / "rejected.parquet")
    assert len(log) + len(dropped) == len(frame) == report.rows_read
    assert (log[[s.QUANTITY, s.VALUE]] > 0).all(axis=None)
    numbers = dropped[s.ROW_NUMBER]
    assert numbers.is_unique
    again = frame.iloc[numbers - 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(dropped[COLUMNS], again[COLUMNS], check_dtype=False)


LOG = (
    "User,item,ts,reason,title,cost\n"
    "王芳,pen,2024-01-01T08:00:00+08:00,a,笔,2\n"
    ",pen,2024-01-02,b,钢笔,3\n"
    "bob,,2024-01-02,c,,\n"
    "bob,ink,never,d,墨水,5\n"
    "bob,ink\n"
    "bob,ink,1704067200,e,,0\n"
    "bob,ink,1704067200000,e,,\n"
)
MAP = {s.CUSTOMER_ID: "User", s.PRODUCT_ID: "item", s.AT: "ts", s.NAME: "title", s.PRICE: "cost"}


def test_interactions_through_a_column_map(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(LOG, encoding="utf-8-sig")
    report = import_tables("interactions", tmp_path / "log.csv", tmp_path / "tables", column_map=MAP)
    assert (report.rows_read, report.rows_written) == (7, {s.INTERACTIONS: 4, s.PRODUCTS: 2})
    assert report.rows_dropped == 3
    assert report.step("malformed line").count == 1
    assert report.step("anonymous line").count == 1
    assert report.step("epoch time").count == 2
    assert report.step("line without kind").count == 4
    log = written(s.INTERACTIONS, tmp_path / "tables")
    new_year = pd.Timestamp("2024-01-01T00:00Z")
    assert log[[s.CUSTOMER_ID, s.PRODUCT_ID, s.AT]].values.tolist() == [
        ["王芳", "pen", new_year],
        [None, "pen", new_year + pd.Timedelta(days=1)],
        ["bob", "ink", new_year],
        ["bob", "ink", new_year],
    ]
    products = written(s.PRODUCTS, tmp_path / "tables")
    assert products[[s.PRODUCT_ID, s.NAME]].values.tolist() == [["ink", None], ["pen", "钢笔"]]
    assert products.set_index(s.PRODUCT_ID)[s.PRICE].to_dict()["pen"] == 3.0
    rows = pd.read_parquet(tmp_path / "tables" / "rejected.parquet")
    assert rows[s.ROW_NUMBER].dropna().tolist() == [3, 4]
    assert rows["source_reason"].dropna().tolist() == ["c", "d"]
    assert rows.loc[rows["source_line"].notna(), ["source_line", "source_text"]].values.tolist() == [
        [6, "bob,ink"]
    ]


def test_interactions_errors_name_the_nearest_column(tmp_path: Path) -> None:
    source = tmp_path / "log.csv"
    source.write_text(LOG, encoding="utf-8")

    def fails(column_map: dict[str, str], match: str) -> None:
        with pytest.raises(ConfigError, match=match):
            import_tables("interactions", source, tmp_path, column_map=column_map)

    fails(MAP | {s.CUSTOMER_ID: "Usr"}, r"did you mean User\?")
    fails({"custmer_id": "User"}, r"did you mean customer_id\?")
    fails({s.CUSTOMER_ID: "User"}, "expected a source for product_id, at")
    with pytest.raises(DataError, match="cannot be read"):
        import_tables("interactions", source, tmp_path, column_map=MAP | {s.AT: "title"})
    with pytest.raises(DataError, match="found no file"):
        import_tables("interactions", tmp_path / "none.csv", tmp_path)
    with pytest.raises(ConfigError, match=r"did you mean online-retail\?"):
        import_tables("online-retial", source, tmp_path)


def test_a_report_that_does_not_add_up_is_an_error() -> None:
    steps = (Step("a", 1, "left out", dropped=True), Step("b", 5, "kept"))
    assert ImportReport("x", "y", 3, {s.INTERACTIONS: 2}, steps).rows_dropped == 1
    with pytest.raises(DataError, match="fault of the importer"):
        ImportReport("x", "y", 4, {s.INTERACTIONS: 2}, steps)


def test_commands(tmp_path: Path) -> None:
    app = typer.Typer()
    register(app)
    runner = CliRunner()
    (tmp_path / "log.csv").write_text(LOG, encoding="utf-8")
    tables = str(tmp_path / "tables")
    maps = [part for ours, theirs in MAP.items() for part in ("--map", f"{ours}={theirs}")]
    arguments = ["import", "interactions", str(tmp_path / "log.csv"), "--to", tables, *maps]
    assert "7 lines of" in runner.invoke(app, arguments, catch_exceptions=False).stdout
    assert json.loads(runner.invoke(app, [*arguments, "--json"]).stdout)["rows_dropped"] == 3
    told = runner.invoke(app, ["validate", tables])
    assert told.exit_code == 0
    assert "WARN  interactions: customers known  1 of 4" in told.stdout
    (tmp_path / "tables" / "products.parquet").unlink()
    report = runner.invoke(app, ["validate", tables, "--json"])
    assert report.exit_code == 2
    assert json.loads(report.stdout)["failed"]


def test_column_map_entries() -> None:
    assert parse_map(["customer_id = user", "at=a=b"]) == {"customer_id": "user", "at": "a=b"}
    for wrong in (["customer_id"], ["=user"], ["at="], ["at=a", "at=b"]):
        with pytest.raises(ConfigError, match="expected --map"):
            parse_map(wrong)


def test_formats_are_listed() -> None:
    assert list(IMPORTERS) == ["interactions", "online-retail", "invoice-lines", "movielens", "sources"]


@pytest.mark.realdata
def test_online_retail_as_it_is(tmp_path: Path) -> None:
    home = Path(os.environ.get("NEXTBEST_REALDATA", Path(__file__).parents[1] / "../shared/data"))
    source = home / "online_retail" / "online_retail.parquet"
    if not source.exists():
        pytest.skip(f"no Online Retail at {source}; set NEXTBEST_REALDATA")
    report = import_online_retail(source, tmp_path)
    log, dropped = written(s.INTERACTIONS, tmp_path), pd.read_parquet(tmp_path / "rejected.parquet")
    assert report.rows_read == len(log) + len(dropped) == 541_909
    assert {step.kind: step.count for step in report.steps if step.dropped} == {
        "exact copy": 5_257,
        "not a product": 3_032,
        "stock adjustment": 1_336,
        "zero price": 1_160,
    }
    cancelled = dropped["InvoiceNo"].str.startswith("C").sum()
    assert (log[s.KIND] == s.RETURN).sum() + cancelled == 9_288
    assert log[s.CUSTOMER_ID].isna().sum() + dropped["CustomerID"].isna().sum() == 135_080
    assert report.rows_written == {s.INTERACTIONS: 531_124, s.PRODUCTS: 3_810, s.CUSTOMERS: 4_362}
    assert not validate(tmp_path).failed
