"""Where settings are looked for: the same axes for every data set.

The accuracy benchmark starts from one point a model and walks along its axes in order (``training.tune``). A shop's own
search (``training.search``) starts from a recipe and looks between the ends of the same axes, and of ``DATED``.
"""

from __future__ import annotations

from typing import Any, Final

from training.models.configs import (
    ALSConfig,
    BPRConfig,
    Config,
    KNNConfig,
    LightFMConfig,
    SpectralConfig,
    TwoTowerConfig,
)
from training.recipe import Recipe
from training.tune import Axis

_EXPONENTS: Final = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)

#: Model → the point where the walk begins, and the axes.
SPACES: Final[dict[str, tuple[Config, tuple[Axis, ...]]]] = {
    "als": (
        ALSConfig.model_validate(
            {
                "factors": 256,
                "regularization": 10.0,
                "epochs": 10,
                "confidence": {"alpha": 10.0, "degree_exponent": 0.4},
            }
        ),
        (
            Axis("factors", (64, 128, 256, 512)),
            Axis("regularization", (1.0, 3.0, 10.0, 20.0, 30.0, 45.0, 70.0, 100.0)),
            Axis("confidence.degree_exponent", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)),
            Axis("confidence.alpha", (2.5, 5.0, 10.0, 20.0, 40.0, 80.0)),
        ),
    ),
    "bpr": (
        BPRConfig(factors=128, epochs=100, learning_rate=0.05, regularization=0.01),
        (
            Axis("regularization", (0.001, 0.003, 0.01, 0.03)),
            Axis("learning_rate", (0.02, 0.05, 0.1, 0.2)),
            Axis("logq_correction", (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)),
            Axis("epochs", (50, 100, 200, 400)),
            Axis("factors", (64, 128, 256)),
        ),
    ),
    "knn": (
        KNNConfig(similarity="linear"),
        (
            Axis("product_exponent", _EXPONENTS),
            Axis("customer_exponent", _EXPONENTS),
            Axis("similarity", ("linear", "cosine", "bm25", "tfidf")),
            Axis("neighbours", (50, 100, 200, 400)),
        ),
    ),
    "spectral": (
        SpectralConfig(factors=512, customer_exponent=0.4, product_exponent=0.4, damping=1.0),
        (
            Axis("product_exponent", _EXPONENTS),
            Axis("customer_exponent", _EXPONENTS),
            Axis("factors", (64, 128, 256, 512, 1024)),
            Axis("damping", (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)),
        ),
    ),
    "lightfm": (
        LightFMConfig(factors=128, epochs=30),
        (Axis("epochs", (15, 30, 60)), Axis("learning_rate", (0.02, 0.05)), Axis("factors", (64, 128))),
    ),
    "two_tower": (
        TwoTowerConfig(factors=256, epochs=12, patience=12),
        (Axis("temperature", (0.08, 0.1, 0.125)),),
    ),
}

_HALF_LIVES: Final = (7.0, 14.0, 28.0, 56.0, 112.0, 224.0)

#: Axes for data with times: how fast what was done is forgotten.
DATED: Final[dict[str, tuple[Axis, ...]]] = {
    model: (Axis(f"{'confidence' if model == 'als' else 'weights'}.half_life_days", _HALF_LIVES),)
    for model in SPACES
}

#: Weights of a model in a blend, beside the first one's 1.
WEIGHTS: Final[tuple[float, ...]] = (0.125, 0.25, 0.5, 1.0, 2.0)


def axes_of(recipe: Recipe) -> tuple[Axis, ...]:
    """Return the axes of a recipe's model; of a blend the weights beside its first part's, none of a baseline.

    Paths are those of the model's own settings.
    """
    if recipe.model == "blend":
        return tuple(Axis(f"weights.{part}", WEIGHTS) for part in list(recipe.blend.weights)[1:])
    if recipe.model not in SPACES:
        return ()
    return (*SPACES[recipe.model][1], *DATED[recipe.model])


def named(config: Config) -> dict[str, Any]:
    """Return the settings for the report."""
    return config.model_dump(mode="json", exclude={"weights": True, "confidence": {"kind_weights"}})
