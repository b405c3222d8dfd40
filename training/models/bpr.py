"""Bayesian personalised ranking, by the library ``implicit``: vectors of customers and products, and product biases.

Source: Rendle et al., "BPR: Bayesian personalized ranking from implicit feedback" (UAI 2009). The library draws the
product that a customer did not want from all events, so in proportion to popularity; what is fitted then ranks by how
much *more* than others a customer wants a product. ``logq_correction`` gives a product's bias back the logarithm of
how often it is drawn (Yi et al., "Sampling-bias-corrected neural modeling", RecSys 2019), wholly at 1. Customers are
looked up: whoever was not in training has no vector, and what happens afterwards does not move one.
"""

from __future__ import annotations

import numpy as np
from implicit.bpr import BayesianPersonalizedRanking
from threadpoolctl import threadpool_limits

from serving.encoders.spec import CUSTOMERS, LookupSpec
from training.dataset import TrainingSet
from training.models.base import Embeddings, degrees, weight_matrix
from training.models.configs import BPRConfig


def fit(data: TrainingSet, config: BPRConfig, *, seed: int, threads: int = 0) -> Embeddings:
    """Fit BPR.

    Parameters
    ----------
    data
        What was known at its ``as_of``.
    config
        Settings.
    seed
        Seed of the start and of the draws; with one thread the same seed gives the same vectors.
    threads
        Threads of ``implicit``, which runs without locks; 0 takes every core.
    """
    matrix = weight_matrix(data, config.weights)
    matrix.data[:] = 1.0
    with threadpool_limits(limits=1, user_api="blas"):
        model = BayesianPersonalizedRanking(
            factors=config.factors,
            learning_rate=config.learning_rate,
            regularization=config.regularization,
            iterations=config.epochs,
            dtype=np.float32,
            use_gpu=False,
            num_threads=threads,
            random_state=seed,
        )
        model.fit(matrix, show_progress=False)
    by_customer, by_product = degrees(matrix)
    products = np.array(model.item_factors, dtype=np.float32)
    products[:, -1] += config.logq_correction * np.log(np.maximum(by_product, 1.0))
    customers = np.array(model.user_factors, dtype=np.float32)
    products[by_product == 0] = 0.0
    customers[by_customer == 0] = 0.0
    return Embeddings(products, LookupSpec(), matrices={CUSTOMERS: customers})
