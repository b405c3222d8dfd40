"""A fitted ranker as a bundle holds it: LightGBM trees in their own text form, and the chance that a margin means.

The trees are asked through LightGBM's C interface: a request has too few rows for its Python one to be worth it.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import lightgbm
import numpy as np
from numpy.typing import NDArray

from serving.errors import BundleError

Float32 = NDArray[np.float32]
Floats = NDArray[np.float64]

_FLOAT32: Final = 0  # C_API_DTYPE_FLOAT32
_RAW: Final = 1  # C_API_PREDICT_RAW_SCORE
_ONE_THREAD: Final = b"num_threads=1"


@dataclass(frozen=True)
class Calibration:
    """From a margin to the chance of a purchase: ``chances`` at ``margins``, both ascending, straight between them.

    Beyond the ends the chance is that of the end.
    """

    margins: Floats
    chances: Floats

    def __call__(self, margins: Floats) -> Floats:
        """Return the chances (n,) in [0, 1] of margins (n,)."""
        return np.interp(margins, self.margins, self.chances)

    def to_json(self) -> str:
        """Return it as the text of ``calibration.json``."""
        return json.dumps({"margins": self.margins.tolist(), "chances": self.chances.tolist()})

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Read what ``to_json`` wrote.

        Raises
        ------
        ValueError, KeyError
            It is something else.
        """
        told = json.loads(text)
        found = cls(np.array(told["margins"], dtype=np.float64), np.array(told["chances"], dtype=np.float64))
        rising = all(len(a) > 1 and (np.diff(a) >= 0).all() for a in (found.margins, found.chances))
        if not rising or len(found.margins) != len(found.chances):
            raise ValueError("expected ascending margins and chances, as many of each")
        return found


@dataclass(frozen=True)
class Trees:
    """Boosted trees as LightGBM writes them."""

    text: str

    @cached_property
    def _booster(self) -> Any:
        try:
            return lightgbm.Booster(model_str=self.text)
        except lightgbm.basic.LightGBMError as error:
            raise BundleError(f"expected trees in LightGBM's text, found: {error}; publish anew") from error

    @cached_property
    def _predict(self) -> Callable[[int, int, int, int], int]:
        """Return LightGBM's prediction bound to these trees: (rows, count, columns, out) → status."""
        library, handle = lightgbm.basic._LIB, self._booster._handle
        length = ctypes.c_int64(0)

        def predict(rows: int, count: int, columns: int, out: int) -> int:
            status: int = library.LGBM_BoosterPredictForMat(
                handle,
                ctypes.c_void_p(rows),
                _FLOAT32,
                ctypes.c_int32(count),
                ctypes.c_int32(columns),
                1,  # row by row
                _RAW,
                0,
                -1,
                _ONE_THREAD,
                ctypes.byref(length),
                ctypes.c_void_p(out),
            )
            return status

        return predict

    @cached_property
    def width(self) -> int:
        """How many features the trees read."""
        return int(self._booster.num_feature())

    def margins(self, rows: Float32) -> Floats:
        """Return the trees' sums (n,) for rows (n, features), float32 row by row; NaN is a missing value.

        Raises
        ------
        BundleError
            The rows have not as many features as the trees read.
        """
        if rows.shape[1] != self.width or rows.dtype != np.float32 or not rows.flags.c_contiguous:
            raise BundleError(
                f"expected rows of {self.width} features in float32, found {rows.shape[1]} in {rows.dtype}; "
                "publish anew"
            )
        out = np.empty(len(rows))
        if len(rows) and self._predict(rows.ctypes.data, len(rows), self.width, out.ctypes.data):
            raise BundleError("expected LightGBM to predict, found an error in it; publish the bundle anew")
        return out


@dataclass(frozen=True)
class Ranker:
    """What puts candidates in order, and what chance a place in it means.

    ``order`` are trees over features of a customer with a product; their margin ranks. ``chance`` are trees over that
    margin, in which they rise, and features of the customer alone, so that chances never change an order;
    ``calibration`` says which chance their margin is. ``products`` (products, columns) are features of products.
    """

    order: Trees
    chance: Trees
    calibration: Calibration
    products: Float32

    def chances(self, margins: Floats, customer: Floats) -> Floats:
        """Return the chance (n,) of a purchase for margins (n,) of ``order`` and the customer's features (columns,)."""
        rows = np.empty((len(margins), 1 + len(customer)), dtype=np.float32)
        rows[:, 0] = margins
        rows[:, 1:] = customer
        return self.calibration(self.chance.margins(rows))
