"""The drawn shop as what is served: a published, live bundle, and every customer in the online store.

The bundle passes the loader and replays its golden answers as any other; its encoder is that of the shipped ALS recipe,
its index the one that its size calls for. The online store is applied with the real definitions and holds whole rows
of all views of customers, as materialising and the consumer leave them. Values that no answer depends on are random.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from feast import FeatureStore
from numpy.typing import NDArray

from eval.benchmarks.shop import Shop
from eval.benchmarks.shop_ranker import with_ranker
from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.build import FeatureSet
from feature_repo.bulk import write_rows
from feature_repo.features import VIEWS, schema_hash, served_defaults
from feature_repo.recent import DAY_US, KIND_CODES, to_micros
from feature_repo.store import StoreConfig, apply
from serving import golden
from serving.bundle import Bundle, Purchased, save
from serving.encoders.spec import CUSTOMERS, PRODUCT_SCALE, FoldInSpec
from serving.encoders.weights import Confidence
from serving.features import CustomerState, FrameReader
from serving.index import ProductIndex
from serving.index_choice import QUERIES, Asked, choose
from serving.manifest import DataInfo, Manifest, Policy
from serving.recommender import Query, Recommender

Float32 = NDArray[np.float32]
Progress = Callable[[str, int, int], None]

#: The encoder of the ALS recipe that ships (``training/configs/default.toml``).
ENCODER: Final = FoldInSpec(regularization=30.0, confidence=Confidence(alpha=5.0, half_life_days=22.0))
#: What the shop knows of its customers beside what they do.
ATTRIBUTES: Final = {
    "region": "string",
    "language": "string",
    "birth_year": "float",
    "household": "float",
    "club_member": "bool",
    f"{s.CONSENT_PREFIX}email": "bool",
}
_SHARES: Final = (0.5, 0.3, 0.2)
_NAMES: Final = ("one", "two", "three")
_SEGMENT_FAVOURITES: Final = 100
_GOLDEN: Final = 8
_LEARNT: Final = 400  # customers that a ranker learns from
_BLOCK: Final = 10_000  # customers written at a time: bounds the memory


def publish(shop: Shop, bundles: Path, *, seed: int, ranker: bool = False) -> str:
    """Make the bundle of ``shop`` with its golden answers, save it below ``bundles`` and return its version."""
    bundle = _bundle(shop, seed=seed)
    assert bundle.vectors is not None
    exact = Recommender(replace(bundle, index=ProductIndex.build(bundle.vectors)), FrameReader({}))
    chosen = choose(bundle.vectors, partial(_asked, shop, exact, seed=seed))
    manifest = bundle.manifest.model_copy(update={"index": chosen.to_json()})
    bundle = replace(bundle, manifest=manifest, index=chosen.index)
    at = shop.as_of
    if ranker:
        learnt = [state(shop, row) for row in range(min(shop.size.customers, _LEARNT))]
        bundle = with_ranker(bundle, shop, learnt, seed=seed)
    rows = np.linspace(0, shop.size.customers - 1, num=_GOLDEN, dtype=int).tolist()
    cases = [(Query(at=at), state(shop, row)) for row in rows]
    cases.append((Query(at=at, context=tuple(shop.catalog.ids[:3])), CustomerState()))
    bundle = replace(bundle, golden=golden.record(Recommender(bundle, FrameReader({})), cases))
    return save(bundle, bundles, texts={"metrics.json": "{}", "MODEL_CARD.md": "# A drawn shop\n"})


def bring_online(shop: Shop, stores: Sequence[StoreConfig], *, seed: int, progress: Progress) -> None:
    """Apply the definitions to each store and write every customer's rows of all views into it.

    Parameters
    ----------
    shop
        Whose customers.
    stores
        Empty stores; all get the same rows.
    seed
        Of the values that no answer depends on.
    progress
        Called with ("customers online", done, all).
    """
    applied = [_applied(shop, config) for config in stores]
    stamp = shop.as_of
    for start in range(0, shop.size.customers, _BLOCK):
        rows = slice(start, min(start + _BLOCK, shop.size.customers))
        generator = np.random.default_rng((seed, start))
        for name, frame in _frames(shop, rows, generator):
            for store in applied:
                write_rows(store, store.get_feature_view(name), frame, [stamp] * len(frame))
        progress("customers online", rows.stop, shop.size.customers)


def state(shop: Shop, row: int) -> CustomerState:
    """Return what the online store knows of one customer, as far as answers depend on it."""
    names = [shop.category_names[code] for code in shop.favourites[row].tolist()]
    slow = {v.CATEGORY_NAMES: names, v.CATEGORY_SHARES: list(_SHARES), v.SEGMENT: shop.segment(row)}
    return CustomerState(slow, shop.history(row))


def _bundle(shop: Shop, *, seed: int) -> Bundle:
    """Return the bundle without index and golden answers."""
    size, at = shop.size, shop.as_of
    order = np.argsort(-shop.popularity, kind="stable").astype(np.int32)
    by_category = {
        f"category:{name}": order[shop.category[order] == code][:_SEGMENT_FAVOURITES]
        for code, name in enumerate(shop.category_names)
    }
    # the middle of what they did: asked only of customers without a recent history
    customers = sum(shop.vectors[shop.products[:, place]] for place in range(size.history)) / size.history
    manifest = Manifest(
        created_at=at,
        code_version=version("nextbest"),
        packages={"python": platform.python_version(), "bentoml": version("bentoml")},
        data=DataInfo(
            as_of=at,
            rows={
                "interactions": shop.products.size + shop.earlier.size,
                "customers": size.customers,
                "products": size.products,
            },
            tables_hash="",
        ),
        feature_service=v.SERVICE,
        feature_schema_hash=schema_hash(),
        feature_defaults=served_defaults(v.SERVICE),
        recipe={},
        seed=seed,
        policy=Policy(model="als", encoder=ENCODER, repeat_weight=3.0),
        metrics={},
        index={},
    )
    return Bundle(
        manifest=manifest,
        catalog=shop.catalog,
        customers=pd.DataFrame(
            {
                s.CUSTOMER_ID: shop.customers,
                v.SEGMENT: [shop.segment(row) for row in range(size.customers)],
            }
        ),
        purchased=_purchased(shop),
        popular=order,
        popular_scores=(shop.popularity[order] / shop.popularity.sum()).astype(np.float32),
        segments=by_category,
        vectors=shop.vectors,
        matrices={CUSTOMERS: np.asarray(customers, dtype=np.float32)},
        weights={PRODUCT_SCALE: np.ones(size.products, dtype=np.float32)},
    )


def _purchased(shop: Shop) -> Purchased:
    """Return who had bought what before the bundle's data ended."""
    recent = (shop.kinds == KIND_CODES[s.PURCHASE]) & (shop.times < to_micros(shop.as_of))
    earlier = np.repeat(np.arange(shop.size.customers), shop.earlier.shape[1])
    customer = np.concatenate([np.nonzero(recent)[0], earlier])
    product = np.concatenate([shop.products[recent], shop.earlier.ravel()])
    at = np.concatenate([shop.times[recent], shop.earlier_times.ravel()])
    order = np.lexsort((at, product, customer))
    customer, product, at = customer[order], product[order], at[order]
    is_new = np.concatenate([[True], (np.diff(customer) != 0) | (np.diff(product) != 0)])
    is_new_day = is_new | np.concatenate([[True], np.diff(at // DAY_US) != 0])
    first = np.flatnonzero(is_new)
    counts = np.bincount(customer[first], minlength=shop.size.customers)
    return Purchased(
        indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        products=product[first].astype(np.int32),
        days=np.add.reduceat(is_new_day, first, dtype=np.int32),
        at=at[np.concatenate([first[1:], [len(at)]]) - 1],
        first=at[first],
    )


def _asked(shop: Shop, recommender: Recommender, *, seed: int) -> Asked:
    """Return the vectors of random customers, as the encoder makes them."""
    rows = np.random.default_rng(seed).permutation(shop.size.customers)[:QUERIES].tolist()
    query = Query(at=shop.as_of)
    searches = [recommender.search(query, state(shop, row)) for row in rows]
    return Asked(np.stack([search.vector for search in searches if search is not None]), "customers")


def _applied(shop: Shop, config: StoreConfig) -> FeatureStore:
    return apply(
        config,
        FeatureSet(
            directory=config.directory / "features",
            as_of=shop.as_of,
            schema_hash=schema_hash(),
            tables_hash="",
            rows={},
            columns={v.CUSTOMER_ATTRIBUTES: dict(ATTRIBUTES)},
            defaults={},
            snapshots=1,
            cadence_days=7,
        ),
    )


def _frames(shop: Shop, rows: slice, generator: np.random.Generator) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield (view, one row a customer of ``rows``) for each view of customers."""
    customers = shop.customers[rows]
    names = np.array(shop.category_names, dtype=object)[shop.favourites[rows]].tolist()
    slow: dict[str, Any] = {
        f.name: _values(f.dtype, len(customers), generator) for f in VIEWS[v.CUSTOMER_FEATURES]
    }
    slow[v.CATEGORY_NAMES] = names
    slow[v.CATEGORY_SHARES] = [list(_SHARES)] * len(customers)
    slow[v.SEGMENT] = [shop.segment(row) for row in range(rows.start, rows.stop)]
    yield v.CUSTOMER_FEATURES, pd.DataFrame({s.CUSTOMER_ID: customers, **slow})
    attributes = {name: _values(dtype, len(customers), generator) for name, dtype in ATTRIBUTES.items()}
    yield v.CUSTOMER_ATTRIBUTES, pd.DataFrame({s.CUSTOMER_ID: customers, **attributes})
    ids, kinds = np.array(shop.catalog.ids, dtype=object), np.array(s.KINDS, dtype=object)
    recent = {
        v.RECENT_PRODUCTS: ids[shop.products[rows]].tolist(),
        v.RECENT_KINDS: kinds[shop.kinds[rows]].tolist(),
        v.RECENT_AT: shop.times[rows].tolist(),
        v.RECENT_VALUES: shop.values(rows).tolist(),
    }
    yield v.CUSTOMER_RECENT, pd.DataFrame({s.CUSTOMER_ID: customers, **recent})


def _values(dtype: str, count: int, generator: np.random.Generator) -> Any:
    """Return ``count`` values of a feature's type."""
    match dtype:
        case "float":
            return generator.lognormal(1.0, 1.0, count).round(2)
        case "bool":
            return pd.array((generator.random(count) < 0.5).tolist(), dtype="boolean").astype(object)
        case "strings":
            return [list(_NAMES)] * count
        case "floats":
            return [list(_SHARES)] * count
        case _:
            return np.array([f"value {code}" for code in range(20)], dtype=object)[
                generator.integers(20, size=count)
            ]
