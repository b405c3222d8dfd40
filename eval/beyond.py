"""Beyond accuracy: how much of the catalogue lists show, how unequally, how surprising and how mixed they are.

These need a ranking and facts of products alone, not what the customers took. Rankings are those of ``eval.metrics``;
values of single customers come as an array with a row each, those of all lists together as one number.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from eval.metrics import Floats, Ints, Ranked, check_ranked
from feature_repo.errors import DataError


def coverage(ranked: Ranked, n_products: int) -> float:
    """Return the share of the catalogue that is shown to somebody, in [0, 1].

    Catalogue coverage (Ge, Delgado-Battenfeld & Jannach, RecSys 2010). Cut the ranking first
    (``ranked[:, :k]``) for coverage@k. It can only grow with the number of customers: compare models on the
    same ones.

    Raises
    ------
    DataError
        If the ranking is malformed (see :func:`eval.metrics.hits`).
    """
    return float((_exposure(ranked, n_products) > 0).mean())


def novelty(ranked: Ranked, popularity_counts: npt.ArrayLike) -> float:
    """Return the mean over customers of :func:`self_information`; customers with an empty list are left out.

    Raises
    ------
    DataError
        If a count is negative or not finite, nothing is shown, or the ranking is malformed (see
        :func:`eval.metrics.hits`).
    """
    bits = self_information(ranked, popularity_counts)
    if np.isnan(bits).all():
        raise DataError("novelty needs at least one product shown, found none; check the recommender")
    return float(np.nanmean(bits))


def self_information(ranked: Ranked, popularity_counts: npt.ArrayLike) -> Floats:
    r"""Return the mean self-information of the products shown to each customer, in bits.

    :math:`\operatorname{mean}_{i \in R_u} -\log_2 p(i)` with
    :math:`p(i) = (c_i + 1) / (\sum_j c_j + P)`: the chance that a past interaction, drawn at random, was with
    product i, with one interaction added to each of the P products so that one nobody bought is very novel
    rather than infinitely so. Dividing by the number of customers instead (Zhou et al., PNAS 2010,
    doi:10.1073/pnas.1000488107) shifts, smoothing aside, every value by one constant; the reading as a
    probability over interactions is Vargas & Castells' (RecSys 2011, doi:10.1145/2043932.2043955). A
    catalogue bought evenly scores :math:`\log_2 P` whatever is shown.

    Parameters
    ----------
    ranked : int array, shape (n_customers, k)
        As in :func:`eval.metrics.hits`.
    popularity_counts : array of non-negative numbers, shape (n_products,)
        Interactions of each product in the **train** window.

    Returns
    -------
    float array, shape (n_customers,)
        NaN for an empty list.

    Raises
    ------
    DataError
        If a count is negative or not finite, or the ranking is malformed (see :func:`eval.metrics.hits`).
    """
    counts = _counts(popularity_counts)
    check_ranked(ranked, len(counts))
    bits = np.log2(counts.sum() + len(counts)) - np.log2(counts + 1)
    shown = ranked >= 0
    length = shown.sum(axis=1)
    total = np.where(shown, bits[ranked], 0.0).sum(axis=1)
    return np.where(length > 0, total / np.maximum(length, 1), np.nan)


def intra_list_diversity(ranked: Ranked, profiles: sp.csr_matrix[np.float64], kinds: npt.ArrayLike) -> Floats:
    r"""Return how unlike each other the products shown to each customer are, from 0 (alike) to 1.

    The mean over pairs of :math:`1 - \cos(x_i, x_j)` (Ziegler et al., WWW 2005; Smyth & McClave 2001). Where one of
    the two has no profile, the pair counts as alike (cosine 1) if both are of one kind, else as unlike (0).

    Parameters
    ----------
    ranked : int array, shape (n_customers, k)
        As in :func:`eval.metrics.hits`.
    profiles : sparse matrix of non-negative numbers, shape (n_products, d)
        What stands for a product; the same for all recommenders that are compared. An empty row is no profile.
    kinds : int array, shape (n_products,)
        The kind of each product, such as its category; −1 where it has none.

    Returns
    -------
    float array, shape (n_customers,)
        NaN for a list of fewer than two.
    """
    check_ranked(ranked, profiles.shape[0])
    kind = np.asarray(kinds)
    norms = np.sqrt(np.asarray(profiles.multiply(profiles).sum(axis=1)).ravel())
    units = sp.diags_array(1 / np.where(norms > 0, norms, 1.0)).tocsr() @ profiles
    found = np.full(len(ranked), np.nan)
    for row, listed in enumerate(ranked):
        shown = listed[listed >= 0]
        if len(shown) < 2:
            continue
        own = units[shown]
        cosines = np.asarray((own @ own.T).todense())
        bare = norms[shown] == 0
        without = bare[:, None] | bare[None, :]
        same = (kind[shown][:, None] == kind[shown][None, :]) & (kind[shown] >= 0)[:, None]
        cosines[without] = same[without]
        upper = np.triu_indices(len(shown), k=1)
        found[row] = 1 - cosines[upper].mean()
    return found


def gini(ranked: Ranked, n_products: int) -> float:
    """Return how unequally the catalogue is shown: :func:`gini_of_counts` of each product's exposures.

    Products never shown count as zeros. Cut the ranking first (``ranked[:, :k]``) for the value at k.

    Raises
    ------
    DataError
        If nothing is shown, or the ranking is malformed (see :func:`eval.metrics.hits`).
    """
    return gini_of_counts(_exposure(ranked, n_products))


def gini_of_counts(counts: npt.ArrayLike) -> float:
    r"""Return the Gini index of counts: 0 when all are equal, 1 when one product has everything.

    :math:`G = \frac{1}{P-1} \sum_{j=1}^{P} (2j - P - 1)\, p_{(j)}` with the shares :math:`p_{(j)}` in
    increasing order (Shani & Gunawardana, Recommender Systems Handbook 2011, §8.3). The population form
    common in economics is :math:`(P-1)/P` times this. A single product is equal to itself: 0.

    Parameters
    ----------
    counts : array of non-negative numbers, shape (n_products,)
        How often each product was shown, or bought.

    Raises
    ------
    DataError
        If a count is negative or not finite, or all are zero.
    """
    share = np.sort(_counts(counts))
    if share.sum() == 0:
        raise DataError("inequality needs at least one count above zero, found none; check the recommender")
    n = len(share)
    if n == 1:
        return 0.0
    return float((2 * np.arange(1, n + 1) - n - 1) @ share / share.sum() / (n - 1))


def _exposure(ranked: Ranked, n_products: int) -> Ints:
    check_ranked(ranked, n_products)
    return np.bincount(ranked[ranked >= 0], minlength=n_products).astype(np.int64)


def _counts(counts: npt.ArrayLike) -> Floats:
    values = np.asarray(counts, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all() or (values < 0).any():
        raise DataError(
            "counts must be one finite, non-negative number for each product, found an array of shape "
            f"{values.shape} that is not; give one count per catalogue row, 0 where there is none"
        )
    return values
