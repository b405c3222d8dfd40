"""Candidates: pairs of a customer and a product on sale, each bought in the window or not.

Whom a shop can ask about beforehand are the customers known at the origin, whether or not they buy; all pairs of
them, or a stated sample with weights that make every sum unbiased, are what AUC, logloss, calibration and gains are of.
Customers who were not known and bought all the same are judged among their own candidates only: to ask about them
alone would be to know who comes.

Absent on purpose: lists. What is shown, and in which order, ``eval.evaluate`` judges.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eval.evaluate import Window
from feature_repo import names as v
from feature_repo import schema as s
from serving.bundle import Bundle
from serving.catalog import Catalog
from serving.encoders.spec import RepeatsSpec
from serving.recommender import Query, Recommender

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Int32 = NDArray[np.int32]

#: Buyers of a window who are judged at most, and how many of the known customers who do not buy: drawn by chance.
BUYERS: Final = 2000
OTHERS: Final = 500
#: Pairs that are scored at most for one recipe and origin: more products than that allows are drawn, with weights.
CELLS: Final = 8_000_000
_PERSONAL, _SEGMENT = 3.0, 1.0  # where in a customer's order the sources begin; popular shares lie in [0, 1]


def chance_days(bundle: Bundle) -> int | None:
    """Return within how many days ``Recommender.score`` gives the chance of a purchase; None where it gives none.

    A bundle with a ranker gives calibrated chances, all others scores that only put products in order.
    """
    ranker = getattr(bundle.manifest.policy, "ranker", None)
    return None if ranker is None else int(ranker.horizon_days)


@dataclass(frozen=True)
class Candidates:
    """The pairs that recipes of one origin are judged on, as a table of customers × products.

    Parameters
    ----------
    at
        The origin.
    catalog
        Of every recipe fitted there.
    customers, buys, known, row_weight
        Whom (rows,), whether they buy in the window, whether the shop knew them at the origin, and how many customers a
        row stands for.
    columns, column_weight
        Which products on sale (columns,), as catalog indices, and how many products a column stands for.
    bought, owned
        (rows, columns): bought in the window, and bought before it.
    population
        How many known customers and products on sale there are.
    """

    at: datetime
    catalog: Catalog
    customers: list[str]
    buys: Bools
    known: Bools
    row_weight: Floats
    columns: Int32
    column_weight: Floats
    bought: Bools
    owned: Bools
    population: tuple[int, int]

    @classmethod
    def draw(
        cls,
        window: Window,
        catalog: Catalog,
        known: Collection[str],
        *,
        buyers: int = BUYERS,
        others: int = OTHERS,
        cells: int = CELLS,
    ) -> Candidates:
        """Draw at most so many ``buyers`` and known ``others``, and products for so many ``cells``.

        Who and what is drawn depends on the ids alone, so that the same are drawn at every origin.
        """
        everybody = sorted(window.purchases[s.CUSTOMER_ID].unique())
        rest = sorted(set(known) - set(everybody))
        parts = [(first_by_hash(ids, size), len(ids)) for ids, size in ((everybody, buyers), (rest, others))]
        customers = [customer for drawn, _ in parts for customer in drawn]
        row_weight = np.concatenate([np.full(len(drawn), of / max(len(drawn), 1)) for drawn, of in parts])
        on_sale = np.flatnonzero(catalog.on_sale(window.at)).astype(np.int32)
        ids = np.array(catalog.ids, dtype=object)[on_sale]
        sold = np.isin(ids, window.purchases[s.PRODUCT_ID].to_numpy())
        room = max(cells // max(len(customers), 1) - int(sold.sum()), 1)
        lucky = np.isin(ids, first_by_hash(ids[~sold].tolist(), room))
        column_weight = np.where(sold, 1.0, (~sold).sum() / max(lucky.sum(), 1))
        kept = sold | lucky
        columns, ids = on_sale[kept], ids[kept]
        return cls(
            at=window.at,
            catalog=catalog,
            customers=customers,
            buys=np.isin(customers, everybody),
            known=np.isin(customers, list(known)),
            row_weight=row_weight,
            columns=columns,
            column_weight=column_weight[kept],
            bought=_pairs(window.purchases, customers, ids),
            owned=_pairs(window.bought_before, customers, ids),
            population=(len(set(known)), len(on_sale)),
        )

    @property
    def buyers(self) -> list[str]:
        """Who of them bought in the window."""
        return [customer for customer, bought in zip(self.customers, self.buys, strict=True) if bought]

    @property
    def told(self) -> str:
        """How the pairs were chosen, in words."""
        customers, products = self.population
        rows, columns = int(self.known.sum()), len(self.columns)
        exact = rows == customers and columns == products
        how = "all of them" if exact else "a sample, weighted so that every sum is unbiased"
        return (
            f"{rows:,} of {customers:,} known customers × {columns:,} of {products:,} products on sale: {how}"
        )


@dataclass(frozen=True)
class Scored:
    """What a recommender thinks of candidates, twice (rows, columns).

    ``order`` orders the products of one customer as the recommender's sources would, one after the other;
    ``across`` is comparable over customers: the recommender's own score, of a customer of whom it knows nothing the
    mean score of the product, and of a product of which it knows nothing the least score there is. Without own
    scores the two are the same.
    """

    order: Floats
    across: Floats
    chance_days: int | None = None


def score(recommender: Recommender, asked: Candidates) -> Scored:
    """Score every candidate; see ``Scored``."""
    bundle, columns = recommender.bundle, asked.columns
    ids = [asked.catalog.ids[column] for column in columns]
    own = recommender.score(asked.customers, ids, asked.at).astype(np.float64)
    if isinstance(bundle.manifest.policy.encoder, RepeatsSpec):
        own = _purchase_days(bundle, asked.customers, columns)
    share = np.empty(len(bundle.catalog))
    share[bundle.popular] = bundle.popular_scores
    order = np.tile(share[columns], (len(own), 1))
    if "segment" in bundle.manifest.policy.chain:
        _raise_favourites(recommender, asked, order)
    told = np.isfinite(own)
    days = chance_days(bundle)
    if bundle.vectors is not None and days is None:
        told &= bundle.vectors[columns].any(
            axis=1
        )  # of the others the model knows nothing; their score is no score
    order[told] = _PERSONAL + (own - np.nanmin(own, initial=0.0))[told]
    heard, placed = told.any(axis=1), told.any(axis=0)
    if not heard.any() or isinstance(bundle.manifest.policy.encoder, RepeatsSpec):
        return Scored(order, order)
    least = own[told].min()
    usual = np.full(own.shape[1], least)
    usual[placed] = np.nanmean(np.where(told, own, np.nan)[:, placed], axis=0)
    return Scored(order, np.where(told, own, usual), days)


def _purchase_days(bundle: Bundle, customers: Sequence[str], columns: Int32) -> Floats:
    """Return on how many days each customer bought each product (rows, columns); NaN for none."""
    rows = {str(customer): row for row, customer in enumerate(bundle.customers[s.CUSTOMER_ID].tolist())}
    days = np.full((len(customers), len(bundle.catalog)), np.nan)
    for place, customer in enumerate(customers):
        own = bundle.purchased.bought(rows.get(customer))
        days[place, own.products] = own.days
    return days[:, columns]


def _raise_favourites(recommender: Recommender, asked: Candidates, order: Floats) -> None:
    """Put the favourites of each customer's segment above what is merely popular, in place."""
    place = np.full(len(asked.catalog), -1)
    place[asked.columns] = np.arange(len(asked.columns))
    bundle = recommender.bundle
    fitted = bundle.customers.set_index(s.CUSTOMER_ID)[v.SEGMENT].reindex(asked.customers).fillna("")
    states = recommender.states([Query(at=asked.at, customer_id=customer) for customer in asked.customers])
    for row, (state, segment) in enumerate(zip(states, fitted.astype(str), strict=True)):
        favourites = bundle.segments.get(state.segment or segment)
        if favourites is None:
            continue
        among = place[favourites]
        rank = np.arange(len(favourites))[among >= 0]
        order[row, among[among >= 0]] = _SEGMENT + 1.0 / (1.0 + rank)


def first_by_hash(ids: Sequence[str], size: int) -> list[str]:
    """Return ``size`` ids, all where there are fewer, drawn at random by a hash of the id, in order."""
    if len(ids) <= size:
        return list(ids)
    hashes = pd.util.hash_array(np.array(ids, dtype=object), categorize=False)
    return sorted(np.array(ids, dtype=object)[np.argsort(hashes, kind="stable")[:size]].tolist())


def _pairs(frame: pd.DataFrame, customers: Sequence[str], products: NDArray[np.object_]) -> Bools:
    """Return which (customers, products) are rows of ``frame``."""
    row = pd.Index(customers).get_indexer(pd.Index(frame[s.CUSTOMER_ID]))
    column = pd.Index(products).get_indexer(pd.Index(frame[s.PRODUCT_ID]))
    inside = (row >= 0) & (column >= 0)
    found = np.zeros((len(customers), len(products)), dtype=np.bool_)
    found[row[inside], column[inside]] = True
    return found
