"""A ranker for the drawn shop: as large as the one that ships, and its trees are about what trees are about elsewhere.

What customers buy is drawn: the likelier the higher the model's score, the more often it was bought before and the more
others buy it. So trees split on many features at many places, and asking them takes as long as in a real shop.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import lightgbm
import numpy as np
from numpy.typing import NDArray

from eval.benchmarks.shop import Shop
from feature_repo import names as v
from feature_repo.features import served_defaults
from serving.bundle import Bundle
from serving.features import CustomerState, FrameReader
from serving.manifest import RankerSpec
from serving.ranked import Pool
from serving.ranker import Calibration, Ranker, Trees
from serving.ranking import CUSTOMER, FEATURES, FRESHEST, PRODUCTS, RankingFeatures
from serving.recommender import Query, Recommender
from serving.sources import Vectors

Floats = NDArray[np.float64]

#: Of the ranker that ships, and of its trees of chances (``training.ranker``).
TREES: Final = 30
LEAVES: Final = 15
DEPTH: Final = 5
CHANCE_TREES: Final = 30
CHANCE_LEAVES: Final = 8
CANDIDATES: Final = 200
_CUSTOMERS: Final = 400


def with_ranker(bundle: Bundle, shop: Shop, states: list[CustomerState], *, seed: int) -> Bundle:
    """Return ``bundle``, which has an index, with a ranker learnt on drawn purchases of ``states``."""
    generator = np.random.default_rng(seed)
    slow = [name for name in v.SERVED[v.CUSTOMER_SERVICE] if name not in v.SERVED[v.SERVICE]]
    spec = RankerSpec(
        horizon_days=28,
        candidates=CANDIDATES,
        features=FEATURES,
        customer=(*FRESHEST, *(CUSTOMER + name for name in slow)),
    )
    recommender = Recommender(bundle, FrameReader({}))
    model = recommender.model
    assert isinstance(model, Vectors)
    products = generator.lognormal(1.0, 1.0, (len(bundle.catalog), len(PRODUCTS))).astype(np.float32)
    products[bundle.popular, 0] = bundle.popular_scores
    features = RankingFeatures(bundle, model, FEATURES, products, spec.customer)
    pool, allowed = Pool(bundle, model, CANDIDATES), bundle.catalog.on_sale(shop.as_of)
    query = Query(at=shop.as_of, purchased="allow")
    subjects = [recommender.subject(query, state) for state in states[:_CUSTOMERS]]
    found = [features.of(subject, pool.of(subject, allowed)[0]) for subject in subjects]
    rows = [one for one, _ in found]
    stacked = np.concatenate(rows)
    bought = generator.random(len(stacked)) < 1.0 / (1.0 + np.exp(3.0 - _pull(stacked)))
    group = [len(one) for one in rows]
    order = _trees("lambdarank", TREES, LEAVES, stacked, bought, group=group, depth=DEPTH)
    alone = np.repeat([one for _, one in found], group, axis=0)
    alike = np.column_stack([order.margins(stacked), alone]).astype(np.float32)
    chance = _trees("binary", CHANCE_TREES, CHANCE_LEAVES, alike, bought)
    steps = np.linspace(-8.0, 8.0, 50)
    calibration = Calibration(steps, 1.0 / (1.0 + np.exp(-steps)))
    policy = bundle.manifest.policy.model_copy(update={"ranker": spec})
    manifest = bundle.manifest.model_copy(
        update={
            "policy": policy,
            "feature_service": v.CUSTOMER_SERVICE,
            "feature_defaults": served_defaults(v.CUSTOMER_SERVICE),
        }
    )
    return replace(bundle, manifest=manifest, ranker=Ranker(order, chance, calibration, products))


def _pull(rows: NDArray[np.float32]) -> Floats:
    """Return how much a customer is drawn to each product, in logits."""
    names = list(FEATURES)
    lifted, often = rows[:, names.index("retrieval.lifted")], rows[:, names.index(PRODUCTS[0])]
    since = rows[:, names.index("pair.days_since_seen")]
    pull = 0.5 * np.nan_to_num(lifted) + np.log1p(1e4 * often) - 0.1 * np.log1p(since)
    return np.asarray(pull + 0.2 * rows[:, -1], dtype=np.float64)


def _trees(
    objective: str, count: int, leaves: int, rows: Any, label: Any, *, group: Any = None, depth: int = -1
) -> Trees:
    told = lightgbm.Dataset(np.ascontiguousarray(rows), label=label.astype(np.float32), group=group)
    settings = {
        "objective": objective,
        "num_leaves": leaves,
        "max_depth": depth,
        "verbose": -1,
        "num_threads": 1,
        "seed": 0,
    }
    return Trees(lightgbm.train(settings, told, num_boost_round=count).model_to_string())
