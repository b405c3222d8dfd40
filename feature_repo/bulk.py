"""Write whole snapshots into the online store at the store's own speed, in Feast's own format.

Feast converts a snapshot value by value into Python objects before it writes; here a column is encoded at
once, SQLite gets one statement for all rows, and Redis its own protocol, ready made. What is stored is byte
for byte what Feast would store (a test compares the two), so every reader of Feast's works. Rows
overwrite what is there: this is a deploy job, not a stream.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
import pandas as pd
from feast import FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3, extract_text_and_num
from feast.infra.online_stores.sqlite import SqliteOnlineStore, _quote_id, _table_id
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from google.protobuf.timestamp_pb2 import Timestamp

from feature_repo.errors import DataError

if TYPE_CHECKING:
    from feast import FeatureStore

_DOUBLE: Final = Value(double_val=1.0).SerializeToString()[:-8]
_REDIS_ROWS: Final = 2_000
_SQLITE_CACHE_KB: Final = 100_000

Texts = Sequence[str | None]


def write_rows(
    store: FeatureStore, view: FeatureView, rows: pd.DataFrame, stamps: Sequence[datetime]
) -> None:
    """Write one row an entity of ``view`` into the online store of ``store``, overwriting.

    Parameters
    ----------
    store
        An applied feature store on SQLite or Redis.
    view
        The view; its only entity's join key and all its features are columns of ``rows``.
    rows
        At most one row an entity.
    stamps
        The event timestamp of each row, timezone-aware UTC.
    """
    if rows.empty:
        return
    key = view.join_keys[0]
    # in the order of SQLite's primary key, which spares it searching
    order = sorted(range(len(rows)), key=[(len(e.encode()), e.encode()) for e in rows[key]].__getitem__)
    rows, stamps = rows.iloc[order], [stamps[place] for place in order]
    keys = entity_keys(key, rows[key].tolist())
    online = store._get_provider().online_store
    if isinstance(online, SqliteOnlineStore):
        _to_sqlite(store, online, view, keys, rows, stamps)
    else:
        _to_redis(store, online, view, keys, rows, stamps)


def remove_rows(store: FeatureStore, view: FeatureView, entities: Sequence[str]) -> None:
    """Remove the rows of ``entities`` of ``view`` from the online store; those not there are passed over."""
    if not entities:
        return
    keys = entity_keys(view.join_keys[0], list(entities))
    online = store._get_provider().online_store
    if isinstance(online, SqliteOnlineStore):
        table = _quote_id(_table_id(store.config.project, view, False))
        connection = online._get_conn(store.config)
        with connection:
            connection.executemany(f"DELETE FROM {table} WHERE entity_key = ?", [(key,) for key in keys])
        return
    fields = [f"_ts:{view.name}".encode(), *(_mmh3(f"{view.name}:{field.name}") for field in view.features)]
    client = online._get_client(store.config.online_store)
    for key in keys:
        client.hdel(key + store.config.project.encode(), *fields)


def entity_keys(name: str, entities: Sequence[str]) -> list[bytes]:
    """Return Feast's serialised keys of entities; they differ only in the length and the letters of the id."""
    head = _key_head(name)
    return [b"%b%b%b" % (head, len(text).to_bytes(4, "little"), text) for text in map(str.encode, entities)]


@cache
def _key_head(name: str) -> bytes:
    def by_feast(entity: str) -> bytes:
        message = EntityKey(join_keys=[name], entity_values=[Value(string_val=entity)])
        return bytes(serialize_entity_key(message, entity_key_serialization_version=3))

    head = by_feast("")[:-4]
    if by_feast("ab") != head + b"\x02\0\0\0ab":
        raise DataError(
            "expected Feast's entity keys to end with length and id, found another form; report this"
        )
    return head


