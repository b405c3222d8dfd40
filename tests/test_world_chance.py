"""True chances are those of the world: what they add up to happens, and renewals are those of a simulation."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from eval.placement import auc
from eval.world import World, WorldConfig, simulate
from eval.world_chance import Alive, chances, last_seen, renewal_chance
from eval.world_time import to_instant
from feature_repo import schema as s
from feature_repo.errors import DataError

DAYS = 28
AT = WorldConfig().ends_at - timedelta(days=DAYS)


class Asked:
    """The pairs of a world, their true chances, and which of them are bought."""

    def __init__(self, world: World, alive: Alive) -> None:
        truth, rows = world.truth, world.interactions
        self.customers = truth.customers[truth.customers[s.SIGNED_UP_AT] < AT]
        on_sale = truth.on_sale(np.arange(len(truth.products)), at=np.array([to_instant(AT)]))
        customers = self.customers[s.CUSTOMER_ID].tolist()
        products = truth.products.loc[on_sale, s.PRODUCT_ID].tolist()
        self.chances = chances(
            truth, customers, products, at=AT, days=DAYS, seen=last_seen(rows, at=AT), alive=alive
        )
        bought = rows[rows[s.KIND] == s.PURCHASE]
        self.bought = self._pairs(bought[bought[s.AT] >= AT], customers, products)
        self.owned = self._pairs(bought[bought[s.AT] < AT], customers, products)

    @staticmethod
    def _pairs(frame: pd.DataFrame, customers: list[str], products: list[str]) -> np.ndarray:
        row = pd.Index(customers).get_indexer(pd.Index(frame[s.CUSTOMER_ID]))
        column = pd.Index(products).get_indexer(pd.Index(frame[s.PRODUCT_ID]))
        inside = (row >= 0) & (column >= 0)
        found = np.zeros((len(customers), len(products)), dtype=bool)
        found[row[inside], column[inside]] = True
        return found


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    return [simulate(WorldConfig(customers=1500, products=200, seed=seed)) for seed in (41, 42, 43)]


@pytest.mark.parametrize("alive", ["known", "inferred"])
def test_what_chances_add_up_to_happens(worlds: list[World], alive: Alive) -> None:
    asked = [Asked(world, alive) for world in worlds]
    chance, bought, owned = (
        np.concatenate([getattr(one, name).ravel() for one in asked])
        for name in ("chances", "bought", "owned")
    )
    assert ((chance >= 0) & (chance <= 1)).all()
    # about 2,500 purchases in 700 visits of some products each: a sum is known to about 5 %; three times that
    everything = [np.ones_like(owned), owned, ~owned, chance > 0.05, (chance > 0.005) & (chance < 0.05)]
    for part in everything:
        assert bought[part].sum() > 300
        assert chance[part].sum() == pytest.approx(bought[part].sum(), rel=0.15)


def test_knowing_who_leaves_tells_more(worlds: list[World]) -> None:
    for world in worlds:
        known, inferred = (Asked(world, alive) for alive in ("known", "inferred"))
        left = (known.customers["alive_until"] <= AT).to_numpy()
        assert not known.chances[left].any() and inferred.chances[left].any()
        areas = [auc(one.chances.ravel(), one.bought.ravel()) for one in (known, inferred)]
        assert areas[0] > areas[1] > 0.9
        # most of those who are still there are taken to be
        odds = inferred.chances.sum(axis=1) / np.maximum(known.chances.sum(axis=1), 1e-12)
        assert np.median(odds[~left]) > 0.8


def test_nothing_is_bought_that_is_not_on_sale_in_the_window(worlds: list[World]) -> None:
    truth = worlds[0].truth
    gone = truth.products[truth.products[s.WITHDRAWN_AT] < AT][s.PRODUCT_ID].tolist()
    someone = truth.customers[s.CUSTOMER_ID].tolist()[:5]
    assert gone
    nobody: pd.Series = pd.Series(dtype="datetime64[us, UTC]")
    found = chances(truth, someone, gone, at=AT, days=DAYS, seen=nobody, alive="inferred")
    assert not found.any()
    with pytest.raises(DataError, match="at least one day"):
        chances(truth, someone, gone, at=AT, days=0, seen=nobody, alive="known")
    with pytest.raises(DataError, match="expected ids of this world"):
        chances(truth, ["nobody"], gone, at=AT, days=1, seen=nobody, alive="known")


def test_renewals_are_those_of_a_simulation() -> None:
    """One product bought at day 0; visits come by chance; those runs count in which nothing is seen lately."""
    config, rng, runs = WorldConfig(), np.random.default_rng(0), 400_000
    for rate, age, silent in (
        (0.05, 60.0, 20.0),
        (0.01, 70.0, 60.0),
        (0.02, 100.0, 10.0),
        (0.03, 30.0, 30.0),
    ):
        period = 60.0
        scale = period / 0.9064024771  # Γ(1 + 1/4)
        due = np.where(
            rng.random(runs) < config.rebuy_rate, scale * rng.weibull(config.rebuy_shape, runs), np.inf
        )
        # visits: the last one at age − silent (none since), the next ones after it; before it as they come
        last = age - silent
        upcoming = age + rng.exponential(1 / rate, runs)
        earlier = due < last
        between = due + rng.exponential(1 / rate, runs)
        first = np.where(earlier, np.minimum(between, last), upcoming)
        first = np.where(np.isfinite(due) & (due > upcoming), due + rng.exponential(1 / rate, runs), first)
        joins = np.isfinite(due) & (first - due <= config.rebuy_patience_days)
        at = np.where(joins, first, np.where(rng.random(runs) < config.rebuy_trip_rate, due, np.inf))
        still = ~(at <= age)
        expected = ((at > age) & (at <= age + DAYS) & still).sum() / still.sum()
        found = renewal_chance(
            config,
            np.array([period]),
            age=np.array([age]),
            silent=np.array([silent]),
            rate=np.array([rate]),
            traffic=1.0,
            days=np.array([float(DAYS)]),
        )[0]
        # the formula counts what was forgotten before the last visit as if no other visit had been looked at
        assert found == pytest.approx(expected, abs=0.01)
