"""Item-item neighbours: against brute force, and what the service makes of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.typing import NDArray

from feature_repo import schema as s
from serving.errors import BundleError
from serving.neighbours import Neighbours
from serving.recommender import Recommender
from tests.builders import AS_OF
from tests.test_spectral import PRODUCTS, bought, training_set
from training.assemble import assemble
from training.models import knn
from training.models.base import weight_matrix
from training.models.configs import KNNConfig
from training.recipe import Recipe

Float64 = NDArray[np.float64]


def dense(near: Neighbours, size: int = PRODUCTS) -> Float64:
    return sp.csr_matrix((near.data, near.indices, near.indptr), shape=(size, size)).toarray().astype(float)


def unit(rows: Float64) -> Float64:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)


def brute(weights: Float64, config: KNNConfig) -> Float64:
    """Return how near all products are, from the formulas; ``weights`` is (customers × products)."""
    rows = weights.T
    by_product, by_customer = rows.sum(axis=1), rows.sum(axis=0)
    # a customer is a term, a product a document; implicit's logarithm of the inverse frequency
    rarity = np.log(len(rows)) - np.log1p((rows > 0).sum(axis=0))
    match config.similarity:
        case "cosine":
            described = unit(rows)
        case "tfidf":
            described = unit(np.sqrt(rows) * rarity)
        case "bm25":
            length = 1 - config.b + config.b * by_product / by_product.mean()
            described = rows * (config.k1 + 1) / (config.k1 * length[:, None] + rows) * rarity
        case "linear":
            a, b = config.customer_exponent, config.product_exponent
            degree = np.where(by_product > 0, by_product, 1.0)
            described = degree[:, None] ** -b * rows * by_customer**-a
            return degree[:, None] ** -b * (described @ described.T) * degree**b
    return described @ described.T


def fitted(config: KNNConfig, seed: int = 0) -> tuple[Neighbours, Float64]:
    data = training_set(bought(seed))
    weights: Any = weight_matrix(data, config.weights).toarray().astype(np.float64)
    found = knn.fit(data, config, seed=0, threads=1)
    assert found.products is None
    return Neighbours.of(found.matrices), weights


@pytest.mark.parametrize(
    "config",
    [
        KNNConfig(similarity="cosine"),
        KNNConfig(similarity="tfidf"),
        KNNConfig(similarity="bm25"),
        KNNConfig(similarity="bm25", k1=3.0, b=0.2),
        KNNConfig(similarity="linear"),
        KNNConfig(similarity="linear", customer_exponent=0.1, product_exponent=0.7),
    ],
    ids=lambda config: config.similarity,
)
def test_neighbours_are_those_of_brute_force(config: KNNConfig) -> None:
    near, weights = fitted(config)
    # kept in single precision
    np.testing.assert_allclose(dense(near), brute(weights, config), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kept", [1, 3])
def test_each_product_keeps_its_nearest(kept: int) -> None:
    config = KNNConfig(similarity="cosine", neighbours=kept)
    near, weights = fitted(config)
    everything = brute(weights, config)
    for product in range(PRODUCTS):
        own = slice(int(near.indptr[product]), int(near.indptr[product + 1]))
        assert (np.diff(near.indices[own]) > 0).all()
        best = np.sort(everything[product])[::-1][:kept]
        # kept in single precision; products without anything in common are no neighbours
        np.testing.assert_allclose(np.sort(near.data[own])[::-1], best[best > 0], rtol=1e-5)


@pytest.mark.parametrize("similarity", ["cosine", "linear"])
def test_near_a_history_is_the_dense_product(similarity: str) -> None:
    near, _ = fitted(KNNConfig.model_validate({"similarity": similarity, "neighbours": 4}))
    generator = np.random.default_rng(0)
    for size in (1, 2, 5, PRODUCTS):
        products = np.sort(generator.permutation(PRODUCTS)[:size]).astype(np.int32)
        weights = generator.uniform(0.1, 3.0, size)
        found, sums = near.near(products, weights)
        wanted = weights @ dense(near)[products]
        assert found.dtype == np.int32 and sums.dtype == np.float32
        assert found.tolist() == np.flatnonzero(wanted).tolist()
        np.testing.assert_allclose(sums, wanted[found], rtol=1e-6)  # single precision


def test_nothing_is_near_an_empty_history_or_a_product_without_neighbours() -> None:
    near, _ = fitted(KNNConfig())
    lonely = np.array([PRODUCTS - 1], dtype=np.int32)  # touched by nobody
    for products in (lonely, lonely[:0]):
        found, sums = near.near(products, np.ones(len(products)))
        assert (len(found), len(sums)) == (0, 0)


def test_arrays_survive_their_names() -> None:
    near, _ = fitted(KNNConfig())
    again = Neighbours.of(near.arrays())
    for part in ("indptr", "indices", "data"):
        assert getattr(again, part) is getattr(near, part)


@pytest.mark.parametrize("similarity", ["cosine", "tfidf", "bm25", "linear"])
def test_nearness_is_finite_where_a_customer_took_almost_everything(similarity: str) -> None:
    """With all products but one the inverse frequency of a customer is log 1 = 0, and so is the length of what
    nobody else took: near nothing, not near everything by 0 / 0."""
    rows = [(0, product, s.PURCHASE, 1.0) for product in range(3)]
    rows += [(1, product, s.PURCHASE, 1.0) for product in (0, 1)]
    data = training_set(rows, customers=2, products=4)
    found = knn.fit(data, KNNConfig.model_validate({"similarity": similarity}), seed=0, threads=1)
    near = Neighbours.of(found.matrices)
    assert np.isfinite(near.data).all()
    assert dense(near, 4)[0, 1] > 0


def test_a_bundle_without_its_neighbours_is_told() -> None:
    data = training_set(bought())
    recipe = Recipe.model_validate({"name": "knn", "model": "knn"})
    bundle = assemble(recipe, data, seed=0, threads=1, tables_hash="", now=AS_OF)
    fewer = {name: array for name, array in bundle.matrices.items() if name != "neighbours.indices"}
    with pytest.raises(BundleError, match=r"array 'neighbours\.indices'"):
        Recommender(dataclasses.replace(bundle, matrices=fewer), data.reader)
