"""A simulated shop: customers with hidden tastes who come, look, buy, buy again and leave.

It is the data of the demo and the ground on which models and reports are judged, because here, unlike in
any real data set, the right answers are known (``eval.world_truth``). The same configuration gives the same
world byte for byte; each part draws from a stream of chance of its own. Time and memory grow in proportion
to visits × products.

Deliberately absent: changes of customers' attributes other than consent, and any effect of running out of
stock, of shown lists or of friends on demand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from eval.world_cast import AGE_BAND, BRAND, CHANNELS, ECO, REGION, People, Stock, make_people, make_stock
from eval.world_config import WorldConfig
from eval.world_consent import make_consent, make_customers
from eval.world_contacts import EFFECT_COLUMNS
from eval.world_exposure import EXPOSURES
from eval.world_exposure import write_down as write_exposures
from eval.world_history import browse, buy_again
from eval.world_ledger import keep_time, owned, write_down
from eval.world_measures import make_measures
from eval.world_outcomes import run_campaigns
from eval.world_shelf import make_versions
from eval.world_ties import make_ties
from eval.world_truth import (
    ALIVE_UNTIL,
    APPEAL,
    LOOKS_PER_VISIT,
    PEAK_DAY,
    PRICE_SENSITIVITY,
    REPLENISH_DAYS,
    SEASON,
    VISITS_PER_DAY,
    WEALTH,
    Truth,
)
from eval.world_visits import make_visits
from feature_repo.schema import (
    AT,
    AVAILABLE,
    CAMPAIGNS,
    CATEGORY,
    CONTACTS,
    CUSTOMER_ID,
    CUSTOMER_IDX,
    CUSTOMERS,
    INTERACTIONS,
    LAUNCHED_AT,
    MARGIN,
    MEASURES,
    PRICE,
    PRODUCT_ID,
    PRODUCT_IDX,
    PRODUCTS,
    SIGNED_UP_AT,
    TABLES,
    TIES,
    VALID_FROM,
    WITHDRAWN_AT,
)

__all__ = ["AGE_BAND", "BRAND", "CHANNELS", "ECO", "REGION", "Truth", "World", "WorldConfig", "simulate"]

_HIDDEN_OF_PRODUCTS = [APPEAL, SEASON, PEAK_DAY, REPLENISH_DAYS]
_HIDDEN_OF_CUSTOMERS = [ALIVE_UNTIL, VISITS_PER_DAY, LOOKS_PER_VISIT, PRICE_SENSITIVITY, WEALTH]


@dataclass(frozen=True, eq=False)
class World:
    """A simulated shop: the tables anyone may see and, kept apart, the truth behind them.

    Attributes
    ----------
    interactions
        Views, carts, purchases and returns in order of time. ``value`` is money paid for the line,
        ``price · quantity · (1 - discount)``; of a return it is the money given back, positive as well; of
        views and carts 0. ``discount`` is a share of the day's price (0..1), of views and carts the one that
        was shown. Lines of one order share ``order_id`` and ``at``; a return carries the order it comes from.
        ``store_id`` is given in stores, ``request_id`` where a shown list led to the look.
    products
        Versions, in order of product and ``valid_from``: ``price``, ``margin`` (money a unit sold at that
        price) and ``available`` change. With the attributes ``brand``, ``eco``.
    customers
        Versions, in order of customer and ``valid_from``: ``consent_<channel>`` changes. With the attributes
        ``region``, ``age_band``.
    measures
        Balance, income and app visits.
    campaigns, contacts
        See ``eval.world_contacts``. Those contacted get a message or an offer with equal chance.
    ties
        Acquaintances, in both directions.
    exposures
        The log of shown lists (``request_id``, ``customer_id``, ``at``, ``product_id``, ``position`` from 1,
        ``clicked``). The input contract has no such table: it is written beside the truth.
    truth
        Hidden tastes, true intensities and effects, who is still there.
    """

    interactions: pd.DataFrame
    products: pd.DataFrame
    customers: pd.DataFrame
    measures: pd.DataFrame
    campaigns: pd.DataFrame
    contacts: pd.DataFrame
    ties: pd.DataFrame
    exposures: pd.DataFrame
    truth: Truth

    def write(self, directory: Path, *, truth_dir: Path) -> None:
        """Write the tables as Parquet into ``directory``, the truth and the exposures into ``truth_dir``.

        An optional table without rows (campaigns of a shop that has none) is not written.
        """
        directory.mkdir(parents=True, exist_ok=True)
        for name in TABLES_WRITTEN:
            frame, path = getattr(self, name), directory / f"{name}.parquet"
            if len(frame) or TABLES[name].required:
                _typed(frame).to_parquet(path, index=False)
            else:
                path.unlink(missing_ok=True)
        self.truth.write(truth_dir)
        _typed(self.exposures).to_parquet(truth_dir / f"{EXPOSURES}.parquet", index=False)


TABLES_WRITTEN = (INTERACTIONS, PRODUCTS, CUSTOMERS, MEASURES, CAMPAIGNS, CONTACTS, TIES)


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
        that is not on sale at that instant; but a return may come after its product was withdrawn.
    """
    # the matrices are too small for two threads to help, and one thread makes the same numbers everywhere
    with threadpool_limits(limits=1, user_api="blas"):
        return _simulate(config)


