"""A simulated shop: customers with hidden tastes who come, look, buy, buy again and leave.

It is the data of the demo and the ground on which models and reports are judged, because here, unlike in
any real data set, the right answers are known (``eval.world_truth``). One source of chance makes it: the
same configuration gives the same world byte for byte. Time and memory grow in proportion to
customers × months × products.

Deliberately absent: campaigns, ties and measures; any effect of discounts on demand; and changes of price,
consent or attributes (they are constant, so ``valid_from`` is when the row came to be).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from eval.world_cast import AGE_BAND, BRAND, CHANNELS, ECO, REGION, make_people, make_stock
from eval.world_config import WorldConfig
from eval.world_history import make_history
from eval.world_truth import (
    ALIVE_UNTIL,
    APPEAL,
    PEAK_DAY,
    REPLENISH_DAYS,
    SEASON,
    VISITS_PER_DAY,
    Truth,
)
from feature_repo.schema import (
    AT,
    AVAILABLE,
    CUSTOMER_ID,
    CUSTOMER_IDX,
    CUSTOMERS,
    INTERACTIONS,
    LAUNCHED_AT,
    PRICE,
    PRODUCT_ID,
    PRODUCT_IDX,
    PRODUCTS,
    SIGNED_UP_AT,
    WITHDRAWN_AT,
)

__all__ = ["AGE_BAND", "BRAND", "CHANNELS", "ECO", "REGION", "Truth", "World", "WorldConfig", "simulate"]


@dataclass(frozen=True, eq=False)
class World:
    """A simulated shop: the tables anyone may see and, kept apart, the truth behind them.

    Attributes
    ----------
    interactions
        Views, carts, purchases and returns in order of time. ``value`` is money paid for the line,
        ``price · quantity · (1 - discount)``; of a return it is the money given back, positive as well; of
        views and carts 0. ``discount`` is a share of the list price (0..1). Lines of one order share
        ``order_id`` and ``at``; a return carries the order it comes from. ``store_id`` is given in stores.
    products
        With ``price`` and ``margin`` (money a unit sold at list price) and the attributes ``brand``, ``eco``.
    customers
        With the attributes ``region``, ``age_band``, ``consent_email``, ``consent_sms``.
    truth
        Hidden tastes, true intensities, who is still there.
    """

    interactions: pd.DataFrame
    products: pd.DataFrame
    customers: pd.DataFrame
    truth: Truth

    def write(self, directory: Path, *, truth_dir: Path) -> None:
        """Write the three tables as Parquet into ``directory`` and the truth into ``truth_dir``."""
        directory.mkdir(parents=True, exist_ok=True)
        for name in (INTERACTIONS, PRODUCTS, CUSTOMERS):
            getattr(self, name).to_parquet(directory / f"{name}.parquet", index=False)
        self.truth.write(truth_dir)


def simulate(config: WorldConfig) -> World:
    """Make a world.

    Parameters
    ----------
    config
        Its parameters; ``config.seed`` decides everything that is left to chance.

    Returns
    -------
    World
        Tables and truth. Nothing happens before a customer signed up, after they left, or with a product
        that is not on sale at that instant.
    """
    rng = np.random.default_rng(config.seed)
    stock = make_stock(config, rng=rng)
    people = make_people(config, centres=stock.centres, rng=rng)
    hidden_of_products = [APPEAL, SEASON, PEAK_DAY, REPLENISH_DAYS]
    hidden_of_customers = [ALIVE_UNTIL, VISITS_PER_DAY]
    truth = Truth(
        config=config,
        customers=people.table[[CUSTOMER_ID, SIGNED_UP_AT, *hidden_of_customers]],
        products=stock.table[[PRODUCT_ID, LAUNCHED_AT, WITHDRAWN_AT, AVAILABLE, *hidden_of_products]],
        tastes=people.tastes,
        taste_weights=people.taste_weights,
        product_factors=stock.factors,
        owned=pd.DataFrame({CUSTOMER_IDX: [], PRODUCT_IDX: [], AT: []}),
    )
    history = make_history(truth, people=people, prices=stock.table[PRICE].to_numpy(), rng=rng)
    return World(
        interactions=history.interactions,
        products=stock.table.drop(columns=hidden_of_products),
        customers=people.table.drop(columns=hidden_of_customers),
        truth=replace(truth, owned=history.owned),
    )
