"""The shelf and the shown lists of the simulated world: versions, stock-outs, prices, position bias, streams."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, spearmanr

from eval.world import World, WorldConfig, simulate
from eval.world_exposure import CLICKED, EXAMINED, EXPOSURES, POSITION, RELEVANCE
from eval.world_truth import PRICE_SENSITIVITY
from feature_repo.schema import (
    AT,
    AVAILABLE,
    CART,
    CHANNEL,
    CUSTOMER_ID,
    DISCOUNT,
    KIND,
    LAUNCHED_AT,
    MARGIN,
    NAME,
    PRICE,
    PRODUCT_ID,
    PURCHASE,
    REQUEST_ID,
    RETURN,
    STORE_ID,
    VALID_FROM,
    VIEW,
    WITHDRAWN_AT,
)
from feature_repo.validate import validate

CONFIG = WorldConfig(
    customers=2500, products=150, months=8, seed=33, stockouts_per_year=2.0, listed_share=0.6
)


@pytest.fixture(scope="module")
def world() -> World:
    return simulate(CONFIG)


# --- the shelf ----------------------------------------------------------------------------------------


def test_versions_tell_prices_and_stock(world: World) -> None:
    products = world.products
    by_product = products.groupby(PRODUCT_ID)
    assert (by_product[VALID_FROM].min() == by_product[LAUNCHED_AT].first()).all()
    assert (products[VALID_FROM] < CONFIG.ends_at).all()
    assert (products[WITHDRAWN_AT].isna() | (products[VALID_FROM] < products[WITHDRAWN_AT])).all()
    assert (products[PRICE] > 0).all()
    assert (by_product[PRICE].nunique() > 1).mean() > 0.4
    assert (by_product[AVAILABLE].nunique() > 1).mean() > 0.4
    later = by_product.shift()
    same = (later[AVAILABLE] == products[AVAILABLE]) & (later[PRICE] == products[PRICE])
    assert not same.any()
    cost = (products[PRICE] - products[MARGIN]).groupby(products[PRODUCT_ID])
    assert (cost.max() - cost.min()).max() < 0.011  # what a product costs the shop stays
    marks = products[NAME].str.extract(r"\((.*)\)$")[0].dropna().unique()
    assert set(marks) == {"for new customers", "loyalty"}


def test_nothing_is_bought_while_out_of_stock(world: World) -> None:
    """Purchases a day are none in stock-outs, while their lengths would have held many."""
    versions = world.products.copy()
    versions["ends"] = versions.groupby(PRODUCT_ID)[VALID_FROM].shift(-1)
    out = versions[~versions[AVAILABLE] & versions["ends"].notna()]
    assert len(out) > 50
    purchases = world.interactions[world.interactions[KIND] == PURCHASE]
    joined = purchases[[PRODUCT_ID, AT]].merge(out[[PRODUCT_ID, VALID_FROM, "ends"]], on=PRODUCT_ID)
    assert not ((joined[VALID_FROM] <= joined[AT]) & (joined[AT] < joined["ends"])).any()
    share = (out["ends"] - out[VALID_FROM]).sum() / (pd.Timedelta(days=240) * CONFIG.products)
    assert share * len(purchases) > 300


def test_price_sensitive_customers_react_to_coupons(world: World) -> None:
    """Coupons fall by lot on visits: the odds of carting rise with them, most for the sensitive."""
    online = world.interactions[world.interactions[CHANNEL] != "store"]
    rows = online[online[KIND].isin([VIEW, CART])]
    sensitivity = rows[CUSTOMER_ID].map(world.truth.customers.set_index(CUSTOMER_ID)[PRICE_SENSITIVITY])
    keen = sensitivity > sensitivity.quantile(0.7)
    cheap = rows[DISCOUNT] > 0.15

    def log_odds(chosen: pd.Series) -> float:
        carts = (rows[KIND][chosen] == CART).sum()
        return float(np.log(carts / ((rows[KIND][chosen] == VIEW).sum() - carts)))

    lift = {
        name: log_odds(of & cheap) - log_odds(of & ~cheap) for name, of in (("keen", keen), ("cool", ~keen))
    }
    assert lift["keen"] > 0.5
    assert lift["keen"] > 2 * abs(lift["cool"])


def test_price_cuts_raise_the_true_odds(world: World) -> None:
    truth = world.truth
    match = np.ones(3)
    plain, cut = truth.cart_rate(match), truth.cart_rate(match, pull=np.array([0.0, 0.2, 0.4]) * 3.0)
    assert plain[0] == cut[0] < cut[1] < cut[2]
    mean = truth.mean_cart_rate(match, sensitivity=np.array([0.0, 2.0, 4.0]), cut=np.full(3, 0.1))
    assert mean[0] == pytest.approx(plain[0]) and mean[0] < mean[1] < mean[2]


def test_customers_have_a_nearest_store(world: World) -> None:
    there = world.interactions[world.interactions[CHANNEL] == "store"]
    visits = there.groupby([CUSTOMER_ID, AT])[STORE_ID].first().reset_index()
    shares = visits.groupby(CUSTOMER_ID)[STORE_ID].agg(
        lambda stores: stores.value_counts(normalize=True).iloc[0]
    )
    many = visits[CUSTOMER_ID].value_counts()
    assert visits[STORE_ID].nunique() == 6 * CONFIG.stores_per_region
    assert 0.75 < shares[many[many > 4].index].mean() < 1.0


# --- lists shown --------------------------------------------------------------------------------------


def test_lists_are_whole_and_lead_to_looks(world: World) -> None:
    shown = world.exposures
    assert not shown.duplicated([REQUEST_ID, PRODUCT_ID]).any()
    assert not shown.duplicated([REQUEST_ID, POSITION]).any()
    positions = shown.groupby(REQUEST_ID)[POSITION]
    assert (positions.max() == positions.size()).all() and positions.min().eq(1).all()
    assert shown[POSITION].max() <= CONFIG.list_length
    looked = world.interactions[world.interactions[REQUEST_ID].notna()]
    assert set(looked[KIND]) == {VIEW, CART, PURCHASE}
    views = looked[looked[KIND] == VIEW][[REQUEST_ID, PRODUCT_ID, CUSTOMER_ID]]
    clicked = shown[shown[CLICKED]]
    keys = [REQUEST_ID, PRODUCT_ID, CUSTOMER_ID]
    assert set(map(tuple, views[keys].to_numpy())) == set(map(tuple, clicked[keys].to_numpy()))


def test_clicks_follow_position_and_relevance(world: World) -> None:
    """Examined with the chance of the position; then clicked with the chance of the relevance."""
    shown, truth = world.exposures, world.truth.relevance
    assert shown[[REQUEST_ID, PRODUCT_ID]].equals(truth[[REQUEST_ID, PRODUCT_ID]])
    for position, rows in truth.groupby(shown[POSITION]):
        chance = float(world.truth.examination[position - 1])
        assert binomtest(int(rows[EXAMINED].sum()), len(rows), chance).pvalue > 1e-4
    assert not (shown[CLICKED] & ~truth[EXAMINED]).any()
    seen = truth[truth[EXAMINED]]
    expected = seen[RELEVANCE].sum()
    deviation = np.sqrt((seen[RELEVANCE] * (1 - seen[RELEVANCE])).sum())
    assert abs(shown[CLICKED].sum() - expected) < 4 * deviation + 0.02 * expected


def test_inverse_propensity_recovers_relevance(world: World) -> None:
    """Clicks over examination order products as their true relevance does; plain click rates do worse."""
    shown = world.exposures.assign(
        weighted=world.exposures[CLICKED] / world.truth.examination[world.exposures[POSITION] - 1],
        relevance=world.truth.relevance[RELEVANCE],
        true_rank=world.exposures[POSITION],
    )
    by_product = shown.groupby(PRODUCT_ID)
    enough = by_product.size() > 100
    mean = by_product[[CLICKED, "weighted", "relevance"]].mean()[enough]
    assert len(mean) > 60
    assert spearmanr(mean["weighted"], mean["relevance"])[0] > 0.8
    assert abs(mean["weighted"].mean() / mean["relevance"].mean() - 1) < 0.1
    assert mean[CLICKED].mean() < 0.8 * mean["relevance"].mean()


# --- streams, files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [{"ties_per_customer": 5.0}, {"balance_rise": 2.0}, {"list_length": 3}, {"consent_changes": 0.5}],
)
def test_other_tables_leave_the_interactions_alone(change: dict[str, float]) -> None:
    config = WorldConfig(customers=200, products=60, months=5, seed=3, campaigns=0)
    one, two = simulate(config), simulate(config.model_copy(update=change))
    kept = [column for column in one.interactions if column != REQUEST_ID]
    pd.testing.assert_frame_equal(one.interactions[kept], two.interactions[kept])
    pd.testing.assert_frame_equal(one.products, two.products)


def test_campaigns_add_and_take_away_and_change_no_more() -> None:
    config = WorldConfig(customers=1500, products=80, months=6, seed=3)
    without, run = simulate(config.model_copy(update={"campaigns": 0})), simulate(config)
    keys = [CUSTOMER_ID, PRODUCT_ID, AT, KIND]
    both = without.interactions[keys].merge(run.interactions[keys], how="outer", indicator=True)
    changed = both["_merge"].value_counts()
    assert 0 < changed["right_only"] < 0.1 * changed["both"]
    assert set(both.loc[both["_merge"] == "left_only", KIND]) <= {PURCHASE, RETURN}
    assert changed["left_only"] < 0.01 * changed["both"]


def test_tables_pass_validation(world: World, tmp_path: Path) -> None:
    world.write(tmp_path / "tables", truth_dir=tmp_path / "truth")
    checked = validate(tmp_path / "tables", now=CONFIG.ends_at)
    assert not checked.failed
    warned = [(finding.table, finding.check) for finding in checked.findings if finding.status == "WARN"]
    assert set(warned) <= {("interactions", "returns")}
    exposures = pd.read_parquet(tmp_path / "truth" / f"{EXPOSURES}.parquet")
    pd.testing.assert_frame_equal(exposures, world.exposures)
