"""From a row of features to named tokens and their places in a table of vectors.

Text and truth values become ``name=value``, numbers the band they lie in; lists say nothing here. Values that
training never saw have no place.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Int32 = NDArray[np.int32]


class Vocabulary(BaseModel):
    """Tokens in the order of their vectors, and the edges of the bands of numbers, by feature."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: tuple[str, ...] = ()
    edges: dict[str, tuple[float, ...]] = {}

    @cached_property
    def index(self) -> dict[str, int]:
        """Token → place."""
        return {token: place for place, token in enumerate(self.tokens)}

    def places(self, row: Mapping[str, Any]) -> Int32:
        """Return the places (m,) of the known tokens of a row."""
        known = (self.index.get(token, -1) for token in tokens(row, self.edges))
        return np.array([place for place in known if place >= 0], dtype=np.int32)


def tokens(row: Mapping[str, Any], edges: Mapping[str, tuple[float, ...]]) -> Iterator[str]:
    """Yield the token of each feature of a row that says something; numbers only where they have bands."""
    for name, value in row.items():
        if isinstance(value, str):
            if value:
                yield f"{name}={value}"
        elif isinstance(value, bool | np.bool_):
            yield f"{name}={bool(value)}"
        elif isinstance(value, int | float | np.number) and name in edges and math.isfinite(value):
            yield f"{name}#{bisect_right(edges[name], float(value))}"
