"""Metrics: equal to ranx, equal to a naive reference, and right where the answer can be proved."""

from __future__ import annotations

from math import log2

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.beyond import coverage, gini, gini_of_counts, intra_list_diversity, novelty, self_information
from eval.metrics import (
    F1,
    HR,
    MAP,
    METRICS,
    MRR,
    NDCG,
    PRECISION,
    RECALL,
    Relevant,
    hits,
    ranking_metrics,
)
from feature_repo.errors import ConfigError, DataError
from feature_repo.schema import CUSTOMER_IDX, PRODUCT_IDX

Lists = list[list[int]]


def relevant_of(truth: Lists, *, n_products: int) -> Relevant:
    pairs = [(customer, product) for customer, row in enumerate(truth) for product in row]
    frame = pd.DataFrame(pairs, columns=[CUSTOMER_IDX, PRODUCT_IDX], dtype=np.int32)
    return Relevant.from_frame(frame, n_products=n_products)


def ranked_of(lists: Lists, *, width: int) -> np.ndarray:
    return np.array([row + [-1] * (width - len(row)) for row in lists], dtype=np.int32).reshape(-1, width)


def random_case(seed: int, *, customers: int, n_products: int, width: int, most: int) -> tuple[Lists, Lists]:
    """Draw ranked lists of 0 to ``width`` products and truths of 1 to ``most``, one random set each."""
    rng = np.random.default_rng(seed)
    lists = [rng.permutation(n_products)[: rng.integers(0, width + 1)].tolist() for _ in range(customers)]
    truth = [rng.permutation(n_products)[: rng.integers(1, most + 1)].tolist() for _ in range(customers)]
    return lists, truth


# --- against ranx -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*unsafe cast from uint64")  # numba, while it compiles ranx
def test_equal_to_ranx_for_every_customer() -> None:
    import numba as nb  # here, because the two take seconds to import
    import ranx

    width, n_products = 20, 60
    lists, truth = random_case(0, customers=200, n_products=n_products, width=width, most=30)
    assert min(map(len, lists)) == 0  # empty lists, short lists and truths longer than any k are among them
    ranked, relevant = ranked_of(lists, width=width), relevant_of(truth, n_products=n_products)

    # ranx's own array form, (id, relevance) and (id, score) by falling score: its dictionaries cannot
    # hold a customer with an empty list.
    qrels = nb.typed.List([np.array([(product, 1.0) for product in row]) for row in truth])
    run = nb.typed.List(
        [np.array([(p, -float(rank)) for rank, p in enumerate(row)]).reshape(-1, 2) for row in lists]
    )
    theirs = {
        RECALL: "recall",
        PRECISION: "precision",
        F1: "f1",
        HR: "hit_rate",
        MRR: "mrr",
        MAP: "map",
        NDCG: "ndcg",
    }
    assert set(theirs) == set(METRICS)
    for k in (1, 5, 20):
        ours = ranking_metrics(ranked, relevant, k=k)
        expected = ranx.evaluate(qrels, run, [f"{name}@{k}" for name in theirs.values()], return_mean=False)
        for column, name in theirs.items():
            npt.assert_allclose(
                ours[column], expected[f"{name}@{k}"], atol=1e-9, rtol=0, err_msg=f"{name}@{k}"
            )


# --- against a naive reference ----------------------------------------------------------------------------


def naive(row: list[int], taken: set[int], k: int) -> dict[str, float]:
    found = [product in taken for product in row[:k]]
    ranks = [rank for rank, hit in enumerate(found, start=1) if hit]
    ideal = sum(1 / log2(rank + 1) for rank in range(1, min(len(taken), k) + 1))
    return {
        RECALL: len(ranks) / len(taken),
        PRECISION: len(ranks) / k,
        F1: 2 * len(ranks) / (k + len(taken)),
        HR: float(bool(ranks)),
        MRR: 1 / ranks[0] if ranks else 0.0,
        MAP: sum(sum(found[:rank]) / rank for rank in ranks) / len(taken),
        NDCG: sum(1 / log2(rank + 1) for rank in ranks) / ideal,
    }


@st.composite
def cases(draw: st.DrawFn) -> tuple[Lists, Lists, int, int, int]:
    n_products = draw(st.integers(1, 12))
    width = draw(st.integers(1, 12))
    products = st.integers(0, n_products - 1)
    rows = draw(
        st.lists(
            st.tuples(
                st.lists(products, unique=True, max_size=width),
                st.lists(products, min_size=1, max_size=15),  # with repeats: they count once
            ),
            min_size=1,
            max_size=8,
        )
    )
    lists, truth = [list(row) for row, _ in rows], [list(taken) for _, taken in rows]
    return lists, truth, n_products, width, draw(st.integers(1, width))


