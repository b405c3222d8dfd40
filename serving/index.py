"""The product index: the best products of a query by inner product, under any mask.

The exact kind scores the products whose vectors are long enough to matter (``serving/scan.py``); FAISS's index of it is
what others may open. The other kind scores the longest products exactly, which are the best of most queries and which
codes get wrong most, and FAISS proposes candidates among the others from codes smaller than the vectors; then the exact
inner products of those that are allowed decide. Wherever candidates do not settle the answer, because a mask leaves too
few of them or a tie straddles the cut, every allowed product is scored. So min(n, allowed) products always come back,
with exact scores, ties by product index; an approximate kind may only miss a product, and how often was measured when
it was chosen. Which kind a catalog gets: ``serving/index_choice.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from serving.errors import BundleError
from serving.scan import Scan, inner, nth_at_least

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Mask = NDArray[np.bool_]
IndexType = Literal["exact inner product", "product quantised"]

EXACT: Final[IndexType] = "exact inner product"
PRODUCT: Final[IndexType] = "product quantised"

#: The depth of an approximate kind is meant for so many products; it goes with the root of how many are asked for.
DEPTH_N: Final = 100

#: Searching for more than one in so many products, or for so many times what is needed, costs as much as a scan.
DEEPEST: Final = 8

_FAISS: Final[Mapping[str, type[faiss.Index]]] = {
    EXACT: faiss.IndexFlatIP,
    PRODUCT: faiss.IndexPQFastScan,
}
_DESIGN: Final = ("type", "parts", "depth", "longest")
_SPARSE: Final = 3  # fewer than one in so many allowed: gathering their vectors beats scanning all


@dataclass(frozen=True)
class Design:
    """How candidates are found.

    Parameters
    ----------
    type
        ``exact inner product``: none are, all products are looked at. ``product quantised``: 4 bits for each of
        ``parts`` equal parts of a vector, scanned in registers (André, Kermarrec & Le Scouarnec, "Cache locality is
        not enough", VLDB 2015).
    parts
        Of a product quantiser.
    depth
        How many candidates are rescored; 0 for the exact kind.
    longest
        So many of the longest products are always scored, and are in no code.
    """

    type: IndexType = EXACT
    parts: int = 0
    depth: int = 0
    longest: int = 0

    def candidates(self, vectors: Float32) -> faiss.Index:
        """Return FAISS's index of ``vectors``, trained where it has to be."""
        dimensions = vectors.shape[1]
        index: faiss.Index
        match self.type:
            case "exact inner product":
                index = faiss.IndexFlatIP(dimensions)
            case "product quantised":
                index = faiss.IndexPQFastScan(dimensions, self.parts, 4, faiss.METRIC_INNER_PRODUCT)
        if not self.longest:
            index.train(vectors)
            index.add(vectors)
            return index
        held = Scan(vectors, longest=self.longest).held
        index.train(np.delete(vectors, held, axis=0))
        others = vectors.copy()
        others[held] = 0.0
        index.add(others)
        return index


class ProductIndex:
    """Inner-product index over ``vectors``.

    Parameters
    ----------
    candidates
        FAISS's index of the same vectors; proposes, but for the exact kind.
    vectors
        (products, dimensions) float32, not copied; decides.
    design
        What ``candidates`` is.
    """

    def __init__(self, candidates: faiss.Index, vectors: Float32, design: Design) -> None:
        self._candidates = candidates
        self._vectors = vectors
        self._scan = Scan(vectors, longest=None if design.type == EXACT else design.longest)
        self._is_exact = design.type == EXACT
        self._is_short = np.ones(len(vectors), dtype=np.bool_)
        self._is_short[self._scan.held] = False
        self.design = design

    @classmethod
    def build(cls, vectors: Float32, design: Design | None = None) -> ProductIndex:
        """Index the rows of ``vectors``, exactly unless told otherwise; row number is the product index."""
        design = design or Design()
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        return cls(design.candidates(vectors), vectors, design)

    @classmethod
    def load(cls, path: Path, *, vectors: Float32, told: Mapping[str, Any]) -> ProductIndex:
        """Map an index written by ``save`` into memory and check that it can be one of ``vectors``.

        FAISS maps an exact one; a product quantised one, which is smaller, is read.

        Parameters
        ----------
        path
            Of the file.
        vectors
            What was indexed.
        told
            What the manifest says of the index; only the fields of ``Design`` are read.

        Raises
        ------
        BundleError
            The file is not such an index.
        """
        design = Design(**{name: told[name] for name in _DESIGN if name in told})
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise BundleError(
                f"expected a FAISS index in {path.name}, found {error}; publish the bundle anew"
            ) from error
        if (index.ntotal, index.d) != vectors.shape:
            raise BundleError(
                f"expected {vectors.shape[0]} vectors of {vectors.shape[1]} dimensions in {path.name}, "
                f"found {index.ntotal} of {index.d}; publish the bundle anew"
            )
        kind = _FAISS.get(design.type)
        if kind is None or not isinstance(index, kind) or (design.depth > 0) == (design.type == EXACT):
            raise BundleError(
                f"expected an index of the type {design.type!r} and depth {design.depth} in {path.name}, "
                f"found {type(index).__name__}; publish the bundle anew"
            )
        return cls(index, vectors, design)

    def save(self, path: Path) -> None:
        """Write what finds the candidates in FAISS's own format; the vectors have a file of their own."""
        faiss.write_index(self._candidates, str(path))

    def __len__(self) -> int:
        return len(self._vectors)

    def search(
        self, queries: Float32, n: int, *, allowed: Mask | None = None, sure: int | None = None
    ) -> tuple[Int32, Float32]:
        """Return ``min(n, allowed)`` distinct products of each query, best first, ties by product index.

        Parameters
        ----------
        queries
            (q, dimensions) float32.
        n
            How many to return.
        allowed
            (products,) mask of what may be returned; None allows everything.
        sure
            How many of the first are as certain as the design makes them; None: all. Of those after them a few may be
            others: no more is looked at for their sake than is wanted.

        Returns
        -------
        tuple
            Product indices (q, min(n, allowed)) int32 and inner products of the same shape; no padding.
        """
        passing = len(self) if allowed is None else int(np.count_nonzero(allowed))
        n = max(min(n, passing), 0)
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        products = np.empty((len(queries), n), dtype=np.int32)
        scores = np.empty((len(queries), n), dtype=np.float32)
        sure = n if sure is None else min(sure, n)
        if n:
            for row in range(len(queries)):
                products[row], scores[row] = self._found(queries[row], n, allowed, passing, sure)
        return products, scores

    def reached(self, queries: Float32, n: int) -> float:
        """Return which share of the products the exact kind scores for the ``n`` best of each query, in the mean."""
        return float(np.mean([self._scan.reach(query, n) for query in queries])) / len(self)

    def _found(
        self, query: Float32, n: int, allowed: Mask | None, passing: int, sure: int
    ) -> tuple[NDArray[Any], Float32]:
        if self._is_exact and passing * _SPARSE >= len(self):
            return self._scan.search(query, n, allowed=allowed, passing=passing)
        proposed = None if self._is_exact else self._proposed(query, n, allowed, passing, sure)
        return proposed or self._scanned(query, n, allowed, passing)

    def _proposed(
        self, query: Float32, n: int, allowed: Mask | None, passing: int, sure: int
    ) -> tuple[NDArray[Any], Float32] | None:
        """Return the best among the longest and the candidates; None where they do not settle the answer."""
        need = max(math.ceil(self.design.depth * math.sqrt(sure / DEPTH_N)), n)
        # of so many candidates a mask that has nothing to do with the query leaves enough: four deviations of spare
        deep = math.ceil((need + 4.0 * math.sqrt(need)) * len(self) / passing)
        deep = min(deep, need + len(self) - passing)
        deepest = min(need * DEEPEST, len(self) // DEEPEST)
        if deep > deepest:
            return None
        longest, are_all = self._scan.among_longest(query, n, allowed=allowed)
        if are_all:
            scores = inner(self._vectors, longest, query)
            order = np.lexsort((longest, -scores))[:n]
            return longest[order], scores[order]
        while deep <= deepest:
            found = self._candidates.search(query[None, :], deep)[1][0]
            kept = found[self._is_short[found] if allowed is None else self._is_short[found] & allowed[found]]
            if len(kept) >= need:
                products = np.concatenate([longest, kept[:need]])
                scores = inner(self._vectors, products, query)
                if not sure:
                    order = np.argsort(-scores, kind="stable")[:n]
                    return products[order], scores[order]
                order = np.lexsort((products, -scores))[:n]
                # else more products may tie with the last sure one, and the first of them by index are due
                settled = scores[len(longest) :].min() < scores[order[sure - 1]]
                return (products[order], scores[order]) if settled else None
            deep *= 2
        return None

    def _scanned(
        self, query: Float32, n: int, allowed: Mask | None, passing: int
    ) -> tuple[NDArray[Any], Float32]:
        """Return the best of all allowed products."""
        if allowed is None or passing == len(self):
            scores = self._vectors @ query
            places = best(scores, n)
            return places, scores[places]
        rows = np.flatnonzero(allowed)
        sparse = passing * _SPARSE < len(self)
        scores = inner(self._vectors, rows, query) if sparse else (self._vectors @ query)[rows]
        places = best(scores, n)
        return rows[places], scores[places]


def best(scores: Float32, n: int) -> NDArray[np.int64]:
    """Return the places of the ``n`` highest of at least n scores, highest first, ties by place."""
    kept = np.flatnonzero(scores >= nth_at_least(scores, n))
    return kept[np.argsort(-scores[kept], kind="stable")[:n]]
