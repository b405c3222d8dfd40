"""The simulated world keeps its promises: lawful histories, stated statistics, a truth one can rank by."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from eval.world import CHANNELS, Truth, World, WorldConfig, simulate
from feature_repo.errors import DataError
from feature_repo.schema import (
    AT,
    AVAILABLE,
    CART,
    CHANNEL,
    CUSTOMER_ID,
    DISCOUNT,
    KIND,
    KINDS,
    LAUNCHED_AT,
    NAME,
    ORDER_ID,
    PRICE,
    PRODUCT_ID,
    PURCHASE,
    QUANTITY,
    RETURN,
    SIGNED_UP_AT,
    STORE_ID,
    TABLES,
    VALID_FROM,
    VALUE,
    VIEW,
    WITHDRAWN_AT,
)

SMALL = WorldConfig(customers=400, products=120, seed=7)
END = pd.Timestamp(SMALL.ends_at)
PAIR = [CUSTOMER_ID, PRODUCT_ID]


@pytest.fixture(scope="module")
def world() -> World:
    return simulate(SMALL)


@pytest.fixture(scope="module")
def larger() -> World:
    """Large enough for statistics."""
    return simulate(WorldConfig(customers=2500, seed=11))


def of_kind(world: World, kind: str) -> pd.DataFrame:
    return world.interactions[world.interactions[KIND] == kind]


def gini(counts: np.ndarray) -> float:
    ordered = np.sort(counts)
    size = len(ordered)
    return float(2 * (np.arange(1, size + 1) * ordered).sum() / (size * ordered.sum()) - (size + 1) / size)


# --- configuration and chance -------------------------------------------------------------------------


def test_config_refuses_unknown_keys_and_naive_times() -> None:
    with pytest.raises(ValidationError, match="colour"):
        WorldConfig.model_validate({"colour": "blue"})
    with pytest.raises(ValidationError, match="timezone"):
        WorldConfig(ends_at=datetime(2026, 6, 1))  # noqa: DTZ001


def test_config_survives_json() -> None:
    assert WorldConfig.model_validate_json(SMALL.model_dump_json()) == SMALL
    assert SMALL.starts_at == datetime(2024, 12, 1, tzinfo=UTC)


def test_same_seed_same_bytes(world: World, tmp_path: Path) -> None:
    world.write(tmp_path / "one", truth_dir=tmp_path / "truth-one")
    simulate(SMALL).write(tmp_path / "two", truth_dir=tmp_path / "truth-two")
    for path in [*(tmp_path / "one").iterdir(), *(tmp_path / "truth-one").iterdir()]:
        twin = Path(str(path).replace("one", "two"))
        assert path.read_bytes() == twin.read_bytes(), path.name


def test_another_seed_another_world(world: World) -> None:
    other = simulate(SMALL.model_copy(update={"seed": 8}))
    assert not np.allclose(world.truth.product_factors, other.truth.product_factors)
    assert len(world.interactions) != len(other.interactions)


@pytest.mark.parametrize(
    "extreme",
    [
        {"customers": 1},
        {"customers": 1, "visits_per_month": 1e-9, "founder_share": 1.0},
        {"new_share": 1.0},
        {"unavailable_share": 1.0},
        {"campaigns": 0, "listed_share": 0.0, "ties_per_customer": 0.0},
        {"stockouts_per_year": 30.0, "promotions_per_year": 30.0, "price_changes_per_year": 30.0},
        {"listed_share": 1.0, "list_length": 200, "examination_power": 0.0},
        {"rebuy_rate": 0.0, "return_rate": 0.0, "discount_share": 0.0},
        {"tastes": 1, "factors": 1, "months": 1},
        {"ends_at": datetime(2025, 3, 31, 13, 45, tzinfo=UTC)},
    ],
)
def test_extreme_worlds_are_lawful(extreme: dict[str, object]) -> None:
    extreme_world = simulate(
        WorldConfig.model_validate({"customers": 60, "products": 40, "months": 4, **extreme})
    )
    assert_lawful(extreme_world)


# --- tables -------------------------------------------------------------------------------------------


def test_tables_keep_the_contract(world: World) -> None:
    for name in TABLES:
        table, frame = TABLES[name], getattr(world, name)
        required = {column.name for column in table.columns if column.required}
        assert required <= set(frame.columns)
        assert table.open or set(frame.columns) <= set(table.names)
        for column in table.columns:
            if column.name in frame and column.dtype == "timestamp":
                assert str(frame[column.name].dtype) == "datetime64[us, UTC]"
    assert set(world.interactions[KIND]) <= set(KINDS)
    assert set(world.interactions[CHANNEL]) == set(CHANNELS)
    assert world.interactions[AT].is_monotonic_increasing


def test_ids_and_names_are_unique(world: World) -> None:
    names = world.products[[PRODUCT_ID, NAME]].drop_duplicates()
    assert names[PRODUCT_ID].is_unique and names[NAME].is_unique
    for frame, key in ((world.products, PRODUCT_ID), (world.customers, CUSTOMER_ID)):
        assert not frame.duplicated([key, VALID_FROM]).any()
        assert frame[[key, VALID_FROM]].equals(frame[[key, VALID_FROM]].sort_values([key, VALID_FROM]))


def test_names_stay_unique_when_words_run_out() -> None:
    catalogue = simulate(WorldConfig(customers=1, products=20_000, months=1)).products
    assert catalogue[NAME].nunique() == catalogue[PRODUCT_ID].nunique() == 20_000


def as_of(world: World, rows: pd.DataFrame, at: str = AT) -> pd.DataFrame:
    """Join to each row the version of its product that was valid then."""
    versions = world.products.sort_values(VALID_FROM)
    return pd.merge_asof(
        rows.sort_values(at, kind="stable"), versions, left_on=at, right_on=VALID_FROM, by=PRODUCT_ID
    )


def assert_lawful(world: World) -> None:
    """Nothing before signing up, after leaving, or with a product not on sale; nothing outside history."""
    config = world.truth.config
    rows = world.interactions.merge(
        world.customers[[CUSTOMER_ID, SIGNED_UP_AT]].drop_duplicates(), on=CUSTOMER_ID
    )
    assert len(rows) == len(world.interactions)
    assert (rows[AT] >= rows[SIGNED_UP_AT]).all()
    assert (rows[AT] < rows[CUSTOMER_ID].map(world.truth.alive_until)).all()
    assert rows[AT].between(config.starts_at, config.ends_at, inclusive="left").all()
    rows = as_of(world, rows[rows[KIND] != RETURN])
    assert (rows[LAUNCHED_AT] <= rows[AT]).all()
    assert (rows[WITHDRAWN_AT].isna() | (rows[AT] < rows[WITHDRAWN_AT])).all()
    assert rows[AVAILABLE].all()  # also in a stock-out nothing is looked at or bought


def test_nothing_happens_out_of_time(world: World) -> None:
    assert_lawful(world)


def test_views_precede_carts_and_carts_precede_purchases(world: World) -> None:
    online = world.interactions[world.interactions[CHANNEL] != "store"]
    first = {kind: online[online[KIND] == kind].groupby(PAIR)[AT].min() for kind in (VIEW, CART, PURCHASE)}
    for earlier, later in ((VIEW, CART), (CART, PURCHASE)):
        before = first[earlier].reindex(first[later].index)
        assert before.notna().all()
        assert (before < first[later]).all()
    in_store = world.interactions[world.interactions[CHANNEL] == "store"]
    assert set(in_store[KIND]) <= {PURCHASE, RETURN}
    assert in_store[STORE_ID].notna().all()
    assert online[STORE_ID].isna().all()


def test_orders_share_one_instant_customer_and_channel(world: World) -> None:
    purchases = of_kind(world, PURCHASE)
    orders = purchases.groupby(ORDER_ID)
    assert (orders[[AT, CUSTOMER_ID, CHANNEL]].nunique() == 1).all(axis=None)
    assert not purchases.duplicated([ORDER_ID, PRODUCT_ID]).any()
    assert (orders.size() > 1).mean() > 0.25
    assert world.interactions[ORDER_ID].notna().equals(world.interactions[KIND].isin([PURCHASE, RETURN]))


def test_money_adds_up(world: World) -> None:
    traded = world.interactions[world.interactions[KIND].isin([PURCHASE, RETURN])]
    ordered = of_kind(world, PURCHASE).groupby(ORDER_ID)[AT].first()
    dated = as_of(world, traded.assign(ordered=traded[ORDER_ID].map(ordered)), "ordered")
    expected = dated[PRICE] * dated[QUANTITY] * (1 - dated[DISCOUNT])
    assert np.allclose(dated[VALUE], expected, atol=0.0051)
    assert traded[DISCOUNT].between(0, 1).all()
    assert (traded[QUANTITY] >= 1).all()
    assert (world.interactions.drop(traded.index)[VALUE] == 0).all()


def test_returns_follow_their_purchase(world: World) -> None:
    returns = of_kind(world, RETURN)
    pairs = returns.merge(of_kind(world, PURCHASE), on=[ORDER_ID, *PAIR], suffixes=("", "_bought"))
    assert len(pairs) == len(returns) > 0
    assert (pairs[AT] > pairs[f"{AT}_bought"]).all()
    assert (pairs[QUANTITY] <= pairs[f"{QUANTITY}_bought"]).all()
    assert (pairs[VALUE] <= pairs[f"{VALUE}_bought"]).all()


def test_people_join_and_leave_and_products_come_and_go(world: World) -> None:
    recent = END - timedelta(weeks=6)
    assert (world.truth.customers[SIGNED_UP_AT] > recent).sum() >= 5
    assert (world.truth.products[LAUNCHED_AT] > recent).sum() >= 1
    assert world.truth.products[WITHDRAWN_AT].notna().sum() >= 5
    assert 0.2 < (world.truth.alive_until < END).mean() < 0.8
    buyers = set(of_kind(world, PURCHASE)[CUSTOMER_ID])
    assert 0.02 < 1 - len(buyers) / SMALL.customers < 0.4  # some never bought


# --- statistics ---------------------------------------------------------------------------------------


def test_statistics_lie_in_their_bands(larger: World) -> None:
    """Coarse bands at the demo's size; ``test_world_fit`` holds them against Online Retail at its size."""
    purchases = of_kind(larger, PURCHASE)
    assert 0.60 < gini(purchases.groupby(PRODUCT_ID).size().to_numpy()) < 0.80
    assert 0.30 < purchases.duplicated(PAIR).mean() < 0.50
    orders = purchases.groupby(CUSTOMER_ID)[ORDER_ID].nunique()
    assert orders.quantile(0.99) > 6 * orders.median()  # few order much
    assert 80 < len(larger.interactions) / larger.truth.config.customers < 220
    share = larger.interactions[KIND].value_counts(normalize=True)
    assert share[VIEW] > share[CART] > share[PURCHASE] > share[RETURN] > 0.003


