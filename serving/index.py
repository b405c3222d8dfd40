"""The product index: exact inner-product search over all product vectors, by FAISS.

One class hides FAISS's conventions (−1 padding, flattened batches, selectors). Exact by construction
under any mask: either the search is deep enough to step over every blocked product, or FAISS is given
the mask itself.
"""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from serving.errors import BundleError

Float32 = NDArray[np.float32]
_STEP_OVER = 256  # deeper than this, handing FAISS the mask is cheaper than sorting the surplus


class ProductIndex:
    """Exact inner-product index over ``vectors`` (products × dimensions, float32)."""

    def __init__(self, index: faiss.Index) -> None:
        self._index = index

    @classmethod
    def build(cls, vectors: Float32) -> ProductIndex:
        """Index the rows of ``vectors``; row number is the product index."""
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(np.ascontiguousarray(vectors, dtype=np.float32))
        return cls(index)

    @classmethod
    def load(cls, path: Path, *, shape: tuple[int, int]) -> ProductIndex:
        """Read an index written by ``save`` and check that it holds ``shape`` vectors.

        Raises
        ------
        BundleError
            The file is not such an index.
        """
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise BundleError(
                f"expected a FAISS index in {path.name}, found {error}; publish the bundle anew"
            ) from error
        if (index.ntotal, index.d) != shape:
            raise BundleError(
                f"expected {shape[0]} vectors of {shape[1]} dimensions in {path.name}, "
                f"found {index.ntotal} of {index.d}; publish the bundle anew"
            )
        return cls(index)

    def save(self, path: Path) -> None:
        """Write the index in FAISS's own format."""
        faiss.write_index(self._index, str(path))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def search(
        self, queries: Float32, n: int, *, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int32], Float32]:
        """Return the best ``min(n, allowed)`` products of each query, best first.

        Parameters
        ----------
        queries
            (q, dimensions) float32.
        n
            How many to return.
        allowed
            (products,) mask of what may be returned; None allows everything.

        Returns
        -------
        tuple
            Product indices (q, min(n, allowed)) int32 and inner products of the same shape; no padding.
        """
        total = len(self)
        passing = total if allowed is None else int(np.count_nonzero(allowed))
        n = min(n, passing)
        if n <= 0 or len(queries) == 0:
            empty = (len(queries), 0)
            return np.empty(empty, dtype=np.int32), np.empty(empty, dtype=np.float32)
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        blocked = total - passing
        if allowed is None or blocked == 0:
            scores, found = self._index.search(queries, n)
            return found.astype(np.int32), scores
        if blocked <= _STEP_OVER:
            scores, found = self._index.search(queries, n + blocked)
            kept = np.argsort(~allowed[found], axis=1, kind="stable")[:, :n]
            return (
                np.take_along_axis(found, kept, axis=1).astype(np.int32),
                np.take_along_axis(scores, kept, axis=1),
            )
        # the stubs know the C++ signatures, not the NumPy ones
        selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))  # type: ignore[call-arg, arg-type]
        chosen = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        scores, found = self._index.search(queries, n, params=chosen)
        return found.astype(np.int32), scores
