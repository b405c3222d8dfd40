"""The reader of the online store: Feast's store, without Feast's path to it.

The feature service is resolved to views once; each read asks for all of them at once (``feature_repo.point_read``),
many times faster than ``get_online_features`` (a test keeps the two equal). Unknown keys come back as the bundle's
defaults, and so does a row that cannot be read, which is told and counted. A read that takes too long is given up: the
request is answered without features.

Few customers ask often: a state is kept beside the bytes that it was made of, and as long as the store answers with
the same bytes it is given again, with what was made of it since. So nothing is ever older than the store.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Any, Final, NoReturn

from feast import FeatureStore

from feature_repo import names as v
from feature_repo.point_read import Columns, PointReader, Row
from feature_repo.recent import History
from feature_repo.sqlite_file import is_damage
from serving.attributes import attribute_kinds
from serving.errors import BundleError, FeatureDamaged, FeatureUnavailable
from serving.features import CustomerState, FeatureReader, Kind, Reading

log = logging.getLogger("nextbest")

_VIEWS: Final = (v.CUSTOMER_FEATURES, v.CUSTOMER_FACTS, v.CUSTOMER_ATTRIBUTES, v.CUSTOMER_RECENT)
#: Of these views every column is read; of the others those that are asked for.
_WHOLE: Final = (v.CUSTOMER_ATTRIBUTES, v.CUSTOMER_RECENT)
#: Rows that cannot be read are told once in so many seconds.
_TELL_SECONDS: Final = 60.0
#: States of so many customers, those read last, are kept, about 12 KB each.
KEPT: Final = 4096


class OnlineReader(FeatureReader):
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
        How long the store may be waited for before ``FeatureUnavailable``.
    corrupt
        Called for each row that cannot be read.
    also
        Features without a default that are read where the service has them, as ``names.row_key`` calls them;
        attributes of customers wherever the store has them.
    """

    def __init__(
        self,
        store: FeatureStore,
        *,
        service: str,
        defaults: Mapping[str, Any],
        timeout_ms: float,
        schema_hash: str | None = None,
        corrupt: Callable[[], None] = lambda: None,
        also: Collection[str] = (),
    ) -> None:
        self._defaults = dict(defaults)
        self._blank = CustomerState(MappingProxyType(dict(defaults)), memo={}, is_blank=True)
        self._timeout_ms = timeout_ms
        self._corrupt = corrupt
        self._told = -_TELL_SECONDS
        self._kept: OrderedDict[str, tuple[Row, CustomerState]] = OrderedDict()
        wanted = {*self._defaults, *also}
        columns = [
            (view, name)
            for view, name in self._resolve(store, service, schema_hash)
            if view.name in _WHOLE or v.row_key(view.name, name) in wanted
        ]
        self._attributes = attribute_kinds(store)
        there = {v.row_key(view.name, name) for view, name in columns}
        columns += [
            (store.get_feature_view(v.CUSTOMER_ATTRIBUTES), name)
            for name in sorted(self._attributes)
            if (key := v.row_key(v.CUSTOMER_ATTRIBUTES, name)) in wanted and key not in there
        ]
        self._columns = [
            (v.row_key(view.name, name), view.name == v.CUSTOMER_RECENT) for view, name in columns
        ]
        self._rows = PointReader(store, columns, timeout_s=timeout_ms / 1000.0)

    def _resolve(self, store: FeatureStore, service: str, schema_hash: str | None) -> Columns:
        try:
            found = store.get_feature_service(service)
            columns = [
                (store.get_feature_view(projection.name), feature.name)
                for projection in found.feature_view_projections
                if projection.name in _VIEWS
                for feature in projection.features
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
        missing = sorted(set(self._defaults) - {name for _, name in columns})
        if missing:
            raise BundleError(
                f"expected the features the bundle was trained on in {service!r}, found none called "
                f"{', '.join(missing)}; run `nextbest features TABLES` with the same version"
            )
        return columns

    @property
    def attributes(self) -> Mapping[str, Kind]:
        """See ``FeatureReader``."""
        return self._attributes

    def begin(self, customer_ids: Sequence[str], at: datetime) -> Reading:
        """See ``FeatureReader``."""
        try:
            rows = self._rows.begin(customer_ids)
        except Exception as error:
            return Reading(partial(self._fail, error))

        def finish() -> list[CustomerState]:
            try:
                found = rows.finish()
            except Exception as error:
                self._fail(error)
            return [self._state(customer, row, at) for customer, row in zip(customer_ids, found, strict=True)]

        return Reading(finish, rows.drop)

    def _fail(self, error: Exception) -> NoReturn:
        if is_damage(error):
            raise FeatureDamaged(
                f"expected a sound online store, found it damaged ({error}); `nextbest features TABLES` makes it anew"
            ) from error
        raise FeatureUnavailable(
            f"expected an answer of the online store within {self._timeout_ms:.0f} ms, "
            f"found {type(error).__name__}: {error}; check it"
        ) from error

    def _state(self, customer: str, row: Row, at: datetime) -> CustomerState:
        if not any(row):
            return self._blank
        kept = self._kept.pop(customer, None)
        state = kept[1] if kept is not None and kept[0] == row else self._parsed(customer, row)
        if state is None:
            return CustomerState(MappingProxyType(dict(self._defaults)), unread=True)
        self._kept[customer] = row, state
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        history = state.history.before(at)
        return state if history is state.history else CustomerState(state.row, history)

    def _parsed(self, customer: str, row: Row) -> CustomerState | None:
        """Return the state that a row says; None, told and counted, where it cannot be read."""
        slow = dict(self._defaults)
        recent: dict[str, Any] = {}
        try:
            for (name, is_recent), value in zip(self._columns, self._rows.values(row), strict=True):
                if value is not None:
                    (recent if is_recent else slow)[name] = value
            return CustomerState(MappingProxyType(slow), History.from_row(recent), {})
        except (ValueError, KeyError) as error:
            self._tell(customer, error)
            return None

    def _tell(self, customer: str, error: Exception) -> None:
        self._corrupt()
        now = time.monotonic()
        if now - self._told >= _TELL_SECONDS:
            self._told = now
            log.error(
                "the online row of customer %r cannot be read, theirs are defaults: %s", customer, error
            )

    def close(self) -> None:
        """Release the connections."""
        self._rows.close()
