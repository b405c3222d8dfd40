"""The rows of ``customer_recent`` in the online store, read and replaced as a whole.

Written as Feast would write them (``feature_repo.bulk``), but overwriting whatever timestamp is there: the consumer
holds the one lease, and knows which row is the newest. Feast takes seconds to import: it is imported where it is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.sqlite_file import file_of
from serving.errors import FeatureUnavailable
from serving.events.fold import Lines

if TYPE_CHECKING:
    from feast import FeatureStore

    from feature_repo.point_read import PointReader, Row

log = logging.getLogger("nextbest")

#: The consumer waits longer than a request would.
_PATIENCE_SECONDS: Final = 2.0
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class RecentRows:
    """See ``serving.events.consumer.Rows``.

    Parameters
    ----------
    opened
        Opens the feature store, when it is first needed; it may have been applied only then.
    """

    def __init__(self, opened: Callable[[], FeatureStore]) -> None:
        self._opened = opened
        self._held: tuple[FeatureStore, Any, PointReader] | None = None
        self._path: Path | None = None
        self._file: tuple[int, int] | None = None

    def read(self, keys: Sequence[str]) -> dict[str, Lines]:
        """Return the histories that are online; FeatureUnavailable while the store does not answer."""
        try:
            reader = self._store()[2]
            found = reader.read(keys)
        except Exception as error:
            raise _unavailable(error) from error
        return {key: _read(reader, key, row) for key, row in zip(keys, found, strict=True) if any(row)}

    def write(self, histories: Mapping[str, Lines], stamps: Mapping[str, int]) -> None:
        """Replace whole rows; FeatureUnavailable while the store does not answer."""
        from feature_repo.bulk import write_rows

        rows = pd.DataFrame([row_of(key, lines) for key, lines in histories.items()])
        at = [_EPOCH + timedelta(microseconds=stamps[key]) for key in histories]
        try:
            store, view, _ = self._store()
            write_rows(store, view, rows, at)
        except Exception as error:
            raise _unavailable(error) from error

    def remove(self, keys: Sequence[str]) -> None:
        """Remove rows; FeatureUnavailable while the store does not answer."""
        from feature_repo.bulk import remove_rows

        try:
            store, view, _ = self._store()
            remove_rows(store, view, keys)
        except Exception as error:
            raise _unavailable(error) from error

    def _store(self) -> tuple[FeatureStore, Any, PointReader]:
        from feature_repo.point_read import PointReader

        file = None if self._path is None else file_of(self._path)
        if self._held is None or file != self._file:  # one that was damaged has been put aside
            store = self._opened()
            view = store.get_feature_view(v.CUSTOMER_RECENT)
            columns = [(view, name) for name, _ in v.RECENT]
            self._held = store, view, PointReader(store, columns, timeout_s=_PATIENCE_SECONDS)
            path = getattr(store.config.online_store, "path", None)
            self._path = None if path is None else Path(path)
            self._file = None if self._path is None else file_of(self._path)
        return self._held


def histories(rows: pd.DataFrame) -> dict[str, Lines]:
    """Return the histories in rows of ``customer_recent``, by customer."""
    columns = [rows[name].tolist() for name, _ in v.RECENT]
    names = [name for name, _ in v.RECENT]
    return {
        str(customer): lines_of(dict(zip(names, values, strict=True)))
        for customer, *values in zip(rows[s.CUSTOMER_ID].tolist(), *columns, strict=True)
    }


def lines_of(row: Mapping[str, Any]) -> Lines:
    """Return the history that a row of ``customer_recent`` holds."""
    columns = [row.get(name) for name in (v.RECENT_AT, v.RECENT_PRODUCTS, v.RECENT_KINDS, v.RECENT_VALUES)]
    if columns[0] is None or any(column is None for column in columns):
        return ()
    return tuple(
        (int(at), str(product), str(kind), float(value))
        for at, product, kind, value in zip(*columns, strict=True)
    )


def row_of(key: str, lines: Lines) -> dict[str, Any]:
    """Return the row of ``customer_recent`` that holds a history."""
    return {
        s.CUSTOMER_ID: key,
        v.RECENT_PRODUCTS: [product for _, product, _, _ in lines],
        v.RECENT_KINDS: [kind for _, _, kind, _ in lines],
        v.RECENT_AT: [at for at, _, _, _ in lines],
        v.RECENT_VALUES: [value for _, _, _, value in lines],
    }


def _read(reader: PointReader, key: str, row: Row) -> Lines:
    """Return the history in a row; one that cannot be read is told, and begins anew."""
    try:
        names = [name for name, _ in v.RECENT]
        return lines_of(dict(zip(names, reader.values(row), strict=True)))
    except ValueError as error:
        log.error("the online history of %r cannot be read and begins anew: %s", key, error)
        return ()


def _unavailable(error: Exception) -> FeatureUnavailable:
    return FeatureUnavailable(
        f"expected the online store to answer, found {type(error).__name__}: {error}; check it"
    )