# --- truth --------------------------------------------------------------------------------------------


def test_truth_is_written_apart_and_readable_again(world: World, tmp_path: Path) -> None:
    world.write(tmp_path / "tables", truth_dir=tmp_path / "truth")
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {f"{name}.parquet" for name in TABLES}
    assert {path.suffix for path in (tmp_path / "truth").iterdir()} == {".parquet", ".npy", ".json"}
    for name in TABLES:
        again = pd.read_parquet(tmp_path / "tables" / f"{name}.parquet")
        pd.testing.assert_frame_equal(again, getattr(world, name))
    truth = Truth.read(tmp_path / "truth")
    customers = world.truth.customers[CUSTOMER_ID].head(9)
    for repeats in (False, True):
        assert np.array_equal(
            truth.affinity(customers, at=SMALL.ends_at, repeats=repeats),
            world.truth.affinity(customers, at=SMALL.ends_at, repeats=repeats),
        )
    assert truth.alive_until.equals(world.truth.alive_until)
    assert truth.signed_up_at.equals(world.truth.signed_up_at)


def test_tables_do_not_tell_the_truth(world: World) -> None:
    hidden = set(world.truth.customers) - set(world.customers) | set(world.truth.products) - set(
        world.products
    )
    assert {
        "alive_until",
        "visits_per_day",
        "appeal",
        "replenish_days",
        "price_sensitivity",
        "wealth",
    } <= hidden