def _simulate(config: WorldConfig) -> World:
    stock = make_stock(config)
    people = make_people(config, centres=stock.centres)
    truth = _before_history(config, stock, people)

    visits = make_visits(truth, people)
    looks, shown = browse(truth, visits)
    wanted = np.unique(looks.visit * config.products + looks.product)
    visits, lines = buy_again(truth, visits, looks, people)
    ledger = keep_time(truth, visits, lines, rng=config.chance("ledger"))
    del looks, lines
    truth = replace(truth, owned=owned(ledger, visits))

    run = run_campaigns(truth, people, visits, ledger, make_consent(people, config))
    del visits, ledger
    truth = replace(truth, owned=owned(run.ledger, run.visits), effects=run.effects, agents=run.agents)
    key = shown.visit * config.products + shown.product
    clicked = np.unique(key[shown.examined & np.isin(key, wanted)])
    measures = make_measures(truth, people, run.visits, run.ledger)
    written = write_down(truth, people, run.visits, run.ledger, clicked=clicked)
    viewed = np.intersect1d(written.viewed, wanted, assume_unique=True)
    exposures, relevance = write_exposures(shown, run.visits, truth, viewed=viewed)
    public = [name for name in people.table.columns if name not in _HIDDEN_OF_CUSTOMERS]
    return World(
        interactions=written.interactions,
        products=_versions(stock, truth),
        customers=make_customers(people, run.consent, public=public),
        measures=measures,
        campaigns=run.campaigns,
        contacts=run.contacts,
        ties=make_ties(people, config),
        exposures=exposures,
        truth=replace(truth, relevance=relevance),
    )


def _before_history(config: WorldConfig, stock: Stock, people: People) -> Truth:
    """Return the truth of a world in which nothing has happened yet."""
    known = [PRODUCT_ID, CATEGORY, PRICE, LAUNCHED_AT, WITHDRAWN_AT]
    return Truth(
        config=config,
        customers=people.table[[CUSTOMER_ID, SIGNED_UP_AT, *_HIDDEN_OF_CUSTOMERS]],
        products=stock.table[[*known, *_HIDDEN_OF_PRODUCTS]],
        versions=make_versions(stock.table, config),
        tastes=people.tastes,
        taste_weights=people.taste_weights,
        product_factors=stock.factors,
        owned=pd.DataFrame({CUSTOMER_IDX: [], PRODUCT_IDX: [], AT: []}),
        effects=pd.DataFrame({name: [] for name in EFFECT_COLUMNS}),
        agents=pd.DataFrame(),
        relevance=pd.DataFrame(),
    )


def _versions(stock: Stock, truth: Truth) -> pd.DataFrame:
    """Return the ``products`` table: what is known of each product from each instant on."""
    rows = truth.versions[PRODUCT_IDX].to_numpy()
    table = stock.table.drop(columns=_HIDDEN_OF_PRODUCTS).iloc[rows].reset_index(drop=True)
    for name in (AVAILABLE, PRICE, MARGIN):
        table[name] = truth.versions[name]
    table.insert(list(table.columns).index(WITHDRAWN_AT) + 1, VALID_FROM, truth.versions[VALID_FROM])
    return table


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Give columns of text that are wholly empty a type, which Parquet cannot guess."""
    empty = [name for name in frame if frame[name].dtype == object and frame[name].isna().all()]
    return frame.astype(dict.fromkeys(empty, "string"))
