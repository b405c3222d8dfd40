"""What a bundle says of its encoder, and the encoder made from it and the bundle's arrays.

A spec holds settings only; arrays lie beside it by name: ``matrices`` with a row a product or a customer,
mapped into memory so that workers share them, and ``weights``, small ones. The blocks of a blend have theirs
under ``<block>/<name>``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from serving.encoders.blend import Blend, Block, Encoder
from serving.encoders.fold_in import FoldIn
from serving.encoders.lookup import FeatureSum, Lookup
from serving.encoders.pooling import Pooling
from serving.encoders.tower import Tower
from serving.encoders.vocabulary import Vocabulary
from serving.encoders.weights import Confidence, EventWeights, HistoryWeights
from serving.errors import BundleError

Float32 = NDArray[np.float32]
Arrays = Mapping[str, NDArray[Any]]

CUSTOMERS = "customers"
PRODUCT_SCALE = "product_scale"
HISTORY_VECTORS = "history_vectors"
FEATURES = "features"
CONSTANT = "constant"
COVARIANCE = "covariance"


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FoldInSpec(_Spec):
    """Solve the customer's half-step of ALS; see ``FoldIn``. Arrays: ``product_scale``, maybe ``customers``."""

    type: Literal["fold_in"] = "fold_in"
    regularization: float
    confidence: Confidence


class PoolingSpec(_Spec):
    """Sum the vectors of the history; see ``Pooling``. Array: ``product_scale``."""

    type: Literal["pooling"] = "pooling"
    weights: EventWeights


class LookupSpec(_Spec):
    """Look the customer up; see ``Lookup``. Array: ``customers``."""

    type: Literal["lookup"] = "lookup"


class FeatureSumSpec(_Spec):
    """Look the customer up and add features; see ``FeatureSum``. Arrays: ``customers``, ``features``, ``constant``."""

    type: Literal["feature_sum"] = "feature_sum"
    vocabulary: Vocabulary


class TowerSpec(_Spec):
    """Run the customer tower; see ``Tower``. Arrays: ``history_vectors`` and the tower's weights."""

    type: Literal["tower"] = "tower"
    weights: EventWeights
    vocabulary: Vocabulary


class BlockSpec(_Spec):
    """One block of a blend: where its vectors begin and end, its weight and its encoder. Array: ``covariance``."""

    name: str
    start: int
    stop: int
    weight: float
    encoder: Annotated[
        FoldInSpec | PoolingSpec | LookupSpec | FeatureSumSpec | TowerSpec, Field(discriminator="type")
    ]


class BlendSpec(_Spec):
    """Several encoders side by side; see ``Blend``."""

    type: Literal["blend"] = "blend"
    blocks: tuple[BlockSpec, ...] = Field(min_length=1)


class NeighboursSpec(_Spec):
    """No vector: products near those of the history, by a sparse matrix; see ``Neighbours``. Its arrays."""

    type: Literal["neighbours"] = "neighbours"
    weights: EventWeights


class RepeatsSpec(_Spec):
    """No vector: the customer's own purchases."""

    type: Literal["repeats"] = "repeats"


VectorSpec = FoldInSpec | PoolingSpec | LookupSpec | FeatureSumSpec | TowerSpec | BlendSpec
EncoderSpec = Annotated[VectorSpec | NeighboursSpec | RepeatsSpec, Field(discriminator="type")]


@dataclass(frozen=True)
class Parts:
    """What an encoder is made from: product vectors (products, d), arrays by name, ids and the model's clock.

    ``lead`` stands before the names in the bundle: those of a block begin with its own.
    """

    vectors: Float32
    matrices: Arrays
    weights: Arrays
    index: Mapping[str, int]
    as_of: datetime
    lead: str = ""

    def array(self, name: str) -> NDArray[Any]:
        """Return an array by name.

        Raises
        ------
        BundleError
            There is none.
        """
        found = self.matrices.get(name, self.weights.get(name))
        if found is None:
            raise BundleError(f"expected the encoder's array {self.lead + name!r}, found none; publish anew")
        return found

    def block(self, spec: BlockSpec) -> Parts:
        """Return the parts of one block."""
        lead = f"{spec.name}/"
        return replace(
            self,
            vectors=self.vectors[:, spec.start : spec.stop],
            matrices={n[len(lead) :]: a for n, a in self.matrices.items() if n.startswith(lead)},
            weights={n[len(lead) :]: a for n, a in self.weights.items() if n.startswith(lead)},
            lead=self.lead + lead,
        )


def encoder(spec: VectorSpec, parts: Parts) -> Encoder:
    """Make the encoder that ``spec`` describes."""
    match spec:
        case FoldInSpec():
            return FoldIn(
                parts.vectors,
                regularization=spec.regularization,
                confidence=spec.confidence,
                product_scale=parts.array(PRODUCT_SCALE),
                history=HistoryWeights(spec.confidence, index=parts.index, as_of=parts.as_of),
                customers=parts.matrices.get(CUSTOMERS),
            )
        case PoolingSpec():
            return Pooling(
                parts.vectors,
                product_scale=parts.array(PRODUCT_SCALE),
                history=HistoryWeights(spec.weights, index=parts.index, as_of=parts.as_of),
            )
        case LookupSpec():
            return Lookup(parts.array(CUSTOMERS))
        case FeatureSumSpec():
            return FeatureSum(
                parts.array(CUSTOMERS),
                features=parts.array(FEATURES),
                constant=parts.array(CONSTANT),
                vocabulary=spec.vocabulary,
            )
        case TowerSpec():
            return Tower(
                parts.array(HISTORY_VECTORS),
                layers=parts.weights,
                vocabulary=spec.vocabulary,
                history=HistoryWeights(spec.weights, index=parts.index, as_of=parts.as_of),
            )
        case BlendSpec():
            blocks = []
            for block in spec.blocks:
                own = parts.block(block)
                blocks.append(Block(encoder(block.encoder, own), block.weight, own.array(COVARIANCE)))
            return Blend(blocks)
