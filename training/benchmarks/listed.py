"""Benchmark data as lists of products per customer (``user item item …``), the form of the published splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from feature_repo import schema as s
from feature_repo.recent import KIND_CODES, History, to_micros
from serving.catalog import REPURCHASE_DAYS, Catalog
from serving.errors import DataError
from serving.features import CustomerState, FeatureReader
from training.dataset import IdMap, TrainingSet
from training.models import spectral
from training.models.configs import SpectralConfig

Matrix = sp.csr_matrix[np.float32]
_NEAR: Final = 64

#: The lists have no times: everything happened at one instant, a day before the model's clock.
AS_OF: Final = datetime(2000, 1, 2, tzinfo=UTC)
_AT: Final = to_micros(AS_OF - timedelta(days=1))


@dataclass(frozen=True)
class Listed:
    """Train and test as 0/1 matrices (customers × products) over the same customers and products, by number."""

    train: Matrix
    test: Matrix

    @classmethod
    def read(cls, directory: Path) -> Listed:
        """Read ``train.txt`` and ``test.txt``.

        Raises
        ------
        DataError
            A file is missing or has a line that is not ``user item item …`` in integers ≥ 0.
        """
        pairs = [_pairs(directory / f"{name}.txt") for name in ("train", "test")]
        if not len(pairs[0]):
            raise DataError(f"expected interactions in {directory / 'train.txt'}, found none")
        users, items = (np.unique(np.concatenate([part[:, side] for part in pairs])) for side in (0, 1))
        compact = [
            np.column_stack([np.searchsorted(users, part[:, 0]), np.searchsorted(items, part[:, 1])])
            for part in pairs
        ]
        return cls(*(_matrix(part, len(users), len(items)) for part in compact))

    def validation(self, *, share: float = 0.2, seed: int = 0) -> Listed:
        """Return train cut in two: a ``share`` of each customer's products is the test, at least one and never all.

        The files do not say how their test part was cut, so half of the customers lose single products at random,
        the other half a group of like ones, as if a whole later visit were still to come: a product of theirs drawn
        at random and those nearest to it. Settings have to do well on both.
        """
        generator = np.random.default_rng(seed)
        row = np.repeat(np.arange(self.train.shape[0]), np.diff(self.train.indptr))
        draw = generator.random(self.train.nnz)
        grouped = generator.random(self.train.shape[0]) < 0.5
        start = generator.integers(np.maximum(np.diff(self.train.indptr), 1)) + self.train.indptr[:-1]
        pairs = np.flatnonzero(grouped[row])
        near = nearness(
            self.train, self.train.indices[pairs], self.train.indices[start[row[pairs]]], seed=seed
        )
        draw[pairs] = -near
        rank = np.empty(self.train.nnz, dtype=np.int64)
        rank[np.lexsort((draw, row))] = np.arange(self.train.nnz)
        rank -= self.train.indptr[row]
        length = np.diff(self.train.indptr)[row]
        out = rank < np.minimum(np.maximum(np.round(length * share), 1), length - 1)
        parts = [
            np.column_stack([row[mask], self.train.indices[mask]]).astype(np.int64) for mask in (~out, out)
        ]
        return Listed(*(_matrix(part, *self.train.shape) for part in parts))


def nearness(
    matrix: Matrix, left: NDArray[np.int32], right: NDArray[np.int32], *, seed: int
) -> NDArray[np.float64]:
    """Return how alike the products ``left`` and ``right`` (pairs,) are: cosines of their spectral vectors."""
    settings = SpectralConfig(factors=_NEAR, customer_exponent=0.5, product_exponent=0.5, iterations=4)
    vectors = spectral.decomposed(spectral.normalised(matrix, settings), settings, seed=seed)[1].T
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    found = np.empty(len(left))
    for first in range(0, len(left), 100_000):
        part = slice(first, first + 100_000)
        found[part] = np.einsum("nd,nd->n", unit[left[part]], unit[right[part]])
    return found


def training_set(train: Matrix) -> TrainingSet:
    """Return a training set of ``train`` without features; customer and product ids are their numbers, padded."""
    pairs = train.tocoo()
    customers, products = train.shape
    ids = _ids(products)
    frame = pd.DataFrame({s.PRODUCT_ID: ids, s.AVAILABLE: pd.array([True] * products, dtype="boolean")})
    for name in (s.NAME, s.CATEGORY, s.PRICE, s.LAUNCHED_AT, s.WITHDRAWN_AT, REPURCHASE_DAYS):
        frame[name] = np.nan if name in (s.PRICE, REPURCHASE_DAYS) else None
    return TrainingSet(
        as_of=AS_OF,
        customers=IdMap(tuple(_ids(customers))),
        catalog=Catalog(frame),
        customer_idx=pairs.row.astype(np.int32),
        product_idx=pairs.col.astype(np.int32),
        kinds=np.full(train.nnz, KIND_CODES[s.PURCHASE], dtype=np.int8),
        at=np.full(train.nnz, _AT, dtype=np.int64),
        reader=ListReader(train, ids),
    )


class ListReader(FeatureReader):
    """States of customers whose whole history is their row of ``train``; made as they are asked for."""

    def __init__(self, train: Matrix, product_ids: Sequence[str]) -> None:
        self._train = train
        self._ids = product_ids

    def read(self, customer_ids: Sequence[str], at: datetime) -> list[CustomerState]:
        """Return the states; see ``FeatureReader``."""
        return [CustomerState({}, self._history(int(customer))) for customer in customer_ids]

    def _history(self, row: int) -> History:
        own = self._train.indices[self._train.indptr[row] : self._train.indptr[row + 1]]
        return History(
            tuple(self._ids[product] for product in own.tolist()),
            np.full(len(own), KIND_CODES[s.PURCHASE], dtype=np.int8),
            np.full(len(own), _AT, dtype=np.int64),
            np.ones(len(own)),
        )


def _ids(count: int) -> list[str]:
    width = len(str(max(count - 1, 0)))
    return [f"{number:0{width}d}" for number in range(count)]


def _pairs(path: Path) -> NDArray[np.int64]:
    rows: list[NDArray[np.int64]] = [np.empty((0, 2), dtype=np.int64)]
    try:
        with path.open() as lines:
            for number, line in enumerate(lines, start=1):
                rows.append(_line(path, number, line))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"expected train.txt and test.txt with lines 'user item item …', found no readable {path}; "
            "name the directory that holds them"
        ) from error
    return np.concatenate(rows)


def _line(path: Path, number: int, line: str) -> NDArray[np.int64]:
    words = line.split()
    if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise DataError(
            f"expected 'user item item …' in integers from 0 to 999999999, found {line.strip()[:60]!r} "
            f"in line {number} of {path}; correct it"
        )
    values = np.array(words, dtype=np.int64)
    if len(values) < 2:
        return np.empty((0, 2), dtype=np.int64)
    return np.column_stack([np.full(len(values) - 1, values[0]), values[1:]])


def _matrix(pairs: NDArray[np.int64], users: int, items: int) -> Matrix:
    ones = np.ones(len(pairs), dtype=np.float32)
    matrix = sp.csr_matrix((ones, (pairs[:, 0], pairs[:, 1])), shape=(users, items))
    matrix.data[:] = 1.0  # a product named twice counts once
    matrix.sort_indices()
    return matrix
