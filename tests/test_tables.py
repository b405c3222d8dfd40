"""Tables: what stands in a file is what comes out, typed; what cannot be used is rejected and named."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo import schema as s
from feature_repo.errors import ConfigError, DataError
from feature_repo.tables import Tables, write_tables

LOG = "customer_id,product_id,at\nann,pen,2024-01-01T08:00:00Z\n"
PRODUCTS = "product_id\npen\n"


def write(directory: Path, **tables: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in tables.items():
        (directory / f"{name}.csv").write_text(text, encoding="utf-8")
    return directory


def test_defaults_are_filled_and_columns_are_those_of_the_schema(tmp_path: Path) -> None:
    with Tables.open(write(tmp_path, interactions=LOG, products=PRODUCTS)) as tables:
        log, products = tables.frame(s.INTERACTIONS), tables.frame(s.PRODUCTS)
        assert tuple(log) == s.TABLES[s.INTERACTIONS].names
        assert log[[s.KIND, s.QUANTITY, s.VALUE, s.DISCOUNT]].iloc[0].tolist() == ["purchase", 1.0, 0.0, 0.0]
        assert log[s.AT].dtype == "datetime64[us, UTC]"
        assert products[s.LAUNCHED_AT].dtype == "datetime64[us, UTC]"
        assert products[s.AVAILABLE].tolist() == [True]
        assert not tables.has(s.CONTACTS)
        assert tables.table(s.INTERACTIONS).count().execute() == 1
        assert tables.span() == (datetime(2024, 1, 1, 8, tzinfo=UTC),) * 2


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ("2024-01-01T08:00:00+08:00", "2024-01-01T00:00:00Z"),
        ("2024-01-01 08:00:00", "2024-01-01T08:00:00Z"),
        ("2024-01-01", "2024-01-01T00:00:00Z"),
        ("2024-01-01T08:00:00.123456Z", "2024-01-01T08:00:00.123456Z"),
        ("2024-01-01T08:00+08:00", "2024-01-01T00:00:00Z"),
        (" 2024-02-29T00:00Z ", "2024-02-29T00:00:00Z"),
        ("2023-02-29", None),
        ("infinity", None),
        ("1704067200", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_times_in_csv(tmp_path: Path, stored: str, read: str | None) -> None:
    log = f"customer_id,product_id,at\nann,pen,{stored}\n"
    with Tables.open(write(tmp_path, interactions=log, products=PRODUCTS)) as tables:
        times = tables.frame(s.INTERACTIONS)[s.AT].tolist()
        rejected = tables.con.execute("SELECT row_number, reason FROM rejected_interactions").fetchall()
    assert times == ([] if read is None else [pd.Timestamp(read)])
    assert rejected == ([] if read else [(1, "at is empty or cannot be read")])


def test_times_in_parquet_of_every_kind_become_utc(tmp_path: Path) -> None:
    moment = pd.Timestamp("2024-01-01T08:00:00Z")
    kinds = {
        "zoned": pd.Series([moment.tz_convert("Asia/Shanghai")]),
        "naive": pd.Series([moment.tz_localize(None)]),
        "text": pd.Series(["2024-01-01T16:00:00+08:00"]),
    }
    for name, times in kinds.items():
        folder = write(tmp_path / name, products=PRODUCTS)
        frame = pd.DataFrame({s.CUSTOMER_ID: ["ann"], s.PRODUCT_ID: ["pen"], s.AT: times})
        frame.to_parquet(folder / "interactions.parquet")
        with Tables.open(folder) as tables:
            assert tables.frame(s.INTERACTIONS)[s.AT].tolist() == [moment], name


def test_ids_are_text_whatever_the_file_made_of_them(tmp_path: Path) -> None:
    write(tmp_path, products=PRODUCTS)
    frame = pd.DataFrame(
        {s.CUSTOMER_ID: [17850.0, np.nan], s.PRODUCT_ID: [7, 8], s.AT: pd.to_datetime(["2024-01-01"] * 2)}
    )
    frame.to_parquet(tmp_path / "interactions.parquet")
    with Tables.open(tmp_path) as tables:
        log = tables.frame(s.INTERACTIONS)
    assert log[s.CUSTOMER_ID].tolist() == ["17850", None]
    assert log[s.PRODUCT_ID].tolist() == ["7", "8"]


def test_chinese_names_bom_crlf_quotes_and_blanks_survive(tmp_path: Path) -> None:
    log = ' Customer_ID ,product_id,at\r\n 王芳\u3000,"pen, ""big""\r\n red",2024-01-01\r\n  ,pen,2024-01-02\r\n'
    folder = write(tmp_path / "it's [a] d?r*", products="product_id;name\npen;钢笔\n")
    (folder / "interactions.csv").write_bytes(log.encode("utf-8-sig"))
    with Tables.open(folder) as tables:
        rows = tables.frame(s.INTERACTIONS, [s.PRODUCT_ID, s.CUSTOMER_ID])
        assert tables.frame(s.PRODUCTS)[s.NAME].tolist() == ["钢笔"]
    assert rows.values.tolist() == [['pen, "big"\r\n red', "王芳"], ["pen", None]]


def test_unusable_rows_are_rejected_with_number_and_reason(tmp_path: Path) -> None:
    log = (
        "customer_id,product_id,at,kind,reason\nann,pen,2024-01-01,View,a\nann,,2024-01-01,,b\n"
        "ann,pen,never,,c\nann,pen,2024-01-01,gift,d\n,pen,2024-01-01,,e\n"
    )
    with Tables.open(write(tmp_path, interactions=log, products=PRODUCTS)) as tables:
        kept = tables.frame(s.INTERACTIONS, [s.CUSTOMER_ID, s.KIND]).values.tolist()
        rejected = tables.con.execute(
            "SELECT row_number, reason, source_reason FROM rejected_interactions ORDER BY 1"
        ).fetchall()
    assert kept == [["ann", "view"], [None, "purchase"]]
    assert rejected == [
        (2, "product_id is empty or cannot be read", "b"),
        (3, "at is empty or cannot be read", "c"),
        (4, "kind is none of view, click, cart, purchase, return", "d"),
    ]


def test_attributes_have_their_own_types(tmp_path: Path) -> None:
    products = (
        "product_id,consent_sms,zip,colour,size,big,since,nothing\n"
        "pen,1,0123,red,1.5,TRUE,2024-01-01,\nink,no,4567,blue,2,,2024-01-02T00:00:00Z,\n"
    )
    expected = {
        "consent_sms": "bool",
        "zip": "string",
        "colour": "string",
        "size": "float",
        "big": "bool",
        "since": "timestamp",
        "nothing": "string",
    }
    folder = write(tmp_path / "csv", interactions=LOG, products=products)
    with Tables.open(folder) as tables:
        assert tables.attributes(s.PRODUCTS) == expected
        frames = {name: tables.frame(name) for name in (s.INTERACTIONS, s.PRODUCTS)}
        assert tables.attributes(s.INTERACTIONS) == {}
    assert frames[s.PRODUCTS]["consent_sms"].tolist() == [True, False]
    assert frames[s.PRODUCTS]["zip"].tolist() == ["0123", "4567"]

    write_tables(frames, tmp_path / "parquet")
    with Tables.open(tmp_path / "parquet") as tables:
        assert tables.attributes(s.PRODUCTS) == expected
        for name, frame in frames.items():
            pd.testing.assert_frame_equal(tables.frame(name), frame)
    assert sorted(path.name for path in (tmp_path / "parquet").iterdir()) == [
        "interactions.parquet",
        "products.parquet",
    ]


def test_hash_follows_the_bytes(tmp_path: Path) -> None:
    def digest() -> str:
        with Tables.open(tmp_path) as tables:
            return tables.hash()

    write(tmp_path, interactions=LOG, products=PRODUCTS)
    first = digest()
    assert digest() == first
    write(tmp_path, products=PRODUCTS + "ink\n")
    assert digest() != first


def test_malformed_lines_are_counted(tmp_path: Path) -> None:
    with Tables.open(write(tmp_path, interactions=LOG + "ann,pen\na,b,c,d\n", products=PRODUCTS)) as tables:
        assert tables.malformed[s.INTERACTIONS].count == 2
        assert tables.malformed[s.INTERACTIONS].examples == ((3, "ann,pen"), (4, "a,b,c,d"))
        assert tables.rows(s.INTERACTIONS) == 1


def test_errors_say_what_was_expected_found_and_to_be_done(tmp_path: Path) -> None:
    def message(directory: Path) -> str:
        with pytest.raises(DataError) as error:
            Tables.open(directory)
        return str(error.value)

    assert "nothing" in message(tmp_path / "none")
    assert "expected interactions.parquet or interactions.csv" in message(tmp_path)
    write(tmp_path, interactions="customer_id,product_id\nann,pen\n", products=PRODUCTS)
    assert "expected column(s) at in" in message(tmp_path)
    write(tmp_path, interactions="customer_id,product_id,at,AT\nann,pen,1,2\n")
    assert "distinct column names" in message(tmp_path)
    write(tmp_path, interactions="")
    assert "distinct column names" in message(tmp_path)
    write(tmp_path, interactions="row_number,customer_id,product_id,at\n1,ann,pen,2024-01-01\n")
    assert "rename yours" in message(tmp_path)
    write(tmp_path, interactions=LOG + 'ann,"pen,2024-01-01\nann,pen,2024-01-01\n')
    assert "left open on line 3" in message(tmp_path)
    (tmp_path / "interactions.csv").write_bytes(LOG.encode() + "ann,stühl,2024-01-01\n".encode("latin-1"))
    assert "other bytes on line 3" in message(tmp_path)
    (tmp_path / "interactions.csv").unlink()
    (tmp_path / "interactions.parquet").write_bytes(b"PAR1 not really")
    assert "expected a readable file" in message(tmp_path)
    write(tmp_path, interactions=LOG)
    assert "interactions.parquet and" in message(tmp_path)
    with pytest.raises(ConfigError, match="memory limit"):
        Tables.open(tmp_path, memory_limit="much")


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    log = "customer_id,product_id,at\nann,pen,never\n"
    with Tables.open(write(tmp_path, interactions=log, products=PRODUCTS)) as tables:
        with pytest.raises(DataError, match=r"add contacts\.parquet"):
            tables.table(s.CONTACTS)
        with pytest.raises(DataError, match="expected column"):
            tables.frame(s.INTERACTIONS, ["colour"])
        with pytest.raises(DataError, match="expected usable rows"):
            tables.span()


def test_writing_refuses_what_reading_would(tmp_path: Path) -> None:
    frame = pd.DataFrame({s.CUSTOMER_ID: ["ann"], s.PRODUCT_ID: ["pen"], s.AT: ["2024-01-01"]})
    for name, wrong in {"sales": frame, s.TIES: frame, s.INTERACTIONS: frame.assign(colour="red")}.items():
        with pytest.raises(DataError, match="expected"):
            write_tables({name: wrong}, tmp_path)
    write(tmp_path, interactions=LOG)
    with pytest.raises(DataError, match="no other file"):
        write_tables({s.INTERACTIONS: frame}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["interactions.csv"]


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12)
MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1))  # noqa: DTZ001  # as they stand in files


@given(rows=st.lists(st.tuples(NAMES, NAMES, MOMENTS, st.sampled_from(s.KINDS)), min_size=1, max_size=8))
def test_every_row_is_either_usable_or_rejected(
    rows: list[tuple[str, str, datetime, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    frame = pd.DataFrame(rows, columns=[s.CUSTOMER_ID, s.PRODUCT_ID, s.AT, s.KIND])
    frame[s.AT] = frame[s.AT].astype("datetime64[us]")
    write_tables({s.INTERACTIONS: frame, s.PRODUCTS: frame[[s.PRODUCT_ID]]}, folder)
    with Tables.open(folder) as tables:
        count = tables.con.execute("SELECT count(*) FROM rejected_interactions").fetchone()
        log = tables.frame(s.INTERACTIONS)
    assert count is not None
    assert len(log) + count[0] == len(rows)
    blank = " \t\n\r\xa0\u3000"
    usable = [row for row in rows if row[1].strip(blank)]
    assert log[s.PRODUCT_ID].tolist() == [row[1].strip(blank) for row in usable]
    assert log[s.CUSTOMER_ID].tolist() == [row[0].strip(blank) or None for row in usable]
    assert log[s.AT].tolist() == [pd.Timestamp(row[2], tz="UTC") for row in usable]
