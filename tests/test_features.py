"""Laws of the feature build: hand-computed values, no look-ahead, append-only stability, order of rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import ibis
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.world import World
from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.build import build, snapshot_instants
from feature_repo.customer_features import CUSTOMER
from feature_repo.declared import DECLARATIONS
from feature_repo.engine import DuckDBEngine
from feature_repo.errors import ConfigError, DataError
from feature_repo.features import VIEWS
from feature_repo.files import parquet_files
from feature_repo.quality import inspect
from feature_repo.recent import to_micros
from feature_repo.snapshots import customer_snapshot
from feature_repo.staging import stage_events
from feature_repo.tables import Tables, write_tables
from feature_repo.validate import validate

AS_OF = datetime(2026, 3, 1, tzinfo=UTC)


def shop(events: list[tuple[str | None, str, float, str, float, float, str]]) -> dict[str, pd.DataFrame]:
    """Tables of events (customer, product, days before AS_OF, kind, quantity, value, order)."""
    rows = [
        {
            s.CUSTOMER_ID: customer,
            s.PRODUCT_ID: product,
            s.AT: pd.Timestamp(AS_OF - timedelta(days=days)),
            s.KIND: kind,
            s.QUANTITY: quantity,
            s.VALUE: value,
            s.ORDER_ID: order,
        }
        for customer, product, days, kind, quantity, value, order in events
    ]
    products = pd.DataFrame({s.PRODUCT_ID: ["p1", "p2", "p3"], s.CATEGORY: ["tea", "tea", "mugs"]})
    return {s.INTERACTIONS: pd.DataFrame(rows), s.PRODUCTS: products}


def built(
    tables: dict[str, pd.DataFrame], directory: Path, as_of: datetime | None = AS_OF
) -> dict[str, pd.DataFrame]:
    write_tables(tables, directory / "tables")
    with Tables.open(directory / "tables") as opened:
        features = build(opened, directory / "features", as_of=as_of)
    return {view: pq.read_table(features.path(view)).to_pandas() for view in features.rows}


EVENTS = [
    ("c1", "p1", 100.0, s.PURCHASE, 2.0, 10.0, "o1"),
    ("c1", "p3", 100.0, s.PURCHASE, 1.0, 8.0, "o1"),
    ("c1", "p1", 20.0, s.PURCHASE, 1.0, 6.0, "o2"),
    ("c1", "p1", 10.0, s.RETURN, 1.0, 6.0, "o2"),
    ("c1", "p2", 2.0, s.VIEW, 1.0, 0.0, ""),
    ("c2", "p1", 5.0, s.PURCHASE, 4.0, 20.0, "o3"),
    (None, "p2", 4.0, s.PURCHASE, 1.0, 3.0, "o4"),
]


def test_customer_features_by_hand(tmp_path: Path) -> None:
    rows = built(shop(EVENTS), tmp_path)[v.CUSTOMER_FEATURES]
    last = rows[rows[s.EVENT_TIMESTAMP] == pd.Timestamp(AS_OF).tz_localize(None)].set_index(s.CUSTOMER_ID)
    assert set(last.index) == {"c1", "c2"}
    c1 = last.loc["c1"]
    expected = {
        "recency_days": 20.0,
        "activity_days": 2.0,
        "tenure_days": 100.0,
        "orders_7d": 0.0,
        "orders_30d": 1.0,
        "orders_365d": 2.0,
        "spend_30d": 6.0,
        "spend_365d": 24.0,
        "lines_90d": 1.0,
        "lines_365d": 3.0,
        "views_7d": 1.0,
        "returns_365d": 1 / 3,
        "basket_size": 1.5,
        "price_level": 6.0,
        "repeat_share": 1 / 3,
    }
    assert {name: c1[name] for name in expected} == pytest.approx(expected)
    assert list(c1[v.CATEGORY_NAMES]) == ["tea", "mugs"]
    assert list(c1[v.CATEGORY_SHARES]) == pytest.approx([2 / 3, 1 / 3])
    assert c1[v.SEGMENT] == "category:tea"


def test_product_features_by_hand(tmp_path: Path) -> None:
    rows = built(shop(EVENTS), tmp_path)[v.PRODUCT_FEATURES]
    last = rows[rows[s.EVENT_TIMESTAMP] == pd.Timestamp(AS_OF).tz_localize(None)].set_index(s.PRODUCT_ID)
    p1 = last.loc["p1"]
    expected = {
        "recency_days": 5.0,
        "age_days": 100.0,
        "purchases_7d": 1.0,
        "purchases_30d": 2.0,
        "purchases_90d": 2.0,
        "purchases_365d": 3.0,
        "revenue_30d": 26.0,
        "views_7d": 0.0,
        "price_paid": 36.0 / 7.0,
        "repeat_rate": 1 / 3,
        "return_rate": 1 / 3,
        "new_customer_share": 2 / 3,
        "trend": 3.0 / (2.0 / 3.0 + 1.0),
        "price_rank": 1.0,  # the dearer of the two teas
    }
    assert {name: p1[name] for name in expected} == pytest.approx(expected)
    assert last.loc["p2", "purchases_7d"] == 1.0, "anonymous purchases count for products"


def test_segment_without_categories_is_recency_and_frequency(tmp_path: Path) -> None:
    tables = shop(EVENTS)
    tables[s.PRODUCTS] = tables[s.PRODUCTS].drop(columns=s.CATEGORY)
    rows = built(tables, tmp_path)[v.CUSTOMER_FEATURES].groupby(s.CUSTOMER_ID).last()
    assert rows.loc["c1", v.SEGMENT] == "rfm:recent-few"
    assert rows.loc["c2", v.SEGMENT] == "rfm:recent-once"
    assert list(rows.loc["c1", v.CATEGORY_NAMES]) == []


def test_recent_history_is_the_last_events_before_the_row(tmp_path: Path) -> None:
    events = [
        ("c1", f"p{1 + i % 3}", 60.0 - i / 2, s.VIEW, 1.0, 0.0, "") for i in range(v.HISTORY_LENGTH + 5)
    ]
    recent = built(shop(events), tmp_path)[v.CUSTOMER_RECENT].sort_values(s.EVENT_TIMESTAMP)
    assert len(recent) == len(events)
    third, last = recent.iloc[2], recent.iloc[-1]
    assert list(third[v.RECENT_PRODUCTS]) == ["p1", "p2", "p3"]
    assert len(last[v.RECENT_PRODUCTS]) == v.HISTORY_LENGTH
    assert list(last[v.RECENT_AT]) == sorted(last[v.RECENT_AT])
    stamp = pd.Timestamp(last[s.EVENT_TIMESTAMP]).as_unit("us")
    assert int(stamp.asm8.astype("int64")) == last[v.RECENT_AT][-1] + 1, "stamped just after its last event"


def test_lines_of_one_instant_make_one_row_whatever_their_order(tmp_path: Path) -> None:
    tables = shop(EVENTS)
    forward = built(tables, tmp_path / "a")
    tables[s.INTERACTIONS] = tables[s.INTERACTIONS].iloc[::-1].reset_index(drop=True)
    backward = built(tables, tmp_path / "b")
    assert len(forward[v.CUSTOMER_RECENT]) == 5  # c1: 100, 20, 10, 2 days ago; c2: 5 days ago
    for view, rows in forward.items():
        keys = [rows.columns[0], s.EVENT_TIMESTAMP]
        left, right = (x.sort_values(keys).reset_index(drop=True) for x in (rows, backward[view]))
        pd.testing.assert_frame_equal(left, right)


def test_snapshots_stand_on_mondays_and_at_the_cut() -> None:
    weeks = [datetime(2025, 12, 29, tzinfo=UTC), datetime(2026, 1, 12, tzinfo=UTC)]
    instants = snapshot_instants(weeks, datetime(2026, 1, 20, 6, tzinfo=UTC))
    assert instants == [
        datetime(2026, 1, 5, tzinfo=UTC),
        datetime(2026, 1, 12, tzinfo=UTC),
        datetime(2026, 1, 19, tzinfo=UTC),
        datetime(2026, 1, 20, 6, tzinfo=UTC),
    ]


def test_one_slip_of_the_pen_does_not_make_a_thousand_snapshots() -> None:
    """A single row decades before the rest costs a year of snapshots, not decades."""
    weeks = [datetime(1990, 1, 1, tzinfo=UTC), datetime(2026, 1, 5, tzinfo=UTC)]
    instants = snapshot_instants(weeks, datetime(2026, 2, 1, tzinfo=UTC))
    assert len(instants) == 53 + 3 + 1
    assert instants == sorted(set(instants))


def test_no_interaction_before_the_cut_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected interactions before"):
        built(shop(EVENTS), tmp_path, as_of=AS_OF - timedelta(days=200))


def test_later_interactions_change_no_earlier_row(world: World, tmp_path: Path) -> None:
    """No look-ahead and append-only stability: every view, every column, every common instant."""
    cut = world.interactions[s.AT].quantile(0.7)
    past = world.interactions[world.interactions[s.AT] < cut]
    frames = {s.INTERACTIONS: world.interactions, s.PRODUCTS: world.products, s.CUSTOMERS: world.customers}
    as_of = cut.to_pydatetime()
    whole = built(frames, tmp_path / "whole", as_of=None)
    before = built({**frames, s.INTERACTIONS: past}, tmp_path / "past", as_of=as_of)
    for view in (v.CUSTOMER_FEATURES, v.PRODUCT_FEATURES, v.CUSTOMER_RECENT):
        keys = [whole[view].columns[0] if view != v.CUSTOMER_RECENT else s.CUSTOMER_ID, s.EVENT_TIMESTAMP]
        common = before[view][before[view][s.EVENT_TIMESTAMP] < pd.Timestamp(as_of).tz_localize(None)]
        later = whole[view].merge(common[keys], on=keys).sort_values(keys).reset_index(drop=True)
        earlier = common.sort_values(keys).reset_index(drop=True)
        assert len(earlier) > 100
        # sums of floats may differ in their last digits with the order of addition
        pd.testing.assert_frame_equal(later[earlier.columns], earlier, rtol=1e-9, atol=1e-12)


def test_planted_future_changes_nothing_today(tmp_path: Path) -> None:
    """A burst of purchases an instant after the cut moves no feature at the cut."""
    calm = built(shop(EVENTS), tmp_path / "calm")
    burst = [("c1", "p3", -0.001 * i, s.PURCHASE, 50.0, 999.0, f"later{i}") for i in range(1, 30)]
    stormy = built(shop([*EVENTS, *burst]), tmp_path / "stormy")
    at_cut = [("c1", "p3", 0.0, s.PURCHASE, 50.0, 999.0, "at the very instant")]
    exact = built(shop([*EVENTS, *at_cut]), tmp_path / "exact")
    for view, rows in calm.items():
        pd.testing.assert_frame_equal(rows, stormy[view])
        pd.testing.assert_frame_equal(rows, exact[view])


def test_the_list_is_complete_and_each_feature_has_a_default_of_its_type() -> None:
    kinds = {"float": float, "string": str, "strings": list, "floats": list}
    for view, features in VIEWS.items():
        names = [feature.name for feature in features]
        assert len(set(names)) == len(names), view
        for feature in features:
            assert isinstance(feature.default, kinds[feature.dtype]), feature.name
            assert feature.definition


def test_columns_match_the_list(features: tuple[object, object]) -> None:
    feature_set = features[1]
    for view, listed in VIEWS.items():
        parts = parquet_files(feature_set.path(view))  # type: ignore[attr-defined]
        columns = pq.read_schema(parts[0]).names
        assert set(columns) == {columns[0], s.EVENT_TIMESTAMP, *(f.name for f in listed)}


def test_undated_attributes_are_known_from_the_cut_only(tmp_path: Path) -> None:
    tables = shop(EVENTS)
    tables[s.CUSTOMERS] = pd.DataFrame({s.CUSTOMER_ID: ["c1", "c2"], "region": ["north", "south"]})
    undated = built(tables, tmp_path / "undated")[v.CUSTOMER_ATTRIBUTES]
    assert (undated[s.EVENT_TIMESTAMP] == pd.Timestamp(AS_OF).tz_localize(None)).all()
    since = pd.Timestamp(AS_OF - timedelta(days=90))
    tables[s.CUSTOMERS][s.VALID_FROM] = since
    dated = built(tables, tmp_path / "dated")[v.CUSTOMER_ATTRIBUTES]
    assert (dated[s.EVENT_TIMESTAMP] == since.tz_localize(None)).all()


@settings(max_examples=25, deadline=None)
@given(
    events=st.lists(
        st.tuples(
            st.sampled_from(["c1", "c2", None]),
            st.sampled_from(["p1", "p2", "p3"]),
            st.integers(min_value=-5, max_value=400),
            st.sampled_from(s.KINDS),
            st.integers(min_value=1, max_value=5),
            st.integers(min_value=0, max_value=50),
        ),
        min_size=1,
        max_size=25,
    )
)
def test_counts_and_sums_against_pandas(
    events: list[tuple[str | None, str, int, str, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = [(c, p, float(d), k, float(q), float(x), f"o{d}") for c, p, d, k, q, x in events]
    past = [row for row in rows if row[2] > 0]
    if not past:
        return
    directory = tmp_path_factory.mktemp("prop")
    write_tables(shop(rows), directory)
    with Tables.open(directory) as tables:
        engine = DuckDBEngine(tables, directory / "scratch")
        instant = ibis.literal(to_micros(AS_OF), "int64")
        last = customer_snapshot(engine, stage_events(engine), instant).execute().set_index(s.CUSTOMER_ID)
    assert set(last.index) == {row[0] for row in past if row[0]}
    for customer, got in last.iterrows():
        mine = [row for row in past if row[0] == customer]
        for days in (7, 30, 90, 365):
            inside = [row for row in mine if row[2] <= days]
            bought = [row for row in inside if row[3] == s.PURCHASE]
            assert got[f"lines_{days}d"] == len(bought)
            assert got[f"spend_{days}d"] == pytest.approx(sum(row[5] for row in bought))
            assert got[f"orders_{days}d"] == len({row[6] for row in bought})
            assert got[f"views_{days}d"] == sum(row[3] in (s.VIEW, s.CLICK, s.CART) for row in inside)
        recency = [row[2] for row in mine if row[3] == s.PURCHASE]
        assert got["recency_days"] == pytest.approx(min(recency, default=v.NEVER_DAYS))
        assert np.isfinite(got[[f.name for f in CUSTOMER if f.dtype == "float"]].to_numpy(dtype=float)).all()


def test_a_view_without_rows_stops_nothing(tmp_path: Path) -> None:
    """Customers without dates or measures make a view of facts in which nobody is; it is found current."""
    from serving.settings import Settings
    from training.train import build_features, current_features

    tables = shop(EVENTS)
    tables[s.CUSTOMERS] = pd.DataFrame({s.CUSTOMER_ID: ["c1"], "region": ["north"]})
    write_tables(tables, tmp_path / "tables")
    settings = Settings.load(home=tmp_path / "home")
    with Tables.open(tmp_path / "tables") as opened:
        built, _ = build_features(settings, opened)
        assert built.rows[v.CUSTOMER_FACTS] == 0
        assert current_features(settings, opened) == built


@pytest.mark.parametrize("name", ["from_us", "copy", "undated", "place", "line", "customer", "select", "at"])
def test_attributes_may_be_called_what_the_shop_likes(name: str, tmp_path: Path) -> None:
    tables = shop(EVENTS)
    tables[s.PRODUCTS][name] = ["x", "y", "z"]
    tables[s.CUSTOMERS] = pd.DataFrame({s.CUSTOMER_ID: ["c1"], name: ["north"], "since_at": [AS_OF]})
    rows = built(tables, tmp_path)
    assert rows[v.CUSTOMER_ATTRIBUTES][name].tolist() == ["north"]
    assert sorted(rows[v.PRODUCT_ATTRIBUTES][name]) == ["x", "y", "z"]
    assert validate(tmp_path / "tables", now=AS_OF).counts["FAIL"] == 0
    inspect(tmp_path / "tables", now=AS_OF)


def test_a_taken_name_is_refused(tmp_path: Path) -> None:
    tables = shop(EVENTS)
    tables[s.PRODUCTS][s.EVENT_TIMESTAMP] = "x"
    with pytest.raises(DataError, match="expected no column event_timestamp"):
        built(tables, tmp_path / "stamp")
    tables = shop(EVENTS)
    tables[s.PRODUCTS]["flag_x"] = 1.0
    write_tables(tables, tmp_path / "flag" / "tables")
    (tmp_path / "flag" / "tables" / DECLARATIONS).write_text('[name_flags]\nx = ["a"]\n')
    with (
        Tables.open(tmp_path / "flag" / "tables") as opened,
        pytest.raises(ConfigError, match="found flag_x"),
    ):
        build(opened, tmp_path / "flag" / "features")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cadence = 7", "cadence"),
        ("cadence_days = 0", "greater than or equal to 1"),
        ('[constant]\nproducts = ["colour"]', "found 'colour'"),
        ('[name_flags]\nx = ["("]', "no regular expression"),
        ('[name_flags]\nx = [""]', "empty pattern"),
        ('[name_flags]\n"a b" = ["x"]', "no name of letters"),
        ("cadence_days =", "expected TOML"),
    ],
)
def test_declarations_that_do_not_fit_are_told(text: str, told: str, tmp_path: Path) -> None:
    write_tables(shop(EVENTS), tmp_path / "tables")
    (tmp_path / "tables" / DECLARATIONS).write_text(text)
    with Tables.open(tmp_path / "tables") as opened, pytest.raises(ConfigError, match=told):
        build(opened, tmp_path / "features")
