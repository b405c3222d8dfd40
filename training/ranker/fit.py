"""Fit a ranker: keys, then features, then trees that put in order, then what a margin of theirs means as a chance.

Labels lie after the cut of the retrieval fit that made the candidates: a model that has seen a purchase scores it
higher than one that it has to foretell. Trees and calibration learn from different customers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import lightgbm
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from eval.slices import Facts
from serving.bundle import Bundle
from serving.errors import DataError
from serving.manifest import RankerSpec
from serving.ranker import Calibration, Ranker, Trees
from serving.ranking import CUSTOMER, FEATURES, FRESHEST, PRODUCT, PRODUCTS, RankingFeatures
from serving.recommender import Recommender
from serving.sources import Vectors
from training.dataset import TrainingSet
from training.ranker.config import RankerConfig
from training.ranker.keys import Outcome, TooLittleError, draw

Floats = NDArray[np.float64]
Float32 = NDArray[np.float32]
Bools = NDArray[np.bool_]

#: One customer in so many calibrates; the others fit the trees.
_CALIBRATES: Final = 4
#: Features by which a margin only rises, or only falls: a model's own order is not turned round by chance.
_MONOTONE: Final = {"retrieval.z": 1, "retrieval.above": -1, "retrieval.lifted": 1}
#: ``max_delta_step``: all purchases are drawn and few of the rest, so that a leaf of purchases would step by the
#: inverse of their share in the shop, hundreds where a few are right.
CHANCE: Final = {"num_leaves": 8, "learning_rate": 0.2, "min_data_in_leaf": 500, "max_delta_step": 1.0}
CHANCE_TREES: Final = 30


@dataclass(frozen=True)
class Fitted:
    """A ranker, and what its bundle says of it."""

    ranker: Ranker
    spec: RankerSpec


@dataclass(frozen=True)
class Examples:
    """Keys (n,) with what trees read of them.

    ``rows`` (n, features) and ``customer`` (n, customer features) are the features, ``group`` numbers the customers of
    a window in ascending order; a key was ``bought`` or not, is ``near``, among the candidates, or not, and stands for
    ``weight`` pairs.
    """

    rows: Float32
    customer: Float32
    group: NDArray[np.int64]
    bought: Bools
    near: Bools
    weight: Floats

    def only(self, kept: Bools) -> Examples:
        """Return the keys of which ``kept`` (n,) is true."""
        return Examples(*(array[kept] for array in vars(self).values()))

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """Return the keys of several windows, their customers numbered on."""
        first = np.cumsum([0, *(int(part.group[-1]) + 1 for part in parts[:-1])]).tolist()
        shifted = [replace(part, group=part.group + add) for part, add in zip(parts, first, strict=True)]
        return cls(*map(np.concatenate, zip(*(vars(part).values() for part in shifted), strict=True)))


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
        There is too little before the last window, or in it. An earlier window that has too little is left out.
    """
    spec = RankerSpec(
        horizon_days=config.horizon_days,
        candidates=config.candidates,
        features=FEATURES,
        customer=(*FRESHEST, *(CUSTOMER + name for name in _numeric(data.origin.customer_features))),
    )
    facts = Facts.of(data.origin.tables)
    parts: list[Examples] = []
    end = data.as_of
    for number in range(config.windows):
        at = end - timedelta(days=config.horizon_days)
        try:
            earlier = _earlier(data, at, facts)
            parts.append(_examples(config, spec, earlier, retrieve(earlier), end=end, seed=seed + number))
        except TooLittleError:
            if not parts:
                raise
            break
        end = at
    examples = Examples.joined(parts)
    calibrates = examples.group % _CALIBRATES == 0
    order = _order(config, spec, examples.only(~calibrates), seed=seed, threads=threads)
    chance, calibration = _chance(order, examples, calibrates, seed=seed, threads=threads)
    return Fitted(Ranker(order, chance, calibration, product_matrix(data, bundle, spec)), spec)


def _earlier(data: TrainingSet, at: datetime, facts: Facts) -> TrainingSet:
    try:
        return data.earlier(at, also=facts.known(at))
    except DataError as error:
        raise TooLittleError(f"{error}; or leave the ranker out") from error


def _examples(
    config: RankerConfig, spec: RankerSpec, data: TrainingSet, bundle: Bundle, *, end: datetime, seed: int
) -> Examples:
    """Make the examples of one window of labels: from the end of ``data`` until ``end``."""
    recommender = Recommender(bundle, data.reader)
    model = recommender.model
    assert isinstance(model, Vectors)
    outcome = Outcome.of(data.origin.tables, bundle, data.as_of, end)
    keys = draw(recommender, data.origin.known, outcome, config, seed=seed)
    products = product_matrix(data, bundle, spec)
    features = RankingFeatures(bundle, model, spec.features, products, spec.customer)
    counts = [len(one.products) for one in keys]
    found = [features.of(one.subject, one.products) for one in keys]
    return Examples(
        rows=np.concatenate([rows for rows, _ in found]),
        customer=np.repeat(np.array([alone for _, alone in found], dtype=np.float32), counts, axis=0),
        group=np.repeat(np.arange(len(keys)), counts),
        bought=np.concatenate([one.bought for one in keys]),
        near=np.concatenate([one.near for one in keys]),
        weight=np.concatenate([one.weight for one in keys]),
    )


