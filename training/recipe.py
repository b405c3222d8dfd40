"""Recipes: what the gate compares. A recipe is a model, its settings and how the answer is composed.

Read from TOML, strict: an unknown key names the nearest valid one. A recipe without data is not a model;
the same recipe fitted on two windows gives two bundles that are compared as one idea.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from feature_repo import names as v
from serving.errors import ConfigError
from training.config_errors import explained
from training.models.configs import (
    ALSConfig,
    BlendConfig,
    BPRConfig,
    Config,
    KNNConfig,
    LightFMConfig,
    SpectralConfig,
    TwoTowerConfig,
)
from training.models.registry import BASELINES, HYBRIDS, ModelName
from training.ranker.config import RankerConfig


class Recipe(Config):
    """One model with its settings.

    ``popularity_days`` is the window of the popular source (None: all time) that ends every chain;
    ``repeat_weight`` lifts products bought before, where they may be shown: for each day they were bought by so many
    standard deviations of the customer's scores. With ``ranker`` candidates are put in order by chance.
    """

    name: str = Field(min_length=1)
    model: ModelName
    popularity_days: int | None = Field(default=28, ge=1, le=36_500)
    repeat_weight: float = Field(default=3.0, ge=0)
    als: ALSConfig = Field(default_factory=ALSConfig)
    bpr: BPRConfig = Field(default_factory=BPRConfig)
    knn: KNNConfig = Field(default_factory=KNNConfig)
    spectral: SpectralConfig = Field(default_factory=SpectralConfig)
    lightfm: LightFMConfig = Field(default_factory=LightFMConfig)
    two_tower: TwoTowerConfig = Field(default_factory=TwoTowerConfig)
    blend: BlendConfig = Field(default_factory=BlendConfig)
    ranker: RankerConfig | None = None

    @property
    def service(self) -> str:
        """The feature service that the recipe asks for: hybrids read customers' attributes too, rankers more."""
        if self.ranker is not None:
            return v.CUSTOMER_SERVICE
        models = self.blend.weights if self.model == "blend" else (self.model,)
        return v.HYBRID_SERVICE if set(models) & set(HYBRIDS) else v.SERVICE

    @model_validator(mode="after")
    def _ranks_vectors(self) -> Recipe:
        if self.ranker is not None and (self.model in BASELINES or self.model == "knn"):
            raise ValueError(f"a ranker needs a model with vectors, which {self.model} has not; leave it out")
        return self

    @field_validator("popularity_days", mode="before")
    @classmethod
    def _zero_is_all_time(cls, value: Any) -> Any:
        """TOML has no null: 0 says "of all time"."""
        return None if value == 0 and not isinstance(value, bool) else value


class TrainConfig(Config):
    """What ``nextbest train`` does: the recipes that compete and the window they are judged on."""

    seed: int = Field(default=0, ge=0, lt=2**32)
    horizon_days: int = Field(default=28, ge=1, le=3650)
    k: int = Field(default=20, ge=1, le=100)
    threads: int = Field(default=0, ge=0, le=1024)
    recipes: tuple[Recipe, ...] = Field(min_length=1, strict=False)  # TOML has lists, no tuples

    @field_validator("recipes")
    @classmethod
    def _distinct(cls, recipes: tuple[Recipe, ...]) -> tuple[Recipe, ...]:
        names = [recipe.name for recipe in recipes]
        if len(set(names)) != len(names):
            raise ValueError(f"recipe names must be distinct, found {names}")
        return recipes

    @classmethod
    def default(cls) -> TrainConfig:
        """Return the configuration that is used when no other is given."""
        return cls.shipped("default.toml")

    @classmethod
    def shipped(cls, name: str) -> TrainConfig:
        """Return a configuration that ships with the project: ``default.toml`` or ``all.toml``."""
        return cls.parse(resources.files("training").joinpath(f"configs/{name}").read_text(), name)

    @classmethod
    def read(cls, path: Path) -> TrainConfig:
        """Read a TOML file.

        Raises
        ------
        ConfigError
            It is missing, no TOML, or has an unknown key or a value that does not fit.
        """
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            found = "no file" if isinstance(error, FileNotFoundError) else "no readable text"
            raise ConfigError(f"expected a TOML file at {path}, found {found}; name another") from error
        return cls.parse(text, path.name)

    @classmethod
    def parse(cls, text: str, name: str) -> TrainConfig:
        """Parse TOML text; see ``read``."""
        try:
            told = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"expected TOML in {name}, found {error}; correct it") from error
        try:
            return cls.model_validate(told)
        except ValidationError as error:
            raise ConfigError(f"{name}: {explained(error, told, cls)}") from error
