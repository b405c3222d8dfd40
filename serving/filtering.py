"""Which products have a value: columns of the catalog, coded once so that a filter costs microseconds.

A text column is kept as the products of each text. Numbers and booleans are compared as they are. A product without a
value has none of the asked ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Scalar = str | float | bool


class Column(Protocol):
    """One column of the catalog, as filters see it."""

    def having(self, values: Sequence[Scalar]) -> Mask:
        """Return which products (products,) have one of ``values``."""
        ...


class Texts:
    """A column of texts, compared with the texts of the asked values."""

    def __init__(self, column: pd.Series[Any]) -> None:
        codes, found = pd.factorize(column.astype("string"))
        self._size = len(codes)
        order = np.argsort(codes, kind="stable").astype(np.int32)
        ends = np.searchsorted(codes[order], np.arange(len(found)), side="right")
        starts = np.searchsorted(codes[order], np.arange(len(found)), side="left")
        self._rows = {
            str(text): order[start:end]
            for text, start, end in zip(found, starts.tolist(), ends.tolist(), strict=True)
        }

    def having(self, values: Sequence[Scalar]) -> Mask:
        """See ``Column``."""
        mask = np.zeros(self._size, dtype=np.bool_)
        for value in values:
            rows = self._rows.get(str(value))
            if rows is not None:
                mask[rows] = True
        return mask


class Numbers:
    """A column of numbers or booleans; texts are never equal to one."""

    def __init__(self, column: pd.Series[Any]) -> None:
        whole = pd.api.types.is_integer_dtype(column) and not column.hasnans
        self.values: NDArray[Any] = (
            column.to_numpy() if whole else column.to_numpy(dtype=np.float64, na_value=np.nan)
        )

    def having(self, values: Sequence[Scalar]) -> Mask:
        """See ``Column``."""
        mask = np.zeros(len(self.values), dtype=np.bool_)
        for value in values:
            if not isinstance(value, str):
                mask |= self.values == value
        return mask


def column_of(column: pd.Series[Any]) -> Column:
    """Return a column as filters see it."""
    is_number = pd.api.types.is_bool_dtype(column) or pd.api.types.is_numeric_dtype(column)
    return Numbers(column) if is_number else Texts(column)
