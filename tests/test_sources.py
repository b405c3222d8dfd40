"""Many messy files become tables: every row accounted for by hand, every row left out found again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo import schema as s
from feature_repo.errors import ConfigError
from feature_repo.importers import SourcesReport, import_tables
from feature_repo.importers.sources import import_sources
from feature_repo.tables import Tables
from feature_repo.validate import validate
from tests.messy import messy_sources

Imported = tuple[SourcesReport, Path]


def utc(text: str) -> pd.Timestamp:
    return pd.Timestamp(text, tz="UTC")


def written(name: str, directory: Path) -> pd.DataFrame:
    with Tables.open(directory) as tables:
        return tables.frame(name)


def left_out(directory: Path) -> list[tuple[Any, ...]]:
    rows = pd.read_parquet(directory / "rejected.parquet").astype(object)
    columns = ["source", "row_number", "outcome", "field", "reason"]
    return [tuple(None if v is None else v for v in row) for row in rows[columns].itertuples(index=False)]


def run(folder: Path, text: str, **files: str | bytes) -> Imported:
    """Import files (``a_csv`` is a.csv) by a map."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("_", ".", 1)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "map.toml").write_text(text, encoding="utf-8")
    return import_sources(folder / "map.toml", folder / "out"), folder / "out"


LOG = """
[sources.log]
file = "log.csv"
table = "interactions"
columns = { customer_id = "c", product_id = "p", at = "t" }
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    folder = tmp_path_factory.mktemp("messy")
    return import_sources(messy_sources(folder), folder / "tables"), folder / "tables"


def test_every_row_of_every_source_is_accounted_for(imported: Imported) -> None:
    report, _ = imported
    found = {
        account.name: (
            account.rows_read,
            account.records,
            account.written,
            account.merged,
            account.duplicates,
            account.rejected,
            account.empty_cells,
            account.values_rejected,
        )
        for account in report.sources
    }
    #                          read  records written merged duplicates rejected empty values
    assert found == {
        "till": (11, 11, 4, 0, 0, 7, 0, 0),
        "web": (10, 10, 4, 1, 1, 4, 0, 0),
        "catalogue": (6, 6, 4, 0, 1, 1, 0, 1),
        "web_products": (10, 10, 1, 8, 0, 1, 0, 0),
        "crm": (5, 5, 3, 1, 0, 1, 0, 2),
        "bank": (5, 9, 3, 1, 1, 2, 2, 0),  # two measures a row, one row unusable
        "bank_customers": (5, 5, 1, 3, 1, 0, 0, 0),
    }
    assert report.rows_written == {s.INTERACTIONS: 8, s.PRODUCTS: 5, s.CUSTOMERS: 4, s.MEASURES: 3}
    assert (report.rows_read, report.rows_dropped) == (52, 16 + 4)
    assert report.of("web").same_as == {"till": 1}
    assert report.of("bank_customers").same_as == {"crm": 1}


def test_every_row_left_out_is_found_again(imported: Imported) -> None:
    _, folder = imported
    number, time, known = (
        "is not a number as declared",
        "is not a time as declared",
        "is not among the declared values",
    )
    assert left_out(folder) == [
        ("till", 4, "rejected", "customer_id", "customer_id is not in crosswalk cards"),
        ("till", 5, "rejected", "customer_id", "customer_id has several ids in crosswalk cards"),
        ("till", 6, "rejected", "kind", f"kind {known}"),
        ("till", 7, "rejected", None, "too few fields for a row"),
        ("till", 8, "rejected", "at", f"at {time}"),
        ("till", 9, "rejected", "value", f"value {number}"),
        ("till", 11, "rejected", None, "bytes that are no gb18030 text"),
        ("web", 1, "duplicate", None, "says the same as row 10 of till.csv (source till)"),
        ("web", 5, "rejected", "value", f"value {number}"),
        ("web", 6, "rejected", "value", "value has a currency without declared rate"),
        ("web", 7, "rejected", "kind", f"kind {known}"),
        ("web", 10, "rejected", None, "too many fields for a row"),
        ("catalogue", 4, "rejected", "product_id", "product_id is empty"),
        ("catalogue", 5, "duplicate", None, "says the same as row 1 of catalogue.csv (source catalogue)"),
        ("catalogue", 6, "value rejected", "price", f"price {number}"),
        ("web_products", 10, "rejected", None, "too many fields for a row"),
        ("crm", 2, "value rejected", "signed_up_at", f"signed_up_at {time}"),
        ("crm", 3, "value rejected", "gender", f"gender {known}"),
        ("crm", 4, "rejected", "customer_id", "customer_id is empty"),
        ("bank", 2, "rejected", "income", f"income {number}"),
        ("bank", 3, "rejected", "at", f"at {time}"),
        ("bank", 5, "duplicate", None, "says the same as row 1 of bank.csv (source bank)"),
        ("bank_customers", 5, "duplicate", None, "says the same as row 1 of crm.csv (source crm)"),
    ]
    rows = pd.read_parquet(folder / "rejected.parquet").set_index(["source", "row_number"])
    exchange = rows.loc[("till", 6)]
    assert (exchange["file"], exchange["value"]) == ("till.csv", "换货")
    assert json.loads(exchange["row"])["类型"] == "换货"
    assert json.loads(rows.loc[("till", 7), "row"]) == {"line": "K-03,C3"}
    assert json.loads(rows.loc[("till", 11), "row"])["单号"] == r"\xff\xff"


def test_interactions_of_two_exports(imported: Imported) -> None:
    log = written(s.INTERACTIONS, imported[1])
    columns = [s.CUSTOMER_ID, s.PRODUCT_ID, s.AT, s.KIND, s.VALUE, s.ORDER_ID]
    assert log[columns].values.tolist() == [
        [
            "007",
            "A1",
            utc("2024-03-31 01:30"),
            "purchase",
            1234.5,
            "W2",
        ],  # 02:30 is not there: half past two in winter
        ["007", "A1", utc("2024-05-01 00:00"), "purchase", 19.99, "T1"],
        ["007", "B2", utc("2024-05-01 01:30"), "return", 5.0, "T2"],
        [None, "A1", utc("2024-05-02 02:00"), "purchase", 19.99, "T3"],
        ["1e5", "C3", utc("2024-05-05 02:00"), "purchase", 30.0, "W1"],  # in both exports, at both clocks
        ["007", "B2", utc("2024-06-01 10:00"), "view", 0.0, "W4"],
        [None, "D4", utc("2024-06-02 10:00"), "purchase", 5.0, "W8"],
        ["007", "B2", utc("2024-10-27 00:30"), "return", 13.125, "W3"],  # 02:30 comes twice: the earlier
    ]
    notes = {note.kind: note.count for note in imported[0].of("web").notes}
    assert notes == {"time in a gap": 1, "time that comes twice": 1}


def test_entities_of_several_sources(imported: Imported) -> None:
    _, folder = imported
    products = written(s.PRODUCTS, folder).set_index(s.PRODUCT_ID)
    assert products[s.NAME].to_dict() == {
        "A1": "马克杯",
        "B2": "勺子",
        "C3": "绿茶",
        "D4": "Öl",
        "E5": '=HYPERLINK("http://x")',
    }
    assert products.loc["D4", s.CATEGORY] is None
    customers = written(s.CUSTOMERS, folder).set_index(s.CUSTOMER_ID)
    assert customers["region"].to_dict() == {"007": "北京", "008": "Berlin", "009": "Bonn", "1e5": "Köln"}
    assert customers["full_name"].to_dict() == {
        "007": "王芳",
        "008": "Anna\nMaria",
        "009": None,
        "1e5": "Zoë",
    }
    assert customers["consent_email"].to_dict() == {"007": True, "008": True, "009": None, "1e5": False}
    measures = written(s.MEASURES, folder)
    assert measures[[s.CUSTOMER_ID, s.NAME, s.VALUE]].values.tolist() == [
        ["007", "balance", 1234.56],
        ["007", "income", 2000.0],
        ["009", "balance", 10.0],
    ]
    assert not validate(folder).failed


def test_conflicts_have_both_values_and_their_places(imported: Imported) -> None:
    report, folder = imported
    region = report.field(s.CUSTOMERS, "region")
    assert (region.conflicts, region.won) == (2, {"bank_customers over crm": 2})
    example = region.examples[0]
    assert (example.kept, example.kept_source, example.kept_row) == ("北京", "bank_customers", 1)
    assert (example.other, example.other_source, example.other_row) == ("上海", "crm", 1)
    assert report.field(s.PRODUCTS, s.NAME).won == {"catalogue over web_products": 8}
    assert report.field(s.INTERACTIONS, s.VALUE).won == {"till over web": 1}
    assert report.field(s.MEASURES, s.VALUE).won == {"bank over bank": 1}
    listed = pd.read_parquet(folder / "conflicts.parquet")
    assert Counter(listed["table"]) == {s.PRODUCTS: 8, s.CUSTOMERS: 2, s.INTERACTIONS: 1, s.MEASURES: 1}


def test_ids_stay_text_and_codes_are_no_numbers(tmp_path: Path) -> None:
    people = """
