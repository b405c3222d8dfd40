"""The Feast store, from settings: SQLite embedded by default, Redis by one setting.

Feast's YAML cannot choose the online store by environment, so the configuration is built here; the
``feature_store.yaml`` beside it serves the ``feast`` command line on the embedded default. ``apply`` and
``materialise`` are deploy jobs: the web process only opens and reads. Feast takes seconds to import, so it
is imported where it is used.
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

import pandas as pd
import pyarrow.parquet as pq

from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.casts import quoted
from feature_repo.errors import ConfigError, FeatureUnavailable
from feature_repo.files import parquet_files, read_parquet
from feature_repo.sqlite_file import is_damage

if TYPE_CHECKING:
    from feast import FeatureStore

    from feature_repo.build import FeatureSet

PROJECT: Final = "nextbest"
OFFLINE_STORE: Final = "feature_repo.asof_store.AsofOfflineStore"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class StoreConfig:
    """Where the registry and the online store are.

    ``directory`` holds the registry and, by default, the SQLite online store; ``redis_url``
    (``redis://[:password@]host:port/db``) puts the online store into Redis.
    """

    directory: Path
    redis_url: str | None = None

    @property
    def sqlite_path(self) -> Path:
        """File of the embedded online store."""
        return self.directory / "online.db"

    @property
    def registry_path(self) -> Path:
        """File of the Feast registry."""
        return self.directory / "registry.db"


def redis_options(url: str) -> dict[str, Any]:
    """Return Feast's settings of a Redis online store; ConfigError when ``url`` is no Redis URL."""
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise ConfigError(
            f"expected a Redis URL such as redis://host:6379/0, found {url!r}; correct the setting NEXTBEST_REDIS_URL"
        )
    connection = [f"{parts.hostname}:{parts.port or 6379}", f"db={parts.path.strip('/') or 0}"]
    if parts.password:
        connection.append(f"password={unquote(parts.password)}")
    if parts.scheme == "rediss":
        connection.append("ssl=true")
    connection += ["socket_timeout=0.5", "socket_connect_timeout=0.5"]
    return {"type": "redis", "connection_string": ",".join(connection)}


def open_store(config: StoreConfig, *, offline: bool = True) -> FeatureStore:
    """Open the Feast store of ``config``.

    With ``offline=False`` the DuckDB engine is neither needed nor loaded: what the service uses.
    """
    from feast import FeatureStore
    from feast.repo_config import RepoConfig

    online = (
        redis_options(config.redis_url)
        if config.redis_url
        else {"type": "sqlite", "path": str(config.sqlite_path)}
    )
    config.directory.mkdir(parents=True, exist_ok=True)
    return FeatureStore(
        config=RepoConfig(
            project=PROJECT,
            provider="local",
            registry={"path": str(config.registry_path), "cache_ttl_seconds": 0},
            online_store=online,
            offline_store={"type": OFFLINE_STORE if offline else "file"},
            entity_key_serialization_version=3,
            repo_path=config.directory,
        )
    )


def apply(config: StoreConfig, features: FeatureSet) -> FeatureStore:
    """Register all Feast objects over ``features`` and prepare the online store (a deploy job).

    Registry and embedded online store are made from the features: a damaged one is put aside and made anew.
    """
    from feature_repo.definitions import definitions

    if not config.redis_url:
        _in_wal_mode(config.sqlite_path)
    try:
        store = open_store(config)
        store.apply(definitions(features))
    except Exception as error:
        if is_damage(error) and config.sqlite_path.exists():
            _put_aside(config.sqlite_path)
            _in_wal_mode(config.sqlite_path)
        elif config.registry_path.exists():
            config.registry_path.replace(config.registry_path.with_suffix(".damaged"))
        else:
            raise
        store = open_store(config)
        store.apply(definitions(features))
    return store


def _in_wal_mode(path: Path) -> None:
    """Let readers go on beside a long write; put a file aside that is no database."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.DatabaseError:
        _put_aside(path)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")


def _put_aside(path: Path) -> None:
    """Put a damaged database aside, with the log beside it, which would be taken for that of the next one."""
    path.replace(path.with_suffix(".damaged"))
    for ending in ("-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)


def materialise(store: FeatureStore, features: FeatureSet) -> dict[str, int]:
    """Bring the newest row of every entity and view into the online store; return the rows written by view.

    Rows overwrite what is there, whatever its timestamp. ``customer_recent`` is left alone: it belongs to the
    consumer of the event log, which brings the tables' histories online itself.

    Raises
    ------
    FeatureUnavailable
        The online store did not take them.
    """
    try:
        return _materialised(store, features)
    except Exception as error:
        raise FeatureUnavailable(
            f"expected the online store to take the features, found {type(error).__name__}: {error}; "
            "see that it runs (NEXTBEST_REDIS_URL) and has room, and try again"
        ) from error


def _materialised(store: FeatureStore, features: FeatureSet) -> dict[str, int]:
    from feature_repo.bulk import write_rows

    written: dict[str, int] = {}
    for name in (name for name in features.rows if name != v.CUSTOMER_RECENT):
        view = store.get_feature_view(name)
        rows = latest(features, name)
        write_rows(store, view, rows, [stamp.to_pydatetime() for stamp in rows[s.EVENT_TIMESTAMP]])
        store.registry.apply_materialization(view, PROJECT, _EPOCH, features.as_of)
        written[name] = len(rows)
    return written


def applied(config: StoreConfig, features: FeatureSet) -> tuple[FeatureStore, bool]:
    """Return the store, applied, and whether it is online; see ``is_online``.

    A file that is a database at first sight only is put aside and made anew.
    """
    store = apply(config, features)
    try:
        return store, is_online(store, features)
    except sqlite3.DatabaseError:
        return applied_anew(config, features), False


def applied_anew(config: StoreConfig, features: FeatureSet) -> FeatureStore:
    """Return the store, applied, with an embedded online store that is empty: what there was is put aside."""
    _put_aside(config.sqlite_path)
    return apply(config, features)


def is_online(store: FeatureStore, features: FeatureSet) -> bool:
    """Whether the online store holds the newest row of the first entity of every view that has rows."""
    for name in (name for name, rows in features.rows.items() if rows):
        view = store.get_feature_view(name)
        entity, key = latest(features, name).iloc[0], view.join_keys[0]
        found = store.get_online_features(
            features=[f"{name}:{field.name}" for field in view.features],
            entity_rows=[{key: entity[key]}],
        ).to_dict()
        if all(found[field.name] == [None] for field in view.features):
            return False
    return True


def latest(features: FeatureSet, view: str) -> pd.DataFrame:
    """Return the newest row of every entity of ``view``, in order of the entity, event_timestamp in UTC."""
    import duckdb

    files = parquet_files(features.path(view))
    entity = quoted(pq.read_schema(files[0]).names[0])
    newest = f"SELECT {entity}, max({s.EVENT_TIMESTAMP}) AS {s.EVENT_TIMESTAMP} FROM {read_parquet(files)} GROUP BY 1"
    query = f"FROM {read_parquet(files)} SEMI JOIN ({newest}) USING ({entity}, {s.EVENT_TIMESTAMP}) ORDER BY {entity}"
    with duckdb.connect() as con:
        con.execute("SET threads = 2")
        rows: pd.DataFrame = con.execute(query).to_arrow_table().to_pandas()
    rows[s.EVENT_TIMESTAMP] = rows[s.EVENT_TIMESTAMP].dt.tz_localize(UTC)
    return rows
