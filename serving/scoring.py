"""Top products for many customers at once.

FAISS multiplies blocks and keeps the best on the fly, several times faster than a matrix product followed by a
partial sort. What single customers must not get is stepped over: each is searched as deep as it has products
blocked, in groups of like depth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import faiss
import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
_ROWS: Final = 4096


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
        How many; at most the number of products allowed.
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
    n = min(n, len(place))
    found = np.full((len(queries), n), -1, dtype=np.int32)
    best = np.full((len(queries), n), -np.inf, dtype=np.float32)
    counts = np.zeros(len(queries), dtype=np.int64) if blocked is None else np.diff(blocked.indptr)
    # a power of two of blocked products is one group: at most twice as deep as needed
    groups = np.where(counts > 0, np.ceil(np.log2(np.maximum(counts, 1))).astype(np.int64) + 1, 0)
    order = np.argsort(groups, kind="stable")
    done = 0
    while n and done < len(order):
        same = int(np.searchsorted(groups[order], groups[order[done]], side="right"))
        rows = order[done : min(same, done + _ROWS)]
        depth = min(n + int(counts[rows].max()), len(place))
        scores, near = index.search(np.ascontiguousarray(queries[rows], dtype=np.float32), depth)
        products = place[near].astype(np.int32)
        if blocked is not None and depth > n:
            kept = _first(~_is_blocked(products, rows, blocked, len(vectors)), n)
            products = np.take_along_axis(products, kept, axis=1)
            scores = np.take_along_axis(scores, kept, axis=1)
            products[_is_blocked(products, rows, blocked, len(vectors))] = -1
            scores[products < 0] = -np.inf
        found[rows], best[rows] = products[:, :n], scores[:, :n]
        done += len(rows)
        if progress is not None:
            progress(done, len(order))
    return found, best


def _is_blocked(
    products: Int32, rows: NDArray[np.int64], blocked: Blocked, size: int
) -> NDArray[np.bool_]:
    """Return which of ``products`` (rows, depth) their rows must not get."""
    counts = np.diff(blocked.indptr)[rows]
    place = np.repeat(blocked.indptr[rows] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    pairs = np.repeat(np.arange(len(rows)), counts) * size + blocked.indices[place]
    asked = np.arange(len(rows))[:, None] * size + products
    return np.isin(asked, pairs)


def _first(kept: NDArray[np.bool_], n: int) -> NDArray[np.int64]:
    """Return the places (rows, n) of the first n kept entries of each row; others fill up at the end."""
    return np.argsort(~kept, axis=1, kind="stable")[:, :n]
