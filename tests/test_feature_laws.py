"""Laws that hold for every single feature: it moves, no later row changes it, a look-ahead in it is caught.

On a small shop in which all tables are filled (``rich_shop``). The law of no look-ahead compares snapshots of a
shop that knows the future with those of the same shop before it; that the comparison can see is proved by
planting a look-ahead into each feature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from feature_repo import facts, snapshots
from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.build import FeatureSet, build
from feature_repo.customer_features import CUSTOMER
from feature_repo.declared import Declarations
from feature_repo.engine import DuckDBEngine
from feature_repo.feature import Feature
from feature_repo.files import parquet_files
from feature_repo.product_features import PRODUCT
from feature_repo.recent import to_micros
from feature_repo.staging import stage_events
from feature_repo.store import StoreConfig, apply, latest, open_store
from feature_repo.tables import Tables
from tests.builders import everything_online
from tests.rich_shop import END, before, rich_shop, write_shop
from training.dataset import point_in_time

CUT = END - timedelta(days=90, hours=5)
Frames = dict[str, pd.DataFrame]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(rich_shop(), tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(before(rich_shop(), CUT), tmp_path_factory.mktemp("past"))


@pytest.fixture(scope="module")
def built(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    with Tables.open(whole) as tables:
        return build(tables, tmp_path_factory.mktemp("built") / "features")


def rows_of(features: FeatureSet, view: str) -> pd.DataFrame:
    rows: pd.DataFrame = pq.read_table(features.path(view)).to_pandas()
    return rows.sort_values([rows.columns[0], s.EVENT_TIMESTAMP]).reset_index(drop=True)


def plain(value: object) -> object:
    """A value as a plain one: lists as lists, and every kind of nothing as None."""
    if isinstance(value, list | np.ndarray):
        return [plain(entry) for entry in value]
    return None if value is None or value is pd.NaT or value is pd.NA or value != value else value


def same(left: object, right: object) -> bool:
    """Equal, numbers within 1e-9 of each other: sums of floats differ with the order of addition."""
    left, right = plain(left), plain(right)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(same(x, y) for x, y in zip(left, right, strict=True))
    if isinstance(left, float) and isinstance(right, float):
        return abs(left - right) <= 1e-9 * max(1.0, abs(left), abs(right))
    return left == right


def moved(left: pd.DataFrame, right: pd.DataFrame) -> set[str]:
    """Columns of two snapshots that differ, the entities being the same."""
    left, right = (rows.sort_values(rows.columns[0]).reset_index(drop=True) for rows in (left, right))
    assert left.iloc[:, 0].tolist() == right.iloc[:, 0].tolist()
    return {
        name
        for name in left.columns
        if not all(same(x, y) for x, y in zip(left[name], right[name], strict=True))
    }


@pytest.mark.parametrize("view", v.VIEWS)
def test_every_feature_moves(view: str, built: FeatureSet) -> None:
    """A law about a column that is everywhere the same would say nothing."""
    rows = rows_of(built, view)
    assert len(rows) > 25
    still = [name for name in rows.columns if rows[name].map(lambda value: repr(plain(value))).nunique() < 2]
    assert not still


@pytest.mark.parametrize("view", [v.CUSTOMER_FEATURES, v.PRODUCT_FEATURES])
def test_numbers_are_finite_and_never_missing(view: str, built: FeatureSet) -> None:
    rows = rows_of(built, view)
    numbers = rows.select_dtypes("number").to_numpy()
    assert np.isfinite(numbers).all()
    assert not rows.isna().any().any()


def test_later_rows_of_any_table_change_no_earlier_row(built: FeatureSet, past: Path, tmp_path: Path) -> None:
    """Append-only stability: every view, every column, every instant before the cut."""
    with Tables.open(past) as tables:
        known = build(tables, tmp_path / "features", as_of=CUT)
    for view in v.VIEWS:
        early, late = rows_of(known, view), rows_of(built, view)
        keys = [early.columns[0], s.EVENT_TIMESTAMP]
        early = early[early[s.EVENT_TIMESTAMP] < pd.Timestamp(CUT).tz_localize(None)].reset_index(drop=True)
        late = early[keys].merge(late, on=keys, how="left")
        assert len(early) > 25, view
        for name in early.columns:
            differing = [
                place
                for place, (x, y) in enumerate(zip(early[name], late[name], strict=True))
                if not same(x, y)
            ]
            assert not differing, (
                view,
                name,
                early.iloc[differing[0]][[*keys, name]],
                late[name][differing[0]],
            )


Snapshots = Callable[[Path], Frames]


@pytest.fixture
def at_cut(tmp_path: Path) -> Snapshots:
    """Makes the snapshots of a shop at the cut."""

    def make(directory: Path) -> Frames:
        with Tables.open(directory) as tables:
            engine = DuckDBEngine(tables, tmp_path / "scratch")
            instant = ibis.literal(to_micros(CUT), "int64")
            events = stage_events(engine)
            customers = snapshots.customer_snapshot(engine, events, instant).execute()
            segments = ibis.memtable(customers[[s.CUSTOMER_ID, v.SEGMENT]])
            products = snapshots.product_snapshot(engine, events, instant, segments)
            told: dict[str, Any] = {v.CUSTOMER_FEATURES: customers, v.PRODUCT_FEATURES: products.execute()}
            for view, table, entity in (
                (v.CUSTOMER_FACTS, s.CUSTOMERS, s.CUSTOMER_ID),
                (v.PRODUCT_FACTS, s.PRODUCTS, s.PRODUCT_ID),
            ):
                told[view] = facts.fact_snapshot(
                    engine,
                    facts.stage_measures(engine) if table == s.CUSTOMERS else None,
                    instant,
                    table=table,
                    entity=entity,
                    declared=Declarations.read(directory),
                    final_us=to_micros(END) + 1,
                ).execute()
            return told

    return make


def test_the_future_moves_nothing_at_the_cut(whole: Path, past: Path, at_cut: Snapshots) -> None:
    left, right = at_cut(whole), at_cut(past)
    for view in left:
        assert moved(left[view], right[view]) == set(), view


def looking_ahead(features: tuple[Feature, ...], stage: str, directory: Path) -> tuple[Feature, ...]:
    """The same features, each of one stage with a look at how many rows the whole table holds."""
    rows = float(pq.read_metadata(directory / f"{s.INTERACTIONS}.parquet").num_rows)

    def planted(feature: Feature) -> Feature:
        leak = {
            "float": lambda value: value + rows,
            "string": lambda value: value + str(rows),
            "floats": lambda value: value.concat(ibis.array([rows])),
            "strings": lambda value: value.concat(ibis.array([str(rows)])),
        }[feature.dtype]
        return replace(feature, expression=lambda seen: leak(feature.expression(seen)))

    return tuple(planted(feature) if feature.stage == stage else feature for feature in features)


@pytest.mark.parametrize("stage", ["aggregate", "last", "derive"])
def test_a_look_ahead_planted_in_any_feature_is_caught(
    stage: str, whole: Path, past: Path, at_cut: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison names each feature in which a look-ahead was planted, so none is beyond its sight."""
    listed = facts.fact_features
    seen: list[Frames] = []
    expected: dict[str, set[str]] = {}
    for directory in (whole, past):
        monkeypatch.setattr(snapshots, "CUSTOMER", looking_ahead(CUSTOMER, stage, directory))
        monkeypatch.setattr(snapshots, "PRODUCT", looking_ahead(PRODUCT, stage, directory))

        def planted(engine: Any, table: str, directory: Path = directory) -> tuple[Feature, ...]:
            found = looking_ahead(listed(engine, table), stage, directory)
            view = v.CUSTOMER_FACTS if table == s.CUSTOMERS else v.PRODUCT_FACTS
            expected[view] = {feature.name for feature in found if feature.stage == stage}
            return found

        monkeypatch.setattr(facts, "fact_features", planted)
        seen.append(at_cut(directory))
    expected[v.CUSTOMER_FEATURES] = {feature.name for feature in CUSTOMER if feature.stage == stage}
    expected[v.PRODUCT_FEATURES] = {feature.name for feature in PRODUCT if feature.stage == stage}
    assert sum(map(len, expected.values())) >= 9
    for view, names in expected.items():
        caught = moved(seen[0][view], seen[1][view])
        assert names <= caught, (view, names - caught)


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def online(
    request: pytest.FixtureRequest, built: FeatureSet, tmp_path_factory: pytest.TempPathFactory
) -> StoreConfig:
    url = request.getfixturevalue("redis_url").removesuffix("/0") + "/7" if request.param == "redis" else None
    config = StoreConfig(tmp_path_factory.mktemp("online"), url)
    everything_online(apply(config, built), built)
    return config


