"""What every model gives back, and how hyperparameters are declared.

A model is one function ``fit(TrainingSet, Config, seed) → Embeddings``; variation is its Config, and the
rest (ids, masks, tables, serving) happens once, elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Float32 = NDArray[np.float32]


class Config(BaseModel):
    """Base of all model settings: frozen, unknown keys forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Embeddings:
    """Vectors whose inner products rank: products (products, d), customers (customers, d), float32.

    ``product_scale`` (products,) multiplies the confidence of events with each product in the encoder.
    """

    products: Float32
    customers: Float32
    product_scale: Float32
