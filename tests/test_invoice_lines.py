"""Invoice lines of any shop: headers recognised, returns told, every line accounted for."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from feature_repo import schema as s
from feature_repo.errors import ConfigError, DataError
from feature_repo.importers.invoice_lines import import_invoice_lines
from feature_repo.importers.online_retail import import_online_retail
from feature_repo.tables import Tables
from feature_repo.validate import validate

LINES = """Invoice No,Invoice Date,SKU,Product Name,Qty,Unit Price,Customer ID,Till
1,2024-01-01 10:00,007,Mug,2,1.50,17850.0,a
1,2024-01-01 10:00,007,Mug,2,1.50,17850.0,a
2,2024-01-02 10:00,007,Cup,1,1.50,,a
3,2024-01-03 10:00,007,Cup,1,2.50,王芳,a
4,2024-01-03 11:00,007,Cup,-1,2.50,王芳,a
C5,2024-01-03 12:00,1e5,茶,-2,3.00,王芳,a
6,2024-01-04 12:00,1e5,茶,1,0,王芳,a
7,2024-01-04 12:00,1e5,茶,0,3,王芳,a
8,2024-01-04 12:00,1e5,茶,1,-3,王芳,a
9,never,1e5,茶,1,3,王芳,a
9,2024-01-04 12:00,,茶,1,3,王芳,a
9,2024-01-04 12:00,1e5,茶,x,3,王芳,a
9,2024-01-04
"""


def written(name: str, directory: Path) -> pd.DataFrame:
    with Tables.open(directory) as tables:
        return tables.frame(name)


def test_every_line_is_decided_once(tmp_path: Path) -> None:
    (tmp_path / "lines.csv").write_text(LINES, "utf-8")
    report = import_invoice_lines(tmp_path / "lines.csv", tmp_path / "tables")
    assert (report.rows_read, report.rows_written) == (13, {s.INTERACTIONS: 7, s.PRODUCTS: 2})
    assert {step.kind: step.count for step in report.steps if step.dropped} == {
        "negative price": 1,
        "no product": 1,
        "no readable date": 1,
        "no readable number": 1,
        "quantity of zero": 1,
        "malformed line": 1,
    }
    assert report.step("column").done == (
        "read as invoice=Invoice No, date=Invoice Date, product=SKU, description=Product Name, quantity=Qty, "
        "price=Unit Price, customer=Customer ID"
    )
    assert report.step("column not used").done == "Till"
    assert report.step("line that occurs several times").count == 1
    assert report.step("line without a price").count == 1
    rows = pd.read_parquet(tmp_path / "tables" / "rejected.parquet")
    assert rows[s.ROW_NUMBER].dropna().tolist() == [8, 9, 10, 11, 12]


def test_interactions_and_products(tmp_path: Path) -> None:
    (tmp_path / "lines.csv").write_text(LINES, "utf-8")
    import_invoice_lines(tmp_path / "lines.csv", tmp_path / "tables")
    log = written(s.INTERACTIONS, tmp_path / "tables")
    columns = [s.CUSTOMER_ID, s.PRODUCT_ID, s.KIND, s.QUANTITY, s.VALUE, s.ORDER_ID]
    assert log[columns].values.tolist() == [
        ["17850", "007", "purchase", 2.0, 3.0, "1"],
        ["17850", "007", "purchase", 2.0, 3.0, "1"],
        [None, "007", "purchase", 1.0, 1.5, "2"],
        ["王芳", "007", "purchase", 1.0, 2.5, "3"],
        ["王芳", "007", "return", 1.0, 2.5, "4"],
        ["王芳", "1e5", "return", 2.0, 6.0, "C5"],
        ["王芳", "1e5", "purchase", 1.0, 0.0, "6"],
    ]
    products = written(s.PRODUCTS, tmp_path / "tables")
    assert products[[s.PRODUCT_ID, s.NAME]].values.tolist() == [["007", "Cup"], ["1e5", "茶"]]
    assert not validate(tmp_path / "tables").failed


def test_of_equally_frequent_descriptions_the_latest(tmp_path: Path) -> None:
    text = "order,date,item,title,qty,price\n1,2024-01-01,a,old,1,1\n2,2024-02-01,a,new,1,1\n"
    (tmp_path / "lines.csv").write_text(text, "utf-8")
    report = import_invoice_lines(tmp_path / "lines.csv", tmp_path / "tables")
    assert written(s.PRODUCTS, tmp_path / "tables")[s.NAME].tolist() == ["new"]
    assert report.step("anonymous line").count == 2


@pytest.mark.parametrize(
    ("dates", "expected"),
    [
        (["13.01.2024", "02.01.2024 10:00"], ["2024-01-02 10:00", "2024-01-13"]),
        (["1/13/2024 8:05", "1/2/2024"], ["2024-01-02", "2024-01-13 08:05"]),
        (["01/01/2024", "02/02/2024"], ["2024-01-01", "2024-02-02"]),
    ],
)
def test_dates_that_say_which_number_is_the_day(
    tmp_path: Path, dates: list[str], expected: list[str]
) -> None:
    text = "order,date,item,qty,price\n" + "".join(f"1,{date},a,1,1\n" for date in dates)
    (tmp_path / "lines.csv").write_text(text, "utf-8")
    import_invoice_lines(tmp_path / "lines.csv", tmp_path / "tables")
    found = written(s.INTERACTIONS, tmp_path / "tables")[s.AT].tolist()
    assert found == [pd.Timestamp(moment, tz="UTC") for moment in expected]


def test_errors(tmp_path: Path) -> None:
    path = tmp_path / "lines.csv"
    with pytest.raises(DataError, match="found no file"):
        import_invoice_lines(path, tmp_path)
    path.write_text("order,date,item,qty,cost\n1,03/04/2024,a,1,1\n", "utf-8")
    with pytest.raises(DataError, match=r"expected column\(s\) price.*--map price=COLUMN"):
        import_invoice_lines(path, tmp_path)
    with pytest.raises(ConfigError, match=r"did you mean cost\?"):
        import_invoice_lines(path, tmp_path, column_map={"price": "csot"})
    with pytest.raises(ConfigError, match=r"did you mean price\?"):
        import_invoice_lines(path, tmp_path, column_map={"prise": "cost"})
    with pytest.raises(DataError, match="which number is the day"):
        import_invoice_lines(path, tmp_path, column_map={"unit_price": "cost"})
    path.write_text("order,date,item,qty,price\n1,2024-01-01,a,0,1\n", "utf-8")
    with pytest.raises(DataError, match=r"expected usable lines.*quantity of zero"):
        import_invoice_lines(path, tmp_path)


@pytest.mark.realdata
def test_online_retail_where_the_rules_agree(tmp_path: Path) -> None:
    home = Path(os.environ.get("NEXTBEST_REALDATA", Path(__file__).parents[1] / "../shared/data"))
    source = home / "online_retail" / "online_retail.parquet"
    if not source.exists():
        pytest.skip(f"no Online Retail at {source}; set NEXTBEST_REALDATA")
    special = import_online_retail(source, tmp_path / "special")
    report = import_invoice_lines(source, tmp_path / "general")
    assert report.rows_read == special.rows_read == report.rows_written[s.INTERACTIONS] + report.rows_dropped
    mine, theirs = (
        written(s.INTERACTIONS, tmp_path / "general"),
        written(s.INTERACTIONS, tmp_path / "special"),
    )
    # The special importer knows the shop: what is no product, what was for nothing, capital letters, exact copies.
    mine[s.PRODUCT_ID] = mine[s.PRODUCT_ID].str.upper()
    goods = mine[s.PRODUCT_ID].isin(theirs[s.PRODUCT_ID])
    columns = [s.CUSTOMER_ID, s.PRODUCT_ID, s.AT, s.KIND, s.QUANTITY, s.VALUE, s.ORDER_ID]
    agreed = mine.loc[goods & (mine[s.VALUE] > 0), columns].drop_duplicates().sort_values(columns)
    expected = theirs[columns].drop_duplicates().sort_values(columns)
    pd.testing.assert_frame_equal(agreed.reset_index(drop=True), expected.reset_index(drop=True))
