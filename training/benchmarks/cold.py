"""How well models serve whom and what they have never seen: customers and products held out of the past.

A share of the products loses every interaction before the window that judges, a share of the window's customers
their whole history; what describes them stays. Models are fitted on what is left. Cold products are ranked among
themselves, for customers with a history; cold customers get a ranking of everything. So many of both can be judged,
where a shop's own launches and newcomers of four weeks are a handful.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from eval.evaluate import Evaluation, Window, evaluate, told
from eval.metrics import NDCG, RECALL
from feature_repo import names as v
from feature_repo import schema as s
from feature_repo import store as feature_store
from feature_repo.recent import History
from feature_repo.tables import Tables
from serving.errors import DataError
from serving.features import CustomerState, FrameReader
from serving.recommender import Recommender
from serving.settings import Settings
from training.assemble import assemble
from training.dataset import IdMap, TrainingSet
from training.models.registry import BASELINES
from training.recipe import TrainConfig
from training.train import current_features, last_split

Progress = Callable[[str, int, int], None]


def cold(
    settings: Settings,
    directory: Path,
    config: TrainConfig,
    *,
    share: float,
    seed: int,
    now: datetime,
    ago_days: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the benchmark over the recipes of ``config`` on the tables in ``directory``; see the module.

    Parameters
    ----------
    share
        Of the products that are held out, and of the window's customers.
    seed
        Of what is held out, and of the fits.
    ago_days
        How long before the last window the one that judges ends: to choose settings on an earlier one.

    Returns
    -------
    dict
        ``cold_products`` and ``cold_customers``: how many are judged, each recipe's recall and NDCG with intervals,
        and its paired difference from the stronger baseline.
    """
    with Tables.open(directory) as tables:
        current_features(settings, tables, progress)
        store = feature_store.open_store(settings.store)
        split = last_split(tables, config.horizon_days)
        earlier = timedelta(days=ago_days)
        at, end = split.validation_end - earlier, split.test_end - earlier
        interactions = tables.frame(s.INTERACTIONS, [s.CUSTOMER_ID, s.PRODUCT_ID, s.AT, s.KIND])
        window = Window.cut(interactions, at=at, end=end)
        buyers = sorted(window.purchases[s.CUSTOMER_ID].unique())
        data = TrainingSet.load(tables, store, at, also=buyers)
    generator = np.random.default_rng(seed)
    customers = _drawn(buyers, share, generator)
    products = _drawn(data.catalog.ids, share, generator)
    left = without(data, customers=customers, products=products)
    windows = {
        "cold_products": _without_customers(window, customers, products),
        "cold_customers": _only(window, customers),
    }
    judged: dict[str, list[Evaluation]] = {kind: [] for kind in windows}
    for number, recipe in enumerate(config.recipes, start=1):
        bundle = assemble(recipe, left, seed=config.seed, threads=config.threads, tables_hash="", now=now)
        recommender = Recommender(bundle, left.reader)
        for kind, asked in windows.items():
            which: Literal["all", "cold"] = "cold" if kind == "cold_products" else "all"
            judged[kind].append(
                evaluate(recommender, asked, name=recipe.name, k=config.k, policy="exclude", products=which)
            )
        if progress is not None:
            progress(f"cold {recipe.name}", number, len(config.recipes))
    baselines = [recipe.name for recipe in config.recipes if recipe.model in BASELINES]
    return {
        "train_before": at.isoformat(),
        "judged_until": end.isoformat(),
        "k": config.k,
        "held_out": {"customers": len(customers), "products": len(products)},
        **{kind: _told(listed, baselines) for kind, listed in judged.items()},
    }


def without(data: TrainingSet, *, customers: Collection[str], products: Collection[str]) -> TrainingSet:
    """Return ``data`` as if these customers had done nothing and nothing had been done with these products.

    What describes them stays: the catalog, and the attributes of customers.
    """
    gone = data.customers.encode(pd.Series(sorted(customers), dtype=object))
    lost, _ = data.catalog.indices(sorted(products))
    kept = ~np.isin(data.customer_idx, gone[gone >= 0]) & ~np.isin(data.product_idx, lost)
    if not kept.any():
        raise DataError("expected interactions to be left, found none; hold out a smaller share")
    ids = np.array(data.customers.ids, dtype=object)
    known = kept & (data.customer_idx >= 0)
    remaining = IdMap.of(ids[np.unique(data.customer_idx[known])].tolist())
    place = np.append(remaining.encode(pd.Series(ids)), np.int32(-1))
    lead = v.row_key(v.CUSTOMER_ATTRIBUTES, "")

    def changed(customer: str, state: CustomerState) -> CustomerState:
        if customer in customers:
            attributes = {name: value for name, value in state.row.items() if name.startswith(lead)}
            return CustomerState(attributes, History.empty())
        history = state.history
        seen = np.array([product not in products for product in history.products], dtype=np.bool_)
        return CustomerState(state.row, history.where(seen))

    if not isinstance(data.reader, FrameReader):
        raise DataError("expected a training set from tables, found one without a frame of features")
    return replace(
        data,
        customers=remaining,
        customer_idx=place[data.customer_idx[kept]].astype(np.int32),
        product_idx=data.product_idx[kept],
        kinds=data.kinds[kept],
        at=data.at[kept],
        reader=data.reader.mapped(changed),
    )


def _drawn(ids: Collection[str], share: float, generator: np.random.Generator) -> frozenset[str]:
    size = max(round(share * len(ids)), 1)
    return frozenset(generator.permutation(np.array(sorted(ids), dtype=object))[:size].tolist())


def _without_customers(window: Window, customers: Collection[str], products: Collection[str]) -> Window:
    """Return the window of everybody else, where ``products`` were never sold before."""
    before = window.bought_before
    return replace(
        window,
        purchases=window.purchases[~window.purchases[s.CUSTOMER_ID].isin(list(customers))],
        bought_before=before[~before[s.PRODUCT_ID].isin(list(products))],
        sold_before=window.sold_before - frozenset(products),
    )


def _only(window: Window, customers: Collection[str]) -> Window:
    """Return the window of ``customers``, who never bought before."""
    before = window.bought_before
    return replace(
        window,
        purchases=window.purchases[window.purchases[s.CUSTOMER_ID].isin(list(customers))],
        bought_before=before[~before[s.CUSTOMER_ID].isin(list(customers))],
    )


def _told(listed: list[Evaluation], baselines: list[str]) -> dict[str, Any]:
    by_name = {evaluation.name: evaluation for evaluation in listed}
    results = []
    for evaluation in listed:
        row: dict[str, Any] = {"model": evaluation.name}
        for metric in (RECALL, NDCG):
            interval = evaluation.interval(metric)
            row[metric] = None if interval is None else told(interval)
            rivals = [name for name in baselines if name != evaluation.name]
            if evaluation.name in baselines or not rivals:
                continue
            rival = max(rivals, key=lambda name: float(by_name[name].rows()[metric].mean()))
            difference = evaluation.versus(by_name[rival], metric)
            if difference is not None:
                row[f"{metric}_versus"] = {"model": rival, **told(difference)}
        row["sources"] = {name: round(part, 4) for name, part in evaluation.sources.items()}
        results.append(row)
    return {"customers": len(listed[0].per_customer), "results": results}
