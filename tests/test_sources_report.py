"""What a map can have wrong, each in one sentence; and the report as JSON, CSV and in the terminal."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from feature_repo import schema as s
from feature_repo.errors import ConfigError, DataError, NextbestError
from feature_repo.importers.sources import import_sources
from feature_repo.importers.sources.account import Reason, SourceAccount, SourcesReport
from feature_repo.importers.sources.needs import INPUTS, missing_inputs
from feature_repo.schema import TABLES
from feature_repo.spreadsheet import harmless
from tests.messy import MAP, messy_sources
from training.cli.data import register

LOG = """
[sources.log]
file = "log.csv"
table = "interactions"
columns = { customer_id = "c", product_id = "p", at = "t" }
"""


def run(folder: Path, text: str, content: str | bytes = "c,p,t\na,b,2024-01-01\n") -> SourcesReport:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "log.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "map.toml").write_text(text, encoding="utf-8")
    return import_sources(folder / "map.toml", folder / "out")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'time_zone = "Asia/Shanghai"',
            'time_zome = "Asia/Shanghai"',
            r"found 'time_zome'; did you mean time_zone\?",
        ),
        (
            "factor = 0.01",
            "facotr = 0.01",
            r"\[sources.till.columns.value\].*'facotr'; did you mean factor\?",
        ),
        ('from = "card"', 'frm = "card"', r"\[crosswalks.cards\].*found 'frm'; did you mean from\?"),
        ("[tables.interactions]", "[table.interactions]", r"found 'table'; did you mean tables\?"),
        ('table = "measures"', 'table = "measure"', r"found 'measure'; did you mean measures\?"),
        (
            'product_id = "货号"\nat',
            'produkt_id = "货号"\nat',
            r"found 'produkt_id'; did you mean product_id\?",
        ),
        ("consent_email =", "custmer_id =", r"'custmer_id'; did you mean customer_id\?"),
        (
            'file = "till.csv"',
            'file = "tills.csv"',
            r"expected a file at .*tills.csv.*did you mean till.csv\?",
        ),
        ('file = "till.csv"', 'file = "till-*.csv"', "expected files like"),
        ('file = "till.csv"\n', "", r"expected a key 'file' in \[sources.till\]"),
        ('at = "时间"', 'at = "时问"', r"expected a column '时问'.*did you mean 时间\?"),
        ('to = "customer"', 'to = "custom"', r"expected a column 'custom'.*did you mean customer\?"),
        (
            'encoding = "gb18030"\ntime',
            'encoding = "gb18031"\ntime',
            r"found 'gb18031'; did you mean gb18030\?",
        ),
        (
            'encoding = "gb18030"\ntime',
            'encoding = "utf-8"\ntime',
            r'other bytes on .* perhaps it is encoding = "gb18030"',
        ),
        ('"Asia/Shanghai"', '"Asia/Shanghia"', r"found 'Asia/Shanghia'; did you mean Asia/Shanghai\?"),
        ('"%Y/%m/%d %H:%M"', '"%Y/%m/%Q"', "expected a strptime format"),
        ('"%Y/%m/%d %H:%M"', '"YYYY/MM/DD"', "expected iso, epoch_s"),
        ('crosswalk = "cards"', 'crosswalk = "card"', r"found 'card'; did you mean cards\?"),
        ('["bank_customers", "crm"]', '["bank_customer", "crm"]', r"did you mean bank_customers\?"),
        ("region = [", "regoin = [", r"found 'regoin'; did you mean region\?"),
        (
            'key = ["order_id", "product_id"]',
            'key = ["order", "product_id"]',
            r"found 'order'; did you mean order_id\?",
        ),
        ('at = "时间"\n', "", r"expected at in \[sources.till.columns\]"),
        ("factor = 0.01", 'factor = 0.01, constant = "1"', "either column or constant"),
        (
            'order_id = "单号"',
            'order_id = { column = "单号", factor = 2 }',
            "expected factor only for a number",
        ),
        ("factor = 0.01", 'factor = "x"', r"expected factor in \[sources.till.columns.value\].*found 'x'"),
        ("CHF = 1.05", "CHF = -1", r"expected CHF in \[currencies\]"),
        ("[currencies]", "[currencies", "expected a TOML file"),
        (
            '"退货" = "return"',
            '"退货" = "retrun"',
            r"expected one of view.*found 'retrun'; did you mean return\?",
        ),
        ("gender =", "Signed_up_at =", r"found 'Signed_up_at'; did you mean signed_up_at\?"),
        ("gender =", "row_number =", "expected another name"),
        ('file = "till.csv"', 'file = "till.xlsx"', "found none"),
        (
            'columns = { customer_id = "id", at = "Stichtag" }',
            'columns = { customer_id = "id", at = "Stichtag", name = "id" }',
            "expected wide only for measures",
        ),
    ],
)
def test_a_wrong_map_is_one_sentence(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = messy_sources(tmp_path)
    assert MAP.count(old) >= 1
    path.write_text(MAP.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as error:
        import_sources(path, tmp_path / "out")
    told = str(error.value)
    assert told.startswith("expected ") and "found" in told and "\n" not in told
    assert not (tmp_path / "out").exists()


def test_maps_that_are_not_there_or_say_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found no file"):
        import_sources(tmp_path / "map.toml", tmp_path)
    with pytest.raises(ConfigError, match="expected a key 'sources'"):
        run(tmp_path, "")
    with pytest.raises(ConfigError, match='expected a source with table = "interactions"'):
        run(tmp_path, LOG.replace("interactions", "customers").replace(', product_id = "p", at = "t"', ""))
    with pytest.raises(ConfigError, match="expected no --map"):
        import_sources(tmp_path / "map.toml", tmp_path, column_map={"at": "t"})
    (tmp_path / "map.toml").write_bytes("# ü".encode("latin-1"))
    with pytest.raises(ConfigError, match="save the map as UTF-8"):
        import_sources(tmp_path / "map.toml", tmp_path)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("", DataError, "found an empty file"),
        ("c,p,t\n", DataError, "found none: the files have no rows"),
        ("c,p,t\na,b,never\n", DataError, "found none: at is not a time as declared"),
        ("c,p,p,t\na,b,b,2024-01-01\n", ConfigError, r"column 'p'.*p \(1\)"),
        ('c,p,t\na,"b,2024-01-01\na,b,2024-01-01\n', DataError, "one left open in row 1"),
    ],
)
def test_files_that_cannot_be_used(
    tmp_path: Path, content: str, error: type[NextbestError], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(tmp_path, LOG, content)


def test_odd_files_that_can_be_used(tmp_path: Path) -> None:
    twice = run(tmp_path / "a", LOG.replace('"p"', '"p (2)"'), "c,p,p,t\na,b,d,2024-01-01\n")
    assert pd.read_parquet(tmp_path / "a" / "out" / "interactions.parquet")[s.PRODUCT_ID].tolist() == ["d"]
    assert twice.of("log").unused_columns == ("p (1)",)
    for name, content in {
        "crlf": "c,p,t\r\na,b,2024-01-01\r\n\r\n",
        "mixed": "c,p,t\r\na,b,2024-01-01\n",
        "cr": "c,p,t\ra,b,2024-01-01\r",
        "no end": "c,p,t\na,b,2024-01-01",
        "tabs": "c\tp\tt\na\tb\t2024-01-01\n",
    }.items():
        report = run(tmp_path / name, LOG, content)
        assert report.rows_written[s.INTERACTIONS] == 1, name
    quoted = run(tmp_path / "q", LOG, 'c,p,t\n"two\n\nlines",b,2024-01-01\n\na\nx,y,2024-01-02\n')
    assert quoted.of("log").reasons[0].row == 2  # rows, not lines: the first has three lines
    names = pd.read_parquet(tmp_path / "q" / "out" / "interactions.parquet")[s.CUSTOMER_ID].tolist()
    assert names == ["two\n\nlines", "x"]
    headless = (
        LOG.replace('"c"', '"1"').replace('"p"', '"2"').replace('"t"', '"3"') + "header = false\nskip = 1\n"
    )
    headless = headless.replace("columns =", "header = false\nskip = 1\ncolumns =").removesuffix(
        "header = false\nskip = 1\n"
    )
    assert (
        run(tmp_path / "h", headless, "Export of today\na,b,2024-01-01\n").rows_written[s.INTERACTIONS] == 1
    )
    no_quotes = LOG.replace("columns =", 'quote = ""\ncolumns =')
    assert run(tmp_path / "n", no_quotes, 'c,p,t\n5" nail,b,2024-01-01\n').rows_written[s.INTERACTIONS] == 1


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    content = "c,p,t\nä,b,2024-01-01\nö,b,2024-01-01\n".encode() + b"\xff,b,2024-01-01\n"
    report = run(tmp_path, LOG, content)
    assert [(r.reason, r.row) for r in report.of("log").reasons] == [("bytes that are no utf-8 text", 3)]
    latin = "c,p,t\nä,b,2024-01-01\na,b,2024-01-01\n".encode("latin-1")
    with pytest.raises(ConfigError, match=r'first on line 2; perhaps it is encoding = "cp1252"'):
        run(tmp_path, LOG, latin)
    report = run(tmp_path, LOG.replace("columns =", 'undecodable = "reject"\ncolumns ='), latin)
    assert (report.of("log").written, report.of("log").rejected) == (1, 1)


def test_a_workbook_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "log.xlsx").write_bytes(b"PK")
    with pytest.raises(ConfigError, match="save it as CSV first"):
        run(tmp_path, LOG.replace("log.csv", "log.xlsx"))


def test_a_failed_import_leaves_the_tables_as_they_were(tmp_path: Path) -> None:
    run(tmp_path, LOG)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("interactions.*")}
    with pytest.raises(ConfigError):
        run(tmp_path, LOG.replace('"p"', '"q"'))
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").glob("interactions.*")}
    (tmp_path / "out" / "ties.csv").write_text("customer_id,other_id\na,b\n", "utf-8")
    assert run(tmp_path, LOG).step("earlier table").done.startswith("ties ")


def test_a_spreadsheet_opens_the_fields(tmp_path: Path) -> None:
    report = import_sources(messy_sources(tmp_path), tmp_path / "out")
    raw = (tmp_path / "out" / "import_report.csv").read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf") and raw.count(b"\xef\xbb\xbf") == 1
    rows = list(csv.DictReader(raw.decode("utf-8-sig").splitlines()))
    fields = {(row["table"], row["field"]): row for row in rows}
    name = fields["products", "name"]
    assert name["example"].endswith(
        "马克杯 (catalogue, catalogue.csv row 1) over Becher; groß (web_products, web.csv row 2)"
    )
    assert (name["conflicts"], name["winner"]) == ("8", "catalogue over web_products: 8")
    assert fields["products", "price"]["reasons"] == "catalogue: price is not a number as declared: 1 (面议)"
    assert fields["customers", "gender"]["share"] == "0.5000"
    assert fields["interactions", "channel"]["goes_without"].startswith("channel shares")
    assert len(rows) == len(report.fields) + len(report.needs)


def test_a_cell_is_no_formula() -> None:
    for sign in "=+-@\t\r":
        assert harmless(f"{sign}1") == f"'{sign}1"
    assert harmless("a=1") == "a=1"


def test_formulas_in_names_of_columns_reach_the_spreadsheet_harmless(tmp_path: Path) -> None:
    text = (
        LOG
        + '[sources.people]\nfile = "log.csv"\ntable = "customers"\ncolumns = { customer_id = "c", "=cmd" = "p" }\n'
    )
    run(tmp_path, text)
    rows = csv.reader((tmp_path / "out" / "import_report.csv").read_text("utf-8-sig").splitlines())
    assert "'=cmd" in [row[1] for row in rows]


def test_what_goes_without_an_input() -> None:
    def needs(filled: dict[str, dict[str, int]]) -> set[tuple[str, str | None]]:
        return {(need.table, need.field) for need in missing_inputs(filled)}

    nothing = needs({s.INTERACTIONS: {}, s.PRODUCTS: {}})
    assert {
        (s.PRODUCTS, s.PRICE),
        (s.MEASURES, None),
        (s.CUSTOMERS, None),
        (s.INTERACTIONS, s.CHANNEL),
    } <= nothing
    assert (s.CUSTOMERS, f"{s.CONSENT_PREFIX}…") not in nothing  # the whole table is missing, said once
    assert (s.CUSTOMERS, f"{s.CONSENT_PREFIX}…") in needs(
        {s.CUSTOMERS: {s.CUSTOMER_ID: 3, "consent_email": 0}}
    )
    assert (s.CUSTOMERS, f"{s.CONSENT_PREFIX}…") not in needs({s.CUSTOMERS: {"consent_email": 1}})
    assert (s.PRODUCTS, s.PRICE) not in needs({s.PRODUCTS: {s.PRICE: 1}})
    for wanted in INPUTS:
        assert wanted.field in (None, s.CONSENT_PREFIX) or wanted.field in TABLES[wanted.table].names


def test_an_account_that_does_not_add_up_is_an_error() -> None:
    whole = SourceAccount("a", s.INTERACTIONS, (), 3, 3, 1, 1, 0, 1, 0, 0, (), (), {}, (), ())
    with pytest.raises(DataError, match="fault of the importer"):
        SourceAccount("a", s.INTERACTIONS, (), 4, 4, 1, 1, 0, 1, 0, 0, (), (), {}, (), ())
    with pytest.raises(DataError, match="fault of the importer"):
        SourcesReport("map.toml", {s.INTERACTIONS: 2}, (whole,), (), (), ())
    assert Reason(None, "a", 1, (), "b", "c", 1).count == 1


def test_command(tmp_path: Path) -> None:
    app = typer.Typer()
    register(app)
    runner = CliRunner()
    arguments = ["import", "sources", str(messy_sources(tmp_path)), "--to", str(tmp_path / "out")]
    told = runner.invoke(app, arguments, catch_exceptions=False).stdout
    assert "52 rows of 7 sources" in told
    assert "till rejected: kind is not among the declared values: 换货 (first: till.csv row 6)" in told
    assert re.search(r"│ products.name\s+│ 100.0% │ catalogue 4, web_products 1", told)
    assert "campaigns: campaign effect" in told
    report = json.loads(runner.invoke(app, [*arguments, "--json"]).stdout)
    assert report == json.loads((tmp_path / "out" / "import_report.json").read_text("utf-8"))
    assert {source["name"]: source["rejected"] for source in report["sources"]}["till"] == 7
