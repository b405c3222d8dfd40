"""How fast the top products of all customers are found, beside a plain matrix product and beside ``implicit``.

The floor is what anybody would write: a BLAS product by blocks and a partial sort of each row, a thread a core, with
the size of block that suits it best here. ``implicit`` ranks the same vectors by its own ``recommend``. Each side
ranks once with every product and once without those that a customer has; all take turns, so that other work on the
machine meets all of them. Deliberately absent: encoding and reading features, which ``recommend --all`` also pays.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, Final

import numpy as np
import scipy.sparse as sp
from implicit.cpu.als import AlternatingLeastSquares
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from serving.scoring import Blocked, top

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Matrix = sp.csr_matrix[np.float32]
Progress = Callable[[str, int, int], None]

N: Final = 20
OURS: Final = "ours"
FLOOR: Final = "floor"
IMPLICIT: Final = "implicit"
SIDES: Final = (OURS, FLOOR, IMPLICIT)
_BLOCKS: Final = (128, 256, 512, 1024)
_TRIED: Final = 4096
_MOST_OWNED: Final = 1000


@dataclass(frozen=True)
class Vectors:
    """What is ranked: ``queries`` (customers, d), ``products`` (products, d), and what each customer has (CSR)."""

    queries: Float32
    products: Float32
    owned: Matrix

    @classmethod
    def drawn(cls, customers: int, products: int, factors: int, *, seed: int) -> Vectors:
        """Draw normal vectors, and purchases: log-normal many a customer (median 20), product r by 1/(r + 10)."""
        generator = np.random.default_rng(seed)
        counts = np.exp(generator.normal(np.log(20.0), 1.0, customers)).astype(np.int64)
        counts = np.clip(counts, 1, max(min(_MOST_OWNED, products // 4), 1))
        weight = 1.0 / (generator.permutation(products) + 10.0)
        bought = generator.choice(products, counts.sum(), p=weight / weight.sum())
        pairs = np.unique(np.repeat(np.arange(customers), counts) * products + bought)
        owned = sp.csr_matrix(
            (np.ones(len(pairs), dtype=np.float32), (pairs // products, pairs % products)),
            shape=(customers, products),
        )
        return cls(
            generator.standard_normal((customers, factors), dtype=np.float32),
            generator.standard_normal((products, factors), dtype=np.float32),
            owned,
        )


def scoring(
    *,
    customers: int,
    products: int,
    factors: int,
    rounds: int,
    seed: int,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the benchmark; see the module.

    Returns
    -------
    dict
        The sizes, and for ``everything`` and ``without_owned``: of each side ``seconds`` and
        ``customers_per_second``; ``of_floor`` and ``of_implicit``, our customers a second over the side's, round by
        round; ``same_products``, the share of customers for whom we found the same products as the side.
    """
    data = Vectors.drawn(customers, products, factors, seed=seed)
    threads = len(os.sched_getaffinity(0))
    block = _best_block(data, threads)
    runs = {
        (masked, side): run
        for masked in (False, True)
        for side, run in _sides(data, masked=masked, block=block, threads=threads).items()
    }
    seconds: dict[tuple[bool, str], list[float]] = {key: [] for key in runs}
    found: dict[tuple[bool, str], Int32] = {}
    for number in range(rounds):
        for masked in (False, True):
            # whoever is first meets cold caches: each side is in its turn
            for side in _turned(SIDES, number):
                taken, found[masked, side] = _timed(runs[masked, side], side)
                seconds[masked, side].append(taken)
                if progress is not None:
                    progress("rankings", sum(map(len, seconds.values())), rounds * len(runs))
    return {
        "customers": customers,
        "products": products,
        "factors": factors,
        "n": N,
        "owned": int(data.owned.nnz),
        "rounds": rounds,
        "seed": seed,
        "threads": threads,
        "floor_block": block,
        **{
            name: _described(
                {side: seconds[masked, side] for side in SIDES},
                {side: found[masked, side] for side in SIDES},
                customers,
            )
            for name, masked in (("everything", False), ("without_owned", True))
        },
    }


def _sides(data: Vectors, *, masked: bool, block: int, threads: int) -> dict[str, Callable[[], Int32]]:
    """Return what each side does, ready to be timed."""
    owned = data.owned if masked else None
    blocked = Blocked(data.owned.indptr.astype(np.int64), data.owned.indices.astype(np.int32))
    model = AlternatingLeastSquares(factors=data.products.shape[1], num_threads=threads)
    model.user_factors, model.item_factors = data.queries, data.products

    def ours() -> Int32:
        return top(data.queries, data.products, N, blocked=blocked if masked else None)[0]

    def implicit() -> Int32:
        ids = np.arange(len(data.queries))
        found, _ = model.recommend(ids, data.owned, N=N, filter_already_liked_items=masked)
        return np.asarray(found, dtype=np.int32)

    floor = partial(plain, data.queries, data.products, owned, block=block, threads=threads)
    return {OURS: ours, FLOOR: floor, IMPLICIT: implicit}


def plain(queries: Float32, products: Float32, owned: Matrix | None, *, block: int, threads: int) -> Int32:
    """Return the top products (queries, N) by products of blocks and partial sorts, without those ``owned``."""

    def ranked(start: int) -> Int32:
        scores = queries[start : start + block] @ products.T
        if owned is not None:
            rows = owned[start : start + block]
            scores[np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr)), rows.indices] = -np.inf
        best = np.argpartition(scores, -N, axis=1)[:, -N:]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
        return np.take_along_axis(best, order, axis=1).astype(np.int32)

    with ThreadPoolExecutor(threads) as pool:
        return np.vstack(list(pool.map(ranked, range(0, len(queries), block))))


def _best_block(data: Vectors, threads: int) -> int:
    """Return the block with which the floor is fastest on some of the customers."""
    tried = data.queries[:_TRIED]
    seconds = {
        block: min(
            _timed(partial(plain, tried, data.products, None, block=block, threads=threads), FLOOR)[0]
            for _ in range(2)
        )
        for block in _BLOCKS
    }
    return min(seconds, key=lambda block: seconds[block])


def _timed(run: Callable[[], Int32], side: str) -> tuple[float, Int32]:
    """Return the seconds of one run and what it found; all but ours divide the cores themselves, so BLAS gets one."""
    alone: AbstractContextManager[Any] = (
        nullcontext() if side == OURS else threadpool_limits(limits=1, user_api="blas")
    )
    with alone:
        began = time.perf_counter()
        found = run()
        return time.perf_counter() - began, found


def _turned(sides: Sequence[str], number: int) -> list[str]:
    first = number % len(sides)
    return [*sides[first:], *sides[:first]]


def _described(
    seconds: Mapping[str, Sequence[float]], found: Mapping[str, Int32], customers: int
) -> dict[str, Any]:
    others = [side for side in SIDES if side != OURS]
    return {
        **{
            side: {
                "seconds": _spread(taken),
                "customers_per_second": round(customers / median(taken)),
            }
            for side, taken in seconds.items()
        },
        **{
            f"of_{side}": _spread(
                [theirs / mine for mine, theirs in zip(seconds[OURS], seconds[side], strict=True)]
            )
            for side in others
        },
        "same_products": {side: round(same_sets(found[OURS], found[side]), 6) for side in others},
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    told = {"median": median(values), "min": min(values), "max": max(values)}
    return {name: float(f"{value:.4g}") for name, value in told.items()}


def same_sets(first: Int32, second: Int32) -> float:
    """Return the share of rows that hold the same products, in whatever order."""
    return float((np.sort(first, axis=1) == np.sort(second, axis=1)).all(axis=1).mean())
