"""The attributes of customers: of which kinds they are, and a reader of some of them alone.

The reader is for experiments that are for certain customers only, apart from that of the bundles (``serving.online``):
which attributes are asked for depends on the experiments alone, and what a bundle is given must not depend on them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from feast.errors import FeatureViewNotFoundException

from feature_repo import names as v
from feature_repo.point_read import PointReader
from feature_repo.sqlite_file import is_damage
from serving.errors import ConfigError, FeatureDamaged, FeatureUnavailable
from serving.features import CustomerState, FeatureReader, Kind

if TYPE_CHECKING:
    from feast import FeatureStore

#: What values of a Feast type are; all others are numbers.
_KINDS: Final[Mapping[str, Kind]] = {
    "STRING": "a text",
    "BOOL": "true or false",
    "UNIX_TIMESTAMP": "a time as ISO 8601",
}


def attribute_kinds(store: FeatureStore) -> dict[str, Kind]:
    """Return the attributes of customers by name; a shop that knows nothing of its customers has none."""
    try:
        view = store.get_feature_view(v.CUSTOMER_ATTRIBUTES)
    except FeatureViewNotFoundException:
        return {}
    return {field.name: _KINDS.get(field.dtype.to_value_type().name, "a number") for field in view.features}


class AttributeReader(FeatureReader):
    """Reads attributes from the online store; a state's row has those that a customer has, and no history.

    Parameters
    ----------
    store
        An opened store; only its registry and online store are used.
    names
        The attributes, as the shop's table of customers calls them.
    timeout_ms
        How long the store may be waited for before ``FeatureUnavailable``.

    Raises
    ------
    ConfigError
        The shop's customers do not have such an attribute.
    """

    def __init__(self, store: FeatureStore, names: Collection[str], *, timeout_ms: float) -> None:
        known = attribute_kinds(store)
        unknown = sorted(set(names) - set(known))
        if unknown or not known:
            raise ConfigError(
                f"expected attributes of customers (there are: {', '.join(sorted(known)) or 'none'}), found "
                f"{unknown[0]}; correct it, or run `nextbest features TABLES` with tables that have it"
            )
        view = store.get_feature_view(v.CUSTOMER_ATTRIBUTES)
        self._names = sorted(names)
        self._kinds = {name: known[name] for name in self._names}
        self._keys = [v.row_key(v.CUSTOMER_ATTRIBUTES, name) for name in self._names]
        self._timeout_ms = timeout_ms
        self._rows = PointReader(store, [(view, name) for name in self._names], timeout_s=timeout_ms / 1000.0)

    @property
    def attributes(self) -> Mapping[str, Kind]:
        """The names it was made for."""
        return self._kinds

    def read(self, customer_ids: Sequence[str], at: datetime) -> list[CustomerState]:
        """See ``FeatureReader``."""
        try:
            rows = [self._rows.values(row) for row in self._rows.read(customer_ids)]
        except Exception as error:
            if is_damage(error):
                raise FeatureDamaged(
                    f"expected a sound online store, found it damaged ({error}); `nextbest features TABLES` makes it "
                    "anew"
                ) from error
            raise FeatureUnavailable(
                f"expected an answer of the online store within {self._timeout_ms:.0f} ms, "
                f"found {type(error).__name__}: {error}; check it"
            ) from error
        return [
            CustomerState(
                MappingProxyType(
                    {k: value for k, value in zip(self._keys, row, strict=True) if value is not None}
                )
            )
            for row in rows
        ]