def product_matrix(data: TrainingSet, bundle: Bundle, spec: RankerSpec) -> Float32:
    """Return the product features (products, columns) of ``spec`` as known at the end of ``data``."""
    share = np.zeros(len(bundle.catalog))
    share[bundle.popular] = bundle.popular_scores
    frame = data.product_features.assign(**{PRODUCTS[0].removeprefix(PRODUCT): share})
    names = [name.removeprefix(PRODUCT) for name in spec.features if name.startswith(PRODUCT)]
    return np.ascontiguousarray(frame[names].to_numpy(dtype=np.float32, na_value=np.nan))


def _numeric(frame: pd.DataFrame) -> list[str]:
    """Return the columns that hold numbers or truth values, and at least one."""
    kinds = {name: pd.api.types.infer_dtype(column, skipna=True) for name, column in frame.items()}
    numeric = ("floating", "integer", "mixed-integer-float", "boolean")
    return [str(name) for name, kind in kinds.items() if kind in numeric and frame[name].notna().any()]


def _order(config: RankerConfig, spec: RankerSpec, examples: Examples, *, seed: int, threads: int) -> Trees:
    """Fit trees that put the candidates of a customer in order: LambdaMART (Burges, MSR-TR-2010-82).

    The lists have products that are no candidates too, so that those get margins below. Purchases of such products are
    left out: they are all drawn and the rest are few, which would put what is far above what is near.
    """
    has_some = np.bincount(examples.group, weights=examples.bought & examples.near) > 0
    learnt = examples.only((examples.near | ~examples.bought) & has_some[examples.group])
    if not len(learnt.rows):
        raise TooLittleError(
            "expected purchases of products that the retrieval model finds, found none; leave the ranker out"
        )
    told = lightgbm.Dataset(
        learnt.rows,
        label=learnt.bought.astype(np.float32),
        group=np.unique(learnt.group, return_counts=True)[1],
    )
    settings = {
        "objective": "lambdarank",
        "lambdarank_truncation_level": config.top,
        "num_leaves": config.leaves,
        "max_depth": config.depth,
        "learning_rate": config.learning_rate,
        "min_data_in_leaf": config.min_leaf,
        "lambda_l2": config.l2,
        "monotone_constraints": [_MONOTONE.get(name, 0) for name in spec.features],
        **_settled(seed, threads),
    }
    return Trees(lightgbm.train(settings, told, num_boost_round=config.trees).model_to_string())


def _chance(
    order: Trees, examples: Examples, calibrates: Bools, *, seed: int, threads: int
) -> tuple[Trees, Calibration]:
    """Fit what chance a margin of ``order`` means for a customer, over all pairs; calibrate it on other customers."""
    rows = np.column_stack([order.margins(np.ascontiguousarray(examples.rows)), examples.customer])
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    learns = ~calibrates
    told = lightgbm.Dataset(
        rows[learns], label=examples.bought[learns].astype(np.float32), weight=examples.weight[learns]
    )
    settings = {
        "objective": "binary",
        "monotone_constraints": [1] + [0] * examples.customer.shape[1],
        **CHANCE,
        **_settled(seed, threads),
    }
    trees = Trees(lightgbm.train(settings, told, num_boost_round=CHANCE_TREES).model_to_string())
    margins = trees.margins(np.ascontiguousarray(rows[calibrates]))
    return trees, calibrated(margins, examples.bought[calibrates], examples.weight[calibrates])


def _settled(seed: int, threads: int) -> dict[str, Any]:
    """Return the settings under which the same data and seed give the same trees."""
    return {
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": threads,
        "seed": seed,
        "verbose": -1,
    }


def calibrated(margins: Floats, bought: Bools, weight: Floats) -> Calibration:
    """Return chances that rise with the margin, fitted to what was bought (n,), each pair counted ``weight`` times.

    Isotonic regression (Zadrozny & Elkan, KDD 2002) gives steps. The chance of a step is taken at its middle, and runs
    straight between, so that of two margins the greater one has the greater chance.
    """
    values, place = np.unique(margins, return_inverse=True)
    mass = np.bincount(place, weights=weight)
    share = np.bincount(place, weights=weight * bought) / mass
    steps = IsotonicRegression().fit_transform(np.arange(len(values)), share, sample_weight=mass)
    starts = np.flatnonzero(np.r_[True, np.diff(steps) > 0])
    middle = np.add.reduceat(mass * values, starts) / np.add.reduceat(mass, starts)
    return Calibration(
        margins=np.r_[values[0] - 1.0, middle, values[-1] + 1.0],
        chances=np.r_[0.0, steps[starts], min(1.0, steps[-1] * 1.01)],
    )