[sources.people]
file = "people.csv"
table = "customers"
columns = { customer_id = "c" }
attributes = "*"
"""
    log = "c,p,t\n007,1e5,2024-01-01\n1e5,007,2024-01-01\n17850.0,0x10,2024-01-01\n"
    crowd = "c,code,weight,lot\n007,007,1.5,1e5\n1e5,12,2,3\n"
    _, folder = run(tmp_path, LOG + people, log_csv=log, people_csv=crowd)
    frame = written(s.INTERACTIONS, folder)
    assert set(frame[s.CUSTOMER_ID]) == {"007", "1e5", "17850.0"}
    assert set(frame[s.PRODUCT_ID]) == {"007", "1e5", "0x10"}
    customers = written(s.CUSTOMERS, folder).set_index(s.CUSTOMER_ID)
    assert customers["code"].to_dict() == {"007": "007", "1e5": "12"}
    assert customers["weight"].to_dict() == {"007": 1.5, "1e5": 2.0}
    assert customers["lot"].to_dict() == {"007": "1e5", "1e5": "3"}


def test_ids_are_normalised_in_the_declared_order(tmp_path: Path) -> None:
    text = """
[sources.log]
file = "log.csv"
table = "interactions"
[sources.log.columns]
customer_id = { column = "c", strip = "#", whole = true, upper = true, zero_pad = 4, prefix = "DE-" }
product_id = { column = ["p", "q"], join = "/" }
at = { column = ["t", "u"], format = "%d.%m.%y %H.%M" }
kind = { constant = "view" }
"""
    log = "c,p,q,t,u\n #7.0# ,a,b,31.12.24,08.05\n12345x,a,,01.01.25,00.00\n"
    _, folder = run(tmp_path, text, log_csv=log)
    frame = written(s.INTERACTIONS, folder)
    assert frame[[s.CUSTOMER_ID, s.PRODUCT_ID, s.AT, s.KIND]].values.tolist() == [
        ["DE-0007", "a/b", utc("2024-12-31 08:05"), "view"],
        ["DE-12345X", "a", utc("2025-01-01"), "view"],
    ]


@pytest.mark.parametrize(
    ("form", "value", "expected"),
    [
        ("iso", "2024-05-01T08:00+08:00", "2024-05-01 00:00"),
        ("iso", "2024-05-01 08:00Z", "2024-05-01 08:00"),
        ("iso", "2024-05-01", "2024-04-30 22:00"),
        ("epoch_s", "1714550400", "2024-05-01 08:00"),
        ("epoch_ms", "1714550400000", "2024-05-01 08:00"),
        ("epoch_us", "1714550400000000", "2024-05-01 08:00"),
        ("%Y-%m-%d %H:%M:%S%z", "2024-05-01 08:00:00+0800", "2024-05-01 00:00"),
        ("%d/%m/%Y", "01/05/2024", "2024-04-30 22:00"),
    ],
)
def test_times(tmp_path: Path, form: str, value: str, expected: str) -> None:
    text = f'[defaults]\ntime_zone = "Europe/Berlin"\ntime_format = "{form}"\n{LOG}'
    _, folder = run(tmp_path, text, log_csv=f"c,p,t\na,b,{value}\n")
    assert written(s.INTERACTIONS, folder)[s.AT].iloc[0] == utc(expected)


@pytest.mark.parametrize(
    ("settings_", "value", "expected"),
    [
        ("", "1234.5", 1234.5),
        ("", "1,234.5", None),
        ("", "1e3", 1000.0),
        ("", "inf", None),
        ("", "-.5", -0.5),
        ('thousands = ","', "1,234.5", 1234.5),
        ('thousands = ","', "1,23,456", 123456.0),
        ('thousands = ","', "12,34", None),
        ('decimal = ",", thousands = "."', "1.234,5", 1234.5),
        ('decimal = ",", thousands = "."', "12.50", None),
        ('decimal = ",", thousands = " "', "1 234,5", 1234.5),
        ('decimal = ",", thousands = " "', "1\u202f234,5", 1234.5),
        ('decimal = ",", thousands = "\'"', "1'234,5", 1234.5),
        ("factor = 0.01", "1999", 19.99),
        ('strip = "€"', "€ 5", 5.0),
    ],
)
def test_numbers_are_read_as_declared_or_not_at_all(
    tmp_path: Path, settings_: str, value: str, expected: float | None
) -> None:
    price = f'{{ column = "x", {settings_} }}'.replace(",  }", " }")
    text = f"""{LOG}
