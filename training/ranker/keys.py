"""Keys: which pairs of a customer and a product a ranker learns from, and how many pairs each stands for.

Keys are drawn before any feature is made. Of every customer drawn there is all that was bought in the window, some of
the candidates that the served bundle would rank, what was shown to the customer in the window (where exposures are
kept), and some other products on sale. A key's weight is the inverse of the chance that it was drawn, so that weighted
sums are those over all known customers and all products on sale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feature_repo import schema as s
from feature_repo.tables import Tables
from serving.bundle import Bundle
from serving.errors import DataError
from serving.ranked import Pool
from serving.recommender import Query, Recommender
from serving.sources import Vectors
from serving.subject import Subject
from training.ranker.config import RankerConfig

Int32 = NDArray[np.int32]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: Fewer purchases in a window than this are too few to learn from.
FEWEST: Final = 200


class TooLittleError(DataError):
    """The history has too little to learn a ranker from."""


@dataclass(frozen=True)
class Outcome:
    """What happened in a window of labels: by customer id, product indices bought (int32, ascending) and shown."""

    bought: Mapping[str, Int32]
    shown: Mapping[str, Int32]

    @classmethod
    def of(cls, tables: Tables, bundle: Bundle, at: datetime, end: datetime) -> Outcome:
        """Read what known customers bought, and were shown, from ``at`` until before ``end``."""
        rows = tables.frame(s.INTERACTIONS, [s.CUSTOMER_ID, s.PRODUCT_ID, s.AT, s.KIND])
        bought = rows[(rows[s.KIND] == s.PURCHASE) & (rows[s.AT] >= at) & (rows[s.AT] < end)]
        path = tables.directory / "exposures.parquet"
        shown = pd.DataFrame({s.CUSTOMER_ID: [], s.PRODUCT_ID: []})
        if path.exists():
            columns = [s.CUSTOMER_ID, s.PRODUCT_ID, s.AT]
            filters = [(s.AT, ">=", at), (s.AT, "<", end)]
            shown = pq.read_table(path, columns=columns, filters=filters).to_pandas()
        return cls(_by_customer(bought, bundle), _by_customer(shown, bundle))


@dataclass(frozen=True)
class Keys:
    """The keys of one customer: products (n,), and of each whether it was bought, how many pairs of the shop it stands
    for, and whether it is among the candidates or was shown.
    """

    subject: Subject
    products: Int32
    bought: Bools
    weight: Floats
    near: Bools


def draw(
    recommender: Recommender,
    known: Sequence[str],
    outcome: Outcome,
    config: RankerConfig,
    *,
    seed: int,
) -> list[Keys]:
    """Draw keys for the instant at which the bundle's data end.

    Parameters
    ----------
    recommender
        Of the bundle fitted on what came before the window.
    known
        Ids of the customers known then, of whom nothing but that need be known.
    outcome
        What happened in the window.
    config, seed
        How much is drawn, and by which chance.

    Raises
    ------
    TooLittleError
        Fewer than ``FEWEST`` purchases by known customers.
    """
    bundle = recommender.bundle
    at = bundle.manifest.data.as_of
    generator = np.random.default_rng(seed)
    model = recommender.model
    assert isinstance(model, Vectors)
    pool = Pool(bundle, model, config.candidates)
    allowed = bundle.catalog.on_sale(at)
    buyers = [customer for customer in known if customer in outcome.bought]
    count = sum(int(allowed[outcome.bought[customer]].sum()) for customer in buyers)
    if count < FEWEST:
        raise TooLittleError(
            f"expected at least {FEWEST} purchases by known customers from {at:%Y-%m-%d} on to learn a ranker from, "
            f"found {count}; give a longer history, or leave the ranker out"
        )
    rest = [customer for customer in known if customer not in outcome.bought]
    drawn: list[tuple[str, float]] = []
    for group, size in ((buyers, config.buyers), (rest, config.bystanders)):
        chosen = generator.permutation(len(group))[:size]
        drawn += [(group[place], len(group) / len(chosen)) for place in chosen.tolist()]
    queries = [Query(at=at, customer_id=customer, purchased="allow") for customer, _ in drawn]
    everything = np.flatnonzero(allowed).astype(np.int32)
    found = []
    states = recommender.states(queries)
    for (customer, weight), query, state in zip(drawn, queries, states, strict=True):
        subject = recommender.subject(query, state)
        candidates, _ = pool.of(subject, allowed)
        bought, shown = (of.get(customer, everything[:0]) for of in (outcome.bought, outcome.shown))
        bought, shown = bought[allowed[bought]], shown[allowed[shown]]
        keys = _keys(subject, bought, shown, candidates, everything, config, generator)
        found.append(replace(keys, weight=keys.weight * weight))
    return found


def _keys(
    subject: Subject,
    bought: Int32,
    shown: Int32,
    candidates: Int32,
    everything: Int32,
    config: RankerConfig,
    generator: np.random.Generator,
) -> Keys:
    """Draw the keys of one customer; the weights are those within the customer."""
    sure = np.union1d(bought, shown)
    near = np.setdiff1d(candidates, sure)
    far = np.setdiff1d(everything, np.union1d(sure, near), assume_unique=True)
    parts = [(sure, 1.0)]
    for stratum, most in ((near, config.negatives), (far, config.others)):
        if size := min(most, len(stratum)):
            parts.append((generator.choice(stratum, size, replace=False), len(stratum) / size))
    products = np.concatenate([part for part, _ in parts]).astype(np.int32)
    weight = np.concatenate([np.full(len(part), each) for part, each in parts])
    return Keys(
        subject, products, np.isin(products, bought), weight, np.isin(products, np.union1d(candidates, shown))
    )


def _by_customer(rows: pd.DataFrame, bundle: Bundle) -> dict[str, Int32]:
    rows = rows[rows[s.CUSTOMER_ID].notna()]
    places = pd.Index(bundle.catalog.ids).get_indexer(pd.Index(rows[s.PRODUCT_ID]))
    frame = pd.DataFrame({"customer": rows[s.CUSTOMER_ID].to_numpy(), "product": places})
    frame = frame[frame["product"] >= 0].drop_duplicates()
    grouped = frame.sort_values("product").groupby("customer")["product"]
    return {str(customer): part.to_numpy(dtype=np.int32) for customer, part in grouped}
