"""From a row of features to named tokens and their places in a table of vectors.

Text and truth values become ``name=value``, lists of names with shares ``name=value`` with the share, numbers
the band they lie in. Values that training never saw have no place.
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

from feature_repo import names as v

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]

#: Lists of names and the lists of their shares.
_LISTS = {v.CATEGORY_NAMES: v.CATEGORY_SHARES}


class Vocabulary(BaseModel):
    """Tokens in the order of their vectors, and the edges of the bands of numbers, by feature."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: tuple[str, ...] = ()
    edges: dict[str, tuple[float, ...]] = {}

    @cached_property
    def index(self) -> dict[str, int]:
        """Token → place."""
        return {token: place for place, token in enumerate(self.tokens)}

    def places(self, row: Mapping[str, Any]) -> tuple[Int32, Float32]:
        """Return the places (m,) of the known tokens of a row and their shares (m,)."""
        found = [
            (place, share)
            for token, share in tokens(row, self.edges)
            if (place := self.index.get(token)) is not None
        ]
        return (
            np.array([place for place, _ in found], dtype=np.int32),
            np.array([share for _, share in found], dtype=np.float32),
        )


def tokens(row: Mapping[str, Any], edges: Mapping[str, tuple[float, ...]]) -> Iterator[tuple[str, float]]:
    """Yield (token, share) of each feature of a row that says something; numbers only where they have bands."""
    for name, value in row.items():
        if name in _LISTS:
            for one, share in zip(value, row.get(_LISTS[name]) or (), strict=False):
                yield f"{name}={one}", float(share)
        elif isinstance(value, str):
            if value:
                yield f"{name}={value}", 1.0
        elif isinstance(value, bool | np.bool_):
            yield f"{name}={bool(value)}", 1.0
        elif isinstance(value, int | float | np.number) and name in edges and math.isfinite(value):
            yield f"{name}#{bisect_right(edges[name], float(value))}", 1.0
