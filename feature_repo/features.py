"""The declarative list of slow features, view by view, with what is served when one is missing.

``snapshots`` evaluates the expressions at each instant; ``definitions`` turns the same list into Feast views;
the manifest of a bundle carries the defaults. Behaviour of the last minutes is not here: it lives in
``recent``, computed by one function offline and online. Measures and dates are in ``fact_features``, since
which there are is for the tables to say.
"""

from __future__ import annotations

import hashlib
import json
from typing import Final

from feature_repo.customer_features import CUSTOMER
from feature_repo.feature import Default, Feature
from feature_repo.names import (
    CUSTOMER_FEATURES,
    CUSTOMER_RECENT,
    PRODUCT_FEATURES,
    RECENT,
    SERVED,
    SERVICE,
    SERVICES,
)
from feature_repo.product_features import PRODUCT

VIEWS: Final[dict[str, tuple[Feature, ...]]] = {CUSTOMER_FEATURES: CUSTOMER, PRODUCT_FEATURES: PRODUCT}


def defaults(view: str) -> dict[str, Default]:
    """Return what is served for each feature of ``view`` when the store has no row."""
    return {feature.name: feature.default for feature in VIEWS[view]}


def served_defaults(service: str = SERVICE) -> dict[str, Default]:
    """Return the same for the customer features that ``service`` serves."""
    wanted = SERVED.get(service)
    return {
        name: value for name, value in defaults(CUSTOMER_FEATURES).items() if wanted is None or name in wanted
    }


def schema_hash() -> str:
    """Hash the services and the names, types and defaults of every view: builds that differ do not mix."""
    described: dict[str, object] = {
        view: [(f.name, f.dtype, f.default) for f in features] for view, features in VIEWS.items()
    }
    described[CUSTOMER_RECENT] = [(name, dtype, None) for name, dtype in RECENT]
    described["services"] = [SERVICES, SERVED]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
