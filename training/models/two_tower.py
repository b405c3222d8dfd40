"""Two towers in torch: products by identity and description, customers by history and features.

A product is the vector of its identity plus those of its category, price band, attributes and the hashed character
n-grams of its name, brought to length one. A customer is the pooled history plus the vectors of the customer's
features, corrected by a hidden layer; ``serving.encoders.tower`` is that tower in NumPy. Identities start from the
spectral model's vectors, descriptions from their least-squares fit to them, so that training begins where linear
models end and a product nobody has bought yet has a place. Customers without a history have dimensions of their own.

A step shows a random part of the history of a batch of customers and asks for the rest by softmax over the catalog:
exact for the products of the batch, estimated for all others by uniform negatives with their logQ correction.

Sources: Covington et al., "Deep neural networks for YouTube recommendations" (RecSys 2016); Yi et al.,
"Sampling-bias-corrected neural modeling for large corpus item recommendations" (RecSys 2019); Wu et al., "On the
effectiveness of sampled softmax loss for item recommendation" (TOIS 2024) for cosines and temperature; Volkovs et al.,
"DropoutNet" (NeurIPS 2017) for leaving identities out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from serving.encoders.spec import HISTORY_VECTORS, PRODUCT_SCALE, TowerSpec
from training.dataset import TrainingSet
from training.models import newcomers, spectral, tokens
from training.models.base import Embeddings, cores, weight_matrix
from training.models.configs import SpectralConfig, TwoTowerConfig
from training.models.newcomers import least_squares
from training.models.two_tower_net import Towers
from training.models.two_tower_steps import Examples, Judge


def fit(data: TrainingSet, config: TwoTowerConfig, *, seed: int, threads: int = 0) -> Embeddings:
    """Fit the two towers, stopping when held-out products are no longer ranked better.

    Parameters
    ----------
    data
        What was known at its ``as_of``.
    config
        Settings.
    seed
        Seed of whatever is drawn; with one thread on a CPU the same seed gives the same vectors.
    threads
        Threads of torch; 0 takes every core. A GPU is used, with mixed precision, where there is one.
    """
    with torch_threads(threads or cores()):
        torch.manual_seed(seed)
        generator = np.random.default_rng(seed)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        matrix = weight_matrix(data, config.weights)
        rows = tokens.customer_rows(data)
        vocabulary = tokens.learn(rows, min_count=config.min_count)
        features = tokens.matrix(rows, vocabulary)
        description = described(data, config)
        judge, kept = Judge.hold_out(matrix, features, generator)
        towers = started(kept, description, features, config, seed=seed).to(device)
        on_sale = data.catalog.on_sale(data.as_of)
        examples = Examples(kept, features, pool=np.flatnonzero(on_sale | (np.diff(kept.tocsc().indptr) > 0)))
        train(towers, examples, judge, config, generator)
        spec = TowerSpec(weights=config.weights, vocabulary=vocabulary)
        lately = config.weights.model_copy(update={"half_life_days": config.newcomer_half_life_days})
        return exported(
            towers, spec, *newcomers.fit(matrix, weight_matrix(data, lately), features, description)
        )


def described(data: TrainingSet, config: TwoTowerConfig) -> sp.csr_matrix[np.float32]:
    """Return the descriptions of the products (products × tokens): features, then n-grams of names."""
    rows = tokens.product_rows(data.catalog)
    known = tokens.matrix(rows, tokens.learn(rows, min_count=config.min_count))
    grams = tokens.name_grams(data.catalog, config.name_buckets)
    used = np.flatnonzero(np.diff(grams.tocsc().indptr) > 0)
    return sp.hstack([known, grams[:, used]]).tocsr().astype(np.float32)


def started(
    matrix: sp.csr_matrix[np.float32],
    description: sp.csr_matrix[np.float32],
    features: sp.csr_matrix[np.float32],
    config: TwoTowerConfig,
    *,
    seed: int,
) -> Towers:
    """Return towers that start from the spectral model of ``matrix`` and descriptions fitted to its vectors."""
    settings = SpectralConfig(factors=config.factors, iterations=2, weights=config.weights)
    values, right = spectral.decomposed(spectral.normalised(matrix, settings), settings, seed=seed)
    linear = spectral.embeddings(matrix, values, right, settings)
    assert linear.products is not None
    products = np.zeros((matrix.shape[1], config.factors), dtype=np.float32)
    products[:, : linear.products.shape[1]] = linear.products
    history = products * linear.weights[PRODUCT_SCALE][:, None]
    length = np.linalg.norm(products, axis=1, keepdims=True)
    known = length[:, 0] > 0
    history *= 1 / np.sqrt(config.factors) / max(float(np.sqrt((history[known] ** 2).mean())), 1e-12)
    # a softmax begins best with a product's bias at the logarithm of how much it is bought; the least bought has 0
    degree = np.asarray(matrix.sum(axis=0)).ravel()
    least = degree[degree > 0].min()
    bias = np.log(np.maximum(degree, least) / least) / np.sqrt(config.factors)
    wanted = np.column_stack([products / np.maximum(length, 1e-12), bias]).astype(np.float32)
    table = least_squares(description, wanted, known)
    pooled = matrix @ history
    pooled /= np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
    active = np.diff(matrix.indptr) > 0
    return Towers(
        identity=np.where(known[:, None], wanted - description @ table, np.float32(0.0)),
        known=known,
        description=description,
        table=table,
        history=history,
        features=least_squares(features, pooled - pooled[active].mean(axis=0), active),
        config=config,
    )


def train(
    towers: Towers, examples: Examples, judge: Judge, config: TwoTowerConfig, generator: np.random.Generator
) -> None:
    """Train until ``patience`` epochs in a row rank held-out products no better; leave the best state."""
    pace = config.learning_rate / np.sqrt(config.factors)
    # few features, each of many customers, are moved with care
    groups = [{"params": towers.tables()}, {"params": [towers.features.weight], "lr": pace / 10}]
    tables: torch.optim.Optimizer = torch.optim.SparseAdam(groups, lr=pace, betas=(0.9, 0.99))
    layers = torch.optim.Adam(towers.layers(), lr=pace, betas=(0.9, 0.99))
    best, state, worse = judge.score(towers), towers.copied(), 0
    for _ in range(config.epochs):
        for batch in examples.epoch(config, generator):
            with towers.mixed_precision():
                loss = towers.loss(batch)
            tables.zero_grad(set_to_none=True)
            layers.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            tables.step()
            layers.step()
        score = judge.score(towers)
        if score > best:
            best, state, worse = score, towers.copied(), 0
        else:
            worse += 1
            if worse == config.patience:
                break
    towers.load_state_dict(state)


def exported(
    towers: Towers, spec: TowerSpec, columns: NDArray[np.float32], lifts: NDArray[np.float32]
) -> Embeddings:
    """Return the towers as arrays; ``columns`` and ``lifts`` serve newcomers (see ``training.models.newcomers``)."""
    with torch.no_grad():
        products = towers.products().float().cpu().numpy()
        return Embeddings(
            np.hstack([products, columns]),
            spec,
            matrices={HISTORY_VECTORS: towers.history.weight.float().cpu().numpy().copy()},
            weights={**towers.exported_layers(), "newcomers": lifts},
        )


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Give torch this many threads, and what it had before when done."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
