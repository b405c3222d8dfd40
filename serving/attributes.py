"""A reader of some attributes of customers alone, for experiments that are for certain customers only.

Apart from the reader of the bundles (``serving.online``): which attributes are asked for depends on the experiments
alone, and what a bundle is given must not depend on them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

from feast.errors import FeatureViewNotFoundException
from feast.types import Bool, String

from feature_repo import names as v
from feature_repo.point_read import PointReader
from serving.errors import ConfigError, FeatureUnavailable
from serving.features import CustomerState, FeatureReader

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView


def kinds(view: FeatureView) -> dict[str, str]:
    """Return what each feature of the view of customers' attributes holds; see ``FeatureReader.attributes``."""
    told = {String: "a text", Bool: "true or false"}
    return {feature.name: told.get(feature.dtype, "a number") for feature in view.features}


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
        try:
            view = store.get_feature_view(v.CUSTOMER_ATTRIBUTES)
            known = kinds(view)
        except FeatureViewNotFoundException:
            view, known = None, {}
        unknown = sorted(set(names) - set(known))
        if view is None or unknown:
            there = ", ".join(sorted(known)) or "none"
            raise ConfigError(
                f"expected attributes of customers (there are: {there}), found {unknown[0]}; "
                "correct it, or run `nextbest features TABLES` with tables that have it"
            )
        self._names = sorted(names)
        self._attributes = MappingProxyType({name: known[name] for name in self._names})
        self._keys = [v.row_key(v.CUSTOMER_ATTRIBUTES, name) for name in self._names]
        self._timeout_ms = timeout_ms
        self._rows = PointReader(store, [(view, name) for name in self._names], timeout_s=timeout_ms / 1000.0)

    @property
    def attributes(self) -> Mapping[str, str]:
        """Those it was made for; see ``FeatureReader``."""
        return self._attributes

    def read(self, customer_ids: Sequence[str], at: datetime) -> list[CustomerState]:
        """See ``FeatureReader``."""
        try:
            rows = [self._rows.values(row) for row in self._rows.read(customer_ids)]
        except Exception as error:
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