[sources.goods]
file = "goods.csv"
table = "products"
delimiter = ";"
columns = {{ product_id = "p", price = {price} }}
"""
    report, folder = run(tmp_path, text, log_csv="c,p,t\na,b,2024-01-01\n", goods_csv=f"p;x\nb;{value}\n")
    found = written(s.PRODUCTS, folder)[s.PRICE].iloc[0]
    assert found == expected if expected is not None else pd.isna(found)
    assert report.of("goods").values_rejected == (expected is None)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ('decimal = ","\nthousands = ","', "other than the decimal sign"),
        ('thousands = "0"', "other than the decimal sign"),
    ],
)
def test_signs_of_numbers_that_cannot_be_told_apart_are_refused(more: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        run(tmp_path, LOG + more, log_csv="c,p,t\n1,2,2024-01-01\n")


def test_a_column_whose_name_another_was_given_is_told(tmp_path: Path) -> None:
    people = """
[sources.people]
file = "crm.csv"
table = "customers"
attributes = "*"
columns = { customer_id = "Nr" }
"""
    files = {"log_csv": "c,p,t\n1,2,2024-01-01\n", "crm_csv": "Nr,customer_id,city\n1,9,Ulm\n"}
    report, out = run(tmp_path, LOG + people, **files)
    assert report.of("people").unused_columns == ("customer_id",)
    assert written("customers", out)["city"].tolist() == ["Ulm"]


def test_values_defaults_and_empties(tmp_path: Path) -> None:
    text = """