@settings(max_examples=150, deadline=None)
@given(cases())
def test_equal_to_the_naive_reference(case: tuple[Lists, Lists, int, int, int]) -> None:
    lists, truth, n_products, width, k = case
    ranked, relevant = ranked_of(lists, width=width), relevant_of(truth, n_products=n_products)
    before = ranked.copy()
    result = ranking_metrics(ranked, relevant, k=k)
    expected = pd.DataFrame([naive(row, set(taken), k) for row, taken in zip(lists, truth, strict=True)])
    npt.assert_allclose(result[list(METRICS)], expected[list(METRICS)], atol=1e-12, rtol=0)
    assert result.to_numpy().min() >= 0
    assert result.to_numpy().max() <= 1 + 1e-12
    npt.assert_array_equal(ranked, before)
    in_truth = [
        [product in taken for product in row] + [False] * (width - len(row))
        for row, taken in zip(lists, truth, strict=True)
    ]
    npt.assert_array_equal(hits(ranked, relevant), in_truth)


@settings(max_examples=50, deadline=None)
@given(cases(), st.integers(0, 1000))
def test_customers_do_not_influence_each_other(case: tuple[Lists, Lists, int, int, int], seed: int) -> None:
    lists, truth, n_products, width, k = case
    order = np.random.default_rng(seed).permutation(len(lists))
    result = ranking_metrics(ranked_of(lists, width=width), relevant_of(truth, n_products=n_products), k=k)
    other = ranking_metrics(
        ranked_of([lists[i] for i in order], width=width),
        relevant_of([truth[i] for i in order], n_products=n_products),
        k=k,
    )
    npt.assert_array_equal(result.to_numpy()[order], other.to_numpy())


# --- where the answer is known ----------------------------------------------------------------------------


def test_a_random_ranking_recalls_k_out_of_the_catalogue() -> None:
    # Hits of a random list are hypergeometric: mean k·T/P, variance k·(T/P)·(1−T/P)·(P−k)/(P−1).
    # Four exact standard errors of the mean over customers; about 2 % of the value itself.
    rng = np.random.default_rng(5)
    n, n_products, k = 3000, 100, 10
    ranked = rng.permuted(np.tile(np.arange(n_products, dtype=np.int32), (n, 1)), axis=1)
    sizes = rng.integers(1, 40, n)
    relevant = relevant_of(
        [rng.permutation(n_products)[:size].tolist() for size in sizes], n_products=n_products
    )
    result = ranking_metrics(ranked, relevant, k=k)
    share = sizes / n_products
    variance = k * share * (1 - share) * (n_products - k) / (n_products - 1)

    def error(scale: np.ndarray | int) -> float:
        return 4 * float(np.sqrt((variance / scale**2).sum())) / n

    assert error(sizes) < 0.1 * k / n_products
    assert result[RECALL].mean() == pytest.approx(k / n_products, abs=error(sizes))
    assert result[PRECISION].mean() == pytest.approx(share.mean(), abs=error(k))


def test_an_oracle_scores_one() -> None:
    _, truth = random_case(6, customers=50, n_products=40, width=1, most=10)
    relevant = relevant_of(truth, n_products=40)
    ranked = ranked_of([row + [p for p in range(40) if p not in row] for row in truth], width=40)
    result = ranking_metrics(ranked, relevant, k=10)
    npt.assert_allclose(result.drop(columns=[PRECISION, F1]), 1.0, rtol=1e-12)
    npt.assert_allclose(result[PRECISION], relevant.sizes / 10, rtol=1e-12)


def test_an_oracle_with_more_relevant_products_than_places() -> None:
    result = ranking_metrics(ranked_of([[0, 1]], width=2), relevant_of([[0, 1, 2, 3]], n_products=9), k=2)
    expected = {RECALL: 0.5, PRECISION: 1.0, F1: 2 / 3, HR: 1.0, MRR: 1.0, MAP: 0.5, NDCG: 1.0}
    assert result.iloc[0].to_dict() == pytest.approx(expected)


def test_the_oracle_reversed_puts_every_hit_last() -> None:
    # 2 hits at ranks 4 and 5 of 5: mrr 1/4, map (1/4 + 2/5)/2, dcg 1/log2(5) + 1/log2(6).
    result = ranking_metrics(ranked_of([[4, 3, 2, 1, 0]], width=5), relevant_of([[0, 1]], n_products=5), k=5)
    ndcg = (1 / log2(5) + 1 / log2(6)) / (1 + 1 / log2(3))
    expected = {RECALL: 1.0, PRECISION: 0.4, F1: 4 / 7, HR: 1.0, MRR: 0.25, MAP: 0.325, NDCG: ndcg}
    assert result.iloc[0].to_dict() == pytest.approx(expected)


