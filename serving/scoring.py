"""Top products for many customers at once.

FAISS multiplies blocks and keeps the best on the fly, faster than a matrix product followed by a partial sort.
What single customers must not get is stepped over: each is searched as deep as it has products blocked, in groups
of like depth. Each core takes blocks of its own: FAISS's own threads wait for each other, which costs more than
it gains as soon as anything else runs on the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import faiss
import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
_ROWS: Final = 1024
_CELLS: Final = 1 << 22  # what one search may find: customers with much blocked go in smaller groups
_BLAS_FROM: Final = 800  # queries × dimensions from which FAISS multiplies by BLAS; see ``_threads``


@dataclass(frozen=True)
class Blocked:
    """Products that each row must not get (CSR): row r may not get ``indices[indptr[r]:indptr[r + 1]]``.

    A row names a product at most once.
    """

    indptr: NDArray[np.int64]
    indices: Int32


def top(
    queries: Float32,
    vectors: Float32,
    n: int,
    *,
    allowed: NDArray[np.bool_] | None = None,
    blocked: Blocked | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Int32, Float32]:
    """Return the best ``n`` products of each query by inner product, best first.

    Parameters
    ----------
    queries
        (q, d) float32.
    vectors
        (products, d) float32.
    n
        How many.
    allowed
        (products,) what anybody may get; None: everything.
    blocked
        What single queries may not get besides.
    progress
        Called with (queries done, queries).

    Returns
    -------
    tuple
        Product indices (q, n) int32 and scores (q, n) float32; −1 and −inf where fewer than n pass.
    """
    place = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors if allowed is None else vectors[place], dtype=np.float32))
    found = np.full((len(queries), n), -1, dtype=np.int32)
    best = np.full((len(queries), n), -np.inf, dtype=np.float32)
    n = min(n, len(place))
    if not n or not len(queries):
        return found, best
    counts = np.zeros(len(queries), dtype=np.int64) if blocked is None else np.diff(blocked.indptr)

    def search(rows: NDArray[np.int64]) -> int:
        depth = min(n + int(counts[rows].max()), len(place))
        scores, near = index.search(np.ascontiguousarray(queries[rows], dtype=np.float32), depth)
        products = np.where(near >= 0, place[near], -1).astype(np.int32)  # −1: its score is no number
        scores[near < 0] = -np.inf
        if blocked is not None and counts[rows].any():
            out = _is_blocked(products, rows, blocked, len(vectors))
            products[out], scores[out] = -1, -np.inf
            kept = np.argsort(out, axis=1, kind="stable")[:, :n]
            products = np.take_along_axis(products, kept, axis=1)
            scores = np.take_along_axis(scores, kept, axis=1)
        found[rows, :n], best[rows, :n] = products[:, :n], scores[:, :n]
        return len(rows)

    done = 0
    with _threads() as pool:
        for more in pool.map(search, _blocks(counts, n, len(place))):
            done += more
            if progress is not None:
                progress(done, len(queries))
    return found, best


def _blocks(counts: NDArray[np.int64], n: int, allowed: int) -> Iterator[NDArray[np.int64]]:
    """Iterate over rows to search together, by how many products are blocked; few rows where that is many."""
    # a power of two of blocked products is one group: at most twice as deep as needed
    groups = np.where(counts > 0, np.ceil(np.log2(np.maximum(counts, 1))).astype(np.int64) + 1, 0)
    order = np.argsort(groups, kind="stable")
    bounds = np.flatnonzero(np.diff(groups[order], prepend=-1, append=-1))
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        depth = min(n + int(counts[order[start:stop]].max()), allowed)
        step = max(min(_ROWS, _CELLS // depth), 1)
        for first in range(start, stop, step):
            yield order[first : min(first + step, stop)]


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of as many threads as FAISS may use here, in each of which FAISS uses one.

    Meanwhile FAISS multiplies blocks from ``_BLAS_FROM`` on: its own bound (128,000 in 1.15) is for many threads, and
    makes a block of some hundred queries four times slower on one.
    """
    bound = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = _BLAS_FROM
    try:
        cores = faiss.omp_get_max_threads()
        with ThreadPoolExecutor(cores, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        faiss.cvar.distance_compute_blas_threshold = bound


def _is_blocked(products: Int32, rows: NDArray[np.int64], blocked: Blocked, size: int) -> NDArray[np.bool_]:
    """Return which of ``products`` (rows, depth) their rows must not get; some row must have something blocked."""
    counts = np.diff(blocked.indptr)[rows]
    place = np.repeat(blocked.indptr[rows] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    pairs = np.repeat(np.arange(len(rows)), counts) * size + blocked.indices[place]
    pairs.sort(kind="stable")  # as good as sorted already
    asked = np.where(products >= 0, np.arange(len(rows))[:, None] * size + products, -1)
    near = np.minimum(np.searchsorted(pairs, asked), len(pairs) - 1)
    return np.asarray(pairs[near] == asked)
