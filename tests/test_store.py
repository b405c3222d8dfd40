"""Offline = online, on SQLite and on a real Redis; and the two ways of reading online agree."""

from __future__ import annotations

import dataclasses
import shutil
import sqlite3
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
import redis
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.types.Value_pb2 import StringList, Value
from hypothesis import given
from hypothesis import strategies as st

from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.build import FeatureSet
from feature_repo.bulk import _texts, entity_keys
from feature_repo.errors import ConfigError
from feature_repo.features import served_defaults
from feature_repo.recent import History
from feature_repo.store import PROJECT, StoreConfig, apply, latest, open_store
from serving.errors import BundleError, FeatureUnavailable
from serving.online import OnlineReader
from serving.settings import Settings
from tests.builders import everything_online
from training.dataset import customer_states, point_in_time

Built = tuple[Settings, FeatureSet]


@pytest.fixture(params=["sqlite", "redis"])
def online(
    request: pytest.FixtureRequest, features: Built, tmp_path_factory: pytest.TempPathFactory
) -> StoreConfig:
    """The features of the world, materialised on the store under test."""
    settings, feature_set = features
    if request.param == "sqlite":
        return settings.store
    config = StoreConfig(tmp_path_factory.mktemp("redis-feast"), request.getfixturevalue("redis_url"))
    everything_online(apply(config, feature_set), feature_set)
    return config


def reader_of(config: StoreConfig) -> OnlineReader:
    return OnlineReader(
        open_store(config, offline=False),
        service=v.SERVICE,
        defaults=served_defaults(),
        timeout_ms=5000,
    )


def test_offline_equals_online(online: StoreConfig, features: Built) -> None:
    """The law: what training joins at ``as_of`` is what the service reads, each feature, each customer."""
    feature_set = features[1]
    customers = sorted(latest(feature_set, v.CUSTOMER_RECENT)[s.CUSTOMER_ID])
    assert len(customers) > 150
    offline = customer_states(open_store(features[0].store), customers, feature_set.as_of)
    states = reader_of(online).read(customers, feature_set.as_of)
    for record, state in zip(offline.to_dict("records"), states, strict=True):
        for name, default in served_defaults().items():
            left, right = record[name], state.row[name]
            assert (list(left) if isinstance(default, list) else left) == right, name
        expected = History.from_row({name: list(record[name]) for name, _ in v.RECENT})
        assert state.history.to_rows() == expected.to_rows()


def told(value: object) -> object:
    """A value as a plain one: lists as lists, and every kind of nothing as None."""
    if isinstance(value, list | np.ndarray):
        return [told(entry) for entry in value]
    return None if value is pd.NaT or value is pd.NA or value != value else value


@pytest.mark.parametrize("view", [view for view in v.VIEWS if view != v.PRODUCT_FACTS])  # the world has none
def test_every_feature_of_every_view_is_online_what_it_is_offline(
    view: str, online: StoreConfig, features: Built
) -> None:
    """The law for models of pairs: each feature of the ranking service, each entity, joined and read."""
    feature_set = features[1]
    newest = latest(feature_set, view)
    entity = newest.columns[0]
    names = [name for name in newest.columns if name not in (entity, s.EVENT_TIMESTAMP)]
    listed = [f"{view}:{name}" for name in names]
    keys = pd.DataFrame({entity: newest[entity], s.EVENT_TIMESTAMP: pd.Timestamp(feature_set.as_of)})
    joined = point_in_time(
        keys, lambda rows: open_store(features[0].store).get_historical_features(rows, listed).to_df()
    )
    found = open_store(online, offline=False).get_online_features(
        features=listed, entity_rows=[{entity: key} for key in newest[entity]]
    )
    read = found.to_dict()
    assert len(newest) > 50
    for name in names:
        offline = [told(value) for value in joined[name]]
        assert [told(value) for value in read[name]] == offline, name


