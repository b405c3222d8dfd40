"""Which index a catalog gets, by size and dimensions, gated by the recall that real queries have on it.

The time of a search is reckoned in bytes that a scan of float32 vectors reads in it, 4 a number. A design scans codes
and rescores candidates exactly, each of which costs ``12,000 + 16 · dimensions`` such bytes (measured; a code of a
product quantiser has half a byte a part, one of a scalar quantiser costs like 2 bytes a dimension). Those reckoned at
less than three quarters of the exact scan are tried, the cheapest first:

* **product quantised**, 2 dimensions a part or 1, and 300 to 4,000 candidates, at most one in 8 products;
* **scalar quantised**, from 128 dimensions on (with fewer its arithmetic takes as long as the scan), 300 candidates.

The first one is taken whose recall among the first 10 and the first 100 products, against the exact answer, is at least
.99 even two standard errors below its mean over the queries: those of ``QUERIES`` customers, or of products where fewer
than ``FEWEST`` customers have one. If none is, or the catalog is small, the index is **exact**. Deliberately absent:
graphs (HNSW) and leading principal components, which were slower at this recall or never reached it
(``training/models/README.md``), and any measurement of time: no choice depends on how busy a machine was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from serving.index import DEEPEST, PRODUCT, SCALAR, Design, ProductIndex
from serving.scoring import top

Float32 = NDArray[np.float32]

RECALL: Final = 0.99
QUERIES: Final = 500
FEWEST: Final = 100
_SCALAR_FROM: Final = 128
_CUTS: Final = (10, 100)
_DEPTHS: Final = (300, 500, 700, 1000, 2000, 4000)
_WORTH_IT: Final = 0.75
_SAME: Final = 1e-5  # float32 sums of the same numbers differ by their order


@dataclass(frozen=True)
class Asked:
    """Queries (q, dimensions) to measure recall on, at least one, and whose they are."""

    queries: Float32
    by: Literal["customers", "products"]


@dataclass(frozen=True)
class Chosen:
    """An index, its recall (the lower one of both cuts) and on what that was measured (None: it is exact)."""

    index: ProductIndex
    recall: float = 1.0
    asked: Asked | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what the manifest says of the index."""
        design = {name: value for name, value in asdict(self.index.design).items() if value}
        told: dict[str, Any] = {**design, "recall": round(self.recall, 5)}
        if self.asked is not None:
            told |= {"n": max(_CUTS), "queries": len(self.asked.queries), "asked_by": self.asked.by}
        return told


def designs(products: int, dimensions: int) -> list[Design]:
    """Return the approximate designs that are worth trying at this size, the cheapest first; see the module."""
    parts = [dimensions] if dimensions % 2 else [dimensions // 2, dimensions]
    able = [
        Design(PRODUCT, part, depth) for part in parts for depth in _DEPTHS if depth * DEEPEST <= products
    ]
    if dimensions >= _SCALAR_FROM and products >= _DEPTHS[0] * DEEPEST:
        able.append(Design(SCALAR, depth=_DEPTHS[0]))

    def cost(design: Design) -> float:
        code = design.parts / 2 if design.type == PRODUCT else 2 * dimensions
        return products * code + design.depth * (12_000 + 16 * dimensions)

    return sorted((d for d in able if cost(d) < _WORTH_IT * 4 * products * dimensions), key=cost)


def choose(vectors: Float32, asked: Callable[[], Asked]) -> Chosen:
    """Return the index for ``vectors``: the first design that passes the gate, else the exact one.

    Parameters
    ----------
    vectors
        (products, dimensions) float32.
    asked
        Gives queries such as customers ask; called only where there is a choice.
    """
    exact = ProductIndex.build(vectors)
    tried = designs(*vectors.shape)
    if not tried:
        return Chosen(exact)
    sample = asked()
    truth = top(sample.queries, vectors, max(_CUTS))[1]
    made: dict[tuple[str, int], faiss.Index] = {}
    with _one_thread():
        for design in tried:
            key = (design.type, design.parts)
            if key not in made:
                made[key] = design.candidates(vectors)
            index = ProductIndex(made[key], vectors, design)
            recall, sure = recall_of(index.search(sample.queries, max(_CUTS))[1], truth)
            if sure >= RECALL:
                return Chosen(index, recall, sample)
    return Chosen(exact)


def recall_of(found: Float32, truth: Float32) -> tuple[float, float]:
    """Return the lowest recall over the cuts, and the lowest at two standard errors below its mean.

    Of exact scores (q, n) of what was found and of the truth, both best first: a product counts that scores no less
    than the last one of the truth does, since any of several that tie with it will do.
    """
    means, sure = [], []
    for cut in _CUTS:
        last = truth[:, cut - 1 : cut]
        share = (found[:, :cut] >= last - _SAME * np.abs(last)).mean(axis=1)
        means.append(float(share.mean()))
        sure.append(means[-1] - 2.0 * float(share.std()) / len(share) ** 0.5)
    return min(means), min(sure)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let FAISS use one thread: many quantisers of a few thousand points are no work to share, only to wait for."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
