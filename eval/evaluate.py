"""Judge a recommender on what customers bought in a later window, ranking the full catalogue.

The recommender is asked exactly as the service asks it, at the instant where the window begins; a
customer's purchases inside the window are what counts. Purchases of products that were not known at the
cut are misses, not left out, and their share is told. Per-customer values come first, so that every
mean has an interval and every comparison is paired.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eval.beyond import coverage, gini, novelty
from eval.metrics import METRICS, NDCG, RECALL, Relevant, ranking_metrics
from eval.significance import Interval, bootstrap_mean, paired_difference
from feature_repo import schema as s
from serving.catalog import Catalog
from serving.errors import DataError
from serving.recommender import PurchasedPolicy, Query, Recommender

ALL: Final = "all"
EXISTING: Final = "existing"
NEW: Final = "new"
COLD: Final = "cold"
SLICE: Final = "slice"
POLICIES: Final[tuple[PurchasedPolicy, ...]] = ("exclude", "allow")
_BATCH: Final = 500


@dataclass(frozen=True)
class Window:
    """The later window that judges: purchases (customer_id, product_id) in it, and those before it.

    ``at`` is where it begins. ``bought_before`` holds the pairs (customer_id, product_id) of earlier
    purchases; they tell existing customers from new ones and repeats from discoveries. ``sold_before`` are the
    products that anybody, known or not, bought earlier.
    """

    at: datetime
    purchases: pd.DataFrame
    bought_before: pd.DataFrame
    sold_before: frozenset[str]

    @classmethod
    def cut(cls, interactions: pd.DataFrame, *, at: datetime, end: datetime) -> Window:
        """Cut the window [at, end) out of all interactions.

        Raises
        ------
        DataError
            Nobody known bought anything in it.
        """
        pair = [s.CUSTOMER_ID, s.PRODUCT_ID]
        purchases = interactions[interactions[s.KIND] == s.PURCHASE]
        bought = purchases[purchases[s.CUSTOMER_ID].notna()]
        inside = bought[(bought[s.AT] >= at) & (bought[s.AT] < end)]
        if inside.empty:
            raise DataError(
                f"expected purchases by known customers from {at:%Y-%m-%d} to {end:%Y-%m-%d}, found none; "
                "there is nothing to judge by: give purchases in the last weeks, or a longer horizon_days"
            )
        before = bought[bought[s.AT] < at]
        sold = frozenset(purchases.loc[purchases[s.AT] < at, s.PRODUCT_ID])
        return cls(at, inside[pair].drop_duplicates(), before[pair].drop_duplicates(), sold)

    def truth(self, policy: PurchasedPolicy) -> pd.DataFrame:
        """Return the pairs that count: all, or those not bought before."""
        if policy == "allow":
            return self.purchases
        merged = self.purchases.merge(self.bought_before, how="left", indicator=True)
        kept: pd.DataFrame = merged.loc[merged["_merge"] == "left_only", [s.CUSTOMER_ID, s.PRODUCT_ID]]
        return kept.reset_index(drop=True)

    def cold_products(self, catalog: Catalog) -> NDArray[np.bool_]:
        """Return which products (products,) are on sale where the window begins and were never bought before."""
        unsold = np.array([product not in self.sold_before for product in catalog.ids])
        return np.asarray(catalog.on_sale(self.at) & unsold)


@dataclass(frozen=True)
class Evaluation:
    """How one recommender did under one purchased policy, on all products or on the cold ones alone.

    ``per_customer`` has one row a judged customer (index: customer_id) with the metrics and the slice;
    ``ranked`` (customers, k) the product indices shown; ``beyond`` values over the whole list;
    ``unseen`` the share of relevant purchases whose product was not known at the cut.
    """

    name: str
    policy: PurchasedPolicy
    k: int
    per_customer: pd.DataFrame
    ranked: NDArray[np.int32]
    beyond: Mapping[str, float]
    unseen: float
    products: str = ALL
    sources: Mapping[str, float] = field(default_factory=dict)

    def rows(self, which: str = ALL) -> pd.DataFrame:
        """Return the per-customer metrics of one slice."""
        kept = self.per_customer if which == ALL else self.per_customer[self.per_customer[SLICE] == which]
        return kept[list(METRICS)]

    def interval(self, metric: str, which: str = ALL) -> Interval | None:
        """Return mean and bootstrap interval of a metric; None for a slice of fewer than two customers."""
        values = self.rows(which)[metric]
        return bootstrap_mean(values) if len(values) > 1 else None

    def versus(self, other: Evaluation, metric: str, which: str = ALL) -> Interval | None:
        """Return the paired difference (self − other) of a metric; None below two customers."""
        mine, theirs = self.rows(which)[metric], other.rows(which)[metric]
        return paired_difference(mine, theirs) if len(mine) > 1 else None

    def to_json(self) -> dict[str, Any]:
        """Return means with intervals by slice, and the values over the whole list."""
        slices = [ALL, EXISTING, NEW]
        return {
            "model": self.name,
            "purchased": self.policy,
            "products": self.products,
            "k": self.k,
            "unseen_share": round(self.unseen, 4),
            "sources": {name: round(share, 4) for name, share in self.sources.items()},
            "beyond_accuracy": {name: round(value, 4) for name, value in self.beyond.items()},
            "slices": {
                which: {
                    "customers": len(self.rows(which)),
                    **{
                        metric: told(interval)
                        for metric in METRICS
                        if (interval := self.interval(metric, which)) is not None
                    },
                }
                for which in slices
            },
        }


def told(interval: Interval) -> dict[str, float]:
    """Return an interval as rounded JSON values."""
    values = {"mean": interval.mean, "low": interval.low, "high": interval.high}
    if interval.p is not None:
        values["p"] = interval.p
    return {name: round(value, 5) for name, value in values.items()}


def evaluate(
    recommender: Recommender,
    window: Window,
    *,
    name: str,
    k: int,
    policy: PurchasedPolicy,
    products: Literal["all", "cold"] = "all",
) -> Evaluation:
    """Ask for k products for every customer who bought in the window, and judge the answers.

    Parameters
    ----------
    recommender
        With features as known at ``window.at``.
    window
        What happened next.
    name
        How the result is called.
    k
        Cut-off.
    policy
        ``exclude``: products bought before neither count nor are shown; ``allow``: everything counts.
    products
        ``cold``: only products that nobody bought before the window count, and only those are shown.

    Raises
    ------
    DataError
        Under this policy nobody has a relevant purchase.
    """
    catalog = recommender.bundle.catalog
    among = window.cold_products(catalog) if products == COLD else None
    asked = Questions.of(window, catalog, policy, among=among)
    left_out = () if among is None else tuple(np.array(catalog.ids)[~among].tolist())
    ranked = np.full((len(asked.customers), k), -1, dtype=np.int32)
    drawn: Counter[str] = Counter()
    question = Query(at=window.at, n=k, exclude=left_out, purchased=policy)
    for start, answers in _answers(recommender, asked.customers, question):
        for offset, answer in enumerate(answers):
            ranked[start + offset, : len(answer.items)] = [asked.catalog.index[p] for p in answer.product_ids]
            drawn.update(item.source for item in answer.items)
    shown = drawn.total()
    shares = {source: count / shown for source, count in sorted(drawn.items())}
    return judge(asked, ranked, name=name, products=products, sources=shares)


@dataclass(frozen=True)
class Questions:
    """Whom a window asks about, in order, and what they bought, in terms of a catalog.

    Products that the catalog does not know stand after its end, where no ranking can reach them.
    """

    window: Window
    catalog: Catalog
    policy: PurchasedPolicy
    customers: list[str]
    relevant: Relevant

    @classmethod
    def of(
        cls,
        window: Window,
        catalog: Catalog,
        policy: PurchasedPolicy,
        *,
        among: NDArray[np.bool_] | None = None,
    ) -> Questions:
        """Derive the questions of a window under a purchased policy, about all products or those ``among``.

        Raises
        ------
        DataError
            There are none.
        """
        truth = window.truth(policy)
        if among is not None:
            truth = truth[truth[s.PRODUCT_ID].isin(np.array(catalog.ids)[among])]
            if truth.empty:
                raise DataError(
                    "expected purchases of products never bought before the window, found none; "
                    "there are no cold products to judge by"
                )
        if truth.empty:
            raise DataError(
                f"expected purchases to judge by under purchased={policy!r}, found only repeats; "
                "use purchased='allow'"
            )
        customers = sorted(truth[s.CUSTOMER_ID].unique())
        unknown = sorted(set(truth[s.PRODUCT_ID]) - set(catalog.ids))
        products = pd.Index([*catalog.ids, *unknown])
        pairs = pd.DataFrame(
            {
                s.CUSTOMER_IDX: pd.Index(customers)
                .get_indexer(pd.Index(truth[s.CUSTOMER_ID]))
                .astype(np.int32),
                s.PRODUCT_IDX: products.get_indexer(pd.Index(truth[s.PRODUCT_ID])).astype(np.int32),
            }
        )
        return cls(window, catalog, policy, customers, Relevant.from_frame(pairs, n_products=len(products)))


def judge(
    asked: Questions,
    ranked: NDArray[np.int32],
    *,
    name: str,
    products: str = ALL,
    sources: Mapping[str, float] | None = None,
) -> Evaluation:
    """Judge rankings (customers of ``asked``, k) of catalog indices, −1 where a list is shorter.

    Where nothing at all is shown, novelty and inequality are told as 0.
    """
    shows = bool((ranked >= 0).any())
    window, size, k = asked.window, len(asked.catalog), ranked.shape[1]
    metrics = ranking_metrics(ranked, asked.relevant, k=k)
    metrics.index = pd.Index(asked.customers, name=s.CUSTOMER_ID)
    existing = metrics.index.isin(window.bought_before[s.CUSTOMER_ID])
    before = pd.Index(asked.catalog.ids).get_indexer(pd.Index(window.bought_before[s.PRODUCT_ID]))
    return Evaluation(
        name=name,
        policy=asked.policy,
        k=k,
        per_customer=metrics.assign(**{SLICE: np.where(existing, EXISTING, NEW)}),
        ranked=ranked,
        beyond={
            "coverage": coverage(ranked, size),
            "novelty_bits": novelty(ranked, np.bincount(before[before >= 0], minlength=size))
            if shows
            else 0.0,
            "gini": gini(ranked, size) if shows else 0.0,
        },
        unseen=float((asked.relevant.indices >= size).mean()),
        products=products,
        sources=dict(sources or {}),
    )


def _answers(
    recommender: Recommender, customers: Sequence[str], question: Query
) -> Iterator[tuple[int, list[Any]]]:
    for start in range(0, len(customers), _BATCH):
        chunk = customers[start : start + _BATCH]
        queries = [replace(question, customer_id=customer) for customer in chunk]
        yield start, recommender.recommend(queries)


def comparison(evaluations: Sequence[Evaluation], champion: str, baselines: Sequence[str]) -> dict[str, Any]:
    """Compare ``champion`` with the stronger of the baselines, per metric, paired over customers."""
    by_name = {evaluation.name: evaluation for evaluation in evaluations}
    best = by_name[champion]
    result: dict[str, Any] = {}
    for metric in (RECALL, NDCG):
        rivals = {name: float(by_name[name].rows()[metric].mean()) for name in baselines if name != champion}
        if not rivals:
            continue
        rival = max(rivals, key=lambda name: rivals[name])
        difference = best.versus(by_name[rival], metric)
        if difference is not None:
            result[metric] = {"model": champion, "stronger_baseline": rival, **told(difference)}
    return result
