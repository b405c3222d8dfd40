"""Looking up: the customer's own fitted vector, and what the customer's features add to it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serving.encoders.vocabulary import Vocabulary
from serving.subject import Subject

Float32 = NDArray[np.float32]


class Lookup:
    """Returns the row of a customer known to training.

    Parameters
    ----------
    customers
        (customers, d) float32; rows of zeros belong to customers of whom nothing was learnt.
    """

    def __init__(self, customers: Float32) -> None:
        self._customers = customers

    def encode(self, subject: Subject) -> Float32 | None:
        """Return the (d,) vector, or None for a customer of whom nothing was learnt."""
        if subject.row is None:
            return None
        vector = np.asarray(self._customers[subject.row], dtype=np.float32)
        return vector if vector.any() else None


class FeatureSum:
    """The customer's own vector, if there is one, plus one for each of the customer's features, plus a constant.

    Source: Kula, "Metadata embeddings for user and item cold-start recommendations" (2015), eq. 1: a customer
    is the sum of the embeddings of their features, their identity being one of them.

    Parameters
    ----------
    customers
        (customers, d) vectors of the identities alone; rows of zeros belong to customers of whom nothing was learnt.
    features
        (vocabulary, d) vectors of the features.
    constant
        (d,) added to every customer: the places where products keep their biases.
    vocabulary
        From a row of features to places in ``features``.
    """

    def __init__(
        self, customers: Float32, *, features: Float32, constant: Float32, vocabulary: Vocabulary
    ) -> None:
        self._own = Lookup(customers)
        self._features = features
        self._constant = constant
        self._vocabulary = vocabulary

    def encode(self, subject: Subject) -> Float32 | None:
        """Return the (d,) vector, or None for a customer with neither an own vector nor a known feature."""
        places = self._vocabulary.places(subject.features)
        own = self._own.encode(subject)
        if own is None and not len(places):
            return None
        vector = self._constant + self._features[places].sum(axis=0)
        return np.asarray(vector if own is None else vector + own, dtype=np.float32)
