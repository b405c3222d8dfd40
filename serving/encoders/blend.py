"""Blending: several encoders side by side in one vector, searched in one index.

The inner product of concatenated vectors is the sum of the inner products. Models score on scales of their
own, so each block is divided, customer by customer, by the standard deviation of its scores over the catalog,
``√(qᵀΣq)``, Σ being the covariance of the block's product vectors, and multiplied by its weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serving.subject import Subject

Float32 = NDArray[np.float32]


class Encoder(Protocol):
    """Makes the query vector of a customer."""

    def encode(self, subject: Subject) -> Float32 | None:
        """Return the (d,) vector, or None for somebody of whom nothing is known."""
        ...


@dataclass(frozen=True)
class Block:
    """One encoder of a blend: its weight, and the covariance (d, d) of its product vectors."""

    encoder: Encoder
    weight: float
    covariance: Float32


class Blend:
    """Concatenates the scaled vectors of its blocks; a block with nothing to say is zero."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._blocks = tuple(blocks)

    def encode(self, subject: Subject) -> Float32 | None:
        """Return the (Σ d,) vector, or None when no block knows anything."""
        queries = [block.encoder.encode(subject) for block in self._blocks]
        if all(query is None for query in queries):
            return None
        parts = [
            np.zeros(len(block.covariance), dtype=np.float32)
            if query is None
            else scaled(query[None, :], block.covariance, block.weight)[0]
            for query, block in zip(queries, self._blocks, strict=True)
        ]
        return np.concatenate(parts)


def scaled(queries: Float32, covariance: Float32, weight: float) -> Float32:
    """Return the queries (n, d) times ``weight / √(qᵀΣq)``, row by row; rows whose scores do not vary are zero."""
    spread = np.sqrt(np.maximum(np.einsum("nd,nd->n", queries @ covariance, queries), 0.0))
    factor = np.divide(weight, spread, out=np.zeros(len(queries)), where=spread > 1e-12)
    return np.asarray(queries * factor[:, None], dtype=np.float32)


def covariance(vectors: Float32) -> Float32:
    """Return the covariance (d, d) of product vectors (products, d)."""
    wide = np.asarray(vectors, dtype=np.float64)
    centred = wide - wide.mean(axis=0)
    return np.asarray(centred.T @ centred / len(wide), dtype=np.float32)
