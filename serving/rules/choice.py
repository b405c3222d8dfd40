"""The categories of products as caps see them, and how much room an answer leaves in them."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from serving.filtering import Mask

Int32 = NDArray[np.int32]
Floats = NDArray[np.float64]


class Categories:
    """The categories of a catalog's products.

    Parameters
    ----------
    codes
        (products,) of each product's category, −1 without one.
    count
        How many categories there are.
    """

    def __init__(self, codes: Int32, count: int) -> None:
        self.codes = codes
        order = np.argsort(codes, kind="stable").astype(np.int32)
        #: All products by category, those without one first, and where each category's begin.
        self.by_category = order
        self.starts = np.searchsorted(codes[order], np.arange(-1, count + 1)).astype(np.int64)

    def of(self, products: Int32) -> list[int]:
        """Return the code of each product's category."""
        return self.codes.take(products).tolist()  # type: ignore[no-any-return]

    def rows(self, code: int) -> Int32:
        """Return the products of a category."""
        return self.by_category[self.starts[code + 1] : self.starts[code + 2]]


class Room:
    """How much room caps leave in the categories of an answer.

    Parameters
    ----------
    categories
        Of the products.
    limits
        How many products of each code an answer takes, the last for code −1.
    products
        (m,) of the answer.
    """

    def __init__(self, categories: Categories, limits: Floats, products: Int32) -> None:
        self._categories = categories
        self._limits: list[float] = limits.tolist()
        self._used = Counter[int](categories.of(products))

    def full(self) -> list[int]:
        """Return the categories without room."""
        limits = self._limits
        return [code for code, used in self._used.items() if used >= limits[code]]

    def clear(self, mask: Mask) -> None:
        """Take the products of categories without room out of ``mask`` (products,)."""
        for code in self.full():
            mask[self._categories.rows(code)] = False