def test_nothing_shown_or_nothing_hit_scores_zero() -> None:
    ranked = ranked_of([[], [1, 2]], width=2)
    result = ranking_metrics(ranked, relevant_of([[0], [0]], n_products=3), k=2)
    assert (result == 0).all(axis=None)


def test_padding_is_not_the_last_product_of_the_customer_before() -> None:
    # Customer 0 took the last product; −1 in row 1 has the key of exactly that pair.
    relevant = relevant_of([[4], [0]], n_products=5)
    assert not hits(ranked_of([[], []], width=3), relevant).any()


def test_rows_are_indexed_by_customer() -> None:
    frame = pd.DataFrame({CUSTOMER_IDX: [70, 3, 70, 70], PRODUCT_IDX: [1, 0, 4, 1], "kind": "purchase"})
    relevant = Relevant.from_frame(frame, n_products=5)
    assert relevant.customers.tolist() == [3, 70]
    assert relevant.indptr.tolist() == [0, 1, 3]
    assert relevant.indices.tolist() == [0, 1, 4]
    assert relevant.sizes.tolist() == [1, 2]
    result = ranking_metrics(ranked_of([[1], [1]], width=1), relevant, k=1)
    assert result.index.name == CUSTOMER_IDX
    assert result[RECALL].to_dict() == {3: 0.0, 70: 0.5}
    assert list(result.columns) == list(METRICS)


# --- catalogue --------------------------------------------------------------------------------------------


def test_coverage_counts_products_shown_at_least_once() -> None:
    ranked = ranked_of([[0, 1], [1], []], width=2)
    assert coverage(ranked, 8) == 0.25
    assert coverage(ranked[:, :1], 8) == 0.25
    assert coverage(ranked[2:], 8) == 0.0


def test_novelty_is_the_mean_self_information() -> None:
    # Counts 5, 1, 0, 0 over P = 4: p = 6/10, 2/10, 1/10, 1/10.
    counts = [5, 1, 0, 0]
    bits = [-log2(6 / 10), -log2(2 / 10), -log2(1 / 10)]
    assert novelty(ranked_of([[0], [2]], width=1), counts) == pytest.approx((bits[0] + bits[2]) / 2)
    # Lists first, then customers, and an empty list is left out.
    ranked = ranked_of([[0, 1, 2], [2], []], width=3)
    assert novelty(ranked, counts) == pytest.approx((sum(bits) / 3 + bits[2]) / 2)
    # Even popularity: log2 P whatever is shown.
    assert novelty(ranked, np.full(16, 7)) == pytest.approx(4.0)


def test_gini_at_its_ends_and_between() -> None:
    assert gini(ranked_of([[0, 1], [2, 3]], width=2), 4) == pytest.approx(0.0)
    assert gini(ranked_of([[2], [2], [2]], width=1), 4) == pytest.approx(1.0)
    assert gini(ranked_of([[0, 1], [1, 0]], width=2), 4) == pytest.approx(2 / 3)
    assert gini_of_counts([3]) == 0.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=2, max_size=30).filter(any))
def test_gini_is_the_mean_absolute_difference(counts: list[int]) -> None:
    # The defining form: half the relative mean absolute difference over distinct pairs.
    n = len(counts)
    pairs = sum(abs(a - b) for a in counts for b in counts) / (n * (n - 1))
    assert gini_of_counts(counts) == pytest.approx(pairs / (2 * sum(counts) / n), abs=1e-12)


# --- the border -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranked", "why"),
    [
        ([[0, 0], [1, 2]], "repeated product in 1 of 2 lists, first in row 0"),
        ([[0, 1], [-1, 2]], "padding must stand at the end"),
        ([[0, 1], [2, 5]], r"from 0 to 5"),
        ([[0, 1], [2, -2]], r"from -2 to 2"),
        ([[0, 1]], "found 1 rows"),
        ([0, 1], "must be a matrix"),
        ([[0.0, 1.0], [2.0, 3.0]], "signed integers"),
    ],
)
def test_malformed_rankings_are_refused(ranked: list[list[float]], why: str) -> None:
    with pytest.raises(DataError, match=why):
        ranking_metrics(np.array(ranked), relevant_of([[0], [1]], n_products=5), k=2)