def _to_sqlite(
    store: FeatureStore,
    online: SqliteOnlineStore,
    view: FeatureView,
    keys: Sequence[bytes],
    rows: pd.DataFrame,
    stamps: Sequence[datetime],
) -> None:
    table = _quote_id(_table_id(store.config.project, view, False))
    features = sorted(view.features, key=lambda field: field.name)
    columns: list[Sequence[bytes] | Sequence[str | None]] = []
    for field in features:
        values, texts = _encoded(field.dtype, rows[field.name])
        columns += (values, texts())
    naive = [stamp.replace(tzinfo=None) for stamp in stamps]
    # one wide row an entity goes in, and SQLite itself makes the narrow ones: binding a value from Python
    # costs more than storing it
    wide = ", ".join(f"v{n} BLOB, t{n} TEXT" for n in range(len(features)))
    value, text = (" ".join(f"WHEN {n} THEN {c}{n}" for n in range(len(features))) for c in "vt")
    connection = online._get_conn(store.config)
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"PRAGMA cache_size = -{_SQLITE_CACHE_KB}")
    with connection:
        connection.execute(f"CREATE TEMP TABLE wide (entity_key BLOB, event_ts timestamp, {wide})")
        connection.execute("CREATE TEMP TABLE features (n INTEGER PRIMARY KEY, name TEXT)")
        connection.executemany(
            f"INSERT INTO wide VALUES ({', '.join('?' * (2 + len(columns)))})",
            zip(keys, naive, *columns, strict=True),
        )
        connection.executemany(
            "INSERT INTO features VALUES (?, ?)", [(n, field.name) for n, field in enumerate(features)]
        )
        connection.execute(
            f"INSERT INTO {table} (entity_key, feature_name, value, value_text, event_ts, created_ts) "
            f"SELECT entity_key, name, CASE n {value} END, CASE n {text} END, event_ts, NULL "
            "FROM wide CROSS JOIN features WHERE TRUE ON CONFLICT(entity_key, feature_name) DO UPDATE SET "
            "value = excluded.value, value_text = excluded.value_text, event_ts = excluded.event_ts, "
            "created_ts = excluded.created_ts"
        )
        connection.execute("DROP TABLE wide")
        connection.execute("DROP TABLE features")


def _to_redis(
    store: FeatureStore,
    online: Any,
    view: FeatureView,
    keys: Sequence[bytes],
    rows: pd.DataFrame,
    stamps: Sequence[datetime],
) -> None:
    project = store.config.project.encode()
    head = b"*%d\r\n$4\r\nHSET\r\n" % (4 + 2 * len(view.features))
    names = [bulk_string(_mmh3(f"{view.name}:{field.name}")) for field in view.features]
    columns = [_encoded(field.dtype, rows[field.name])[0] for field in view.features]
    stamp_field = bulk_string(f"_ts:{view.name}".encode())
    encoded_stamps = _stamps(stamps)
    pool = online._get_client(store.config.online_store).connection_pool
    connection = pool.get_connection()
    try:
        for start in range(0, len(keys), _REDIS_ROWS):
            chosen = range(start, min(start + _REDIS_ROWS, len(keys)))
            commands: list[bytes] = []
            for row in chosen:
                commands += (
                    head,
                    bulk_string(keys[row] + project),
                    stamp_field,
                    bulk_string(encoded_stamps[row]),
                )
                for name, column in zip(names, columns, strict=True):
                    commands += (name, b"$%d\r\n%b\r\n" % (len(column[row]), column[row]))
            connection.send_packed_command([b"".join(commands)])
            for _ in chosen:
                answer = connection.read_response()
                if isinstance(answer, Exception):
                    raise answer
    except BaseException:
        connection.disconnect()
        raise
    finally:
        pool.release(connection)


def bulk_string(value: bytes) -> bytes:
    """Return a value as Redis's protocol writes it."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def _stamps(stamps: Iterable[datetime]) -> list[bytes]:
    known: dict[datetime, bytes] = {}
    for stamp in stamps:
        if stamp not in known:
            message = Timestamp()
            message.FromDatetime(stamp)
            known[stamp] = message.SerializeToString()
    return [known[stamp] for stamp in stamps]


def _encoded(dtype: Any, column: pd.Series[Any]) -> tuple[Sequence[bytes], Callable[[], Texts]]:
    """Return the column as serialised values, and what makes the texts that SQLite keeps beside them."""
    values = column.tolist()
    if column.dtype == np.float64 and not column.isna().any():
        raw = column.to_numpy().astype("<f8").tobytes()
        return [_DOUBLE + raw[at : at + 8] for at in range(0, len(raw), 8)], lambda: _texts(values)
    if column.dtype == object and all(isinstance(value, str) for value in values):
        # few different texts stand in many rows
        distinct = {text: Value(string_val=text).SerializeToString() for text in set(values)}
        return [distinct[text] for text in values], lambda: values
    messages = python_values_to_proto_values(values, dtype.to_value_type())
    serialised = [message.SerializeToString() for message in messages]
    return serialised, lambda: [extract_text_and_num(message, False)[0] for message in messages]


def _texts(values: list[float]) -> list[str]:
    """Return ``str`` of each number.

    orjson writes the same shortest digits many times faster, but for infinities, exponents and numbers below
    a ten-thousandth, where Python changes to exponents.
    """
    texts = orjson.dumps(values).decode()[1:-1].split(",")
    different = re.compile(r"null|-?0\.0000|.*e").match
    return [str(value) if different(text) else text for text, value in zip(texts, values, strict=True)]
