"""All Feast objects: entities, sources, views and the feature service, in one file.

In one file because ``feast apply`` looks objects up by module and fails when they are spread. The views
of slow aggregates come from the declarative list in ``features``; those of facts and attributes from the
description that the build writes, since their columns are whatever the shop's tables hold.
"""

from __future__ import annotations

from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, ValueType
from feast.types import Array, Bool, FeastType, Float64, Int64, String, UnixTimestamp

from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.build import FeatureSet
from feature_repo.features import VIEWS, schema_hash
from feature_repo.files import PARTS

_TYPES: dict[str, FeastType] = {
    "float": Float64,  # every number: the DuckDB store turns int64 with gaps into float anyway
    "string": String,
    "bool": Bool,
    "timestamp": UnixTimestamp,
    "strings": Array(String),
    "floats": Array(Float64),
    "ints": Array(Int64),
}


def definitions(features: FeatureSet) -> list[Any]:
    """Return every Feast object over the built ``features``: entities, views and the service."""
    customer = Entity(name="customer", join_keys=[s.CUSTOMER_ID], value_type=ValueType.STRING)
    product = Entity(name="product", join_keys=[s.PRODUCT_ID], value_type=ValueType.STRING)
    owner = {
        v.CUSTOMER_FEATURES: customer,
        v.PRODUCT_FEATURES: product,
        v.CUSTOMER_FACTS: customer,
        v.PRODUCT_FACTS: product,
        v.CUSTOMER_ATTRIBUTES: customer,
        v.PRODUCT_ATTRIBUTES: product,
        v.CUSTOMER_RECENT: customer,
    }

    def source(view: str) -> FileSource:
        return FileSource(
            name=f"{view}_source",
            path=str(features.path(view) / PARTS),
            timestamp_field=s.EVENT_TIMESTAMP,
        )

    def view(name: str, fields: list[tuple[str, str]], origin: FileSource | PushSource) -> FeatureView:
        key = Field(name=owner[name].join_key, dtype=String)
        columns = [Field(name=field, dtype=_TYPES[dtype]) for field, dtype in fields]
        return FeatureView(name=name, entities=[owner[name]], schema=[key, *columns], source=origin, ttl=None)

    views = [view(name, [(f.name, f.dtype) for f in listed], source(name)) for name, listed in VIEWS.items()]
    push = PushSource(name=v.CUSTOMER_RECENT_PUSH, batch_source=source(v.CUSTOMER_RECENT))
    views.append(view(v.CUSTOMER_RECENT, list(v.RECENT), push))
    views += [view(name, list(columns.items()), source(name)) for name, columns in features.columns.items()]

    def members(service: str) -> list[FeatureView]:
        served = list(v.SERVED.get(service, ()))
        return [
            fv[served] if served and fv.name == v.CUSTOMER_FEATURES else fv
            for fv in views
            if fv.name in v.SERVICES[service]
        ]

    tags = {v.SCHEMA_HASH_TAG: schema_hash()}
    services = [FeatureService(name=name, features=members(name), tags=tags) for name in v.SERVICES]
    return [customer, product, push, *views, *services]
