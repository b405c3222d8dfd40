"""Slices: a tiny shop in which every label can be told by hand, at two instants."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from eval.slices import ACTIVITY, FAVOURITE, NEWCOMERS, STANDING, Facts, labels, told_labels
from feature_repo import schema as s
from feature_repo.tables import Tables

AT = datetime(2024, 6, 1, tzinfo=UTC)


@pytest.fixture
def facts(tmp_path: Path) -> Facts:
    rows = [
        ("ann", "tea1", "2024-01-01T10:00", "purchase"),
        ("ann", "tea1", "2024-01-01T12:00", "purchase"),
        ("ann", "mug1", "2024-02-01T10:00", "purchase"),
        ("ann", "mug1", "2024-06-02T10:00", "purchase"),  # after AT
        ("bob", "tea1", "2024-03-01T10:00", "view"),
        ("bob", "tea1", "2024-06-03T10:00", "purchase"),  # after AT
        ("eve", "mug1", "2024-06-03T10:00", "purchase"),  # after AT
        ("old", "mug1", "2022-01-01T10:00", "purchase"),
        ("old", "mug1", "2022-01-02T10:00", "purchase"),
        ("old", "tea1", "2024-05-01T10:00", "purchase"),
    ]
    (tmp_path / "interactions.csv").write_text(
        "customer_id,product_id,at,kind\n" + "".join(f"{','.join(row)}\n" for row in rows)
    )
    (tmp_path / "products.csv").write_text("product_id,category\ntea1,tea\nmug1,mugs\n")
    (tmp_path / "measures.csv").write_text(
        "customer_id,at,name,value\nbob,2024-05-01,balance,3\neve,2024-06-01,balance,9\n"
    )
    (tmp_path / "customers.csv").write_text(
        "customer_id,signed_up_at,valid_from,region,club,income\n"
        "ann,2024-01-01,2024-01-01,north,true,10\n"
        "ann,2024-01-01,2024-06-02,south,true,10\n"  # moves after AT
        "bob,2024-02-01,2024-02-01,south,false,20\n"
        "old,2022-01-01,2022-01-01,north,false,30\n"
        "joe,2024-04-01,2024-04-01,south,,\n"
    )
    with Tables.open(tmp_path) as tables:
        return Facts.of(tables)


def test_labels_by_hand(facts: Facts) -> None:
    found = labels(facts, ["ann", "bob", "eve", "old"], AT)
    assert found[STANDING].tolist() == ["existing", "new", "new", "existing"]
    assert found[NEWCOMERS].dropna().to_dict() == {"bob": "with measures", "eve": "without measures"}
    assert found[ACTIVITY].dropna().to_dict() == {"ann": "2 to 4", "old": "2 to 4"}
    # ann: two lines of tea, one of mugs; old: tea within the year, mugs before it
    assert found[FAVOURITE].dropna().to_dict() == {"ann": "tea", "old": "tea"}
    assert found["region"].dropna().to_dict() == {"ann": "north", "bob": "south", "old": "north"}
    assert found["club"].dropna().to_dict() == {"ann": "yes", "bob": "no", "old": "no"}
    thirds = {"ann": "lowest third", "bob": "middle third", "old": "highest third"}
    assert found["income"].dropna().to_dict() == thirds


def test_later_rows_change_no_label(facts: Facts) -> None:
    before = labels(facts, ["ann", "bob", "eve", "old"], AT)
    cut = Facts(
        facts.purchases[facts.purchases[s.AT] < AT],
        facts.seen[facts.seen < AT],
        facts.measured[facts.measured < AT],
        facts.signed_up,
        facts.categories,
        facts.attributes[~(facts.attributes[s.VALID_FROM] >= pd.Timestamp(AT))],
    )
    pd.testing.assert_frame_equal(labels(cut, ["ann", "bob", "eve", "old"], AT), before)
    later = labels(facts, ["ann", "bob"], datetime(2024, 6, 30, tzinfo=UTC))
    assert later["region"].tolist() == ["south", "south"]
    assert later[STANDING].tolist() == ["existing", "existing"]


def test_known_is_who_left_a_trace(facts: Facts) -> None:
    assert facts.known(AT) == ["ann", "bob", "joe", "old"]  # eve was measured at AT, not before it
    assert facts.known(datetime(2024, 1, 15, tzinfo=UTC)) == ["ann", "old"]


def test_rare_values_go_under_one_name_the_same_at_all_origins() -> None:
    frames = [pd.DataFrame({"x": [*"aaabbbccddeeffggh"]}), pd.DataFrame({"x": ["a", "h", "i", None]})]
    first, second = told_labels(frames)
    assert first["x"].tolist() == [*"aaabbbccddeeffgg", "other"]
    assert second["x"].tolist()[:3] == ["a", "other", "other"] and pd.isna(second["x"].iloc[3])
    assert told_labels([frames[1]])[0]["x"].dropna().tolist() == ["a", "h", "i"]
