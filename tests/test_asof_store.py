"""The point-in-time join against a plain reference: TTL, several views, missing keys, ties; and against Feast."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.repo_config import RepoConfig
from feast.types import Array, Float64, Int64, String
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo import schema as s
from feature_repo.asof_store import AsofOfflineStore
from feature_repo.errors import DataError

Row = tuple[str, str, int, int]

START = datetime(2026, 1, 1, tzinfo=UTC)
TTL = timedelta(days=3)
ASOF = f"{AsofOfflineStore.__module__}.{AsofOfflineStore.__name__}"


class Shop:
    """A feature store with a customer view, a customer view that expires, and a view by customer and product."""

    def __init__(self, directory: Path, offline: str = ASOF) -> None:
        self.directory = directory
        self.store = FeatureStore(
            config=RepoConfig(
                project="shop",
                provider="local",
                registry={"path": str(directory / f"{offline[:6]}.db"), "cache_ttl_seconds": 0},
                online_store={"type": "sqlite", "path": str(directory / "online.db")},
                offline_store={"type": offline},
                entity_key_serialization_version=3,
            )
        )
        for name in ("plain", "expiring", "pairs"):
            self.write(name, [])
        customer = Entity(name="customer", join_keys=[s.CUSTOMER_ID], value_type=ValueType.STRING)
        product = Entity(name="product", join_keys=[s.PRODUCT_ID], value_type=ValueType.STRING)
        keys = [Field(name=s.CUSTOMER_ID, dtype=String)]
        fields = [
            Field(name="x", dtype=Float64),
            Field(name="n", dtype=Int64),
            Field(name="tags", dtype=Array(String)),
        ]
        views = [
            *(
                FeatureView(
                    name=name,
                    entities=[customer],
                    schema=[*keys, *fields],
                    source=self.source(name),
                    ttl=ttl,
                )
                for name, ttl in (("plain", None), ("expiring", TTL))
            ),
            FeatureView(
                name="pairs",
                entities=[customer, product],
                schema=[*keys, Field(name=s.PRODUCT_ID, dtype=String), *fields],
                source=self.source("pairs", created="created"),
                ttl=None,
            ),
        ]
        self.store.apply([customer, product, *views])

    def source(self, name: str, created: str = "") -> FileSource:
        path = str(self.directory / f"{name}.parquet")
        return FileSource(
            name=name, path=path, timestamp_field=s.EVENT_TIMESTAMP, created_timestamp_column=created
        )

    def write(self, name: str, rows: list[Row]) -> None:
        """Write rows (customer, product, hour, hour of creation); values tell the rows apart."""
        frame = pd.DataFrame(
            {
                s.CUSTOMER_ID: pd.Series([row[0] for row in rows], dtype="string"),
                s.PRODUCT_ID: pd.Series([row[1] for row in rows], dtype="string"),
                s.EVENT_TIMESTAMP: pd.to_datetime([hour(row[2]) for row in rows]).tz_localize(None),
                "created": pd.to_datetime([hour(row[3]) for row in rows]).tz_localize(None),
                "x": np.arange(len(rows)) + 0.5,
                "n": np.arange(len(rows), dtype=np.int64) + 2**53,  # a float would not hold it
                "tags": [[f"t{place}"] for place in range(len(rows))],
            }
        ).astype({s.EVENT_TIMESTAMP: "datetime64[us]", "created": "datetime64[us]"})
        frame.to_parquet(self.directory / f"{name}.parquet", index=False, row_group_size=3)

    def join(self, keys: pd.DataFrame, *views: str) -> Any:
        wanted = [f"{view}:{name}" for view in views for name in ("x", "n", "tags")]
        return self.store.get_historical_features(entity_df=keys, features=wanted, full_feature_names=True)


def hour(number: int) -> pd.Timestamp:
    return pd.Timestamp(START + timedelta(hours=number))


def asked(rows: list[tuple[str | None, str, int]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=[s.CUSTOMER_ID, s.PRODUCT_ID, "hour"])
    frame[s.EVENT_TIMESTAMP] = pd.to_datetime([hour(number) for number in frame.pop("hour")], utc=True)
    return frame


def newest(
    rows: list[Row], customer: str | None, product: str | None, at: int, *, ttl: int | None, created: bool
) -> int | None:
    """The reference: the place of the row that belongs to one key, by looking at every row."""
    best: tuple[int, int, int] | None = None
    for place, (c, p, stamp, made) in enumerate(rows):
        if (
            c == customer
            and (product is None or p == product)
            and stamp <= at
            and (ttl is None or stamp + ttl >= at)
        ):
            best = max(best or (-1, -1, -1), (stamp, made if created else 0, place))
    return None if best is None else best[2]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("asof"))


names = st.sampled_from(["a", "b", "c"])
hours = st.integers(min_value=0, max_value=200)
snapshot = st.tuples(names, names, hours, st.integers(min_value=0, max_value=3))
key = st.tuples(st.one_of(names, st.sampled_from(["nobody", None])), names, hours)


@settings(max_examples=500, deadline=None)
@given(
    plain=st.lists(snapshot, max_size=14),
    pairs=st.lists(snapshot, max_size=14),
    keys=st.lists(key, min_size=1, max_size=12),
)
def test_equals_the_reference(
    shop: Shop, plain: list[Row], pairs: list[Row], keys: list[tuple[str | None, str, int]]
) -> None:
    """Three views at once, ties and all, give the row that looking at every row gives."""
    for name, rows in (("plain", plain), ("expiring", plain), ("pairs", pairs)):
        shop.write(name, rows)
    frame = asked(keys)
    got = shop.join(frame, "plain", "expiring", "pairs").to_arrow().to_pylist()
    assert len(got) == len(keys)
    days = int(TTL.total_seconds() // 3600)
    for row, (customer, product, at) in zip(got, keys, strict=True):
        assert row[s.CUSTOMER_ID] == customer
        expected = {
            "plain": newest(plain, customer, None, at, ttl=None, created=False),
            "expiring": newest(plain, customer, None, at, ttl=days, created=False),
            "pairs": newest(pairs, customer, product, at, ttl=None, created=True),
        }
        for view, place in expected.items():
            found = (row[f"{view}__x"], row[f"{view}__n"], row[f"{view}__tags"])
            wanted = (None, None, None) if place is None else (place + 0.5, place + 2**53, [f"t{place}"])
            assert found == wanted, view


def test_equals_feasts_own_where_keys_are_distinct_and_nothing_ties(tmp_path: Path) -> None:
    """Feast's DuckDB store is right there but for order and integer types; so are we."""
    generator = np.random.default_rng(5)
    mine, theirs = Shop(tmp_path), Shop(tmp_path, "duckdb")
    rows = [(f"c{c}", "p", int(h), 0) for c in range(20) for h in generator.choice(500, 12, replace=False)]
    for name in ("plain", "expiring"):
        mine.write(name, rows)
    frame = asked(
        [(f"c{c}", "p", int(h)) for c in range(22) for h in generator.choice(520, 9, replace=False)]
    )
    frame[s.ROW_ID] = np.arange(len(frame))
    left = mine.join(frame, "plain", "expiring").to_df()
    right = theirs.join(frame, "plain", "expiring").to_df().sort_values(s.ROW_ID).reset_index(drop=True)
    assert left[s.ROW_ID].tolist() == frame[s.ROW_ID].tolist(), "in the order asked"
    for view in ("plain", "expiring"):
        pd.testing.assert_series_equal(left[f"{view}__x"], right[f"{view}__x"])
    assert left["plain__x"].isna().any() and left["plain__x"].notna().any()


def test_keys_come_back_as_they_were(shop: Shop) -> None:
    """Order, types and further columns of the caller are untouched (Feast itself drops the index)."""
    shop.write("plain", [("a", "p", 1, 0)])
    frame = asked([("a", "p", 5), ("b", "p", 5), ("a", "p", 0)])
    frame["label"] = pd.array([1, None, 3], dtype="Int8")
    before = frame.copy()
    got = shop.join(frame, "plain").to_df()
    pd.testing.assert_frame_equal(got[frame.columns], before)
    pd.testing.assert_frame_equal(frame, before)
    assert got["plain__x"].isna().tolist() == [False, True, True]


def test_what_it_cannot_do_is_refused(shop: Shop) -> None:
    with pytest.raises(DataError, match="expected a data frame of keys"):
        shop.store.get_historical_features(entity_df="SELECT 1", features=["plain:x"])