@pytest.mark.parametrize("k", [0, 3, -1])
def test_the_cut_must_lie_within_the_ranking(k: int) -> None:
    with pytest.raises(ConfigError, match=f"found {k}"):
        ranking_metrics(ranked_of([[0, 1]], width=2), relevant_of([[0]], n_products=5), k=k)


def test_customers_without_relevant_products_are_refused() -> None:
    empty = np.array([], dtype=np.int32)
    with pytest.raises(DataError, match=r"1 of 2 without one, first \[9\]"):
        Relevant(np.array([8, 9]), np.array([0, 1, 1]), np.array([3]), 5)
    with pytest.raises(DataError, match="found no customer"):
        Relevant.from_frame(pd.DataFrame({CUSTOMER_IDX: empty, PRODUCT_IDX: empty}), n_products=5)


@pytest.mark.parametrize(
    ("customers", "indptr", "indices", "why"),
    [
        ([0, 1], [0, 1], [3], "3 entries from 0 to 1"),
        ([0, 1], [0, 1, 3], [3, 4], "3 entries from 0 to 2"),
        ([0, 0], [0, 1, 2], [3, 4], "1 repeated"),
        ([0], [0, 1], [5], r"\[0, 5\)"),
        ([0], [0, 2], [4, 3], "increase strictly"),
        ([0], [0, 2], [3, 3], "increase strictly"),
        ([0.0], [0, 1], [3], "signed integers"),
    ],
)
def test_malformed_tables_are_refused(
    customers: list[int], indptr: list[int], indices: list[int], why: str
) -> None:
    with pytest.raises(DataError, match=why):
        Relevant(np.array(customers), np.array(indptr), np.array(indices), 5)


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        ({CUSTOMER_IDX: [0]}, "must have the column 'product_idx'"),
        ({CUSTOMER_IDX: [0], PRODUCT_IDX: ["p1"]}, "must hold integers"),
        ({CUSTOMER_IDX: [0], PRODUCT_IDX: pd.array([None], dtype="Int64")}, "1 missing"),
        ({CUSTOMER_IDX: [0], PRODUCT_IDX: [-1]}, "product_idx must lie in"),
        ({CUSTOMER_IDX: [-1], PRODUCT_IDX: [0]}, "customer_idx must lie in"),
    ],
)
def test_unusable_pairs_are_refused(frame: dict[str, list[object]], why: str) -> None:
    with pytest.raises(DataError, match=why):
        Relevant.from_frame(pd.DataFrame(frame), n_products=5)


def test_unusable_counts_are_refused() -> None:
    ranked = ranked_of([[0, 1]], width=2)
    for counts in ([], [1.0, -1.0], [1.0, np.nan], [[1.0, 1.0]]):
        with pytest.raises(DataError, match="non-negative"):
            novelty(ranked, counts)
    with pytest.raises(DataError, match="product_idx"):
        novelty(ranked, [1.0])
    with pytest.raises(DataError, match="at least one product shown"):
        novelty(ranked_of([[]], width=2), [1.0])
    with pytest.raises(DataError, match="at least one count"):
        gini(ranked_of([[]], width=2), 4)


# --- of one list ------------------------------------------------------------------------------------------


def test_self_information_by_hand_and_its_mean_is_novelty() -> None:
    counts = np.array([6, 1, 0, 0])  # with one more each: 7, 2, 1, 1 of 11
    ranked = ranked_of([[0, 1], [3], []], width=2)
    bits = self_information(ranked, counts)
    npt.assert_allclose(bits[:2], [(log2(11 / 7) + log2(11 / 2)) / 2, log2(11)])
    assert np.isnan(bits[2])
    assert novelty(ranked, counts) == pytest.approx(float(bits[:2].mean()))


def test_intra_list_diversity_by_hand() -> None:
    # buyers of the products: 0 by a and b, 1 by b, 2 by c; nobody bought 3 and 4
    profiles = sp.csr_matrix([[1.0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]])
    kinds = np.array([7, 7, 8, 8, 8])
    ranked = ranked_of([[0, 1], [0, 2], [0, 1, 2], [2, 3], [0, 3], [4, 3], [1], []], width=3)
    found = intra_list_diversity(ranked, profiles, kinds)
    near = 1 - 1 / np.sqrt(2)
    npt.assert_allclose(found[:6], [near, 1, (near + 2) / 3, 0, 1, 0], atol=1e-12)
    assert np.isnan(found[6:]).all()
    # without a kind nothing is alike by kind
    assert intra_list_diversity(ranked[3:4], profiles, np.full(5, -1)).tolist() == [1.0]