@pytest.mark.parametrize("view", v.VIEWS)
def test_offline_is_online(view: str, online: StoreConfig, built: FeatureSet) -> None:
    """Each feature of each entity: what a model is trained on is what the service reads."""
    newest = latest(built, view)
    entity = newest.columns[0]
    names = [name for name in newest.columns if name not in (entity, s.EVENT_TIMESTAMP)]
    listed = [f"{view}:{name}" for name in names]
    keys = pd.DataFrame({entity: newest[entity], s.EVENT_TIMESTAMP: pd.Timestamp(built.as_of)})
    store = open_store(online)
    joined = point_in_time(keys, lambda rows: store.get_historical_features(rows, listed).to_df())
    read = store.get_online_features(
        features=listed, entity_rows=[{entity: key} for key in newest[entity]]
    ).to_dict()
    for name in names:
        assert [plain(value) for value in read[name]] == [plain(value) for value in joined[name]], name


def test_the_ranking_service_holds_every_view(online: StoreConfig, built: FeatureSet) -> None:
    found = open_store(online).get_feature_service(v.RANKING_SERVICE)
    offered = {projection.name: len(projection.features) for projection in found.feature_view_projections}
    assert set(offered) == set(built.rows) == set(v.VIEWS)
    assert offered[v.CUSTOMER_FEATURES] == len(CUSTOMER)


