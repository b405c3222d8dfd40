"""The ordered product table: row number *is* the product index everywhere.

Ids are strings outside and int32 inside; this is the one map between them. The catalog also answers
which products may be shown at an instant and under a request's filters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feature_repo import schema as s
from feature_repo.recent import to_micros
from serving.errors import DataError
from serving.filtering import Column, Mask, Numbers, Scalar, column_of
from serving.validation import shown

_FAR = np.iinfo(np.int64).max
_CORE = (s.PRODUCT_ID, s.NAME, s.CATEGORY, s.PRICE, s.AVAILABLE, s.LAUNCHED_AT, s.WITHDRAWN_AT)


@dataclass(frozen=True)
class Filters:
    """What the products of one request must satisfy; empty means everything."""

    category: tuple[str, ...] = ()
    price_min: float | None = None
    price_max: float | None = None
    attributes: tuple[tuple[str, tuple[str | float | bool, ...]], ...] = ()

    def __bool__(self) -> bool:
        return self != Filters()


class Catalog:
    """Products in index order.

    Parameters
    ----------
    frame
        One row a product, sorted by ``product_id``, with the columns of the ``products`` table and any
        attributes. The frame is not copied and must not be changed afterwards.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        missing = [name for name in _CORE if name not in frame.columns]
        if missing:
            raise DataError(
                f"expected a catalog with columns {', '.join(_CORE)}, found none called {missing[0]}"
            )
        if not frame[s.PRODUCT_ID].is_unique:
            raise DataError(
                "expected each product once in the catalog, found duplicates; give one row a product_id"
            )
        self.frame = frame.reset_index(drop=True)
        self.ids: list[str] = self.frame[s.PRODUCT_ID].astype(str).tolist()
        self.index: dict[str, int] = {product: row for row, product in enumerate(self.ids)}
        self.names: list[str | None] = [
            None if pd.isna(name) else str(name) for name in self.frame[s.NAME].tolist()
        ]
        self._columns: dict[str, Column] = {}
        self._sold: tuple[int, int, object, Mask] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def indices(self, product_ids: Iterable[str]) -> tuple[NDArray[np.int32], list[str]]:
        """Return (indices of the known ids in order, the ids that are not known)."""
        known: list[int] = []
        unknown: list[str] = []
        for product in product_ids:
            row = self.index.get(product)
            if row is None:
                unknown.append(product)
            else:
                known.append(row)
        return np.array(known, dtype=np.int32), unknown

    @cached_property
    def _sale(self) -> tuple[NDArray[np.int64], NDArray[np.int64], Mask]:
        launched = _micros(self.frame[s.LAUNCHED_AT], missing=-_FAR)
        withdrawn = _micros(self.frame[s.WITHDRAWN_AT], missing=_FAR)
        return launched, withdrawn, _available(self.frame)

    def on_sale(self, at: datetime) -> Mask:
        """Return which products are on sale at an instant: launched_at ≤ at < withdrawn_at and available.

        Shared between callers, and read-only: it changes only where a product comes or goes.
        """
        instant, sale, held = to_micros(at), self._sale, self._sold
        if held is None or held[2] is not sale or not held[0] <= instant < held[1]:
            launched, withdrawn, available = sale
            mask = np.asarray(available & (launched <= instant) & (instant < withdrawn))
            mask.flags.writeable = False
            turns = np.concatenate([launched, withdrawn])
            since = int(turns[turns <= instant].max(initial=-_FAR))
            until = int(turns[turns > instant].min(initial=_FAR))
            held = self._sold = since, until, sale, mask
        return held[3]

    @property
    def launched(self) -> NDArray[np.int64]:
        """When products (products,) were launched (µs since 1970), long ago where that is not known."""
        return self._sale[0]

    def matching(self, filters: Filters) -> Mask:
        """Return which products satisfy the filters; a product without the asked value does not.

        Raises
        ------
        DataError
            A filter names an attribute that the catalog does not have, or wants a value of it that none can have.
        """
        mask = np.ones(len(self), dtype=np.bool_)
        if filters.category:
            mask &= self.column(s.CATEGORY).having(filters.category)
        if filters.price_min is not None or filters.price_max is not None:
            price = self.column(s.PRICE)
            assert isinstance(price, Numbers)
            if filters.price_min is not None:
                mask &= price.values >= filters.price_min
            if filters.price_max is not None:
                mask &= price.values <= filters.price_max
        for name, values in filters.attributes:
            if name not in self.attributes:
                known = ", ".join(self.attributes) or "none"
                raise DataError(
                    f"expected a product attribute in filters (there are: {known}), found {name!r}"
                )
            column = self.column(name)
            for value in values:
                if not column.suits(value):
                    raise DataError(f"expected {column.kind} for {name} in filters, found {shown(value)}")
            mask &= column.having(values)
        return mask

    def unmatched(self, filters: Filters) -> list[tuple[str, Scalar]]:
        """Return (category or attribute, value) of filters that no product has, on sale or not."""
        asked = ((s.CATEGORY, filters.category), *filters.attributes)
        return [
            (name, value) for name, values in asked for value in values if not self.column(name).has(value)
        ]

    @property
    def edition(self) -> object:
        """What is another object after each change: whatever was made of columns holds as long as it is the same."""
        return self._columns

    def column(self, name: str) -> Column:
        """Return a column as filters see it, coded once."""
        columns, frame = self._columns, self.frame  # in this order: ``change`` replaces them in the other
        if name not in columns:
            columns[name] = Numbers(frame[name]) if name == s.PRICE else column_of(frame[name])
        return columns[name]

    def change(self, told: Mapping[str, Mapping[str, Any]]) -> None:
        """Set columns of products to new values; products that the catalog does not have and misfits are passed over.

        A request that runs meanwhile sees each column as it was or as it is: columns are replaced whole.
        """
        kept = [(self.index[product], values) for product, values in told.items() if product in self.index]
        columns: dict[str, dict[int, Any]] = {}
        for row, values in kept:
            for name, value in values.items():
                if self.misfit(name, value) is None:
                    columns.setdefault(name, {})[row] = value
        if not columns:
            return
        frame = self.frame.copy()
        for name, rows in columns.items():
            frame[name] = _set(frame[name], rows)
        self.frame = frame
        self._columns = {name: held for name, held in self._columns.items() if name not in columns}
        if s.AVAILABLE in columns:
            launched, withdrawn, _ = self._sale
            self.__dict__["_sale"] = (launched, withdrawn, _available(frame))

    def misfit(self, name: str, value: Any) -> str | None:
        """Return why column ``name`` of a product cannot become ``value``, in one sentence; None where it can.

        A text among numbers would make texts of them all, and no filter would find its number again.
        """
        if name not in (s.PRICE, s.AVAILABLE) and name not in self.attributes:
            known = ", ".join(self.attributes) or "none"
            found = f"{name}, which only the tables change" if name in self.frame else f"none called {name}"
            return f"expected an attribute of the products (there are: {known}), found {found}"
        column = self.frame[name]
        if pd.api.types.is_bool_dtype(column):
            return None if isinstance(value, bool) else f"expected true or false, found {shown(value)}"
        if pd.api.types.is_numeric_dtype(column):
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            return None if is_number else f"expected a number, found {shown(value)}"
        return None

    @cached_property
    def attributes(self) -> list[str]:
        """Names of the extra columns that filters may use."""
        known = (*s.TABLES[s.PRODUCTS].names, *_EXTRA)
        return [name for name in self.frame.columns if name not in known]

    @cached_property
    def repurchase_days(self) -> NDArray[np.float64]:
        """Usual days between two purchases of a product by one customer; NaN where nobody repeats."""
        if REPURCHASE_DAYS not in self.frame:
            return np.full(len(self), np.nan)
        return self.frame[REPURCHASE_DAYS].to_numpy(dtype=np.float64, na_value=np.nan)

    def described(self, index: int) -> Mapping[str, Any]:
        """Return the row of one product."""
        return {str(name): value for name, value in self.frame.iloc[index].items()}


REPURCHASE_DAYS = "repurchase_days"
_EXTRA = (REPURCHASE_DAYS,)


def _available(frame: pd.DataFrame) -> Mask:
    return np.asarray(frame[s.AVAILABLE].astype("boolean").fillna(True).to_numpy(dtype=np.bool_))


def _set(column: pd.Series[Any], rows: Mapping[int, Any]) -> pd.Series[Any]:
    """Return ``column`` with new values in some rows; numbers become floats, texts objects."""
    if pd.api.types.is_bool_dtype(column):
        changed = column.copy()
    elif pd.api.types.is_numeric_dtype(column):
        changed = column.astype(np.float64)
    else:
        changed = column.astype(object)
    changed.iloc[list(rows)] = list(rows.values())
    return changed


def _micros(column: pd.Series[Any], *, missing: int) -> NDArray[np.int64]:
    times = pd.to_datetime(column, utc=True)
    micros = times.dt.tz_localize(None).to_numpy().astype("datetime64[us]").astype(np.int64)
    return np.where(times.isna().to_numpy(), np.int64(missing), micros)
