"""Newcomers: popularity times the lifts of their features, equal to the formula, and what it says of a planted shop."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from training.models import newcomers

CUSTOMERS, PRODUCTS, GROUPS = 1000, 24, 4


def planted(seed: int = 0) -> tuple[sp.csr_matrix[np.float32], sp.csr_matrix[np.float32]]:
    """Customers of a group, which one feature tells, buy its products six times as often; another feature is noise."""
    generator = np.random.default_rng(seed)
    group = generator.integers(GROUPS, size=CUSTOMERS)
    appeal = generator.uniform(0.08, 0.15, PRODUCTS)
    chance = appeal * np.where(group[:, None] == np.arange(PRODUCTS) % GROUPS, 4.0, 0.66)
    bought = (generator.random((CUSTOMERS, PRODUCTS)) < chance).astype(np.float32)
    told = np.zeros((CUSTOMERS, GROUPS + 1), dtype=np.float32)
    told[np.arange(CUSTOMERS), group] = 1.0
    told[:, GROUPS] = generator.random(CUSTOMERS) < 0.5
    return sp.csr_matrix(bought), sp.csr_matrix(told)


def nothing(products: int = PRODUCTS) -> sp.csr_matrix[np.float32]:
    return sp.csr_matrix((products, 0), dtype=np.float32)


def test_scores_are_the_formula() -> None:
    matrix, features = planted()
    recent = sp.csr_matrix(matrix.multiply(np.random.default_rng(1).random((CUSTOMERS, 1)) < 0.3))
    columns, table = newcomers.fit(matrix, recent.astype(np.float32), features, nothing())
    assert columns.shape == (PRODUCTS, GROUPS + 2) and table.shape == (GROUPS + 1, GROUPS + 1)
    bought, told = matrix.toarray().astype(float), features.toarray().astype(float)
    lately = np.asarray(recent.sum(axis=0)).ravel()
    for tokens in ([0], [2, GROUPS], []):
        wanted = np.log(np.maximum(lately, lately[lately > 0].min()) / lately[lately > 0].min())
        for token in tokens:
            own = bought[told[:, token] > 0]
            share = own.sum() / bought.sum()
            prior = newcomers.PRIOR * share
            wanted = wanted + np.log((own.sum(axis=0) + prior) / (share * bought.sum(axis=0) + prior))
        found = columns @ np.append(table[tokens].sum(axis=0), 1.0)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)  # single precision


def test_the_feature_that_tells_is_heard_and_the_other_is_not() -> None:
    matrix, features = planted()
    columns, table = newcomers.fit(matrix, matrix, features, nothing())
    for group in range(GROUPS):
        first = np.argsort(-(columns @ np.append(table[group], 1.0)))[: PRODUCTS // GROUPS]
        assert set(first % GROUPS) == {group}
    # all that it says of 24 products is chance: some 85 purchases of each by customers with it
    assert np.abs(columns[:, :-1] @ table[GROUPS]).max() < 0.4
    assert np.abs(columns[:, :-1] @ table[0]).max() > 0.8


def test_without_features_what_is_popular_now() -> None:
    matrix, _ = planted()
    columns, table = newcomers.fit(matrix, matrix, sp.csr_matrix((CUSTOMERS, 0), dtype=np.float32), nothing())
    assert columns.shape == (PRODUCTS, 1) and table.shape == (0, 0)
    degree = np.asarray(matrix.sum(axis=0)).ravel()
    np.testing.assert_allclose(columns[:, 0], np.log(degree / degree.min()), rtol=1e-6)


@pytest.mark.parametrize("informed", [True, False], ids=["with features", "without"])
def test_what_nobody_bought_is_placed_by_its_description_or_not_at_all(informed: bool) -> None:
    matrix, features = planted()
    if not informed:  # customers of whom a shop knows nothing
        features = sp.csr_matrix((CUSTOMERS, 0), dtype=np.float32)
    never = sp.csr_matrix((CUSTOMERS, 2), dtype=np.float32)
    matrix = sp.csr_matrix(sp.hstack([matrix, never]), dtype=np.float32)
    words = np.zeros((PRODUCTS + 2, GROUPS), dtype=np.float32)
    words[np.arange(PRODUCTS), np.arange(PRODUCTS) % GROUPS] = 1.0
    words[PRODUCTS, 1] = 1.0  # the first is like those of group 1, of the other nothing is told
    columns, table = newcomers.fit(matrix, matrix, features, sp.csr_matrix(words))
    if informed:
        leaning = [float(columns[PRODUCTS, :-1] @ table[group]) for group in range(GROUPS)]
        assert int(np.argmax(leaning)) == 1
    like = columns[1:PRODUCTS:GROUPS, -1]
    assert like.min() - 0.5 < columns[PRODUCTS, -1] < like.max()
    assert not columns[PRODUCTS + 1].any()


@pytest.mark.parametrize("tokens", [70, 200])
def test_many_features_are_brought_to_few_numbers(tokens: int) -> None:
    matrix, _ = planted()
    generator = np.random.default_rng(3)
    many = sp.csr_matrix(generator.random((CUSTOMERS, tokens)) < 0.1, dtype=np.float32)
    columns, table = newcomers.fit(matrix, matrix, many, nothing())
    assert columns.shape == (PRODUCTS, PRODUCTS + 1) and table.shape == (tokens, PRODUCTS)
    np.testing.assert_allclose(table @ columns[:, :-1].T, newcomers.lifts(matrix, many), rtol=1e-4, atol=1e-4)
