"""The guarded join, the catalog as it was known, and keys that carry no label."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from eval.world import World
from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.build import FeatureSet
from feature_repo.features import VIEWS
from feature_repo.store import open_store
from feature_repo.tables import Tables, write_tables
from serving.errors import DataError
from serving.settings import Settings
from training.dataset import IdMap, TrainingSet, customer_states, feast_join, point_in_time

KEYS = pd.DataFrame(
    {
        s.CUSTOMER_ID: ["c2", "c1", "c2", "c3"],
        s.EVENT_TIMESTAMP: pd.to_datetime(["2026-01-04", "2026-01-03", "2026-01-02", "2026-01-01"], utc=True),
    },
    index=[7, 5, 3, 1],
)


def honest(keys: pd.DataFrame) -> pd.DataFrame:
    return keys.assign(spend=keys[s.ROW_ID] * 10.0)


def test_guard_restores_order_and_index() -> None:
    def shuffles(keys: pd.DataFrame) -> pd.DataFrame:
        return honest(keys).sample(frac=1.0, random_state=1)

    got = point_in_time(KEYS, shuffles)
    assert got.index.tolist() == [7, 5, 3, 1]
    assert got["spend"].tolist() == [0.0, 10.0, 20.0, 30.0]
    pd.testing.assert_frame_equal(got[KEYS.columns], KEYS)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda k: honest(k).iloc[:-1], "found 3"),
        (lambda k: pd.concat([honest(k), honest(k).iloc[[0]]]), "found 5"),
        (lambda k: pd.concat([honest(k).iloc[1:], honest(k).iloc[[1]]]), "3 distinct"),
        (lambda k: honest(k).drop(columns=s.ROW_ID), s.ROW_ID),
        (lambda k: honest(k).assign(**{s.ROW_ID: np.nan}), s.ROW_ID),
        (lambda k: honest(k).drop(columns=s.CUSTOMER_ID), s.CUSTOMER_ID),
        (lambda k: honest(k).assign(**{s.CUSTOMER_ID: k[s.CUSTOMER_ID].to_numpy()[::-1]}), s.CUSTOMER_ID),
        (lambda k: honest(k).assign(**{s.CUSTOMER_ID: range(len(k))}), s.CUSTOMER_ID),
        (
            lambda k: honest(k).assign(**{s.EVENT_TIMESTAMP: k[s.EVENT_TIMESTAMP].astype(str)}),
            s.EVENT_TIMESTAMP,
        ),
        (
            lambda k: honest(k).assign(**{s.EVENT_TIMESTAMP: k[s.EVENT_TIMESTAMP] + pd.Timedelta("1us")}),
            s.EVENT_TIMESTAMP,
        ),
    ],
    ids=[
        "drops",
        "repeats",
        "swaps one for another",
        "no row id",
        "empty row id",
        "no key",
        "reverses keys",
        "retypes keys",
        "retypes time",
        "moves time",
    ],
)
def test_guard_catches_a_join_that(spoil: object, told: str) -> None:
    with pytest.raises(DataError, match=told):
        point_in_time(KEYS, spoil)  # type: ignore[arg-type]


@given(st.permutations(range(4)), st.integers(min_value=0, max_value=3))
def test_guard_catches_any_reassigned_row(order: list[int], lost: int) -> None:
    """Rows back under other row ids are caught unless the assignment is the identity."""

    def reassigns(keys: pd.DataFrame) -> pd.DataFrame:
        return honest(keys).assign(**{s.ROW_ID: order})

    if order == [0, 1, 2, 3]:
        assert point_in_time(KEYS, reassigns)["spend"].tolist() == [0.0, 10.0, 20.0, 30.0]
    else:
        with pytest.raises(DataError):
            point_in_time(KEYS, reassigns)


def test_instants_without_a_zone_are_refused() -> None:
    naive = KEYS.assign(**{s.EVENT_TIMESTAMP: KEYS[s.EVENT_TIMESTAMP].dt.tz_localize(None)})
    with pytest.raises(DataError, match=r"with a time zone, found datetime64.*tz_localize"):
        point_in_time(naive, honest)


def test_feast_join_equals_brute_force(features: tuple[Settings, FeatureSet], world: World) -> None:
    """The newest snapshot at or before each instant, computed plainly."""
    settings, feature_set = features
    generator = np.random.default_rng(0)
    bought = world.interactions.sample(150, random_state=1)
    keys = pd.DataFrame({s.CUSTOMER_ID: bought[s.CUSTOMER_ID].to_numpy()})
    days = pd.to_timedelta(generator.integers(0, 20, 150), unit="D")
    keys[s.EVENT_TIMESTAMP] = (bought[s.AT].reset_index(drop=True) + days).astype("datetime64[us, UTC]")
    listed = [f"{v.CUSTOMER_FEATURES}:{name}" for name in ("spend_30d", v.SEGMENT)]
    store = open_store(settings.store)
    got = point_in_time(keys, lambda rows: store.get_historical_features(rows, listed).to_df())
    snapshots = pd.read_parquet(feature_set.path(v.CUSTOMER_FEATURES))
    for place, key in keys.iterrows():
        mine = snapshots[
            (snapshots[s.CUSTOMER_ID] == key[s.CUSTOMER_ID])
            & (snapshots[s.EVENT_TIMESTAMP] <= key[s.EVENT_TIMESTAMP].tz_localize(None))
        ]
        row = got.loc[place]
        if mine.empty:
            assert pd.isna(row["spend_30d"])
        else:
            newest = mine.sort_values(s.EVENT_TIMESTAMP).iloc[-1]
            assert row["spend_30d"] == newest["spend_30d"]
            assert row[v.SEGMENT] == newest[v.SEGMENT]


def customer_states_at(store: object, keys: pd.DataFrame) -> pd.DataFrame:
    return point_in_time(keys, feast_join(store, v.SERVICE))  # type: ignore[arg-type]


def test_history_joined_offline_holds_only_earlier_events(
    features: tuple[Settings, FeatureSet], world: World
) -> None:
    """Asked at the very instant of an event, the joined history ends before that event."""
    events = world.interactions.sample(60, random_state=2)
    keys = events[[s.CUSTOMER_ID, s.AT]].rename(columns={s.AT: s.EVENT_TIMESTAMP})
    got = customer_states_at(open_store(features[0].store), keys)
    for place, row in got.iterrows():
        asked = keys.loc[place]
        mine = world.interactions[world.interactions[s.CUSTOMER_ID] == asked[s.CUSTOMER_ID]]
        earlier = int((mine[s.AT] < asked[s.EVENT_TIMESTAMP]).sum())
        found = row[f"{v.CUSTOMER_RECENT}__{v.RECENT_AT}"]
        assert (0 if found is None else len(found)) == min(earlier, v.HISTORY_LENGTH)


def test_shuffled_keys_carry_no_label(features: tuple[Settings, FeatureSet], world: World) -> None:
    """With labels shuffled over the keys, joined features predict nothing: AUC ≈ 0.5.

    A join that mixed up rows by label, or features made apart for positives and negatives, would show here.
    The same model on true labels is well above, so the test can fail.
    """
    settings, feature_set = features
    generator = np.random.default_rng(3)
    cut = feature_set.as_of - timedelta(days=60)
    after = world.interactions[(world.interactions[s.AT] >= cut) & (world.interactions[s.KIND] == s.PURCHASE)]
    positives = after[[s.CUSTOMER_ID, s.PRODUCT_ID]].drop_duplicates()
    negatives = pd.DataFrame(
        {
            s.CUSTOMER_ID: generator.choice(world.interactions[s.CUSTOMER_ID].unique(), len(positives)),
            s.PRODUCT_ID: generator.choice(world.products[s.PRODUCT_ID], len(positives)),
        }
    )
    keys = pd.concat([positives, negatives], ignore_index=True)
    label = np.repeat([1, 0], [len(positives), len(negatives)])
    keys[s.EVENT_TIMESTAMP] = pd.Timestamp(cut)
    joined = point_in_time(keys, feast_join(open_store(settings.store), v.RANKING_SERVICE))
    numeric = [
        f"{view}__{feature.name}"
        for view, listed in VIEWS.items()
        for feature in listed
        if feature.dtype == "float"
    ]
    matrix = np.log1p(np.abs(joined[numeric].astype(float).fillna(0.0).to_numpy()))
    matrix = (matrix - matrix.mean(axis=0)) / (matrix.std(axis=0) + 1e-9)
    halves = generator.permutation(len(label))
    fit, judge = halves[: len(halves) // 2], halves[len(halves) // 2 :]

    def auc(labels: np.ndarray) -> float:
        normal = matrix[fit].T @ matrix[fit] + np.eye(matrix.shape[1])
        weights = np.linalg.solve(normal, matrix[fit].T @ (labels[fit] - labels[fit].mean()))
        ranks, positive = rankdata(matrix[judge] @ weights), labels[judge] == 1
        n, m = int(positive.sum()), int((~positive).sum())
        return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))

    shuffled = [auc(generator.permutation(label)) for _ in range(8)]
    error = np.sqrt(1 / (6 * (len(judge) / 2))) / np.sqrt(8)  # of the mean of 8 AUCs without signal
    assert abs(np.mean(shuffled) - 0.5) < 4 * error
    assert auc(label) > 0.65


def test_defaults_fill_what_nobody_knows(features: tuple[Settings, FeatureSet]) -> None:
    rows = customer_states(open_store(features[0].store), ["nobody"], features[1].as_of)
    assert rows[v.CATEGORY_NAMES].isna().all()
    assert rows[v.SEGMENT].tolist() == [""]


def test_id_map_is_sorted_unique_and_hashed() -> None:
    ids = IdMap.of(["b", "a", "b"])
    assert ids.ids == ("a", "b")
    assert ids.encode(pd.Series(["b", "x", "a"])).tolist() == [1, -1, 0]
    assert ids.hash == IdMap.of(["a", "b"]).hash != IdMap.of(["a", "c"]).hash


def test_training_set_knows_nothing_later(features: tuple[Settings, FeatureSet], world_tables: Path) -> None:
    cut = features[1].as_of - timedelta(days=45)
    with Tables.open(world_tables) as tables:
        data = TrainingSet.load(tables, open_store(features[0].store), cut)
        rows = tables.frame(s.INTERACTIONS)
    before = rows[rows[s.AT] < cut]
    assert len(data) == len(before)
    assert set(data.customers.ids) == set(before[s.CUSTOMER_ID])
    assert (data.age_days > 0).all()
    launched_later = set(rows[s.PRODUCT_ID]) - set(before[s.PRODUCT_ID])
    late = data.catalog.frame.set_index(s.PRODUCT_ID)[s.LAUNCHED_AT]
    assert not launched_later & set(late[late > cut].index)


def test_past_catalog_forgets_undated_prices(tmp_path: Path, features: tuple[Settings, FeatureSet]) -> None:
    at = pd.to_datetime(["2026-01-01", "2026-03-01"], utc=True)
    frames = {
        s.INTERACTIONS: pd.DataFrame({s.CUSTOMER_ID: "c1", s.PRODUCT_ID: ["p1", "p2"], s.AT: at}),
        s.PRODUCTS: pd.DataFrame(
            {s.PRODUCT_ID: ["p1", "p2", "p3"], s.NAME: ["A", "B", "C"], s.PRICE: 5.0, s.AVAILABLE: False}
        ),
    }
    write_tables(frames, tmp_path)
    from training.dataset import catalog_as_of

    cut = pd.Timestamp("2026-02-01", tz="UTC").to_pydatetime()
    with Tables.open(tmp_path) as tables:
        rows = tables.frame(s.INTERACTIONS)
        past = catalog_as_of(tables, rows[rows[s.AT] < cut], cut, final=False)
        today = catalog_as_of(tables, rows, cut + timedelta(days=90), final=True)
    assert past.ids == ["p1"], "p2 and p3 were not known yet"
    assert past.names == ["A"]
    assert past.frame[s.PRICE].isna().all()
    assert past.on_sale(cut).all(), "that it is not available today was not known then"
    assert today.ids == ["p1", "p2", "p3"]
    assert not today.on_sale(cut + timedelta(days=90)).any()


def test_what_the_table_never_describes_is_not_on_sale_and_what_it_describes_later_is(tmp_path: Path) -> None:
    at = pd.to_datetime(["2026-01-01", "2026-01-02", "2026-03-01"], utc=True)
    write_tables(
        {
            s.INTERACTIONS: pd.DataFrame({s.CUSTOMER_ID: "c1", s.PRODUCT_ID: ["p1", "slip", "p2"], s.AT: at}),
            s.PRODUCTS: pd.DataFrame(
                {s.PRODUCT_ID: ["p1", "p2"], s.VALID_FROM: pd.to_datetime(["2026-02-15"] * 2, utc=True)}
            ),
        },
        tmp_path,
    )
    from training.dataset import catalog_as_of

    cut = pd.Timestamp("2026-02-01", tz="UTC").to_pydatetime()
    with Tables.open(tmp_path) as tables:
        rows = tables.frame(s.INTERACTIONS)
        past = catalog_as_of(tables, rows[rows[s.AT] < cut], cut, final=False)
        today = catalog_as_of(tables, rows, cut + timedelta(days=90), final=True)
    assert dict(zip(past.ids, past.on_sale(cut), strict=True)) == {"p1": True, "slip": False}
    assert dict(zip(today.ids, today.on_sale(cut), strict=True)) == {"p1": True, "p2": True, "slip": False}