def test_affinity_is_zero_exactly_where_a_product_is_not_on_sale(world: World) -> None:
    at = END - timedelta(days=200)
    customers = list(world.truth.customers[CUSTOMER_ID].head(20)) * 2  # the same customer may be asked twice
    for repeats in (False, True):
        intensity = world.truth.affinity(customers, at=at, repeats=repeats)
        assert intensity.shape == (40, SMALL.products)
        # single precision inside: the place in the block decides the last digits
        assert np.allclose(intensity[:20], intensity[20:], rtol=1e-4, atol=0)
        products = world.products[world.products[VALID_FROM] <= at].drop_duplicates(PRODUCT_ID, keep="last")
        products = products.set_index(PRODUCT_ID).reindex(world.truth.products[PRODUCT_ID])
        sold = (products[LAUNCHED_AT] <= at) & products[AVAILABLE].eq(True)
        sold &= products[WITHDRAWN_AT].isna() | (at < products[WITHDRAWN_AT])
        assert ((intensity > 0) == sold.to_numpy()).all()
    chosen = ["p0007", "p0003"]
    some = world.truth.affinity(customers, at=at, product_ids=chosen, repeats=True)
    assert np.allclose(some, intensity[:, [7, 3]], rtol=1e-4, atol=0)


def test_affinity_refuses_strangers_and_naive_times(world: World) -> None:
    with pytest.raises(DataError, match="'nobody'"):
        world.truth.affinity(["c000001", "nobody"], at=SMALL.ends_at)
    with pytest.raises(DataError, match="timezone"):
        world.truth.affinity(["c000001"], at=datetime(2026, 6, 1))  # noqa: DTZ001


