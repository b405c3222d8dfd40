"""The product index beside brute force: under any mask, of every kind, saved and loaded, and how it is chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import faiss
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from eval.benchmarks.index import index_times
from serving import index_choice
from serving.bundle import load, save
from serving.errors import BundleError
from serving.index import EXACT, PRODUCT, Design, ProductIndex
from serving.index_choice import RECALL, Asked, Chosen, choose, designs, recall_of
from tests.builders import make_bundle
from training.assemble import asked, assemble
from training.benchmarks.listed import AS_OF, training_set
from training.recipe import Recipe

Float32 = NDArray[np.float32]


PRODUCTS, DIMENSIONS = 20_000, 256

#: Of each approximate kind a design that reaches the recall on the planted vectors.
APPROXIMATE = [Design(PRODUCT, DIMENSIONS, 700), Design(PRODUCT, DIMENSIONS, 500, longest=1024)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As a worker has it; many threads on small work only wait for each other."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    with threadpool_limits(limits=1, user_api="blas"):
        yield
    faiss.omp_set_num_threads(before)


@cache
def planted() -> tuple[Float32, Float32]:
    """Vectors (products, d) in clusters, of a falling spectrum and varying lengths; queries that sum eight of them."""
    generator = np.random.default_rng(5)
    spectrum = np.arange(1, DIMENSIONS + 1) ** -0.5
    centres = generator.normal(size=(200, DIMENSIONS)) * spectrum
    vectors = centres[generator.integers(200, size=PRODUCTS)]
    vectors += generator.normal(size=vectors.shape) * spectrum
    vectors *= np.exp(generator.normal(0.0, 0.5, size=(PRODUCTS, 1)))
    queries = vectors[generator.integers(PRODUCTS, size=(120, 8))].mean(axis=1)
    return vectors.astype(np.float32), queries.astype(np.float32)


@cache
def chosen() -> Chosen:
    """Chosen as if the exact kind were slow."""
    vectors, queries = planted()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(index_choice, "_WORTH_IT", 100.0)
        return choose(vectors, lambda: Asked(queries, "customers"))


@cache
def built(design: Design) -> ProductIndex:
    return ProductIndex.build(planted()[0], design)


def brute(vectors: Float32, query: Float32, n: int, allowed: NDArray[np.bool_]) -> list[int]:
    scores = vectors.astype(np.float64) @ query.astype(np.float64)
    return [row for row in np.lexsort((np.arange(len(vectors)), -scores)).tolist() if allowed[row]][:n]


def masks(generator: np.random.Generator, query: Float32) -> list[NDArray[np.bool_]]:
    """Masks of all kinds: a few out, half, one in fifty, three, none, the worst half for the query only."""
    scores = planted()[0] @ query
    shares = [generator.random(PRODUCTS) < share for share in (0.999, 0.5, 0.02)]
    three = np.isin(np.arange(PRODUCTS), generator.integers(PRODUCTS, size=3))
    best_out = np.ones(PRODUCTS, dtype=np.bool_)
    best_out[np.argsort(-scores)[:150]] = False
    return [*shares, three, np.zeros(PRODUCTS, dtype=np.bool_), best_out, scores < np.median(scores)]


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    products=st.sampled_from([1, 5, 63, 64, 200, 3000]),
    share=st.sampled_from([0.0, 0.02, 0.3, 0.9, 1.0]),
    n=st.sampled_from([0, 1, 3, 10, 100, 5000]),
    masked=st.booleans(),
)
def test_the_exact_kind_is_brute_force(seed: int, products: int, share: float, n: int, masked: bool) -> None:
    """Small whole numbers, so that there are many ties and every sum is exact."""
    generator = np.random.default_rng(seed)
    vectors = generator.integers(-2, 3, size=(products, 6)).astype(np.float32)
    queries = generator.integers(-2, 3, size=(2, 6)).astype(np.float32)
    allowed = generator.random(products) < (share if masked else 1.0)
    found, scores = ProductIndex.build(vectors).search(queries, n, allowed=allowed if masked else None)
    assert found.dtype == np.int32 and scores.dtype == np.float32
    for row, query in enumerate(queries):
        expected = brute(vectors, query, n, allowed)
        assert found[row].tolist() == expected
        assert scores[row].tolist() == (vectors[expected] @ query).tolist()


@pytest.mark.parametrize("design", [Design(), *APPROXIMATE], ids=lambda d: f"{d.type} {d.parts} {d.longest}")
def test_what_every_kind_promises_under_any_mask(design: Design) -> None:
    vectors, queries = planted()
    index, generator = built(design), np.random.default_rng(0)
    for query in queries[:3]:
        for allowed in masks(generator, query):
            for n in (1, 10, 100, 700):
                found, scores = (part[0] for part in index.search(query[None], n, allowed=allowed))
                assert len(found) == min(n, int(allowed.sum()))
                assert len(set(found.tolist())) == len(found)
                assert allowed[found].all()
                assert scores == pytest.approx(vectors[found] @ query, rel=1e-5, abs=1e-5)
                assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("design", [Design(), *APPROXIMATE], ids=lambda d: f"{d.type} {d.parts} {d.longest}")
def test_the_first_are_as_sure_as_if_no_more_were_asked_for(design: Design) -> None:
    vectors, queries = planted()
    index, exact, generator = built(design), ProductIndex.build(vectors), np.random.default_rng(2)
    truth, sure, alone = (list[Float32]() for _ in range(3))
    for query in queries[:20]:
        for allowed in masks(generator, query):
            found, scores = (part[0] for part in index.search(query[None], 60, allowed=allowed, sure=10))
            assert len(set(found.tolist())) == len(found) == min(60, int(allowed.sum()))
            assert allowed[found].all() and (np.diff(scores) <= 0).all()
            sure.append(scores[:10])
            alone.append(index.search(query[None], 10, allowed=allowed)[1][0])
            truth.append(exact.search(query[None], 10, allowed=allowed)[1][0])
    assert recall(sure, truth) >= min(recall(alone, truth), RECALL)


def recall(found: list[Float32], truth: list[Float32]) -> float:
    hits = [np.isclose(true[:, None], own).any(axis=1) for own, true in zip(found, truth, strict=True)]
    return float(np.concatenate(hits).mean())


@pytest.mark.parametrize("design", APPROXIMATE, ids=lambda d: f"{d.type} {d.parts} {d.longest}")
@pytest.mark.parametrize("share", [1.0, 0.7, 0.3])
def test_an_approximate_kind_finds_99_of_100(design: Design, share: float) -> None:
    vectors, queries = planted()
    allowed = np.random.default_rng(1).random(PRODUCTS) < share
    found = built(design).search(queries, 100, allowed=allowed)[1]
    truth = ProductIndex.build(vectors).search(queries, 100, allowed=allowed)[1]
    assert recall_of(found, truth)[0] >= RECALL


def test_an_approximate_kind_is_not_exact_in_disguise() -> None:
    """With hardly more candidates than are asked for, a coarse code must miss some: else these tests show nothing."""
    vectors, queries = planted()
    found = built(Design(PRODUCT, DIMENSIONS // 4, 150)).search(queries, 100)[1]
    assert recall_of(found, ProductIndex.build(vectors).search(queries, 100)[1])[0] < 0.9


def test_recall_counts_scores_and_takes_the_worse_cut() -> None:
    truth = np.tile(np.arange(100, 0, -1, dtype=np.float32), (4, 1))
    assert recall_of(truth, truth) == (1.0, 1.0)
    found = truth.copy()
    found[0, 9:] = 0.0  # one of the first ten missed by one query, 91 of its hundred
    mean, sure = recall_of(found, truth)
    assert mean == pytest.approx((3 + 0.09) / 4)
    assert sure < mean
    tied = np.full((1, 100), 7.0, dtype=np.float32)
    assert recall_of(tied, tied)[0] == 1.0


def test_a_small_catalog_is_scanned_and_asks_no_queries() -> None:
    def never() -> Asked:
        raise AssertionError

    small = choose(np.ones((1000, 64), dtype=np.float32), never)
    assert small.to_json() == {"type": EXACT, "recall": 1.0}


def test_the_designs_by_size() -> None:
    assert designs(10_000, 64) == designs(2_000, 1024) == designs(0, 64) == []
    assert {design.type for design in designs(200_000, 64)} == {PRODUCT}
    assert designs(200_000, 64)[0].depth < designs(200_000, 64)[-1].depth
    assert designs(200_000, 64, reached=0.1) == []  # the exact kind scores few, and is the cheapest
    assert {design.parts for design in designs(200_000, 63)} == {63}
    assert {design.longest for design in designs(200_000, 64)} == {4096}  # a MiB of vectors


def test_where_few_products_have_to_be_scored_the_exact_kind_is_chosen() -> None:
    vectors, queries = planted()
    vectors = vectors.copy()
    vectors[np.argsort(-np.linalg.norm(vectors, axis=1))[2000:]] *= 0.2  # what is left is too short to matter
    exact = ProductIndex.build(vectors)
    assert 0.0 < exact.reached(queries, 30) < 0.21  # a fifth is scored in any case
    assert designs(*vectors.shape) and not designs(*vectors.shape, reached=exact.reached(queries, 30))
    told = choose(vectors, lambda: Asked(queries, "customers")).to_json()
    assert told == {"type": EXACT, "recall": 1.0}


def test_few_candidates_are_too_few_for_a_small_catalog() -> None:
    assert all(design.depth * 8 <= 5000 for design in designs(5000, 2048))


def test_the_choice_passes_on_planted_vectors_and_says_so() -> None:
    told = chosen().to_json()
    assert told["type"] == PRODUCT
    assert told["recall"] >= RECALL
    assert told["queries"] == len(planted()[1]) and told["n"] == 100 and told["asked_by"] == "customers"


def hopeless() -> Float32:
    """All products alike but for the smallest digits, which no code keeps."""
    generator = np.random.default_rng(2)
    vectors = generator.normal(size=(PRODUCTS, DIMENSIONS)) * 1e-3
    # in each dimension products far out stretch what a code has to span
    rows = np.arange(8 * DIMENSIONS)  # more of them than are scored in any case
    vectors[rows, rows % DIMENSIONS] = -1000.0
    return vectors.astype(np.float32)


def test_the_gate_falls_back_to_exact() -> None:
    vectors = hopeless()
    queries = np.abs(np.random.default_rng(3).normal(size=(40, DIMENSIONS))).astype(np.float32)
    exact = choose(vectors, lambda: Asked(queries, "products"))
    assert exact.to_json() == {"type": EXACT, "recall": 1.0}
    found, _ = exact.index.search(queries[:1], 10)
    assert found[0].tolist() == brute(vectors, queries[0], 10, np.ones(PRODUCTS, dtype=np.bool_))


@pytest.mark.parametrize("design", [Design(), *APPROXIMATE], ids=lambda d: f"{d.type} {d.parts} {d.longest}")
def test_saved_and_loaded_it_answers_the_same(design: Design, tmp_path: Path) -> None:
    vectors, queries = planted()
    index, path = built(design), tmp_path / "products.faiss"
    index.save(path)
    loaded = ProductIndex.load(path, vectors=vectors, told=Chosen(index, 0.995).to_json())
    assert loaded.design == design
    allowed = np.random.default_rng(4).random(PRODUCTS) < 0.6
    for mask in (None, allowed):
        before, after = index.search(queries, 20, allowed=mask), loaded.search(queries, 20, allowed=mask)
        assert np.array_equal(before[0], after[0])
        assert np.array_equal(before[1], after[1])


@pytest.mark.parametrize("design", [Design(), *APPROXIMATE], ids=lambda d: f"{d.type} {d.parts} {d.longest}")
def test_a_file_that_cannot_be_of_these_vectors_is_refused(design: Design, tmp_path: Path) -> None:
    vectors, path = planted()[0], tmp_path / "products.faiss"
    built(design).save(path)
    told = Chosen(built(design)).to_json()
    for other in (vectors[:-1], vectors[:, :-1]):
        with pytest.raises(BundleError, match=f"found {PRODUCTS} of {DIMENSIONS}"):
            ProductIndex.load(path, vectors=other, told=told)
    another = {"type": EXACT} if design.depth else {"type": PRODUCT, "parts": 64, "depth": 300}
    for wrong in (another, {**told, "type": "unheard of"}, {**told, "depth": 0 if design.depth else 300}):
        with pytest.raises(BundleError, match="expected an index of the type"):
            ProductIndex.load(path, vectors=vectors, told=wrong)
    whole = path.read_bytes()
    for damaged in (b"", whole[:3], whole[: len(whole) // 2], b"\xff" * 8 + whole[8:]):
        path.write_bytes(damaged)
        with pytest.raises(BundleError, match="expected a FAISS index"):
            ProductIndex.load(path, vectors=vectors, told=told)


def test_a_bundle_carries_an_approximate_index(tmp_path: Path) -> None:
    """Through the whole bundle: described in the manifest, mapped, and answering as before."""
    vectors, queries = planted()
    bundle = make_bundle()
    bundle = dataclasses.replace(
        bundle,
        vectors=vectors,
        index=chosen().index,
        manifest=bundle.manifest.model_copy(update={"index": chosen().to_json()}),
    )
    loaded = load(tmp_path, save(bundle, tmp_path, texts={}))
    assert loaded.index is not None and loaded.index.design == chosen().index.design
    assert np.array_equal(loaded.index.search(queries, 10)[0], chosen().index.search(queries, 10)[0])


def bought(customers: int, products: int, each: int) -> sp.csr_matrix:
    """Who bought what: customers of ten kinds, each kind with products that it prefers."""
    generator = np.random.default_rng(6)
    liked = generator.permutation(products).reshape(10, -1)
    rows = np.repeat(np.arange(customers), each)
    own = liked[rows % 10, generator.integers(liked.shape[1], size=len(rows))]
    columns = np.where(generator.random(len(rows)) < 0.7, own, generator.integers(products, size=len(rows)))
    matrix = sp.csr_matrix(
        (np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=(customers, products)
    )
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def test_assembling_measures_the_index_on_what_customers_ask() -> None:
    recipe = Recipe.model_validate({"name": "s", "model": "spectral", "spectral": {"factors": 384}})
    data = training_set(bought(400, 40_000, 200))
    bundle = assemble(recipe, data, seed=0, threads=1, tables_hash="", now=AS_OF)
    told = bundle.manifest.index
    assert bundle.index is not None and bundle.index.design.type == told["type"]
    assert told["type"] != EXACT, "this world is large enough and not hopeless"
    assert told["recall"] >= RECALL
    assert (told["asked_by"], told["queries"]) == ("customers", 400)


def test_with_few_customers_products_are_asked() -> None:
    recipe = Recipe.model_validate({"name": "s", "model": "spectral", "spectral": {"factors": 8}})
    data = training_set(bought(50, 200, 20))
    bundle = assemble(recipe, data, seed=0, threads=1, tables_hash="", now=AS_OF)
    assert bundle.manifest.index == {"type": EXACT, "recall": 1.0}
    sample = asked(bundle, data, seed=0)
    assert sample.by == "products" and sample.queries.shape == (200, 8)


def test_the_benchmark_measures_both_sides() -> None:
    small, large = index_times([(500, 16), (20_000, 256)], queries=40, rounds=1, seed=0)
    assert small["chosen"]["type"] == EXACT and small["recall"] == 1.0
    assert (large["products"], large["dimensions"]) == (20_000, 256)
    assert large["recall"] > 0.98  # the gate's .99 is of other queries
    for told in (small, large):
        for times in told["ms"].values():
            assert set(times) == {"exact", "chosen"}
            assert all(0 < side["low"] <= side["median"] <= side["high"] for side in times.values())