[defaults]
empty = ["NULL", "-"]
[sources.log]
file = "log.csv"
table = "interactions"
[sources.log.columns]
customer_id = "c"
product_id = "p"
at = "t"
kind = { column = "k", values = { V = "view" }, default = "purchase" }
quantity = { column = "q", unreadable = "value" }
"""
    log = "c,p,t,k,q\nNULL,b,2024-01-01,V,2\na,b,2024-01-02,X,x\na,b,2024-01-03,-,\n"
    report, folder = run(tmp_path, text, log_csv=log)
    frame = written(s.INTERACTIONS, folder)
    assert frame[[s.CUSTOMER_ID, s.KIND, s.QUANTITY]].values.tolist() == [
        [None, "view", 2.0],
        ["a", "purchase", 1.0],
        ["a", "purchase", 1.0],
    ]
    assert (report.of("log").rejected, report.of("log").values_rejected) == (0, 1)
    assert report.step("anonymous row").count == 1


def test_what_the_map_says_itself_is_written_as_toml_writes_it(tmp_path: Path) -> None:
    text = """
[defaults]
decimal = ","
time_format = "%d.%m.%Y"
time_zone = "Europe/Berlin"
[sources.log]
file = "log.csv"
table = "interactions"
[sources.log.columns]
customer_id = "c"
product_id = "p"
at = { constant = 2024-05-01T10:00:00Z }
value = { constant = 1.5 }
quantity = { column = "q", default = 2.5, values = { many = 10.5 } }
"""
    _, folder = run(tmp_path, text, log_csv="c,p,q\na,b,\na,b,many\n")
    frame = written(s.INTERACTIONS, folder)
    assert frame[[s.AT, s.VALUE, s.QUANTITY]].values.tolist() == [
        [utc("2024-05-01 10:00"), 1.5, 2.5],
        [utc("2024-05-01 10:00"), 1.5, 10.5],
    ]


def test_all_other_columns_as_attributes(tmp_path: Path) -> None:
    goods = """
[sources.goods]
file = "goods.csv"
table = "products"
columns = { product_id = "id" }
attributes = "*"
"""
    _, folder = run(
        tmp_path, LOG + goods, log_csv="c,p,t\na,b,2024-01-01\n", goods_csv="id,Price,fault,row\nb,2,=x,1\n"
    )
    products = written(s.PRODUCTS, folder)
    assert products[[s.PRICE, "fault", "row"]].values.tolist() == [[2.0, "=x", 1.0]]


def test_unknown_ids_of_a_crosswalk(tmp_path: Path) -> None:
    template = """
