"""From a recipe and a training set to a bundle in memory: the one place where a model becomes servable."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from importlib.metadata import version
from typing import Any, Final

import numpy as np
import pandas as pd

from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.features import schema_hash, served_defaults
from feature_repo.recent import DAY_US
from serving.bundle import Bundle, Purchased
from serving.encoders.spec import RepeatsSpec
from serving.index import ProductIndex
from serving.index_choice import FEWEST, QUERIES, Asked, choose
from serving.manifest import DataInfo, Manifest, Policy
from serving.recommender import Query, Recommender
from training.dataset import TrainingSet
from training.models import popularity, registry
from training.models.base import Embeddings
from training.ranker.keys import TooLittleError
from training.recipe import Recipe

log = logging.getLogger("nextbest")

_PACKAGES: Final = ("bentoml", "faiss-cpu", "feast", "implicit", "lightgbm", "numpy", "pandas", "scipy")


def assemble(
    recipe: Recipe,
    data: TrainingSet,
    *,
    seed: int,
    threads: int,
    tables_hash: str,
    now: datetime,
    metrics: Mapping[str, Any] | None = None,
) -> Bundle:
    """Fit ``recipe`` on ``data`` and return the bundle, not yet saved and without golden queries.

    Parameters
    ----------
    recipe
        What to fit.
    data
        What was known at its ``as_of``.
    seed, threads
        See the models.
    tables_hash
        Content hash of the tables, for the manifest.
    now
        When the bundle is made.
    metrics
        What is known of the recipe's quality, labelled with the fit it belongs to.
    """
    bundle = _retrieval(
        recipe, data, seed=seed, threads=threads, tables_hash=tables_hash, now=now, metrics=metrics
    )
    return bundle if recipe.ranker is None else _ranked(bundle, recipe, data, seed=seed, threads=threads)


def _ranked(bundle: Bundle, recipe: Recipe, data: TrainingSet, *, seed: int, threads: int) -> Bundle:
    """Return ``bundle`` with the recipe's ranker; without one, and why, where there is too little to learn from."""
    from training.ranker.fit import fit_ranker  # LightGBM and scikit-learn, for those who rank

    assert recipe.ranker is not None
    manifest = bundle.manifest

    def retrieve(earlier: TrainingSet) -> Bundle:
        return _retrieval(
            recipe, earlier, seed=seed, threads=threads, tables_hash="", now=manifest.created_at
        )

    try:
        fitted = fit_ranker(recipe.ranker, data, bundle, retrieve=retrieve, seed=seed, threads=threads)
    except TooLittleError as error:
        log.warning("%s is fitted without its ranker: %s", recipe.name, error)
        told = manifest.policy.model_copy(update={"unranked": str(error)})
        return replace(bundle, manifest=manifest.model_copy(update={"policy": told}))
    policy = manifest.policy.model_copy(update={"ranker": fitted.spec})
    manifest = manifest.model_copy(update={"policy": policy})
    defaults = served_defaults(manifest.feature_service)
    read = {*served_defaults(), *manifest.read}
    kept = {name: value for name, value in defaults.items() if name in read}
    return replace(
        bundle, manifest=manifest.model_copy(update={"feature_defaults": kept}), ranker=fitted.ranker
    )


