"""The spectral model: its scores are those of the filter, computed densely; customers are exchangeable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from numpy.typing import NDArray

from feature_repo import schema as s
from feature_repo.recent import DAY_US, KIND_CODES, History, to_micros
from serving.catalog import REPURCHASE_DAYS, Catalog
from serving.encoders.spec import PRODUCT_SCALE, Parts, PoolingSpec, encoder
from serving.features import CustomerState, FrameReader
from serving.subject import Bought, Subject
from tests.builders import AS_OF
from training.dataset import IdMap, TrainingSet
from training.models import spectral
from training.models.base import Embeddings, weight_matrix
from training.models.configs import SpectralConfig

CUSTOMERS, PRODUCTS = 9, 14
Row = tuple[int, int, str, float]
Float64 = NDArray[np.float64]


def bought(seed: int = 0, *, customers: int = CUSTOMERS, products: int = PRODUCTS) -> list[Row]:
    """Events (customer, product, kind, days ago), of several kinds and ages; the last product is never touched."""
    generator = np.random.default_rng(seed)
    rows: list[Row] = []
    for customer in range(customers):
        for product in generator.permutation(products - 1)[: int(generator.integers(3, 8))].tolist():
            kind = str(generator.choice([s.VIEW, s.CART, s.PURCHASE]))
            rows.append((customer, product, kind, float(generator.uniform(1, 90))))
    return rows


def training_set(rows: Sequence[Row], *, customers: int = CUSTOMERS, products: int = PRODUCTS) -> TrainingSet:
    """Exactly these events, without features."""
    ids = [f"p{number:02d}" for number in range(products)]
    frame = pd.DataFrame({s.PRODUCT_ID: ids, s.AVAILABLE: pd.array([True] * products, dtype="boolean")})
    for name in (s.NAME, s.CATEGORY, s.PRICE, s.LAUNCHED_AT, s.WITHDRAWN_AT, REPURCHASE_DAYS):
        frame[name] = np.nan if name in (s.PRICE, REPURCHASE_DAYS) else None
    rows = sorted(rows, key=lambda row: -row[3])
    names = IdMap(tuple(f"c{number:02d}" for number in range(customers)))
    at = [to_micros(AS_OF) - int(days * DAY_US) for *_, days in rows]
    states = {
        name: CustomerState(
            {},
            History.of(
                (ids[p], kind, t, 1.0) for (c, p, kind, _), t in zip(rows, at, strict=True) if c == number
            ),
        )
        for number, name in enumerate(names.ids)
    }
    return TrainingSet(
        as_of=AS_OF,
        customers=names,
        catalog=Catalog(frame),
        customer_idx=np.array([row[0] for row in rows], dtype=np.int32),
        product_idx=np.array([row[1] for row in rows], dtype=np.int32),
        kinds=np.array([KIND_CODES[row[2]] for row in rows], dtype=np.int8),
        at=np.array(at, dtype=np.int64),
        reader=FrameReader(states),
    )


def scores(fitted: Embeddings, data: TrainingSet) -> Float64:
    """Return what the service would score (customers × products), from the histories alone."""
    assert fitted.products is not None
    made = encoder(
        fitted.encoder,  # type: ignore[arg-type]
        Parts(fitted.products, fitted.matrices, fitted.weights, data.catalog.index, data.as_of),
    )
    nothing = np.empty(0, dtype=np.int32)
    none = Bought(nothing, nothing, nothing.astype(np.int64))
    found = []
    for state in data.reader.read(data.customers.ids, data.as_of):
        query = made.encode(Subject(None, "", state.history, nothing, none, data.as_of))
        assert query is not None
        found.append(fitted.products.astype(np.float64) @ query)
    return np.array(found)


def dense(data: TrainingSet, config: SpectralConfig) -> Float64:
    """Return the weights (customers × products)."""
    weights: Float64 = weight_matrix(data, config.weights).toarray().astype(np.float64)
    return weights


def filtered(weights: Float64, histories: Float64, config: SpectralConfig) -> Float64:
    """Return ``w D_p^-b V f(S) Vᵀ D_p^b`` for every row w of ``histories``, by NumPy's full decomposition."""
    by_customer, by_product = weights.sum(axis=1), weights.sum(axis=0)
    touched = by_product > 0
    a, b = config.customer_exponent, config.product_exponent
    degree = by_product[touched]
    normalised = by_customer[:, None] ** -a * weights[:, touched] * degree**-b
    _, values, right = np.linalg.svd(normalised, full_matrices=False)
    values, right = values[: config.factors], right[: config.factors]
    response = values**2 / (values**2 + config.damping * values[-1] ** 2)
    found = np.zeros(histories.shape)
    found[:, touched] = (histories[:, touched] * degree**-b) @ right.T @ np.diag(response) @ right * degree**b
    return found


