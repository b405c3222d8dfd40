"""The customer tower in NumPy: what a trained two-tower model does with one customer when a request arrives.

The recent history is pooled by the weights of its events and brought to length one, the vectors of the
customer's features are added, a linear map and a hidden layer correct the sum, and the result is shortened to length
one where it is longer: of whom little is known, little is claimed. Times ``scale`` it meets products of length one,
and each product's bias is added. Training does the same in torch; a test keeps the two equal. Customers without a
history meet the last dimensions of the products: what is bought of late, leaning to what those with such features buy.

Source: Covington et al., "Deep neural networks for YouTube recommendations" (RecSys 2016), §3: the average of
embedded history beside features of the customer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving.encoders.vocabulary import Vocabulary
from serving.encoders.weights import HistoryWeights
from serving.errors import BundleError
from serving.subject import Subject

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
EPSILON: Final = 1e-12

#: The tower's arrays by name: vectors of feature tokens (vocabulary, d), the linear map (d, d), the hidden
#: layer (h, d) and (h,), the correction (d, h) and (d,), the length of the result (), and what features say of
#: customers without a history (vocabulary, r).
LAYERS: Final = (
    "features",
    "mix.weight",
    "hidden.weight",
    "hidden.bias",
    "output.weight",
    "output.bias",
    "scale",
    "newcomers",
)


class Tower:
    """Runs the customer tower.

    Parameters
    ----------
    history_vectors
        (products, d) float32: what a product in the history says of the customer.
    layers
        The arrays of ``LAYERS``.
    vocabulary
        From features to rows of ``layers["features"]``.
    history
        Weighs the events.
    """

    def __init__(
        self,
        history_vectors: Float32,
        *,
        layers: Mapping[str, NDArray[Any]],
        vocabulary: Vocabulary,
        history: HistoryWeights,
    ) -> None:
        missing = [name for name in LAYERS if name not in layers]
        if missing:
            raise BundleError(f"expected the tower's array {missing[0]!r}, found none; publish anew")
        self._history_vectors = history_vectors
        self._layers = {name: np.asarray(layers[name], dtype=np.float32) for name in LAYERS}
        self._vocabulary = vocabulary
        self._history = history

    def encode(self, subject: Subject) -> Float32 | None:
        """Return the (d + r + 2,) vector, or None for somebody without known history and features.

        The first d + 1 dimensions are for those with a history, the others for those without; the rest is zero.
        """
        products, weights = self._history.of(subject.history, subject.at, subject.context)
        places = self._vocabulary.places(subject.features)
        if not len(products) and not len(places):
            return None
        if not len(products):
            return self.newcomer(places)
        pooled = weights.astype(np.float32) @ self._history_vectors[products]
        pooled = pooled / max(float(np.linalg.norm(pooled)), EPSILON)
        known = self.forward(pooled + self._layers["features"][places].sum(axis=0))
        return np.append(known, np.zeros(self._layers["newcomers"].shape[1] + 1, dtype=np.float32))

    def forward(self, known: Float32) -> Float32:
        """Return the (d + 1,) vector of a customer of whom (d,) is known; the last one picks the products' bias."""
        layers = self._layers
        hidden = np.maximum(layers["hidden.weight"] @ known + layers["hidden.bias"], 0.0)
        corrected = layers["mix.weight"] @ known + layers["output.weight"] @ hidden + layers["output.bias"]
        length = max(float(np.linalg.norm(corrected)), 1.0)
        return np.append(corrected * (layers["scale"] / np.float32(length)), 1.0).astype(np.float32)

    def newcomer(self, places: Int32) -> Float32:
        """Return the (d + r + 2,) vector of a customer without a history who has these features."""
        lifts = self._layers["newcomers"][places].sum(axis=0)
        nothing = np.zeros(self._history_vectors.shape[1] + 1)
        return np.concatenate([nothing, lifts, [1.0]]).astype(np.float32)
