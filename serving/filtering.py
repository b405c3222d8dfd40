"""Which products have a value: columns of the catalog, coded once so that a filter costs microseconds.

A text column is kept as the products of each text. Numbers and booleans are compared as they are. A product without a
value has none of the asked ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Scalar = str | float | bool


class Column(Protocol):
    """One column of the catalog, as filters see it."""

    #: What its values are, in words.
    kind: str

    def having(self, values: Sequence[Scalar]) -> Mask:
        """Return which products (products,) have one of ``values``."""
        ...

    def suits(self, value: Scalar) -> bool:
        """Whether a product could have the value at all."""
        ...

    def has(self, value: Scalar) -> bool:
        """Whether some product has the value."""
        ...


class Texts:
    """A column of texts, compared with the texts of the asked values."""

    kind = "a text"

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

    def suits(self, value: Scalar) -> bool:
        """See ``Column``; a number is taken as its text."""
        return True

    def has(self, value: Scalar) -> bool:
        """See ``Column``."""
        return str(value) in self._rows


class Numbers:
    """A column of numbers or booleans."""

    def __init__(self, column: pd.Series[Any]) -> None:
        whole = pd.api.types.is_integer_dtype(column) and not column.hasnans
        self.values: NDArray[Any] = (
            column.to_numpy() if whole else column.to_numpy(dtype=np.float64, na_value=np.nan)
        )
        self._is_boolean = pd.api.types.is_bool_dtype(column)
        self.kind = "true or false" if self._is_boolean else "a number"

    def having(self, values: Sequence[Scalar]) -> Mask:
        """See ``Column``."""
        mask = np.zeros(len(self.values), dtype=np.bool_)
        for value in values:
            if self.suits(value):
                mask |= self.values == value
        return mask

    def suits(self, value: Scalar) -> bool:
        """See ``Column``."""
        return isinstance(value, bool) if self._is_boolean else not isinstance(value, bool | str)

    def has(self, value: Scalar) -> bool:
        """See ``Column``."""
        return value in self._there

    @cached_property
    def _there(self) -> frozenset[Any]:
        return frozenset(self.values[self.values == self.values].tolist())  # NaN equals nothing


def column_of(column: pd.Series[Any]) -> Column:
    """Return a column as filters see it."""
    is_number = pd.api.types.is_bool_dtype(column) or pd.api.types.is_numeric_dtype(column)
    return Numbers(column) if is_number else Texts(column)
