"""Customers without a history: what is bought of late, leaning to what customers with such features buy.

The score of a product is the logarithm of how often it was bought lately, plus, for each feature of the newcomer, the
logarithm of its lift: how much more those with the feature buy of it than everybody does. That is naive Bayes with
smoothed counts. The lifts (features × products) are split by a singular value decomposition, wholly where the
features are few, so that products carry ``rank`` numbers more and one inner product gives the score. Products nobody
bought get theirs from their descriptions, by ridge regression on the others'.

Sources: Ng & Jordan, "On discriminative vs. generative classifiers" (NIPS 2001) for when naive Bayes is enough: few
data a class; Gantner et al., "Learning attribute-to-feature mappings for cold-start recommendations" (ICDM 2010).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

Matrix = sp.csr_matrix[np.float32]
Float32 = NDArray[np.float32]

#: Purchases that stand behind "no lift" before the first one with the feature is seen.
PRIOR: Final = 20.0
_MOST: Final = 64


def fit(matrix: Matrix, recent: Matrix, features: Matrix, description: Matrix) -> tuple[Float32, Float32]:
    """Fit what newcomers are shown.

    Parameters
    ----------
    matrix
        What customers did (customers × products), by weight.
    recent
        The same with an eye to the last weeks: how popular products are now.
    features
        Which features customers have (customers × tokens).
    description
        What products are described by (products × tokens).

    Returns
    -------
    tuple
        Columns of the products (products, rank + 1), the last one the logarithm of recent popularity, and the
        features' vectors (tokens, rank). Products that are neither bought nor described have zeros.
    """
    known = np.diff(matrix.tocsc().indptr) > 0
    logarithms = lifts(matrix, features)
    rank = min(_MOST, *logarithms.shape)
    left, values, right = np.linalg.svd(logarithms, full_matrices=False)
    columns = np.column_stack([right[:rank].T, _popularity(recent)])
    told = np.diff(description.indptr) > 0
    columns[~known] = 0.0
    if (~known & told).any():
        table = least_squares(description, columns.astype(np.float32), known)
        columns[~known] = description[~known] @ table
    return columns.astype(np.float32), (left[:, :rank] * values[:rank]).astype(np.float32)


def lifts(matrix: Matrix, features: Matrix) -> NDArray[np.float64]:
    """Return the logarithms of the smoothed lifts (tokens, products); zero where nothing is known."""
    bought = np.asarray((features.T @ matrix).toarray(), dtype=np.float64)
    by_product = np.asarray(matrix.sum(axis=0), dtype=np.float64).ravel()
    share = bought.sum(axis=1, keepdims=True) / max(by_product.sum(), 1e-12)
    prior = np.maximum(PRIOR * share, 1e-12)
    return np.asarray(np.log((bought + prior) / (share * by_product + prior)))


def least_squares(description: Matrix, wanted: Float32, known: NDArray[np.bool_]) -> Float32:
    """Return the (tokens, d) vectors whose sums come nearest to ``wanted`` over the known rows (ridge)."""
    if not description.shape[1] or not known.any():
        return np.zeros((description.shape[1], wanted.shape[1]), dtype=np.float32)
    model = Ridge(alpha=1.0, fit_intercept=False, solver="sparse_cg", tol=1e-3, max_iter=100)
    model.fit(description[known].astype(np.float64), wanted[known].astype(np.float64))
    return np.ascontiguousarray(
        np.atleast_2d(model.coef_).T, dtype=np.float32
    )  # one column comes as a vector


def _popularity(recent: Matrix) -> NDArray[np.float64]:
    """Return the logarithm of each product's weight over the smallest one there is."""
    degree = np.asarray(recent.sum(axis=0), dtype=np.float64).ravel()
    least = degree[degree > 0].min()
    return np.asarray(np.log(np.maximum(degree, least) / least))
