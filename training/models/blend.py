"""Blend: several models side by side as concatenated vectors, served by one index.

The score is a weighted sum of the models' scores, each divided by its spread over the catalog for that customer;
see ``serving.encoders.blend``. Models without vectors (neighbours) cannot take part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.encoders import spec as e
from serving.encoders.blend import covariance
from serving.errors import ConfigError
from training.models.base import Embeddings, Float32


def blend(parts: Mapping[str, Embeddings], weights: Mapping[str, float]) -> Embeddings:
    """Join fitted models; ``weights`` are in the order of the blocks.

    Raises
    ------
    ConfigError
        A model has no vectors.
    """
    blocks: list[e.BlockSpec] = []
    vectors: list[Float32] = []
    matrices: dict[str, NDArray[Any]] = {}
    small: dict[str, NDArray[Any]] = {}
    start = 0
    for name, weight in weights.items():
        part = parts[name]
        if part.products is None or isinstance(part.encoder, e.BlendSpec | e.NeighboursSpec | e.RepeatsSpec):
            raise ConfigError(f"expected models with vectors in a blend, found {name!r}; leave it out")
        stop = start + part.products.shape[1]
        blocks.append(e.BlockSpec(name=name, start=start, stop=stop, weight=weight, encoder=part.encoder))
        vectors.append(part.products)
        matrices |= {f"{name}/{key}": array for key, array in part.matrices.items()}
        small |= {f"{name}/{key}": array for key, array in part.weights.items()}
        small[f"{name}/{e.COVARIANCE}"] = covariance(part.products)
        start = stop
    return Embeddings(np.hstack(vectors), e.BlendSpec(blocks=tuple(blocks)), matrices, small)
