"""Item-item neighbours, by the library ``implicit``: cosine, BM25, TF-IDF, and the linear graph filter.

A sparse candidate source: each product keeps its nearest, and a history is scored by summing over what it holds.

Sources: Sarwar et al., "Item-based collaborative filtering recommendation algorithms" (WWW 2001); the linear filter
``D_p^-b (NᵀN) D_p^b`` with ``N = D_c^-a W D_p^-b`` is GF-CF's first term (Shen et al., CIKM 2021).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from implicit.nearest_neighbours import all_pairs_knn, bm25_weight, normalize, tfidf_weight

from serving.encoders.spec import NeighboursSpec
from serving.neighbours import Neighbours
from training.dataset import TrainingSet
from training.models.base import Embeddings, degrees, powers, weight_matrix
from training.models.configs import KNNConfig


def fit(data: TrainingSet, config: KNNConfig, *, seed: int, threads: int = 0) -> Embeddings:
    """Find each product's nearest products.

    Parameters
    ----------
    data
        What was known at its ``as_of``.
    config
        Settings.
    seed
        Of no effect: nothing is drawn.
    threads
        Threads of ``implicit``; 0 takes every core.
    """
    matrix = weight_matrix(data, config.weights)
    by_customer, by_product = degrees(matrix)
    weighted: sp.csr_matrix[Any] = matrix.T.tocsr()
    match config.similarity:
        case "cosine":
            weighted = normalize(weighted)
        case "tfidf":
            weighted = tfidf_weight(weighted)
            weighted.eliminate_zeros()  # whoever took all products but one says nothing: log 1; no length, no 0 / 0
            weighted = normalize(weighted)
        case "bm25":
            weighted = bm25_weight(weighted, config.k1, config.b)
        case "linear":
            left = sp.diags(powers(by_product, -config.product_exponent))
            right = sp.diags(powers(by_customer, -config.customer_exponent))
            weighted = (left @ weighted @ right).tocsr()
    kept = min(config.neighbours, matrix.shape[1])
    customers = sp.csr_matrix(weighted.T, dtype=np.float64)
    near = all_pairs_knn(customers, kept, num_threads=threads, show_progress=False).tocsr()
    if config.similarity == "linear":
        exponent = config.product_exponent
        near = sp.diags(powers(by_product, -exponent)) @ near @ sp.diags(powers(by_product, exponent))
    near = near.tocsr()
    near.sort_indices()
    found = Neighbours(
        near.indptr.astype(np.int64), near.indices.astype(np.int32), near.data.astype(np.float32)
    )
    return Embeddings(None, NeighboursSpec(weights=config.weights), matrices=found.arrays())