@pytest.mark.parametrize("damping", [0.0, 0.7, 20.0])
@pytest.mark.parametrize(
    ("factors", "exponents"), [(64, (0.5, 0.5)), (64, (0.3, 0.6)), (64, (0.0, 0.0)), (4, (0.4, 0.4))]
)
def test_scores_are_those_of_the_filter(factors: int, exponents: tuple[float, float], damping: float) -> None:
    """For the customers of training and for others; of fewer customers than products, so that even with all factors
    the others' histories are filtered."""
    config = SpectralConfig(
        factors=factors,
        customer_exponent=exponents[0],
        product_exponent=exponents[1],
        damping=damping,
        iterations=40,
    )
    data, others = training_set(bought()), training_set(bought(9))
    own, new = (dense(one, config) for one in (data, others))
    fitted = spectral.fit(data, config, seed=0, threads=1)
    wanted = filtered(own, new, config)
    assert np.abs(wanted - new).max() > 0.3  # the filter has something to do
    # single precision throughout, and scores of size one
    np.testing.assert_allclose(scores(fitted, others), wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scores(fitted, data), filtered(own, own, config), rtol=1e-4, atol=1e-4)


def test_undamped_and_whole_it_gives_the_history_back() -> None:
    """Of more customers than products every direction is kept: a law of the ideal filter, needs no reference."""
    rows = bought(1, customers=60, products=8)
    data = training_set(rows, customers=60, products=8)
    config = SpectralConfig(factors=8, damping=0.0)
    found = scores(spectral.fit(data, config, seed=0, threads=1), data)
    np.testing.assert_allclose(found, dense(data, config), rtol=1e-4, atol=1e-4)  # single precision


def test_customers_are_exchangeable() -> None:
    """Who comes first in the table says nothing: products score the same for the same customer."""
    order = np.random.default_rng(5).permutation(CUSTOMERS)
    rows = bought(2)
    renamed = [(int(order[customer]), *rest) for customer, *rest in rows]
    config = SpectralConfig(factors=6, iterations=40)
    first, second = (training_set(events) for events in (rows, renamed))
    found = [scores(spectral.fit(data, config, seed=0, threads=1), data) for data in (first, second)]
    # the decomposition starts at random and works in single precision
    np.testing.assert_allclose(found[1][order], found[0], rtol=1e-4, atol=1e-4)
    assert np.abs(found[1] - found[0]).max() > 0.1  # the same only once put back in order


def test_what_is_kept_is_the_history_of_the_service() -> None:
    """The spec weighs events as the fit did, and a product nobody touched has neither vector nor scale."""
    config = SpectralConfig(factors=5, product_exponent=0.25)
    data = training_set(bought(3))
    fitted = spectral.fit(data, config, seed=0, threads=1)
    assert fitted.encoder == PoolingSpec(weights=config.weights)
    assert fitted.products is not None and not fitted.products[-1].any()
    degree = dense(data, config).sum(axis=0)
    wanted = np.where(degree > 0, np.maximum(degree, 1e-12) ** -0.5, 0.0)
    # degrees are summed in single precision
    np.testing.assert_allclose(fitted.weights[PRODUCT_SCALE], wanted, rtol=1e-5)


def test_directions_without_weight_are_left_out() -> None:
    """Of a matrix of rank two no third direction is made of rounding errors, whatever ``factors`` ask for."""
    matrix = sp.csr_matrix(np.kron(np.eye(2), np.ones((5, 4))).astype(np.float32))
    config = SpectralConfig(factors=8)
    values, right = spectral.decomposed(spectral.normalised(matrix, config), config, seed=0)
    fitted = spectral.embeddings(matrix, values, right, config)
    assert fitted.products is not None and fitted.products.shape == (8, 2)