[crosswalks.walk]
file = "ids.csv"
from = "a"
to = "b"
upper = true
[sources.log]
file = "log.csv"
table = "interactions"
columns = { customer_id = { column = "c", crosswalk = "walk", unknown = "UNKNOWN" }, product_id = "p", at = "t" }
"""
    expected: dict[str, list[str | None]] = {"keep": ["one", "z"], "empty": ["one", None], "reject": ["one"]}
    for unknown, customers in expected.items():
        report, folder = run(
            tmp_path / unknown,
            template.replace("UNKNOWN", unknown),
            log_csv="c,p,t\nX,b,2024-01-01\nz,b,2024-01-02\n",
            ids_csv="a,b\nx,one\n,two\ny,\n",
        )
        assert written(s.INTERACTIONS, folder)[s.CUSTOMER_ID].tolist() == customers
        assert report.step("crosswalk walk: incomplete").count == 2


def test_parquet_json_lines_and_several_files_of_one_shape(tmp_path: Path) -> None:
    text = """
[sources.log]
file = "log-*.jsonl"
table = "interactions"
columns = { customer_id = "c", product_id = "p", at = "t" }
[sources.goods]
file = "goods.parquet"
table = "products"
columns = { product_id = "id", price = "x", launched_at = "d", name = "n" }
"""
    (tmp_path / "log-1.jsonl").write_text(
        '{"c": "王", "p": 7, "t": "2024-01-01"}\nnonsense\n{"c": "b", "p": 8}\n', "utf-8"
    )
    (tmp_path / "log-2.jsonl").write_text('{"t": "2024-01-02", "p": "7", "c": null}\n', "utf-8")
    frame = pd.DataFrame(
        {"id": [7.0, None], "x": [1.25, 2.0], "d": [utc("2024-01-01"), pd.NaT], "n": ["笔", None]}
    )
    frame.to_parquet(tmp_path / "goods.parquet")
    report, folder = run(tmp_path, text)
    assert written(s.INTERACTIONS, folder)[s.CUSTOMER_ID].tolist() == ["王", None]
    assert report.of("log").files == ("log-1.jsonl", "log-2.jsonl")
    assert [(row[1], row[4]) for row in left_out(folder)] == [
        (2, "no JSON object"),
        (3, "at is empty"),
        (2, "product_id is empty"),
    ]
    goods = written(s.PRODUCTS, folder)
    assert goods[[s.PRODUCT_ID, s.PRICE, s.LAUNCHED_AT, s.NAME]].values.tolist() == [
        ["7", 1.25, utc("2024-01-01"), "笔"]
    ]


def test_all_seven_tables(tmp_path: Path) -> None:
    text = (
        LOG
        + """
[sources.offers]
file = "offers.csv"
table = "campaigns"
columns = { campaign_id = "id", starts_at = "a", ends_at = "b" }
[sources.calls]
file = "calls.csv"
table = "contacts"
[sources.calls.columns]
campaign_id = "id"
customer_id = "c"
channel = { constant = "phone" }
at = "t"
group = { column = "g", values = { T = "target", C = "holdout" } }
[sources.friends]
file = "friends.csv"
table = "ties"
columns = { customer_id = "a", other_id = "b" }
[sources.long]
file = "long.csv"
table = "measures"
columns = { customer_id = "c", at = "t", name = "n", value = "v" }
"""
    )
    report, folder = run(
        tmp_path,
        text,
        log_csv="c,p,t\na,b,2024-01-01\na,d,2024-01-01\n",
        offers_csv="id,a,b\nx,2024-01-01,2024-02-01\n",
        calls_csv="id,c,t,g\nx,a,2024-01-05,T\nx,b,2024-01-05,C\nx,b,2024-01-05,?\n",
        friends_csv="a,b\na,b\na,b\n",
        long_csv="c,t,n,v\na,2024-01-01,age,30\na,2024-01-01,age,30\n",
    )
    assert report.rows_written == {
        s.INTERACTIONS: 2,
        s.MEASURES: 1,
        s.CAMPAIGNS: 1,
        s.CONTACTS: 2,
        s.TIES: 1,
        s.PRODUCTS: 2,
    }
    assert report.derived == (s.PRODUCTS,)
    assert report.step("product derived").count == 2
    assert report.of("friends").duplicates == 1
    assert report.of("calls").rejected == 1  # neither target nor holdout: the row says nothing
    assert not validate(folder).failed


def test_histories_and_undated_rows_stay_apart(tmp_path: Path) -> None:
    goods = """
