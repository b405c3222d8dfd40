"""Fit a ranker: keys, then features, then trees, then what a margin of theirs means as a chance.

Labels lie after the cut of the retrieval fit that made the candidates: a model that has seen a purchase scores it higher
than one that it will have to foretell. Trees and calibration learn from different customers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import lightgbm
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from eval.slices import Facts
from serving.bundle import Bundle
from serving.manifest import RankerSpec
from serving.ranker import Calibration, Ranker
from serving.ranking import CUSTOMER, FIXED, PRODUCT, RankingFeatures, arranged
from serving.recommender import Recommender
from serving.sources import Vectors
from training.dataset import TrainingSet
from training.ranker.config import RankerConfig
from training.ranker.keys import Outcome, draw, window

Floats = NDArray[np.float64]
Float32 = NDArray[np.float32]
Progress = Callable[[str, int, int], None]

#: One customer in so many calibrates; the others fit the trees.
_CALIBRATES: Final = 4
POPULAR: Final = "popular_share"


@dataclass(frozen=True)
class Fitted:
    """A ranker, and what its bundle says of it."""

    ranker: Ranker
    spec: RankerSpec


@dataclass(frozen=True)
class Examples:
    """Rows (n, features) of keys, whether each was bought, its weight, and whether it calibrates."""

    rows: Float32
    bought: NDArray[np.bool_]
    weight: Floats
    calibrates: NDArray[np.bool_]
    near: NDArray[np.bool_]


def fit_ranker(
    config: RankerConfig,
    data: TrainingSet,
    bundle: Bundle,
    *,
    retrieve: Callable[[TrainingSet], Bundle],
    seed: int,
    threads: int,
) -> Fitted:
    """Fit the ranker of a recipe.

    Parameters
    ----------
    config
        Its settings.
    data
        What is known where the bundle's data end.
    bundle
        Of the recipe without its ranker, fitted on ``data``: whose product features the ranker will read.
    retrieve
        Fits the recipe without its ranker on earlier data.
    seed, threads
        Of the draws and trees; threads to use, 0 for all cores.

    Raises
    ------
    TooLittleError
        There is too little before the last window, or in it.
    """
    parts: list[Examples] = []
    names: tuple[str, ...] = ()
    end = data.as_of
    facts = Facts.of(data.origin.tables)
    for number in range(config.windows):
        at = window(end, config.horizon_days)
        earlier = data.earlier(at, also=facts.known(at))
        names = names or arranged([*FIXED, *_customer_columns(earlier), *_product_columns(earlier)])
        parts.append(_examples(config, earlier, retrieve(earlier), names, end=end, seed=seed + number))
        end = at
    examples = Examples(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in Examples.__dataclass_fields__)
    )
    chosen = _gainful(config, examples, names, seed=seed, threads=threads)
    examples = replace(
        examples, rows=np.ascontiguousarray(examples.rows[:, [names.index(n) for n in chosen]])
    )
    trees = _trees(config, examples, seed=seed, threads=threads)
    calibration = calibrate(trees, examples)
    columns = [name.removeprefix(PRODUCT) for name in chosen if name.startswith(PRODUCT)]
    return Fitted(
        Ranker(trees.model_to_string(), calibration, product_matrix(data, bundle, columns)),
        RankerSpec(horizon_days=config.horizon_days, candidates=config.candidates, features=chosen),
    )


def _examples(
    config: RankerConfig,
    data: TrainingSet,
    bundle: Bundle,
    names: Sequence[str],
    *,
    end: datetime,
    seed: int,
) -> Examples:
    """Make the rows of one window of labels: from the end of ``data`` until ``end``."""
    recommender = Recommender(bundle, data.reader)
    model = recommender.model
    assert isinstance(model, Vectors)
    source = data.origin
    outcome = Outcome.of(source.tables, bundle, data.as_of, end)
    keys = draw(recommender, source.known, outcome, config, seed=seed)
    columns = [name.removeprefix(PRODUCT) for name in names if name.startswith(PRODUCT)]
    features = RankingFeatures(bundle, model, names, product_matrix(data, bundle, columns))
    rows = [features.rows(one.subject, one.products) for one in keys]
    return Examples(
        rows=np.concatenate(rows),
        bought=np.concatenate([one.bought for one in keys]),
        weight=np.concatenate([one.weight for one in keys]),
        near=np.concatenate([one.near for one in keys]),
        calibrates=np.repeat(np.arange(len(keys)) % _CALIBRATES == 0, [len(one.products) for one in keys]),
    )


def product_matrix(data: TrainingSet, bundle: Bundle, columns: Sequence[str]) -> Float32:
    """Return the product features (products, columns) as known at the end of ``data``."""
    frame = data.product_features.copy()
    share = np.zeros(len(bundle.catalog))
    share[bundle.popular] = bundle.popular_scores
    frame[POPULAR] = share
    found = [_floats(frame[name]) for name in columns]
    return np.column_stack(found) if found else np.empty((len(frame), 0), dtype=np.float32)


def _floats(column: pd.Series[Any]) -> Float32:
    """Return numbers or truth values as float32, NaN where there is none."""
    if column.dtype == object:
        column = column.astype("boolean") if column.map(_is_flag).all() else pd.to_numeric(column)
    return np.asarray(column.to_numpy(dtype=np.float32, na_value=np.nan))


def _is_flag(value: Any) -> bool:
    return value is None or value is pd.NA or isinstance(value, bool | np.bool_) or value != value


def _product_columns(data: TrainingSet) -> list[str]:
    frame = data.product_features
    return [f"{PRODUCT}{POPULAR}", *(f"{PRODUCT}{name}" for name in _numeric(frame))]


def _customer_columns(data: TrainingSet) -> list[str]:
    return [f"{CUSTOMER}{name}" for name in _numeric(data.origin.customer_features)]


def _numeric(frame: pd.DataFrame) -> list[str]:
    """Return the columns that hold numbers or truth values, and at least one."""
    kinds = {name: pd.api.types.infer_dtype(column, skipna=True) for name, column in frame.items()}
    numeric = ("floating", "integer", "mixed-integer-float", "boolean")
    return [str(name) for name, kind in kinds.items() if kind in numeric and frame[name].notna().any()]


def _gainful(
    config: RankerConfig, examples: Examples, names: tuple[str, ...], *, seed: int, threads: int
) -> tuple[str, ...]:
    """Return the features that trees of all gain most by, at most ``config.features``, in their order."""
    gains = _trees(config, examples, seed=seed, threads=threads).feature_importance("gain")
    order = np.argsort(-gains, kind="stable")[: config.features]
    kept = {names[place] for place in order.tolist() if gains[place] > 0} or {names[0]}
    return tuple(name for name in names if name in kept)


def _trees(config: RankerConfig, examples: Examples, *, seed: int, threads: int) -> Any:
    import os
    learns = ~examples.calibrates
    if os.environ.get("NEAR"):
        learns &= examples.near
    told = lightgbm.Dataset(
        examples.rows[learns], label=examples.bought[learns].astype(np.float32), weight=_w(examples.weight[learns]), free_raw_data=True
    )
    settings = {
        "objective": "binary",
        "num_leaves": config.leaves,
        "learning_rate": config.learning_rate,
        "min_data_in_leaf": config.min_leaf,
        "lambda_l2": config.l2,
        "feature_pre_filter": False,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": threads,
        "seed": seed,
        "verbose": -1,
    }
    return lightgbm.train(settings, told, num_boost_round=config.trees)


def _w(w):
    import os
    p = float(os.environ.get("WP", "1"))
    w = w ** p
    return w / w.mean()


def calibrate(trees: Any, examples: Examples) -> Calibration:
    """Fit chances that rise with the margin to what the calibrating customers bought, all pairs counted.

    Isotonic regression (Zadrozny & Elkan, KDD 2002) gives steps. The chance of a step is taken at its middle, and runs
    straight between, so that of two products the one with the greater margin has the greater chance.
    """
    chosen = examples.calibrates
    margins = trees.predict(examples.rows[chosen], raw_score=True)
    bought, weight = examples.bought[chosen].astype(np.float64), examples.weight[chosen]
    order = np.argsort(margins, kind="stable")
    margins, bought, weight = margins[order], bought[order], weight[order]
    steps = IsotonicRegression().fit_transform(np.arange(len(margins)), bought, sample_weight=weight)
    starts = np.flatnonzero(np.r_[True, np.diff(steps) > 0])
    sums = np.add.reduceat(weight, starts)
    middle = np.add.reduceat(weight * margins, starts) / sums
    return Calibration(
        margins=np.r_[margins[0] - 1.0, middle, max(margins[-1], middle[-1]) + 1.0],
        chances=np.r_[0.0, steps[starts], min(1.0, steps[-1] * 1.01)],
    )
