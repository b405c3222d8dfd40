"""Exposures leave the log: a row a product shown, each once, whatever is exported again or trimmed meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from serving.errors import DataError
from serving.events import EXPOSURES, Exposure, Shown
from tests.event_stores import Store
from training.export import export_exposures

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
MICROS = int(AT.timestamp()) * 1_000_000


def exposure(number: int, *products: str) -> Exposure:
    items = tuple(Shown(product, 0.5, "popular", None) for product in products)
    return Exposure(f"r{number}", MICROS, "c1", None, "home", None, None, "nextbest:v1", items)


def test_what_was_shown_is_exported_once(event_store: Store, tmp_path: Path) -> None:
    log = event_store.open()
    assert export_exposures(log, tmp_path) == 0
    log.append_exposures([exposure(1, "p1", "p2"), exposure(2)], writer="w", after=0)
    assert export_exposures(log, tmp_path) == 2
    assert export_exposures(log, tmp_path) == 0
    log.append_exposures([exposure(3, "p3")], writer="w", after=2)
    log.trim(EXPOSURES, before=log.read(EXPOSURES, after=None, limit=9)[2].logged_at)
    assert export_exposures(log, tmp_path) == 1
    rows = pd.read_parquet(tmp_path / "exposures.parquet")
    assert rows["request_id"].tolist() == ["r1", "r1", "r3"]
    assert rows["position"].tolist() == [1, 2, 1]
    assert rows["product_id"].tolist() == ["p1", "p2", "p3"]
    assert rows["at"].tolist() == [pd.Timestamp(AT)] * 3
    assert rows["propensity"].isna().all()
    assert rows["team"].isna().all()
    log.close()


def test_whose_pick_a_product_was_is_exported(event_store: Store, tmp_path: Path) -> None:
    log = event_store.open()
    items = (Shown("p1", 0.5, "popular", team="control"), Shown("p2", 0.4, "popular", team="trees"))
    log.append_exposures(
        [Exposure("r1", MICROS, "c1", None, None, "mixed", "interleaved", "nextbest:v1", items)],
        writer="w",
        after=0,
    )
    export_exposures(log, tmp_path)
    assert pd.read_parquet(tmp_path / "exposures.parquet")["team"].tolist() == ["control", "trees"]
    log.close()


def test_another_file_is_refused(event_store: Store, tmp_path: Path) -> None:
    (tmp_path / "exposures.parquet").write_bytes(b"nothing of ours")
    log = event_store.open()
    with pytest.raises(DataError, match=r"exposures\.parquet"):
        export_exposures(log, tmp_path)
    log.close()
