"""How much of the truth a model recovers: simulated worlds, where the right answer is known.

For each seed a world is simulated, models are fitted on all but the last four weeks, and customers who buy
something new in those weeks are judged twice: by what they bought, beside an oracle that ranks by the true
affinities (the ceiling: even it cannot foresee chance), and by the share of their true top k that a model's
top k holds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eval.evaluate import ALL, EXISTING, SLICE, Evaluation, Questions, Window, judge, told
from eval.metrics import NDCG, RECALL
from eval.significance import bootstrap_mean
from eval.world import Truth, WorldConfig, simulate
from feature_repo import schema as s
from feature_repo import store as feature_store
from feature_repo.tables import Tables
from serving.catalog import Catalog
from serving.settings import Settings
from training.backtest import backtest
from training.dataset import TrainingSet
from training.recipe import TrainConfig
from training.train import build_features, last_split

Progress = Callable[[str, int, int], None]
ORACLE: Final = "oracle"
_SLICE: Final = 500


def recovery(
    seeds: Sequence[int],
    *,
    customers: int,
    products: int,
    config: TrainConfig,
    now: datetime,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the benchmark and return one entry a seed; see the module."""
    runs = []
    for number, seed in enumerate(seeds, start=1):
        with tempfile.TemporaryDirectory(prefix="nextbest-recovery-") as directory:
            world = WorldConfig(customers=customers, products=products, seed=seed)
            runs.append(_run(world, Path(directory), config, now))
        if progress is not None:
            progress("worlds", number, len(seeds))
    return {"customers": customers, "products": products, "k": config.k, "seeds": runs}


def _run(world_config: WorldConfig, directory: Path, config: TrainConfig, now: datetime) -> dict[str, Any]:
    world = simulate(world_config)
    world.write(directory / "tables", truth_dir=directory / "truth")
    settings = Settings.load(home=directory / "home")
    with Tables.open(directory / "tables") as tables:
        build_features(settings, tables)
        store = feature_store.open_store(settings.store)
        split = last_split(tables, config.horizon_days)
        result = backtest(
            config.recipes,
            tables,
            store,
            split,
            k=config.k,
            seed=config.seed,
            threads=config.threads,
            now=now,
        )
        catalog = TrainingSet.load(tables, store, result.at).catalog
        window = Window.cut(tables.frame(s.INTERACTIONS), at=result.at, end=result.end)
    asked = Questions.of(window, catalog, "exclude")
    true_top = _true_top(world.truth, asked, config.k)
    evaluations = [*result.evaluations["exclude"], judge(asked, true_top, name=ORACLE)]
    return {
        "seed": world_config.seed,
        "judged_customers": len(asked.customers),
        "models": [_told(evaluation, true_top) for evaluation in evaluations],
    }


def _true_top(truth: Truth, asked: Questions, k: int) -> NDArray[np.int32]:
    """Return the true best k of each customer among products on sale and not bought before."""
    ranked = np.full((len(asked.customers), k), -1, dtype=np.int32)
    for start in range(0, len(asked.customers), _SLICE):
        chunk = asked.customers[start : start + _SLICE]
        best = truth.top(chunk, n=k, at=asked.window.at, exclude=asked.window.bought_before)
        index = _index(asked.catalog, best.ravel())
        ranked[start : start + len(chunk)] = index.reshape(best.shape)
    # a product unknown at the cut can be truly best; no ranking of the catalog holds it: padded at the end
    order = np.argsort(ranked < 0, axis=1, kind="stable")
    packed: NDArray[np.int32] = np.take_along_axis(ranked, order, axis=1)
    return packed


def _index(catalog: Catalog, ids: NDArray[np.object_]) -> NDArray[np.int32]:
    return pd.Index(catalog.ids).get_indexer(pd.Index(ids)).astype(np.int32)


def _told(evaluation: Evaluation, true_top: NDArray[np.int32]) -> dict[str, Any]:
    existing = (evaluation.per_customer[SLICE] == EXISTING).to_numpy()
    pairs = zip(evaluation.ranked, true_top, strict=True)
    found = np.array([len(np.intersect1d(mine[mine >= 0], best[best >= 0])) for mine, best in pairs])
    share = found / np.maximum((true_top >= 0).sum(axis=1), 1)
    row: dict[str, Any] = {"model": evaluation.name}
    for name, mask in ((ALL, np.ones(len(share), dtype=np.bool_)), (EXISTING, existing)):
        values = evaluation.per_customer[mask]
        row[name] = {
            "customers": int(mask.sum()),
            "true_top_share": told(bootstrap_mean(share[mask])),
            "recall": told(bootstrap_mean(values[RECALL])),
            "ndcg": told(bootstrap_mean(values[NDCG])),
        }
    return row
