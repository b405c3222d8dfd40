"""The models by name: the one place that knows all of them.

Each library is imported when its model is fitted, so that a run without LightFM or torch does not pay for them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np

from serving.errors import ConfigError, NextbestError
from training.dataset import TrainingSet
from training.models.base import Embeddings

if TYPE_CHECKING:
    from training.recipe import Recipe

ModelName = Literal[
    "popularity", "repeats", "expert", "als", "bpr", "knn", "spectral", "lightfm", "two_tower", "blend"
]
BaselineName = Literal["popularity", "repeats", "expert"]

#: Models whose recipes are baselines: every report shows them, every claim is held against them.
BASELINES: Final[tuple[str, ...]] = get_args(BaselineName)

#: Models that learn from features of customers and products besides what they did.
HYBRIDS: Final = ("lightfm", "two_tower")


def fit(recipe: Recipe, data: TrainingSet, *, seed: int, threads: int = 0) -> Embeddings | None:
    """Fit the model of ``recipe``; None for a baseline, which learns no vectors.

    Parameters
    ----------
    recipe
        The model's name and the settings of every model.
    data
        What was known at its ``as_of``.
    seed
        Seed of whatever is drawn; with one thread the same seed gives the same vectors.
    threads
        Threads to use; 0 takes every core.
    """
    if recipe.model == "blend":
        from training.models.blend import blend

        weights = recipe.blend.weights
        parts = {name: _fit(name, recipe, data, seed=seed, threads=threads) for name in weights}
        return blend(parts, weights)
    if recipe.model in BASELINES:
        return None
    return _fit(recipe.model, recipe, data, seed=seed, threads=threads)


def _fit(model: str, recipe: Recipe, data: TrainingSet, *, seed: int, threads: int) -> Embeddings:
    """Fit one model; ConfigError when it did not come to finite vectors."""
    try:
        fitted = _fitted(model, recipe, data, seed=seed, threads=threads)
        arrays = [fitted.products, *fitted.matrices.values(), *fitted.weights.values()]
        is_finite = all(array is None or np.isfinite(array).all() for array in arrays)
    except NextbestError:
        raise
    except Exception as error:
        # the libraries have no exception in common for it; anything else is not ours to word
        if not re.search("NaN|finite", str(error)):
            raise
        is_finite = False
    if not is_finite:
        raise ConfigError(
            f"expected {recipe.name!r} to come to finite vectors, found that {model} diverged; lower its "
            "learning_rate or raise its regularization"
        )
    return fitted


def _fitted(model: str, recipe: Recipe, data: TrainingSet, *, seed: int, threads: int) -> Embeddings:
    match model:
        case "als":
            from training.models import als

            return als.fit(data, recipe.als, seed=seed, threads=threads)
        case "bpr":
            from training.models import bpr

            return bpr.fit(data, recipe.bpr, seed=seed, threads=threads)
        case "knn":
            from training.models import knn

            return knn.fit(data, recipe.knn, seed=seed, threads=threads)
        case "spectral":
            from training.models import spectral

            return spectral.fit(data, recipe.spectral, seed=seed, threads=threads)
        case "lightfm":
            from training.models import lightfm

            return lightfm.fit(data, recipe.lightfm, seed=seed, threads=threads)
        case "two_tower":
            from training.models import two_tower

            return two_tower.fit(data, recipe.two_tower, seed=seed, threads=threads)
        case _:
            raise ValueError(f"expected a model with vectors, found {model!r}")
