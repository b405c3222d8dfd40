"""Exact search by length: whatever is left unscored could not have been among the best."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import scan
from serving.scan import Scan, inner, nth_at_least


def brute(vectors: np.ndarray, query: np.ndarray, n: int, allowed: np.ndarray | None) -> list[int]:
    """The n best allowed products, ties by index, by sorting everything."""
    scores = vectors @ query
    rows = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    return rows[np.lexsort((rows, -scores[rows]))][:n].tolist()


@given(
    data=st.data(), seed=st.integers(0, 2**16), size=st.integers(1, 600), first=st.sampled_from([1, 16, 100])
)
@settings(max_examples=150, deadline=None)
def test_equals_sorting_everything(data: st.DataObject, seed: int, size: int, first: int) -> None:
    """Small whole numbers: inner products are exact, and many are equal."""
    generator = np.random.default_rng(seed)
    vectors = generator.integers(-3, 4, size=(size, 4)).astype(np.float32)
    vectors *= generator.choice([0, 1, 1, 1, 8], size=(size, 1))  # few long ones, some of length 0
    query = generator.integers(-3, 4, size=4).astype(np.float32)
    share = data.draw(st.sampled_from([None, 0.05, 0.5, 0.95]))
    allowed = None if share is None else generator.random(size) < share
    passing = size if allowed is None else int(allowed.sum())
    n = data.draw(st.integers(1, 40))
    n = min(n, passing)
    if n == 0:
        return
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scan, "FIRST", first)
        products, scores = Scan(vectors).search(query, n, allowed=allowed, passing=passing)
    assert products.tolist() == brute(vectors, query, n, allowed)
    np.testing.assert_array_equal(scores, vectors[products] @ query)


def test_products_too_short_to_matter_are_not_scored() -> None:
    generator = np.random.default_rng(3)
    vectors = generator.standard_normal((20_000, 16)).astype(np.float32)
    vectors *= np.exp(generator.normal(0.0, 1.0, size=(20_000, 1))).astype(np.float32)
    search = Scan(vectors)
    query = vectors[np.argsort(-np.linalg.norm(vectors, axis=1))[:3]].mean(axis=0)
    search._turned[:, 10_000:] = np.nan  # were they scored, the answer would not be a number
    products, scores = search.search(query, 10, allowed=None, passing=len(vectors))
    assert products.tolist() == brute(vectors, query, 10, None)
    assert np.isfinite(scores).all()


@given(data=st.data(), seed=st.integers(0, 2**16), size=st.integers(1, 400), longest=st.integers(0, 400))
@settings(max_examples=150, deadline=None)
def test_the_best_are_among_the_longest_or_it_says_so(
    data: st.DataObject, seed: int, size: int, longest: int
) -> None:
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((size, 4)).astype(np.float32)
    vectors *= generator.choice([0, 1, 1, 1, 8], size=(size, 1))
    query = generator.standard_normal(4).astype(np.float32)
    share = data.draw(st.sampled_from([None, 0.05, 0.5, 0.95]))
    allowed = None if share is None else generator.random(size) < share
    n = data.draw(st.integers(1, 40))
    search = Scan(vectors, longest=longest)
    among, are_all = search.among_longest(query, n, allowed=allowed)
    best = brute(vectors, query, n, allowed)
    assert len(set(among.tolist())) == len(among)
    assert allowed is None or allowed[among].all()
    assert set(best) & set(search.held.tolist()) <= set(among.tolist())
    if are_all:
        assert len(best) == n
        assert set(best) <= set(among.tolist())


def test_inner_products_are_of_the_rows_asked_for() -> None:
    vectors = np.arange(12, dtype=np.float32).reshape(4, 3)
    query = np.array([1, 0, 2], dtype=np.float32)
    assert inner(vectors, np.array([3, 0, 3], dtype=np.int32), query).tolist() == [31.0, 4.0, 31.0]
    assert inner(vectors, np.empty(0, dtype=np.int64), query).tolist() == []


def test_a_query_of_nothing_but_zeros_has_an_answer() -> None:
    vectors = np.ones((300, 3), dtype=np.float32)
    products, scores = Scan(vectors).search(np.zeros(3, dtype=np.float32), 5, allowed=None, passing=300)
    assert products.tolist() == [0, 1, 2, 3, 4]
    assert not scores.any()


@given(
    scores=st.lists(st.integers(-5, 5), min_size=1, max_size=500).map(
        lambda v: np.array(v, dtype=np.float32)
    ),
    data=st.data(),
)
def test_the_bound_is_reached_by_n(scores: np.ndarray, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(scores)))
    bound = nth_at_least(scores, n)
    assert (scores >= bound).sum() >= n
