"""Which index a catalog gets, by size and dimensions, gated by the recall that real queries have on it.

The time of a search is reckoned in the bytes that it reads, as a service finds them: other work has pushed them out of
the nearest caches. The exact kind reads the vectors of the products that it has to score: how many these are is counted
on the queries. A product quantiser reads half a byte a part of each product and the vectors of the longest products,
``LONGEST_BYTES`` in all; another pass costs as much as ``PASS`` bytes, and each candidate that is rescored as
``5,000 + 16 · dimensions`` (measured). Designs of 2 dimensions a part or 1, and of 100 to 4,000 candidates, at most one
in 8 products, that are reckoned at less than three quarters of the exact kind are tried, the cheapest first.

The first one is taken whose recall among the first 10 and the first 100 products, against the exact answer, is at least
.99 even two standard errors below its mean over the queries: those of ``QUERIES`` customers, or of products where fewer
than ``FEWEST`` customers have one. If none is, or the catalog is small, the index is **exact**. Deliberately absent:
graphs (HNSW), 8-bit codes and leading principal components, which were slower at this recall or never reached it
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

from serving.index import DEEPEST, PRODUCT, Design, ProductIndex
from serving.scoring import top

Float32 = NDArray[np.float32]

RECALL: Final = 0.99
QUERIES: Final = 500
FEWEST: Final = 100
_CUTS: Final = (10, 100)
_DEPTHS: Final = (100, 200, 300, 500, 700, 1000, 2000, 4000)
_WORTH_IT: Final = 0.75
LONGEST_BYTES: Final = 2**20
PASS: Final = 1_000_000
#: So many products have to be found where 10 are asked for and a mask leaves .8: what the exact kind is judged by.
_USUAL_N: Final = 30
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


def designs(products: int, dimensions: int, *, reached: float = 1.0) -> list[Design]:
    """Return the approximate designs that are worth trying, the cheapest first; see the module.

    Parameters
    ----------
    products, dimensions
        Of the catalog.
    reached
        The share of products that the exact kind has to score.
    """
    parts = [dimensions] if dimensions % 2 else [dimensions // 2, dimensions]
    longest = LONGEST_BYTES // (4 * max(dimensions, 1))
    able = [
        Design(PRODUCT, part, depth, longest)
        for part in parts
        for depth in _DEPTHS
        if max(depth, longest) * DEEPEST <= products
    ]

    def cost(design: Design) -> float:
        codes = products * design.parts / 2
        return codes + LONGEST_BYTES + PASS + design.depth * (5_000 + 16 * dimensions)

    exact = 4 * products * dimensions * reached
    return sorted((design for design in able if cost(design) < _WORTH_IT * exact), key=cost)


def choose(vectors: Float32, asked: Callable[[], Asked]) -> Chosen:
    """Return the index for ``vectors``: the first design that passes the gate, else the exact one.

    Parameters
    ----------
    vectors
        (products, dimensions) float32.
    asked
        Gives queries such as customers ask; called only where there may be a choice.
    """
    exact = ProductIndex.build(vectors)
    if not designs(*vectors.shape):
        return Chosen(exact)
    sample = asked()
    tried = designs(*vectors.shape, reached=exact.reached(sample.queries, _USUAL_N))
    if not tried:
        return Chosen(exact)
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
