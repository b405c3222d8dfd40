"""Products near those of a history, by a sparse product × product matrix.

The candidate source of item-item models: what is not near anything in the history is not a candidate at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
_ARRAYS: Final = ("indptr", "indices", "data")


@dataclass(frozen=True)
class Neighbours:
    """Row i holds the products near product i and how near (CSR): ``indices[indptr[i]:indptr[i + 1]]``, ``data``."""

    indptr: Int64
    indices: Int32
    data: Float32

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Neighbours:
        """Take the three arrays called ``neighbours.<part>``."""
        return cls(*(arrays[f"neighbours.{part}"] for part in _ARRAYS))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the three arrays by the names that ``of`` reads."""
        return {f"neighbours.{part}": getattr(self, part) for part in _ARRAYS}

    def near(self, products: Int32, weights: NDArray[np.float64]) -> tuple[Int32, Float32]:
        """Return the products near the given ones (ascending) and the weighted sums of their nearness."""
        bounds = [(int(self.indptr[p]), int(self.indptr[p + 1])) for p in products.tolist()]
        if not any(end > start for start, end in bounds):
            return np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32)
        found = np.concatenate([self.indices[start:end] for start, end in bounds])
        values = np.concatenate(
            [self.data[start:end] * weight for (start, end), weight in zip(bounds, weights, strict=True)]
        )
        distinct, place = np.unique(found, return_inverse=True)
        sums = np.bincount(place, weights=values, minlength=len(distinct))
        return distinct.astype(np.int32), sums.astype(np.float32)