def test_top_ranks_by_affinity_and_leaves_out_what_it_is_told(world: World) -> None:
    customers = ["c000005", "c000002", "c000005"]
    intensity = world.truth.affinity(customers, at=SMALL.ends_at)
    ids = world.truth.products[PRODUCT_ID].to_numpy()
    top = world.truth.top(customers, n=5, at=SMALL.ends_at)
    assert top.tolist() == ids[np.argsort(-intensity, axis=1)[:, :5]].tolist()
    barred = pd.DataFrame({CUSTOMER_ID: ["c000005", "c000399"], PRODUCT_ID: [top[0, 0], top[1, 0]]})
    fewer = world.truth.top(customers, n=4, at=SMALL.ends_at, exclude=barred)
    assert fewer.tolist() == [top[0, 1:].tolist(), top[1, :4].tolist(), top[2, 1:].tolist()]
    everything = world.truth.top(["c000005"], n=200, at=SMALL.ends_at)[0]
    assert everything.shape == (200,)
    assert (everything != None).sum() == (intensity[0] > 0).sum()  # noqa: E711


def test_affinity_is_the_rate_at_which_purchases_happen() -> None:
    """Where nobody leaves and nothing repeats, purchases are Poisson with the rate the truth tells."""
    config = WorldConfig(
        customers=800,
        products=60,
        months=2,
        visits_per_month=3.0,
        founder_share=1.0,
        lifetime_days=1e9,
        year_swing=0.0,
        weekdays=(1.0,) * 7,
        rebuy_rate=0.0,
        again_rate=1.0,
        campaigns=0,
    )
    world = simulate(config)
    customers, products = world.truth.customers[CUSTOMER_ID], world.truth.products[PRODUCT_ID]
    steps = 62  # a day each: the shelf changes at midnight
    step = (config.ends_at - config.starts_at) / steps
    expected = np.zeros((len(customers), len(products)))
    for index in range(steps):
        per_day = world.truth.affinity(customers, at=config.starts_at + (index + 0.5) * step)
        expected += per_day * (step / timedelta(days=1))
    purchases = of_kind(world, PURCHASE)
    bought = pd.crosstab(purchases[CUSTOMER_ID], purchases[PRODUCT_ID])
    observed = bought.reindex(index=customers, columns=products, fill_value=0).to_numpy()
    assert observed.sum() > 8000
    orders = purchases.groupby(ORDER_ID).size()  # purchases of a visit come together
    assert abs(observed.sum() - expected.sum()) < 4 * np.sqrt((orders**2).sum())
    by_product = (observed.sum(axis=0) - expected.sum(axis=0)) / np.sqrt(expected.sum(axis=0) + 1)
    assert np.abs(by_product).max() < 5
    # the likeliest tenth of all pairs holds as many purchases as the truth says
    likely = expected >= np.quantile(expected, 0.9)
    assert observed[likely].sum() == pytest.approx(expected[likely].sum(), rel=0.06)


