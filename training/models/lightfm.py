"""LightFM, by the kept fork ``rectools-lightfm``: vectors of identities and features, learnt with WARP.

A customer or product is the sum of the vectors of what is known of it, identity included, so those without history
are served through their features. Biases are folded into two further dimensions: the inner product of the vectors
*is* LightFM's prediction.

Sources: Kula, "Metadata embeddings for user and item cold-start recommendations" (2015); Weston, Bengio & Usunier,
"WSABIE" (IJCAI 2011) for WARP.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from lightfm import LightFM
from threadpoolctl import threadpool_limits

from serving.encoders.spec import CONSTANT, CUSTOMERS, FEATURES, FeatureSumSpec
from training.dataset import TrainingSet
from training.models import tokens
from training.models.base import Embeddings, Float32, cores, degrees, weight_matrix
from training.models.configs import LightFMConfig


def fit(data: TrainingSet, config: LightFMConfig, *, seed: int, threads: int = 0) -> Embeddings:
    """Fit LightFM on identities and features of customers and products.

    Parameters
    ----------
    data
        What was known at its ``as_of``.
    config
        Settings.
    seed
        Seed of the start and of the draws; with one thread the same seed gives the same vectors.
    threads
        Threads, which run without locks; 0 takes every core.
    """
    matrix = weight_matrix(data, config.weights)
    by_customer, by_product = degrees(matrix)
    rows = tokens.customer_rows(data)
    vocabulary = tokens.learn(rows, min_count=config.min_count)
    described = tokens.product_rows(data.catalog)
    product_vocabulary = tokens.learn(described, min_count=config.min_count)
    customers = with_identity(tokens.matrix(rows, vocabulary), by_customer > 0)
    products = with_identity(tokens.matrix(described, product_vocabulary), by_product > 0)
    model = fitted(matrix, customers, products, config, seed=seed, threads=threads)
    size = matrix.shape[0]
    spoken = np.diff(products.indptr) > 0
    return Embeddings(
        np.where(spoken[:, None], product_vectors(model, products), np.float32(0.0)),
        FeatureSumSpec(vocabulary=vocabulary),
        matrices={CUSTOMERS: own_vectors(model, by_customer > 0)},
        weights={
            FEATURES: _folded(model.user_embeddings[size:], model.user_biases[size:]),
            CONSTANT: _constant(config.factors),
        },
    )


def with_identity(
    features: sp.csr_matrix[np.float32], known: np.ndarray[Any, np.dtype[np.bool_]]
) -> sp.csr_matrix[np.float32]:
    """Put an identity before the features of the rows that are known; others would stay at their random start."""
    identity = sp.diags(known.astype(np.float32))
    joined = sp.csr_matrix(sp.hstack([identity, features]), dtype=np.float32)
    joined.eliminate_zeros()
    return joined


def fitted(
    matrix: sp.csr_matrix[np.float32],
    customers: sp.csr_matrix[np.float32],
    products: sp.csr_matrix[np.float32],
    config: LightFMConfig,
    *,
    seed: int,
    threads: int,
) -> LightFM:
    """Return the library's model, fitted on positive pairs weighted by what the customer did."""
    pairs = matrix.tocoo()
    positive = sp.coo_matrix((np.ones_like(pairs.data), (pairs.row, pairs.col)), shape=pairs.shape)
    model = LightFM(
        no_components=config.factors,
        loss=config.loss,
        learning_rate=config.learning_rate,
        user_alpha=config.regularization,
        item_alpha=config.regularization,
        random_state=seed,
    )
    with threadpool_limits(limits=1, user_api="blas"):
        model.fit(
            positive,
            user_features=customers,
            item_features=products,
            sample_weight=sp.coo_matrix(
                (pairs.data / pairs.data.mean(), (pairs.row, pairs.col)), pairs.shape
            ),
            epochs=config.epochs,
            num_threads=threads or cores(),
        )
    return model


def product_vectors(model: LightFM, products: sp.csr_matrix[np.float32]) -> Float32:
    """Return (products, d + 2): the sums of the vectors, the sums of the biases, and one."""
    summed, bias = products @ model.item_embeddings, products @ model.item_biases
    return np.column_stack([summed, bias, np.ones(len(summed))]).astype(np.float32)


def own_vectors(model: LightFM, known: np.ndarray[Any, np.dtype[np.bool_]]) -> Float32:
    """Return the customers' identities (customers, d + 2), zero for those without a positive event."""
    size = len(known)
    own = _folded(model.user_embeddings[:size], model.user_biases[:size])
    return np.where(known[:, None], own, np.float32(0.0))


def _folded(vectors: Any, biases: Any) -> Float32:
    """Return the customers' side: vectors, zero where products keep their bias, and their own bias."""
    return np.column_stack([vectors, np.zeros(len(vectors)), biases]).astype(np.float32)


def _constant(factors: int) -> Float32:
    constant = np.zeros(factors + 2, dtype=np.float32)
    constant[factors] = 1.0
    return constant
