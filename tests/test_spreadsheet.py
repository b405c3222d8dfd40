"""What people get: CSV that a spreadsheet opens rightly, with Chinese intact and nothing that runs."""

from __future__ import annotations

import csv
import io
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.build import build
from feature_repo.export import DEFINITIONS, export_features
from feature_repo.features import VIEWS
from feature_repo.spreadsheet import harmless, write_csv
from feature_repo.store import latest
from feature_repo.tables import Tables
from tests.rich_shop import rich_shop, write_shop

BOM = b"\xef\xbb\xbf"


def read(path: Path) -> list[dict[str, str]]:
    """As a spreadsheet reads it: the byte order mark says UTF-8."""
    content = path.read_bytes()
    assert content.startswith(BOM), path.name
    assert content.count(b"\r\n") == content.count(b"\n")
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))


def test_chinese_goes_through_features_and_out_into_a_spreadsheet(tmp_path: Path) -> None:
    shop = rich_shop(events=600)
    with Tables.open(write_shop(shop, tmp_path / "tables")) as tables:
        features = build(tables, tmp_path / "features")
        written = export_features(features, tables, tmp_path / "csv")
    assert set(written) == set(v.VIEWS) - {v.CUSTOMER_RECENT}
    names = shop[s.PRODUCTS].groupby(s.PRODUCT_ID)[s.NAME].last()
    products = read(tmp_path / "csv" / f"{v.PRODUCT_FEATURES}.csv")
    assert len(products) == written[v.PRODUCT_FEATURES] > 20
    assert {row[s.PRODUCT_ID]: row[s.NAME] for row in products} == names.loc[
        [row[s.PRODUCT_ID] for row in products]
    ].to_dict()
    assert any("乌龙茶" in row[s.NAME] for row in products)
    assert any({"category:茶", "category:咖啡"} & set(row[v.SEGMENT_NAMES].split("; ")) for row in products)
    facts = read(tmp_path / "csv" / f"{v.CUSTOMER_FACTS}.csv")
    newest = latest(features, v.CUSTOMER_FACTS)
    told = [float(row["余额_last"]) for row in facts]
    assert told == newest["余额_last"].tolist()
    customers = read(tmp_path / "csv" / f"{v.CUSTOMER_FEATURES}.csv")
    assert {"门店", "上海"} <= {row["last_channel"] for row in customers} | {
        row["last_store"] for row in customers
    }
    listed = read(tmp_path / "csv" / DEFINITIONS)
    assert len(listed) == sum(map(len, VIEWS.values()))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_text_that_looks_like_a_formula_is_text(text: str, tmp_path: Path) -> None:
    assert harmless(text) == f"'{text}"
    row = read(write_csv(tmp_path / "f.csv", ["name"], [[text]]))[0]
    assert row["name"].startswith("'")


def test_cells(tmp_path: Path) -> None:
    row = [None, float("nan"), -2.5, datetime(2026, 1, 2, 3, 4, 5), np.array(["茶", "=x"]), [0.5, 0.25]]  # noqa: DTZ001
    path = write_csv(tmp_path / "c.csv", list("abcdef"), [row])
    assert list(read(path)[0].values()) == ["", "", "-2.5", "2026-01-02 03:04:05", "茶; '=x", "0.5; 0.25"]
