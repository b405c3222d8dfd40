"""Batched search against a brute-force sort: masks, blocked products, padding, equal scores."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving import scoring
from serving.scoring import Blocked, top
from tests import test_cli
from training.benchmarks.scoring import SIDES, N, Vectors, plain, same_sets

run = test_cli.run  # the fixture
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """What ``top`` is asked; ``barred`` lists the products that each query must not get."""

    queries: Float32
    vectors: Float32
    n: int
    allowed: NDArray[np.bool_] | None
    barred: list[list[int]] | None

    @property
    def blocked(self) -> Blocked | None:
        return None if self.barred is None else blocked(self.barred)

    def passing(self, row: int) -> set[int]:
        """Products that the query may get, from the definition."""
        free = np.ones(len(self.vectors), dtype=np.bool_) if self.allowed is None else self.allowed.copy()
        if self.barred is not None:
            free[self.barred[row]] = False
        return set(np.flatnonzero(free).tolist())


def blocked(barred: list[list[int]]) -> Blocked:
    indptr = np.concatenate([[0], np.cumsum([len(own) for own in barred])]).astype(np.int64)
    return Blocked(indptr, np.array([product for own in barred for product in own], dtype=np.int32))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Vectors of small integers: inner products are exact in float32, and many are equal."""
    products, queries = draw(st.integers(1, 30)), draw(st.integers(0, 9))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size, span = draw(st.integers(1, 4)), draw(st.sampled_from([0, 1, 3, 50]))
    some = st.lists(st.integers(0, products - 1), unique=True)
    own = st.one_of(st.just([]), st.just(list(range(products))), some)
    return Case(
        queries=generator.integers(-span, span + 1, (queries, size)).astype(np.float32),
        vectors=generator.integers(-span, span + 1, (products, size)).astype(np.float32),
        n=draw(st.integers(1, 40)),
        allowed=draw(st.none() | some.map(lambda kept: np.isin(np.arange(products), kept))),
        barred=draw(st.none() | st.lists(own, min_size=queries, max_size=queries)),
    )


def check(case: Case) -> None:
    """The scores are those of a full sort; the products have these scores, pass, and come once."""
    found, scores = top(case.queries, case.vectors, case.n, allowed=case.allowed, blocked=case.blocked)
    assert found.shape == scores.shape == (len(case.queries), case.n)
    assert (found.dtype, scores.dtype) == (np.int32, np.float32)
    for row, query in enumerate(case.queries):
        free = case.passing(row)
        inner = case.vectors @ query
        best = sorted((float(inner[product]) for product in free), reverse=True)[: case.n]
        kept = len(best)
        assert scores[row, :kept].tolist() == best
        assert np.isneginf(scores[row, kept:]).all()
        assert (found[row, kept:] == -1).all()
        got = found[row, :kept].tolist()
        assert len(set(got)) == kept
        assert set(got) <= free
        assert inner[got].tolist() == best


@settings(max_examples=600, deadline=None)
@given(case=cases())
def test_top_is_the_head_of_a_full_sort(case: Case) -> None:
    check(case)


@settings(max_examples=100, deadline=None)
@given(case=cases(), rows=st.integers(1, 3), cells=st.integers(1, 40))
def test_the_size_of_the_blocks_changes_nothing(case: Case, rows: int, cells: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scoring, "_ROWS", rows)
        patched.setattr(scoring, "_CELLS", cells)
        check(case)


@pytest.mark.parametrize("n", [3, 5, 9])
def test_blocked_products_stay_out_when_everything_else_is_asked_for(n: int) -> None:
    """With n as large as what is allowed, nothing is left to step over, and blocking must hold all the same."""
    vectors = np.arange(5, dtype=np.float32)[:, None]
    found, scores = top(np.ones((1, 1), dtype=np.float32), vectors, n, blocked=blocked([[4, 2]]))
    assert found.tolist() == [[3, 1, 0] + [-1] * (n - 3)]
    assert scores.tolist() == [[3.0, 1.0, 0.0] + [-np.inf] * (n - 3)]


def test_what_has_no_score_is_not_found() -> None:
    """A query that is no number has no order; it must neither name products nor disturb its neighbours."""
    queries = np.array([[1.0], [np.nan], [1.0]], dtype=np.float32)
    vectors = np.arange(4, dtype=np.float32)[:, None]
    for barred, told in (
        ([[3], [0], [2]], [[2, 1, 0], [-1, -1, -1], [3, 1, 0]]),
        ([[], [], []], [[3, 2, 1], [-1, -1, -1], [3, 2, 1]]),
    ):
        found, scores = top(queries, vectors, 3, blocked=blocked(barred))
        assert found.tolist() == told
        assert np.isneginf(scores[1]).all()


def test_progress_ends_with_everything() -> None:
    told: list[tuple[int, int]] = []
    queries = np.ones((7, 2), dtype=np.float32)
    barred = [[], [0], [0, 1], [], [0, 1, 2, 3], [5], []]
    top(
        queries,
        np.eye(8, 2, dtype=np.float32),
        2,
        blocked=blocked(barred),
        progress=lambda *p: told.append(p),
    )
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1] == (7, 7)


def test_benchmark_compares_equal_work(run: test_cli.Run) -> None:
    sizes = ("--customers", 70, "--products", 120, "--factors", 4, "--rounds", 2)
    told = json.loads(run("benchmark", "scoring", *sizes).out)
    assert (told["customers"], told["products"], told["factors"], told["rounds"]) == (70, 120, 4, 2)
    for masked in ("everything", "without_owned"):
        part = told[masked]
        assert part["same_products"] == {"floor": 1.0, "implicit": 1.0}
        for side in SIDES:
            seconds = part[side]["seconds"]
            assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
        for side in ("floor", "implicit"):
            ratio = part[f"of_{side}"]
            assert 0 < ratio["min"] <= ratio["median"] <= ratio["max"]


def test_floor_of_the_benchmark_leaves_out_what_is_owned() -> None:
    data = Vectors.drawn(50, 100, 4, seed=3)
    assert data.owned.nnz > 100
    scores = data.queries @ data.products.T
    everything = np.argsort(-scores, axis=1)[:, :N]
    scores[data.owned.toarray() > 0] = -np.inf
    without = np.argsort(-scores, axis=1)[:, :N]
    found = [plain(data.queries, data.products, owned, block=16, threads=2) for owned in (None, data.owned)]
    assert np.array_equal(found[0], everything)
    assert np.array_equal(found[1], without)
    assert same_sets(found[0], everything[:, ::-1]) == 1.0
    assert same_sets(found[0], without) < 1.0