def test_replenishment_is_due_when_the_truth_says(larger: World) -> None:
    """Among owned consumables, those with higher intensity are bought again sooner."""
    cut = END - timedelta(days=28)
    purchases = of_kind(larger, PURCHASE)
    before = purchases[purchases[AT] < cut].drop_duplicates(PAIR)
    after = purchases[purchases[AT] >= cut]
    customers = larger.truth.customers[CUSTOMER_ID]
    customers = customers[customers.map(larger.truth.alive_until).to_numpy() > END]
    gain = pd.DataFrame(
        larger.truth.affinity(customers, at=cut, repeats=True) / larger.truth.config.again_rate
        - larger.truth.affinity(customers, at=cut),
        index=customers,
        columns=larger.truth.products[PRODUCT_ID],
    )
    owned = before[before[CUSTOMER_ID].isin(customers)]
    rise = gain.to_numpy()[
        gain.index.get_indexer(owned[CUSTOMER_ID]), gain.columns.get_indexer(owned[PRODUCT_ID])
    ]
    again = pd.MultiIndex.from_frame(owned[PAIR]).isin(pd.MultiIndex.from_frame(after[PAIR]))
    due = rise > np.quantile(rise, 0.95)
    assert again[due].mean() > 4 * again[~due].mean()


def test_oracle_beats_popularity_on_held_out_purchases(larger: World) -> None:
    """Recall@20 of first purchases in the last four weeks: what is there to be learnt."""
    cut = END - timedelta(days=28)
    purchases = of_kind(larger, PURCHASE)
    before, after = purchases[purchases[AT] < cut], purchases[purchases[AT] >= cut]
    seen = before[PAIR].drop_duplicates()
    held_out = after[PAIR].drop_duplicates().merge(seen, how="left", indicator=True)
    held_out = held_out[held_out["_merge"] == "left_only"]
    customers = held_out[CUSTOMER_ID].unique()
    assert len(customers) > 100

    popular = before[PRODUCT_ID].value_counts().index.to_numpy()
    sold = larger.truth.affinity(customers[:1], at=cut, product_ids=popular)[0] > 0
    popular = popular[sold]
    bought = seen.groupby(CUSTOMER_ID)[PRODUCT_ID].agg(set)
    oracle = larger.truth.top(customers, n=20, at=cut, exclude=seen)
    oracle_hits, popular_hits = [], []
    for customer, ranked in zip(customers, oracle, strict=True):
        wanted = set(held_out[PRODUCT_ID][held_out[CUSTOMER_ID] == customer])
        known = bought.get(customer, set())
        best = [product for product in popular if product not in known][:20]
        oracle_hits.append(len(wanted & set(ranked)) / len(wanted))
        popular_hits.append(len(wanted & set(best)) / len(wanted))
    assert np.mean(oracle_hits) > 1.8 * np.mean(popular_hits)
    assert np.mean(popular_hits) > 0.08  # popularity is worth something, too
    assert np.mean(oracle_hits) < 0.85  # and chance leaves much unknown