def test_declared_flags_and_constants_reach_the_past(built: FeatureSet) -> None:
    rows = rows_of(built, v.PRODUCT_ATTRIBUTES)
    first = rows.groupby(s.PRODUCT_ID).first()
    names = rich_shop()[s.PRODUCTS].groupby(s.PRODUCT_ID)[s.NAME].first()
    epoch = datetime(1970, 1, 1)  # noqa: DTZ001
    undated = [int(product[1:]) % 4 == 1 for product in first.index]
    assert ((rows.groupby(s.PRODUCT_ID)[s.EVENT_TIMESTAMP].min() == epoch) == undated).all()
    assert (first["flag_for_new_customers"] == names.str.contains("新客|new customer", case=False)).all()
    assert (first["flag_loyalty"] == names.str.contains("loyal|会员", case=False)).all()
    at_start = rows[rows[s.EVENT_TIMESTAMP] == epoch]
    assert at_start["brand"].notna().all()
    assert at_start[s.PRICE].isna().all(), "a price is not constant"


def test_files_hold_the_declared_types(built: FeatureSet) -> None:
    """Numbers are doubles, never decimals of an engine's own choice."""
    arrow = {"float": "double", "string": "string", "bool": "bool", "strings": "list<element: string>"}
    arrow |= {"floats": "list<element: double>", "ints": "list<element: int64>"}
    declared: dict[str, dict[str, str]] = {
        **built.columns,
        v.CUSTOMER_FEATURES: {feature.name: feature.dtype for feature in CUSTOMER},
        v.PRODUCT_FEATURES: {feature.name: feature.dtype for feature in PRODUCT},
        v.CUSTOMER_RECENT: dict(v.RECENT),
    }
    for view, columns in declared.items():
        held = pq.read_schema(parquet_files(built.path(view))[0])
        found = {name: str(held.field(name).type) for name in columns}
        assert found == {name: arrow[dtype] for name, dtype in columns.items()}, view
