"""Judging recipes at one origin, and keeping what came of it: the unit of work of a rolling evaluation.

What came of each (data, recipe, origin) lies on disk under a hash of the three, so that nothing is fitted twice,
whoever stopped the run and whatever recipes are added. The code that makes features and the version of the package
belong to the data's part of the hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from eval.evaluate import Window
from eval.results import OriginInfo
from eval.rolling import FORMAT, Ground, Judged, judge_recipe
from eval.slices import Facts
from eval.split import Origin
from feature_repo import schema as s
from feature_repo.features import schema_hash
from feature_repo.tables import Tables
from serving.recommender import Recommender
from training.assemble import assemble
from training.dataset import TrainingSet
from training.recipe import Recipe

if TYPE_CHECKING:
    from feast import FeatureStore

_GENERATIONS: Final = 3  # sets of kept results, one for each state of the tables


class Kept:
    """The results kept on disk for one state of the tables and of the code that makes features."""

    def __init__(self, directory: Path, *, tables_hash: str) -> None:
        self._salt = {
            "format": FORMAT,
            "code": version("nextbest"),
            "features": schema_hash(),
            "tables": tables_hash,
        }
        self.directory = directory / self._hash({})

    def _hash(self, told: dict[str, Any]) -> str:
        text = json.dumps({**self._salt, **told}, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def of_recipe(self, recipe: Recipe, origin: Origin, *, k: int, seed: int) -> Path:
        """Return where what came of a recipe at an origin is kept."""
        settings = recipe.model_dump(mode="json")
        return self.directory / self._hash(
            {"recipe": settings, "at": origin.at, "end": origin.end, "k": k, "seed": seed}
        )

    def of_origin(self, origin: Origin) -> Path:
        """Return the file in which what is told of an origin is kept."""
        return self.directory / f"origin-{self._hash({'at': origin.at, 'end': origin.end})}.json"

    def prune(self) -> None:
        """Remove what was kept of older states of tables, but for the last few."""
        states = sorted(self.directory.parent.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in states[:-_GENERATIONS]:
            if path != self.directory:
                shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class Judge:
    """What judging at an origin needs, the same at all of them."""

    tables: Tables
    store: FeatureStore
    kept: Kept
    facts: Facts
    interactions: pd.DataFrame
    k: int
    seed: int
    threads: int
    now: datetime

    def at(
        self, origin: Origin, recipes: Sequence[Recipe], done: Callable[[], None]
    ) -> tuple[OriginInfo, dict[str, Judged]]:
        """Judge ``recipes`` at an origin, those that are not kept; ``done`` is called after each."""
        held: dict[str, Judged | None] = {
            recipe.name: Judged.load(self.kept.of_recipe(recipe, origin, k=self.k, seed=self.seed))
            for recipe in recipes
        }
        info = _read_origin(self.kept.of_origin(origin))
        missing = [recipe for recipe in recipes if held[recipe.name] is None]
        for _ in range(len(recipes) - len(missing)):
            done()
        if missing or info is None:
            window = Window.cut(self.interactions, at=origin.at, end=origin.end)
            known = self.facts.known(origin.at)
            data = TrainingSet.load(
                self.tables, self.store, origin.at, also=[*known, *window.purchases[s.CUSTOMER_ID].unique()]
            )
            measured = self.facts.measured_before(origin.at)
            ground = Ground.of(window, data.catalog, known, measured=measured)
            info = _told(origin, window, ground)
            _write(self.kept.of_origin(origin), info.model_dump_json())
            for recipe in missing:
                judged = self._fit_and_judge(recipe, data, ground, origin)
                judged.save(self.kept.of_recipe(recipe, origin, k=self.k, seed=self.seed))
                held[recipe.name] = judged
                done()
        return info, {name: judged for name, judged in held.items() if judged is not None}

    def _fit_and_judge(self, recipe: Recipe, data: TrainingSet, ground: Ground, origin: Origin) -> Judged:
        begun = perf_counter()
        bundle = assemble(recipe, data, seed=self.seed, threads=self.threads, tables_hash="", now=self.now)
        fitted = perf_counter()
        days = (origin.end - origin.at).days
        judged = judge_recipe(
            Recommender(bundle, data.reader), ground, name=recipe.name, k=self.k, horizon_days=days
        )
        seconds = {"fit_seconds": fitted - begun, "judge_seconds": perf_counter() - fitted}
        return Judged(judged.lists, judged.rows, {**judged.facts, **seconds})


def _told(origin: Origin, window: Window, ground: Ground) -> OriginInfo:
    buyers = window.purchases[s.CUSTOMER_ID].unique()
    known, on_sale = ground.candidates.population
    catalog = ground.candidates.catalog
    return OriginInfo(
        at=origin.at,
        end=origin.end,
        buyers=len(buyers),
        judged=len(ground.candidates.buyers),
        new=int((~np.isin(buyers, window.bought_before[s.CUSTOMER_ID].unique())).sum()),
        purchases=len(window.purchases),
        unseen=round(float((~window.purchases[s.PRODUCT_ID].isin(catalog.ids)).mean()), 6),
        known_customers=known,
        products_on_sale=on_sale,
        candidates=ground.candidates.told,
    )


def _read_origin(path: Path) -> OriginInfo | None:
    try:
        return OriginInfo.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)
