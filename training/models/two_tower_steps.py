"""What the two towers are trained on and judged by: batches of shown and hidden history, and held-out products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from training.models.configs import TwoTowerConfig

if TYPE_CHECKING:
    from training.models.two_tower_net import Towers

Matrix = sp.csr_matrix[np.float32]
Int64 = NDArray[np.int64]
_JUDGED: Final = 2000
_HELD_OUT: Final = 0.2
_K: Final = 20


@dataclass(frozen=True)
class Batch:
    """One step: customers with what they show, and the products they are asked to tell from ``candidates``.

    ``shown`` (customers × products) weighs the history, ``features`` (customers × tokens) the features; ``target``
    lists (row of the batch, place in ``candidates``, share of the row) of what was hidden; ``masked`` (row, place)
    what was shown and is no candidate for that row; ``correction`` (candidates,) is added to the scores: minus
    logQ; ``unnamed`` (candidates,) tells whose identity is left out.
    """

    shown: Matrix
    features: Matrix
    candidates: Int64
    correction: NDArray[np.float32]
    target: tuple[Int64, Int64, NDArray[np.float32]]
    masked: tuple[Int64, Int64]
    unnamed: NDArray[np.bool_]


class Examples:
    """Draws batches from the weights (customers × products) and features (customers × tokens) of customers.

    Parameters
    ----------
    matrix, features
        What customers did, and what is known of them.
    pool
        The products that uniform negatives are drawn from.
    """

    def __init__(self, matrix: Matrix, features: Matrix, *, pool: NDArray[np.int64]) -> None:
        self._matrix = matrix
        self._features = features
        self._pool = pool
        self._customers = np.flatnonzero(np.diff(matrix.indptr) > 1)

    def epoch(self, config: TwoTowerConfig, generator: np.random.Generator) -> Iterator[Batch]:
        """Yield batches that visit each customer with two products or more once, in random order."""
        order = generator.permutation(self._customers)
        for start in range(0, len(order), config.batch_size):
            yield self.batch(order[start : start + config.batch_size], config, generator)

    def batch(
        self, customers: NDArray[np.int64], config: TwoTowerConfig, generator: np.random.Generator
    ) -> Batch:
        """Hide a random part of what ``customers`` did, at least one product each but not all, and draw negatives."""
        rows = self._matrix[customers]
        features = self._features[customers]
        row = np.repeat(np.arange(len(customers)), np.diff(rows.indptr))
        draw = generator.random(rows.nnz)
        hidden = draw >= config.shown
        # everybody shows something and is asked for something
        order = np.lexsort((draw, row))
        hidden[order[rows.indptr[:-1]]] = False
        hidden[order[rows.indptr[1:] - 1]] = True
        shown = rows.copy()
        shown.data = np.where(hidden, np.float32(0.0), rows.data)
        shown.eliminate_zeros()
        product = rows.indices.astype(np.int64)
        positives = np.unique(product[hidden])
        candidates, correction = self._candidates(positives, config.negatives, generator)
        place = np.full(self._matrix.shape[1], -1, dtype=np.int64)
        place[candidates] = np.arange(len(candidates))
        told = rows.data[hidden].astype(np.float64)
        # customers count alike, but for those who did nothing lately: what they asked for is not of today
        share = told / np.bincount(row[hidden], minlength=len(customers))[row[hidden]]
        masked = ~hidden & (place[product] >= 0)
        return Batch(
            shown=shown,
            features=features,
            candidates=candidates,
            correction=correction,
            target=(row[hidden], place[product[hidden]], share.astype(np.float32)),
            masked=(row[masked], place[product[masked]]),
            unnamed=generator.random(len(candidates)) < config.id_dropout,
        )

    def _candidates(
        self, positives: Int64, negatives: int, generator: np.random.Generator
    ) -> tuple[Int64, NDArray[np.float32]]:
        """Return the products of the batch and uniform others, which stand for all the rest of the pool."""
        rest = np.setdiff1d(self._pool, positives)
        # with replacement, then distinct: no permutation of a large catalog at every step
        draw = generator.integers(len(rest), size=negatives) if len(rest) > negatives else slice(None)
        drawn = np.unique(rest[draw])
        log_q = np.log(max(len(drawn), 1) / max(len(rest), 1))
        correction = np.concatenate([np.zeros(len(positives)), np.full(len(drawn), -log_q)])
        return np.concatenate([positives, drawn]).astype(np.int64), correction.astype(np.float32)


@dataclass(frozen=True)
class Judge:
    """Held-out products of some customers: when to stop, chosen inside the training data."""

    shown: Matrix
    features: Matrix
    held_out: Matrix

    @classmethod
    def hold_out(
        cls, matrix: Matrix, features: Matrix, generator: np.random.Generator
    ) -> tuple[Judge, Matrix]:
        """Take a fifth of what up to 2,000 customers did, at most a tenth of all; return the judge and the rest."""
        able = np.flatnonzero(np.diff(matrix.indptr) >= 2)
        size = min(_JUDGED, max(len(able) // 10, 1))
        chosen = np.sort(generator.permutation(able)[:size])
        row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
        draw = generator.random(matrix.nnz)
        is_chosen = np.zeros(matrix.shape[0], dtype=np.bool_)
        is_chosen[chosen] = True
        order = np.lexsort((draw, row))
        rank = np.empty(matrix.nnz, dtype=np.int64)
        rank[order] = np.arange(matrix.nnz) - matrix.indptr[row]
        length = np.diff(matrix.indptr)[row]
        out = is_chosen[row] & (rank < np.maximum(np.round(length * _HELD_OUT), 1))
        held, kept = matrix.copy(), matrix.copy()
        held.data = np.where(out, matrix.data, np.float32(0.0))
        kept.data = np.where(out, np.float32(0.0), matrix.data)
        held.eliminate_zeros()
        kept.eliminate_zeros()
        return cls(kept[chosen], features[chosen], held[chosen]), kept

    def score(self, towers: Towers) -> float:
        """Return the mean NDCG@20 of the held-out products among all products not shown."""
        if not self.held_out.nnz:
            return 0.0
        k = min(_K, self.held_out.shape[1])
        gains = 1.0 / np.log2(np.arange(2, k + 2))
        with torch.no_grad():
            queries = towers.customers(self.shown, self.features)
            products = towers.products()
            found = []
            for start in range(0, len(queries), 500):
                scores = queries[start : start + 500] @ products.T
                part = self.shown[start : start + 500].tocoo()
                scores[part.row.astype(np.int64), part.col.astype(np.int64)] = -torch.inf
                found.append(torch.topk(scores, k, dim=1).indices.cpu().numpy())
        ranked = np.concatenate(found)
        wanted = self.held_out
        hit = np.zeros(ranked.shape, dtype=np.float64)
        for row, places in enumerate(ranked):
            own = wanted.indices[wanted.indptr[row] : wanted.indptr[row + 1]]
            hit[row] = np.isin(places, own)
        ideal = np.cumsum(gains)[np.minimum(np.diff(wanted.indptr), k) - 1]
        return float(((hit * gains).sum(axis=1) / ideal).mean())
