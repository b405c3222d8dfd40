"""Exact search that stops early: products in the order of their vectors' lengths.

No inner product is larger than the lengths of its two vectors multiplied. So the longest products are scored first;
the n-th best score among them rules out every product that is too short to reach it, and only what is left is scored.
Where all products are of about one length everything is scored, as in a plain scan.
Source: Teflioudi, Gemulla & Mykytiuk, "LEMP: fast retrieval of large entries in a matrix product" (SIGMOD 2015).
"""

from __future__ import annotations

import math
from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Mask = NDArray[np.bool_]

#: So many of the longest products are scored first.
FIRST: Final = 4096
_GROUPS: Final = 64
#: A float32 inner product may exceed its bound by rounding, by no more than this share of it.
_ROUNDING: Final = 1e-4


class Scan:
    """Searches products exactly, the longest first.

    Parameters
    ----------
    vectors
        (products, d) float32; a copy is kept, turned and sorted, as a processor reads it fastest.
    longest
        So many of the longest products alone are held, for ``among_longest``; None holds all.
    """

    def __init__(self, vectors: Float32, *, longest: int | None = None) -> None:
        lengths = np.sqrt(np.einsum("pd,pd->p", vectors, vectors, dtype=np.float64))
        order = np.argsort(-lengths, kind="stable").astype(np.int32)
        self._order = order[:longest]
        self._shorter = -lengths[order]  # ascending, as a binary search wants it
        self._turned = np.ascontiguousarray(vectors[self._order].T)

    @property
    def held(self) -> Int32:
        """The products that are held, longest first."""
        return self._order

    def among_longest(self, query: Float32, n: int, *, allowed: Mask | None) -> tuple[Int32, bool]:
        """Return the products held that may be among the ``n`` best allowed ones, and whether no other product may.

        Parameters
        ----------
        query
            (d,) float32.
        n
            How many are wanted, at least 1.
        allowed
            (products,) mask by product index; None allows all.
        """
        scores = query @ self._turned
        if allowed is not None:
            scores[~allowed.take(self._order)] = -np.inf
        bound = nth_at_least(scores, n) if len(scores) >= n else -math.inf
        if bound == -math.inf:
            return self._order[scores > bound], False
        # rounding may have moved any score by so much: what is so near to the bound is among them too
        bound -= 0.1 * _ROUNDING * math.sqrt(float(query @ query)) * -self._shorter[0]
        return self._order[scores >= bound], bound > 0 and self._reaching(query, bound) <= len(self._order)

    def search(self, query: Float32, n: int, *, allowed: Mask | None, passing: int) -> tuple[Int32, Float32]:
        """Return the ``n`` best allowed products and their scores, ties by product index.

        Parameters
        ----------
        query
            (d,) float32.
        n
            How many; at least so many are allowed.
        allowed, passing
            (products,) mask by product index, and how many it allows; None allows all.
        """
        size = len(self._order)
        # among so many a mask that has nothing to do with the query leaves enough: four deviations of spare
        need = n if passing == size else math.ceil((n + 4.0 * math.sqrt(n)) * size / passing)
        while True:
            scores, bound = self._longest(query, need)
            # every product of this score is among those scored
            kept = np.flatnonzero(scores >= bound)
            products = self._order[kept]
            if allowed is not None:
                passes = allowed[products]
                kept, products = kept[passes], products[passes]
            if len(products) >= n:
                best = np.lexsort((products, -scores[kept]))[:n]
                return products[best], scores[kept[best]]
            need *= 4

    def reach(self, query: Float32, n: int) -> int:
        """Return how many products have to be scored for the ``n`` best of a query (d,)."""
        return len(self._longest(query, n)[0])

    def _longest(self, query: Float32, need: int) -> tuple[Float32, float]:
        """Return the scores of the longest products, and a score that ``need`` of them and no product beyond reach."""
        size = len(self._order)
        scores = np.empty(size, dtype=np.float32)
        done, end = 0, min(FIRST, size)
        while end > done:
            np.matmul(query, self._turned[:, done:end], out=scores[done:end])
            done = end
            bound = nth_at_least(scores[:done], need) if need < done else -math.inf
            end = self._reaching(query, bound) if bound > 0 else size
        return scores[:done], bound

    def _reaching(self, query: Float32, score: float) -> int:
        """Return how many products, the longest, may reach a positive score."""
        length = float(np.sqrt(query @ query)) * (1.0 + _ROUNDING)
        return int(np.searchsorted(self._shorter, -score / length, side="right"))


def inner(vectors: Float32, rows: NDArray[np.integer[Any]], query: Float32) -> Float32:
    """Return the inner products (m,) of ``query`` (d,) with the vectors of ``rows`` (m,), none of which is copied.

    ``vectors`` (products, d) and ``query`` are contiguous. Equal vectors have equal inner products.
    """
    places = np.ascontiguousarray(rows, dtype=np.int64)
    found = np.empty(len(places), dtype=np.float32)
    if len(places):
        pointers = [faiss.swig_ptr(array) for array in (found, query, vectors, places)]
        faiss.fvec_inner_products_by_idx(*pointers, vectors.shape[1], 1, len(places))  # type: ignore[attr-defined]
    return found


def nth_at_least(scores: Float32, n: int) -> float:
    """Return a number that the n-th highest of at least n scores reaches, and few others do.

    It is the n-th highest of the maxima of groups, at least four times as many as are asked for where there are so many
    scores. They are sorted: selecting takes many times longer where a mask has left most of them equal.
    """
    size = max(min(_GROUPS, len(scores) // (4 * n)), 1)
    groups = len(scores) // size
    maxima = scores[: groups * size].reshape(size, groups).max(axis=0) if size > 1 else scores
    return float(np.sort(maxima)[groups - n])
