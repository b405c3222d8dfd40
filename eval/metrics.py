"""Ranking metrics: per customer first, means last, so that a difference can always be tested.

A ranking is an int32 matrix of product indices, best first, a row per customer, filled up with −1 where a
list is shorter. What the customers really took is ``Relevant``, a ragged table with the same rows. Everything
is vectorised over customers. The conventions are those of trec_eval and ranx (``map`` divides by all relevant
products, ``precision`` by k), stated beside each formula, because most disagreements between published
numbers are disagreements about them.

Absent on purpose: what lists are worth beyond being right (``eval.beyond``), graded relevance, sampled negatives (they
reorder models; Krichene & Rendle, KDD 2020), and means with their intervals, which ``eval.significance`` makes from the
rows returned here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from feature_repo.errors import ConfigError, DataError
from feature_repo.schema import CUSTOMER_IDX, PRODUCT_IDX

RECALL: Final = "recall"
PRECISION: Final = "precision"
F1: Final = "f1"
HR: Final = "hr"
MRR: Final = "mrr"
MAP: Final = "map"
NDCG: Final = "ndcg"
METRICS: Final = (RECALL, PRECISION, F1, HR, MRR, MAP, NDCG)

Ranked = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Relevant:
    """The products each customer really took: a ragged table in CSR form.

    Row ``i`` belongs to the customer ``customers[i]``, and its products are
    ``indices[indptr[i]:indptr[i + 1]]``. A ranking to be judged has the same rows in the same order.

    Parameters
    ----------
    customers : int array, shape (n_customers,)
        Customer index of each row, no two alike.
    indptr : int array, shape (n_customers + 1,)
        Where each row begins in ``indices``, and where the last one ends.
    indices : int array, shape (n_pairs,)
        Product indices, strictly increasing within a row.
    n_products : int
        Size of the catalogue; every product index is below it.

    Raises
    ------
    DataError
        If the arrays do not fit together, a product lies outside the catalogue, or a customer has no relevant
        product (recall would be 0/0: leave such customers out of the evaluation, and count them).
    """

    customers: npt.NDArray[np.int32]
    indptr: Ints
    indices: npt.NDArray[np.int32]
    n_products: int

    def __post_init__(self) -> None:
        n = len(self.customers)
        for name in ("customers", "indptr", "indices"):
            array = getattr(self, name)
            if array.ndim != 1 or array.dtype.kind != "i":
                raise DataError(
                    f"{name} must be a one-dimensional array of signed integers, found {array.dtype} of "
                    f"shape {array.shape}; build it with Relevant.from_frame"
                )
        if len(self.indptr) != n + 1 or self.indptr[0] != 0 or self.indptr[-1] != len(self.indices):
            raise DataError(
                f"indptr must have {n + 1} entries from 0 to {len(self.indices)}, found {len(self.indptr)} "
                f"entries {self.indptr[:1]} … {self.indptr[-1:]}; build it with Relevant.from_frame"
            )
        empty = self.sizes < 1
        if n == 0 or empty.any():
            found = (
                f"{empty.sum()} of {n} without one, first {self.customers[empty][:3]}" if n else "no customer"
            )
            raise DataError(
                f"every customer must have at least one relevant product, found {found}; "
                "evaluate only customers who took something in the window"
            )
        if len(np.unique(self.customers)) != n:
            raise DataError(
                f"customers must be distinct, found {n - len(np.unique(self.customers))} repeated; "
                "give each customer one row"
            )
        _check_range(self.indices, PRODUCT_IDX, 0, self.n_products)
        if (np.diff(self.keys) <= 0).any():
            raise DataError(
                "products must increase strictly within a row, found repeated or unsorted ones; "
                "build the table with Relevant.from_frame"
            )

    @classmethod
    def from_frame(cls, pairs: pd.DataFrame, *, n_products: int) -> Relevant:
        """Collect (customer, product) rows; repeated pairs count once.

        Parameters
        ----------
        pairs : DataFrame with integer columns customer_idx and product_idx
            One row per interaction, in any order; other columns are ignored.
        n_products : int
            Size of the catalogue.

        Returns
        -------
        Relevant
            One row per customer in ``pairs``, in increasing order of customer_idx.

        Raises
        ------
        DataError
            If a column is missing or not integer, an index is out of range, or there is no row.
        """
        for column in (CUSTOMER_IDX, PRODUCT_IDX):
            if column not in pairs.columns:
                raise DataError(
                    f"the relevant pairs must have the column {column!r}, found {list(pairs.columns)}; "
                    "map ids to indices first"
                )
            if pairs[column].dtype.kind not in "iu" or pairs[column].isna().any():
                raise DataError(
                    f"{column!r} must hold integers without gaps, found dtype {pairs[column].dtype} with "
                    f"{pairs[column].isna().sum()} missing; map ids to indices, and leave out unknown ones"
                )
        customer = pairs[CUSTOMER_IDX].to_numpy(np.int64)
        product = pairs[PRODUCT_IDX].to_numpy(np.int64)
        _check_range(customer, CUSTOMER_IDX, 0, np.iinfo(np.int32).max)
        _check_range(product, PRODUCT_IDX, 0, n_products)

        customer, product = np.divmod(np.unique(customer * n_products + product), max(n_products, 1))
        customers, starts = np.unique(customer, return_index=True)
        indptr = np.append(starts, len(product)).astype(np.int64)
        return cls(customers.astype(np.int32), indptr, product.astype(np.int32), n_products)

    def __len__(self) -> int:
        return len(self.customers)

    @property
    def sizes(self) -> Ints:
        """Number of relevant products of each customer, shape (n_customers,)."""
        return np.diff(self.indptr).astype(np.int64)

    @property
    def keys(self) -> Ints:
        """Each pair as the one number row · n_products + product, increasing, shape (n_pairs,)."""
        rows = np.repeat(np.arange(len(self), dtype=np.int64), self.sizes)
        return rows * self.n_products + self.indices


def hits(ranked: Ranked, relevant: Relevant) -> Bools:
    """Say at which places of the rankings a relevant product stands.

    Parameters
    ----------
    ranked : int array, shape (n_customers, k_max)
        Product indices, best first; −1 fills the end of a short list. Row i is for ``relevant.customers[i]``.
    relevant : Relevant
        What the customers took.

    Returns
    -------
    bool array, shape (n_customers, k_max)

    Raises
    ------
    DataError
        If the rows do not correspond, a product is outside the catalogue or twice in a list, or a product
        follows padding.
    """
    check_ranked(ranked, relevant.n_products)
    if len(ranked) != len(relevant):
        raise DataError(
            f"the ranking must have one row for each of the {len(relevant)} customers with relevant "
            f"products, found {len(ranked)} rows; rank exactly relevant.customers, in that order"
        )
    keys = relevant.keys
    wanted = np.arange(len(ranked), dtype=np.int64)[:, None] * relevant.n_products + ranked
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    # Row i's padding has the key of row i−1's last product, hence the mask.
    found: Bools = (keys[place] == wanted) & (ranked >= 0)
    return found


def ranking_metrics(ranked: Ranked, relevant: Relevant, *, k: int) -> pd.DataFrame:
    r"""Compute the accuracy of each customer's first ``k`` products.

    Let :math:`h_r = 1` where the product at rank r (from 1) is relevant, else 0; H the number of hits among
    the first k; T the number of relevant products of the customer; :math:`d_r = 1 / \log_2(r + 1)`.

    ========= ============================================================================================
    recall    :math:`H / T`. Below 1 at best when T > k.
    precision :math:`H / k`, also where the list is shorter than k: an empty place is a miss.
    f1        :math:`2 H / (k + T)`, the harmonic mean of the two (van Rijsbergen 1979, ch. 7).
    hr        1 if :math:`H > 0`, else 0 (hit rate; "success" in trec_eval).
    mrr       :math:`1 / r` of the first hit, 0 without one (Voorhees, TREC-8, 1999).
    map       :math:`\frac{1}{T} \sum_{r \le k} h_r \cdot \frac{1}{r} \sum_{s \le r} h_s`, average precision
              cut at k (trec_eval's ``map_cut``; Manning, Raghavan & Schütze 2008, §8.4). Divided by T,
              **not** by min(T, k) as some recommender libraries do, so below 1 at best when T > k.
    ndcg      :math:`\sum_{r \le k} h_r d_r \big/ \sum_{r \le \min(T,k)} d_r`: binary gains, ideal cut at
              k, so 1 is always attainable
              (Järvelin & Kekäläinen 2002, doi:10.1145/582415.582418).
    ========= ============================================================================================

    Parameters
    ----------
    ranked : int array, shape (n_customers, k_max)
        As in :func:`hits`.
    relevant : Relevant
        What the customers took.
    k : int
        Cut-off, from 1 to k_max.

    Returns
    -------
    DataFrame of float64, shape (n_customers, 7)
        Columns ``METRICS``, indexed by customer_idx in the order of ``relevant.customers``. Each value is
        in [0, 1]; means over customers are the customary reported numbers.

    Raises
    ------
    ConfigError
        If k is not between 1 and k_max.
    DataError
        As in :func:`hits`.
    """
    _check_shape(ranked)
    if not 1 <= k <= ranked.shape[1]:
        raise ConfigError(
            f"k must be between 1 and the {ranked.shape[1]} places of the ranking, found {k}; "
            "rank more products, or fill the lists up with −1 where the catalogue has no more"
        )
    hit = hits(ranked[:, :k], relevant).astype(np.float64)
    ranks = np.arange(1, k + 1)
    discounts = 1.0 / np.log2(ranks + 1)
    ideal = np.cumsum(discounts)[np.minimum(relevant.sizes, k) - 1]
    count = hit.sum(axis=1)
    return pd.DataFrame(
        {
            RECALL: count / relevant.sizes,
            PRECISION: count / k,
            F1: 2 * count / (k + relevant.sizes),
            HR: (count > 0).astype(np.float64),
            MRR: (hit / ranks).max(axis=1),
            MAP: (hit * hit.cumsum(axis=1) / ranks).sum(axis=1) / relevant.sizes,
            NDCG: (hit * discounts).sum(axis=1) / ideal,
        },
        index=pd.Index(relevant.customers, name=CUSTOMER_IDX),
    )


def _check_range(index: npt.NDArray[np.integer], name: str, low: int, end: int) -> None:
    if len(index) and (index.min() < low or index.max() >= end):
        raise DataError(
            f"{name} must lie in [{low}, {end}), found values from {index.min()} to {index.max()}; "
            "map ids with the catalogue that was ranked"
        )


def _check_shape(ranked: Ranked) -> None:
    if ranked.ndim != 2 or ranked.dtype.kind != "i":
        raise DataError(
            "a ranking must be a matrix (customers × places) of signed integers, found "
            f"{ranked.dtype} of shape {ranked.shape}; give product indices, −1 where a list is short"
        )


def check_ranked(ranked: Ranked, n_products: int) -> None:
    """Check that a ranking (customers, places) is one of so many products.

    Raises
    ------
    DataError
        It is no matrix of signed integers, names a product twice or one that is not there, or has gaps.
    """
    _check_shape(ranked)
    _check_range(ranked.ravel(), "a ranked product_idx, or −1 for padding,", -1, n_products)
    if ((ranked[:, :-1] < 0) & (ranked[:, 1:] >= 0)).any():
        raise DataError(
            "padding must stand at the end of a list, found products after −1; close the gaps before judging"
        )
    ordered = np.sort(ranked, axis=1)
    twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1)
    if twice.any():
        raise DataError(
            f"a list must name each product once, found a repeated product in {twice.sum()} of {len(ranked)} "
            f"lists, first in row {int(twice.argmax())}; remove duplicates before judging"
        )
