"""Settings of the models, apart from the models: reading a configuration loads no library that trains."""

from __future__ import annotations

import difflib
import math
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from serving.encoders.weights import Confidence, EventWeights

#: Models that a blend can be made of: those with vectors.
BLENDED: Final = ("als", "bpr", "spectral", "lightfm", "two_tower")


class Config(BaseModel):
    """Base of all model settings: frozen, unknown keys forbidden, and a text or a truth value is no number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class ALSConfig(Config):
    """Settings of ALS."""

    factors: int = Field(default=128, ge=1, le=2048)
    regularization: float = Field(default=30.0, gt=0)
    epochs: int = Field(default=15, ge=1)
    confidence: Confidence = Field(default_factory=lambda: Confidence(alpha=5.0, half_life_days=22.0))


class BPRConfig(Config):
    """Settings of ``fit``; ``weights`` say which events are positive ones.

    ``logq_correction`` is how much of a product's log popularity, lost in drawing negatives by it, is given back.
    """

    factors: int = Field(default=128, ge=1, le=2048)
    learning_rate: float = Field(default=0.05, gt=0)
    regularization: float = Field(default=0.01, ge=0)
    epochs: int = Field(default=100, ge=1)
    logq_correction: float = Field(default=1.0, ge=0)
    weights: EventWeights = Field(default_factory=EventWeights)


class KNNConfig(Config):
    """Settings of ``fit``; the exponents belong to ``linear``, K1 and B are implicit's for ``bm25``."""

    similarity: Literal["cosine", "bm25", "tfidf", "linear"] = "linear"
    neighbours: int = Field(default=200, ge=1)
    customer_exponent: float = Field(default=0.4, ge=0, le=1)
    product_exponent: float = Field(default=0.4, ge=0, le=1)
    k1: float = Field(default=1.2, ge=0)
    b: float = Field(default=0.75, ge=0, le=1)
    weights: EventWeights = Field(default_factory=EventWeights)


class SpectralConfig(Config):
    """Settings of ``fit``; ``iterations`` are power iterations of the decomposition."""

    factors: int = Field(default=256, ge=1, le=4096)
    customer_exponent: float = Field(default=0.4, ge=0, le=1)
    product_exponent: float = Field(default=0.4, ge=0, le=1)
    damping: float = Field(default=1.0, ge=0)
    iterations: int = Field(default=4, ge=1)
    weights: EventWeights = Field(default_factory=EventWeights)


class LightFMConfig(Config):
    """Settings of LightFM; features of fewer than ``min_count`` customers or products are left out."""

    factors: int = Field(default=64, ge=1, le=1024)
    learning_rate: float = Field(default=0.05, gt=0)
    regularization: float = Field(default=0.0, ge=0)
    epochs: int = Field(default=30, ge=1)
    loss: Literal["warp", "bpr"] = "warp"
    min_count: int = Field(default=5, ge=1)
    weights: EventWeights = Field(default_factory=EventWeights)


class BlendConfig(Config):
    """The weight of each model that takes part, by name."""

    weights: dict[str, float] = Field(default_factory=lambda: {"spectral": 1.0, "als": 0.5})

    @field_validator("weights")
    @classmethod
    def _positive(cls, weights: dict[str, float]) -> dict[str, float]:
        for name in weights:
            if name not in BLENDED:
                near = difflib.get_close_matches(name, BLENDED, n=1)
                meant = f"{name!r} is nearest to {near[0]!r}" if near else f"{name!r} is none of them"
                raise ValueError(f"a blend takes models with vectors: {', '.join(BLENDED)}; {meant}")
        if not weights or not all(0 < weight < math.inf for weight in weights.values()):
            raise ValueError("give each model a finite weight above zero")
        return weights


class TwoTowerConfig(Config):
    """Settings of the two-tower model; ``spectral`` are those of the vectors it starts from.

    A step takes ``batch_size`` customers. Each shows a share ``shown`` of its history and is asked for the rest,
    among the products of the whole batch and ``negatives`` uniformly drawn ones; ``temperature`` divides the cosines.
    A product's identity is left out with probability ``id_dropout``, so that its description learns to stand for it.
    Customers without a history are shown what is popular with this half-life, leaning to their features.
    """

    factors: int = Field(default=256, ge=2, le=2048)
    learning_rate: float = Field(default=0.02, gt=0)
    epochs: int = Field(default=30, ge=1)
    patience: int = Field(default=6, ge=1)
    batch_size: int = Field(default=512, ge=2)
    negatives: int = Field(default=4096, ge=1)
    temperature: float = Field(default=0.1, gt=0)
    shown: float = Field(default=0.5, gt=0, lt=1)
    id_dropout: float = Field(default=0.1, ge=0, lt=1)
    newcomer_half_life_days: float = Field(default=22.0, gt=0)
    hidden: int = Field(default=128, ge=1)
    name_buckets: int = Field(default=16384, ge=1)
    min_count: int = Field(default=5, ge=1)
    weights: EventWeights = Field(default_factory=EventWeights)
