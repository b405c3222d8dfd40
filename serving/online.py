"""The reader of the online store: Feast's store, without Feast's path to it.

The feature service is resolved to views once; each read calls the store's own ``online_read``, several times
faster than ``get_online_features`` (a test keeps the two equal). Unknown keys come back as the bundle's
defaults. A read that takes too long is given up: the request is answered without features.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from datetime import datetime
from types import MappingProxyType
from typing import Any

from feast import FeatureStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.recent import History
from serving.errors import BundleError, FeatureUnavailable
from serving.features import CustomerState


class OnlineReader:
    """Reads states from the online store of a Feast feature store.

    Parameters
    ----------
    store
        An opened store; only its registry and online store are used.
    service, schema_hash
        Name of the feature service to resolve, and the schema it must have been registered with (None: any).
    defaults
        Feature name → value served when the store has none.
    timeout_ms
        How long one read may take before ``FeatureUnavailable``.
    """

    def __init__(
        self,
        store: FeatureStore,
        *,
        service: str,
        defaults: Mapping[str, Any],
        timeout_ms: float,
        schema_hash: str | None = None,
    ) -> None:
        self._store = store
        self._defaults = dict(defaults)
        self._timeout_s = timeout_ms / 1000.0
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="features")
        self._lock = threading.Lock()
        self._views = self._resolve(service, schema_hash)

    def _resolve(self, service: str, schema_hash: str | None) -> list[tuple[Any, list[str]]]:
        try:
            found = self._store.get_feature_service(service)
            projections = found.feature_view_projections
            wanted = {v.CUSTOMER_FEATURES, v.CUSTOMER_ATTRIBUTES, v.CUSTOMER_RECENT}
            views = [
                (self._store.get_feature_view(projection.name), [f.name for f in projection.features])
                for projection in projections
                if projection.name in wanted
            ]
        except Exception as error:
            raise BundleError(
                f"expected the feature service {service!r} in the Feast registry, found: {error}; "
                "run `nextbest features TABLES`"
            ) from error
        registered = found.tags.get(v.SCHEMA_HASH_TAG)
        if schema_hash is not None and registered != schema_hash:
            raise BundleError(
                f"expected {service!r} with the feature schema {schema_hash} of the bundle, found {registered}; "
                "run `nextbest features TABLES` with the version that made the bundle, or train anew"
            )
        offered = {name for _, names in views for name in names}
        missing = sorted(set(self._defaults) - offered)
        if missing:
            raise BundleError(
                f"expected the features the bundle was trained on in {service!r}, found none called "
                f"{', '.join(missing)}; run `nextbest features TABLES` with the same version"
            )
        return views

    def read(self, customer_ids: Sequence[str], at: datetime) -> list[CustomerState]:
        """Return the states; see ``FeatureReader``."""
        if not customer_ids:
            return []
        future = self._pool.submit(self._read, list(customer_ids))
        try:
            rows = future.result(timeout=self._timeout_s + 0.002 * len(customer_ids))
        except FutureTimeout as error:
            future.cancel()
            raise FeatureUnavailable(
                f"expected features within {self._timeout_s * 1000:.0f} ms, found the online store slower; check it"
            ) from error
        except Exception as error:
            raise FeatureUnavailable(
                f"expected an answer of the online store, found {type(error).__name__}: {error}; check it"
            ) from error
        return [
            CustomerState(MappingProxyType(row), History.from_row(recent).before(at)) for row, recent in rows
        ]

    def _read(self, customer_ids: list[str]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        keys = [
            EntityKey(join_keys=[s.CUSTOMER_ID], entity_values=[Value(string_val=customer)])
            for customer in customer_ids
        ]
        rows: list[tuple[dict[str, Any], dict[str, Any]]] = [(dict(self._defaults), {}) for _ in customer_ids]
        online = self._store._get_provider().online_store
        with self._lock:
            for view, names in self._views:
                found = online.online_read(self._store.config, view, keys, names)
                recent = view.name == v.CUSTOMER_RECENT
                for (slow, history), (_, values) in zip(rows, found, strict=True):
                    target = history if recent else slow
                    for name, value in (values or {}).items():
                        plain = plain_value(value)
                        if plain is not None:
                            target[v.row_key(view.name, name)] = plain
        return rows

    def close(self) -> None:
        """Stop the reading thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def plain_value(value: Value) -> Any:
    """Return the Python value of a Feast value; None when it holds none."""
    kind = value.WhichOneof("val")
    if kind is None or kind == "null_val":
        return None
    held = getattr(value, kind)
    return list(held.val) if hasattr(held, "val") else held