def stored_by(config: StoreConfig) -> dict[object, object]:
    """Every byte of the online store, whatever its order; of Redis the keys of the project."""
    if config.redis_url is None:
        with sqlite3.connect(config.sqlite_path) as connection:
            tables = [
                row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            ]
            rows = {name: connection.execute(f'SELECT * FROM "{name}"').fetchall() for name in tables}
        return {(name, row[0], row[1]): row[2:] for name, listed in rows.items() for row in listed}
    client = redis.Redis.from_url(config.redis_url)
    return {key: client.hgetall(key) for key in client.scan_iter(b"*nextbest")}


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_stored_byte_for_byte_as_feast_stores(
    kind: str, features: Built, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Feast's own materialisation and push of the same rows leave exactly the same store."""
    feature_set = features[1]
    found = []
    for number, ours in enumerate((True, False)):
        directory = tmp_path_factory.mktemp("bytes")
        url = None if kind == "sqlite" else redis_url.removesuffix("/0") + f"/{number + 1}"
        config = StoreConfig(directory, url)
        store = apply(config, feature_set)
        if ours:
            everything_online(store, feature_set)
        else:
            epoch = datetime(1970, 1, 1, tzinfo=UTC)
            views = [name for name in feature_set.rows if name != v.CUSTOMER_RECENT]
            store.materialize(epoch, feature_set.as_of, feature_views=views)
            store.push(v.CUSTOMER_RECENT_PUSH, latest(feature_set, v.CUSTOMER_RECENT))
        found.append(stored_by(config))
    mine, theirs = found
    assert len(mine) > 300
    assert mine.keys() == theirs.keys()
    different = [key for key in mine if mine[key] != theirs[key]]
    assert not different, (different[0], mine[different[0]], theirs[different[0]])


@given(st.lists(st.floats(allow_nan=False) | st.floats(-0.01, 0.01), min_size=1, max_size=50))
def test_numbers_are_written_as_python_writes_them(numbers: list[float]) -> None:
    """Infinities, exponents, negative zero and the smallest of all included."""
    assert _texts([*numbers, 1e16, 1e-5, -0.0, 5e-324, float("inf")]) == [
        str(number) for number in [*numbers, 1e16, 1e-5, -0.0, 5e-324, float("inf")]
    ]


def test_online_read_equals_get_online_features(online: StoreConfig, features: Built) -> None:
    customers = [*sorted(latest(features[1], v.CUSTOMER_RECENT)[s.CUSTOMER_ID])[:25], "nobody"]
    store = open_store(online, offline=False)
    found = store.get_online_features(
        features=store.get_feature_service(v.SERVICE),
        entity_rows=[{s.CUSTOMER_ID: customer} for customer in customers],
    ).to_dict()
    states = reader_of(online).read(customers, features[1].as_of + timedelta(days=1))
    for place, state in enumerate(states):
        for name, default in served_defaults().items():
            slow = found[name][place]
            assert state.row[name] == (default if slow is None else slow)
        assert list(state.history.products) == (found[v.RECENT_PRODUCTS][place] or [])


def test_unknown_customer_gets_the_defaults(online: StoreConfig, features: Built) -> None:
    state = reader_of(online).read(["nobody"], features[1].as_of)[0]
    assert dict(state.row) == served_defaults()
    assert len(state.history) == 0


def test_online_history_is_cut_at_the_asked_instant(online: StoreConfig, features: Built) -> None:
    customer = latest(features[1], v.CUSTOMER_RECENT)[s.CUSTOMER_ID].iloc[0]
    reader = reader_of(online)
    whole = reader.read([customer], features[1].as_of)[0].history
    middle = pd.Timestamp(int(whole.at[len(whole) // 2]), unit="us", tz="UTC").to_pydatetime()
    cut = reader.read([customer], middle)[0].history
    assert 0 < len(cut) < len(whole)
    assert (cut.at < whole.at[len(whole) // 2]).all()


def test_all_of_whom_the_store_has_nothing_are_one(online: StoreConfig, features: Built) -> None:
    reader, at = reader_of(online), features[1].as_of
    known = latest(features[1], v.CUSTOMER_RECENT)[s.CUSTOMER_ID].iloc[0]
    one, other, somebody = reader.read(["nobody", "no one", known], at)
    assert one is other
    assert one.is_blank
    assert not somebody.is_blank
    assert dict(one.row) == served_defaults()


def test_a_state_is_given_again_as_long_as_its_row_is_the_same(
    online: StoreConfig, features: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not longer: one byte that changed in the store is a new state; what is cut at an instant is none to keep."""
    rows = latest(features[1], v.CUSTOMER_RECENT)
    first, *others = rows[s.CUSTOMER_ID][rows[v.RECENT_KINDS].map(len) > 1].iloc[:9]
    reader, at = reader_of(online), features[1].as_of + timedelta(days=1)
    state = reader.read([first], at)[0]
    assert state.memo == {}
    assert reader.read([first], at)[0] is state
    cut = reader.read([first], pd.Timestamp(int(state.history.at[-1]), unit="us", tz="UTC").to_pydatetime())[
        0
    ]
    assert len(cut.history) < len(state.history)
    assert cut.memo is None
    assert reader.read([first], at)[0] is state
    try:
        raw = Value(string_val="moved").SerializeToString()
        overwrite(online, first, v.CUSTOMER_FEATURES, v.SEGMENT, raw)
        moved = reader.read([first], at)[0]
        assert (moved.segment, moved.memo) == ("moved", {})
    finally:
        everything_online(open_store(online), features[1])
    state = reader.read([first], at)[0]
    assert state.segment != "moved"
    monkeypatch.setattr("serving.online.KEPT", 2)
    for other in others[:2]:
        reader.read([other], at)
    assert reader.read([first], at)[0] is not state
    state = reader.read([first], at)[0]
    reader.read(others[:1], at)
    assert reader.read([first], at)[0] is state
    reader.read(others, at)
    assert reader.read([first], at)[0] is not state  # those read last are kept, and no more


def test_connections_that_the_server_closed_cost_no_read(
    features: Built, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = StoreConfig(tmp_path_factory.mktemp("closed"), redis_url)
    everything_online(apply(config, features[1]), features[1])
    customer = latest(features[1], v.CUSTOMER_RECENT)[s.CUSTOMER_ID].iloc[0]
    reader, at = reader_of(config), features[1].as_of + timedelta(days=1)
    before = reader.read([customer], at)[0]
    readings = [reader.begin([customer], at) for _ in range(3)]
    assert [reading.finish()[0].row for reading in readings] == [before.row] * 3
    for _ in range(2):
        redis.Redis.from_url(redis_url).client_kill_filter(_type="normal", skipme=True)
        assert reader.read([customer], at)[0].row == before.row
    reader.begin([customer], at).drop()  # an answer that nobody read is nobody's next answer
    assert reader.read(["nobody"], at)[0].history.to_rows() == []


def test_a_push_is_taken_whole_and_read_back(online: StoreConfig, features: Built) -> None:
    row = latest(features[1], v.CUSTOMER_RECENT).iloc[[0]].copy()
    row[s.CUSTOMER_ID] = f"pushed-{online.redis_url is None}"
    row[s.EVENT_TIMESTAMP] += pd.Timedelta(days=1)
    open_store(online).push(v.CUSTOMER_RECENT_PUSH, row)
    state = reader_of(online).read(row[s.CUSTOMER_ID].tolist(), features[1].as_of)[0]
    assert list(state.history.products) == list(row[v.RECENT_PRODUCTS].iloc[0])


def test_features_built_anew_for_the_same_instant_arrive(
    features: Built, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Redis keeps the older of two rows with one timestamp unless told otherwise."""
    directory = tmp_path_factory.mktemp("anew")
    for view in features[1].rows:
        shutil.copytree(features[1].path(view), directory / view)
    own = dataclasses.replace(features[1], directory=directory)
    for config in (StoreConfig(directory / "sqlite"), StoreConfig(directory / "redis", redis_url)):
        everything_online(apply(config, own), own)
        newest = sorted(own.path(v.CUSTOMER_FEATURES).iterdir())[-1]
        rows = pd.read_parquet(newest)
        rows.assign(**{v.SEGMENT: "moved"}).to_parquet(newest, index=False)
        everything_online(apply(config, own), own)
        customer = latest(own, v.CUSTOMER_RECENT)[s.CUSTOMER_ID].iloc[0]
        assert reader_of(config).read([customer], own.as_of)[0].segment == "moved"
        rows.to_parquet(newest, index=False)


def test_a_dead_redis_is_unavailable_not_a_crash(
    features: Built, tmp_path_factory: pytest.TempPathFactory, redis_url: str
) -> None:
    config = StoreConfig(tmp_path_factory.mktemp("gone"), redis_url)
    apply(config, features[1])
    gone = dataclasses.replace(config, redis_url="redis://127.0.0.1:1/0")
    began = time.monotonic()
    with pytest.raises(FeatureUnavailable, match=r"expected .* online store"):
        reader_of(gone).read(["c1"], features[1].as_of)
    assert time.monotonic() - began < 30


def test_sqlite_store_is_in_wal_mode(features: Built) -> None:
    with sqlite3.connect(features[0].store.sqlite_path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_missing_service_is_told(features: Built) -> None:
    store = open_store(features[0].store, offline=False)
    with pytest.raises(BundleError, match=r"expected the feature service 'other_v9'.*nextbest features"):
        OnlineReader(store, service="other_v9", defaults={}, timeout_ms=100)
    with pytest.raises(BundleError, match="moon_phase"):
        OnlineReader(store, service=v.SERVICE, defaults={"moon_phase": 0.0}, timeout_ms=100)
    with pytest.raises(BundleError, match="feature schema 0123"):
        OnlineReader(store, service=v.SERVICE, schema_hash="0123", defaults={}, timeout_ms=100)


def test_bad_redis_url_is_told(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(ConfigError, match="redis://host:6379/0"):
        open_store(StoreConfig(tmp_path_factory.mktemp("bad"), "localhost:6379"))


def overwrite(config: StoreConfig, customer: str, view: str, feature: str, raw: bytes) -> None:
    """Put bytes in the place of one value of the online store."""
    key = entity_keys(s.CUSTOMER_ID, [customer])[0]
    if config.redis_url is None:
        with sqlite3.connect(config.sqlite_path) as connection:
            changed = connection.execute(
                f'UPDATE "{PROJECT}_{view}" SET value = ? WHERE entity_key = ? AND feature_name = ?',
                (raw, key, feature),
            )
            assert changed.rowcount == 1
    else:
        client = redis.Redis.from_url(config.redis_url)
        assert client.hset(key + PROJECT.encode(), _mmh3(f"{view}:{feature}"), raw) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("view", "feature", "raw"),
    [
        (v.CUSTOMER_FEATURES, v.SEGMENT, b"\xff\xff\xff"),
        (v.CUSTOMER_FEATURES, v.SEGMENT, Value(double_val=3.0).SerializeToString()),
        (
            v.CUSTOMER_RECENT,
            v.RECENT_KINDS,
            Value(string_list_val=StringList(val=["view"])).SerializeToString(),
        ),
        (v.CUSTOMER_RECENT, v.RECENT_KINDS, Value(string_list_val=StringList(val=["?"])).SerializeToString()),
    ],
    ids=["no message", "another kind", "ragged", "unknown event"],
)
def test_a_row_that_cannot_be_read_gives_defaults_and_is_counted(
    view: str,
    feature: str,
    raw: bytes,
    online: StoreConfig,
    features: Built,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = latest(features[1], v.CUSTOMER_RECENT)
    lengths = rows[v.RECENT_KINDS].map(len)
    broken, other = rows[s.CUSTOMER_ID][lengths > 1].iloc[:2]
    counted = [0]

    def count() -> None:
        counted[0] += 1

    reader = OnlineReader(
        open_store(online, offline=False),
        service=v.SERVICE,
        defaults=served_defaults(),
        timeout_ms=5000,
        corrupt=count,
    )
    before = reader.read([broken, other], features[1].as_of)
    try:
        overwrite(online, broken, view, feature, raw)
        found = [reader.read([broken, other], features[1].as_of) for _ in range(3)][-1]
    finally:
        everything_online(open_store(online), features[1])
    assert dict(found[0].row) == served_defaults()
    assert len(found[0].history) == 0
    assert [state.unread for state in found] == [True, False]
    assert found[1].history.to_rows() == before[1].history.to_rows()
    assert found[1].row == before[1].row
    assert counted == [3]
    assert caplog.text.count("cannot be read") == 1  # told once, not at every request
    assert repr(broken) in caplog.text
    assert reader.read([broken], features[1].as_of)[0].row == before[0].row
