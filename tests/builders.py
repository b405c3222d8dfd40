"""Small bundles built by hand, so that serving is tested without training anything."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
from feast import FeatureStore

from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.build import FeatureSet
from feature_repo.bulk import write_rows
from feature_repo.features import schema_hash, served_defaults
from feature_repo.recent import History, to_micros
from feature_repo.store import latest, materialise
from serving.bundle import Bundle, Purchased
from serving.catalog import REPURCHASE_DAYS, Catalog
from serving.encoders.spec import CUSTOMERS, PRODUCT_SCALE, FoldInSpec, RepeatsSpec
from serving.encoders.weights import Confidence
from serving.features import CustomerState
from serving.index import ProductIndex
from serving.manifest import DataInfo, Manifest, Policy

AS_OF = datetime(2026, 3, 1, tzinfo=UTC)
AT = AS_OF + timedelta(hours=3)

_ENCODERS = {
    "fold_in": FoldInSpec(regularization=1.0, confidence=Confidence(alpha=5.0)),
    "repeats": RepeatsSpec(),
    "none": None,
}


def make_catalog(products: int, generator: np.random.Generator) -> Catalog:
    """Products p000…: some launched later, withdrawn, unavailable, without price or category."""
    launched = pd.Series(
        pd.Timestamp(AS_OF) + pd.to_timedelta(generator.integers(-300, 30, products), unit="D")
    )
    withdrawn = pd.Series(
        pd.Timestamp(AS_OF) + pd.to_timedelta(generator.integers(-30, 300, products), unit="D")
    )
    frame = pd.DataFrame(
        {
            s.PRODUCT_ID: [f"p{row:03d}" for row in range(products)],
            s.NAME: [f"Thing {row}" for row in range(products)],
            s.CATEGORY: generator.choice(np.array(["tea", "mugs", "garden", None], dtype=object), products),
            s.PRICE: np.where(
                generator.random(products) < 0.1, np.nan, generator.uniform(1, 50, products).round(2)
            ),
            s.AVAILABLE: pd.array(generator.random(products) > 0.1, dtype="boolean"),
            s.LAUNCHED_AT: launched.where(generator.random(products) > 0.3),
            s.WITHDRAWN_AT: withdrawn.where(generator.random(products) < 0.3),
            "brand": generator.choice(["Alto", "Bora"], products),
            "eco": generator.random(products) < 0.5,
            "stars": generator.integers(1, 6, products).astype(float),
            REPURCHASE_DAYS: np.where(
                generator.random(products) < 0.5, np.nan, generator.uniform(5, 60, products)
            ),
        }
    )
    return Catalog(frame)


def make_bundle(
    seed: int = 0,
    *,
    products: int = 40,
    customers: int = 12,
    factors: int = 8,
    encoder: str = "fold_in",
    repeat_weight: float = 0.3,
    **policy: Any,
) -> Bundle:
    """A bundle with random vectors, purchases and popularity."""
    generator = np.random.default_rng(seed)
    catalog = make_catalog(products, generator)
    vectors = generator.normal(size=(products, factors)).astype(np.float32) if encoder == "fold_in" else None
    owned = [
        np.sort(generator.choice(products, generator.integers(0, 6), replace=False)) for _ in range(customers)
    ]
    indptr = np.concatenate([[0], np.cumsum([len(own) for own in owned])]).astype(np.int64)
    size = int(indptr[-1])
    ago = generator.integers(1, 120, size)
    days = generator.integers(1, 4, size).astype(np.int32)
    return Bundle(
        manifest=Manifest(
            created_at=AS_OF,
            code_version="0",
            packages={},
            data=DataInfo(
                as_of=AS_OF,
                rows={"interactions": 1, "customers": customers, "products": products},
                tables_hash="",
            ),
            feature_service=v.SERVICE,
            feature_schema_hash=schema_hash(),
            feature_defaults=served_defaults(),
            recipe={},
            seed=seed,
            policy=Policy(
                model="toy",
                encoder=_ENCODERS[encoder],
                repeat_weight=repeat_weight,
                **policy,
            ),
            metrics={},
            index={},
        ),
        catalog=catalog,
        customers=pd.DataFrame(
            {
                s.CUSTOMER_ID: [f"c{row:02d}" for row in range(customers)],
                v.SEGMENT: ["category:tea" if row % 2 else "" for row in range(customers)],
            }
        ),
        purchased=Purchased(
            indptr=indptr,
            products=np.concatenate(owned).astype(np.int32) if size else np.empty(0, dtype=np.int32),
            days=days,
            at=np.array([to_micros(AS_OF - timedelta(days=int(one))) for one in ago], dtype=np.int64),
            first=np.array(  # a purchase every 20 days
                [to_micros(AS_OF - timedelta(days=int(one))) for one in ago + 20 * (days - 1)], dtype=np.int64
            ),
        ),
        popular=generator.permutation(products).astype(np.int32),
        popular_scores=np.sort(generator.random(products).astype(np.float32))[::-1].copy(),
        segments={"category:tea": generator.permutation(products)[:10].astype(np.int32)},
        vectors=vectors,
        matrices={CUSTOMERS: generator.normal(size=(customers, factors)).astype(np.float32)}
        if vectors is not None
        else {},
        weights={PRODUCT_SCALE: np.ones(products, dtype=np.float32)} if vectors is not None else {},
        index=ProductIndex.build(vectors) if vectors is not None else None,
        version="202603010000-000000000000",
    )


def state(events: Sequence[tuple[str, str, float]], segment: str = "", at: datetime = AT) -> CustomerState:
    """A customer with events (product, kind, days before ``at``), oldest first."""
    ordered = sorted(events, key=lambda event: -event[2])
    rows = [(product, kind, to_micros(at - timedelta(days=days)), 1.0) for product, kind, days in ordered]
    return CustomerState({v.SEGMENT: segment}, History.of(rows))


def everything_online(store: FeatureStore, features: FeatureSet) -> None:
    """Bring every view online as the tables have it, recent histories too (the consumer's, where there is a log)."""
    materialise(store, features)
    rows = latest(features, v.CUSTOMER_RECENT)
    stamps = [stamp.to_pydatetime() for stamp in rows[s.EVENT_TIMESTAMP]]
    write_rows(store, store.get_feature_view(v.CUSTOMER_RECENT), rows, stamps)
