"""Read the online rows of a few entities at once, at the store's own speed, in Feast's own format.

The counterpart of ``feature_repo.bulk``. Feast reads view by view and makes a message of every value on the way;
here all views of an entity are one command of Redis or one statement of SQLite, and values come as the bytes that
Feast stored (``PointReader.values`` gives Python's). A read gives up by itself after a time: Redis by the timeout of
its socket, SQLite, which has nobody to wait for but a writer's lock, by that of the lock.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from feast import FeatureView
from feast.infra.online_stores.helpers import _mmh3
from feast.infra.online_stores.sqlite import SqliteOnlineStore, _quote_id, _table_id
from feast.protos.feast.types.Value_pb2 import Value

from feature_repo.bulk import bulk_string, entity_keys
from feature_repo.errors import DataError
from feature_repo.sqlite_file import file_of

if TYPE_CHECKING:
    from feast import FeatureStore

Columns = Sequence[tuple[FeatureView, str]]
Row = list[bytes | None]


class RowsReading(Protocol):
    """Rows that were asked for: ``finish`` waits for them, ``drop`` gives them up; one of both is to be called."""

    def finish(self) -> list[Row]:
        """Return the rows; see ``PointReader.read``."""
        ...

    def drop(self) -> None:
        """Give up what is not finished."""
        ...


class PointReader:
    """Reads ``columns`` (view, feature) of entities, all views having the same one; safe for many threads.

    Parameters
    ----------
    store
        An applied feature store on SQLite or Redis.
    columns
        What a row is made of.
    timeout_s
        How long the store may be waited for.
    """

    def __init__(self, store: FeatureStore, columns: Columns, *, timeout_s: float) -> None:
        online = store._get_provider().online_store
        self._kinds = [_kind_of(view, name) for view, name in columns]
        self._backend: _Sqlite | _Redis = (
            _Sqlite(store, columns, timeout_s)
            if isinstance(online, SqliteOnlineStore)
            else _Redis(store, online, columns, timeout_s)
        )

    def read(self, entities: Sequence[str]) -> list[Row]:
        """Return one row an entity, in order: the serialised value of each column, None where there is none.

        Raises whatever the store's client raises when it does not answer.
        """
        return self.begin(entities).finish()

    def begin(self, entities: Sequence[str]) -> RowsReading:
        """Ask the store and come back at once; raises as ``read``."""
        return self._backend.begin(entities)

    def values(self, row: Row) -> list[Any]:
        """Return a row's Python values, lists as lists; None where there is none.

        Raises
        ------
        DataError
            A value is not of its column's kind.
        """
        return [
            None if raw is None else _plain(raw, kind) for raw, kind in zip(row, self._kinds, strict=True)
        ]

    def close(self) -> None:
        """Release the connections."""
        self._backend.close()


class _Redis:
    """One HMGET an entity; several go out together.

    Connections wait here rather than in redis-py's pool, which looks at the socket each time one is taken, for as long
    as all else takes. One that the server has closed meanwhile is found out by its first use, and replaced.
    """

    def __init__(self, store: FeatureStore, online: Any, columns: Columns, timeout_s: float) -> None:
        from redis.backoff import NoBackoff
        from redis.exceptions import ConnectionError as Lost
        from redis.retry import Retry

        self.lost = Lost
        pool = online._get_client(store.config.online_store).connection_pool
        options = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
        self._connection = partial(
            pool.connection_class,
            **{**pool.connection_kwargs, **options, "retry": Retry(NoBackoff(), 0)},
        )
        self._waiting: list[Any] = []
        self._join_key = columns[0][0].join_keys[0]
        self._project = store.config.project.encode()
        self._head = b"*%d\r\n$5\r\nHMGET\r\n" % (2 + len(columns))
        self._fields = b"".join(bulk_string(_mmh3(f"{view.name}:{name}")) for view, name in columns)

    def begin(self, entities: Sequence[str]) -> RowsReading:
        keys = entity_keys(self._join_key, entities)
        command = b"".join(
            part for key in keys for part in (self._head, bulk_string(key + self._project), self._fields)
        )
        return _Answering(self, command, len(keys))

    def sent(self, command: bytes, *, anew: bool = False) -> tuple[Any, bool]:
        """Send a command; return its connection, and whether that has been in use before. ``anew``: it may not have."""
        try:
            connection, is_used = (self._connection(), False) if anew else (self._waiting.pop(), True)
        except IndexError:
            connection, is_used = self._connection(), False
        try:
            connection.send_packed_command([command])
        except Exception:
            connection.disconnect()
            if not is_used:
                raise
            return self.sent(command, anew=True)
        return connection, is_used

    def give_back(self, connection: Any) -> None:
        """Take a connection of which every answer was read."""
        self._waiting.append(connection)

    def close(self) -> None:
        while self._waiting:
            self._waiting.pop().disconnect()


class _Answering:
    """Answers of Redis that are on their way over a connection."""

    def __init__(self, redis: _Redis, command: bytes, count: int) -> None:
        self._redis = redis
        self._command = command
        self._count = count
        self._connection, self._is_used = redis.sent(command)

    def finish(self) -> list[Row]:
        try:
            rows = self._rows()
        except self._redis.lost:
            self.drop()
            if not self._is_used:
                raise
            self._connection, self._is_used = self._redis.sent(self._command, anew=True)
            return self.finish()
        except BaseException:
            self.drop()
            raise
        self._redis.give_back(self._connection)
        self._connection = None
        return rows

    def _rows(self) -> list[Row]:
        return [self._connection.read_response(disable_decoding=True) for _ in range(self._count)]

    def drop(self) -> None:
        if self._connection is not None:
            self._connection.disconnect()  # what still comes over it is nobody's answer
            self._connection = None


class _Sqlite:
    """One statement an entity, on a connection a thread."""

    def __init__(self, store: FeatureStore, columns: Columns, timeout_s: float) -> None:
        self._path = Path(store.config.online_store.path)
        self._timeout_s = timeout_s
        self._join_key = columns[0][0].join_keys[0]
        self._width = len(columns)
        views = list({view.name: view for view, _ in columns}.values())
        self._place = {
            (number, name): place
            for number, view in enumerate(views)
            for place, (of, name) in enumerate(columns)
            if of.name == view.name
        }
        tables = [_quote_id(_table_id(store.config.project, view, False)) for view in views]
        self._query: Final = " UNION ALL ".join(
            f"SELECT {number}, feature_name, value FROM {table} WHERE entity_key = ?1"
            for number, table in enumerate(tables)
        )
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []

    def begin(self, entities: Sequence[str]) -> RowsReading:
        return _Lazy(partial(self._read, entities))

    def _read(self, entities: Sequence[str]) -> list[Row]:
        try:
            return self._rows(self._connection(), entities)
        except sqlite3.Error:
            self._drop()  # a file that is repaired meanwhile is another one
            raise

    def _rows(self, connection: sqlite3.Connection, entities: Sequence[str]) -> list[Row]:
        rows: list[Row] = []
        for key in entity_keys(self._join_key, entities):
            row: Row = [None] * self._width
            for number, name, value in connection.execute(self._query, (key,)):
                place = self._place.get((number, name))
                if place is not None:
                    row[place] = value
            rows.append(row)
        return rows

    def close(self) -> None:
        for connection in self._opened:
            connection.close()

    def _drop(self) -> None:
        held: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if held is not None:
            self._local.connection = None
            self._opened.remove(held)
            held.close()

    def _connection(self) -> sqlite3.Connection:
        held: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if held is not None and self._local.file != file_of(self._path):
            self._drop()
            held = None
        if held is None:
            self._local.file = file_of(self._path)
            held = sqlite3.connect(
                f"{self._path.as_uri()}?mode=ro", uri=True, timeout=self._timeout_s, check_same_thread=False
            )
            self._local.connection = held
            self._opened.append(held)
        return held


@dataclass(frozen=True)
class _Lazy:
    """Rows that are read when they are waited for."""

    finish: Callable[[], list[Row]]

    def drop(self) -> None:
        pass


def _kind_of(view: FeatureView, feature: str) -> str:
    """Return the field of Feast's ``Value`` that holds values of a feature."""
    dtype = next(field.dtype for field in view.features if field.name == feature)
    return f"{dtype.to_value_type().name.lower()}_val"


def _plain(raw: bytes, kind: str) -> Any:
    try:
        value = Value.FromString(raw)
    except Exception as error:  # protobuf's DecodeError is not the same class in all its implementations
        raise DataError(
            f"expected a value of Feast's, found {error}; materialise the features again"
        ) from error
    found = value.WhichOneof("val")
    if found is None or found == "null_val":
        return None
    if found != kind:
        raise DataError(f"expected a {kind}, found a {found}; materialise the features again")
    held = getattr(value, kind)
    return list(held.val) if hasattr(held, "val") else held
