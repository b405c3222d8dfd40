"""The simulated world sells like Online Retail: statistics by hand, and held against the real shop."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from eval.benchmarks.world import ONLINE_RETAIL_SIZE, benchmark_world
from eval.world import WorldConfig
from eval.world_fit import FITTED, LABELS, TOLERANCE, compare, table, world_statistics
from feature_repo.errors import DataError
from feature_repo.importers import import_tables
from feature_repo.schema import AT, CUSTOMER_ID, INTERACTIONS, KIND, ORDER_ID, PRODUCT_ID, PRODUCTS

UNSEEN_SEED = 205


def written(directory: Path, rows: list[tuple[str | None, str, str, str, str | None]]) -> Path:
    frame = pd.DataFrame(rows, columns=[CUSTOMER_ID, PRODUCT_ID, AT, KIND, ORDER_ID])
    frame[AT] = pd.to_datetime(frame[AT], utc=True)
    frame.to_parquet(directory / f"{INTERACTIONS}.parquet")
    pd.DataFrame({PRODUCT_ID: sorted(set(frame[PRODUCT_ID]))}).to_parquet(directory / f"{PRODUCTS}.parquet")
    return directory


def test_statistics_of_a_shop_of_six_lines(tmp_path: Path) -> None:
    rows = [
        ("a", "tea", "2026-03-02T10:00", "purchase", "o1"),
        ("a", "tea", "2026-03-02T10:00", "purchase", "o1"),  # twice in one order: one line
        ("a", "mug", "2026-03-02T10:00", "purchase", "o1"),
        ("a", "tea", "2026-03-12T10:00", "purchase", "o2"),  # a repeat
        ("b", "tea", "2026-03-14T20:00", "purchase", None),  # a Saturday
        ("a", "mug", "2026-03-15T10:00", "return", "o1"),
        (None, "pot", "2026-03-15T10:00", "purchase", "o9"),  # anonymous: not counted
        ("b", "mug", "2026-03-15T10:00", "view", None),
    ]
    found = world_statistics(written(tmp_path, rows))
    assert list(found) == list(LABELS)
    assert found["buyers"] == 2 and found["orders"] == 3 and found["purchase_lines"] == 4
    assert found["lines_per_order"] == pytest.approx(4 / 3)
    assert found["repeat_share"] == 0.25
    assert found["orders_per_buyer"] == 1.5 and found["one_time_share"] == 0.5
    assert found["days_between_orders"] == 10.0
    assert found["return_share"] == 0.25
    assert found["gini_of_products"] == pytest.approx(0.25)  # lines 1 and 3
    assert found["weekend_share"] == pytest.approx(1 / 3)
    assert found["office_share"] == pytest.approx(2 / 3)


def test_what_there_is_no_data_for_is_not_a_number(tmp_path: Path) -> None:
    found = world_statistics(written(tmp_path, [("a", "tea", "2026-03-02T10:00", "purchase", "o1")]))
    assert math.isnan(found["days_between_orders"])
    assert found["repeat_share"] == 0.0
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="purchases by known customers"):
        world_statistics(written(tmp_path / "none", [("a", "tea", "2026-03-02T10:00", "view", None)]))


def test_comparison_reads_as_a_table(tmp_path: Path) -> None:
    found = dict.fromkeys(LABELS, 2.0)
    lines = compare(found, dict.fromkeys(LABELS, 4.0) | {"return_share": 0.0})
    assert [line.name for line in lines if line.fitted] == [name for name in LABELS if name in FITTED]
    assert {line.ratio for line in lines} == {0.5, None}
    text = table(lines).splitlines()
    assert len(text) == len(LABELS) + 4 and all(row.count("|") == 5 for row in text[:-2])
    assert text[-1].startswith("\\* fitted")


def test_benchmark_is_ready_for_json(tmp_path: Path) -> None:
    shop = written(tmp_path, [("a", "tea", "2026-03-02T10:00", "purchase", "o1")])
    told = benchmark_world(WorldConfig(customers=80, products=40, months=5), online_retail=shop)
    assert json.loads(json.dumps(told))["size"]["rows"]["interactions"] > 100
    assert set(told["seconds"]) == {"simulate", "write"} and told["peak_rss_mb"] > 10
    assert told["online_retail"]["orders"] == 1 and told["table"].startswith("| statistic")


@pytest.mark.slow
@pytest.mark.realdata
def test_an_unseen_world_sells_like_online_retail(realdata: Path, tmp_path: Path) -> None:
    """Fitted on seeds 0 to 2; a seed that was never looked at keeps to the tolerance."""
    import_tables("online-retail", realdata / "online_retail" / "online_retail.parquet", tmp_path)
    told = benchmark_world(
        WorldConfig.model_validate({**ONLINE_RETAIL_SIZE, "seed": UNSEEN_SEED}), online_retail=tmp_path
    )
    for line in told["comparison"]:
        if line["fitted"]:
            assert line["ratio"] == pytest.approx(1.0, abs=TOLERANCE), line["name"]