def _retrieval(
    recipe: Recipe,
    data: TrainingSet,
    *,
    seed: int,
    threads: int,
    tables_hash: str,
    now: datetime,
    metrics: Mapping[str, Any] | None = None,
) -> Bundle:
    """Return the bundle of a recipe without its ranker."""
    order, share = popularity.fit(data, days=recipe.popularity_days)
    states = data.reader.read(data.customers.ids, data.as_of)
    segments = {customer: state.segment for customer, state in zip(data.customers.ids, states, strict=True)}
    fitted = registry.fit(recipe, data, seed=seed, threads=threads)
    vectors = None if fitted is None else fitted.products
    manifest = Manifest(
        created_at=now,
        code_version=version("nextbest"),
        packages={"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        data=DataInfo(
            as_of=data.as_of,
            rows={
                "interactions": len(data),
                "customers": len(data.customers),
                "products": len(data.catalog),
            },
            tables_hash=tables_hash,
        ),
        feature_service=recipe.service,
        feature_schema_hash=schema_hash(),
        feature_defaults=served_defaults(recipe.service),
        recipe=recipe.model_dump(mode="json"),
        seed=seed,
        policy=policy(recipe, fitted),
        metrics=dict(metrics or {}),
        index={},
    )
    bundle = Bundle(
        manifest=manifest,
        catalog=data.catalog,
        customers=pd.DataFrame(
            {s.CUSTOMER_ID: data.customers.ids, v.SEGMENT: [segments[c] for c in data.customers.ids]}
        ),
        purchased=purchased(data),
        popular=order,
        popular_scores=share,
        segments=popularity.fit_expert(data, days=recipe.popularity_days)
        if recipe.model == "expert"
        else popularity.fit_segments(data, segments, days=recipe.popularity_days),
        vectors=vectors,
        matrices=fitted.matrices if fitted else {},
        weights=fitted.weights if fitted else {},
    )
    return bundle if vectors is None else indexed(bundle, data, seed=seed)


def indexed(bundle: Bundle, data: TrainingSet, *, seed: int) -> Bundle:
    """Return ``bundle``, which has vectors, with the index that they and the queries of customers call for."""
    assert bundle.vectors is not None
    chosen = choose(bundle.vectors, partial(asked, bundle, data, seed=seed))
    manifest = bundle.manifest.model_copy(update={"index": chosen.to_json()})
    return replace(bundle, manifest=manifest, index=chosen.index)


def asked(bundle: Bundle, data: TrainingSet, *, seed: int) -> Asked:
    """Return the queries of customers drawn at random, as serving makes them; products where too few have one."""
    assert bundle.vectors is not None
    generator = np.random.default_rng(seed)
    recommender = Recommender(replace(bundle, index=ProductIndex.build(bundle.vectors)), data.reader)
    drawn = generator.permutation(len(data.customers))[:QUERIES].tolist()
    queries = [Query(at=data.as_of, customer_id=data.customers.ids[row]) for row in drawn]
    searches = [
        recommender.search(query, state)
        for query, state in zip(queries, recommender.states(queries), strict=True)
    ]
    vectors = [search.vector for search in searches if search is not None]
    if len(vectors) >= FEWEST:
        return Asked(np.stack(vectors), "customers")
    rows = generator.permutation(len(bundle.vectors))[:QUERIES]
    return Asked(bundle.vectors[rows], "products")


def policy(recipe: Recipe, fitted: Embeddings | None) -> Policy:
    """Return how a bundle of ``recipe`` answers."""
    if fitted is not None:
        return Policy(model=recipe.name, encoder=fitted.encoder, repeat_weight=recipe.repeat_weight)
    if recipe.model == "repeats":
        return Policy(model=recipe.name, encoder=RepeatsSpec(), chain=("personal", "popular"))
    if recipe.model == "expert":
        return Policy(model=recipe.name, encoder=None, chain=("segment", "popular"))
    return Policy(model=recipe.name, encoder=None, chain=("popular",))


def purchased(data: TrainingSet) -> Purchased:
    """Return who had bought what, on how many days, when last and when first."""
    rows = data.is_purchase & (data.customer_idx >= 0)
    bought = pd.DataFrame(
        {"customer": data.customer_idx[rows], "product": data.product_idx[rows], "at": data.at[rows]}
    )
    bought["day"] = bought["at"] // DAY_US
    pairs = bought.groupby(["customer", "product"], sort=True).agg(
        at=("at", "max"), days=("day", "nunique"), first=("at", "min")
    )
    pairs = pairs.reset_index()
    counts = np.bincount(pairs["customer"], minlength=len(data.customers))
    return Purchased(
        indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        products=pairs["product"].to_numpy(dtype=np.int32),
        days=pairs["days"].to_numpy(dtype=np.int32),
        at=pairs["at"].to_numpy(dtype=np.int64),
        first=pairs["first"].to_numpy(dtype=np.int64),
    )
