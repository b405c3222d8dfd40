"""How long one search of the product index takes on one thread: the chosen index beside the exact one.

Vectors are drawn in clusters of varying lengths with a falling spectrum, queries as sums of a few of them, as
histories are; or both are given, such as those of a fitted model. The sides take turns at twenty queries, the second
one first every other time, so that other work on the machine meets both. A third of the queries only chooses the index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median, quantiles
from time import perf_counter
from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from serving.index import ProductIndex
from serving.index_choice import Asked, choose, recall_of

Float32 = NDArray[np.float32]
Mask = NDArray[np.bool_]
Progress = Callable[[str, int, int], None]

N: Final = 10
DEEP_N: Final = 100
SIDES: Final = ("exact", "chosen")
_CLUSTERS: Final = 300
_SUMMED: Final = 8
_ON_SALE: Final = 0.8
_TURN: Final = (
    20  # queries: an exact scan of many products leaves nothing in the cache for who comes after it
)


def index_times(
    sizes: Sequence[tuple[int, int]],
    *,
    queries: int,
    rounds: int,
    seed: int,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Measure indices of drawn vectors.

    Parameters
    ----------
    sizes
        (products, dimensions) of each.
    queries
        Timed, and as many as half of them again to choose by.
    rounds
        How often each is answered.
    seed
        Of what is drawn.
    progress
        Called with ("indices", done, all).

    Returns
    -------
    list
        For each size what ``measured`` says.
    """
    told = []
    for number, (products, dimensions) in enumerate(sizes, start=1):
        generator = np.random.default_rng(seed)
        vectors = drawn(products, dimensions, generator)
        asked = vectors[generator.integers(products, size=(queries * 3 // 2, _SUMMED))].mean(axis=1)
        told.append(measured(vectors, asked, rounds=rounds, seed=seed))
        if progress is not None:
            progress("indices", number, len(sizes))
    return told


def drawn(products: int, dimensions: int, generator: np.random.Generator) -> Float32:
    """Draw product vectors (products, dimensions): the k-th direction varies by k^-½, lengths are log-normal."""
    spectrum = np.arange(1, dimensions + 1, dtype=np.float32) ** -0.5
    centres = generator.standard_normal((_CLUSTERS, dimensions), dtype=np.float32)
    own = generator.standard_normal((products, dimensions), dtype=np.float32)
    vectors = (centres[generator.integers(_CLUSTERS, size=products)] + own) * spectrum
    rotated, _ = np.linalg.qr(generator.standard_normal((dimensions, dimensions)))
    vectors *= np.exp(generator.normal(0.0, 0.6, size=(products, 1)))
    return np.ascontiguousarray(vectors @ rotated, dtype=np.float32)


def measured(vectors: Float32, queries: Float32, *, rounds: int, seed: int) -> dict[str, Any]:
    """Choose the index of ``vectors`` by a third of ``queries`` and time the others on one thread.

    Returns
    -------
    dict
        ``products``, ``dimensions``, ``chosen`` (as in a manifest), ``choice_seconds``, ``recall`` on the timed queries
        (the lower one at 10 and 100), and for ``everything`` and ``on_sale`` (a random share of .8, less than
        100 single products) the milliseconds of the 10 best: of each side ``median`` and both quartiles.
    """
    generator = np.random.default_rng(seed)
    choosing, timed = np.split(queries, [len(queries) // 3])
    began = perf_counter()
    chosen = choose(vectors, lambda: Asked(choosing, "customers"))
    seconds = perf_counter() - began
    exact = ProductIndex.build(vectors)
    mask = generator.random(len(vectors)) < _ON_SALE
    mask[generator.integers(len(vectors), size=DEEP_N)] = False
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            recall, _ = recall_of(*(side.search(timed, DEEP_N)[1] for side in (chosen.index, exact)))
            sides = dict(zip(SIDES, (exact, chosen.index), strict=True))
            times = {
                name: _timed(sides, timed, allowed, rounds=rounds)
                for name, allowed in (("everything", None), ("on_sale", mask))
            }
    finally:
        faiss.omp_set_num_threads(threads)
    return {
        "products": vectors.shape[0],
        "dimensions": vectors.shape[1],
        "chosen": chosen.to_json(),
        "choice_seconds": round(seconds, 1),
        "recall": round(recall, 5),
        "ms": times,
    }


def _timed(
    sides: dict[str, ProductIndex], queries: Float32, allowed: Mask | None, *, rounds: int
) -> dict[str, dict[str, float]]:
    """Return the spread of the milliseconds of each side; they take turns."""
    taken: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds):
        for start in range(0, len(queries), _TURN):
            for side in SIDES if (number + start // _TURN) % 2 else SIDES[::-1]:
                for row in range(start, min(start + _TURN, len(queries))):
                    began = perf_counter()
                    sides[side].search(queries[row : row + 1], N, allowed=allowed)
                    taken[side].append((perf_counter() - began) * 1e3)
    return {side: _spread(values) for side, values in taken.items()}


def _spread(values: Sequence[float]) -> dict[str, float]:
    low, _, high = quantiles(values, n=4)
    return {name: round(ms, 4) for name, ms in (("median", median(values)), ("low", low), ("high", high))}