[sources.history]
file = "history.csv"
table = "products"
columns = { product_id = "id", price = "x", valid_from = "d" }
[sources.names]
file = "names.csv"
table = "products"
columns = { product_id = "id", name = "n" }
"""
    history = "id,x,d\nb,1,2024-01-01\nb,2,2024-02-01\nb,2,2024-02-01\n"
    report, folder = run(
        tmp_path,
        LOG + goods,
        log_csv="c,p,t\na,b,2024-01-01\n",
        history_csv=history,
        names_csv="id,n\nb,Bee\n",
    )
    assert written(s.PRODUCTS, folder)[s.PRICE].dropna().tolist() == [1.0, 2.0]
    assert report.of("history").duplicates == 1
    assert report.step("undated row beside dated ones").count == 1


def test_rows_with_an_empty_key_are_not_compared(tmp_path: Path) -> None:
    text = LOG.replace('at = "t"', 'at = "t", order_id = "o"') + '[tables.interactions]\nkey = "order_id"\n'
    log = "c,p,t,o\na,b,2024-01-01,1\na,b,2024-01-01,1\na,b,2024-01-01,\na,b,2024-01-01,\n"
    report, _ = run(tmp_path, text, log_csv=log)
    account = report.of("log")
    assert (account.written, account.duplicates) == (3, 1)
    assert report.step("row without a whole key").count == 2


def test_buckets_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = import_sources(messy_sources(tmp_path / "one"), tmp_path / "one" / "out")
    monkeypatch.setattr("feature_repo.importers.sources.merge._BUCKET_ROWS", 1)
    many = import_sources(messy_sources(tmp_path / "many"), tmp_path / "many" / "out")
    assert one.sources == many.sources
    assert one.fields == many.fields
    for table in one.rows_written:
        pd.testing.assert_frame_equal(
            written(table, tmp_path / "one" / "out"), written(table, tmp_path / "many" / "out")
        )


FIELDS = st.sampled_from(
    ["", "a", "b", " a ", "王", '"x,y"', '"q""q"', "2024-01-01", "nie", "12", "1,5", "V", "X", "\u3000"]
)
LINES = st.lists(st.lists(FIELDS, min_size=4, max_size=6).map(",".join), max_size=8)


@given(first=LINES, second=LINES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_lines_add_up(
    first: list[str], second: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    part = """
[sources.NAME]
file = "NAME.csv"
table = "interactions"
delimiter = ","
[sources.NAME.columns]
customer_id = "c"
product_id = "p"
at = "t"
kind = { column = "k", values = { V = "view" } }
value = { column = "v", unreadable = "value" }
"""
    text = '[tables.interactions]\nkey = ["customer_id", "product_id", "at"]\n' + "".join(
        part.replace("NAME", name) for name in ("one", "two")
    )
    sure = "z,p,2024-01-01,V,1"  # one usable row, so that there is something to write
    files = {
        f"{name}_csv": "\n".join(["c,p,t,k,v", sure, *lines, ""])
        for name, lines in (("one", first), ("two", second))
    }
    report, folder = run(tmp_path_factory.mktemp("random"), text, **files)
    rows = pd.read_parquet(folder / "rejected.parquet")
    log = pd.read_parquet(folder / "interactions.parquet")
    for account, lines in zip(report.sources, (first, second), strict=True):
        own = rows[rows["source"] == account.name]
        counts = Counter(own["outcome"])
        assert account.rows_read == 1 + sum(bool(line.strip()) for line in lines)
        assert (account.rejected, account.duplicates) == (counts["rejected"], counts["duplicate"])
        assert account.rows_read == account.written + account.merged + account.duplicates + account.rejected
        for row in own[
            own["outcome"] != "value rejected"
        ].itertuples():  # found again, where it is said to be
            line = [sure, *lines][int(row.row_number) - 1]
            fields = json.loads(row.row)
            assert fields.get("line", line) == line
            if "line" not in fields and '"' not in line:
                assert [value or "" for value in fields.values()] == line.split(",")[
                    :5
                ]  # a last comma is no field
    assert len(log) == sum(account.written for account in report.sources)


def test_import_tables_knows_the_format(tmp_path: Path) -> None:
    report = import_tables("sources", messy_sources(tmp_path), tmp_path / "out")
    assert isinstance(report, SourcesReport)
    saved = json.loads((tmp_path / "out" / "import_report.json").read_text("utf-8"))
    assert saved == json.loads(json.dumps(report.to_dict(), default=str))
    assert saved["sources"][0]["reasons"][0]["file"] == "till.csv"
